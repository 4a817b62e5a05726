"""A real volume in the model's field: crop or pad about the anatomy's origin, resample, and a mild warp for copies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy
from guidegen_data.sites_frame import origin_mm
from guidegen_data.sources import warp
from guidegen_data.sources.layouts import Labelled
from guidegen_data.sources.volumes import Volume, body_mask
from guidegen_data.tissue_rule import with_tissues

_AIR_HU = -1024.0
_Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Placed:
    """CT in HU (X, Y, Z) float32 and label ids (X, Y, Z) uint8 on the model's grid."""

    ct_hu: np.ndarray
    label_map: np.ndarray


@dataclass(frozen=True)
class Jitter:
    """How far a copy may differ from its case: turn and relative size (standard deviations), shift and warp in mm.

    Left stays left: nothing is mirrored. Organ sizes change by a few per cent only, well within their grades.
    """

    angle_rad: float = 0.03
    scale: float = 0.03
    shift_mm: float = 5.0
    warp_mm: float = 3.0


def clean(labelled: Labelled, anatomy: Anatomy) -> Labelled:
    """The case without the table, and without lesion pieces under a twentieth of the largest one.

    Every piece of the body that holds labels stays: a CT cut down to a region may fall apart.
    """
    ct, labels = labelled.ct.array, labelled.labels
    tissue, _ = ndimage.label(ct > -300)
    held = np.unique(tissue[(labels > 0) & (ct > -300)])
    kept = body_mask(ct) | ndimage.binary_dilation(np.isin(tissue, held[held > 0]), iterations=2)
    labels = np.where(_specks(labels == anatomy.lesion_id), np.uint8(0), labels)
    air = np.where(kept, ct, np.float32(_AIR_HU))
    return replace(labelled, ct=Volume(air, labelled.ct.spacing_mm), labels=labels)


def _specks(lesion: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(lesion)
    if count < 2:
        return np.zeros_like(lesion)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    small = sizes < 0.05 * sizes.max()
    small[0] = False
    return small[pieces]


def centre_of(labelled: Labelled, anatomy: Anatomy) -> np.ndarray:
    """Where the middle of the field goes, in mm from the grid's lower corner (3,).

    By the labelled organs and their usual places; for a table without such places, or where no class is known, the
    middle of the labels.
    """
    spacing = labelled.ct.spacing_mm
    origin = origin_mm(labelled.labels, spacing, anatomy)
    if origin is not None:
        return origin
    where = np.argwhere(labelled.labels > 0)
    return (where.min(axis=0) + where.max(axis=0) + 1) / 2 * np.asarray(spacing)


def place(
    labelled: Labelled, anatomy: Anatomy, rng: np.random.Generator | None = None, by: Jitter | None = None
) -> Placed:
    """The case on the model's grid; `rng` and `by` make a copy that differs a little. CT linear, labels by fraction."""
    spacing = labelled.ct.spacing_mm
    centre = centre_of(labelled, anatomy) - np.asarray(spacing) / 2  # `warp` counts from the first voxel's centre
    scale, angles, amplitude = np.ones(3), np.zeros(3), 0.0
    if rng is not None and by is not None:
        scale = rng.normal(1, by.scale) * rng.normal(1, by.scale / 3, 3)
        angles, amplitude = rng.normal(0, by.angle_rad, 3), by.warp_mm
        centre = centre + np.clip(rng.normal(0, by.shift_mm, 3), -2 * by.shift_mm, 2 * by.shift_mm)
    pose = warp.Pose(tuple(centre), tuple(scale), tuple(angles))  # type: ignore[arg-type]
    random = np.random.default_rng(0) if rng is None else rng
    points = warp.coordinate_map(pose, anatomy.shape, anatomy.spacing_mm, random, amplitude)
    blur = [max(0.0, 0.4 * (new / old - 1)) for old, new in zip(spacing, anatomy.spacing_mm, strict=True)]
    ct = ndimage.gaussian_filter(labelled.ct.array, blur) if any(blur) else labelled.ct.array
    ct = warp.sample(ct, points, spacing, order=1, outside=_AIR_HU)
    labels = with_tissues(warp.sample_classes(labelled.labels, points, spacing, blur), ct, anatomy)
    return Placed(np.clip(ct, *anatomy.hu_range).astype(np.float32), labels)
