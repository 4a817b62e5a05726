"""Training the network that draws the fat in the soft tissue of a label map, from real CTs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ModelError
from guidegen_data.models.fat import FatNetwork
from guidegen_data.models.folded_unet import check_sides
from guidegen_data.sources.prepared import load_case
from guidegen_data.tissue_rule import fat_class, loosened
from guidegen_data.training.detail import detail_loss
from guidegen_data.training.fit import Step, step_generator
from guidegen_data.training.initial import Initial, initial_network, start_from
from guidegen_data.training.parallel import join
from guidegen_data.training.sheets import fat_sheet
from guidegen_data.training.stages import SHEET_SEED, Setting, fit_stage
from guidegen_data.training.tissue import paths_with_ct

#: Half of the label maps are smoothed by up to so many mm: those of stage 1 are smoother than real ones.
_WIDTHS_MM = (2.0, 6.0)
#: Slices of a case that are learned from at once, at the most.
_SLICES = 64
_SHEET_CASES = 4


def train_fat(folder: Path, setting: Setting) -> Iterator[Step]:
    """Trains a FatNetwork on the cases of a prepared folder that have a CT, read from disk at every draw.

    ModelError for a table without a class that fat lies in, and where the field cannot be halved often enough;
    SourceError where no case has a CT.
    """
    parallel, device = join(setting.device)
    anatomy, fit_config = setting.anatomy, setting.recipe.fit
    within = fat_class(anatomy)
    if within is None:
        raise ModelError(f"no class of the {anatomy.name} table is soft tissue cut out by HU; fat lies in none.")
    network = initial_network(setting.initial, Initial.TISSUE, setting.recipe.network)
    network["classes"] = (within, anatomy.num_classes)
    model = FatNetwork(num_classes=anatomy.num_classes + 1, **network)
    check_sides(anatomy.shape, model.multiple)
    paths, apart = paths_with_ct(folder, setting)

    def loss_on(paths: Sequence[Path]):
        def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
            assert isinstance(model, FatNetwork)
            pairs = [_pair(paths, model, anatomy, generator) for _ in range(fit_config.batch_size)]
            return {"total": torch.stack([detail_loss(model, *pair, generator) for pair in pairs]).mean()}

        return loss_of

    def sheet(model: nn.Module, path: Path) -> None:
        assert isinstance(model, FatNetwork)
        generator = step_generator(SHEET_SEED, 0)
        pairs = [_pair(apart or paths, model, anatomy, generator) for _ in range(_SHEET_CASES)]
        made = model.fill(torch.stack([coarse for _, coarse in pairs]).to(device), [generator] * len(pairs))
        fat_sheet([real for real, _ in pairs], made, anatomy, path)

    start_from(model, setting.initial, Initial.TISSUE)
    yield from fit_stage(model, loss_on(paths), setting, parallel, device, loss_on(apart) if apart else None, sheet)


def _pair(
    paths: Sequence[Path], network: FatNetwork, anatomy: Anatomy, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A part (X, Y, z) of a real label map, uint8, where a body is, with the fat of its CT, and of the label map that
    fat is to be drawn into: itself, or smoothed by a random width."""
    case = load_case(paths[int(torch.randint(len(paths), (), generator=generator))])
    assert case.ct_hu is not None
    low, high = _WIDTHS_MM
    width_mm = low + (high - low) * float(torch.rand((), generator=generator))
    smooth = bool(torch.rand((), generator=generator) < 0.5)
    coarse = loosened(case.label_map, anatomy, width_mm) if smooth else case.label_map
    label_map, ct_hu = torch.from_numpy(case.label_map), torch.from_numpy(case.ct_hu)
    real = network.told(label_map, ct_hu)
    scanned = torch.nonzero((real > 0).any(dim=0).any(dim=0)).flatten()
    first, last = (int(scanned[0]), int(scanned[-1])) if len(scanned) else (0, 0)
    start = first + int(torch.randint(max(1, last + 2 - first - _SLICES), (), generator=generator))
    start = max(0, min(start, real.shape[2] - _SLICES))
    part = slice(start, start + _SLICES)
    return real[..., part], torch.from_numpy(coarse)[..., part]
