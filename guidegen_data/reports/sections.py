"""Report text -> sentences, each with the section it stands in. Knows layout only, no anatomy."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from guidegen_data.errors import ReportError

MAX_CHARACTERS = 30_000
# What runs on without a stop for longer than this is cut at a space, so that no text costs more than a line a word.
_MAX_SENTENCE = 800
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-") | {ord("×"): "x", ord("✕"): "x", ord("’"): "'"}
_TENTHS = {"": "", " and a half": ".5"}
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SPELLED = re.compile(rf"\b({'|'.join(_WORDS)})( and a half)?(?=[ -](?:mm|cm|milli|centi))", re.I)
_DIGITS = ("zero", *_WORDS[:9])
_POINT = re.compile(rf"\b({'|'.join((*_DIGITS, *_WORDS[9:]))}) point ({'|'.join(_DIGITS)})\b", re.I)
# '2.5 (AP) x 3.1 (TR) cm': the axis that a number is along.
_AXIS = re.compile(
    r"(?<=\d)(\s?(?:[mc]m)?)\s?\((?:ap|trv?|tv|cc|si|lr|ml|rl|[wlhd]|(?:ant|trans|cran)[\w-]*)\)(?=\s?(?:x|by|[mc]m))",
    re.I,
)
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


# Headings that do not announce findings: without one that does, they come to an end unannounced.
_BEFORE = ("exam", "technique", "history", "comparison")


@dataclass(frozen=True)
class Sentence:
    """One sentence, lower case with single spaces; `section` is a heading kind, '' before any heading.

    `opens_line` marks the first of a line that no heading opens, `opens_block` one that a blank line stands before too.
    """

    text: str
    section: str
    opens_line: bool = False
    opens_block: bool = False


class _Paragraph(NamedTuple):
    """A line with what was wrapped of it; `opens_block` where a blank line stands before."""

    text: str
    opens_block: bool


def split_sentences(report: str, headings: Mapping[str, Sequence[str]]) -> list[Sentence]:
    """The report's sentences in order. ReportError when it is too long to be one report."""
    if len(report) > MAX_CHARACTERS:
        raise ReportError(
            f"expected one report of at most {MAX_CHARACTERS} characters, got {len(report)}; give one report at a time."
        )
    text = unicodedata.normalize("NFKC", report).translate(_DASHES)
    text = _POINT.sub(lambda m: f"{(*_DIGITS, *_WORDS[9:]).index(m[1].lower())}.{_DIGITS.index(m[2].lower())}", text)
    text = _SPELLED.sub(lambda m: f"{_WORDS.index(m[1].lower()) + 1}{_TENTHS[(m[2] or '').lower()]}", text)
    text = _AXIS.sub(r"\1", text)
    for _ in range(3):
        text = _NUMBERED.sub(r"\1\2\1 ", text)
    text = _SPACED_LABEL.sub(r"\1: ", re.sub(r"\bi\.\s?v\.", "iv", text, flags=re.I))
    text = text.replace("\r", "\n")
    if not text.replace("\n", " ").isprintable():
        text = "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else " " for c in text)
    pattern, kind_of = _heading_pattern(tuple((kind, tuple(names)) for kind, names in headings.items()))
    sentences: list[Sentence] = []
    section = ""
    for paragraph in _paragraphs(text, pattern):
        position = 0
        opened = paragraph.opens_block
        for match in pattern.finditer(paragraph.text):
            sentences += _sentences(paragraph.text[position : match.start()], section, opened)
            section, opened = kind_of[(match["open"] or match["alone"]).lower()], False
            position = match.end()
        sentences += _sentences(paragraph.text[position:], section, opened)
    return sentences if "findings" in {s.section for s in sentences} else _unheaded(sentences)


def _unheaded(sentences: list[Sentence]) -> list[Sentence]:
    """Without a heading for the findings they follow the other headings unannounced.

    Those rule to the blank line; where there is none, to the end of their line if an impression follows, else one
    sentence.
    """
    freed = _freed(sentences, lambda sentence, _: sentence.opens_block)
    if any(new.section != old.section for new, old in zip(freed, sentences, strict=True)):
        return freed
    if "impression" in {s.section for s in sentences}:
        return _freed(sentences, lambda sentence, _: sentence.opens_line)
    return _freed(sentences, lambda sentence, before: sentence.section == before)


def _freed(sentences: list[Sentence], ends: Callable[[Sentence, str], bool]) -> list[Sentence]:
    """The sentences without the section from where it ends, up to the next heading."""
    done: list[Sentence] = []
    before, free = "", False
    for sentence in sentences:
        free = sentence.section in _BEFORE and sentence.section == before and (free or ends(sentence, before))
        before = sentence.section
        done.append(replace(sentence, section="") if free else sentence)
    return done


@lru_cache(maxsize=4)
def _heading_pattern(headings: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    kind_of = {name: kind for kind, names in headings for name in names}
    names = "|".join(re.escape(n) for n in sorted(kind_of, key=len, reverse=True))
    # A heading is followed by a colon, or stands alone on its line.
    return re.compile(rf"(?<![\w-])(?P<open>{names})\s?:|^(?P<alone>{names})$", re.I), kind_of


def _paragraphs(text: str, heading: re.Pattern[str]) -> list[_Paragraph]:
    """Lines, with wrapped ones joined: a line goes on when it is unfinished or the next begins in lower case."""
    joined: list[_Paragraph] = []
    open_line = False
    blank = False
    for raw in text.split("\n"):
        line = " ".join(raw.split())
        content = _BULLET.sub("", line)
        if not content:
            open_line, blank = False, True
            continue
        bulleted = content != line
        alone = heading.fullmatch(content) is not None
        last = joined[-1].text if joined else ""
        wrapped = open_line and not bulleted and not alone
        if wrapped and (content[0].islower() or _UNFINISHED.search(last) or _looks_wrapped(last)):
            joined[-1] = joined[-1]._replace(text=f"{last} {content}")
        else:
            joined.append(_Paragraph(content, blank))
        open_line, blank = not alone, False
    return joined


def _looks_wrapped(line: str) -> bool:
    return len(line) >= 60 and line[-1] not in ".:;!?"


def _sentences(text: str, section: str, opens_block: bool) -> list[Sentence]:
    found: list[str] = []
    for piece in _END.split(text):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] = f"{found[-1]} {piece}"
        else:
            found.append(piece)
    # Wrapping is slow, and few pieces need it.
    cuts = (textwrap.wrap(piece, _MAX_SENTENCE) if len(piece) > _MAX_SENTENCE else [piece.strip()] for piece in found)
    short = [cut for pieces in cuts for cut in pieces]
    cleaned = [piece for piece in (_BULLET.sub("", piece).lower() for piece in short) if re.search(r"\w", piece)]
    return [Sentence(piece, section, i == 0, i == 0 and opens_block) for i, piece in enumerate(cleaned)]
