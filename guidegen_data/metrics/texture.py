"""Does a CT look like one inside its organs? HU, slice-to-slice steps, drift along the body, noise power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy

_LEAST_VOXELS = 300
_PATCH = 16  # voxels a side of the squares noise is measured on
_LEAST_SLICES = 9
_IN_PLANE = np.ones((3, 3, 1))  # neighbours in an axial slice
#: Above it is body; below the next two air, and no tissue yet; the range within which HU around the classes count.
_BODY_HU, _AIR_HU, _FAT_HU, _SOFT_RANGE_HU = -300, -900, -150, (-200, 300)


@dataclass(frozen=True)
class OrganTexture:
    """One class of one CT. Spread is the interquartile range; step the mean |difference| of neighbouring slices; drift
    the mean of the upper third of the slices minus that of the lower third, NaN for an organ of few slices."""

    median_hu: float
    spread_hu: float
    step_hu: float
    drift_hu: float


def organ_textures(ct_hu: np.ndarray, label_map: np.ndarray, anatomy: Anatomy) -> dict[str, OrganTexture]:
    """Every class of at least 300 voxels a CT (X, Y, Z) shows, measured inside its border where it is thick enough."""
    found = {}
    boxes = ndimage.find_objects(label_map, anatomy.num_classes - 1)
    for c, box in zip(anatomy.classes[1:], boxes, strict=True):
        if box is None:
            continue
        mask = label_map[box] == c.id
        inner = ndimage.binary_erosion(mask, structure=_IN_PLANE)
        mask = inner if inner.sum() >= _LEAST_VOXELS else mask
        if mask.sum() >= _LEAST_VOXELS:
            found[c.name] = _texture(ct_hu[box].astype(np.float32), mask)
    return found


def _texture(ct_hu: np.ndarray, mask: np.ndarray) -> OrganTexture:
    low, middle, high = np.percentile(ct_hu[mask], [25, 50, 75])
    both = mask[..., 1:] & mask[..., :-1]
    step = np.abs(np.diff(ct_hu, axis=2))[both].mean() if both.any() else np.nan
    counts = mask.sum(axis=(0, 1))
    slices = counts >= 20
    means = (np.where(mask, ct_hu, 0).sum(axis=(0, 1)) / np.maximum(counts, 1))[slices]
    third = len(means) // 3
    drift = means[-third:].mean() - means[:third].mean() if len(means) >= _LEAST_SLICES else np.nan
    return OrganTexture(float(middle), float(high - low), float(step), float(drift))


@dataclass(frozen=True)
class Surroundings:
    """What a CT shows around its classes: HU there, percentiles 1 to 99 (99,) within -200 and 300 HU; the mean change
    of the body's outline from one slice to the next and how far it takes from air to tissue, in voxels."""

    hu: np.ndarray
    outline_step: float
    outline_width: float


def surroundings(ct_hu: np.ndarray, label_map: np.ndarray) -> Surroundings | None:
    """Of a CT and its label map (X, Y, Z); None where fewer than 300 voxels of the body are outside the classes."""
    body = _filled_slices(ct_hu > _BODY_HU)
    inner = ndimage.binary_erosion(body, structure=_IN_PLANE, iterations=2) & (label_map == 0)
    around = inner & (ct_hu > _BODY_HU)  # gas in bowel and airways is no tissue
    if around.sum() < _LEAST_VOXELS:
        return None
    outline = body & ~ndimage.binary_erosion(body, structure=_IN_PLANE)
    changed = (body[..., 1:] != body[..., :-1]).sum(axis=(0, 1))
    around_both = outline[..., 1:].sum(axis=(0, 1)) + outline[..., :-1].sum(axis=(0, 1))
    step = 2 * changed.sum() / max(around_both.sum(), 1)
    # Voxels of the outer shell that are neither air nor tissue, over the length of the outline.
    shell = ndimage.binary_dilation(body, structure=_IN_PLANE, iterations=2) & ~inner & (label_map == 0)
    between = shell & (ct_hu > _AIR_HU) & (ct_hu < _FAT_HU)
    hu = np.clip(ct_hu[around], *_SOFT_RANGE_HU).astype(np.float32)
    return Surroundings(np.percentile(hu, np.arange(1, 100)), float(step), float(between.sum() / max(outline.sum(), 1)))


def _filled_slices(mask: np.ndarray) -> np.ndarray:
    """The largest piece of a mask (X, Y, Z), holes in axial slices filled."""
    pieces, number = ndimage.label(mask)
    if number > 1:
        mask = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return np.stack([ndimage.binary_fill_holes(mask[..., z]) for z in range(mask.shape[2])], axis=2)


def noise_power(ct_hu: np.ndarray, mask: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """(frequencies in 1/mm, noise power in HU^2 mm^2), each (8,): the radial noise power spectrum of axial squares that
    lie inside `mask` (X, Y, Z), their means removed (ICRU 87). Empty arrays when no square fits."""
    spectra = []
    fits = ndimage.minimum_filter(mask, (_PATCH, _PATCH, 1), origin=(-(_PATCH // 2), -(_PATCH // 2), 0))
    corners = np.argwhere(fits[:-_PATCH, :-_PATCH])
    for x, y, z in corners[:: max(1, len(corners) // 200)]:
        patch = ct_hu[x : x + _PATCH, y : y + _PATCH, z].astype(np.float64)
        power = np.abs(np.fft.fft2(patch - patch.mean())) ** 2
        spectra.append(power * spacing_mm**2 / _PATCH**2)
    if not spectra:
        return np.array([]), np.array([])
    frequency = np.fft.fftfreq(_PATCH, spacing_mm)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    ring = np.clip(np.rint(radius * _PATCH * spacing_mm).astype(int), 0, _PATCH // 2)
    mean = np.mean(spectra, axis=0)
    power = np.array([mean[ring == k].mean() for k in range(1, _PATCH // 2 + 1)])
    return np.arange(1, _PATCH // 2 + 1) / (_PATCH * spacing_mm), power


def medians(textures: Sequence[Mapping[str, OrganTexture]], name: str) -> dict[str, float]:
    """Median over CTs of each figure of one class, |drift| instead of drift; empty when no CT shows it."""
    rows = [t[name] for t in textures if name in t]
    if not rows:
        return {}
    drifts = np.abs([r.drift_hu for r in rows if np.isfinite(r.drift_hu)])
    return {
        "N": len(rows),
        "median_hu": round(float(np.median([r.median_hu for r in rows])), 1),
        "spread_hu": round(float(np.median([r.spread_hu for r in rows])), 1),
        "step_hu": round(float(np.nanmedian([r.step_hu for r in rows])), 1),
        **({"drift_hu": round(float(np.median(drifts)), 1)} if drifts.size else {}),
    }
