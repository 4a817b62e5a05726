"""Training the network that says where fat, soft tissue and bone lie around the classes of a label map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidegen_data.anatomy import TISSUES
from guidegen_data.errors import SourceError
from guidegen_data.models.folded_unet import check_sides
from guidegen_data.models.tissue import TissueNetwork, tissues_of
from guidegen_data.sources.prepared import case_paths, has_ct, load_case, training_paths, validation_folder
from guidegen_data.training.fit import Step, step_generator
from guidegen_data.training.initial import Initial, initial_network, start_from
from guidegen_data.training.parallel import join
from guidegen_data.training.sheets import tissue_sheet
from guidegen_data.training.stages import SHEET_SEED, Setting, fit_stage

_SHEET_CASES = 4


def train_tissue(folder: Path, setting: Setting) -> Iterator[Step]:
    """Trains a TissueNetwork on the cases of a prepared folder that have a CT, read from disk at every draw.

    SourceError where none has; ModelError where the field cannot be halved often enough.
    """
    parallel, device = join(setting.device)
    anatomy, fit_config = setting.anatomy, setting.recipe.fit
    network = initial_network(setting.initial, Initial.TISSUE, setting.recipe.network)
    model = TissueNetwork(num_classes=anatomy.num_classes, **network)
    check_sides(anatomy.shape, model.multiple)
    paths, apart = paths_with_ct(folder, setting)

    def loss_on(paths: Sequence[Path]):
        def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
            label_map, ct_hu = (t.to(device) for t in _draw(paths, fit_config.batch_size, generator))
            return tissue_loss(model(label_map), label_map, tissues_of(ct_hu))

        return loss_of

    def sheet(model: nn.Module, path: Path) -> None:
        assert isinstance(model, TissueNetwork)
        label_map, ct_hu = _draw(apart or paths, _SHEET_CASES, step_generator(SHEET_SEED, 0))
        made = model.fill(label_map.to(device)).cpu().long() - (anatomy.num_classes - 1)
        tissue_sheet(tissues_of(ct_hu), made.clamp(min=0), label_map, path)

    start_from(model, setting.initial, Initial.TISSUE)
    yield from fit_stage(model, loss_on(paths), setting, parallel, device, loss_on(apart) if apart else None, sheet)


def tissue_loss(logits: Tensor, label_map: Tensor, tissues: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and Dice loss of logits (B, 4, X, Y, Z) where a label map (B, X, Y, Z) has background."""
    free = label_map == 0
    each = F.cross_entropy(logits.float(), tissues, reduction="none")
    entropy = (each * free).sum() / free.sum().clamp(min=1)
    p = logits.float().softmax(dim=1)
    dices = []
    for k in range(1, 1 + len(TISSUES)):
        truth, found = ((tissues == k) & free).float(), p[:, k] * free
        dices.append(1 - (2 * (truth * found).sum() + 1) / (truth.sum() + found.sum() + 1))
    dice = torch.stack(dices).mean()
    return {"total": entropy + dice, "entropy": entropy.detach(), "dice": dice.detach()}


def _draw(paths: Sequence[Path], batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Label maps and CTs (B, X, Y, Z) of random cases, a function of the generator's state alone."""
    cases = [load_case(paths[int(n)]) for n in torch.randint(len(paths), (batch_size,), generator=generator)]
    cts = [torch.from_numpy(c.ct_hu) for c in cases if c.ct_hu is not None]
    return torch.stack([torch.from_numpy(c.label_map) for c in cases]), torch.stack(cts)


def paths_with_ct(folder: Path, setting: Setting) -> tuple[list[Path], list[Path] | None]:
    """Cases of a prepared folder that have a CT: those to learn from, and those to validate on, None where a run is not
    to be validated; SourceError where none has."""
    held = validation_folder(folder) if setting.recipe.fit.validate_every else None
    return _with_ct(training_paths(folder, setting.leave_out)), None if held is None else _with_ct(case_paths(held))


def _with_ct(paths: Sequence[Path]) -> list[Path]:
    held = [path for path in paths if has_ct(path)]
    if not held:
        raise SourceError(
            f"{paths[0].parent} holds no case with a CT; tissues cannot be learned from label maps alone."
        )
    return held
