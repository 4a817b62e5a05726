"""Does the label map show what the text asks for? Cacc, Cerr and Cmis of lesions, and organs said to be absent.

Over N prompts that ask for a lesion: Cmis = no lesion / N; Cerr = a lesion, but nearest to another site / N; Cacc = a
lesion at the asked site / N. The three sum to 1. (GuideGen names them in a caption only; the definition is ours.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import AnatomyError
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.sites import site_mask, site_of
from guidegen_data.sources.lesions import longest_diameter_mm

#: An organ counts as absent below this volume.
ABSENT_ML = 1.0


@dataclass(frozen=True)
class FoundLesion:
    """A lesion component of a label map: where it lies and its longest diameter."""

    organ: str
    site: str
    size_mm: float


def find_lesions(
    label_map: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy, min_voxels: int = 4
) -> list[FoundLesion]:
    """Lesion components of at least `min_voxels`, largest first, each with its site; organ '' where there is none."""
    pieces, count = ndimage.label(label_map == anatomy.lesion_id)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    found = []
    for k in sorted(range(1, count + 1), key=lambda i: -sizes[i]):
        if sizes[k] >= min_voxels:
            try:
                organ, site = site_of(pieces == k, label_map, spacing_mm, anatomy)
            except AnatomyError:  # no organ that may hold a lesion is in the map
                organ, site = "", ""
            found.append(FoundLesion(organ, site, longest_diameter_mm(pieces == k, spacing_mm)))
    return found


def judge_lesion(asked: Lesion, found: Sequence[FoundLesion]) -> str:
    """'acc', 'err' or 'mis' for one lesion that was asked for."""
    if not found:
        return "mis"
    return "acc" if any((f.organ, f.site) == (asked.organ, asked.site) for f in found) else "err"


def absent_volumes_ml(
    label_map: np.ndarray, findings: Findings, spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """Volume in ml that is left of every organ said to be absent."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    return {
        organ: float(site_mask(label_map, spacing_mm, organ, "", findings.anatomy).sum()) * voxel_ml
        for organ, status in findings.organs.items()
        if status == "absent"
    }
