"""Tissues that a label map tells roughly and a CT shows in detail, both ways.

Stage 1 knows where bone and soft tissue lie, but not every process of a vertebra: its tissues are smooth. Slices that
learned from tissues cut out of real CTs by HU would follow these blobs to the voxel. So stage 2 learns from tissues as
smooth as stage 1's (`loosened`), with every organ and lesion in its exact place, and draws the detail itself. Then the
tissues of the label map are cut out of the CT by the rule that made those of the training cases (`of_ct`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy

#: Widths in mm by which the tissues of training cases are loosened; one case in `_SHARP` keeps its own.
_WIDTHS_MM, _SHARP = (3.0, 10.0), 8
#: What fat and muscle have about.
_FAT_HU, _MUSCLE_HU = -100.0, 60.0
#: Widths after which a Gaussian counts as nothing.
_TRUNCATE = 3.0


def tissue_ids(anatomy: Anatomy) -> list[int]:
    """Classes that are defined by HU where no contour lies; none for tables without such."""
    return [c.id for c in anatomy.classes if c.tissue_hu is not None]


def fat_class(anatomy: Anatomy) -> int | None:
    """The class cut out by HU that fat and muscle lie in together; None for tables without such."""
    for held in anatomy.classes:
        if held.tissue_hu is not None and held.tissue_hu[0] < _FAT_HU and held.tissue_hu[1] > _MUSCLE_HU:
            return held.id
    return None


def loosened(label_map: np.ndarray, anatomy: Anatomy, width_mm: float) -> np.ndarray:
    """The label map (X, Y, Z) uint8 with tissues and air smoothed by a Gaussian of that width; each keeps its volume.

    Voxels of organs and lesions stay as they are, and have no say in the tissues beside them.
    """
    kinds = [0, *tissue_ids(anatomy)]
    if width_mm <= 0 or len(kinds) == 1:
        return label_map
    return smoothed(label_map, kinds, [width_mm] * len(kinds), anatomy.spacing_mm)


def smoothed(
    label_map: np.ndarray, kinds: Sequence[int], widths_mm: Sequence[float], spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """The label map (X, Y, Z) uint8 with some classes smoothed by a Gaussian of their own width each (above 0).

    Each keeps its volume; voxels of other classes stay as they are, and have no say in what is beside them. The first
    of the kinds is what lies between the others: only near these is anything changed.
    """
    rest = np.isin(label_map, list(kinds[1:]))
    if not rest.any():
        return label_map
    margin = [int(np.ceil(_TRUNCATE * max(widths_mm) / s)) for s in spacing_mm]
    (found,) = ndimage.find_objects(rest.astype(np.uint8))
    box = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(found, margin, strict=True))
    near = label_map[box]
    free = np.isin(near, list(kinds))
    shares = np.stack([
        ndimage.gaussian_filter(
            (near == k).astype(np.float32), [w / s for s in spacing_mm], mode="nearest", truncate=_TRUNCATE
        )[free]
        for k, w in zip(kinds, widths_mm, strict=True)
    ])  # fmt: skip
    out = label_map.copy()
    out[box][free] = np.asarray(kinds, np.uint8)[_in_these_numbers(shares, [int((near == k).sum()) for k in kinds])]
    return out


def loosened_case(label_map: np.ndarray, anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """`loosened` by a random width, as tissues of stage 1 are; one label map in eight stays as it is."""
    width_mm = rng.uniform(*_WIDTHS_MM)
    return label_map if rng.integers(_SHARP) == 0 else loosened(label_map, anatomy, width_mm)


def with_tissues(labels: np.ndarray, ct_hu: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """The labels with what no contour holds given to the anatomy's tissues by HU; the rest (air) stays background."""
    free = labels == 0
    out = labels.copy()
    for tissue in anatomy.classes:
        if tissue.tissue_hu is not None:
            low, high = tissue.tissue_hu
            out[free & (ct_hu >= low) & (ct_hu < high)] = tissue.id
    return out


def of_ct(label_map: np.ndarray, ct_hu: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """The label map (X, Y, Z) uint8 with its tissues cut out of its CT, organs and lesions as they are."""
    organs = np.where(np.isin(label_map, tissue_ids(anatomy)), 0, label_map).astype(np.uint8)
    return with_tissues(organs, ct_hu, anatomy)


def _in_these_numbers(shares: np.ndarray, numbers: list[int]) -> np.ndarray:
    """Which of K kinds each of N voxels is, given shares (K, N): the rarest kind takes its number where its share is
    the largest beside the others', then the next of what is left."""
    order = np.argsort(numbers)
    out = np.full(shares.shape[1], order[-1])
    left = np.arange(shares.shape[1])
    for at, kind in enumerate(order[:-1]):
        lead = shares[kind, left] / (shares[order[at + 1 :]][:, left].max(axis=0) + 1e-6)
        won = np.argpartition(-lead, numbers[kind] - 1)[: numbers[kind]] if numbers[kind] else left[:0]
        out[left[won]] = kind
        left = np.delete(left, won)
    return out
