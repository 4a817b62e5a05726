"""A PNG sheet of cases: three planes in radiological view, CT beside CT with organ contours, the report underneath."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from guidegen_data.anatomy import Anatomy
from guidegen_data.case import Case
from guidegen_data.errors import CaseError

# (centre, width) in HU
WINDOWS = {"soft": (40, 400), "lung": (-600, 1500), "bone": (400, 1800)}
_FIELD_PX = 288
_GAP, _MARGIN, _LINE = 6, 24, 20
_TINT = 0.22
_PAPER, _INK, _FAINT = (16, 18, 22), (232, 234, 238), (140, 146, 156)
_BAD = (255, 120, 100)
# Array axis that a plane cuts; the two that remain are (columns, rows) of its picture, both turned round, because
# pictures start at the top left: the patient's right, the front and the head.
_PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
_ENDS = {"axial": tuple("RLAP"), "coronal": tuple("RLSI"), "sagittal": tuple("APSI")}


@dataclass(frozen=True)
class Slice:
    """One picture: HU and labels (rows, columns) as seen by the reader, and the size of a pixel in mm (row, column)."""

    ct_hu: np.ndarray
    label_map: np.ndarray
    pixel_mm: tuple[float, float]


def preview_sheet(cases: Sequence[Case], window: str = "soft") -> Image.Image:
    """An RGB picture with one row a case and a legend. CaseError for no cases or an unknown window."""
    if not cases:
        raise CaseError("a preview needs at least one case; the folder holds none.")
    if window not in WINDOWS:
        raise CaseError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}.")
    rows = [_case_row(case, window) for case in cases]
    present = sorted(set().union(*(np.unique(case.label_map).tolist() for case in cases)) - {0})
    rows.append(_legend(cases[0].anatomy, present, max(row.width for row in rows)))
    width = max(row.width for row in rows) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, sum(row.height + _MARGIN for row in rows) + _MARGIN), _PAPER)
    top = _MARGIN
    for row in rows:
        sheet.paste(row, (_MARGIN, top))
        top += row.height + _MARGIN
    return sheet


def point_of_interest(case: Case) -> tuple[int, int, int]:
    """Voxel through which the three planes are cut: inside the largest lesion, else the middle of what is labelled."""
    lesion = case.label_map == case.anatomy.lesion_id
    if lesion.any():
        labelled, number = ndimage.label(lesion)
        sizes = np.bincount(labelled.ravel(), minlength=number + 1)[1:]
        mask = labelled == 1 + int(sizes.argmax())
    else:
        mask = case.label_map > 0 if case.label_map.any() else np.ones_like(lesion)
    voxels = np.argwhere(mask)
    nearest = voxels[np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()] if lesion.any() else voxels.mean(0)
    x, y, z = (int(v) for v in nearest)
    return x, y, z


def cut(case: Case, plane: str, index: int) -> Slice:
    """The plane as a radiologist sees it: the patient's right on the left, anterior or superior on top."""
    axis = _PLANES[plane]
    columns, rows = (a for a in range(3) if a != axis)
    ct_hu, label_map = (np.take(v, index, axis)[::-1, ::-1].T for v in (case.ct_hu, case.label_map))
    return Slice(ct_hu, label_map, (case.spacing_mm[rows], case.spacing_mm[columns]))


def window_grey(ct_hu: np.ndarray, window: str) -> np.ndarray:
    """HU as uint8 grey in a window of WINDOWS."""
    centre, width = WINDOWS[window]
    return (np.clip((ct_hu.astype(np.float32) - centre) / width + 0.5, 0, 1) * 255).astype(np.uint8)


def _case_row(case: Case, window: str) -> Image.Image:
    point = point_of_interest(case)
    extent_mm = max(n * mm for n, mm in zip(case.ct_hu.shape, case.spacing_mm, strict=True))
    scale = _FIELD_PX / extent_mm
    panels = []
    for plane, axis in _PLANES.items():
        piece = cut(case, plane, point[axis])
        position_mm = case.affine[axis, 3] + case.affine[axis, axis] * point[axis]
        grey = _enlarge(piece, window, scale)
        title = f"{plane}  {'xyz'[axis]} = {position_mm:.0f} mm"
        panels += [_annotate(grey.copy(), plane, title), _annotate(_overlay(grey, piece, case.anatomy), plane, "")]
    width = sum(p.width + _GAP for p in panels) - _GAP
    caption = _caption(case, width)
    height = max(p.height for p in panels)
    row = Image.new("RGB", (width, height + _GAP + caption.height), _PAPER)
    left = 0
    for panel in panels:
        row.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + _GAP
    row.paste(caption, (0, height + _GAP))
    return row


def _enlarge(piece: Slice, window: str, scale: float) -> Image.Image:
    grey = Image.fromarray(window_grey(piece.ct_hu, window))
    return grey.resize(_size_px(piece, scale), Image.Resampling.BICUBIC).convert("RGB")


def _size_px(piece: Slice, scale: float) -> tuple[int, int]:
    rows, columns = piece.ct_hu.shape
    return max(1, round(columns * piece.pixel_mm[1] * scale)), max(1, round(rows * piece.pixel_mm[0] * scale))


def _overlay(grey: Image.Image, piece: Slice, anatomy: Anatomy) -> Image.Image:
    """Each class tinted in its colour, its border drawn. Borders are smoothed as the picture is enlarged."""
    ids = [0, *(int(i) for i in np.unique(piece.label_map) if i)]
    shares = [
        np.asarray(
            Image.fromarray((piece.label_map == i).astype(np.float32)).resize(grey.size, Image.Resampling.BICUBIC)
        )
        for i in ids
    ]
    labels = np.array(ids, np.uint8)[np.argmax(shares, axis=0)]
    colours = np.array([c.colour for c in anatomy.classes], np.float32)[labels]
    border = np.zeros(labels.shape, bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    # A border pixel takes the colour of the organ, also where the background is on its own side of it.
    inked = np.maximum(labels, np.maximum(np.roll(labels, -1, 0), np.roll(labels, -1, 1)))
    picture = np.asarray(grey, np.float32)
    tinted = np.where((labels > 0)[..., None], (1 - _TINT) * picture + _TINT * colours, picture)
    ink = np.array([c.colour for c in anatomy.classes], np.float32)[inked]
    return Image.fromarray(np.where(border[..., None], ink, tinted).round().astype(np.uint8))


def _annotate(panel: Image.Image, plane: str, title: str) -> Image.Image:
    draw, (width, height), ends = ImageDraw.Draw(panel), panel.size, _ENDS[plane]
    left, right, top, bottom = ends
    font = _font(14)
    for letter, xy, anchor in (
        (left, (5, height / 2), "lm"),
        (right, (width - 5, height / 2), "rm"),
        (top, (width / 2, 4), "mt"),
        (bottom, (width / 2, height - 4), "mb"),
    ):
        draw.text(xy, letter, _INK, font, anchor, stroke_width=1, stroke_fill=_PAPER)
    if title:
        draw.text((6, 5), title, _INK, _font(12), "lt", stroke_width=1, stroke_fill=_PAPER)
    return panel


def _caption(case: Case, width: int) -> Image.Image:
    font, head = _font(15), _font(17)
    per_line = max(20, int(width / font.getlength("n" * 20) * 20 * 1.08))
    lines = [line for part in case.report.strip().splitlines() for line in textwrap.wrap(part, per_line) or [""]]
    image = Image.new("RGB", (width, _LINE * (len(lines) + 1) + _GAP), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 2), case.key, _INK, head)
    quality = case.provenance.get("quality", {})
    failed = [check["name"] for check in quality.get("checks", ()) if not check["pass"]]
    if failed:
        draw.text((head.getlength(case.key) + 16, 4), f"failed: {', '.join(failed)}", _BAD, font)
    for number, line in enumerate(lines, start=1):
        draw.text((0, _LINE * number + 4), line, _FAINT if not line.strip() else _INK, font)
    return image


def _legend(anatomy: Anatomy, present: Sequence[int], width: int) -> Image.Image:
    font, left, top = _font(14), 0, 0
    places = []
    for organ in (anatomy.classes[i] for i in present):
        needed = 22 + int(font.getlength(organ.name)) + 20
        if left + needed > width and left:
            left, top = 0, top + _LINE + 4
        places.append((organ, left, top))
        left += needed
    image = Image.new("RGB", (width, top + _LINE + 4), _PAPER)
    draw = ImageDraw.Draw(image)
    for organ, x, y in places:
        draw.rounded_rectangle((x, y + 3, x + 14, y + 17), 3, organ.colour)
        draw.text((x + 22, y + 10), organ.name, _INK, font, "lm")
    return image


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
