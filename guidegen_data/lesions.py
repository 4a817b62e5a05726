"""Lesions: plausible shapes put where a site says, their longest diameter, and finding them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from guidegen_data.anatomy import Anatomy, FindingOrgan
from guidegen_data.cleanup import nearest_kept
from guidegen_data.errors import AnatomyError
from guidegen_data.reports.findings import Lesion
from guidegen_data.sites import site_mask, site_of
from guidegen_data.sites_frame import frame_site_mask, lesion_reach_mm

#: Components of fewer voxels are no lesions.
MIN_LESION_VOXELS = 4
#: Finding a lesion's site takes a few hundredths of a second; no report tells of so many.
MAX_PLACED = 16


@dataclass(frozen=True)
class FoundLesion:
    """A lesion component of a label map: where it lies ('' where no organ is near), its diameter, its voxels."""

    organ: str
    site: str
    size_mm: float
    mask: np.ndarray = field(repr=False, compare=False)


def find_lesions(label_map: np.ndarray, anatomy: Anatomy, spacing_mm: tuple[float, float, float]) -> list[FoundLesion]:
    """Every lesion component of at least MIN_LESION_VOXELS in a label map (X, Y, Z), largest first.

    Of a map with more than MAX_PLACED of them, which is noise, the smaller ones are one without a site.
    """
    pieces, count = ndimage.label(label_map == anatomy.lesion_id)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    order = [k for k in np.argsort(-sizes, kind="stable") if sizes[k] >= MIN_LESION_VOXELS]
    rest = np.isin(pieces, order[MAX_PLACED:]) if len(order) > MAX_PLACED else None
    if rest is not None:
        label_map = nearest_kept(label_map, rest)
    found = []
    for k in order[:MAX_PLACED]:
        mask = pieces == k
        try:
            organ, site = site_of(mask, label_map, spacing_mm, anatomy)
        except AnatomyError:  # no organ that may hold a lesion is in the map
            organ, site = "", ""
        found.append(FoundLesion(organ, site, lesion_size_mm(mask, spacing_mm, anatomy), mask))
    if rest is not None:
        found.append(FoundLesion("", "", lesion_size_mm(rest, spacing_mm, anatomy), rest))
    return found


def match_lesions(asked: Sequence[Lesion], found: Sequence[FoundLesion]) -> tuple[list[Lesion], list[FoundLesion]]:
    """Lesions asked for that no found one stands for, and found ones that nobody asked for, each counted once.

    One asked for is stood for by the largest at its site that stands for no other.
    """
    left, missing = list(found), []
    for lesion in asked:
        here = next((f for f in left if (f.organ, f.site) == (lesion.organ, lesion.site)), None)
        if here is None:
            missing.append(lesion)
        else:
            left.remove(here)
    return missing, left


def longest_diameter_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Largest distance in mm between two voxels of `mask` (X, Y, Z), plus one voxel width; 0.0 when it is empty."""
    points = np.argwhere(mask) * np.asarray(spacing_mm)
    if not len(points):
        return 0.0
    width = float(np.mean(spacing_mm))
    if len(points) > 20:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # all in one plane
            points = points[:: max(1, len(points) // 500)]
    return width + (float(pdist(points).max()) if len(points) > 1 else 0.0)


def lesion_size_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy) -> float:
    """The diameter that a report of this anatomy tells: the longest one; in a frame, that of a sphere of its volume.

    A target volume winds along the neck: its longest diameter says little of its size.
    """
    if anatomy.frame is None:
        return longest_diameter_mm(mask, spacing_mm)
    return float(np.cbrt(6 / np.pi * np.count_nonzero(mask) * np.prod(spacing_mm)))


def lesion_room(
    label_map: np.ndarray,
    spacing_mm: tuple[float, float, float],
    organ: FindingOrgan | str,
    site: str,
    size_mm: float,
    anatomy: Anatomy,
) -> np.ndarray:
    """Voxels that a lesion at a site may take, bool (X, Y, Z): the site; in a frame, what such a lesion reaches too."""
    if anatomy.frame is None:
        return site_mask(label_map, spacing_mm, organ, site, anatomy)
    entry = anatomy.organ_of(organ) if isinstance(organ, str) else organ
    return frame_site_mask(label_map, spacing_mm, entry, site, anatomy, grown_mm=lesion_reach_mm(size_mm))


def lesion_mask(
    allowed: np.ndarray,
    size_mm: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    tries: int = 12,
) -> np.ndarray | None:
    """A lobulated ellipsoid of about `size_mm` longest diameter inside `allowed` (X, Y, Z); None when none fits.

    Its centre is drawn from `allowed` weighted by depth, its surface is an ellipsoid moved by low-frequency noise, and
    it is kept when at least 60 % of it lies in `allowed` grown by one voxel.
    """
    if not allowed.any():
        return None
    box = ndimage.find_objects(allowed.astype(np.uint8))[0]
    margin = [int(np.ceil(size_mm / s)) + 2 for s in spacing_mm]
    region = tuple(
        slice(max(0, b.start - m), min(n, b.stop + m)) for b, m, n in zip(box, margin, allowed.shape, strict=True)
    )
    inside = allowed[region]
    depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    grown = ndimage.binary_dilation(inside)
    candidates = np.argwhere(inside)
    weights = np.minimum(depth[tuple(candidates.T)], size_mm / 2) ** 2
    weights /= weights.sum()
    for _ in range(tries):
        centre = candidates[rng.choice(len(candidates), p=weights)]
        shape = _lobulated(inside.shape, centre, size_mm, spacing_mm, rng)
        kept = shape & grown
        if kept.sum() >= 0.6 * shape.sum() and kept.sum() > 0:
            pieces, count = ndimage.label(kept)
            if count > 1:
                kept = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
            out = np.zeros_like(allowed)
            out[region] = kept
            return out
    return None


def filling_lesion(
    room: np.ndarray, zone: np.ndarray, size_mm: float, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray | None:
    """A lesion of the volume of a sphere of `size_mm` that fills `room` (X, Y, Z) around a place in `zone`.

    It takes the voxels of the room that lie innermost in a lobulated ellipsoid, as a target volume spares bone and air
    and reaches further along the neck for it. None when the zone is empty.
    """
    candidates = np.argwhere(zone)
    if not len(candidates):
        return None
    depth = ndimage.distance_transform_edt(zone, sampling=spacing_mm)[tuple(candidates.T)]
    centre = candidates[rng.choice(len(candidates), p=depth**2 / (depth**2).sum())]
    reach = [int(np.ceil(size_mm / s)) for s in spacing_mm]
    region = tuple(slice(max(0, c - r), c + r + 1) for c, r in zip(centre, reach, strict=True))
    inside = room[region]
    radius = _lobulated_radius(inside.shape, centre - [r.start for r in region], size_mm, spacing_mm, rng)
    wanted = round(np.pi / 6 * size_mm**3 / np.prod(spacing_mm))
    innermost = np.sort(radius[inside])[:wanted]
    if not len(innermost):
        return None
    pieces, _ = ndimage.label(inside & (radius <= innermost[-1]))
    out = np.zeros_like(room)
    out[region] = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return out


def _lobulated(
    shape: tuple[int, ...], centre: np.ndarray, size_mm: float, spacing_mm: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    return _lobulated_radius(shape, centre, size_mm, spacing_mm, rng) < 1


def _lobulated_radius(
    shape: tuple[int, ...], centre: np.ndarray, size_mm: float, spacing_mm: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Distance from the centre, 1 at the surface of a lobulated ellipsoid."""
    semi = size_mm / 2 * np.array([1.0, rng.uniform(0.65, 1), rng.uniform(0.65, 1)])
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    axes = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing_mm, strict=True)]
    offset = np.stack(np.meshgrid(*axes, indexing="ij"))
    radius = np.sqrt(np.sum((np.einsum("ij,jxyz->ixyz", rotation, offset) / semi[:, None, None, None]) ** 2, axis=0))
    sigma = [max(1.0, 0.3 * size_mm / s) for s in spacing_mm]
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma)
    noise /= noise.std() + 1e-6
    return radius + 0.12 * np.clip(noise, -2, 2)
