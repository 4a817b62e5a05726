"""Case: one CT with its label map, report, findings and provenance, refused when its parts do not fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import CaseError
from guidegen_data.reports.findings import Findings


def centred_affine(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """RAS+ affine in mm (4, 4) whose origin is the centre of a grid of that shape and spacing."""
    affine = np.diag([*spacing_mm, 1.0]).astype(np.float64)
    affine[:3, 3] = -(np.asarray(shape[:3]) - 1) / 2 * np.asarray(spacing_mm)
    return affine


class _Labelled:
    """What a label map on its grid tells, with a CT or without."""

    label_map: np.ndarray
    affine: np.ndarray
    findings: Findings

    @property
    def anatomy(self) -> Anatomy:
        return self.findings.anatomy

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = (float(v) for v in np.diag(self.affine)[:3])
        return x, y, z

    def volumes_ml(self) -> dict[str, float]:
        """Volume of every class but the background, by name, in ml; 0.0 for a class that is not there."""
        counts = np.bincount(self.label_map.ravel(), minlength=self.anatomy.num_classes)
        voxel_ml = float(np.prod(self.spacing_mm)) / 1000
        return {c.name: round(float(counts[c.id]) * voxel_ml, 3) for c in self.anatomy.classes if c.id}


@dataclass(frozen=True)
class Draft(_Labelled):
    """A case before its CT: a label map (X, Y, Z) uint8, what it was drawn for, and the random state to go on with."""

    key: str
    label_map: np.ndarray
    affine: np.ndarray
    report: str
    findings: Findings
    provenance: Mapping[str, Any] = field(default_factory=dict)
    generator: Any = None

    def with_ct(self, ct_hu: np.ndarray, made: Mapping[str, Any]) -> Case:
        """The case of this draft and its CT (X, Y, Z) int16; `made` joins the provenance. CaseError as for Case."""
        provenance = {**self.provenance, **made}
        return Case(self.key, ct_hu, self.label_map, self.affine, self.report, self.findings, provenance)


@dataclass(frozen=True)
class Case(_Labelled):
    """A paired volume: `ct_hu` (X, Y, Z) int16 in HU and `label_map` (X, Y, Z) uint8 on one RAS+ grid in mm.

    Raises CaseError when the arrays are of other types, shapes differ, HU are impossible, a label id is not in the
    table, the affine is not RAS+, or the key would break a webdataset reader.
    """

    key: str
    ct_hu: np.ndarray
    label_map: np.ndarray
    affine: np.ndarray
    report: str
    findings: Findings
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.key or re.search(r"[./\\\s]", self.key):
            raise CaseError(
                f"case key {self.key!r} must hold no '.', '/' or space: a webdataset reader cuts a file name at its "
                f"first dot, so cases would be merged. Try {re.sub(r'[^A-Za-z0-9_-]', '-', self.key) or 'case'!r}."
            )
        if self.ct_hu.dtype != np.int16 or self.label_map.dtype != np.uint8:
            raise CaseError(
                f"case {self.key} needs an int16 CT in HU and a uint8 label map, got {self.ct_hu.dtype} and "
                f"{self.label_map.dtype}; convert them first."
            )
        if self.ct_hu.ndim != 3 or self.ct_hu.shape != self.label_map.shape:
            raise CaseError(
                f"case {self.key} needs a CT and a label map on one (X, Y, Z) grid, got {self.ct_hu.shape} and "
                f"{self.label_map.shape}; resample the label map to the CT."
            )
        check_hu(self.ct_hu, f"case {self.key}")
        highest = int(self.label_map.max(initial=0))
        if highest >= self.anatomy.num_classes:
            raise CaseError(
                f"case {self.key} has label id {highest}, but the {self.anatomy.name} table ends at "
                f"{self.anatomy.num_classes - 1}; map its labels first."
            )
        linear = np.asarray(self.affine)[:3, :3]
        if np.shape(self.affine) != (4, 4) or not np.allclose(linear, np.diag(np.diag(linear))) or linear.min() < 0:
            raise CaseError(f"case {self.key} needs an axis-aligned RAS+ affine (4, 4) in mm; reorient it first.")


def check_hu(ct_hu: np.ndarray, what: str) -> None:
    """CaseError unless the array can be a CT in Hounsfield units: air, soft tissue, no value beyond metal."""
    if not np.isfinite(ct_hu).all():
        raise CaseError(f"{what} holds NaN or infinite values where HU are expected; mend the file.")
    low, high = float(ct_hu.min()), float(ct_hu.max())
    if low < -3100 or high > 32000 or low > -300 or high < 0:
        raise CaseError(
            f"{what} does not look like HU (values {low:g} to {high:g}; expected air below -300 and tissue above 0); "
            f"undo any rescaling first."
        )
