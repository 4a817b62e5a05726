"""Clean-up of generated label maps: specks are given to their neighbours; a lesion that was asked for never is."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import OrganClass
from guidegen_data.reports.findings import Findings

#: Components below this are specks: 50 voxels at 128^3 and 3 mm.
MIN_COMPONENT_ML = 1.35
#: Classes whose real components can be smaller than a speck.
_FINE = {"rib", "adrenal gland", "portal and splenic vein", "esophagus", "inferior vena cava", "aorta"}


def clean_up(
    label_map: np.ndarray, findings: Findings, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, dict[str, int]]:
    """The label map without specks, and how many voxels each class lost. (X, Y, Z) uint8.

    Of fine structures (ribs, adrenal glands, vessels) only pieces under a fifth of the limit count as specks, and never
    the largest one. Lesions lose nothing but pieces beyond the number asked for that are under the limit; where none is
    asked for, every lesion voxel is a speck. Every voxel removed takes the class of the nearest voxel that was kept.
    """
    anatomy = findings.anatomy
    limit = MIN_COMPONENT_ML * 1000 / float(np.prod(spacing_mm))
    specks = np.zeros(label_map.shape, bool)
    lost: dict[str, int] = {}
    for c, box in zip(anatomy.classes[1:], ndimage.find_objects(label_map, anatomy.num_classes - 1), strict=True):
        if box is None:
            continue
        pieces, _ = ndimage.label(label_map[box] == c.id)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        small = _is_speck(sizes, c, findings, limit)
        small[0] = False
        if small.any():
            gone = small[pieces]
            specks[box] |= gone
            lost[c.name] = int(gone.sum())
    if specks.any():
        label_map = nearest_kept(label_map, specks)
    return label_map, lost


def nearest_kept(label_map: np.ndarray, gone: np.ndarray, but: Collection[int] = ()) -> np.ndarray:
    """The label map with every voxel of `gone` made the class of the nearest voxel that is not; both (X, Y, Z).

    Classes in `but` are given nothing: the nearest voxel of another class counts. All that is nearer to a voxel than
    the nearest kept one is gone or of such a class, so that one touches the voxel's own component of these: it is
    looked for in the component's box, one voxel wider.
    """
    filled = label_map.copy()
    passed_over = gone | np.isin(label_map, list(but)) if but else gone
    components, _ = ndimage.label(passed_over)
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        own = (components[wide] == number) & gone[wide]
        if own.any():
            nearest = ndimage.distance_transform_edt(passed_over[wide], return_distances=False, return_indices=True)
            filled[wide][own] = label_map[wide][tuple(nearest)][own]
    return filled


def _is_speck(sizes: np.ndarray, c: OrganClass, findings: Findings, limit: float) -> np.ndarray:
    """Which components of a class, by their sizes in voxels, are specks."""
    if c.id == findings.anatomy.lesion_id:
        if not findings.lesions:
            return np.ones(len(sizes), bool)
        small = sizes < limit
        small[np.argsort(sizes)[-len(findings.lesions) :]] = False
    elif c.name in _FINE:
        small = sizes < limit / 5
        small[sizes.argmax()] = False
    else:
        small = sizes < limit
    return small
