"""Bones and lungs held to their HU: the contrast to soft tissue that a slice generator draws too weak.

`models.inhomogeneity` moves an organ of one tissue as a whole. Bone with its marrow and lung with its vessels are of
several and cannot be moved so; what their slices lack is contrast to the soft tissue around them, ribs and lungs most,
since they are thin or end in many borders. The HU of such a class are stretched away from those of soft tissue: what
is soft stays as it is, the median comes to the HU that were told, the end of the range stays, and in between the
order of voxels does (a piecewise linear intensity mapping, Nyul et al. 2000, with these three landmarks).
"""

from __future__ import annotations

import torch
from torch import Tensor

from guidegen_data.models.inhomogeneity import LEAST_VOXELS, around, feathered

#: HU of soft tissue, which keeps its own, and how far the usual median of a class must lie from it.
_SOFT_HU, _FAR_HU = 40.0, 150.0
#: Slopes up to which a class is stretched: what is hardly drawn is not to be made of noise.
_MOST_STRETCHED = 2.0
#: Passes: a median moves less than asked for, since the border fades. Voxels around a class that its border reaches.
_PASSES, _ROOM = 2, 2


def far_from_soft_tissue(usual_hu: Tensor) -> Tensor:
    """Which classes of these usual HU (K,) are bone or lung, (K,) bool."""
    return (usual_hu - _SOFT_HU).abs() >= _FAR_HU


def hold_contrast(ct_hu: Tensor, label_map: Tensor, class_hu: Tensor, hu_range: tuple[int, int]) -> Tensor:
    """The CT (X, Y, Z) int16 HU with every class of known HU (K,) at that median; NaN for those to be left alone.

    A class of fewer than 50 voxels is left as well, and one whose median lies on the other side of soft tissue.
    """
    held = ct_hu.float()
    for k, asked in enumerate(class_hu.tolist()):
        mask = label_map == k
        if asked == asked and int(mask.sum()) >= LEAST_VOXELS:
            box = around(mask, [_ROOM] * 3)
            inside, drawn = feathered(mask[box]), held[box][mask[box]].median()
            goal = _bounded(asked - _SOFT_HU, float(drawn) - _SOFT_HU)
            for _ in range(_PASSES if goal else 0):
                hu = held[box]
                mapped = _stretched(hu, float(hu[mask[box]].median()) - _SOFT_HU, goal, hu_range)
                held[box] = hu + inside * (mapped - hu)
    return held.round().clamp(*hu_range).to(torch.int16)


def _bounded(asked: float, drawn: float) -> float:
    """The contrast to come to of one that was drawn; 0 for one on the other side of soft tissue."""
    if asked * drawn <= 0:
        return 0.0
    return asked if abs(asked) <= _MOST_STRETCHED * abs(drawn) else _MOST_STRETCHED * drawn


def _stretched(hu: Tensor, drawn: float, goal: float, hu_range: tuple[int, int]) -> Tensor:
    """HU whose median contrast to soft tissue, `drawn`, becomes `goal`, of the same sign."""
    side = 1.0 if goal > 0 else -1.0
    own, goal = side * drawn, side * goal
    end = max(side * (hu_range[1 if side > 0 else 0] - _SOFT_HU), goal, own)
    away = side * (hu - _SOFT_HU)
    beyond = goal + (away - own) * (end - goal) / max(end - own, 1.0)
    return _SOFT_HU + side * torch.where(away <= 0, away, torch.where(away <= own, away * goal / own, beyond))
