"""Holding a label map to its findings: classes that may not appear, where lesions lie, lesions that were left out.

What stage 1 must never do is show an organ that was taken out or lose the lesion that a user asked for. Absence is a
constraint on every belief while sampling. Lesions are anchored: once the organs can be seen in the belief, a place at
the asked site is drawn for each, and the network draws the lesion there, and the organ around it. A lesion that is
missing at its site afterwards is put there as the training cases' lesions were, and counted, so that a verdict and a
benchmark can tell the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from guidegen_data.anatomy import Anatomy
from guidegen_data.cleanup import nearest_kept
from guidegen_data.lesions import (
    MIN_LESION_VOXELS,
    filling_lesion,
    find_lesions,
    lesion_mask,
    lesion_room,
    lesion_size_mm,
    match_lesions,
)
from guidegen_data.models.anchors import Placement, anchor_balls
from guidegen_data.organ_sizes import own_columns
from guidegen_data.reports.findings import MAX_LESIONS, Findings, Lesion
from guidegen_data.sites import site_of

_TRIES = 8
#: A lesion of this diameter gets the strength itself as its push.
_PUSHED_MM = 40.0
_MAX_PUSH = 5.0
#: Organs of a smaller largest volume may be swallowed by a lesion that leaves nothing of them.
_THIN_ML = 50.0
#: Sizes that a lesion which bulges out of its organ is tried in, as shares of the one asked for.
_SWOLLEN = (1.0, 0.9, 0.8, 0.7)
#: Of the volume at the small end of normal: below that, an organ that nobody called absent is as good as lost.
_LEAST = 0.4


def expected_volumes_ml(findings: Findings) -> dict[int, float]:
    """Class id -> ml that a label map must hold at least: 0.4 of what its organs have at the small end of normal.

    Counts all organs that a scan of this region shows and nobody said to be absent; those of unknown size count 0.
    """
    anatomy, shown = findings.anatomy, findings.organs_shown()
    volumes: dict[int, float] = {}
    for organ in anatomy.organs:
        if organ.name in shown:
            low, high = anatomy.size_ml.get(organ.name, (0.0, 0.0))
            usual = {"enlarged": high, "small": 0.5 * low}.get(findings.organs.get(organ.name, ""), low)
            class_id = anatomy.ids[organ.class_name]
            volumes[class_id] = volumes.get(class_id, 0.0) + _LEAST * usual
    return volumes


def forbidden_classes(findings: Findings, width: int) -> np.ndarray:
    """Classes that may not appear, per column of the sampler's grid: bool (K, width), x growing to the patient's right.

    A paired organ is forbidden on its own side of the middle of the field; lesions where none is asked for.
    """
    anatomy = findings.anatomy
    forbidden = np.zeros((anatomy.num_classes, width), bool)
    for name, status in findings.organs.items():
        if status == "absent":
            organ = anatomy.organ_of(name)
            forbidden[anatomy.id_of(organ.class_name)] |= own_columns(organ, width)
    if not findings.lesions:
        forbidden[anatomy.lesion_id] = True
    return forbidden


class LesionPlacer:
    """Draws where lesions shall lie while their organs take shape: the `place` of `sample_masks`.

    A lesion is placed once, at the first time from `latest` on at which its site is in the belief; which place depends
    on the case's seed and that belief alone.
    """

    def __init__(
        self,
        findings: Sequence[Findings],
        seeds: Sequence[int],
        field_mm: tuple[float, float, float],
        latest: float,
        strength: float = 1.0,
    ) -> None:
        self.findings, self.field_mm, self.latest, self.strength = findings, field_mm, latest, strength
        self.rngs = [np.random.default_rng([int(seed) % 2**63, 1]) for seed in seeds]
        self.places = np.zeros((len(findings), MAX_LESIONS, 4), np.float32)
        self.grid = (1, 1, 1)  # of the beliefs it has placed in

    def places_in(self, b: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Where case b's lesions were placed, (MAX_LESIONS, 3) in voxels of a label map of that shape; NaN: nowhere."""
        factor = np.asarray(shape) / np.asarray(self.grid)
        centres = (self.places[b, :, :3] + 0.5) * factor - 0.5
        return np.where(self.places[b, :, 3:] > 0, centres, np.nan)

    def __call__(self, t: float, belief: Tensor) -> Placement | None:
        """Where all lesions lie, given the belief (B, K, X, Y, Z) at time t; None when none was placed now.

        The push grows as lesions shrink: of a small one nearly every voxel lies at its border, where the belief is
        divided.
        """
        new = torch.zeros(len(self.findings), *belief.shape[2:], dtype=torch.bool)
        if t <= self.latest:
            for b, asked in enumerate(self.findings):
                if (self.places[b, : len(asked.lesions), 3] == 0).any():
                    new[b] = torch.from_numpy(self._place(b, belief[b].float().cpu()))
        if not new.any():
            return None
        shape = self.grid = tuple(new.shape[1:])
        balls = [anchor_balls(torch.from_numpy(self.places[:, r : r + 1]), shape) for r in range(MAX_LESIONS)]
        anchors = torch.stack(balls, dim=1)
        size_mm = torch.from_numpy(self.places[..., 3]) * self.field_mm[0] / shape[0]
        push = (self.strength * (_PUSHED_MM / size_mm.clamp(min=1)) ** 1.4).clamp(max=_MAX_PUSH)
        return Placement(anchors.amax(dim=1), (push[..., None, None, None] * anchors).amax(dim=1), new)

    def _place(self, b: int, belief: Tensor) -> np.ndarray:
        """Places what is not placed yet in case b, belief (K, X, Y, Z); the voxels of what was, bool (X, Y, Z)."""
        asked, rng = self.findings[b], self.rngs[b]
        labels = belief.argmax(dim=0).to(torch.uint8).numpy()
        spacing = tuple(mm / n for mm, n in zip(self.field_mm, labels.shape, strict=True))
        new = np.zeros(labels.shape, bool)
        for row, lesion in enumerate(asked.lesions):
            if self.places[b, row, 3]:
                continue
            organ = asked.anatomy.organ_of(lesion.organ)
            shown = _with_likely(labels, belief, asked.anatomy.id_of(organ.class_name))
            allowed = lesion_room(
                shown, spacing, organ, lesion.site, lesion.size_mm, asked.anatomy
            ) & ~ndimage.binary_dilation(new)
            mask = lesion_mask(allowed, max(lesion.size_mm, 2 * spacing[0]), spacing, rng)
            if mask is not None:
                new |= mask
                self.places[b, row, :3] = np.argwhere(mask).mean(axis=0)
                self.places[b, row, 3] = lesion.size_mm / spacing[0]
        return new


def _with_likely(labels: np.ndarray, belief: Tensor, class_id: int) -> np.ndarray:
    """The likeliest labels (X, Y, Z), and one class also where it is at least half as likely as anywhere: early on a
    small organ is nowhere the likeliest."""
    share = belief[class_id].numpy()
    return np.where(share >= 0.5 * share.max(), np.uint8(class_id), labels)


def settle_lesions(
    label_map: np.ndarray,
    findings: Findings,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    places: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Lesion], int]:
    """The map with the lesions asked for and no others: (X, Y, Z) uint8, those that had to be added, how many went.

    Lesions that nobody asked for, and pieces beyond the number asked for at a site, are given back to what is around
    them. A lesion whose organ or site is not in the map cannot be added; the quality verdict then says so. But a mass
    may swallow a gland, and bulge out of an organ: a lesion that does not fit into its site is put there with the organ
    as its rim, and one of a thin organ that is gone where `places` (M, 3) says in voxels that it was anchored (NaN:
    nowhere).
    """
    anatomy = findings.anatomy
    missing, strays = match_lesions(findings.lesions, find_lesions(label_map, anatomy, spacing_mm))
    label_map = _give_back(label_map, [f.mask for f in strays], findings)
    added = []
    for lesion in missing:
        mask = _fitting_lesion(label_map, lesion, anatomy, spacing_mm, rng)
        place = None if places is None else places[findings.lesions.index(lesion)]
        if mask is None and (centre := _centre(label_map, lesion, place, anatomy, spacing_mm)) is not None:
            label_map, mask = _with_rim(label_map, lesion, centre, anatomy, spacing_mm, rng)
        if mask is not None:
            label_map = np.where(mask, np.uint8(anatomy.lesion_id), label_map)
            added.append(lesion)
    return label_map, added, len(strays)


def _give_back(label_map: np.ndarray, strays: list[np.ndarray], findings: Findings) -> np.ndarray:
    """The map with stray lesions made the class of the nearest voxel that is no lesion.

    Organs that are held to a size have it already: they get nothing.
    """
    if not strays:
        return label_map
    anatomy = findings.anatomy
    full = {anatomy.id_of(anatomy.organ_of(organ).class_name) for organ in findings.sized()}
    without = nearest_kept(label_map, label_map == anatomy.lesion_id, full)
    return np.where(np.logical_or.reduce(strays), without, label_map)


def _fitting_lesion(
    label_map: np.ndarray,
    lesion: Lesion,
    anatomy: Anatomy,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> np.ndarray | None:
    """The try whose longest diameter is nearest to the request, among those that lie at the asked site."""
    allowed = lesion_room(label_map, spacing_mm, lesion.organ, lesion.site, lesion.size_mm, anatomy)
    # One that touches another would be read as a part of it.
    allowed &= ~ndimage.binary_dilation(label_map == anatomy.lesion_id, iterations=2)
    best, error = None, np.inf
    zone = None
    if anatomy.frame is not None:
        zone = allowed & lesion_room(label_map, spacing_mm, lesion.organ, lesion.site, 0.0, anatomy)
    for attempt in range(_TRIES):
        if zone is None:
            mask = lesion_mask(allowed, lesion.size_mm * 0.95**attempt, spacing_mm, rng, tries=3)
        else:
            mask = filling_lesion(allowed, zone, lesion.size_mm, spacing_mm, rng)
        if mask is None or mask.sum() < MIN_LESION_VOXELS:
            continue
        off = abs(lesion_size_mm(mask, spacing_mm, anatomy) - lesion.size_mm) / lesion.size_mm
        if off < error and site_of(mask, label_map, spacing_mm, anatomy) == (lesion.organ, lesion.site):
            best, error = mask, off
        if error < 0.15:
            break
    return best


def _centre(
    label_map: np.ndarray,
    lesion: Lesion,
    place: np.ndarray | None,
    anatomy: Anatomy,
    spacing_mm: tuple[float, float, float],
) -> np.ndarray | None:
    """Where a lesion that does not fit may swallow its organ, (3,) in voxels: the place of a thin organ's, else the
    deepest point of its site. None where neither is; sites of a frame reach beyond their organ as it is."""
    organ = anatomy.classes[anatomy.id_of(anatomy.organ_of(lesion.organ).class_name)]
    if organ.volume_ml[1] <= _THIN_ML and place is not None and np.isfinite(place).all():
        return place
    if anatomy.frame is not None:
        return None
    room = lesion_room(label_map, spacing_mm, lesion.organ, lesion.site, lesion.size_mm, anatomy)
    depth = ndimage.distance_transform_edt(room, sampling=spacing_mm)
    return np.array(np.unravel_index(depth.argmax(), room.shape), float) if room.any() else None


def _with_rim(
    label_map: np.ndarray,
    lesion: Lesion,
    place: np.ndarray,
    anatomy: Anatomy,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The map with a rim of the organ about the place (3,) of its lesion, and the lesion, a little smaller where it has
    to be; both as they were if it would not be read as its own."""
    organ_id = anatomy.id_of(anatomy.organ_of(lesion.organ).class_name)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in label_map.shape], indexing="ij"), axis=-1)
    away_mm = np.linalg.norm((grid - place) * np.asarray(spacing_mm), axis=-1)
    for size_mm in lesion.size_mm * np.array(_SWOLLEN):
        allowed = (away_mm < 0.7 * size_mm) & np.isin(label_map, (0, organ_id))
        mask = lesion_mask(allowed, size_mm, spacing_mm, rng)
        if mask is None or mask.sum() < MIN_LESION_VOXELS:
            continue
        rim = ndimage.binary_dilation(mask, iterations=2) & ~mask & (label_map == 0)
        rimmed = np.where(rim, np.uint8(organ_id), label_map)
        if site_of(mask, rimmed, spacing_mm, anatomy) == (lesion.organ, lesion.site):
            return rimmed, mask
    return label_map, None
