"""One real volume -> many training cases: pose, warp, organ scaling and removal, contrast phase, implanted lesions.

The findings of a case are written from what was done and measured on the result, so text, mask and image agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from guidegen_data import lesions
from guidegen_data.anatomy import PHASES, FindingOrgan
from guidegen_data.errors import SourceError
from guidegen_data.habitus import habitus_of
from guidegen_data.lesion_contrast import mass_hu, offset_hu
from guidegen_data.reports.findings import MAX_LESION_MM, MIN_LESION_MM, Findings, Lesion
from guidegen_data.sites import site_mask
from guidegen_data.sources import contrast, warp
from guidegen_data.sources.bases import Base

_SOLID = {"liver", "spleen", "kidney", "pancreas", "adrenal gland"}
_REMOVAL_CHANCE = {"gallbladder": 0.15, "spleen": 0.08, "right kidney": 0.06, "left kidney": 0.06}
_SCALE_CHANCE = 0.1
_LESION_COUNTS = (0.28, 0.47, 0.2, 0.05)


@dataclass(frozen=True)
class TrainingCase:
    """Label map (X, Y, Z) uint8, CT (X, Y, Z) float32 HU or None, findings that describe them, and the base's name."""

    label_map: np.ndarray
    ct_hu: np.ndarray | None
    findings: Findings
    base: str


class Augmenter:
    """Makes training cases of one base; holds the organ masks it needs again and again."""

    def __init__(self, base: Base) -> None:
        if base.labels is None:
            raise SourceError(f"{base.name} has no label map; only labelled volumes make training cases.")
        self.base = base
        self.labels: np.ndarray = base.labels
        self.field_mm = [n * s for n, s in zip(base.anatomy.shape, base.anatomy.spacing_mm, strict=True)]
        self.organ_mask = lru_cache(maxsize=None)(self._organ_mask)
        where = np.argwhere(self.labels > 0)
        self.centre_mm = (where.min(0) + where.max(0)) / 2 * np.asarray(base.spacing_mm)

    def make(self, rng: np.random.Generator) -> TrainingCase:
        """A training case; every random choice comes from `rng`."""
        pose, low_mm = self._pose(rng)
        region = self._region(low_mm, pose.scale[2])
        statuses = self._choose_statuses(rng)
        points = self._points(pose, statuses, rng)
        labels = warp.sample_labels(self.labels, points, self.base.spacing_mm)
        phase = str(rng.choice(PHASES))
        ct = self._image(points, labels, phase, rng)
        told = {o: s for o, s in statuses.items() if self._visible(o, labels, points, s)}
        for organ in [o for o, s in statuses.items() if s == "absent"]:
            gone = self._moved_mask(organ, points) & (labels == self._class_id(organ))
            labels[gone] = 0
            if ct is not None:
                ct = contrast.paint_removed(ct, gone, rng)
        placed, ct = self._implant(labels, ct, region, phase, rng)
        findings = Findings(
            region=region,
            phase=phase if ct is not None or rng.random() < 0.7 else "",
            sex=str(rng.choice(["", "female", "male"])),
            age_decade=int(rng.integers(2, 10)) * 10 if rng.random() < 0.6 else None,
            habitus=habitus_of(labels, self.base.anatomy.spacing_mm, self.base.anatomy),
            organs=told,
            lesions=placed,
            anatomy_name=self.base.anatomy.name,
        )
        return TrainingCase(labels, ct, findings, self.base.name)

    def _class_id(self, organ: str) -> int:
        return self.base.anatomy.id_of(self.base.anatomy.organ_of(organ).class_name)

    def _organ_mask(self, organ: str) -> np.ndarray:
        entry: FindingOrgan = self.base.anatomy.organ_of(organ)
        mask = self.labels == self.base.anatomy.id_of(entry.class_name)
        if entry.side and mask.any():
            mask = site_mask(self.labels, self.base.spacing_mm, organ, "", self.base.anatomy)
        return mask

    def _pose(self, rng: np.random.Generator) -> tuple[warp.Pose, float]:
        extent = self.base.extent_mm[2]
        fits = extent / self.field_mm[2]
        high = min(1.1, fits)
        scale_z = rng.uniform(min(0.9 * high, 0.9), high)
        habitus = rng.uniform(0.88, 1.1)
        aspect = rng.uniform(0.94, 1.06)
        low = rng.uniform(0, extent - self.field_mm[2] * scale_z)
        shift = rng.normal(0, 6, 2)
        centre = (self.centre_mm[0] + shift[0], self.centre_mm[1] + shift[1], low + self.field_mm[2] * scale_z / 2)
        angles = tuple(rng.normal(0, s) for s in (0.035, 0.03, 0.05))
        scale = (habitus * aspect, habitus / aspect, scale_z)
        return warp.Pose(centre, scale, angles), low  # type: ignore[arg-type]

    def _region(self, low_mm: float, scale_z: float) -> str:
        """What a radiologist would call the field: by the lung apex, the bladder and the lung bases."""
        marks, high_mm = self.base.landmarks_mm, low_mm + self.field_mm[2] * scale_z
        if marks.get("bladder", -1e9) > low_mm + 15:
            return "abdomen and pelvis"
        return "chest" if marks.get("lung apex", 1e9) < high_mm - 5 else "abdomen"

    def _choose_statuses(self, rng: np.random.Generator) -> dict[str, str]:
        chosen = {}
        for organ in self.base.anatomy.organs:
            draw = rng.random(2)
            here = bool(self.organ_mask(organ.name).any())
            unknown = not here and self.base.labelled is not None and organ.name not in self.base.labelled
            removed = draw[0] < _REMOVAL_CHANCE.get(organ.name, 0.0)
            sizes = [s for s in organ.statuses if s in ("enlarged", "small")]
            if unknown:  # its class file has no such organ: nothing is known of it
                continue
            if "absent" in organ.statuses and (removed or not here):
                chosen[organ.name] = "absent"
            elif sizes and here and draw[1] < _SCALE_CHANCE:
                chosen[organ.name] = str(rng.choice(sizes))
        return chosen

    def _points(self, pose: warp.Pose, statuses: dict[str, str], rng: np.random.Generator) -> np.ndarray:
        anatomy = self.base.anatomy
        points = warp.coordinate_map(pose, anatomy.shape, anatomy.spacing_mm, rng)
        scales = []
        for organ, status in statuses.items():
            if status in ("enlarged", "small"):
                factor = rng.uniform(1.18, 1.42) if status == "enlarged" else rng.uniform(0.62, 0.82)
                scales.append(warp.OrganScale(self.organ_mask(organ), factor))
        points = warp.scale_organs(points, scales, self.base.spacing_mm)
        last = self.base.extent_mm[2] - self.base.spacing_mm[2]
        points[2] = np.clip(points[2], 0, last)  # the scan ends here; its last slice is repeated rather than air
        return points

    def _moved_mask(self, organ: str, points: np.ndarray) -> np.ndarray:
        mask = self.organ_mask(organ).astype(np.float32)
        return warp.sample(mask, points, self.base.spacing_mm, order=0) > 0.5

    def _visible(self, organ: str, labels: np.ndarray, points: np.ndarray, status: str) -> bool:
        """Whether at least 60 % of the organ lies in the field, so that a report could speak of it."""
        whole = self.organ_mask(organ)
        if not whole.any():
            return status == "absent" and organ in self._missing_but_in_view(labels)
        height = np.flatnonzero(whole.any(axis=(0, 1))) * self.base.spacing_mm[2]
        inside = (height > float(points[2].min()) + 4) & (height < float(points[2].max()) - 4)
        return float(inside.mean()) >= 0.6

    def _missing_but_in_view(self, labels: np.ndarray) -> set[str]:
        """Organs this patient does not have although the field shows where they would be (beside the liver)."""
        liver = (labels == self.base.anatomy.ids.get("liver", 255)).sum()
        return {"gallbladder"} if liver > 20000 else set()

    def _image(self, points: np.ndarray, labels: np.ndarray, phase: str, rng: np.random.Generator) -> np.ndarray | None:
        if self.base.ct_hu is None or self.base.bone is None:
            return None
        ct = warp.sample(self.base.ct_hu, points, self.base.spacing_mm, order=1, outside=-1024)
        bone = warp.sample(self.base.bone.astype(np.float32), points, self.base.spacing_mm, order=0) > 0.5
        return contrast.change_phase(ct, labels, bone, phase, rng)

    def _implant(
        self, labels: np.ndarray, ct: np.ndarray | None, region: str, phase: str, rng: np.random.Generator
    ) -> tuple[tuple[Lesion, ...], np.ndarray | None]:
        """Puts lesions into `labels` (in place) and the CT; what a report would say of them."""
        anatomy = self.base.anatomy
        hosts = [(o, s) for o in anatomy.organs if o.name in anatomy.region_organs[region] for s in o.sites]
        placed: list[Lesion] = []
        for _ in range(int(rng.choice(len(_LESION_COUNTS), p=_LESION_COUNTS))):
            for _ in range(4):
                organ, site = hosts[int(rng.integers(len(hosts)))]
                made = self._one_lesion(labels, organ, site, rng)
                if made is not None:
                    break
            else:
                continue
            mask, size_mm = made
            solid = organ.class_name in _SOLID
            word = ""
            if ct is not None:
                word, ct = self._paint(ct, labels, mask, organ, phase, rng)
            elif solid and rng.random() < 0.7:
                word = str(rng.choice(["hypodense", "isodense", "hyperdense"], p=[0.6, 0.2, 0.2]))
            labels[mask] = anatomy.lesion_id
            placed.append(Lesion(organ.name, site, round(size_mm), word if solid and rng.random() < 0.85 else ""))
        return tuple(placed), ct

    def _one_lesion(
        self, labels: np.ndarray, organ: FindingOrgan, site: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, float] | None:
        anatomy = self.base.anatomy
        host = site_mask(labels, anatomy.spacing_mm, organ.name, site, anatomy)
        if host.sum() < 60:
            return None
        allowed = host & ~ndimage.binary_dilation(labels == anatomy.lesion_id, iterations=3)
        size_mm = float(np.exp(rng.uniform(np.log(9), np.log(70))))
        for _ in range(3):
            mask = lesions.lesion_mask(allowed, size_mm, anatomy.spacing_mm, rng, tries=4)
            if mask is not None and mask.sum() >= 6:
                measured = lesions.longest_diameter_mm(mask, anatomy.spacing_mm)
                if MIN_LESION_MM <= measured <= MAX_LESION_MM:
                    return mask, measured
            size_mm *= 0.65
        return None

    def _paint(
        self,
        ct: np.ndarray,
        labels: np.ndarray,
        mask: np.ndarray,
        organ: FindingOrgan,
        phase: str,
        rng: np.random.Generator,
    ) -> tuple[str, np.ndarray]:
        if organ.class_name in _SOLID:
            around = ct[(labels == self.base.anatomy.id_of(organ.class_name)) & ~mask]
            word, offset = offset_hu("", phase, rng)
            return word, contrast.paint_lesion(ct, mask, float(np.median(around)) + offset, rng)
        return "", contrast.paint_lesion(ct, mask, mass_hu(phase, rng), rng)
