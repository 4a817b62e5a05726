"""Does the label map show what the text asks for? Cacc, Cerr and Cmis of lesions, and organs said to be absent.

Over N prompts that ask for a lesion: Cmis = no lesion / N; Cerr = a lesion, but nearest to another site / N; Cacc = a
lesion at the asked site / N. The three sum to 1. (GuideGen names them in a caption only; the definition is ours.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guidegen_data.lesions import FoundLesion
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.sites import site_mask

#: An organ counts as absent below this volume.
ABSENT_ML = 1.0


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
