"""The organ statuses of one report: gathered from its sentences, checked against the anatomy and each other."""

from __future__ import annotations

from dataclasses import replace

from guidegen_data.anatomy import Anatomy, FindingOrgan
from guidegen_data.errors import FindingsError
from guidegen_data.reports.clauses import Place
from guidegen_data.reports.lexicon import Lexicon
from guidegen_data.reports.notes import Notes
from guidegen_data.reports.status_rules import StatusMention


class StatusList:
    """Statuses by organ; `normal` holds what was called normal (single organs alone, since 'kidneys' is loose)."""

    def __init__(self, anatomy: Anatomy, lexicon: Lexicon, notes: Notes) -> None:
        self.anatomy, self.lexicon, self.notes = anatomy, lexicon, notes
        self._claims: dict[str, list[str]] = {}
        self._normal: set[str] = set()
        self.said_anything = False

    def add(self, mention: StatusMention) -> None:
        """Take a mention, or note why not."""
        if mention.doubt == "negated":
            self.said_anything = True
            self.notes.used(mention.quote, f"not {mention.status}")
        elif mention.doubt:
            self.notes.dropped(mention.quote, mention.doubt)
        else:
            for place in mention.places:
                self._add_place(place, mention)

    def _add_place(self, place: Place, mention: StatusMention) -> None:
        if mention.words in self.lexicon.normal_when.get(place.group or "", ()):
            mention = replace(mention, status="normal")
        if not place.group:
            if mention.status != "normal":
                what = "an organ of this vocabulary" if place.group is None else "one organ"
                self.notes.dropped(mention.quote, f"not said of {what}")
            return
        if place.site:
            if mention.status != "normal":
                self.notes.dropped(mention.quote, f"said of a part of the {place.group}; statuses are of whole organs")
            return
        side = "both" if place.plural and not place.side else place.side
        organs = self.lexicon.organs_of(place.group, side)
        if mention.status == "solitary":
            self._solitary(place, organs, mention)
        elif mention.status == "normal":
            self._normal_organs(organs, side, mention)
        elif not organs:
            self.notes.dropped(mention.quote, f"which {place.group}, left or right, is not stated")
        else:
            for organ in organs:
                self._claim(organ, mention.status, mention.quote)

    def _solitary(self, place: Place, organs: tuple[FindingOrgan, ...], mention: StatusMention) -> None:
        others = [o for o in self.lexicon.groups[place.group or ""] if o not in organs]
        if organs and others:
            for organ in others:
                self._claim(organ, "absent", mention.quote)

    def _normal_organs(self, organs: tuple[FindingOrgan, ...], side: str, mention: StatusMention) -> None:
        self.said_anything = True
        if side != "both":
            self._normal |= {o.name for o in organs}
        if organs:
            self.notes.used(mention.quote, f"{', '.join(o.name for o in organs)} normal")

    def _claim(self, organ: FindingOrgan, status: str, quote: str) -> None:
        if status not in organ.statuses:
            known = ", ".join(organ.statuses)
            self.notes.dropped(quote, f"{status!r} is not a status the {organ.name} can have here; known: {known}")
            return
        self.said_anything = True
        self._claims.setdefault(organ.name, []).append(status)
        self.notes.used(quote, f"{organ.name} {status}")

    def statuses(self) -> dict[str, str]:
        """The statuses that are not normal, by organ. FindingsError when two of one organ contradict each other."""
        for organ, claims in self._claims.items():
            said = set(claims) | ({"normal"} if organ in self._normal else set())
            if "absent" in said and len(said) > 1:
                raise FindingsError(
                    f"the {organ} is said to be absent and {_rest(said, 'absent')}; keep one of the two."
                )
            if {"enlarged", "small"} <= said:
                raise FindingsError(f"the {organ} is said to be enlarged and small; keep one of the two.")
            if "normal" in said:
                self.notes.dropped(f"{organ} normal", f"also said to be {_rest(said, 'normal')}, which is taken")
        return {organ: claims[0] for organ, claims in self._claims.items()}


def _rest(said: set[str], but: str) -> str:
    return " and ".join(sorted(said - {but}))
