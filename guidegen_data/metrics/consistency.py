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
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.sites import site_mask
from guidegen_data.sources.lesions import longest_diameter_mm

_REACH_MM = 15.0
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
    """Every lesion component of at least `min_voxels`, largest first, with the site most of its voxels belong to.

    A lesion voxel belongs to the nearest voxel, within 15 mm, of an organ that can hold lesions; a component far from
    all of them has organ ''.
    """
    pieces, count = ndimage.label(label_map == anatomy.lesion_id)
    if not count:
        return []
    hosts = {anatomy.id_of(o.class_name) for o in anatomy.organs if o.sites}
    distance, nearest = ndimage.distance_transform_edt(
        ~np.isin(label_map, list(hosts)), sampling=spacing_mm, return_indices=True
    )
    filled = np.where((pieces > 0) & (distance <= _REACH_MM), label_map[tuple(nearest)], label_map)
    votes = np.zeros((count + 1, 0), np.int64)
    names: list[tuple[str, str]] = []
    for organ in anatomy.organs:
        for site in organ.sites:
            inside = site_mask(filled, spacing_mm, organ, site, anatomy)
            share = np.bincount(pieces[inside], minlength=count + 1)
            votes = np.column_stack([votes, share])
            names.append((organ.name, site))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    found = []
    for k in sorted(range(1, count + 1), key=lambda i: -sizes[i]):
        if sizes[k] >= min_voxels:
            organ_name, site = names[int(votes[k].argmax())] if votes[k].any() else ("", "")
            found.append(FoundLesion(organ_name, site, longest_diameter_mm(pieces == k, spacing_mm)))
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
