"""A PNG of histograms: sizes of the lesions that were asked for, and the volume of every class."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from guidegen_data.shards.statistics import Statistics

_COLUMNS = 4
_WIDTH, _HEIGHT, _MARGIN = 300, 170, 14
_BARS = 24
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 36, 44), (128, 134, 144)
_LESIONS = (90, 96, 110)


def histograms_png(found: Statistics) -> bytes:
    """The PNG file. A panel without a value says so."""
    panels = list(_panels(found))
    rows = -(-len(panels) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _WIDTH + _MARGIN, rows * _HEIGHT + _MARGIN), _PAPER)
    for number, (title, values, unit, colour) in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        sheet.paste(_panel(title, values, unit, colour), (_MARGIN + column * _WIDTH, _MARGIN + row * _HEIGHT))
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _panels(found: Statistics) -> Iterator[tuple[str, np.ndarray, str, tuple[int, int, int]]]:
    yield "diameter of lesions asked for", np.asarray(found.lesion_mm, np.float32), "mm", _LESIONS
    for organ in found.anatomy.classes[1:]:
        yield organ.name, found.present_ml(organ.name), "ml", organ.colour


def _panel(title: str, values: np.ndarray, unit: str, colour: tuple[int, int, int]) -> Image.Image:
    """One histogram: title and number of values above, smallest and largest value below, the fullest bar named."""
    image = Image.new("RGB", (_WIDTH - _MARGIN, _HEIGHT - _MARGIN), _PAPER)
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(14), ImageFont.load_default(11)
    width, top, floor = image.width, 36, image.height - 20
    draw.text((0, 0), title, _INK, font)
    draw.text((0, 18), f"{len(values)} values", _FAINT, small)
    draw.line((0, floor, width, floor), _FAINT)
    if not len(values):
        draw.text((0, floor + 4), "none", _FAINT, small)
        return image
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, _BARS, (low, high if high > low else low + 1))
    for bar, count in enumerate(counts):
        if count:
            height = max(1, round((floor - top) * count / counts.max()))
            left, right = (round((bar + k) * width / _BARS) for k in (0, 1))
            draw.rectangle((left, floor - height, right - 2, floor - 1), colour, _INK)
    draw.text((width, 18), f"fullest bar {counts.max()}", _FAINT, small, "ra")
    draw.text((0, floor + 4), f"{low:.4g} {unit}", _INK, small)
    draw.text((width / 2, floor + 4), f"median {np.median(values):.4g}", _FAINT, small, "ma")
    draw.text((width, floor + 4), f"{high:.4g} {unit}", _INK, small, "ra")
    return image
