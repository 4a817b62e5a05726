"""Training the network that draws some classes of a label map anew in detail, from smoothed real label maps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.detail import DetailNetwork
from guidegen_data.models.folded_unet import check_sides
from guidegen_data.sources.prepared import case_paths, load_findings, load_label_map, training_paths, validation_folder
from guidegen_data.tissue_rule import smoothed
from guidegen_data.training.beside import same_table
from guidegen_data.training.fit import Step, step_generator
from guidegen_data.training.initial import Initial, initial_network, start_from
from guidegen_data.training.parallel import join
from guidegen_data.training.redrawn import Redrawer
from guidegen_data.training.sheets import detail_sheet
from guidegen_data.training.stages import SHEET_SEED, Setting, fit_stage

#: Widths in mm by which label maps are smoothed, and how much each class differs from the case's (log standard
#: deviation): with 10 to 16 mm the spine of a torso is the rod that stage 1 makes of it.
_WIDTHS_MM, _SPREAD = (2.0, 16.0), 0.3
#: Stage 1 also breaks what is thin: up to so many balls of these radii in mm are cut out of the smoothed classes.
_MOST_HOLES, _HOLES_MM = 40, (4.0, 12.0)
_SHEET_CASES, _SHEET_STEPS = 4, 8
#: Cases drawn before it is said that none holds one of the classes.
_TRIES = 100


def train_detail(
    folder: Path, setting: Setting, classes: Sequence[str] = (), redrawn_by: str | None = None
) -> Iterator[Step]:
    """Trains a DetailNetwork for these classes on a prepared folder, label maps read from disk at every draw.

    It learns from smoothed and broken ones, or from what the stage 1 of the model `redrawn_by` makes of them (see
    `training.redrawn`).

    Classes default to those of the network to start from. ModelError where there are none, or of another label table,
    for background, for the lesion class, for other classes than the run was begun with, and where the field cannot be
    halved often enough; AnatomyError for a class that is not in the table; SourceError where no case holds any.
    """
    parallel, device = join(setting.device)
    anatomy, fit_config = setting.anatomy, setting.recipe.fit
    sizes = initial_network(setting.initial, Initial.DETAIL, setting.recipe.network)
    if classes:
        sizes["classes"] = _ids(classes, anatomy)
    elif "classes" not in sizes or not same_table(str(setting.initial), anatomy):
        raise ModelError("detail is learned of some classes: name them with --classes, for example vertebrae and rib.")
    _check_begun_with(setting.run_dir, sizes["classes"])
    network = DetailNetwork(num_classes=anatomy.num_classes, **sizes)
    check_sides(anatomy.shape, network.multiple)
    redraw = None if redrawn_by is None else Redrawer(redrawn_by, anatomy, device)
    paths = training_paths(folder, setting.leave_out)
    held = validation_folder(folder) if fit_config.validate_every else None
    apart = None if held is None else case_paths(held)

    def loss_on(paths: Sequence[Path]):
        def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
            assert isinstance(model, DetailNetwork)
            losses = []
            for _ in range(fit_config.batch_size):  # one by one: every case has its own box
                pair = _pair(paths, anatomy, sizes["classes"], generator, redraw)
                losses.append(detail_loss(model, *pair, generator))
            return {"total": torch.stack(losses).mean()}

        return loss_of

    def sheet(model: nn.Module, path: Path) -> None:
        assert isinstance(model, DetailNetwork)
        generator = step_generator(SHEET_SEED, 0)
        pairs = [_pair(apart or paths, anatomy, sizes["classes"], generator, redraw) for _ in range(_SHEET_CASES)]
        coarse = torch.stack([c for _, c in pairs]).to(device)
        made = model.draw(coarse, [generator] * len(coarse), _SHEET_STEPS)
        detail_sheet([r for r, _ in pairs], coarse, made, anatomy, model.config.classes, path)

    start_from(network, setting.initial, Initial.DETAIL)
    yield from fit_stage(network, loss_on(paths), setting, parallel, device, loss_on(apart) if apart else None, sheet)


def detail_loss(network: DetailNetwork, real: Tensor, coarse: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy (D3PM's auxiliary loss) of a real label map (X, Y, Z) given a smoothed one and x_t at a random t.

    Over the voxels that are open in the smoothed one and of one of the classes in the real one.
    """
    device = network.kinds.device
    coarse, truth = coarse.to(device), network.state_of(real.to(device))
    opened, closed = network.opened(coarse), len(network.config.classes)
    box = network.box(opened)
    if box is None:
        return torch.stack([p.sum() for p in network.parameters()]).sum() * 0.0
    coarse, opened, truth = coarse[box][None], opened[box][None], truth[box][None]
    known, truth = opened & (truth < closed), truth.clamp(max=closed - 1)
    process = network.process
    t = torch.randint(1, process.num_timesteps + 1, (1,), generator=generator)
    state = torch.where(opened, process.corrupt(truth, t, generator), closed)
    each = F.cross_entropy(network(coarse, state).float(), truth, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def _pair(
    paths: Sequence[Path],
    anatomy: Anatomy,
    classes: Sequence[int],
    generator: torch.Generator,
    redraw: Redrawer | None = None,
) -> tuple[Tensor, Tensor]:
    """A real label map (X, Y, Z) uint8 that holds one of the classes, and itself redrawn, or smoothed by random widths
    and broken; SourceError where none of many holds any."""
    for _ in range(_TRIES):
        path = paths[int(torch.randint(len(paths), (), generator=generator))]
        real = load_label_map(path)
        if np.isin(real, list(classes[1:])).any():
            break
    else:
        names = ", ".join(anatomy.classes[k].name for k in classes[1:])
        raise SourceError(f"of {_TRIES} cases drawn none holds {names}; prepare some that do, or name other classes.")
    if redraw is not None:
        return torch.from_numpy(real), redraw(real, load_findings(path), generator)
    low, high = _WIDTHS_MM
    spread = torch.exp(_SPREAD * torch.randn(len(classes), generator=generator))
    widths = (low + (high - low) * torch.rand((), generator=generator)) * spread
    coarse = smoothed(real, classes, widths.tolist(), anatomy.spacing_mm)
    return torch.from_numpy(real), torch.from_numpy(broken(coarse, classes, anatomy.spacing_mm, generator))


def broken(
    label_map: np.ndarray, classes: Sequence[int], spacing_mm: Sequence[float], generator: torch.Generator
) -> np.ndarray:
    """A label map (X, Y, Z) uint8 with balls around random voxels of all but the first class given to the first."""
    rest = np.isin(label_map, list(classes[1:]))
    where = np.argwhere(rest)
    if not len(where):
        return label_map
    out = label_map.copy()
    for _ in range(int(torch.randint(_MOST_HOLES + 1, (), generator=generator))):
        centre = where[int(torch.randint(len(where), (), generator=generator))]
        radius = _HOLES_MM[0] + (_HOLES_MM[1] - _HOLES_MM[0]) * float(torch.rand((), generator=generator))
        reach = [int(radius / mm) for mm in spacing_mm]
        box = tuple(slice(max(0, c - r), c + r + 1) for c, r in zip(centre, reach, strict=True))
        axes = zip(box, centre, spacing_mm, label_map.shape, strict=True)
        x, y, z = np.ix_(*((np.arange(s.start, min(s.stop, n)) - c) * mm for s, c, mm, n in axes))
        out[box][(x**2 + y**2 + z**2 <= radius**2) & rest[box]] = classes[0]
    return out


def _check_begun_with(run: Path, classes: Sequence[int]) -> None:
    """ModelError where a run's weights are those of other classes."""
    held = run / "model" / "config.json"
    if held.exists() and list(json.loads(held.read_text())["classes"]) != list(classes):
        raise ModelError(f"{run} was begun with other classes; use the same ones, or another run folder.")


def _ids(names: Sequence[str], anatomy: Anatomy) -> tuple[int, ...]:
    ids = [anatomy.id_of(name) for name in names]
    if 0 in ids or anatomy.lesion_id in ids:
        raise ModelError(f"detail is learned of organs and bones, not of background or {anatomy.lesion_class}.")
    return (0, *sorted(set(ids)))
