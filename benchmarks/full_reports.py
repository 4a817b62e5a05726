"""Whole reports written by hand, with every set of findings that a reader may take from each of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.paraphrases import findings_of
from guidegen_data.anatomy import Anatomy, anatomy_named
from guidegen_data.reports.findings import Findings

_FILE = Path(__file__).parent / "data" / "full_reports.yaml"
FULL_PARTS = ("full reports", "held-out full reports")


class FullReport(NamedTuple):
    """A text, its label table, and what it may be read as: several readings where it names several phases."""

    text: str
    anatomy: Anatomy
    truths: tuple[Findings, ...]


def load_full_reports(part: str) -> list[FullReport]:
    """The reports of one of FULL_PARTS, in the order of the file.

    The rules were mended on `full reports`, not on the held-out ones. Raises GuideGenError for findings that the
    vocabulary does not hold.
    """
    entries = yaml.safe_load(_FILE.read_text(encoding="utf-8"))[part]
    return [FullReport(e["text"].strip(), anatomy_named(e.get("anatomy", "torso")), _truths(e)) for e in entries]


def _truths(entry: dict[str, Any]) -> tuple[Findings, ...]:
    optional = entry.get("optional_lesions", [])
    lesions = [entry.get("lesions", []), *([[*entry.get("lesions", []), *optional]] if optional else [])]
    choices = product(_several(entry["region"]), _several(entry.get("phase", "")), lesions)
    return tuple(findings_of(entry | {"region": r, "phase": p, "lesions": found}) for r, p, found in choices)


def _several(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
