"""The generated cases nearest to a training case, each beside it: three planes, CT with contours of its organs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from guidegen_data.anatomy import Anatomy
from guidegen_data.case import Case, centred_affine
from guidegen_data.preview import cut, window_grey
from guidegen_data.sources.augment import TrainingCase

_PIXELS, _GAP, _LINE = 224, 6, 18
_PAPER, _INK = (16, 18, 22), (232, 234, 238)
_AXES = {"axial": 2, "coronal": 1, "sagittal": 0}


def closest_pairs_sheet(
    made: Sequence[TrainingCase],
    training: Callable[[int], TrainingCase],
    nearness: Mapping[str, np.ndarray],
    anatomy: Anatomy,
    num: int = 3,
) -> Image.Image:
    """An RGB sheet: for each measure its `num` closest pairs, a row each: generated on the left, training on the right.

    `training(j)` reads training case j; `nearness` holds tables (len(made), number of training cases) by measure,
    larger is nearer, NaN where there is no CT.
    """
    rows = []
    for name, table in nearness.items():
        scores = np.where(np.isfinite(table), table, -np.inf)
        for i in np.argsort(-scores.max(axis=1))[:num]:
            j = int(scores[i].argmax())
            near = training(j)
            title = f"{name} {scores[i, j]:.3f}: generated no. {i} beside training case no. {j} ({near.base})"
            rows.append(_row(_as_case(made[int(i)], anatomy), _as_case(near, anatomy), title))
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height + _GAP for r in rows)), _PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + _GAP
    return sheet


def _as_case(case: TrainingCase, anatomy: Anatomy) -> Case:
    """A training case as `preview` cuts it; where it has no CT its label map stands in, -1000 outside and 0 inside."""
    ct = np.where(case.label_map > 0, 0, -1000) if case.ct_hu is None else np.rint(case.ct_hu)
    affine = centred_affine(anatomy.shape, anatomy.spacing_mm)
    return Case("case", ct.astype(np.int16), case.label_map, affine, "", case.findings)


def _row(made: Case, training: Case, title: str) -> Image.Image:
    pictures = [_picture(case, plane) for case in (made, training) for plane in _AXES]
    width = sum(p.width + _GAP for p in pictures) + 2 * _GAP
    row = Image.new("RGB", (width, _LINE + max(p.height for p in pictures)), _PAPER)
    ImageDraw.Draw(row).text((2, 2), title, fill=_INK)
    left = 0
    for k, picture in enumerate(pictures):
        row.paste(picture, (left, _LINE))
        left += picture.width + (3 * _GAP if k == 2 else _GAP)
    return row


def _picture(case: Case, plane: str) -> Image.Image:
    """A plane through the centre of what is labelled, organs' borders in their colours."""
    axis = _AXES[plane]
    labelled = np.argwhere(case.label_map) if case.label_map.any() else np.array([np.array(case.ct_hu.shape) / 2])
    piece = cut(case, plane, int(labelled.mean(axis=0)[axis]))
    rgb = np.repeat(window_grey(piece.ct_hu, "soft")[..., None], 3, axis=2)
    labels = piece.label_map
    border = np.zeros(labels.shape, bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    for c in case.anatomy.classes[1:]:
        rgb[border & (labels == c.id)] = c.colour
    height, width = (n * mm for n, mm in zip(labels.shape, piece.pixel_mm, strict=True))
    scale = _PIXELS / max(height, width)
    return Image.fromarray(rgb).resize((round(width * scale), round(height * scale)), Image.Resampling.NEAREST)
