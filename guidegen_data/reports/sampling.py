"""Drawing Findings: by prevalence (weights in data/prevalence.yaml), of organs alone, or by coverage of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np

from guidegen_data.anatomy import ATTENUATIONS, HABITUS, PHASES, TORSO, Anatomy
from guidegen_data.errors import FindingsError, ReportError
from guidegen_data.reports.coverage import coverage_findings
from guidegen_data.reports.findings import SEXES, Findings, Lesion
from guidegen_data.reports.weights import packaged_weights, size_table

Mode = Literal["prevalence", "coverage", "organs"]
T = TypeVar("T")


def sample_findings(
    rng: np.random.Generator,
    anatomy: Anatomy = TORSO,
    mode: Mode = "prevalence",
    index: int = 0,
    weights: Mapping[str, Any] | None = None,
) -> Findings:
    """Valid findings, a function of the generator's state and `index` alone.

    'prevalence' ignores the index and draws by the weights. 'organs' draws the same and leaves out every lesion and
    every organ said to be absent: a target volume takes the labels of the organs under it, and where "absent" was
    learned from missing contours the organ still shows in the CT. 'coverage' gives every organ, site and size its share
    and walks the other attributes so that every pair of values is met (see `coverage.py`).
    """
    weights = packaged_weights(anatomy) if weights is None else weights
    if mode == "coverage":
        return coverage_findings(rng, anatomy, index, weights)
    if mode not in ("prevalence", "organs"):
        raise FindingsError(f"sampling must be 'prevalence', 'coverage' or 'organs', got {mode!r}.")
    findings = _by_prevalence(rng, anatomy, weights)
    return _organs_alone(findings) if mode == "organs" else findings


def _by_prevalence(rng: np.random.Generator, anatomy: Anatomy, weights: Mapping[str, Any]) -> Findings:
    region = _draw(rng, weights.get("region"), anatomy.regions)
    organs = _statuses(rng, anatomy, region, weights)
    lesions = _lesions(rng, anatomy, region, organs, weights, int(_draw(rng, weights.get("lesions"), (0, 1, 2, 3))))
    return _findings(rng, anatomy, region, organs, lesions, weights)


def _organs_alone(findings: Findings) -> Findings:
    there = {organ: status for organ, status in findings.organs.items() if status != "absent"}
    return replace(findings, organs=there, lesions=())


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
    hidden = weights.get("out_of_field", {}).get(region, {})
    odds = {
        (organ.name, site): float(tables.get(organ.name, {}).get(site, 0 if tables else 1))
        for organ in anatomy.organs
        for site in organ.sites
        if organ.name in anatomy.region_organs[region] and organs.get(organ.name) != "absent"
        if site not in hidden.get(organ.name, ())
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
        habitus=_draw(rng, weights.get("habitus"), ("", *HABITUS)),
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
