"""What a sentence says of lesions: where, how large, how dense, how many, and whether it is a fact."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from guidegen_data.reports.clauses import HEADS, Clause, Place
from guidegen_data.reports.lesion_places import FUNCTION_WORDS, PREMODIFIERS, Head, hosts_of, unknown_place
from guidegen_data.reports.lexicon import Lexicon

# What a lesion is likely to be is taken, what it may be is not.
_LIKELY = ("likely", "probably", "probable", "presumed", "presumably", "suggestive of", "suggesting", "suggests")
_PERHAPS = ("may", "might", "may be", "may represent", "could be", "could represent", "possible", "possibly", "whether",
            "cannot exclude", "rule out", "?", "differential", "if")  # fmt: skip
_CHOICES = ("or", "versus", "vs")
_BEFORE_NOUN = ("word", "det", "attenuation", "size_word", "partial", "status", "neutral", "verb", "count", "many")
_LENGTH_BEFORE = re.compile(r"\b(?:over|length of|long segment of)(?: a length of| about| approximately)*\s?$")
_LENGTH_AFTER = re.compile(r"\s?(?:long\b|in length|length)")
_FURTHER = ("second", "third", "another", "additional", "further", "smaller", "larger")
_PURPOSES = ("staging", "restaging", "screening", "surveillance", "protocol", "follow up", "workup", "work up")


@dataclass(frozen=True)
class LesionMention:
    """One lesion as written: `place` None when no body part is named; `size_mm` None when no length is given.

    `definite` marks 'the mass', which points back, `further` 'a second mass', which is where the one before is;
    `diagnosis` a noun that names a disease more than a thing. `doubt` is why it is not to be used ('' when it is).
    """

    place: Place | None
    size_mm: float | None
    attenuation: str
    quote: str
    section: str
    definite: bool = False
    plural: bool = False
    further: bool = False
    diagnosis: bool = False
    size_word: str = ""
    doubt: str = ""


def lesion_mentions(
    clause: Clause, context: tuple[Place, ...], lexicon: Lexicon
) -> tuple[list[LesionMention], list[tuple[str, str]]]:
    """The lesions of a clause, and (words, reason) of what in it is measured or listed and not used."""
    mentions: list[LesionMention] = []
    dropped: list[tuple[str, str]] = []
    for head in _heads(clause, lexicon):
        if said_benign(clause, head.index + 1, lexicon):
            dropped.append((clause.quote(head.first, head.last), "it is said to be no tumour"))
            continue
        if clause.items[head.index].kind == "other" and not _grows_along(clause, head):
            if _sizes(clause, head.first, head.last):
                dropped.append(
                    (clause.quote(head.first, head.last), "not a tumour, which is all this vocabulary measures")
                )
            continue
        found, notes = _read_head(clause, head, context, lexicon)
        mentions += found
        dropped += notes
    return mentions, dropped


def _heads(clause: Clause, lexicon: Lexicon) -> list[Head]:
    """Nouns that own a stretch of the clause, with that stretch."""
    indices: list[int] = []
    for i, item in enumerate(clause.items):
        if item.text in lexicon.weak_lesions and not _is_strong(clause, i):
            continue
        if item.kind in HEADS and not (indices and _continues(clause, indices[-1], i)):
            indices.append(i)
    if not indices:
        return []
    starts = [0] + [_premodifier_start(clause, b, a) for a, b in pairwise(indices)]
    ends = [start - 1 for start in starts[1:]] + [len(clause.items) - 1]
    return [Head(i, a, b) for i, a, b in zip(indices, starts, ends, strict=True)]


def said_benign(clause: Clause, start: int, lexicon: Lexicon) -> bool:
    """Whether the words from `start` on say of a lesion that it is a cyst, an abscess, a scar: 'likely a simple cyst'.

    What it may or could be, or is next to another choice, does not count.
    """
    claimed = -1
    for i in range(start, len(clause.items)):
        item = clause.items[i]
        if item.text in lexicon.benign and item.kind in ("other", "place"):
            choice = any(after.text in _CHOICES for after in clause.items[i + 1 : i + 3])
            return claimed >= 0 and not choice and "negated" not in clause.flags[i]
        if item.kind == "characterising" or item.text in _LIKELY:
            claimed = i
        elif item.kind == "verb" and item.text in ("is", "are"):
            # 'the lesion is a cyst', not 'the lesion is stable. A cyst ...'
            claimed = i if clause.kind(i + 1) in ("det", "word", "other") else -1
        elif item.kind in ("lesion", "lesions", "scope_break") or item.text in (*_CHOICES, *_PERHAPS, ";", "and"):
            claimed = -1
            if item.kind != "punct":
                return False
        elif claimed >= 0 and item.kind not in _BEFORE_NOUN:
            claimed = -1
    return False


def _grows_along(clause: Clause, head: Head) -> bool:
    """'thickening of the antrum, 6 cm long, consistent with the known tumour': a tumour as long as that."""
    after = range(head.index + 1, head.last + 1)
    named = [i for i in after if clause.kind(i) in ("lesion", "lesions") and not clause.flags[i]]
    if "thickening" not in clause.items[head.index].text or not named:
        return False
    claimed = any(clause.kind(i) == "characterising" for i in range(head.index, named[0]))
    return claimed and any(_is_long(clause, i) for i in after if clause.kind(i) == "measure")


def _is_long(clause: Clause, i: int) -> bool:
    item = clause.items[i]
    return item.value.role in ("size", "bound") and (
        _LENGTH_BEFORE.search(clause.text[: item.start]) is not None
        or _LENGTH_AFTER.match(clause.text[item.end :]) is not None
    )


def _is_strong(clause: Clause, i: int) -> bool:
    """Whether a noun that may mean anything ('focus', 'primary') is a lesion here: it has a length or a density, and
    says neither what it is made of ('focus of air') nor what another noun is ('primary tumour')."""
    if clause.kind(i + 1) in ("word", *HEADS):
        return clause.kind(i + 1) == "word" and _measured(clause, i)
    made_of = clause.items[i + 2].kind if clause.kind(i + 1) == "locative" and i + 2 < len(clause.items) else ""
    if clause.items[i].text != "primary" and made_of in ("other", "word") and clause.items[i + 1].text == "of":
        return False
    return _measured(clause, i)


def _measured(clause: Clause, i: int) -> bool:
    """Whether a density or a length is said of item i, with no other noun between."""
    for step in (1, -1):
        j = i + step
        while 0 <= j < len(clause.items) and clause.kind(j) not in HEADS and clause.items[j].text != ";":
            if clause.kind(j) == "attenuation" or (
                clause.kind(j) == "measure" and clause.items[j].value.role == "size"
            ):
                return True
            j += step
    return False


def _continues(clause: Clause, head: int, i: int) -> bool:
    """Whether noun i says more of the thing at `head`: 'mass lesion', 'mass (HCC)', 'mass suspicious for cancer'."""
    between = clause.items[head + 1 : i]
    if all(item.kind == "punct" and item.text in "(/" for item in between):
        return True
    start = _premodifier_start(clause, i, head)
    fresh = any(item.kind in ("measure", "count", "many") for item in clause.items[start:i])
    if any(item.kind in ("characterising", "uncertain", "history") for item in between) and not fresh:
        return clause.items[i].kind != "other" and (
            not clause.flags[i] & {"negated"} or bool(clause.flags[head] & {"negated"})
        )
    if clause.items[i].kind == "other" and clause.items[head].kind != "other":
        # 'mass with calcification' is one thing, 'mass and a 5 mm stone' two.
        return not (fresh and clause.kind(start - 1) in ("conj", "punct", "scope_break"))
    return False


def _premodifier_start(clause: Clause, head: int, stop: int) -> int:
    """Index where the noun phrase of `head` begins, after `stop`."""
    start = head
    while start - 1 > stop:
        i = start - 1
        kind = clause.kind(i)
        comma = clause.items[i].text == "," and clause.kind(i - 1) in ("attenuation", "status", "size_word", "word")
        if (kind not in PREMODIFIERS and not comma) or clause.items[i].text in FUNCTION_WORDS:
            break
        if kind == "place":
            j = clause.skip_back(i - 1, ("det",))
            if clause.kind(j) == "locative":
                # 'and in the spleen a 3 cm lesion' opens with its place; 'in the liver 3 cm lesion' does not.
                return j if j - 1 > stop and clause.kind(j - 1) in ("conj", "punct", "scope_break") else start
        start = i
    return start


def _sizes(clause: Clause, first: int, last: int) -> list[float]:
    told = [i for i in clause.items[first : last + 1] if i.kind == "measure"]
    # 'under 2 cm (17 mm)': a bound counts only where nothing else is said.
    items = [i for i in told if i.value.role == "size"] or [i for i in told if i.value.role == "bound"]
    return [size for item in items for size in item.value.sizes_mm]


def _read_head(
    clause: Clause, head: Head, context: tuple[Place, ...], lexicon: Lexicon
) -> tuple[list[LesionMention], list[tuple[str, str]]]:
    item = clause.items[head.index]
    segment = clause.items[head.first : head.last + 1]
    start = _premodifier_start(clause, head.index, head.first - 1)
    plural = item.kind == "lesions"
    places, doubtful_place = hosts_of(clause, head, context, lexicon)
    stated = "negated" not in clause.flags[head.index]
    densities = [
        item.value
        for item, flags in zip(segment, clause.flags[head.first : head.last + 1], strict=True)
        if item.kind == "attenuation" and not (stated and "negated" in flags)
    ]
    words = [i.text for i in clause.items[start : head.index] if i.text in lexicon.size_mm]
    base = LesionMention(
        place=None,
        size_mm=None,
        attenuation=densities[0] if densities else "",
        quote=clause.quote(head.first, head.last),
        section=clause.section,
        definite=any(i.kind == "det" and i.value == "definite" for i in clause.items[start : head.index]),
        plural=plural,
        size_word=words[0] if words else "",
        further=not unknown_place(clause, head) and any(i.text in _FURTHER for i in clause.items[start : head.index]),
        diagnosis=item.text in lexicon.diagnoses,
        doubt=_doubt(clause, head.index) or doubtful_place,
    )
    if head.index + 1 < len(clause.items) and clause.items[head.index + 1].text in _PURPOSES:
        # 'HCC surveillance'
        base = replace(base, doubt=base.doubt or "the purpose of the scan, not a finding of it")
    count = next((i.value for i in clause.items[start : head.index] if i.kind == "count"), 1)
    return _expand(base, places, _sizes(clause, head.first, head.last), count if plural else 1)


def _doubt(clause: Clause, i: int) -> str:
    flags = clause.flags[i]
    if "negated" in flags:
        return "negated"
    if "uncertain" in flags:
        return "uncertain, not stated as a fact"
    if "historic" in flags or clause.section in ("history", "comparison"):
        return "history, not a finding of this scan"
    if clause.section in ("recommendation", "technique", "exam"):
        return f"stands under {clause.section}, not under findings"
    return ""


def _expand(
    base: LesionMention, places: list[Place], sizes: list[float], count: int
) -> tuple[list[LesionMention], list[tuple[str, str]]]:
    """One mention for every lesion meant: sizes and places are paired, or the one repeated over the other."""
    if not base.plural:
        distinct = {(p.group, p.side) for p in places}
        if len(places) > 1 and len(sizes) != len(places) and len(distinct) == 1:
            places = places[:1]
        if len(places) < 2 and len(sizes) > 1:
            sizes = [max(sizes)]
    slots: list[Place | None] = [*places] or [None]
    values: list[float | None] = [*sizes] or [None]
    notes = []
    number = max(len(slots), len(values), count)
    if len(slots) > 1 and len(values) > 1 and len(slots) != len(values):
        notes.append((base.quote, f"{len(values)} sizes for {len(slots)} places; the sizes are given in turn"))
    if base.plural and number == 1 and not base.doubt:
        notes.append((base.quote, "several lesions without a size each; one is kept"))
    pairs = ((slots[k % len(slots)], values[k % len(values)]) for k in range(number))
    return [replace(base, place=place, size_mm=size) for place, size in pairs], notes
