"""How the scan was made: body region and contrast phase, the title and the technique before the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence

from guidegen_data.anatomy import PHASES, Anatomy
from guidegen_data.reports.clauses import HEADS, Clause
from guidegen_data.reports.lexicon import Item, Lexicon
from guidegen_data.reports.notes import Notes

_PRIORITY = {"exam": 0, "technique": 0, "": 1, "findings": 2, "impression": 2, "history": 3}
_WALK = ("locative", "det", "conj", "punct", "word", "phase", "verb", "ct", "place")
_READ_AS = {"contrast": "portal venous", "delayed": "portal venous"}
# Of several, the last is taken: a scan that has an enhanced phase is not read as one without contrast.
_NAMED = {"non-contrast": 0, "contrast": 1, "delayed": 2, "arterial": 3, "portal venous": 4}
_WITH = r"(?:with|w/?)"
_WITHOUT = r"(?:without|w/o|w/out|wo)"
_BOTH = re.compile(rf"\b(?:{_WITH}\s?(?:and|&|/|\+|or)?\s?{_WITHOUT}|{_WITHOUT}\s?(?:and|&|/|\+)?\s?{_WITH})(?![\w/])")
# 'CT chest w/o.'
_BARE_WITHOUT = re.compile(r"\b(?:w/o|wo)\s?[.,;)]?$")
# Said of what contrast does in the body, not of a scan.
_EFFECTS = (
    "enhancement",
    "extravasation",
    "leak",
    "blush",
    "opacification",
    "washout",
    "uptake",
    "reaction",
    "allergy",
)


def scan_parts(clause: Clause, lexicon: Lexicon) -> tuple[frozenset[str], str]:
    """Body parts that the clause says were scanned ('CT of the chest', 'abdominal CT'), and the words; else empty."""
    used: list[int] = []
    first = next((i for i, item in enumerate(clause.items) if item.kind == "ct" or _names_ct(item)), None)
    if first is not None:
        used = _walk(clause, first, 1) or _walk(clause, first, -1)
        if not used and clause.kind(first) == "part":
            used = [first]
        if not used:
            # 'CTPA': the phase names what is scanned too.
            named = [i for i, item in enumerate(clause.items) if item.text in lexicon.phase_parts]
            if named:
                return lexicon.phase_parts[clause.items[named[0]].text], clause.items[named[0]].text
    elif clause.section in ("exam", "technique"):
        used = [i for i, item in enumerate(clause.items) if item.kind == "part"]
    parts = frozenset(part for i in used for part in clause.items[i].value)
    span = [*used, *([] if first is None else [first])]
    return parts, clause.quote(min(span), max(span)) if parts else ""


def _names_ct(item: Item) -> bool:
    """A phase whose words name the scan too: 'CT angiography', 'CTPA', 'native CT'."""
    return item.kind in ("phase", "part") and any(word in item.text for word in ("ct", "angiogr", "scan", "study"))


def _walk(clause: Clause, start: int, step: int) -> list[int]:
    found: list[int] = []
    j = start + step
    gap = 0
    while 0 <= j < len(clause.items) and gap < 8:
        kind = clause.kind(j)
        if kind == "part":
            found.append(j)
            gap = 0
        elif kind not in _WALK or clause.items[j].text == ";":
            break
        gap += 1
        j += step
    return found


class ScanClaims:
    """Regions and phases as the sentences tell them; `region` and `phase` choose when all are read."""

    def __init__(self, anatomy: Anatomy, lexicon: Lexicon, notes: Notes) -> None:
        self.anatomy, self.lexicon, self.notes = anatomy, lexicon, notes
        self._parts: list[tuple[int, frozenset[str], str]] = []
        self._phases: list[tuple[int, str, str]] = []

    @property
    def has_region(self) -> bool:
        return bool(self._parts)

    def read(self, clause: Clause) -> None:
        """Take what a sentence says of the scan; other scans and advice are not asked."""
        if clause.section not in _PRIORITY:
            return
        if any(item.kind == "near" and item.text.startswith("compared") for item in clause.items):
            return
        priority = _PRIORITY[clause.section]
        parts, words = scan_parts(clause, self.lexicon)
        if parts:
            self.notes.heard()
            self._parts.append((priority, parts, words))
        scan = clause.section in ("exam", "technique") or "ct" in clause.kinds
        if (scan or "phase" in clause.kinds) and _BOTH.search(clause.text):
            self._claim(priority, "contrast", "with and without contrast")
        elif scan and _BARE_WITHOUT.search(clause.text):
            self._claim(priority, "non-contrast", "without")
        for i, item in enumerate(clause.items):
            if item.kind == "phase" and "uncertain" not in clause.flags[i] and not self._is_loose(clause, i):
                self._claim(priority, self._value(clause, i), item.text)

    def _claim(self, priority: int, value: str, words: str) -> None:
        if value:
            self.notes.heard()
            self._phases.append((priority, value, words))

    def _value(self, clause: Clause, i: int) -> str:
        """What the phase word at i says where it stands: contrast that is denied is none; '' for nothing."""
        value: str = clause.items[i].value
        denied = "negated" in clause.flags[i]
        if value in ("contrast", "agent") and denied:
            return "non-contrast"
        if value == "agent":
            # 'oral Omnipaque'
            around = {item.text for item in clause.items[max(0, i - 3) : i + 3]}
            named = clause.items[i].text != "contrast" and not around & {"oral", "orally", "rectal", "rectally"}
            return "contrast" if named else ""
        return value

    def _is_loose(self, clause: Clause, i: int) -> bool:
        """'portal hypertension', 'native kidney': a word of a phase that is said of something else than a scan."""
        text = clause.items[i].text
        follower = clause.items[i + 1].text if i + 1 < len(clause.items) else ""
        if follower in _EFFECTS and text.endswith("contrast"):
            return True
        if text not in self.lexicon.loose_phases:
            return False
        scan = clause.section in ("exam", "technique") or "ct" in clause.kinds
        return not scan or clause.kind(i + 1) in ("word", "place", *HEADS)

    def phase(self) -> str:
        """The phase of the best section; 'with contrast' without a phase is portal venous; '' when not stated."""
        timed = [claim for claim in self._phases if claim[1] != "oral"]
        for _, value, words in self._phases:
            if value == "oral":
                self.notes.dropped(words, "oral contrast is no phase")
        if not timed:
            return ""
        best = min(priority for priority, _, _ in timed)
        chosen = max((claim for claim in timed if claim[0] == best), key=lambda claim: _NAMED[claim[1]])
        phase = _READ_AS.get(chosen[1], chosen[1])
        why = {"contrast": " (contrast without a phase)", "delayed": " (the nearest phase of this vocabulary)"}
        self.notes.used(chosen[2], f"phase {phase}{why.get(chosen[1], '')}")
        for _, value, words in timed:
            if _READ_AS.get(value, value) != phase and value in PHASES:
                self.notes.dropped(words, f"one phase a case; {phase} is taken")
        return phase

    def region(self, lesion_organs: Sequence[str], other_organs: Sequence[str]) -> str:
        """The region the report names, else the default that shows the organs it speaks of."""
        if not self._parts:
            candidates = self.lexicon.default_regions
            region = self._widest(candidates, [*lesion_organs, *other_organs])
            self.notes.used("", f"region not stated -> {region}")
            return region
        best = min(priority for priority, _, _ in self._parts)
        _, parts, words = next(claim for claim in self._parts if claim[0] == best)
        if self._parts[0][0] == best and best == 0:  # exam and technique together: the fuller one
            parts, words = max(((p, w) for q, p, w in self._parts if q == best), key=lambda claim: len(claim[0]))
        candidates = next(
            (names for wanted, names in self.lexicon.fields if wanted == parts), list(self.anatomy.regions)
        )
        region = self._widest(candidates, lesion_organs)
        size = self.anatomy.shape[2] * self.anatomy.spacing_mm[2]
        several = f" (one {size:g} mm field a case)" if parts != frozenset(region.split(" and ")) else ""
        self.notes.used(words, f"region {region}{several}")
        for _, other, other_words in self._parts:
            if not other <= parts:
                self.notes.dropped(other_words, "another region was stated before")
        return region

    def _widest(self, candidates: Sequence[str], organs: Sequence[str]) -> str:
        """The first candidate that shows the most of the organs."""
        shown = self.anatomy.region_organs
        return max(candidates, key=lambda region: sum(organ in shown.get(region, ()) for organ in organs))
