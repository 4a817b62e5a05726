"""Findings -> the words of a report: one phrase drawn from the tables for everything that is to be said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from guidegen_data.reports.findings import Findings, Lesion

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ARTICLE = re.compile(r"\b([Aa])(?= (?:[aeioAEIO]|8|1[18](?:\.\d)? ))")
_START = re.compile(r"^[a-z]|(?<=\w{2}[.:] )[a-z]", re.M)
_REPAIRS = (
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" +([.,;:)])"), r"\1"),
    (re.compile(r"[,;:]+\s*([.;])"), r"\1"),
    (re.compile(r"([.;])(?:[ ]*[.;])+"), r"\1"),
)


@dataclass(frozen=True)
class Renderer:
    """The words for one Findings. Everything drawn comes from `rng`, so equal generators give equal texts."""

    phrases: Mapping[str, Any]
    findings: Findings
    rng: np.random.Generator
    # What is drawn once a lesion, so that findings and impression tell of one place and one second diameter.
    _drawn: dict[int, tuple[str, str, float]] = field(default_factory=dict, init=False, repr=False)

    def fill(self, template: str) -> str:
        """The template with its fields replaced, spaces and stops mended."""
        fields: dict[str, Callable[[], str]] = {
            "exam": self.exam,
            "region": self.region,
            "phase": self.phase,
            "patient": self.patient,
            "habitus": self.habitus,
            "history": lambda: substitute(self._pick(self.phrases["history"]), {"patient": self.patient()}),
            "statuses": lambda: " ".join(self.statuses()),
            "lesions": self.lesions,
            "findings": self.found,
            "normals": self.normals,
            "negatives": self.negatives,
            "impression": self.impression,
        }
        return tidy(PLACEHOLDER.sub(lambda match: fields[match.group(1)](), template))

    def exam(self) -> str:
        return substitute(self._pick(self.phrases["exam"]), {"region": self.region(), "phase": self.phase()})

    def region(self) -> str:
        return self._pick(self.phrases["region"].get(self.findings.region, [self.findings.region]))

    def phase(self) -> str:
        return self._pick(self.phrases["phase"][self.findings.phase])

    def patient(self) -> str:
        """A noun phrase: '67-year-old woman'. A decade outside 10..90 is told by a year of age, never as '0s'."""
        decade = self.findings.age_decade
        key = " ".join(filter(None, ("" if decade is None else "age", self.findings.sex))) or "unstated"
        options = self.phrases["patient"][key]
        if decade is None:
            return self._pick(options)
        if not 10 <= decade <= 90:
            options = [o for o in options if "{decade}" not in o] or ["{age}-year-old patient"]
        age = decade + int(self.rng.integers(10 if decade < 100 else 5))
        return substitute(self._pick(options), {"age": str(max(age, 1)), "decade": str(decade)})

    def habitus(self) -> str:
        """A sentence on the patient's build, '' when it is not stated."""
        options = self.phrases["habitus"].get(self.findings.habitus)
        return self._pick(options) if options else ""

    def statuses(self) -> list[str]:
        """A sentence for every organ that is not normal."""
        return [self._status(o, s) for o, s in self.findings.organs.items() if s != "normal"]

    def _status(self, organ: str, status: str) -> str:
        special = self.phrases["organ_status"].get(organ, {}).get(status, [])
        return substitute(self._pick([*special, *self.phrases["status"][status]]), {"organ": self._organ(organ)})

    def _organ(self, organ: str) -> str:
        return self._pick(self.phrases["organ"].get(organ, [organ]))

    def lesions(self) -> str:
        """A sentence for every lesion, or one that there is none."""
        said = self._each_lesion(self.phrases["lesion"])
        return " ".join(said) or self._pick(self.phrases["no_lesion"])

    def _each_lesion(self, options: Sequence[str]) -> list[str]:
        return [self._lesion(i, lesion, options) for i, lesion in enumerate(self.findings.lesions)]

    def _lesion(self, index: int, lesion: Lesion, options: Sequence[str]) -> str:
        if index not in self._drawn:
            place = self.phrases["place"].get(lesion.organ, {}).get(lesion.site, {})
            plain = f"the {lesion.site} of the {lesion.organ}" if lesion.site else f"the {lesion.organ}"
            inside = self._pick(place.get("in", [plain]))
            beside = self._pick(place.get("of", [f"{lesion.organ} {lesion.site}".strip()]))
            self._drawn[index] = inside, beside, float(self.rng.uniform(0.6, 0.95))
        inside, beside, ratio = self._drawn[index]
        words = {
            "size": self._size(lesion.size_mm, ratio),
            "attenuation": self._pick(self.phrases["attenuation"][lesion.attenuation]) if lesion.attenuation else "",
            "noun": self._pick(self.phrases["noun_of"].get(lesion.organ, self.phrases["noun"])),
            "in": inside,
            "of": beside,
        }
        sentence = re.sub(r" +", " ", substitute(self._pick(options), words)).strip()
        return _ARTICLE.sub(r"\1n", sentence[:1].upper() + sentence[1:])

    def _size(self, size_mm: float, ratio: float) -> str:
        """The longest diameter to the millimetre, in mm or cm, at times with the shorter one."""
        longest = round(size_mm)
        short = max(1, round(longest * ratio))
        words = {"mm": f"{longest}", "cm": f"{longest / 10:g}", "short_mm": f"{short}", "short_cm": f"{short / 10:g}"}
        return substitute(self._pick(self.phrases["size"]), words)

    def found(self) -> str:
        """Statuses and lesions, either of them first."""
        parts = [self.lesions(), " ".join(self.statuses())]
        return " ".join(parts if self.rng.random() < 0.5 else parts[::-1])

    def normals(self) -> str:
        """Up to three organs of the field of view that nothing is said of, called normal."""
        said = {*self.findings.organs, *(lesion.organ for lesion in self.findings.lesions)}
        shown = self.findings.anatomy.region_organs.get(self.findings.region, frozenset())
        # Organs without a vocabulary of their own read oddly as lone sentences ('the inferior vena cava is normal').
        free = [o.name for o in self.findings.anatomy.organs if o.name in shown - said and len(o.statuses) > 1]
        count = int(self.rng.integers(0, min(3, len(free)) + 1))
        chosen = self.rng.permutation(len(free))[:count]
        return " ".join(
            substitute(self._pick(self.phrases["normal"]), {"organ": self._organ(free[int(i)])}) for i in chosen
        )

    def negatives(self) -> str:
        """Up to two pertinent negatives."""
        options = self.phrases["negative"]
        chosen = self.rng.permutation(len(options))[: int(self.rng.integers(0, 3))]
        return " ".join(options[int(i)] for i in chosen)

    def impression(self) -> str:
        """Lesions and statuses once more, in short sentences; a sentence that there is nothing else."""
        said = self._each_lesion(self.phrases["impression_lesion"])
        return " ".join([*said, *self.statuses()]) or self._pick(self.phrases["no_finding"])

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]


def substitute(phrase: str, words: Mapping[str, str]) -> str:
    """The phrase with its {fields} replaced once: no format mini-language, no attribute or item access."""
    return PLACEHOLDER.sub(lambda match: words[match.group(1)], phrase)


def tidy(text: str) -> str:
    """Single spaces, no stop after nothing or twice, lines and sentences that begin with a capital."""
    for pattern, repair in _REPAIRS:
        text = pattern.sub(repair, text)
    text = "\n".join(line.strip() for line in text.strip().split("\n"))
    return _START.sub(lambda match: match.group().upper(), text)
