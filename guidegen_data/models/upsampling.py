"""From the coarse belief of stage 1 to a label map at full resolution that keeps the volumes it believes in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: A class that comes out short by less than this share of its volume is left as it is.
_SHORT = 0.03
#: Voxels where a class is less likely than this are never given to it.
_LEAST = 0.05
_MAX_GAIN = 4.0
#: Share that each voxel of the coarse belief gets from either neighbour along each axis.
_BLEND = 0.2


def upsample_keeping_volumes(
    p_x0: Tensor,
    shape: tuple[int, int, int],
    volume_ratio: Tensor,
    held: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Label maps (B, *shape) uint8 of a belief (B, K, *s), blended with its neighbours and interpolated trilinearly.

    Blending takes the coarse grid's steps out of the borders; as volumes are kept, nothing thin is lost to it.
    The largest belief would make thin structures thinner: at a rib's border, and where two coarse voxels are mixed,
    background is the likelier. The expected volume knows better. Each class that comes out short of it is favoured by
    the one factor that makes up for the loss. `volume_ratio` (K,) is the volume of a class at full resolution over its
    volume on the coarse grid, measured on the training maps, since making these coarse changes volumes too. The
    classes `held` of a case are also cut down where they come out larger: what is unsure over a wide area wins most.
    """
    ratio, label_maps = volume_ratio.clone().to(p_x0.device), []
    ratio[0] = 0  # background is what is left
    for b, belief in enumerate(p_x0.float()):
        shown = torch.nonzero(belief.flatten(1).amax(dim=1) > _LEAST).flatten()  # most of the time goes by classes
        cut = [int(i) for i, k in enumerate(shown.tolist()) if held is not None and k in held[b]]
        winner = _upsample(belief[shown], shape, ratio[shown], cut)
        label_maps.append(shown[winner].to(torch.uint8))
    return torch.stack(label_maps)


def _upsample(belief: Tensor, shape: tuple[int, int, int], volume_ratio: Tensor, held: list[int]) -> Tensor:
    """Which of the classes (K, *s) is shown at each voxel of the shape, int64."""
    fine = F.interpolate(_blended(belief)[None], size=shape, mode="trilinear", align_corners=False)[0]
    per_voxel = fine[0].numel() / belief[0].numel()
    wanted = belief.flatten(1).sum(dim=1) * per_voxel * volume_ratio.to(belief)
    for k in held:
        _cut_down(k, fine, int(wanted[k]))
    best, second, winner = _two_largest(fine)
    counts = torch.bincount(winner.flatten(), minlength=len(belief))
    short = [k for k in range(len(belief)) if counts[k] < (1 - _SHORT) * wanted[k]]
    for k in short:
        _favour(k, fine[k].flatten(), int(wanted[k]), best.view(-1), second.view(-1), winner.view(-1))
    return winner


def _favour(k: int, plane: Tensor, wanted: int, best: Tensor, second: Tensor, winner: Tensor) -> None:
    """Gives class k, of belief `plane` (N,), so many voxels; the others (N,) are changed in place."""
    where = torch.nonzero(plane > _LEAST).flatten()  # few voxels: all else is left alone
    own, leader = plane[where], winner[where]
    rival = torch.where(leader == k, second[where], best[where])
    own = own * _gain(rival / own, wanted)
    ahead = own > rival
    second[where] = torch.where(ahead, rival, torch.maximum(second[where], own.minimum(rival)))
    best[where] = torch.where(ahead, own, best[where])
    winner[where] = torch.where(ahead, k, leader)


def _cut_down(k: int, fine: Tensor, wanted: int) -> None:
    """Scales the belief in class k (of (K, *shape), in place) down to where it is the largest in no more voxels."""
    rival = torch.cat([fine[:k], fine[k + 1 :]]).amax(dim=0)
    won = torch.nonzero((fine[k] > rival).flatten()).flatten()
    if len(won) > max(wanted, 1):
        needed = rival.flatten()[won] / fine[k].flatten()[won]
        fine[k] *= needed.kthvalue(max(wanted, 1)).values * 1.0001


def _blended(belief: Tensor) -> Tensor:
    for axis in (1, 2, 3):
        last = belief.shape[axis] - 1
        before = torch.cat([belief.narrow(axis, 0, 1), belief.narrow(axis, 0, last)], dim=axis)
        after = torch.cat([belief.narrow(axis, 1, last), belief.narrow(axis, last, 1)], dim=axis)
        belief = torch.lerp(belief, (before + after) / 2, 2 * _BLEND)
    return belief


def _gain(needed: Tensor, wanted: int) -> float:
    """The factor at which so many voxels are won, given the factor (N,) that each of them needs."""
    if not len(needed) or not wanted:
        return 1.0
    needs = float(needed.kthvalue(min(wanted, len(needed))).values)
    return min(max(1.0, 1.0001 * needs), _MAX_GAIN)  # a little more, or the last ones would draw


def _two_largest(fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest and second largest over the first axis, and which class is the largest; a running one is far quicker
    than `topk` over 21 large planes."""
    best, second = torch.full_like(fine[0], -1.0), torch.full_like(fine[0], -1.0)
    winner = torch.zeros_like(fine[0], dtype=torch.int64)
    for k, plane in enumerate(fine):
        second = torch.maximum(second, torch.minimum(plane, best))
        winner.masked_fill_(plane > best, k)
        best = torch.maximum(best, plane)
    return best, second, winner
