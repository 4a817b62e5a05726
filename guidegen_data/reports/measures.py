"""Lengths in report text: units, ranges, several dimensions, decimal commas; what each one measures by its context."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

_NUMBER = r"\d{1,3}(?:[.,]\d{1,2})?(?![\d])"
_UNIT = r"(?:mm|millimet(?:er|re)s?|cm|centimet(?:er|re)s?)\b"
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
    r"|reconstructed at)(?: about| approximately)?\s?$"
)
_DISTANCE_AFTER = re.compile(
    r"\s?(?:from|above|below|proximal|distal|away|superior to|inferior to|deep|(?:thick |axial |contiguous )*"
    r"(?:slices?|sections?|images?|cuts)|collimation|reconstruct\w*|intervals?|increments?|slice thickness|margin)\b"
)
_BOUND_BEFORE = re.compile(
    r"(?:[<>]|\b(?:less than|more than|smaller than|larger than|greater than|over|under|exceeding))\s?$"
)
_PRIOR_BEFORE = re.compile(
    r"\b(?:previously|prior|formerly|earlier|had measured|compared (?:to|with)|versus|vs\.?)"
    r"(?: measured| measuring| about| approximately| at| size)?[:(]?\s?$"
)
_PRIOR_AFTER = re.compile(r"\s?(?:previously|before|earlier|on (?:the )?prior|in (?:19|20)\d\d|on \d)\b")
_NOT_A_LENGTH = re.compile(r"(?<![\w.,])-?\d{1,4}(?:[.,]\d+)?\s?(hu|hounsfield units?|ml|cc|msv|kv|kvp|mas)\b")


@dataclass(frozen=True)
class Measure:
    """A length claim at text[start:end]: one size in mm, or several when the text lists several, and its role.

    `role` is 'size' (of a thing now), 'prior' (of an earlier scan), 'distance' (between things, slice thickness),
    'bound' ('less than 2 cm') or 'other' (a quantity that is no length; sizes_mm is then empty).
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
    return sorted(found, key=lambda m: m.start)


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
    return Measure(start, end, _sizes(links, before), _role(before, text[end : end + _REACH]))


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
