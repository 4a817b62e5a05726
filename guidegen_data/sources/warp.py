"""Coordinate maps that turn one real anatomy into many: pose, habitus, smooth random warps, organ scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


@dataclass(frozen=True)
class OrganScale:
    """Scale an organ by `factor` (linear) about its centre; `mask` lies on the base grid."""

    mask: np.ndarray
    factor: float


@dataclass(frozen=True)
class Pose:
    """Where the output field lies in the base: `centre_mm` of the base in its own mm, base mm per output mm a axis."""

    centre_mm: tuple[float, float, float]
    scale: tuple[float, float, float]
    angles_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)


def coordinate_map(
    pose: Pose,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    amplitude_mm: float = 9.0,
) -> np.ndarray:
    """Base coordinates in mm of every output voxel, (3, X, Y, Z) float32: affine pose plus a smooth random warp."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    matrix = (_rotation(pose.angles_rad) @ np.diag(pose.scale)).astype(np.float32)
    moved = np.einsum("ij,jxyz->ixyz", matrix, points) + np.asarray(pose.centre_mm, np.float32)[:, None, None, None]
    middle = tuple(max(8, n // 4) for n in shape)
    warp = torch.zeros(1, 3, *middle)
    for cells, share in ((4, 1.0), (7, 0.45)):
        coarse = rng.standard_normal((1, 3, cells, cells, cells)).astype(np.float32) * amplitude_mm * share
        coarse[:, 2] *= 0.6
        warp += F.interpolate(torch.from_numpy(coarse), size=middle, mode="trilinear", align_corners=True)
    smooth = torch.from_numpy(ndimage.gaussian_filter(warp.numpy(), (0, 0, 1, 1, 1)))
    moved += F.interpolate(smooth, size=shape, mode="trilinear", align_corners=True)[0].numpy()
    return moved


def _rotation(angles: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        i, j = [(1, 2), (0, 2), (0, 1)][axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def scale_organs(points_mm: np.ndarray, scales: list[OrganScale], base_spacing_mm: tuple[float, ...]) -> np.ndarray:
    """The map with every named organ larger or smaller; what surrounds it gives way smoothly. (3, X, Y, Z)."""
    for scale in scales:
        centre = np.array(ndimage.center_of_mass(scale.mask), np.float32) * np.asarray(base_spacing_mm, np.float32)
        radius = float((scale.mask.sum() * np.prod(base_spacing_mm) * 3 / (4 * np.pi)) ** (1 / 3))
        step = [max(1, round(6 / s)) for s in base_spacing_mm]
        small = scale.mask[:: step[0], :: step[1], :: step[2]]
        spacing = [s * k for s, k in zip(base_spacing_mm, step, strict=True)]
        distance = ndimage.distance_transform_edt(~small, sampling=spacing).astype(np.float32)
        weight = np.exp(-((distance / (0.55 * radius + 10)) ** 2))
        offset = points_mm - centre[:, None, None, None]
        local = sample(weight, points_mm + (1 / scale.factor - 1) * offset, spacing, order=1)
        points_mm = points_mm + local * (1 / scale.factor - 1) * offset
    return points_mm


def sample(
    array: np.ndarray,
    points_mm: np.ndarray,
    spacing_mm: tuple[float, ...] | list[float],
    order: int,
    outside: float = 0,
) -> np.ndarray:
    """Values of `array` (X, Y, Z) at base coordinates in mm (3, *out); `order` 0 is nearest, 1 linear."""
    size = np.asarray(array.shape, np.float32)
    spacing = np.asarray(spacing_mm, np.float32)
    index = points_mm / spacing[:, None, None, None]
    grid = (2 * (index + 0.5) / size[:, None, None, None] - 1)[::-1].transpose(1, 2, 3, 0)
    tensor: Tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32) - outside)[None, None]
    mode = "bilinear" if order else "nearest"
    flow = torch.from_numpy(np.ascontiguousarray(grid, np.float32))[None]
    return F.grid_sample(tensor, flow, mode=mode, padding_mode="zeros", align_corners=False)[0, 0].numpy() + outside


def sample_labels(labels: np.ndarray, points_mm: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Nearest-neighbour label map at base coordinates in mm. (3, *out) -> (*out) uint8."""
    return sample(labels, points_mm, spacing_mm, order=0).astype(np.uint8)


def sample_classes(
    labels: np.ndarray, points_mm: np.ndarray, spacing_mm: tuple[float, ...], blur: list[float] | None = None
) -> np.ndarray:
    """The class with the largest interpolated share at base coordinates in mm (3, *out) -> (*out) uint8.

    `blur` is the standard deviation in voxels of an anti-aliasing filter over each class first. Outside is background.
    """
    size = np.asarray(labels.shape, np.float32)
    index = points_mm / np.asarray(spacing_mm, np.float32)[:, None, None, None]
    grid = (2 * (index + 0.5) / size[:, None, None, None] - 1)[::-1].transpose(1, 2, 3, 0)
    flow = torch.from_numpy(np.ascontiguousarray(grid, np.float32))[None]
    best = torch.zeros(points_mm.shape[1:])
    out = torch.zeros(points_mm.shape[1:], dtype=torch.uint8)
    for value in [0, *(int(v) for v in np.unique(labels) if v)]:
        share = (labels == value).astype(np.float32)
        if blur is not None and any(blur):
            share = ndimage.gaussian_filter(share, blur)
        there = F.grid_sample(torch.from_numpy(share)[None, None], flow, mode="bilinear", align_corners=False)[0, 0]
        wins = there > best
        out[wins], best[wins] = value, there[wins]
    return out.numpy()
