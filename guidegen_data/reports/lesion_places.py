"""Where a lesion sits: the place of its noun, of the words around it, of the sentence before."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guidegen_data.reports.clauses import HEADS, Clause, Place
from guidegen_data.reports.lexicon import Lexicon

PREMODIFIERS = (
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
FUNCTION_WORDS = ("with", "that", "as", "than", "by", "when")
_LARGEST = ("largest", "biggest", "dominant")
_INSIDE = ("in", "within", "inside", "involving", "to", "into", "affecting", "replacing")
# 'one in segment 2 (14 mm), the other in segment 8 (22 mm)'
_OTHERS = ("other", "another", "second", "third", "one", "latter", "former", "further", "next", "last")


@dataclass(frozen=True)
class Head:
    """A noun (item `index`) with the stretch of the clause it owns, items `first` to `last`."""

    index: int
    first: int
    last: int


def hosts_of(clause: Clause, head: Head, context: tuple[Place, ...], lexicon: Lexicon) -> tuple[list[Place], str]:
    """The places the lesion sits in, and a reason for doubt when the only one is uncertain."""
    before, adjacent = _place_before(clause, head.index - 1, head.first)
    after = _places_after(clause, head, beside=adjacent)
    implied = implied_group(clause, head)
    found: list[Place] = _narrowed([clause.items[i].value for i in after])
    sides_only = all(place.group == "" and not place.site for place in found)
    if before is not None and found and adjacent and _stays_outside(clause, before, after[0]):
        found = [clause.items[before].value]
    elif before is not None and found and (adjacent or sides_only):
        found = [_combine(clause.items[before].value, place) for place in found]
    elif before is not None and not found:
        found = [clause.items[before].value]
    elif not found and not unknown_place(clause, head):
        found = _from_host_noun(clause, head) or _from_context(context) or ([Place(implied)] if implied else [])
    values = [item.value for item in clause.items[head.first : head.last + 1] if item.kind == "place"]
    context = (*_named_before(clause, head), *context)
    sides = [place.side for place in values if place.group == "" and not place.site and place.side]
    found = [_complete(place, sides, implied, context, lexicon) for place in found]
    if len(found) == 1 and not found[0].site:
        found = [replace(found[0], site=_site_later(clause, head, found[0]))]
    doubtful = bool(after) and before is None and all(_is_doubtful(clause, head.index, i) for i in after)
    return found, "its place is uncertain" if doubtful else ""


def _stays_outside(clause: Clause, before: int, after: int) -> bool:
    """'peritoneal deposit along the liver': what grows in another part is in the organ only where 'in' says so."""
    j = clause.skip_back(after - 1, ("det",))
    return clause.items[before].value.group is None and clause.items[j].text not in _INSIDE


def implied_group(clause: Clause, head: Head) -> str:
    """The organ that the noun of a lesion names, or a later one that says what the lesion is: 'mass, likely an HCC'."""
    nouns = [item.value for item in clause.items[head.index : head.last + 1] if item.kind == "lesion" and item.value]
    return nouns[0] if nouns else ""


def _named_before(clause: Clause, head: Head) -> list[Place]:
    """Organs of the same sentence whose site a bare word may be: 'pancreatic atrophy above a body mass'."""
    return [item.value for item in clause.items[: head.index] if item.kind == "place" and item.value.group]


def _site_later(clause: Clause, head: Head, place: Place) -> str:
    """'a lung mass on the left measures 52 mm and lies in the lower lobe': the site, '' when none is told."""
    for i in range(head.index + 1, head.last + 1):
        item = clause.items[i]
        before = clause.skip_back(i - 1, ("det",))
        if item.kind == "near" or clause.flags[i]:
            return ""
        if item.kind == "place" and item.value.site and item.value.group in ("", place.group):
            agrees = not item.value.side or not place.side or item.value.side == place.side
            return item.value.site if agrees and clause.kind(before) == "locative" else ""
    return ""


def _narrowed(places: list[Place]) -> list[Place]:
    """'in the liver, the largest in segment 6': the part stands for the whole named before."""
    first = places[0] if places else None
    parts = [p for p in places[1:] if first and p.group == first.group and p.site and not first.site]
    if first is None or not parts:
        return places
    # 'in the left lung: 8 mm in the upper lobe': the side of the whole is that of its parts.
    return [replace(p, side=p.side or first.side) if p in parts else p for p in places[1:]]


def _from_host_noun(clause: Clause, head: Head) -> list[Place]:
    """'thickening of the rectum with a mass': the place of the noun that holds it."""
    if head.first == 0 or clause.items[head.first - 1].text != "with":
        return []
    before, _ = _place_before(clause, head.first - 1, 0)
    return [] if before is None else [clause.items[before].value]


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


def _place_before(clause: Clause, last: int, first: int) -> tuple[int | None, bool]:
    """'liver lesion' (adjacent), 'the liver contains a lesion': the last place before that is its subject, if any."""
    adjacent = True
    told = held = False
    for i in range(last, first - 1, -1):
        item = clause.items[i]
        if item.kind == "place":
            return (None, False) if _is_beside(clause, i, first) else (i, adjacent)
        # 'the spleen is large and contains a lesion' goes on about the spleen.
        if item.kind == "conj" and clause.kind(i + 1) == "verb":
            continue
        if item.kind == "conj" or (item.kind == "scope_break" and not item.text.startswith("there")):
            return None, False
        # 'spleen normal, 2 cm mass': the comma ends what is said of the spleen, but not before 'with a 2 cm mass'.
        held = held or item.text in ("with", "containing")
        told = told or item.text == ","
        if told and not held and item.kind == "status":
            return None, False
        adjacent = adjacent and item.kind in PREMODIFIERS and item.text not in FUNCTION_WORDS
    return None, False


def _is_beside(clause: Clause, place: int, first: int) -> bool:
    j = clause.skip_back(place - 1, ("det",))
    return j >= first and clause.kind(j) == "near"


def _places_after(clause: Clause, head: Head, beside: bool) -> list[int]:
    """'mass in the liver and the spleen': the first place after that is not merely near, and those joined to it.

    When the organ stands `beside` the noun already, another one counts only after a word such as 'in'.
    """
    found: list[int] = []
    num_sizes = sum(
        len(item.value.sizes_mm)
        for item in clause.items[head.index : head.last + 1]
        if item.kind == "measure" and item.value.role == "size" and clause.kind(head.index) == "lesions"
    )
    near = origin = joined = led = False
    for i in range(head.index + 1, head.last + 1):
        item = clause.items[i]
        near = near or (item.kind == "near" and clause.kind(i + 1) != "measure")
        origin = origin or item.kind == "history"
        led = led or item.kind == "locative"
        if item.kind == "locative" and origin:
            origin = item.text not in ("in", "within", "to", "involving")
        if item.kind == "place" and not near and not origin:
            # 'in segments 2 and 8 measuring 1 and 3 cm': as many lengths as places are of them in turn.
            told = clause.kind(i + 1) in ("verb", "status") and not (joined and num_sizes == len(found) + 1)
            if (found and (not joined or told)) or (
                not found and not led and (told or (beside and item.value.explicit))
            ):
                break
            found.append(i)
            joined = False
        elif item.kind in ("conj", "scope_break") or item.text in (",", "/", ";", ":"):
            joined = True
            near = False
        elif (
            found
            and item.kind not in ("det", "locative", "measure", "punct", "count")
            and item.text not in (*_LARGEST, *_OTHERS)
        ):
            break
    return found


def unknown_place(clause: Clause, head: Head) -> bool:
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
