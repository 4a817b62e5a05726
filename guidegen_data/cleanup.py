"""Clean-up of generated label maps: specks are given to their neighbours; a lesion is never removed."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy

#: Components below this are specks: 50 voxels at 128^3 and 3 mm.
MIN_COMPONENT_ML = 1.35
#: Classes whose real components can be smaller than a speck.
_FINE = {"rib", "adrenal gland", "portal and splenic vein", "esophagus", "inferior vena cava", "aorta"}


def clean_up(
    label_map: np.ndarray, anatomy: Anatomy, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, dict[str, int]]:
    """The label map without specks, and how many voxels each class lost. (X, Y, Z) uint8.

    Of fine structures (ribs, adrenal glands, vessels) only pieces under a fifth of the limit count as specks, and never
    the largest one. Every voxel removed takes the class of the nearest voxel that was kept.
    """
    limit = MIN_COMPONENT_ML * 1000 / float(np.prod(spacing_mm))
    specks = np.zeros(label_map.shape, bool)
    lost: dict[str, int] = {}
    for c, box in zip(anatomy.classes[1:], ndimage.find_objects(label_map, anatomy.num_classes - 1), strict=True):
        if box is None or c.id == anatomy.lesion_id:
            continue
        pieces, _ = ndimage.label(label_map[box] == c.id)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        small = sizes < (limit / 5 if c.name in _FINE else limit)
        small[0] = False
        if c.name in _FINE:
            small[sizes.argmax()] = False
        if small.any():
            gone = small[pieces]
            specks[box] |= gone
            lost[c.name] = int(gone.sum())
    if specks.any():
        nearest = ndimage.distance_transform_edt(specks, return_distances=False, return_indices=True)
        label_map = label_map[tuple(nearest)]
    return label_map, lost
