"""A picture of a whole scan, of one that was cut down to its contours, and of what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.openkbp_imaged import patient
from guidegen_data.sources.openkbp import only_imaged

_CORD = 2
_WINDOW_HU = (-1024, 400)


def draw(whole: Path, cut: Path, out: Path) -> None:
    """A PNG: sagittal planes through the cords of two CTs NAME_ct.nii.gz, and axial ones above the lower ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = figure.subplots(2, 3)
    hu, labels, spacing = patient(cut)
    rows = [
        ("a whole scan", *patient(whole)),
        ("a scan that was cut: CT around the contours alone", hu, labels, spacing),
        ("the same without what was not imaged", *only_imaged(hu, labels, spacing), spacing),
    ]
    z = int(np.flatnonzero((labels == _CORD).any(axis=(0, 1)))[4])  # the same slice in both pictures of the cut scan
    for (above, below), (title, ct, ids, sizes) in zip(panels.T, rows, strict=True):
        x = int(np.median(np.nonzero(ids == _CORD)[0]))
        _show(above, ct[x], ids[x], sizes[2] / sizes[1])
        above.set_title(title, fontsize=10)
        _show(below, ct[:, :, z], ids[:, :, z], sizes[1] / sizes[0])
    figure.savefig(out, dpi=90)


def _show(axis: Any, ct: np.ndarray, ids: np.ndarray, aspect: float) -> None:
    low, high = _WINDOW_HU
    axis.imshow(ct.T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
    if ids.any():
        axis.contour(ids.T > 0, levels=[0.5], colors="red", linewidths=0.8)
    axis.set_axis_off()
