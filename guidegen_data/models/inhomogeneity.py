"""Organs held to their HU: the slow changes of HU within an organ that a slice generator draws and no scan shows.

A generator of few steps that draws slice after slice leaves an organ brighter here and darker there, and where it is
told an HU that it has seldom seen, such as that of an aorta in the arterial phase, it stops short of it. What is slow,
the local mean over some 4 mm, is measured in the core of every organ, without the border where voxels hold two
tissues. Whatever it varies by in a generated CT beyond what it does in training cases is taken away, and the core moved
to its level: the median that was told, which is of the whole organ, and what cores of that organ have beyond it.
Texture, which changes from voxel to voxel, stays as it is drawn. A class of several tissues, such as bone with its
marrow, a larynx or a colon with air, has no one level and is left.

The method is that of the bias field in MR images (intensity inhomogeneity, Sled et al. 1998), one organ at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Width of a local mean, and of the border over which an organ's correction fades, as a standard deviation.
_LOCAL_MM, _FEATHER_VOXELS = 4.0, 0.4
#: Kernels reach so many standard deviations.
_REACH = 3.0
_LEAST_VOXELS = 50
#: An organ whose voxels are fewer than this share inside its border has no core of its own.
_THIN = 0.2
#: Voxels beyond so many robust standard deviations (of at least so many HU) of an organ's median are of other tissue:
#: gas, calcification, a vessel in the lung. They count as that many and are moved less, from twice as many not at all.
_MOST_DEVIATIONS, _LEAST_SPREAD_HU = 3.0, 15.0
#: A class that is more uneven than this in training cases is of several tissues, and so is one whose core is of
#: another HU than the whole, by this much in more than this share of them.
_ONE_TISSUE_HU, _OTHER_CORE_HU, _OTHER_CORE_SHARE = 60.0, 25.0, 0.15
#: Passes: a median moves when what lies around it is evened out.
_PASSES = 2


def inhomogeneity(
    ct_hu: Tensor, label_map: Tensor, num_classes: int, spacing_mm: Sequence[float], without: Sequence[int] = (0,)
) -> Tensor:
    """How each class of a CT and label map (X, Y, Z) varies, (K, 2) in HU: the standard deviation of the local mean in
    its core, and the core's median less that of the whole.

    NaN for a class of fewer than 50 voxels, and for those `without`.
    """
    values = torch.full((num_classes, 2), torch.nan)
    for k in range(num_classes):
        organ = None if k in without else _Organ.of(label_map == k, spacing_mm)
        if organ is not None:
            hu = ct_hu[organ.box].float()
            values[k, 0] = organ.slow(hu)[1]
            values[k, 1] = hu[organ.core].median() - hu[organ.mask].median()
    return values


def usual_inhomogeneity(cases: Tensor) -> Tensor:
    """What is usual of `inhomogeneity` (N, K, 2) of training cases, (K, 2): medians; without bounds (infinity) for
    classes of several tissues, and for those that no case shows."""
    usual = cases.nanmedian(dim=0).values
    other = (cases[..., 1].abs() > _OTHER_CORE_HU).float().sum(dim=0) / cases[..., 1].isfinite().sum(dim=0).clamp(min=1)
    of_one = (usual[:, 0] <= _ONE_TISSUE_HU) & (other <= _OTHER_CORE_SHARE)
    return torch.where(of_one[:, None], usual, torch.inf)


def hold_organ_hu(
    ct_hu: Tensor,
    label_map: Tensor,
    class_hu: Tensor,
    usual: Tensor,
    spacing_mm: Sequence[float],
    hu_range: tuple[int, int],
) -> Tensor:
    """The CT (X, Y, Z) int16 HU with every class at its median HU (K,) and no less even than `usual` (K, 2) in HU.

    Classes for which that is infinite and those with NaN for their HU stay as they are, but for the border over which
    their neighbours' corrections fade.
    """
    moved = torch.zeros(ct_hu.shape, device=ct_hu.device)
    for k, (asked, (even, beyond)) in enumerate(zip(class_hu.tolist(), usual.tolist(), strict=True)):
        held = asked == asked and math.isfinite(even)
        organ = _Organ.of(label_map == k, spacing_mm) if held else None
        if organ is not None:
            moved[organ.box] += organ.correction(ct_hu[organ.box].float(), asked + beyond * organ.has_core, even)
    return (ct_hu + moved).round().clamp(*hu_range).to(torch.int16)


class _Organ:
    """One class of a label map, in the box around it."""

    def __init__(self, box: tuple[slice, slice, slice], mask: Tensor, spacing_mm: Sequence[float]) -> None:
        self.box, self.mask, self.core = box, mask, _core(mask)
        self.has_core = not torch.equal(self.core, mask)
        self._widths = [_LOCAL_MM / s for s in spacing_mm]
        self._weight = _blurred(self.core.float(), self._widths).clamp(min=1e-3)

    @classmethod
    def of(cls, mask: Tensor, spacing_mm: Sequence[float]) -> _Organ | None:
        """None for fewer than 50 voxels."""
        if int(mask.sum()) < _LEAST_VOXELS:
            return None
        box = []
        for axis, spacing in enumerate(spacing_mm):
            others = [a for a in range(3) if a != axis]
            held = mask.amax(dim=others).nonzero().flatten().tolist()
            room = round(_REACH * _LOCAL_MM / spacing)
            box.append(slice(max(0, held[0] - room), held[-1] + room + 1))
        inside = (box[0], box[1], box[2])
        return cls(inside, mask[inside], spacing_mm)

    def level(self, hu: Tensor) -> tuple[float, float]:
        """Median and robust standard deviation of the core."""
        values = hu[self.core]
        median = float(values.median())
        return median, max(1.4826 * float((values - median).abs().median()), _LEAST_SPREAD_HU)

    def slow(self, hu: Tensor) -> tuple[Tensor, float]:
        """The core's local mean less its median, over the box, and its standard deviation in the core."""
        median, spread = self.level(hu)
        most = _MOST_DEVIATIONS * spread
        left = torch.where(self.core, (hu - median).clamp(-most, most), 0)
        mean = _blurred(left, self._widths) / self._weight
        return mean, float(mean[self.core].double().std())

    def correction(self, hu: Tensor, asked: float, even: float) -> Tensor:
        """What is to be added over the box; it fades over the organ's border."""
        inside = _blurred(self.mask.float(), [_FEATHER_VOXELS] * 3)
        moved = torch.zeros_like(hu)
        for _ in range(_PASSES):
            mean, std = self.slow(hu + moved)
            if std > even:
                moved -= (1 - even / std) * mean * inside * self._of_tissue(hu + moved)
            moved += self._to_level(hu + moved, asked) * inside
        return moved + self._to_level(hu + moved, asked) * inside

    def _to_level(self, hu: Tensor, asked: float) -> Tensor:
        return (asked - self.level(hu)[0]) * self._of_tissue(hu)

    def _of_tissue(self, hu: Tensor) -> Tensor:
        median, spread = self.level(hu)
        return (2 - (hu - median).abs() / (_MOST_DEVIATIONS * spread)).clamp(0, 1)


def _core(mask: Tensor) -> Tensor:
    """An organ without its outermost voxels, or the whole of one too thin for that."""
    outside = torch.zeros_like(mask)
    for axis in range(3):
        for step in (-1, 1):
            outside |= ~mask.roll(step, axis)
    core = mask & ~outside
    return core if int(core.sum()) >= max(_LEAST_VOXELS, _THIN * int(mask.sum())) else mask


def _blurred(volume: Tensor, widths: Sequence[float]) -> Tensor:
    """A volume (X, Y, Z) after a Gaussian of these standard deviations in voxels, zero beyond its edges."""
    for width in widths:  # the axis that comes first moves to the end: three times round
        at = torch.arange(len(volume), device=volume.device, dtype=torch.float32)
        # A product of matrices: with one channel it is several times faster than a convolution.
        kernel = torch.exp(-0.5 * ((at[:, None] - at[None]) / width) ** 2)
        scale = torch.exp(-0.5 * (torch.arange(-99, 100) / width) ** 2).sum().to(kernel)
        volume = torch.tensordot(volume, kernel / scale, dims=([0], [0]))
    return volume
