"""What a sentence says of lesions: where, how large, how dense, how many, and whether it is a fact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from guidegen_data.reports.clauses import HEADS, Clause, Place
from guidegen_data.reports.lexicon import Lexicon

_PREMODIFIERS = (
    "measure",
    "attenuation",
    "status",
    "size_word",
    "word",
    "place",
    "det",
    "count",
    "many",
    "partial",
    "negation",
)
_FUNCTION_WORDS = ("with", "that", "as", "than", "by", "when")


@dataclass(frozen=True)
class LesionMention:
    """One lesion as written: `place` None when no body part is named; `size_mm` None when no length is given.

    `definite` marks 'the mass', which points back; `doubt` is why it is not to be used ('' when it is).
    """

    place: Place | None
    size_mm: float | None
    attenuation: str
    quote: str
    section: str
    definite: bool = False
    plural: bool = False
    size_word: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class _Head:
    index: int
    first: int
    last: int


def lesion_mentions(
    clause: Clause, context: tuple[Place, ...], lexicon: Lexicon
) -> tuple[list[LesionMention], list[str]]:
    """The lesions of a clause, and the measured things in it that are no lesion, as 'quote: reason'."""
    mentions: list[LesionMention] = []
    dropped: list[str] = []
    for head in _heads(clause):
        if clause.items[head.index].kind == "other":
            if _sizes(clause, head.first, head.last):
                dropped.append(
                    f"{clause.quote(head.first, head.last)}: not a tumour, which is all this vocabulary measures"
                )
            continue
        found, notes = _read_head(clause, head, context, lexicon)
        mentions += found
        dropped += notes
    return mentions, dropped


def _heads(clause: Clause) -> list[_Head]:
    """Nouns that own a stretch of the clause, with that stretch."""
    indices: list[int] = []
    for i, item in enumerate(clause.items):
        if item.kind in HEADS and not (indices and _continues(clause, indices[-1], i)):
            indices.append(i)
    if not indices:
        return []
    starts = [0] + [_premodifier_start(clause, b, a) for a, b in pairwise(indices)]
    ends = [start - 1 for start in starts[1:]] + [len(clause.items) - 1]
    return [_Head(i, a, b) for i, a, b in zip(indices, starts, ends, strict=True)]


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
        if (kind not in _PREMODIFIERS and not comma) or clause.items[i].text in _FUNCTION_WORDS:
            break
        if kind == "place":
            j = clause.skip_back(i - 1, ("det",))
            if clause.kind(j) == "locative":
                # 'and in the spleen a 3 cm lesion' opens with its place; 'in the liver 3 cm lesion' does not.
                return j if j - 1 > stop and clause.kind(j - 1) in ("conj", "punct", "scope_break") else start
        start = i
    return start


def _sizes(clause: Clause, first: int, last: int) -> list[float]:
    items = [i for i in clause.items[first : last + 1] if i.kind == "measure" and i.value.role == "size"]
    return [size for item in items for size in item.value.sizes_mm]


def _read_head(
    clause: Clause, head: _Head, context: tuple[Place, ...], lexicon: Lexicon
) -> tuple[list[LesionMention], list[str]]:
    item = clause.items[head.index]
    segment = clause.items[head.first : head.last + 1]
    start = _premodifier_start(clause, head.index, head.first - 1)
    plural = item.kind == "lesions"
    places, doubtful_place = _hosts(clause, head, context, lexicon)
    densities = [i.value for i in segment if i.kind == "attenuation"]
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
        doubt=_doubt(clause, head.index) or doubtful_place,
    )
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
) -> tuple[list[LesionMention], list[str]]:
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
        notes.append(f"{base.quote}: {len(values)} sizes for {len(slots)} places; the sizes are given in turn")
    if base.plural and number == 1 and not base.doubt:
        notes.append(f"{base.quote}: several lesions without a size each; one is kept")
    pairs = ((slots[k % len(slots)], values[k % len(values)]) for k in range(number))
    return [replace(base, place=place, size_mm=size) for place, size in pairs], notes


def _hosts(clause: Clause, head: _Head, context: tuple[Place, ...], lexicon: Lexicon) -> tuple[list[Place], str]:
    """The places the lesion sits in, and a reason for doubt when the only one is uncertain."""
    before, adjacent = _place_before(clause, head)
    after = _places_after(clause, head)
    implied = clause.items[head.index].value
    found = [clause.items[i].value for i in after]
    if before is not None and found and adjacent:
        found = [_combine(clause.items[before].value, place) for place in found]
    elif before is not None and not found:
        found = [clause.items[before].value]
    elif not found and not _unknown_place(clause, head):
        found = _from_context(context) or ([Place(implied)] if implied else [])
    values = [item.value for item in clause.items[head.first : head.last + 1] if item.kind == "place"]
    sides = [place.side for place in values if place.group == "" and not place.site and place.side]
    found = [_complete(place, sides, implied, context, lexicon) for place in found]
    doubtful = bool(after) and before is None and all(_is_doubtful(clause, head.index, i) for i in after)
    return found, "its place is uncertain" if doubtful else ""


def _is_doubtful(clause: Clause, head: int, place: int) -> bool:
    """'mass possibly in the liver', not 'mass suspicious for cancer in the liver'."""
    for i in range(place - 1, head, -1):
        if clause.kind(i) in HEADS or clause.items[i].text == ",":
            return False
        if clause.kind(i) == "uncertain":
            return True
    return False


def _combine(before: Place, after: Place) -> Place:
    """'renal mass in the left kidney' is one place; 'colon metastasis in the liver' is where 'in' says."""
    if before.group in ("", after.group) or after.group == "":
        group = after.group if after.group != "" else before.group
        site = after.site or before.site
        return Place(group, site, after.side or before.side, explicit=True)
    return after


def _complete(place: Place, sides: list[str], implied: str, context: tuple[Place, ...], lexicon: Lexicon) -> Place:
    """Fill a missing organ from the context or the lesion word, a missing side from elsewhere in the clause."""
    if place.group == "":
        options = [c for c in context if c.group and (not place.site or _has_site(c.group, place.site, lexicon))]
        group = options[0].group if options else implied
        side = place.side or (options[0].side if options and options[0].side != "both" else "")
        place = replace(place, group=group or "", side=side)
    if place.group and not place.side and len(lexicon.groups.get(place.group, ())) > 1 and sides:
        place = replace(place, side=sides[0])
    return place


def _has_site(group: str, site: str, lexicon: Lexicon) -> bool:
    return any(site in organ.sites for organ in lexicon.groups.get(group, ()))


def _place_before(clause: Clause, head: _Head) -> tuple[int | None, bool]:
    """'liver lesion' (adjacent), 'the liver contains a lesion': the last place before that is its subject, if any."""
    adjacent = True
    told = False
    for i in range(head.index - 1, head.first - 1, -1):
        item = clause.items[i]
        if item.kind == "place":
            return (None, False) if _is_beside(clause, i, head.first) else (i, adjacent)
        if item.kind == "conj" or (item.kind == "scope_break" and not item.text.startswith("there")):
            return None, False
        # 'spleen normal, 2 cm mass': the comma ends what is said of the spleen.
        told = told or item.text == ","
        if told and item.kind == "status":
            return None, False
        adjacent = adjacent and item.kind in _PREMODIFIERS and item.text not in _FUNCTION_WORDS
    return None, False


def _is_beside(clause: Clause, place: int, first: int) -> bool:
    j = clause.skip_back(place - 1, ("det",))
    return j >= first and clause.kind(j) == "near"


def _places_after(clause: Clause, head: _Head) -> list[int]:
    """'mass in the liver and the spleen': the first place after that is not merely near, and those joined to it."""
    found: list[int] = []
    near = origin = joined = False
    for i in range(head.index + 1, head.last + 1):
        item = clause.items[i]
        near = near or (item.kind == "near" and clause.kind(i + 1) != "measure")
        origin = origin or item.kind == "history"
        if item.kind == "locative" and origin:
            origin = item.text not in ("in", "within", "to", "involving")
        if item.kind == "place" and not near and not origin:
            if found and (not joined or clause.kind(i + 1) in ("verb", "status")):
                break
            found.append(i)
            joined = False
        elif item.kind in ("conj", "scope_break") or item.text in (",", "/"):
            joined = True
            near = False
        elif found and item.kind not in ("det", "locative", "measure", "punct", "count"):
            break
    return found


def _unknown_place(clause: Clause, head: _Head) -> bool:
    """'in the xyz' with a word no table knows: then nothing may be guessed from the context."""
    for i in range(head.index + 1, head.last):
        text = clause.items[i].text
        if text in ("in", "within", "involving", "inside") or (text == "of" and clause.kind(i + 1) == "det"):
            j = i + 1
            while clause.kind(j) in ("det", "attenuation", "size_word", "status"):
                j += 1
            if clause.kind(j) == "word":
                return True
    return False


def _from_context(context: tuple[Place, ...]) -> list[Place]:
    hosts = [c for c in context if c.group]
    if len(hosts) != 1:
        return []
    return [replace(hosts[0], side="" if hosts[0].side == "both" else hosts[0].side)]
