"""How the patient is built: words of a report, or a body mass index, as slim, average or large."""

from __future__ import annotations

import re

from guidegen_data.reports.clauses import Clause
from guidegen_data.reports.notes import Notes
from guidegen_data.reports.patient_rules import of_a_relative

#: Body mass index in kg/m2: below the first a patient is slim, from the second on large (underweight and obese).
BMI_BOUNDS = (18.5, 30.0)
_BMI = re.compile(
    r"\b(?:bmi|body mass index)\b[^\d;.]{0,14}?(\d{2}(?:[.,]\d{1,2})?)(?![\d-])(?!\s?(?:mm|cm|year|y/?o))"
)
_PLAUSIBLE_BMI = (10.0, 90.0)
# Between 'thin' and 'woman' there may stand an age or a word, never another noun of the lexicon.
_BETWEEN = ("word", "punct", "measure", "count")


class HabitusClaims:
    """The first statement that is a fact stands; a later one that differs is noted."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.habitus = ""

    def read(self, clause: Clause) -> None:
        """Take what a sentence says of the patient's build, unless it is of a relative."""
        if of_a_relative(clause):
            return
        for i, item in enumerate(clause.items):
            if item.kind == "habitus" or (item.kind == "habitus_word" and _of_the_patient(clause, i)):
                self._claim(item.value, item.text, clause.flags[i])
        for match in _BMI.finditer(clause.text):
            bmi = float(match.group(1).replace(",", "."))
            if _PLAUSIBLE_BMI[0] <= bmi <= _PLAUSIBLE_BMI[1]:
                low, high = BMI_BOUNDS
                self._claim("slim" if bmi < low else "large" if bmi >= high else "average", match.group(), set())

    def _claim(self, value: str, words: str, flags: set[str]) -> None:
        self.notes.heard()
        if flags & {"negated", "uncertain"}:
            self.notes.dropped(words, "the patient's build is denied or uncertain here")
        elif not self.habitus:
            self.habitus = value
            self.notes.used(words, f"habitus {value}")
        elif value != self.habitus:
            self.notes.dropped(words, f"another habitus was stated before; {self.habitus} is taken")


def _of_the_patient(clause: Clause, i: int) -> bool:
    """'thin, 67-year-old woman', not 'thin pancreas': a person follows, or nothing but commas and 'and'."""
    for j in range(i + 1, min(len(clause.items), i + 9)):
        if clause.kind(j) in ("sex", "habitus"):
            return True
        if clause.kind(j) not in _BETWEEN:
            return False
    return False
