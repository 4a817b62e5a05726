"""Holding a belief to volumes: the logit of a class is moved until the volume that the belief expects is as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

#: Farthest that a logit is moved: a class that a belief knows nothing of is not made out of nothing.
_FARTHEST = 8.0
_HALVINGS = 24


@dataclass(frozen=True)
class VolumeBound:
    """Class `class_id` shall fill `least` to `most` voxels of the sampler's grid within the `columns` (X,) bool."""

    class_id: int
    columns: Tensor
    least: float
    most: float


def hold_volumes(belief: Tensor, bounds: Sequence[Sequence[VolumeBound]]) -> Tensor:
    """The belief (B, K, X, Y, Z), changed in place, with the volumes it expects within the bounds of each case.

    One number is added to the logit of the class wherever its bound counts, and the others keep their shares of what
    is left; that is the belief nearest to the given one (in Kullback-Leibler divergence) among those of that volume.
    The number is at most 8 either way. A class whose expected volume lies within its bound is left as it is.
    """
    for case, held in zip(belief, bounds, strict=True):
        for bound in held:
            columns = bound.columns.to(case.device)
            part = case[:, columns]
            own = part[bound.class_id].clamp(0, 1)
            expected = float(own.sum())
            if bound.least <= expected <= bound.most:
                continue
            wanted = bound.least if expected < bound.least else bound.most
            factor = _shift_to(own, wanted).exp()
            left = 1 - own + factor * own
            part = part / left
            part[bound.class_id] = factor * own / left
            case[:, columns] = part
    return belief


def _shift_to(own: Tensor, wanted: float) -> Tensor:
    """What must be added to the logit of probabilities `own` for their sum to be `wanted`, by bisection."""
    low, high = own.new_tensor(-_FARTHEST), own.new_tensor(_FARTHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        factor = middle.exp()
        if float((factor * own / (1 - own + factor * own)).sum()) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
