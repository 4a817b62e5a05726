"""What the cases of a folder are, counted while their manifest lines go by."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.reports.coverage_table import Coverage
from guidegen_data.reports.findings import Findings

#: Bounds of the size bands of lesions in mm; the last band is open.
SIZE_BANDS_MM = (0, 15, 25, 40, 80)


@dataclass
class Statistics:
    """Counts of findings, lesions and rejects, and the volumes of every class. Grows by a few bytes a case."""

    anatomy: Anatomy
    num_cases: int = 0
    num_passed: int = 0
    num_rejects: int = 0
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    findings: dict[str, Counter[str]] = field(default_factory=dict)
    lesions: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    lesion_mm: array[float] = field(default_factory=lambda: array("f"))
    volumes_ml: dict[str, array[float]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(init=False)

    def __post_init__(self) -> None:
        self.coverage = Coverage(self.anatomy)

    @property
    def reject_share(self) -> float:
        """Rejected drafts among all drafts."""
        return self.num_rejects / max(1, self.num_cases + self.num_rejects)

    def add_case(self, line: Mapping[str, Any]) -> None:
        """Count a line of the manifest."""
        findings = line["findings"]
        self.coverage.add(Findings.from_dict(findings))
        self.num_cases += 1
        self.num_passed += line["passed"]
        self.shape, self.spacing_mm = tuple(line["shape"]), tuple(line["spacing_mm"])
        decade = findings["age_decade"]
        for what in ("region", "phase", "sex", "habitus"):
            self._count(what, findings.get(what) or "not stated")
        self._count("age", "not stated" if decade is None else f"{decade}s")
        self._count("lesions in a case", str(len(findings["lesions"])))
        for organ, status in findings["organs"].items():
            if status != "normal":
                self._count("organ not normal", f"{organ} {status}")
        for lesion in findings["lesions"]:
            self.lesions[lesion["organ"], lesion["site"], band_of(lesion["size_mm"])] += 1
            self.lesion_mm.append(lesion["size_mm"])
        for name, volume in line["volumes_ml"].items():
            self.volumes_ml.setdefault(name, array("f")).append(volume)

    def add_reject(self, line: Mapping[str, Any]) -> None:
        """Count a line of the rejects."""
        self.num_rejects += 1
        self.reasons.update(check["name"] for check in line["failed"])

    def present_ml(self, name: str) -> np.ndarray:
        """Volumes of a class in the cases that show it."""
        volumes = np.asarray(self.volumes_ml.get(name, array("f")), np.float32)
        return volumes[volumes > 0]

    def _count(self, what: str, value: str) -> None:
        self.findings.setdefault(what, Counter())[value] += 1


def statistics(
    anatomy: Anatomy, cases: Iterable[Mapping[str, Any]], rejects: Iterable[Mapping[str, Any]]
) -> Statistics:
    """Statistics of the lines of a manifest and of its rejects."""
    found = Statistics(anatomy)
    for line in cases:
        found.add_case(line)
    for line in rejects:
        found.add_reject(line)
    return found


def band_of(size_mm: float) -> int:
    """The size band of a lesion, as a position in SIZE_BANDS_MM."""
    return sum(size_mm >= low for low in SIZE_BANDS_MM) - 1


def band_name(band: int) -> str:
    """'15 to 25 mm'."""
    low, high = SIZE_BANDS_MM[band], SIZE_BANDS_MM[band + 1 : band + 2]
    if not low:
        return f"under {high[0]} mm"
    return f"{low} to {high[0]} mm" if high else f"{low} mm and over"
