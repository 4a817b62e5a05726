"""Sampling weights: YAML tables of how often each finding is drawn, checked when loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from guidegen_data.anatomy import ATTENUATIONS, HABITUS, PHASES, TORSO, Anatomy
from guidegen_data.errors import ReportError
from guidegen_data.reports.findings import MAX_LESION_MM, MAX_LESIONS, MIN_LESION_MM, SEXES

_DEFAULT_SIZE = {"median": 24.0, "sigma": 0.55, "low": 8.0, "high": 80.0}


@cache
def _packaged() -> Mapping[str, Mapping[str, Any]]:
    text = resources.files("guidegen_data.reports").joinpath("data/prevalence.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def packaged_weights(anatomy: Anatomy) -> Mapping[str, Any]:
    """The package's weights of a label table; empty, which means even odds, when it has none."""
    return _packaged().get(anatomy.name, {})


def load_weights(path: str | Path, anatomy: Anatomy = TORSO) -> Mapping[str, Any]:
    """Weights of a YAML file that holds the tables of one anatomy, in the form of data/prevalence.yaml.

    A table that it leaves out is even. ReportError, naming file and table, for what cannot be read, an unknown table,
    name or size, and a weight that is no number of 0 or more.
    """
    try:
        weights = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ReportError(f"expected a YAML file of sampling weights at {path}, got {type(error).__name__}.") from error
    if not isinstance(weights, dict):
        raise ReportError(f"sampling weights {path} must be a mapping of tables, got {type(weights).__name__}.")
    check_weights(weights, anatomy, str(path))
    return weights


def check_weights(weights: Mapping[str, Any], anatomy: Anatomy, source: str) -> None:
    """ReportError naming the first table of `source` that sampling could not use for that anatomy."""
    organs = anatomy.organ
    flat: dict[str, Iterable[object]] = {
        "region": anatomy.regions,
        "phase": ("", *PHASES),
        "sex": ("", *SEXES),
        "age_decade": range(0, 110, 10),
        "habitus": ("", *HABITUS),
        "lesions": range(MAX_LESIONS + 1),
    }
    nested: dict[str, dict[str, Iterable[object]]] = {
        "status": {name: organ.statuses for name, organ in organs.items()},
        "place": {name: organ.sites for name, organ in organs.items()},
        "size_mm": dict.fromkeys(("default", *organs), _DEFAULT_SIZE),
        "attenuation": dict.fromkeys(("default", *organs), ("", *ATTENUATIONS)),
    }
    for key, table in weights.items():
        where = f"{key!r} of the sampling weights {source}"
        if key in flat:
            _check_odds(table, flat[key], where)
        elif key in nested:
            _check_names(table, nested[key], where)
            for name, odds in table.items():
                _check_odds(odds, nested[key][name], f"{name!r} in {where}")
        elif key == "coverage_mm":
            _check_bounds(table, where)
        elif key == "out_of_field":
            _check_names(table, anatomy.regions, where)
            for region, hidden in table.items():
                _check_names(hidden, organs, f"{region!r} in {where}")
                for organ, sites in hidden.items():
                    _check_names(dict.fromkeys(sites), organs[organ].sites, f"{organ!r} of {region!r} in {where}")
        else:
            known = ", ".join([*flat, *nested, "coverage_mm", "out_of_field"])
            raise ReportError(f"unknown table {where}; known: {known}.")
    for name in weights.get("size_mm", {}):
        size = size_table(weights, name)
        if not MIN_LESION_MM <= size["low"] < size["high"] <= MAX_LESION_MM or not size["median"] > 0:
            raise ReportError(
                f"size_mm of {name!r} in {source} must lie within {MIN_LESION_MM:g} to {MAX_LESION_MM:g} mm, low below "
                f"high, the median above 0."
            )


def _check_names(table: Any, known: Iterable[object], where: str) -> None:
    if not isinstance(table, dict):
        raise ReportError(f"{where} must be a mapping, got {type(table).__name__}.")
    known = list(known)
    for name in table:
        if name not in known:
            raise ReportError(f"unknown name {name!r} in {where}; known: {', '.join(map(repr, known))}.")


def _check_odds(table: Any, known: Iterable[object], where: str) -> None:
    _check_names(table, known, where)
    for weight in table.values():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
            raise ReportError(f"weights of {where} must be numbers of 0 or more; correct the table.")


def _check_bounds(bounds: Any, where: str) -> None:
    numbers = isinstance(bounds, list) and len(bounds) > 1 and all(isinstance(b, int | float) for b in bounds)
    if not numbers or not all(low < high for low, high in pairwise([MIN_LESION_MM - 1, *bounds, MAX_LESION_MM + 1])):
        raise ReportError(f"{where} must be a rising list of {MIN_LESION_MM:g} to {MAX_LESION_MM:g} mm.")


def size_table(weights: Mapping[str, Any], organ: str) -> Mapping[str, float]:
    """Median, sigma, low and high of lesion diameters of an organ, in mm (sigma in the log)."""
    tables = weights.get("size_mm", {})
    return {**_DEFAULT_SIZE, **tables.get("default", {}), **tables.get(organ, {})}
