"""The length of an organ itself: 'the left kidney measures 11 cm and contains a 2 cm mass' tells two lengths."""

from __future__ import annotations

from dataclasses import replace

from guidegen_data.reports.clauses import HEADS, Clause
from guidegen_data.reports.lesion_places import FUNCTION_WORDS

# No lesion of an organ that is named alone before a length is told so; shorter ones may be either's.
_SURELY_MM = 60.0
_LENGTH_VERBS = ("is", "are", "was", "were", "measures", "measure", "measuring", "measured", "remains", "appears")
_BETWEEN = ("verb", "status", "punct", "word", "neutral", "size_word", "locative", "conj")
_IN_A_PHRASE = ("measure", "attenuation", "status", "size_word", "word", "partial", "punct")


def mark_own_lengths(clause: Clause) -> None:
    """Gives lengths that an organ is said to have the role 'organ', so that no lesion of the clause takes them."""
    if "measure" not in clause.kinds or set(HEADS).isdisjoint(clause.kinds):
        return
    for i, item in enumerate(clause.items):
        if item.kind == "measure" and item.value.role == "size" and _is_own(clause, i):
            clause.items[i] = replace(item, value=replace(item.value, role="organ"))


def _is_own(clause: Clause, i: int) -> bool:
    head = next((j for j in range(i + 1, len(clause.items)) if clause.kind(j) in HEADS), None)
    if head is None or any(kind in HEADS for kind in clause.kinds[:i]) or _in_phrase(clause, i, head):
        return False
    owner = clause.skip_back(i - 1, _BETWEEN)
    if clause.kind(owner) == "named_status":
        return True
    if clause.kind(owner) != "place" or not clause.items[owner].value.group or clause.items[owner].value.site:
        return False
    between = clause.items[owner + 1 : i]
    if any(item.kind == "verb" and item.text not in _LENGTH_VERBS for item in between):
        return False
    told = any(item.kind == "status" or item.text in _LENGTH_VERBS for item in between)
    sizes = sum(item.kind == "measure" and item.value.role == "size" for item in clause.items[i + 1 :])
    return told or sizes > 0 or max(clause.items[i].value.sizes_mm) >= _SURELY_MM


def _in_phrase(clause: Clause, i: int, head: int) -> bool:
    """Whether the length at i is an adjective of the noun: 'spleen: 3 cm hypodense lesion'."""
    between = clause.items[i + 1 : head]
    return all(item.kind in _IN_A_PHRASE and item.text not in (*FUNCTION_WORDS, ",", ";", ":", ")") for item in between)
