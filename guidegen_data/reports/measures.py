"""Lengths in report text: units, ranges, several dimensions, decimal commas; what each one measures by its context."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

_NUMBER = r"\d{1,3}(?:[.,]\d{1,2})?(?![\d])"
_UNIT = r"(?:mms?|millimet(?:er|re)s?|cms?|centimet(?:er|re)s?)\b"
_CHAIN = re.compile(
    rf"(?<![\w.,/])({_NUMBER})\s?({_UNIT})?(?:\s?(?:x|by|\*|-|to|and|or|,|/)\s?{_NUMBER}\s?(?:{_UNIT})?)*"
)
_LINK = re.compile(rf"\s?(x|by|\*|-|to|and|or|,|/)?\s?({_NUMBER})\s?({_UNIT})?")

# No phrase that says what a length is of is longer; looking further would cost the square of the sentence.
_REACH = 80
_TIMES = ("x", "by", "*")
_BETWEEN = re.compile(r"\bbetween\s?$")

# A number after these counts something and is no length.
_COUNTS = re.compile(
    r"\b(?:segments?|seg|levels?|series|images?|slices?|grade|stage|t|n|m|no|figure|ribs?|in|on)\W{0,2}$"
)
_DISTANCE_BEFORE = re.compile(
    r"\b(?:thickness(?: of)?|collimation(?: of)?|every|distance(?: of)?|pitch|interval(?: of)?|margin of"
    r"|reconstructed at)(?: about| approximately| up to)?\s?$"
)
_DISTANCE_AFTER = re.compile(
    r"\s?(?:from(?! \d)|thick(?:ness)?\b|in thickness|above|below|proximal|distal|away|superior to|inferior to|deep"
    r"|(?:thick |axial |contiguous )*(?:slices?|sections?|images?|cuts)|collimation|reconstruct\w*|intervals?"
    r"|increments?|slice thickness|margin)\b"
)
_BOUND_BEFORE = re.compile(
    r"(?:[<>]|\b(?:less than|more than|smaller than|larger than|greater than|over|under|exceeding))\s?$"
)
_THEN = r"(?:previous(?:ly)?|prev|prior(?:ly)?|formerly|earlier|initial(?:ly)?|originally|baseline|nadir|last)"
_PRIOR_BEFORE = re.compile(
    rf"\b(?:{_THEN}|had measured|had been|used to (?:be|measure)|compared (?:to|with)|versus|vs\.?)"
    rf"(?: (?:{_THEN}|the|a|size|values?|measure(?:d|ments?)|measuring|dimensions?|diameter|study|scan|exam(?:ination)?"
    r"|ct|was|were|of|at|to|in|about|approximately)){0,6}[:,(]?\s?$"
)
_PRIOR_AFTER = re.compile(
    rf"\s?(?:at |in |on )?(?:the )?(?:{_THEN}|before|in (?:19|20)\d\d|on \d"
    r"|\w+ (?:days?|weeks?|months?|years?) (?:ago|before|earlier))\b(?! (?:to|the)\b)"
)
_FROM_BEFORE = re.compile(r"\b(?:up|down|increased|decreased|grown|shrunk|enlarged|reduced) from\s?$")
# What these words stand before is of now, and what one clause said before them of then: '15 mm nodule now 9 mm'.
_NOW_BEFORE = re.compile(
    r"\b(?:now|currently|today|at present|presently"
    r"|(?:increased|decreased|grown|shrunk|enlarged|reduced|regressed|progressed)(?: \w+){0,3}? to)"
    r"(?: (?:is|are|measures?|measuring|at|about|approximately|to|only|up)){0,4}[:,(]?\s?$"
)
_NEW_STATEMENT = re.compile(r"[,;]| and ")
# '32 mm (was 41 mm)', 'to 32 mm from 20 mm': after a size of now, that of then.
_WAS_BEFORE = re.compile(r"(?:[(,;] ?(?:it |this )?(?:was|were)|\bfrom)(?: about| approximately)?\s?$")
_NOT_A_LENGTH = re.compile(r"(?<![\w.,])-?\d{1,4}(?:[.,]\d+)?\s?(hu|hounsfield units?|ml|cc|msv|kv|kvp|mas)\b")


@dataclass(frozen=True)
class Measure:
    """A length claim at text[start:end]: one size in mm, or several when the text lists several, and its role.

    `role` is 'size' (of a thing now), 'prior' (of an earlier scan), 'distance' (between things, slice thickness),
    'bound' ('less than 2 cm'), 'organ' (of an organ itself) or 'other' (no length; sizes_mm is then empty).
    """

    start: int
    end: int
    sizes_mm: tuple[float, ...]
    role: str = "size"


def find_measures(text: str) -> list[Measure]:
    """Every quantity in one lower-case sentence whose spaces are single, in order."""
    found = [Measure(m.start(), m.end(), (), "other") for m in _NOT_A_LENGTH.finditer(text)]
    for match in _CHAIN.finditer(text):
        found += _measures_of(text, match)
    return _dated(text, sorted(found, key=lambda m: m.start))


def _dated(text: str, measures: list[Measure]) -> list[Measure]:
    """The measures with the role 'prior' for sizes that the others of the sentence show to be of an earlier scan."""
    dated = list(measures)
    for i, measure in enumerate(dated):
        earlier = [j for j in range(i) if dated[j].role == "size"]
        before = text[max(0, measure.start - _REACH) : measure.start]
        if measure.role != "size" or not earlier:
            continue
        if _WAS_BEFORE.search(before):
            dated[i] = replace(measure, role="prior")
        elif (now := _NOW_BEFORE.search(before)) is not None:
            told = text[dated[earlier[-1]].end : measure.start - len(now.group())]
            if not _NEW_STATEMENT.search(told):
                dated[earlier[-1]] = replace(dated[earlier[-1]], role="prior")
    return dated


class _Link(NamedTuple):
    """One number of a chain: what joins it to the one before, its value and unit, and its span in the sentence."""

    joint: str
    number: str
    unit: str
    start: int
    end: int


def _measures_of(text: str, match: re.Match[str]) -> list[Measure]:
    links = [
        _Link(m[1] or "", m[2], m[3] or "", match.start() + m.start(2), match.start() + m.end())
        for m in _LINK.finditer(match.group())
    ]
    if len(links) > 1 and not links[0].unit and links[1].joint not in _TIMES and _COUNTS.search(text[: links[0].start]):
        links = links[1:]
    while links and not links[-1].unit:
        links.pop()
    groups: list[list[_Link]] = []
    between = _BETWEEN.search(text[: match.start()])
    for link in links:
        # '30 mm, 5 cm from the anal verge': lengths with units of their own may play different parts.
        if not groups or (groups[-1][-1].unit and link.joint in ("", ",", "and", "/") and not between):
            groups.append([])
        groups[-1].append(link)
    return [_measure(text, group) for group in groups]


def _measure(text: str, links: list[_Link]) -> Measure:
    start, end = links[0].start, links[-1].end
    before = text[max(0, start - _REACH) : start]
    role = _role(before, text[end : end + _REACH])
    # 'decreased from 3 cm' tells the old size, 'from 3 cm to 2 cm' the new one too.
    if role == "size" and _FROM_BEFORE.search(before) and all(link.joint != "to" for link in links):
        role = "prior"
    return Measure(start, end, _sizes(links, before), role)


def _sizes(links: list[_Link], before: str) -> tuple[float, ...]:
    """Units run backwards over bare numbers; 'x' keeps the longest, a range its mean, 'from a to b' b, a list all."""
    unit = links[-1].unit
    values: list[tuple[str, float]] = []
    for link in reversed(links):
        unit = link.unit or unit
        scale = 10.0 if unit.startswith("c") else 1.0
        values.append((link.joint, float(link.number.replace(",", ".")) * scale))
    values.reverse()
    grown = re.search(r"\bfrom\s?$", before) is not None
    between = _BETWEEN.search(before) is not None
    sizes = [[values[0][1]]]
    for joint, value in values[1:]:
        if joint in _TIMES:
            sizes[-1][-1] = max(sizes[-1][-1], value)
        elif joint == "to" and grown:
            sizes[-1] = [value]
        elif joint in ("-", "to", "or") or (joint == "and" and between):
            sizes[-1].append(value)
        else:
            sizes.append([value])
    return tuple(round(sum(group) / len(group), 2) for group in sizes)


def _role(before: str, after: str) -> str:
    if _PRIOR_BEFORE.search(before) or _PRIOR_AFTER.match(after):
        return "prior"
    if _DISTANCE_BEFORE.search(before) or _DISTANCE_AFTER.match(after):
        return "distance"
    return "bound" if _BOUND_BEFORE.search(before) else "size"
