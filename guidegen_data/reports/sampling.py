"""Drawing Findings: by prevalence (weights in data/prevalence.yaml) or by coverage of every organ-site-size cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from guidegen_data.anatomy import ATTENUATIONS, PHASES, TORSO, Anatomy
from guidegen_data.errors import FindingsError, ReportError
from guidegen_data.reports.findings import SEXES, Findings, Lesion
from guidegen_data.reports.weights import packaged_weights, size_table

Mode = Literal["prevalence", "coverage"]
T = TypeVar("T")


class Cell(NamedTuple):
    """What coverage gives an equal share: a lesion's organ and site, and its diameter between two bounds in mm."""

    organ: str
    site: str
    low_mm: float
    high_mm: float


def sample_findings(
    rng: np.random.Generator,
    anatomy: Anatomy = TORSO,
    mode: Mode = "prevalence",
    index: int = 0,
    weights: Mapping[str, Any] | None = None,
) -> Findings:
    """Valid findings, a function of the generator's state and `index` alone.

    'prevalence' ignores the index. 'coverage' makes case `index` hold a lesion of cell `index` modulo the number of
    cells, and walks status, region, phase and sex so that each meets every cell in turn.
    """
    weights = packaged_weights(anatomy) if weights is None else weights
    if mode == "coverage":
        return _coverage(rng, anatomy, index, weights)
    if mode != "prevalence":
        raise FindingsError(f"sampling must be 'prevalence' or 'coverage', got {mode!r}.")
    region = _draw(rng, weights.get("region"), anatomy.regions)
    organs = _statuses(rng, anatomy, region, weights)
    lesions = _lesions(rng, anatomy, region, organs, weights, int(_draw(rng, weights.get("lesions"), (0, 1, 2, 3))))
    return _findings(rng, anatomy, region, organs, lesions, weights)


def coverage_cells(anatomy: Anatomy = TORSO, weights: Mapping[str, Any] | None = None) -> tuple[Cell, ...]:
    """Every organ, site and size band that a lesion may have; bands end at the organ's own range."""
    weights = packaged_weights(anatomy) if weights is None else weights
    bounds = weights.get("coverage_mm", (8, 15, 25, 40, 80))
    cells = []
    for organ in anatomy.organs:
        span = size_table(weights, organ.name)
        for site in organ.sites:
            for low, high in pairwise(bounds):
                if min(high, span["high"]) > max(low, span["low"]):
                    cells.append(Cell(organ.name, site, max(low, span["low"]), min(high, span["high"])))
    return tuple(cells)


def _coverage(rng: np.random.Generator, anatomy: Anatomy, index: int, weights: Mapping[str, Any]) -> Findings:
    cells = coverage_cells(anatomy, weights)
    if not cells:
        return _coverage_statuses(rng, anatomy, index, weights)
    turn, position = divmod(index, len(cells))
    cell = cells[position]
    regions = [r for r in anatomy.regions if cell.organ in anatomy.region_organs[r]]
    region = regions[(turn + position) % len(regions)]
    # One organ status a case, stepping through all of them; a case whose cell forbids its status keeps the lesion.
    options = _status_options(anatomy, region)
    organ, status = options[(turn * 7 + position) % len(options)] if options else ("", "normal")
    organs = {} if status == "normal" or (organ == cell.organ and status == "absent") else {organ: status}
    size = round(float(rng.uniform(cell.low_mm, cell.high_mm)))
    attenuations = ("", *ATTENUATIONS)
    lesion = Lesion(cell.organ, cell.site, float(size), attenuations[(turn + position) % len(attenuations)])
    return Findings(
        region=region,
        phase=PHASES[(turn + position // len(attenuations)) % len(PHASES)],
        sex=SEXES[(turn + position // 2) % len(SEXES)],
        age_decade=int(_draw(rng, weights.get("age_decade"), tuple(range(20, 100, 10)))),
        organs=organs,
        lesions=(lesion,),
        anatomy_name=anatomy.name,
    )


def _coverage_statuses(rng: np.random.Generator, anatomy: Anatomy, index: int, weights: Mapping[str, Any]) -> Findings:
    """An anatomy without lesion hosts is covered by its regions and statuses."""
    turn, position = divmod(index, len(anatomy.regions))
    region = anatomy.regions[position]
    options = _status_options(anatomy, region)
    organ, status = options[turn % len(options)] if options else ("", "normal")
    return _findings(rng, anatomy, region, {} if status == "normal" else {organ: status}, (), weights)


def _status_options(anatomy: Anatomy, region: str) -> list[tuple[str, str]]:
    shown = anatomy.region_organs[region]
    return [(o.name, s) for o in anatomy.organs if o.name in shown and len(o.statuses) > 1 for s in o.statuses]


def _statuses(rng: np.random.Generator, anatomy: Anatomy, region: str, weights: Mapping[str, Any]) -> dict[str, str]:
    """Statuses of the organs in the field. One kidney stays: both absent is not compatible with most scans."""
    tables = weights.get("status", {})
    found: dict[str, str] = {}
    for organ in anatomy.organs:
        table = tables.get(organ.name, {s: 0.05 for s in organ.statuses if s != "normal"} if not tables else {})
        if organ.name not in anatomy.region_organs[region] or not table:
            continue
        odds = {**table, "normal": max(0.0, 1.0 - sum(table.values()))}
        status = _draw(rng, odds, organ.statuses)
        twins = [o.name for o in anatomy.organs if o.class_name == organ.class_name and o is not organ]
        if status == "absent" and any(found.get(twin) == "absent" for twin in twins):
            continue
        if status != "normal":
            found[organ.name] = status
    return found


def _lesions(
    rng: np.random.Generator, anatomy: Anatomy, region: str, organs: Mapping[str, str], weights: Mapping[str, Any],
    count: int,
) -> tuple[Lesion, ...]:  # fmt: skip
    tables = weights.get("place", {})
    odds = {
        (organ.name, site): float(tables.get(organ.name, {}).get(site, 0 if tables else 1))
        for organ in anatomy.organs
        for site in organ.sites
        if organ.name in anatomy.region_organs[region] and organs.get(organ.name) != "absent"
    }
    if not any(odds.values()):
        return ()
    places = [_draw(rng, odds, tuple(odds)) for _ in range(count)]
    return tuple(
        Lesion(organ, site, _size(rng, size_table(weights, organ)), _attenuation(rng, weights, organ))
        for organ, site in places
    )


def _size(rng: np.random.Generator, table: Mapping[str, float]) -> float:
    """Whole millimetres, lognormal about the median; what falls outside the range is drawn again, evenly in the log."""
    size = table["median"] * float(np.exp(table["sigma"] * rng.standard_normal()))
    if not table["low"] <= size <= table["high"]:
        size = float(np.exp(rng.uniform(np.log(table["low"]), np.log(table["high"]))))
    return float(round(size))


def _attenuation(rng: np.random.Generator, weights: Mapping[str, Any], organ: str) -> str:
    tables = weights.get("attenuation", {})
    return _draw(rng, tables.get(organ, tables.get("default")), ("", *ATTENUATIONS))


def _findings(
    rng: np.random.Generator, anatomy: Anatomy, region: str, organs: Mapping[str, str], lesions: tuple[Lesion, ...],
    weights: Mapping[str, Any],
) -> Findings:  # fmt: skip
    return Findings(
        region=region,
        phase=_draw(rng, weights.get("phase"), PHASES),
        sex=_draw(rng, weights.get("sex"), SEXES),
        age_decade=int(_draw(rng, weights.get("age_decade"), tuple(range(20, 100, 10)))),
        organs=organs,
        lesions=lesions,
        anatomy_name=anatomy.name,
    )


def _draw(rng: np.random.Generator, weights: Mapping[Any, float] | None, options: Sequence[T]) -> T:
    """One of the options by its weight (0 when the table leaves it out); even odds when there is no table."""
    odds = np.array([1.0 if weights is None else float(weights.get(o, 0)) for o in options])
    if not odds.sum() > 0:
        raise ReportError(f"sampling weights leave no choice among {', '.join(map(str, options))}; give one a weight.")
    return options[int(rng.choice(len(options), p=odds / odds.sum()))]
