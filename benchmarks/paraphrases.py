"""Report snippets written by hand, in wordings that no template uses, with the findings that each of them states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from guidegen_data.reports.findings import Findings, Lesion

_FILE = Path(__file__).parent / "data" / "paraphrases.yaml"
PARTS = ("first", "second", "third")


def load_paraphrases(part: str = "") -> list[tuple[str, Findings]]:
    """(text, what it says) in the order of the file, of one of PARTS or of all.

    The rules were mended on `first` and `second`, not on `third`. Raises GuideGenError for findings that the vocabulary
    does not hold.
    """
    parts = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    entries = [entry for name in PARTS if part in ("", name) for entry in parts[name]]
    return [(entry["text"].strip(), findings_of(entry)) for entry in entries]


def findings_of(entry: dict[str, Any]) -> Findings:
    """What an entry of a file of hand labels states, in the anatomy that it names."""
    return Findings(
        region=entry["region"],
        phase=entry.get("phase", ""),
        sex=entry.get("sex", ""),
        age_decade=entry.get("age"),
        habitus=entry.get("habitus", ""),
        organs=entry.get("organs", {}),
        lesions=tuple(Lesion(organ, site, float(mm), *word) for organ, site, mm, *word in entry.get("lesions", ())),
        anatomy_name=entry.get("anatomy", "torso"),
    )
