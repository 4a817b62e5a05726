"""Sampling by coverage: every organ, site and size in turn, with every other attribute in every pair of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import numpy as np

from guidegen_data.anatomy import ATTENUATIONS, HABITUS, PHASES, TORSO, Anatomy
from guidegen_data.reports.findings import SEXES, Findings, Lesion
from guidegen_data.reports.weights import packaged_weights, size_table

T = TypeVar("T")
_AGES = tuple(range(20, 100, 10))
#: Of this many turns through the cells one gives its cases a second lesion.
_TURNS_PER_SECOND_LESION = 3


class Cell(NamedTuple):
    """What coverage gives an equal share: a lesion's organ and site, and its diameter between two bounds in mm."""

    organ: str
    site: str
    low_mm: float
    high_mm: float


class Status(NamedTuple):
    """An organ and what is said of it as a whole."""

    organ: str
    status: str


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


def coverage_statuses(anatomy: Anatomy = TORSO) -> tuple[Status, ...]:
    """Every status but normal that an organ may have."""
    return tuple(Status(o.name, s) for o in anatomy.organs for s in o.statuses if s != "normal")


def attenuations_of(organ: str, weights: Mapping[str, Any]) -> tuple[str, ...]:
    """The attenuations that the weights give a lesion of an organ at all; a lung lesion is never darker than lung."""
    tables = weights.get("attenuation", {})
    table = tables.get(organ, tables.get("default"))
    return tuple(a for a in ("", *ATTENUATIONS) if table is None or table.get(a, 0) > 0) or ("",)


def compatible_regions(anatomy: Anatomy, *organs: str) -> tuple[str, ...]:
    """The regions whose field shows all of these organs."""
    return tuple(r for r in anatomy.regions if set(organs) <= anatomy.region_organs[r])


def coverage_findings(rng: np.random.Generator, anatomy: Anatomy, index: int, weights: Mapping[str, Any]) -> Findings:
    """Case `index` of the walk: its first lesion is of cell `index` modulo the number of cells.

    Turn by turn each cell meets every value of every attribute equally often, in an order of its own, so that over the
    cells any two attributes meet in all their values. Two organ statuses a case, a second lesion in one turn of three.
    All but the diameters is a function of `index` alone.
    """
    cells = coverage_cells(anatomy, weights) or (None,)
    turn, position = divmod(index, len(cells))
    walk = _Walk(turn, position)
    first = cells[position]
    lesions = [first] if first else []
    if first and turn % _TURNS_PER_SECOND_LESION == _TURNS_PER_SECOND_LESION - 1 and len(cells) > 1:
        # One shift a turn: every cell is second as often as it is first.
        other = cells[(position + 1 + _Walk(turn, 0).random("second", len(cells) - 1)) % len(cells)]
        lesions += [other] if other and compatible_regions(anatomy, first.organ, other.organ) else []
    hosts = [cell.organ for cell in lesions]
    statuses = _two_statuses(walk, anatomy, hosts)
    region = walk.value("region", compatible_regions(anatomy, *hosts, *(s.organ for s in statuses)) or anatomy.regions)
    return Findings(
        region=region,
        phase=walk.value("phase", PHASES),
        sex=walk.value("sex", SEXES),
        age_decade=walk.value("age", _ages(weights)),
        habitus=walk.value("habitus", HABITUS),
        organs=dict(statuses),
        lesions=tuple(
            Lesion(
                cell.organ,
                cell.site,
                float(round(float(rng.uniform(cell.low_mm, cell.high_mm)))),
                walk.value(f"attenuation {i}", attenuations_of(cell.organ, weights)),
            )
            for i, cell in enumerate(lesions)
        ),
        anatomy_name=anatomy.name,
    )


class _Walk:
    """The values of one turn at one position; attributes do not march in step."""

    def __init__(self, turn: int, position: int) -> None:
        self.turn, self.position = turn, position

    def random(self, name: str, num: int, sweep: int | None = None) -> int:
        """0 to num - 1, fixed by name, position and sweep (the turn where none is given)."""
        seed = [crc32(name.encode()), self.position, self.turn if sweep is None else sweep]
        return int(np.random.default_rng(seed).integers(num))

    def value(self, name: str, options: Sequence[T]) -> T:
        """Within len(options) turns each option once, from a start that is drawn for every sweep."""
        start = self.random(name, len(options), self.turn // len(options))
        return options[(self.turn + start) % len(options)]


def _two_statuses(walk: _Walk, anatomy: Anatomy, hosts: Sequence[str]) -> list[Status]:
    """Two organs' statuses that one field shows beside the lesions; no host absent, no pair of organs gone."""
    chosen: list[Status] = []
    for name in ("status", "second status"):
        organs = [s.organ for s in chosen]
        options = [
            s
            for s in coverage_statuses(anatomy)
            if s.organ not in organs
            and not (s.status == "absent" and (s.organ in hosts or _twin_absent(anatomy, s, chosen)))
            and compatible_regions(anatomy, *hosts, *organs, s.organ)
        ]
        if options:
            chosen.append(walk.value(name, options) if not chosen else options[walk.random(name, len(options))])
    return chosen


def _twin_absent(anatomy: Anatomy, status: Status, chosen: Sequence[Status]) -> bool:
    name = anatomy.organ_of(status.organ).class_name
    return any(c.status == "absent" and anatomy.organ_of(c.organ).class_name == name for c in chosen)


def _ages(weights: Mapping[str, Any]) -> tuple[int, ...]:
    table = weights.get("age_decade")
    return tuple(sorted(age for age, weight in table.items() if weight > 0)) if table else _AGES
