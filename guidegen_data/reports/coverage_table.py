"""How much of the vocabulary a set of findings covers: every attribute, and every pair of two, with what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations, combinations_with_replacement, product
from typing import Any, NamedTuple

from guidegen_data.anatomy import HABITUS, PHASES, TORSO, Anatomy
from guidegen_data.reports.coverage import (
    Cell,
    Status,
    attenuations_of,
    compatible_regions,
    coverage_cells,
    coverage_statuses,
)
from guidegen_data.reports.findings import SEXES, Findings
from guidegen_data.reports.weights import packaged_weights

Value = tuple[str, Any]


class Site(NamedTuple):
    """Where a lesion sits, whatever its size."""

    organ: str
    site: str


class CoverageRow(NamedTuple):
    """One attribute or pair of attributes: how many values it can have, how many of them were met, how often the
    rarest was (0 while one is missing), and up to three that are missing."""

    attributes: str
    num_possible: int
    num_met: int
    rarest: int
    missing: tuple[str, ...]


class Coverage:
    """Counts what findings hold, case by case; grows with the vocabulary, not with the cases.

    Attributes: lesion (organ, site, size), its site, its attenuation, organ status, region, phase, sex, age, habitus.
    """

    def __init__(self, anatomy: Anatomy = TORSO, weights: Mapping[str, Any] | None = None) -> None:
        self.anatomy = anatomy
        self.weights = packaged_weights(anatomy) if weights is None else weights
        self._values = _values(anatomy, self.weights)
        self._single: Counter[Value] = Counter()
        self._double: Counter[frozenset[Value]] = Counter()

    def add(self, case: Findings) -> None:
        """Count one case."""
        groups = _told(case, self._values["lesion"])
        self._single.update(set().union(*groups))
        self._double.update({frozenset(pair) for group in groups for pair in combinations(group, 2)})

    def rows(self) -> list[CoverageRow]:
        """A row for every attribute, for each pair of them, and for pairs of lesion sites in one case.

        A pair that no case can hold, as an organ and a region that does not show it, is not counted.
        """
        rows = [
            _row(name, [(_word(v), self._single[name, v]) for v in options])
            for name, options in self._values.items()
            if options
        ]
        for first, second in combinations_with_replacement(self._values, 2):
            possible = _pairs(self.anatomy, self.weights, self._values, first, second)
            if possible:
                rows.append(_row(f"{first} x {second}", [(_name(pair), self._double[pair]) for pair in possible]))
        return rows


def coverage_table(
    findings: Iterable[Findings], anatomy: Anatomy = TORSO, weights: Mapping[str, Any] | None = None
) -> list[CoverageRow]:
    """The rows of `Coverage` for these findings."""
    coverage = Coverage(anatomy, weights)
    for case in findings:
        coverage.add(case)
    return coverage.rows()


def _row(attributes: str, counts: list[tuple[str, int]]) -> CoverageRow:
    missing = [name for name, number in counts if not number]
    return CoverageRow(
        attributes, len(counts), len(counts) - len(missing), min(n for _, n in counts), tuple(missing[:3])
    )


def _name(pair: frozenset[Value]) -> str:
    return " with ".join(sorted(_word(value) for _, value in pair))


def _word(value: Any) -> str:
    if isinstance(value, Cell):
        return f"{value.organ} {value.site} {value.low_mm:g}-{value.high_mm:g} mm".replace("  ", " ")
    return " ".join(value).strip() if isinstance(value, Site | Status) else str(value)


def _values(anatomy: Anatomy, weights: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    cells = coverage_cells(anatomy, weights)
    words = {a: None for cell in cells for a in attenuations_of(cell.organ, weights) if a}
    ages = weights.get("age_decade") or dict.fromkeys(range(20, 100, 10), 1)
    return {
        "lesion": cells,
        "site": tuple(Site(organ, site) for organ, site in dict.fromkeys((c.organ, c.site) for c in cells)),
        "attenuation": tuple(words),
        "status": coverage_statuses(anatomy),
        "region": anatomy.regions,
        "phase": PHASES,
        "sex": SEXES,
        "age": tuple(age for age, weight in ages.items() if weight > 0),
        "habitus": HABITUS,
    }


def _told(case: Findings, cells: tuple[Cell, ...]) -> list[set[Value]]:
    """The values a case holds, a set for each lesion: an attenuation belongs to its own lesion alone."""
    shared: set[Value] = {
        ("region", case.region),
        ("phase", case.phase),
        ("sex", case.sex),
        ("age", case.age_decade),
        ("habitus", case.habitus),
        *(("status", Status(organ, status)) for organ, status in case.organs.items() if status != "normal"),
    }
    sites: set[Value] = {("site", Site(lesion.organ, lesion.site)) for lesion in case.lesions}
    groups = [shared | sites]
    for lesion in case.lesions:
        cell = next((c for c in cells if _holds(c, lesion.organ, lesion.site, lesion.size_mm)), None)
        if cell is not None:
            groups.append({*shared, ("lesion", cell), ("attenuation", lesion.attenuation)})
    return groups


def _holds(cell: Cell, organ: str, site: str, size_mm: float) -> bool:
    """Bands share their ends; the lower one takes the end."""
    return (cell.organ, cell.site) == (organ, site) and cell.low_mm <= size_mm <= cell.high_mm


def _pairs(
    anatomy: Anatomy, weights: Mapping[str, Any], values: Mapping[str, tuple[Any, ...]], first: str, second: str
) -> list[frozenset[Value]]:
    """The pairs of values of two attributes that a case can hold. A site meets other sites alone: all else of a lesion
    is told with its size."""
    if (first == "site") != (second == "site") or (first == second and first not in ("site", "status")):
        return []
    couples = combinations(values[first], 2) if first == second else product(values[first], values[second])
    return [
        frozenset(((first, a), (second, b)))
        for a, b in couples
        if _possible(anatomy, weights, {first: a, second: b}, (a, b))
    ]


def _possible(anatomy: Anatomy, weights: Mapping[str, Any], of: Mapping[str, Any], couple: tuple[Any, Any]) -> bool:
    organs = [v.organ for v in couple if isinstance(v, Cell | Site | Status)]
    regions = compatible_regions(anatomy, *organs)
    if not regions or ("region" in of and of["region"] not in regions):
        return False
    if "attenuation" in of and "lesion" in of and of["attenuation"] not in attenuations_of(of["lesion"].organ, weights):
        return False
    gone = [v.organ for v in couple if isinstance(v, Status) and v.status == "absent"]
    if len(organs) == 2 and organs[0] == organs[1]:
        # One status an organ, no lesion in an organ that is gone; two lesions of an organ are fine.
        return not gone and not all(isinstance(v, Status) for v in couple)
    classes = {anatomy.organ_of(organ).class_name for organ in gone}
    return len(gone) < 2 or len(classes) == 2
