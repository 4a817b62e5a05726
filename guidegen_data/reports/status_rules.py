"""What a sentence says of whole organs: normal, enlarged, small, absent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guidegen_data.reports.clauses import HEADS, Clause, Place, is_host_of_head, shared_subject

_WITHOUT = ("no", "without")
# Said of the next word more often than of an organ before: 'the liver shows small calcified foci'.
_SIZE_WORDS = ("small", "tiny", "minute", "large", "big", "huge")
_SIZED_NOUN = ("lesion", "lesions", "other", "attenuation", "size_word")


@dataclass(frozen=True)
class StatusMention:
    """A status claimed of some places by `words`; `doubt` is why it is not to be used ('' when it is)."""

    places: tuple[Place, ...]
    status: str
    quote: str
    doubt: str = ""
    words: str = ""


def status_mentions(clause: Clause, context: tuple[Place, ...]) -> list[StatusMention]:
    """Every status word of a clause with the places it is said of; `context` are those of the organ label before."""
    found = []
    for i, item in enumerate(clause.items):
        if item.kind == "named_status":
            found.append(_named(clause, i, context))
        elif item.kind == "negation" and (item.text in _WITHOUT or (item.text == "neither" and _told_present(clause))):
            found += _without(clause, i)
        elif item.kind == "status":
            mention = _worded(clause, i, context)
            if mention is not None:
                found.append(mention)
    return found


def _told_present(clause: Clause) -> bool:
    """'neither the gallbladder nor the spleen is present'"""
    return any(item.text in ("present", "seen", "visible", "in situ") for item in clause.items[-3:])


def _without(clause: Clause, i: int) -> list[StatusMention]:
    """'no gallbladder', 'without a spleen': absent, unless it is a lesion or a sign in the organ that is denied."""
    j = i + 2 if clause.kind(i + 1) == "det" else i + 1
    if not _is_organ(clause, j) or not clause.items[j].value.explicit or clause.items[j].value.site:
        return []
    last = j
    while last + 1 < len(clause.items) and "negated" in clause.flags[last + 1]:
        if clause.kind(last + 1) == "locative" and clause.kind(last) == "verb":
            break
        last += 1
    allowed = ("place", "conj", "punct", "det", "verb")
    if any(item.kind not in allowed and item.text != "nor" for item in clause.items[j : last + 1]):
        return []
    targets = _coordinated(clause, j, forward=True)
    places = tuple(clause.items[t].value for t in targets)
    return [StatusMention(places, "absent", clause.quote(i, targets[-1]), _doubt(clause, i, "absent"))]


def _doubt(clause: Clause, i: int, status: str) -> str:
    flags = clause.flags[i]
    if "negated" in flags:
        return "negated"
    if "uncertain" in flags:
        return "uncertain or planned, not stated as a fact"
    if status != "absent" and ("historic" in flags or clause.section == "history"):
        return "history, not a finding of this scan"
    if clause.section == "recommendation":
        return "a recommendation, not a finding"
    return ""


def _named(clause: Clause, i: int, context: tuple[Place, ...]) -> StatusMention:
    """'left nephrectomy', 'hepatomegaly': the word holds organ and status; a side may stand beside it."""
    groups, status = clause.items[i].value
    first, last = i, i
    side = ""
    partial = clause.kind(i - 1) == "partial"
    for j in range(i - 1, max(-1, i - 5), -1):
        item = clause.items[j]
        if item.kind == "place" and item.value.group in ("", None, *groups):
            # 'empty right renal fossa after nephrectomy'
            side, first = item.value.side, j
            break
        if item.kind not in ("word", "partial", "status"):
            break
        partial = partial or item.kind == "partial"
    if not side:
        for j in range(i + 1, min(len(clause.items), i + 5)):
            item = clause.items[j]
            if item.kind == "place" and item.value.group in ("", *groups) and not item.value.site:
                side, last = item.value.side, j
                break
            if item.kind not in ("locative", "det", "punct") or item.text in (",", ";"):
                break
    if not side and clause.items[i].text.endswith("nephrectomies"):
        side = "both"
    if not side:
        # 'Left kidney: status post nephrectomy'
        side = next((place.side for place in context if place.group in groups), "")
    doubt = _doubt(clause, i, status) or ("only a part was removed" if partial else "")
    places = tuple(Place(group, side=side, explicit=True) for group in groups)
    return StatusMention(places, status, clause.quote(first, last), doubt)


def _worded(clause: Clause, i: int, context: tuple[Place, ...]) -> StatusMention | None:
    status = clause.items[i].value
    doubt = _doubt(clause, i, status)
    targets = _beside(clause, i, near=True) or _attributive(clause, i) or _beside(clause, i, near=False)
    if targets:
        quote = clause.quote(min(i, *targets), max(i, *targets))
        places = tuple(_with_organ(clause, t, context) for t in targets)
        return StatusMention(places, status, quote, doubt, clause.items[i].text)
    own = not {"place", *HEADS}.isdisjoint(clause.kinds)
    if context and not own and clause.kind(i + 1) not in _SIZED_NOUN:
        return StatusMention(context, status, clause.text, doubt, clause.items[i].text)
    return None


def _with_organ(clause: Clause, t: int, context: tuple[Place, ...]) -> Place:
    """The place at t; a side alone is of the organ before: 'the right kidney is absent, the left is large'."""
    place: Place = clause.items[t].value
    if place.group != "" or place.site or not place.side:
        return place
    before = [item.value for item in clause.items[:t] if item.kind == "place" and item.value.group] or list(context)
    return replace(before[-1], side=place.side, plural=False) if before else place


def _attributive(clause: Clause, i: int) -> tuple[int, ...]:
    """'an enlarged spleen', 'atrophy of the left kidney', 'enlarged liver and spleen': places right after."""
    j = i + 1
    words = 0
    while (clause.kind(j) in ("word", "neutral", "det", "locative") or _joins_adjectives(clause, j)) and words < 5:
        if clause.kind(j) == "locative" and clause.items[j].text not in ("of", "in"):
            return ()
        words += 1
        j += 1
    if not _is_organ(clause, j) or is_host_of_head(clause, j):
        return ()
    return _coordinated(clause, j, forward=True)


def _joins_adjectives(clause: Clause, j: int) -> bool:
    """'small, nodular, cirrhotic liver': a comma with an adjective after it, not with the next organ."""
    return clause.items[j].text == "," and clause.kind(j + 1) in ("word", "neutral") if j < len(clause.items) else False


def _beside(clause: Clause, i: int, near: bool) -> tuple[int, ...]:
    """'the spleen is enlarged': the nearest place before; `near` wants nothing but verbs and adverbs between."""
    following = clause.kind(i + 1)
    if following in _SIZED_NOUN or (clause.items[i].text in _SIZE_WORDS and following == "word"):
        return ()
    if "place" not in clause.kinds[:i]:
        return ()
    between = ("verb", "word", "punct", "status", "negation", "uncertain", "det") if near else ()
    verbs = colons = 0
    j = i - 1
    if (subject := shared_subject(clause, i)) >= 0:
        return _coordinated(clause, subject, forward=False)
    while j >= 0 and clause.kind(j) != "place":
        item = clause.items[j]
        turned = item.kind == "scope_break" and (near or item.text not in ("but", "yet", "though"))
        if turned or item.kind in (*HEADS, "near") or item.text == ";" or (near and item.text == ","):
            return ()
        if near and item.kind not in between:
            return ()
        verbs += item.kind == "verb"
        colons += item.text == ":"
        j -= 1
    if j < 0 or is_host_of_head(clause, j):
        return ()
    # 'Kidneys: atrophic left kidney' and 'has an enlarged spleen' are said of what follows.
    if _is_organ(clause, i + 1) and (verbs or colons or not near):
        return ()
    return _coordinated(clause, j, forward=False)


def _is_organ(clause: Clause, i: int) -> bool:
    """Whether an organ stands at i, other than as the label of what comes next."""
    labels = i + 1 < len(clause.items) and clause.items[i + 1].text == ":"
    return clause.kind(i) == "place" and clause.items[i].value.group != "" and not labels


def _coordinated(clause: Clause, place: int, forward: bool) -> tuple[int, ...]:
    """The place and those joined to it by ',', 'and', '/', 'nor': 'liver, spleen and kidneys'."""
    found = [place]
    step = 1 if forward else -1
    j = place + step
    joint = ""
    while 0 <= j < len(clause.items):
        item = clause.items[j]
        if item.kind == "place":
            # 'no gallbladder and the spleen is large' opens a new statement, 'neither ... nor the spleen is' does not.
            if not joint or (forward and joint != "nor" and clause.kind(j + 1) in ("verb", "status")):
                break
            if forward and item.value.group == "" and clause.kind(j + 1) == "named_status":
                break
            found.append(j)
            joint = ""
        elif item.kind == "conj" or item.text in (",", "/", "nor"):
            joint = item.text
        elif item.kind != "det":
            break
        j += step
    return tuple(found)
