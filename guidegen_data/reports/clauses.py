"""One sentence as the rules see it: places merged from organ, site and side words; negation and doubt spread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from guidegen_data.reports.lexicon import Item, Lexicon
from guidegen_data.reports.sections import Sentence

HEADS = ("lesion", "lesions", "other")
_ADJECTIVES = ("attenuation", "status", "size_word", "word", "measure")
# 'the bladder is collapsed by a catheter': no noun after these is one that the organ describes.
_CAUSES = ("due to", "secondary to", "from")  # 'stricture due to a 38 mm tumour': the tumour is there
_NO_ADJECTIVES = (
    "with",
    "containing",
    "by",
    "around",
    "after",
    "due",
    "because",
    "despite",
    "following",
    "during",
    "upstream",
    "downstream",
)
_MERGE_FILLERS = ("of", "the", "in", "its", "within", "on")
_PART_WORDS = ("portion", "part", "aspect", "half", "lobes", "third", "pole", "region", "segment", "segments", "mid")
_DIRECTION = re.compile(
    r"(?:antero|postero|supero|infero|medio|latero)?(?:anterior|posterior|superior|inferior|lateral|medial|ventral|dorsal)"
)
_TREATED = re.compile(
    r"\b(?:status post|s/p|post(?:[ -]op\w*)?(?![ -]?contrast)|underwent|undergoing|treated|\w+ectomy)\b"
)
_FLAG_KINDS = {"negation": "negated", "uncertain": "uncertain", "history": "historic"}
_AFTER_KINDS = {"negation_after": "negated", "uncertain_after": "uncertain"}


@dataclass(frozen=True)
class Place:
    """Somewhere in the body: `group` is an organ name without its side, '' when only a side or site word stands
    there, None for a body part this anatomy does not host. `explicit` says that an organ word was written."""

    group: str | None = ""
    site: str = ""
    side: str = ""
    explicit: bool = False
    bare: bool = False
    plural: bool = False


@dataclass
class Clause:
    """A tagged sentence: `items` with places merged (kind 'place'), `flags[i]` what is said against item i."""

    text: str
    section: str
    items: list[Item]
    flags: list[set[str]]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kind of every item, to search in."""
        return tuple(item.kind for item in self.items)

    def quote(self, first: int, last: int) -> str:
        """The text from item `first` to item `last`, both included."""
        return self.text[self.items[first].start : self.items[last].end]

    def kind(self, i: int) -> str:
        """Kind of item i, '' beyond either end."""
        return self.items[i].kind if 0 <= i < len(self.items) else ""

    def skip_back(self, i: int, kinds: tuple[str, ...]) -> int:
        """The first index at or before i whose kind is not among `kinds` (-1 at the start)."""
        while i >= 0 and self.items[i].kind in kinds:
            i -= 1
        return i


def parse_clause(sentence: Sentence, lexicon: Lexicon) -> Clause:
    """Tag, merge places, spread the triggers."""
    items = _merge_places(list(_without_pairs(lexicon.tag(sentence.text))), lexicon)
    flags: list[set[str]] = [set() for _ in items]
    clause = Clause(sentence.text, sentence.section, items, flags)
    for i, item in enumerate(items):
        if item.text in ("none", "nil") and i and items[i - 1].text == ":":
            # 'New lesions: none.'
            _spread_back(clause, i, "negated")
        if item.kind == "history" and item.text in _CAUSES and clause.kind(i + 1) in ("det", "measure", "count"):
            continue
        if item.kind in _FLAG_KINDS:
            _spread_forward(clause, i, _FLAG_KINDS[item.kind])
        elif item.kind in _AFTER_KINDS:
            _spread_back(clause, i, _AFTER_KINDS[item.kind])
        elif item.kind == "status" and item.value == "absent":
            _negate_lesion_subject(clause, i)
        elif item.text == "for" and (
            clause.kind(i - 1) == "named_status" or _TREATED.search(sentence.text[: item.start])
        ):
            # 'nephrectomy for carcinoma', 'status post resection for cancer'
            _spread_forward(clause, i, "historic")
    if sentence.text.endswith("?"):
        for flag in flags:
            flag.add("uncertain")
    return clause


def _as_place(item: Item, lexicon: Lexicon) -> Place | None:
    if item.kind == "organ":
        return Place(item.value, explicit=True, plural=item.text in lexicon.plurals)
    if item.kind == "site":
        group, site, side = item.value
        return Place(group, site, side, explicit=not site)
    if item.kind == "baresite":
        return Place("", item.value, bare=True)
    if item.kind == "other_organ":
        return Place(None, explicit=True)
    if item.kind == "side":
        return Place(side=item.value)
    return None


def _without_pairs(items: list[Item]) -> Iterator[Item]:
    """'the parotids': both organs, joined by 'and', where the two have no name in common."""
    for item in items:
        if item.kind == "pair":
            first, second = item.value
            yield replace(item, kind="organ", value=first)
            yield replace(item, kind="conj", value="", text="and")
            yield replace(item, kind="organ", value=second)
        else:
            yield item


def _merge_places(items: list[Item], lexicon: Lexicon) -> list[Item]:
    merged: list[Item] = []
    i = 0
    while i < len(items):
        place = _as_place(items[i], lexicon)
        if place is None:
            merged.append(items[i])
            i += 1
            continue
        last = i
        while (step := _next_place(items, last, place, lexicon)) is not None:
            last, place = step
        text = " ".join(item.text for item in items[i : last + 1])
        merged.append(Item("place", place, text, items[i].start, items[last].end))
        i = last + 1
    for j in range(len(merged) - 2):
        _share_organ(merged, j, lexicon)
    return merged


def _share_organ(items: list[Item], j: int, lexicon: Lexicon) -> None:
    """'pancreatic body and tail', 'head and body of the pancreas': one organ word serves both sites."""
    if items[j].kind != "place" or items[j + 2].kind != "place" or items[j + 1].kind != "conj":
        return
    for bare, named in ((j, j + 2), (j + 2, j)):
        place, organ = items[bare].value, items[named].value
        if place.bare and place.group == "" and organ.group and _hosts(organ, place, lexicon):
            items[bare] = replace(items[bare], value=replace(place, group=organ.group, side=organ.side))


def _next_place(items: list[Item], last: int, place: Place, lexicon: Lexicon) -> tuple[int, Place] | None:
    """The place grown by the next anatomical word, if only filler words stand between and the two agree."""
    gap: list[str] = []
    for j in range(last + 1, min(last + 6, len(items))):
        other = _as_place(items[j], lexicon)
        if other is not None:
            # 'kidney left', but not 'spleen left kidney'.
            trailing = items[j].kind == "side" and not gap and place.explicit
            if trailing and (j + 1 == len(items) or _as_place(items[j + 1], lexicon) is None) and not place.side:
                return j, replace(place, side=items[j].value)
            grown = _join(place, other, gap, lexicon)
            return None if grown is None else (j, grown)
        filler = items[j].text in (*_MERGE_FILLERS, *_PART_WORDS, ",", "(")
        # 'left posterolateral bladder wall'
        if not filler and not (items[j].kind == "word" and _DIRECTION.fullmatch(items[j].text)):
            return None
        gap.append(items[j].text)
    return None


def _join(first: Place, second: Place, gap: list[str], lexicon: Lexicon) -> Place | None:
    """Two neighbouring anatomical words as one place; None when they are two places."""
    if first.side and second.side and first.side != second.side:
        return None
    side = first.side or second.side
    listed = "," in gap or "(" in gap
    if second.explicit:
        if listed or first.explicit:
            return None
        if first.group in ("", second.group):
            return replace(second, site=first.site, side=side, bare=first.bare)
        # A written organ overrules the one a site word implies: 'right lobe of the thyroid'.
        return replace(second, side=side) if "of" in gap else None
    if second.site:
        if first.site:
            if (first.group, first.site) == (second.group, second.site):
                return replace(first, side=side)
            # 'apical segment of the lower lobe': the larger part, which comes last, is known better.
            return replace(second, side=side) if "of" in gap and first.group == second.group else None
        if first.group == "":
            return None if listed else replace(second, side=side)
        same = first.group == second.group or (second.bare and _hosts(first, second, lexicon))
        return replace(first, site=second.site, side=side) if same else None
    return replace(first, side=side) if not first.explicit and not listed else None


def _hosts(first: Place, second: Place, lexicon: Lexicon) -> bool:
    organs = lexicon.groups.get(first.group or "", ())
    return any(second.site in organ.sites for organ in organs)


def _spread_forward(clause: Clause, trigger: int, flag: str) -> None:
    for i in range(trigger + 1, len(clause.items)):
        # What an earlier trigger has reached, it has reached to the same end.
        if flag in clause.flags[i] or ends_scope(clause, i):
            return
        clause.flags[i].add(flag)


def ends_scope(clause: Clause, i: int) -> bool:
    """Whether item i ends what a trigger before it governs: 'but', ';', or a comma or 'and' before a new statement."""
    item = clause.items[i]
    if item.kind == "scope_break" or item.text in (";", ".", ")"):
        return True
    if item.text not in (",", "and", "with"):
        return False
    rest = clause.items[i + 1 :]
    for j, after in enumerate(rest):
        if j == 0 and (after.kind in ("measure", "count") or after.text in ("a", "an", "there", "status", "s")):
            return True
        if after.kind in ("verb", "measure", "named_status") and after.text not in (
            "seen",
            "noted",
            "identified",
            "present",
        ):
            return True
        if after.text in (",", ";") or after.kind in ("scope_break", "negation"):
            return False
    return False


def _spread_back(clause: Clause, trigger: int, flag: str) -> None:
    for i in range(trigger - 1, -1, -1):
        item = clause.items[i]
        if item.kind == "scope_break" or item.text == ";":
            return
        clause.flags[i].add(flag)
        # 'There is a liver mass, and the spleen mass is not seen': the statement before the comma stands.
        if item.text in (",", "and") and any(clause.kind(j) in ("verb", "measure") for j in range(i)):
            return


def _negate_lesion_subject(clause: Clause, status: int) -> None:
    """'Focal lesions are absent': the status is of the lesions, not of an organ."""
    j = clause.skip_back(status - 1, ("verb", "word", "det"))
    if clause.kind(j) in HEADS and clause.kind(status - 1) == "verb":
        _spread_back(clause, status, "negated")


def is_host_of_head(clause: Clause, place: int) -> bool:
    """Whether the place is part of a noun phrase about something in it: 'cyst of the spleen', 'liver lesion'."""
    j = clause.skip_back(place - 1, ("det", *_ADJECTIVES))
    if clause.kind(j) == "locative" and any(clause.kind(k) in HEADS for k in range(max(0, j - 8), j)):
        return True
    k = place + 1
    while clause.kind(k) in _ADJECTIVES and clause.items[k].text not in _NO_ADJECTIVES:
        k += 1
    return clause.kind(k) in HEADS


def shared_subject(clause: Clause, i: int) -> int:
    """'the bladder contains a catheter and is empty', said at 'empty': the item both verbs are said of, -1 for none."""
    j = clause.skip_back(i - 1, ("verb", "word", "negation"))
    if clause.kind(j + 1) != "verb" or clause.kind(j) != "conj":
        return -1
    first = next((k for k in range(j) if clause.kind(k) in ("place", *HEADS)), -1)
    told = any(clause.kind(k) == "verb" for k in range(first + 1, j))
    return first if told and clause.kind(first) == "place" else -1
