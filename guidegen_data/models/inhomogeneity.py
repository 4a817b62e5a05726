"""Organs held to their HU: the slow changes of HU within an organ that a slice generator draws and no scan shows.

A generator of few steps that draws slice after slice leaves an organ brighter here and darker there, and where it is
told an HU that it has seldom seen, such as that of an aorta in the arterial phase, it stops short of it. What is slow,
the local mean over some 4 mm, is measured in the core of every organ, without the border where voxels hold two
tissues, and so is the mean over its slices along the body, by which an organ drifts. Whatever they vary by in a
generated CT beyond what they do in the more even training cases of its contrast phase is taken away, and the core moved
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
#: An organ of fewer voxels is left as it is drawn.
LEAST_VOXELS = 50
#: An organ whose voxels are fewer than this share inside its border has no core of its own.
_THIN = 0.2
#: Voxels beyond so many robust standard deviations (of at least so many HU) of an organ's median are of other tissue:
#: gas, calcification, a vessel in the lung. They count as that many and are moved less, from twice as many not at all.
_MOST_DEVIATIONS, _LEAST_SPREAD_HU = 3.0, 15.0
#: A class that is more uneven than this in training cases is of several tissues, and so is one whose core is of
#: another HU than the whole, by this much in more than this share of them.
_ONE_TISSUE_HU, _OTHER_CORE_HU, _OTHER_CORE_SHARE = 60.0, 25.0, 0.15
#: A generated organ is at least as even as this quantile of training cases.
_EVEN = 0.25
#: A phase has values of its own for a class that so many of its cases show.
_LEAST_SHOWN = 5
#: Passes: a median moves when what lies around it is evened out.
_PASSES = 2


def inhomogeneity(
    ct_hu: Tensor, label_map: Tensor, num_classes: int, spacing_mm: Sequence[float], without: Sequence[int] = (0,)
) -> Tensor:
    """How each class of a CT and label map (X, Y, Z) varies, (K, 3) in HU: the standard deviation of the local mean in
    its core, the core's median less that of the whole, and the standard deviation along the body.

    NaN for a class of fewer than 50 voxels, and for those `without`.
    """
    values = torch.full((num_classes, 3), torch.nan)
    for k in range(num_classes):
        organ = None if k in without else _Organ.of(label_map == k, spacing_mm)
        if organ is not None:
            hu = ct_hu[organ.box].float()
            values[k, 0] = organ.slow(hu)[1]
            values[k, 1] = hu[organ.core].median() - hu[organ.mask].median()
            values[k, 2] = organ.along(hu)[1]
    return values


def usual_inhomogeneity(cases: Tensor, phase: Tensor, num_phases: int) -> Tensor:
    """What is usual of `inhomogeneity` (N, K, 3) of training cases in contrast phases (N,), -1 where none is told:
    (P + 1, K, 3), a row a phase and one of all cases last.

    Cores' HU are medians and the deviations lower quartiles, for what is uneven in some CTs (mixing blood, motion,
    streaks) would look wrong in every one. A class that fewer than five cases of a phase show has the values of all.
    Without bounds (infinity) for classes of several tissues, and for those that no case shows.
    """
    middle = cases.nanmedian(dim=0).values
    other = (cases[..., 1].abs() > _OTHER_CORE_HU).float().sum(dim=0) / cases[..., 1].isfinite().sum(dim=0).clamp(min=1)
    of_one = (middle[:, 0] <= _ONE_TISSUE_HU) & (other <= _OTHER_CORE_SHARE)
    usual = _usual(cases).repeat(num_phases + 1, 1, 1)
    for row in range(num_phases):
        own = cases[phase == row]
        shown = own[..., 0].isfinite().sum(dim=0) >= _LEAST_SHOWN
        if shown.any():
            usual[row] = torch.where(shown[:, None], _usual(own), usual[row])
    return torch.where(of_one[:, None], usual, torch.inf)


def _usual(cases: Tensor) -> Tensor:
    low = cases.double().nanquantile(_EVEN, dim=0).to(cases)
    low[:, 1] = cases[..., 1].nanmedian(dim=0).values
    return low


def hold_organ_hu(
    ct_hu: Tensor,
    label_map: Tensor,
    class_hu: Tensor,
    usual: Tensor,
    spacing_mm: Sequence[float],
    hu_range: tuple[int, int],
) -> Tensor:
    """The CT (X, Y, Z) int16 HU with every class at its median HU (K,) and no less even than `usual` (K, 3) in HU.

    Classes whose first bound is infinite and those with NaN for their HU stay as they are, but for the border over
    which their neighbours' corrections fade.
    """
    moved = torch.zeros(ct_hu.shape, device=ct_hu.device)
    for k, (asked, (even, beyond, along)) in enumerate(zip(class_hu.tolist(), usual.tolist(), strict=True)):
        held = asked == asked and math.isfinite(even)
        organ = _Organ.of(label_map == k, spacing_mm) if held else None
        if organ is not None:
            level = asked + beyond * organ.has_core
            moved[organ.box] += organ.correction(ct_hu[organ.box].float(), level, even, along)
    return (ct_hu + moved).round().clamp(*hu_range).to(torch.int16)


class _Organ:
    """One class of a label map, in the box around it."""

    def __init__(self, box: tuple[slice, slice, slice], mask: Tensor, spacing_mm: Sequence[float]) -> None:
        self.box, self.mask, self.core = box, mask, _core(mask)
        self.has_core = not torch.equal(self.core, mask)
        self._widths = [_LOCAL_MM / s for s in spacing_mm]
        self._weight = _blurred(self.core.float(), self._widths).clamp(min=1e-3)
        self._core_in_slice = self.core.sum(dim=(0, 1)).float()

    @classmethod
    def of(cls, mask: Tensor, spacing_mm: Sequence[float]) -> _Organ | None:
        """None for fewer than 50 voxels."""
        if int(mask.sum()) < LEAST_VOXELS:
            return None
        inside = around(mask, [round(_REACH * _LOCAL_MM / spacing) for spacing in spacing_mm])
        return cls(inside, mask[inside], spacing_mm)

    def level(self, hu: Tensor) -> tuple[float, float]:
        """Median and robust standard deviation of the core."""
        values = hu[self.core]
        median = float(values.median())
        return median, max(1.4826 * float((values - median).abs().median()), _LEAST_SPREAD_HU)

    def slow(self, hu: Tensor) -> tuple[Tensor, float]:
        """The core's local mean less its median, over the box, and its standard deviation in the core."""
        mean = _blurred(self._bounded_difference(hu), self._widths) / self._weight
        return mean, float(mean[self.core].cpu().double().std())

    def along(self, hu: Tensor) -> tuple[Tensor, float]:
        """The core's mean along the body (z,), over the slices of the box, less that of the whole core, and its
        standard deviation over the core. Neighbouring slices are taken together; beyond the core it is as at its end.
        """
        width, held = [self._widths[2]], self._core_in_slice.nonzero().flatten()
        total = _blurred(self._bounded_difference(hu).sum(dim=(0, 1)), width)
        mean = total / _blurred(self._core_in_slice, width).clamp(min=1e-3)
        share = self._core_in_slice / self._core_in_slice.sum()
        mean = mean - (mean * share).sum()
        at = torch.arange(len(mean), device=mean.device).clamp(held[0], held[-1])
        return mean[at], float((mean.cpu().double().square() * share.cpu()).sum().sqrt())

    def _bounded_difference(self, hu: Tensor) -> Tensor:
        """What the core's HU differ from their median by, other tissue bounded; 0 outside."""
        median, spread = self.level(hu)
        most = _MOST_DEVIATIONS * spread
        return torch.where(self.core, (hu - median).clamp(-most, most), 0)

    def correction(self, hu: Tensor, asked: float, even: float, along: float) -> Tensor:
        """What is to be added over the box; it fades over the organ's border."""
        inside = feathered(self.mask)
        moved = torch.zeros_like(hu)
        for _ in range(_PASSES):
            mean, std = self.slow(hu + moved)
            if std > even:
                moved -= (1 - even / std) * mean * inside * self._of_tissue(hu + moved)
            mean, std = self.along(hu + moved)
            if std > along:
                moved -= (1 - along / std) * mean * inside * self._of_tissue(hu + moved)
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
    return core if int(core.sum()) >= max(LEAST_VOXELS, _THIN * int(mask.sum())) else mask


def around(mask: Tensor, room: Sequence[int]) -> tuple[slice, slice, slice]:
    """The box of a mask (X, Y, Z) that is not empty, with so much room in voxels on both sides of every axis."""
    box = []
    for axis, more in enumerate(room):
        held = mask.amax(dim=[a for a in range(3) if a != axis]).nonzero().flatten().tolist()
        box.append(slice(max(0, held[0] - more), held[-1] + more + 1))
    return box[0], box[1], box[2]


def feathered(mask: Tensor) -> Tensor:
    """How much of an organ's correction each voxel gets: all of it inside, less over the border."""
    return _blurred(mask.float(), [_FEATHER_VOXELS] * 3)


def _blurred(volume: Tensor, widths: Sequence[float]) -> Tensor:
    """A volume after a Gaussian of these standard deviations in voxels, one an axis, zero beyond its edges."""
    for width in widths:  # the axis that comes first moves to the end: once round
        at = torch.arange(len(volume), device=volume.device, dtype=torch.float32)
        # A product of matrices: with one channel it is several times faster than a convolution.
        kernel = torch.exp(-0.5 * ((at[:, None] - at[None]) / width) ** 2)
        scale = torch.exp(-0.5 * (torch.arange(-99, 100) / width) ** 2).sum().to(kernel)
        volume = torch.tensordot(volume, kernel / scale, dims=([0], [0]))
    return volume
