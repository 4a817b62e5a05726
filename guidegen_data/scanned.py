"""Which axial slices of a volume show a body: what a scan is, and what lies outside of it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy
from guidegen_data.tissue_rule import tissue_ids

#: What a slice of a body shows at least: a neck has 80 cm2, the rim around contours that some CTs were cut down to
#: mostly under 30.
BODY_CM2 = 50.0


def areas_cm2(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Area of a mask (X, Y, Z) in each axial slice (Z,)."""
    return mask.sum(axis=(0, 1)) * spacing_mm[0] * spacing_mm[1] / 100


def body_slices(body: np.ndarray, spacing_mm: tuple[float, float, float]) -> slice:
    """The longest run of slices of a mask (X, Y, Z) that show BODY_CM2 or more; an empty slice where none does."""
    runs, count = ndimage.label(areas_cm2(body, spacing_mm) >= BODY_CM2)
    if not count:
        return slice(0, 0)
    longest = np.flatnonzero(runs == np.bincount(runs)[1:].argmax() + 1)
    return slice(int(longest[0]), int(longest[-1]) + 1)


def only_scanned(
    label_map: np.ndarray, anatomy: Anatomy, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, int]:
    """A label map (X, Y, Z) with background outside of the slices that show a body, and how many voxels that took.

    For tables that have the body's tissues; without them, and where no slice shows a body, nothing is taken.
    """
    if not tissue_ids(anatomy):
        return label_map, 0
    shown = body_slices(label_map > 0, spacing_mm)
    kept = np.zeros_like(label_map)
    kept[:, :, shown] = label_map[:, :, shown]
    lost = int(np.count_nonzero(label_map) - np.count_nonzero(kept))
    return (kept, lost) if kept.any() and lost else (label_map, 0)
