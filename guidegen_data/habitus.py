"""Body habitus as a label map shows it: the width of the labelled trunk, in the words of a report."""

from __future__ import annotations

import numpy as np

from guidegen_data.anatomy import HABITUS, Anatomy


def trunk_width_mm(label_map: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Lateral extent of everything labelled, 90th percentile over the slices that hold labels; 0.0 when none does."""
    columns = np.any(label_map > 0, axis=1)
    slices = np.flatnonzero(columns.any(axis=0))
    if not slices.size:
        return 0.0
    held = columns[:, slices]
    first, last = held.argmax(axis=0), len(held) - 1 - held[::-1].argmax(axis=0)
    return float(np.percentile((last - first + 1) * spacing_mm[0], 90))


def habitus_of(label_map: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy) -> str:
    """'slim', 'average' or 'large', by the trunk width of a label map (X, Y, Z); '' when it holds no label."""
    width = trunk_width_mm(label_map, spacing_mm)
    low, high = anatomy.habitus_mm
    return "" if not width else HABITUS[int(width >= low) + int(width > high)]
