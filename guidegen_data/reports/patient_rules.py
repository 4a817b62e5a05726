"""Who was scanned: sex and age decade."""

from __future__ import annotations

import re

from guidegen_data.errors import FindingsError
from guidegen_data.reports.clauses import Clause
from guidegen_data.reports.notes import Notes

_DIGIT = re.compile(r"\d")
_AGES = (
    re.compile(r"\b(\d{1,3})\s*-?\s*(?:years?|yrs?|y)\s*[-./]?\s*(?:old\b|of age\b|o\b)"),
    re.compile(r"\bage[d:=]?\s*[:=]?\s*(\d{1,3})\b(?!\s?(?:mm|cm|%))"),
    re.compile(r"\b(\d{2,3})\s?(?:y\s?)?/?\s?[mf]\b(?![/.]?\w)(?!\s(?:catheter|french|sheath|drain|tube))"),
    re.compile(r"\b(?:fe)?male(?: patient)?,? (\d{1,3}) ?(?:years?|yrs?|y)\b"),
    re.compile(r"\b(\d{1,3})[ -]?(?:years?|yrs?)[ /-]?(?:(?:fe)?male|[mf]|(?:wo)?man|lady|gentleman|girl|boy)\b"),
    re.compile(r"\b(?:fe)?male ?/ ?(\d{2,3})\b(?!\s?(?:mm|cm|%))"),
    re.compile(r"\b(?:fe)?male(?: patient)?, ?(\d{1,3})\b(?!\s?(?:mm|cm|%))"),
    re.compile(r"\b(\d{2,3}), (?:fe)?male\b"),
    re.compile(
        r"\b(?:woman|man|lady|gentleman|girl|boy|male|female|patient)(?:,? of|,? aged|,| \()\s?(\d{1,3})\s?"
        r"(?:years?|yrs?|y|\))"
    ),
    re.compile(r"\b(\d)[mf]\b(?!\s(?:catheter|french|sheath|drain|tube))"),
    re.compile(r"\b([1-9]0)\s?-?something\b"),
    re.compile(r"\b([1-9]0|100)'?s\b(?!\s?(?:delay|after|post|/|scan))"),
)
_YOUNG = re.compile(r"\b(?:\d{1,2}[\s-](?:months?|weeks?|days?)[\s-]old|newborn|neonate|infant|toddler)\b")
_TENS = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SPOKEN = re.compile(rf"\b(?:({'|'.join(_TENS)})|({'|'.join(_ORDINALS)}) decade|(teenager|adolescent|teens))\b")
_SEX_LETTER = re.compile(
    r"(?:\b(?:sex|gender)\s*[:=]?\s*|\b\d{2,3}\s?-?(?:y\s?)?[/ ]?|\b\d"
    r"|\b(?:yo|y/o|y\.o\.?|years? old|yrs?|y)[ /]?)([mf])\b"
    r"(?!\s(?:catheter|french|sheath|drain|tube))"
)
_OTHERS = re.compile(r"\b(?:mother|father|sister|brother|husband|wife|son|daughter|family|donor|aunt|uncle)\b")
_POSSESSIVE = re.compile(r"\b(?:her|his)\b")
OLDEST = 109


def age_decade_in(text: str) -> tuple[int, str] | None:
    """Age decade and the words that give it, from one lower-case sentence; None when it tells none."""
    for pattern in _AGES if _DIGIT.search(text) else ():
        match = pattern.search(text)
        if match and int(match.group(1)) <= OLDEST:
            return int(match.group(1)) // 10 * 10, match.group()
    if match := _YOUNG.search(text):
        return 0, match.group()
    if match := _SPOKEN.search(text):
        tens, ordinal, _ = match.groups()
        if tens:
            return (_TENS.index(tens) + 2) * 10, match.group()
        return (_ORDINALS.index(ordinal) * 10 if ordinal else 10), match.group()
    return None


def of_a_relative(clause: Clause) -> bool:
    """Whether the sentence speaks of somebody else: 'her 40-year-old brother'."""
    return _OTHERS.search(clause.text) is not None


class PatientClaims:
    """Sex and age as the sentences tell them, one after another; the first age stands, sexes must agree."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.age_decade: int | None = None
        self._sexes: dict[str, str] = {}
        self._pronouns: dict[str, str] = {}

    def read(self, clause: Clause) -> None:
        """Take what a sentence says of the patient, unless it is of a relative."""
        if of_a_relative(clause) or clause.section == "comparison":
            return
        found = age_decade_in(clause.text)
        if found and self.age_decade is None:
            self.age_decade = found[0]
            self.notes.used(found[1], f"age decade {found[0]}")
        elif found and found[0] != self.age_decade:
            self.notes.dropped(found[1], "another age was stated before")
        for item in clause.items:
            if item.kind in ("sex", "pronoun_sex"):
                self.notes.heard()
            if item.kind == "sex":
                self._sexes.setdefault(item.value, item.text)
            elif item.kind == "pronoun_sex":
                self._pronouns.setdefault(item.value, item.text)
        for match in _POSSESSIVE.finditer(clause.text):
            self._pronouns.setdefault("female" if match.group() == "her" else "male", match.group())
        for match in _SEX_LETTER.finditer(clause.text):
            self.notes.heard()
            self._sexes.setdefault("female" if match.group(1) == "f" else "male", match.group())

    def sex(self) -> str:
        """'female', 'male' or ''; FindingsError when both are stated. Pronouns count only when nothing else does."""
        if len(self._sexes) > 1:
            raise FindingsError("the report calls the patient both female and male; keep one of the two.")
        claims = self._sexes or (self._pronouns if len(self._pronouns) == 1 else {})
        for sex, words in claims.items():
            self.notes.used(words, f"sex {sex}")
            return sex
        return ""
