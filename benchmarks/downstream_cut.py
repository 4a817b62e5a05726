"""The control that costs nothing: the segmenter's own real patients, cut to the field of view of generated cases.

A generator that learned from scans of the treated region alone draws such scans, and test patients have them, while
the k real ones hardly do. What a segmenter gains by seeing short scans needs no generator: this gives it that alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.nnunet_route import LABELS
from guidegen_data import Case
from guidegen_data.sources.openkbp import imaged_slices

_AIR_HU = -1024


def cut_like(real: Case, generated: Case) -> Case:
    """A real case without what lies further above and below its organs than a generated case shows.

    Distances are counted in slices from the middle of the organs' voxels; both cases have the same grid. What is taken
    out becomes air and background, as in a scan that `benchmarks.openkbp_imaged` cleared. As it is where the generated
    case shows as much, or where nothing would be left.
    """
    theirs = imaged_slices(generated.ct_hu, generated.spacing_mm)
    ours = imaged_slices(real.ct_hu, real.spacing_mm)
    moved = round(_middle(real.label_map) - _middle(generated.label_map))
    kept = slice(max(ours.start, theirs.start + moved), max(0, min(ours.stop, theirs.stop + moved)))
    if not _organs(real.label_map[:, :, kept]).any():
        return real
    ct_hu, labels = np.full_like(real.ct_hu, _AIR_HU), np.zeros_like(real.label_map)
    ct_hu[:, :, kept], labels[:, :, kept] = real.ct_hu[:, :, kept], real.label_map[:, :, kept]
    return replace(real, ct_hu=ct_hu, label_map=labels)


def _organs(label_map: np.ndarray) -> np.ndarray:
    """Voxels of the organs of this test; soft tissue, bone and targets are none."""
    return np.isin(label_map, [number for name, number in LABELS.items() if name != "background"])


def _middle(label_map: np.ndarray) -> float:
    """The mean slice of the organs' voxels; that of the grid where there is none."""
    slices = np.nonzero(_organs(label_map))[2]
    return float(slices.mean()) if slices.size else (label_map.shape[2] - 1) / 2
