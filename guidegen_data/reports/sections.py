"""Report text -> sentences, each with the section it stands in. Knows layout only, no anatomy."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from guidegen_data.errors import ReportError

MAX_CHARACTERS = 30_000
# What runs on without a stop for longer than this is cut at a space, so that no text costs more than a line a word.
_MAX_SENTENCE = 800
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-") | {ord("×"): "x", ord("✕"): "x", ord("’"): "'"}
_TENTHS = {"": "", " and a half": ".5"}
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SPELLED = re.compile(rf"\b({'|'.join(_WORDS)})( and a half)?(?=[ -](?:mm|cm|milli|centi))", re.I)
_SPACED_LABEL = re.compile(r"(?:^|(?<=[.!;] ))((?:[A-Za-z/]+ ){1,4})- (?=\w)", re.M)
_PART = r"(?:[1-8][ab]?|[iv]{1,4}[ab]?)"
# 'segments 4 (18 mm) and 7 (25 mm)': each number is given the word.
_NUMBERED = re.compile(
    rf"\b(segments?|seg)(\.? {_PART}(?: \([^()]{{0,40}}\))?(?:,| and| &|/| \+) ?)(?={_PART}\b(?!\s?(?:mm|cm|[.,]\d)))",
    re.I,
)
_BULLET = re.compile(r"^\s*(?:\d{1,2}[.)](?=\s)|[-*•#>]+)\s*")
_UNFINISHED = re.compile(
    r"(?:,|\b(?:the|a|an|of|in|and|or|with|without|no|to|at|is|are|measuring|by|x|for|within))\s*$", re.I
)
_END = re.compile(r"(?<=[.!;])\s+|(?<=\w\?)\s+|(?<=[a-z)])\.(?=[A-Z])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:approx|dr|vs|seg|ca|e\.g|i\.e|y\.o|s\.p|max|min|diam|fig|incl)|\b[a-z]\.[a-z])\.$", re.I
)


@dataclass(frozen=True)
class Sentence:
    """One sentence, lower case with single spaces; `section` is a heading kind, '' before any heading."""

    text: str
    section: str


def split_sentences(report: str, headings: Mapping[str, Sequence[str]]) -> list[Sentence]:
    """The report's sentences in order. ReportError when it is too long to be one report."""
    if len(report) > MAX_CHARACTERS:
        raise ReportError(
            f"expected one report of at most {MAX_CHARACTERS} characters, got {len(report)}; give one report at a time."
        )
    text = unicodedata.normalize("NFKC", report).translate(_DASHES)
    text = _SPELLED.sub(lambda m: f"{_WORDS.index(m[1].lower()) + 1}{_TENTHS[(m[2] or '').lower()]}", text)
    for _ in range(3):
        text = _NUMBERED.sub(r"\1\2\1 ", text)
    text = _SPACED_LABEL.sub(r"\1: ", re.sub(r"\bi\.\s?v\.", "iv", text, flags=re.I))
    text = "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else " " for c in text.replace("\r", "\n"))
    pattern, kind_of = _heading_pattern(tuple((kind, tuple(names)) for kind, names in headings.items()))
    sentences: list[Sentence] = []
    section = ""
    for paragraph in _paragraphs(text, pattern):
        position = 0
        for match in pattern.finditer(paragraph):
            sentences += _sentences(paragraph[position : match.start()], section)
            section = kind_of[(match["open"] or match["alone"]).lower()]
            position = match.end()
        sentences += _sentences(paragraph[position:], section)
    return sentences if {"findings", "impression"} & {s.section for s in sentences} else _unheaded(sentences)


def _unheaded(sentences: list[Sentence]) -> list[Sentence]:
    """Without a heading for the findings they follow the other headings unannounced: each rules one sentence then."""
    before = ["", *(s.section for s in sentences)]
    return [
        replace(sentence, section="") if sentence.section == last else sentence
        for sentence, last in zip(sentences, before, strict=False)
    ]


@lru_cache(maxsize=4)
def _heading_pattern(headings: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    kind_of = {name: kind for kind, names in headings for name in names}
    names = "|".join(re.escape(n) for n in sorted(kind_of, key=len, reverse=True))
    # A heading is followed by a colon, or stands alone on its line.
    return re.compile(rf"(?<![\w-])(?P<open>{names})\s?:|^(?P<alone>{names})$", re.I), kind_of


def _paragraphs(text: str, heading: re.Pattern[str]) -> list[str]:
    """Lines, with wrapped ones joined: a line goes on when it is unfinished or the next begins in lower case."""
    joined: list[str] = []
    open_line = False
    for raw in text.split("\n"):
        line = " ".join(raw.split())
        content = _BULLET.sub("", line)
        if not content:
            open_line = False
            continue
        bulleted = content != line
        alone = heading.fullmatch(content) is not None
        wrapped = open_line and not bulleted and not alone
        if wrapped and (content[0].islower() or _UNFINISHED.search(joined[-1]) or _looks_wrapped(joined[-1])):
            joined[-1] = f"{joined[-1]} {content}"
        else:
            joined.append(content)
        open_line = not alone
    return joined


def _looks_wrapped(line: str) -> bool:
    return len(line) >= 60 and line[-1] not in ".:;!?"


def _sentences(text: str, section: str) -> list[Sentence]:
    found: list[str] = []
    for piece in _END.split(text):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] = f"{found[-1]} {piece}"
        else:
            found.append(piece)
    short = [cut for piece in found for cut in textwrap.wrap(piece, _MAX_SENTENCE)]
    cleaned = (_BULLET.sub("", piece).lower() for piece in short)
    return [Sentence(piece, section) for piece in cleaned if re.search(r"\w", piece)]
