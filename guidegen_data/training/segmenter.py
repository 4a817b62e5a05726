"""Training a network on label maps in which some organs were not drawn, to draw them there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.folded_unet import check_sides
from guidegen_data.models.segmenter import Segmenter, body_box, partial_losses
from guidegen_data.sources.prepared import case_paths, load_case, training_folder, validation_folder
from guidegen_data.training.beside import check_table
from guidegen_data.training.fit import FitConfig, Step, step_generator
from guidegen_data.training.parallel import join
from guidegen_data.training.recipes import StageRecipe
from guidegen_data.training.run_state import best_or_last, load_part
from guidegen_data.training.sheets import label_sheet
from guidegen_data.training.stages import SHEET_SEED, Setting, fit_stage

#: Training patients that must show an organ before it is drawn in others.
MIN_SHOWN = 5
#: Noise (HU), shift (HU) and scale of the CTs in training.
_NOISE_HU, _SHIFT_HU, _SCALE = 15.0, 20.0, 0.1
_SHEET_CASES = 4


def segmenter_recipe(num_steps: int) -> StageRecipe:
    """About 2 s a step of one volume at 128^3 on one CPU core, less where there is air around the body."""
    fit = FitConfig(num_steps=num_steps, batch_size=1, learning_rate=3e-3, warmup_steps=30, save_every=50)
    return StageRecipe({}, fit)


def organ_ids(anatomy: Anatomy) -> list[int]:
    """Classes that a label map may lack although the CT shows them."""
    return sorted({anatomy.id_of(o.class_name) for o in anatomy.organs if "absent" in o.statuses})


def organs_named(names: Sequence[str], anatomy: Anatomy) -> list[str]:
    """Names of classes that can be drawn, each once; SourceError for one that can not."""
    able = [anatomy.classes[k].name for k in organ_ids(anatomy)]
    if unknown := [name for name in names if name not in able]:
        raise SourceError(f"{unknown[0]!r} cannot be drawn; choose of {', '.join(able)}.")
    return sorted(set(names), key=able.index)


@dataclass(frozen=True)
class PartialCases:
    """Prepared cases with a CT, and for each wanted class which of them show it. Read from disk at every draw.

    `most` (K,) are the voxels that 19 in 20 of those who show a class do not exceed.
    """

    paths: Sequence[Path]
    showing: Sequence[Sequence[int]]
    most: Tensor

    @classmethod
    def of(cls, folder: Path, wanted: Sequence[int], num_classes: int) -> PartialCases:
        """The cases of a folder; SourceError when none has a CT."""
        paths, counts = [], []
        for path in case_paths(folder):
            case = load_case(path)
            if case.ct_hu is not None:
                paths.append(path)
                counts.append(np.bincount(case.label_map.ravel(), minlength=num_classes))
        if not paths:
            raise SourceError(f"{folder} holds no case with a CT; nothing can be drawn from label maps alone.")
        voxels = np.stack(counts)
        shown = [column[column > 0] for column in voxels.T]
        most = [np.percentile(column, 95) if len(column) else np.inf for column in shown]
        return cls(paths, [np.flatnonzero(voxels[:, k]).tolist() for k in wanted], torch.tensor(most).float())

    def draw(self, generator: torch.Generator, multiple: int = 0) -> tuple[Tensor, Tensor]:
        """CT (1, 1, X, Y, Z) in HU and label map (1, X, Y, Z) int64; with a `multiple` the body's box of them.

        Three of four draws show one of the wanted classes, a rare one as much more often as it is rarer. A function of
        the generator's state alone.
        """
        u = torch.rand(6, generator=generator).tolist()
        rows = [row for row in self.showing if row]
        row: Sequence[int] = range(len(self.paths))
        if rows and u[0] < 0.75:
            rarity = np.cumsum([1 / len(row) for row in rows])
            row = rows[int(np.searchsorted(rarity, u[1] * rarity[-1], side="right"))]
        case = load_case(self.paths[row[int(u[2] * len(row))]])
        assert case.ct_hu is not None  # by how they were chosen
        box = body_box(case.ct_hu, multiple) if multiple else ...
        ct = torch.from_numpy(case.ct_hu[box])[None, None]
        ct = ct * (1 + _SCALE * (2 * u[3] - 1)) + _SHIFT_HU * (2 * u[4] - 1)
        ct = ct + _NOISE_HU * u[5] * torch.randn(ct.shape, generator=generator)
        return ct, torch.from_numpy(case.label_map[box])[None].long()


def trained_segmenter(completed: Path, anatomy: Anatomy) -> Segmenter:
    """The network of a folder that `guidegen complete` wrote; ModelError where it learned other classes than those of
    the anatomy or at another spacing, and where it cannot look at a field of the anatomy's shape."""
    check_table(completed, anatomy)
    model = load_part(Segmenter, best_or_last(completed / "segmenter"))
    if model.config.num_classes != anatomy.num_classes:
        raise ModelError(
            f"the network of {completed} draws {model.config.num_classes} classes, its table has "
            f"{anatomy.num_classes}; complete that folder again."
        )
    check_sides(anatomy.shape, model.multiple)
    return model


def train_segmenter(folder: Path, setting: Setting, wanted: Sequence[int]) -> Iterator[Step]:
    """Trains a segmenter on a prepared folder of which the `wanted` classes were not always drawn.

    SourceError when fewer than MIN_SHOWN training cases show one of them.
    """
    parallel, device = join(setting.device)
    anatomy, batch_size = setting.anatomy, setting.recipe.fit.batch_size
    organs = torch.tensor(organ_ids(anatomy), device=device)
    source = PartialCases.of(training_folder(folder), wanted, anatomy.num_classes)
    for k, row in zip(wanted, source.showing, strict=True):
        if len(row) < MIN_SHOWN:
            raise SourceError(
                f"only {len(row)} training cases of {folder} show {anatomy.classes[k].name}, and drawing it in others "
                f"takes {MIN_SHOWN}; leave that class out."
            )
    held = validation_folder(folder) if setting.recipe.fit.validate_every else None
    apart = None if held is None else PartialCases.of(held, wanted, anatomy.num_classes)
    if setting.initial is None:
        model = Segmenter(num_classes=anatomy.num_classes, **setting.recipe.network)
    else:
        model = trained_segmenter(Path(setting.initial), anatomy)
    check_sides(anatomy.shape, model.multiple)
    most, multiple = source.most.to(device), model.multiple

    def loss_on(source: PartialCases):
        def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
            each = []
            for _ in range(batch_size):  # one after another, for bodies differ in size
                ct, labels = (part.to(device) for part in source.draw(generator, multiple))
                each.append(partial_losses(model(ct), labels, organs, anatomy.lesion_id, most))
            return {name: torch.stack([losses[name] for losses in each]).mean() for name in each[0]}

        return loss_of

    def sheet(model: nn.Module, path: Path) -> None:
        drawn = [(apart or source).draw(step_generator(SHEET_SEED, k)) for k in range(_SHEET_CASES)]
        with torch.no_grad():
            made = [model(ct.to(device)).argmax(dim=1)[0] for ct, _ in drawn]
        label_sheet([labels[0] for _, labels in drawn], made, anatomy, path)

    yield from fit_stage(
        model, loss_on(source), setting, parallel, device, None if apart is None else loss_on(apart), sheet
    )
