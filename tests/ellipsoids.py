"""A generator that draws what it is asked for as ellipsoids, in milliseconds: for tests of everything around a model.

Organs sit where they do in a person, in HU that suit them; seeds move them a little. Some first drafts miss a lesion,
as models do, so that rejects are met as well. Coarse grid, same 384 mm field as the torso model.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.case import Case, centred_affine
from guidegen_data.errors import ModelError
from guidegen_data.reports.findings import Findings

SHAPE, SPACING_MM = (32, 32, 32), (12.0, 12.0, 12.0)
# Report name (or class name) -> centre (x to the patient's right, y to the front, z up), radii, both in mm, and HU.
ORGANS = {
    "vertebrae": ((0, -70, 0), (18, 18, 190), 200),
    "rib": ((0, 108, 60), (70, 9, 50), 250),
    "liver": ((75, 10, 70), (65, 60, 50), 100),
    "spleen": ((-95, -30, 70), (24, 30, 36), 110),
    "right kidney": ((62, -50, -10), (24, 24, 36), 120),
    "left kidney": ((-62, -50, -10), (24, 24, 36), 120),
    "gallbladder": ((70, 55, 10), (15, 15, 18), 15),
    "pancreas": ((0, 10, 20), (42, 12, 12), 80),
    "stomach": ((-45, 45, 60), (30, 28, 32), 40),
    "urinary bladder": ((0, 20, -150), (34, 30, 26), 10),
    "colon": ((-100, 20, -60), (18, 20, 60), -100),
    "small bowel": ((0, 50, -70), (58, 38, 36), 30),
    "duodenum": ((30, 25, 0), (14, 14, 24), 30),
    "right lung": ((78, 0, 150), (56, 68, 30), -800),
    "left lung": ((-78, 0, 150), (56, 68, 30), -800),
    "heart": ((-10, 30, 145), (40, 48, 30), 150),
    "aorta": ((-12, -45, 40), (13, 13, 140), 150),
    "inferior vena cava": ((18, -42, 20), (12, 12, 120), 120),
    "esophagus": ((6, -36, 170), (10, 10, 30), 30),
    "portal and splenic vein": ((20, 20, 45), (34, 9, 9), 130),
    "right adrenal gland": ((40, -40, 36), (12, 12, 10), 40),
    "left adrenal gland": ((-40, -40, 36), (12, 12, 10), 40),
}
SCALE = {"enlarged": 1.15, "small": 0.8, "normal": 1.0}
COARSE_TORSO = replace(TORSO, shape=SHAPE, spacing_mm=SPACING_MM)


@dataclass(frozen=True)
class EllipsoidGenerator:
    """A CaseGenerator. `misses` in ten drafts that should show a lesion do not; `version` is its weights.

    `pause_s` and the file `trace`, which gets one line a call, let a test kill a run at a chosen moment and count what
    was computed.
    """

    misses: int = 3
    version: str = "1"
    pause_s: float = 0.0
    trace: Path | None = None
    anatomy: Anatomy = COARSE_TORSO

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"ellipsoids {self.version} {self.misses}".encode()).hexdigest()

    def generate(
        self,
        findings: Sequence[Findings],
        reports: Sequence[str],
        keys: Sequence[str],
        seeds: Sequence[int],
        *,
        num_steps_mask: int | None = None,
        num_steps_ct: int | None = None,
        guidance: float | None = None,
    ) -> list[Case]:
        time.sleep(self.pause_s)
        if self.trace:
            with open(self.trace, "a") as file:
                file.write(f"{os.getpid()} {' '.join(keys)}\n")
        return [self._draw(*each) for each in zip(findings, reports, keys, seeds, strict=True)]

    def _draw(self, findings: Findings, report: str, key: str, seed: int) -> Case:
        rng = np.random.default_rng(seed)
        affine = centred_affine(SHAPE, SPACING_MM)
        axes = [affine[a, 3] + affine[a, a] * np.arange(SHAPE[a]) for a in range(3)]
        xyz = np.stack(np.meshgrid(*axes, indexing="ij"))
        body = _inside(xyz, (0, 0, 0), (165, 118, 400))
        ct_hu = np.where(body, -90.0, -1000.0)
        label_map = np.zeros(SHAPE, np.uint8)
        missed = rng.integers(10) < self.misses
        for name, (centre, radii, hu) in ORGANS.items():
            organ = self.anatomy.organ.get(name)
            status = findings.status(name) if organ else "normal"
            if status != "absent":
                moved = np.add(centre, rng.uniform(-3, 3, 3))
                mask = _inside(xyz, moved, np.multiply(radii, SCALE[status]))
                label_map[mask] = self.anatomy.ids[organ.class_name if organ else name]
                ct_hu[mask] = hu
        for lesion in () if missed else findings.lesions:
            mask = _inside(xyz, ORGANS[lesion.organ][0], [max(8.0, lesion.size_mm / 2)] * 3)
            label_map[mask], ct_hu[mask] = self.anatomy.lesion_id, 60
        ct_hu = np.clip(ct_hu + rng.normal(0, 10, SHAPE), -1024, 1976).round().astype(np.int16)
        return Case(key, ct_hu, label_map, affine, report, findings, {"generator": "ellipsoids"})


def load_ellipsoids(model: str, device: str) -> EllipsoidGenerator:
    """What loads models by name, for commands under test: there is one, 'torso'."""
    if model != "torso":
        raise ModelError(f"no model {model!r}: expected one of ['torso'] or a folder that holds model_index.json.")
    return EllipsoidGenerator(misses=0)


def _inside(xyz: np.ndarray, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    scaled = (xyz - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    return (scaled**2).sum(0) <= 1
