"""The lesions of one report: repeats joined, pointing words followed, defaults filled in, misfits noted."""

from __future__ import annotations

from dataclasses import replace

from guidegen_data.anatomy import Anatomy, FindingOrgan
from guidegen_data.errors import FindingsError, GuideGenError, ReportError
from guidegen_data.reports.clauses import Place
from guidegen_data.reports.findings import MAX_LESION_MM, MAX_LESIONS, MIN_LESION_MM, Lesion
from guidegen_data.reports.lesion_candidates import Candidate
from guidegen_data.reports.lesion_rules import LesionMention
from guidegen_data.reports.lexicon import Lexicon, group_name
from guidegen_data.reports.notes import Notes

DEFAULT_SIZE_MM = 20.0


class LesionList:
    """Mentions in, `Lesion`s out. `misfits`: asserted lesions that the schema cannot hold, as errors."""

    def __init__(self, anatomy: Anatomy, lexicon: Lexicon, notes: Notes) -> None:
        self.anatomy, self.lexicon, self.notes = anatomy, lexicon, notes
        self.candidates: list[Candidate] = []
        self.misfits: list[GuideGenError] = []
        self.said_none = False
        self._homeless: LesionMention | None = None

    def add(self, mention: LesionMention) -> None:
        """Take a mention, or note why not."""
        if mention.doubt == "negated":
            self.said_none = True
            self.notes.used(mention.quote, "no lesion")
        elif mention.doubt:
            self.notes.dropped(mention.quote, mention.doubt)
        elif mention.place is None or mention.place.group == "":
            self._add_pointing(mention)
        elif mention.place.group is None:
            self.notes.dropped(mention.quote, f"that body part hosts no lesion of the {self.anatomy.name} vocabulary")
            self.misfits.append(
                ReportError(f"expected a lesion of an organ this model knows, got another body part; {self._hosts()}.")
            )
        else:
            for candidate in self._candidates(mention):
                if not self._repeats_above(candidate):
                    self._take_home(candidate)
                    self.candidates.append(candidate)

    def size_of_last(self, size_mm: float, quote: str, section: str) -> bool:
        """'It measures 24 mm': the length of the lesion named last, if that has none yet."""
        last = self.candidates[-1] if self.candidates else None
        if last is None or last.size_mm is not None or last.mention.section != section:
            return False
        last.size_mm = size_mm
        self.notes.used(quote, f"size of the {last.organ.name} lesion before")
        return True

    def place_of_last(self, place: Place, quote: str, section: str) -> bool:
        """'It lies in the left upper lobe': the side and the site of the lesion named last, where it has none yet."""
        last = self.candidates[-1] if self.candidates else None
        if last is None or last.mention.section != section or place.group not in ("", group_name(last.organ)):
            return False
        organs = self.lexicon.organs_of(group_name(last.organ), place.side) if last.chosen else ()
        if organs:
            last.organ, last.chosen = organs[0], ""
        if last.site is None and place.site in last.organ.sites and place.site:
            last.site = place.site
        elif not organs:
            return False
        self.notes.used(quote, f"place of the {last.organ.name} lesion before")
        return True

    def attenuation_of_last(self, attenuation: str, quote: str) -> None:
        """'It is hypodense.'"""
        if self.candidates and not self.candidates[-1].attenuation:
            self.candidates[-1].attenuation = attenuation
            self.notes.used(quote, f"attenuation of the {self.candidates[-1].organ.name} lesion before")

    def largest_of_last(self, places: tuple[Place, ...], sizes_mm: tuple[float, ...], quote: str, section: str) -> bool:
        """'The largest, in segment 7, measures 34 mm': size and place of one of the several lesions named last."""
        several = [c for c in self.candidates if c.mention.plural and c.mention.section == section]
        group = [c for c in several if c.mention.quote == several[-1].mention.quote and c.size_mm is None]
        if not group or len(places) > max(1, len(sizes_mm)):
            return False
        slots = places if len(places) == len(sizes_mm) else (*places, Place(""))[:1] * len(sizes_mm)
        used = False
        for place, size_mm in zip(slots, sizes_mm, strict=True):
            model = next((c for c in group if c.size_mm is None), replace(group[0], site=None, size_mm=None))
            used |= self._settle(model, group, place, size_mm)
        if used:
            self.notes.used(quote, f"the largest of the {group[0].organ.name} lesions before")
        return used

    def _settle(self, model: Candidate, group: list[Candidate], place: Place, size_mm: float) -> bool:
        """Give the size and the place to the lesion of the group on that side, else to `model`, if it can be there."""
        name = group_name(model.organ)
        if place.group not in ("", name):
            return False
        organs = self.lexicon.organs_of(name, place.side)
        beside = [c for c in group if c.organ in organs and c.size_mm is None and place.side]
        chosen = beside[0] if beside else model
        if place.side and organs and not beside:
            if not (chosen.chosen or chosen.size_mm is not None):
                return False
            chosen.organ, chosen.chosen = organs[0], ""
        chosen.size_mm = size_mm
        chosen.site = place.site if place.site and place.site in chosen.organ.sites else chosen.site
        if chosen not in self.candidates:
            self.candidates.append(chosen)
        return True

    def retract_last(self, quote: str, section: str) -> bool:
        """'This is consistent with a cyst': what was named last is no lesion of this vocabulary."""
        last = self.candidates[-1] if self.candidates else None
        if last is None or last.mention.section != section:
            return False
        self.candidates = [c for c in self.candidates if c.mention.quote != last.mention.quote]
        self.notes.dropped(last.mention.quote, f"it is said to be no tumour: {quote!r}")
        return True

    def _take_home(self, candidate: Candidate) -> None:
        """'A 33 mm mass is seen ... the bladder mass': what is pointed at without a size is what had no organ."""
        lost = self._homeless
        if (
            lost
            and candidate.mention.definite
            and candidate.size_mm is None
            and lost.section == candidate.mention.section
        ):
            candidate.size_mm, self._homeless = lost.size_mm, None
            candidate.attenuation = candidate.attenuation or lost.attenuation

    def _add_pointing(self, mention: LesionMention) -> None:
        if mention.definite and self.candidates and self.candidates[-1].mention.section == mention.section:
            last = self.candidates[-1]
            last.absorb(Candidate(last.organ, None, mention.size_mm, mention.attenuation, mention, last.chosen))
            self.notes.used(mention.quote, f"said of the {last.organ.name} lesion before")
            return
        if mention.further and mention.size_mm is not None and mention.place is None and self._add_further(mention):
            return
        self.notes.dropped(mention.quote, "a lesion without an organ that this vocabulary knows")
        self._homeless = mention if mention.size_mm is not None else self._homeless
        if mention.size_mm is not None or not mention.definite:
            self.misfits.append(
                ReportError(f"expected a lesion with the organ it sits in, got one without; {self._hosts()}.")
            )

    def _add_further(self, mention: LesionMention) -> bool:
        """'A second nodule of 11 mm': in the organ of the one before, on its side."""
        last = self.candidates[-1] if self.candidates else None
        if last is None or last.mention.section != mention.section:
            return False
        self.candidates.append(Candidate(last.organ, None, mention.size_mm, mention.attenuation, mention, last.chosen))
        return True

    def _candidates(self, mention: LesionMention) -> list[Candidate]:
        place = mention.place
        assert place is not None
        assert place.group
        organs = self.lexicon.organs_of(place.group, place.side)
        chosen = ""
        if not organs:
            members = self.lexicon.groups[place.group]
            organs = tuple(o for o in members if o.side == "right") or members[:1]
            chosen = f"side not stated: {organs[0].side} taken"
        return [
            Candidate(
                organ, place.site if place.site in organ.sites and place.site else None, mention.size_mm,
                mention.attenuation, mention, chosen,
            )
            for organ in organs
        ]  # fmt: skip

    def _repeats_above(self, new: Candidate) -> bool:
        """Join a second mention in the same text: one that points back, or one of the two without a length."""
        if new.mention.section == "impression":
            return False
        for old in reversed(self.candidates):
            same_sentence = old.mention.quote == new.mention.quote
            if same_sentence or old.mention.section == "impression" or not old.agrees(new):
                continue
            if new.mention.definite or old.size_mm is None or new.size_mm is None:
                old.absorb(new)
                self.notes.used(new.mention.quote, f"the {old.organ.name} lesion named before")
                return True
        return False

    def lesions(self) -> list[Lesion]:
        """The lesions in the order of the text, impression merged, at most MAX_LESIONS; misfits are left out."""
        lesions = [self._lesion(candidate) for candidate in self._merged()]
        kept = [lesion for lesion in lesions if lesion is not None]
        if len(kept) > MAX_LESIONS:
            smallest = sorted(range(len(kept)), key=lambda i: -kept[i].size_mm)[MAX_LESIONS:]
            for i in smallest:
                self.notes.dropped(f"{kept[i].organ} {kept[i].size_mm:g} mm", f"at most {MAX_LESIONS} lesions a case")
            kept = [lesion for i, lesion in enumerate(kept) if i not in smallest]
        return kept

    def _merged(self) -> list[Candidate]:
        """Body and impression as one list: each impression lesion is matched to the closest of the body."""
        body = [c for c in self.candidates if c.mention.section != "impression"]
        repeats = [c for c in self.candidates if c.mention.section == "impression"]
        pairs = sorted(
            (old.distance(new), i, j) for i, old in enumerate(body) for j, new in enumerate(repeats) if old.agrees(new)
        )
        taken: set[int] = set()
        matched: set[int] = set()
        for _, i, j in pairs:
            if i not in taken and j not in matched:
                taken.add(i)
                matched.add(j)
                body[i].absorb(repeats[j])
        # Without a length of its own, what the body already has is said again, not found again.
        again = {j for _, _, j in pairs if repeats[j].size_mm is None}
        return body + [c for j, c in enumerate(repeats) if j not in matched | again]

    def _lesion(self, candidate: Candidate) -> Lesion | None:
        """The lesion with its defaults; None, with a misfit, when the schema cannot hold it."""
        organ, quote = candidate.organ, candidate.mention.quote
        notes = [candidate.chosen] if candidate.chosen else []
        if candidate.is_empty:
            self.notes.dropped(quote, "a disease without a size, a site or a density: no lesion is taken")
            return None
        if not organ.sites:
            self.notes.dropped(quote, f"a lesion of the {organ.name} is not in this vocabulary")
            self.misfits.append(
                FindingsError(f"a lesion of the {organ.name} is not in this vocabulary; {self._hosts()}.")
            )
            return None
        site = candidate.site
        if site is None:
            site = self._default_site(organ)
            if site:
                notes.append(f"site not stated: {site} taken")
        size = candidate.size_mm
        if size is None:
            size = self.lexicon.size_mm.get(candidate.mention.size_word, DEFAULT_SIZE_MM)
            notes.append(f"size not stated: {size:g} mm taken")
        if not MIN_LESION_MM <= size <= MAX_LESION_MM:
            reason = f"a lesion is {MIN_LESION_MM:g} to {MAX_LESION_MM:g} mm in this vocabulary, not {size:g} mm"
            self.notes.dropped(quote, reason)
            self.misfits.append(FindingsError(f"{reason}, in the {organ.name}; change the size."))
            return None
        words = filter(None, ("lesion", organ.name, site, f"{size:g} mm", candidate.attenuation))
        self.notes.used(quote, " ".join(words) + (f" ({'; '.join(notes)})" if notes else ""))
        return Lesion(organ.name, site, size, candidate.attenuation)

    def _default_site(self, organ: FindingOrgan) -> str:
        """The site of the organ's own name, else of the name that it shares with the other side, else its first."""
        sites = self.lexicon.default_sites
        return sites.get(organ.name) or sites.get(group_name(organ)) or organ.sites[0]

    def _hosts(self) -> str:
        hosts = ", ".join(o.name for o in self.anatomy.organs if o.sites)
        return f"known: {hosts}" if hosts else f"the {self.anatomy.name} vocabulary has no lesion hosts"
