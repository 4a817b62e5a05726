"""Report text -> Findings by rules: the sections, sentences and clauses of a report read into one set of findings.

Documented choices, each recorded in `Abstraction.understood` whenever one is made:

- contrast without a phase is portal venous; a delayed phase counts as portal venous, the nearest the schema has;
- a lesion without a length is 20 mm, or the length that lexicon.yaml gives 'large', 'small', 'tiny';
- a lesion without a site takes the organ's default site of lexicon.yaml, else its first; without a side, the right;
- the middle lobe of the lung is read as the lower lobe, the caudate as the left lobe of the liver, the pancreatic neck
  as the body: the nearest site the schema has;
- a body mass index below 18.5 is slim, 30 or more large, else average; 'overweight' is large;
- a scan of chest, abdomen and pelvis is read as the one region that holds the most of its lesions ('abdomen' first);
- the impression repeats the findings: a lesion in both is one lesion;
- a lesion the schema cannot hold (length out of range, no host, outside the field) goes to `ignored`; it is an error
  when the report says nothing else of any organ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.errors import FindingsError, ReportError
from guidegen_data.reports.clauses import HEADS, Clause, Place, parse_clause
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.reports.habitus_rules import HabitusClaims
from guidegen_data.reports.lesion_list import LesionList
from guidegen_data.reports.lesion_rules import LesionMention, lesion_mentions, said_benign
from guidegen_data.reports.lexicon import Lexicon, lexicon_for
from guidegen_data.reports.lobes import LobeOwner
from guidegen_data.reports.notes import Notes
from guidegen_data.reports.own_lengths import mark_own_lengths
from guidegen_data.reports.patient_rules import PatientClaims
from guidegen_data.reports.scan_rules import ScanClaims
from guidegen_data.reports.sections import split_sentences
from guidegen_data.reports.status_list import StatusList
from guidegen_data.reports.status_rules import status_mentions

_LARGEST = ("largest", "biggest", "larger", "bigger", "dominant", "index")
_NOT_A_SIZE = {
    "prior": "the size on an earlier scan",
    "distance": "a distance or a slice thickness, not a lesion's size",
    "bound": "a bound, used as the size only where no size is told",
    "organ": "an organ's own length is not used",
    "other": "this quantity is not in the vocabulary",
}


class Disagreement(NamedTuple):
    """A field that the rules and a language model read differently; '' where one of them read nothing."""

    field: str
    rules: str
    model: str


@dataclass(frozen=True)
class Abstraction:
    """What a report was read as: `understood` says which words became what, `ignored` which did not and why.

    Both are the record of the rules. `read_by` says whose `findings` these are: 'rules' or 'language model'; then
    `disagreements` says where the rules differ.
    """

    findings: Findings
    understood: tuple[str, ...]
    ignored: tuple[str, ...]
    read_by: str = "rules"
    disagreements: tuple[Disagreement, ...] = ()


def abstract_report(text: str, anatomy: Anatomy = TORSO) -> Abstraction:
    """Findings of free report text. ReportError when it says nothing this anatomy knows; FindingsError when its parts
    contradict each other or nothing but lesions that the schema cannot hold is said. Messages hold no report text.
    """
    reading = _Reading(anatomy)
    for sentence in split_sentences(text, reading.lexicon.headings):
        reading.read(parse_clause(sentence, reading.lexicon))
    findings = reading.findings()
    return Abstraction(findings, tuple(reading.notes.understood), tuple(reading.notes.ignored))


class _Reading:
    """The state of one pass over a report."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.lexicon: Lexicon = lexicon_for(anatomy)
        self.notes = Notes()
        self.patient = PatientClaims(self.notes)
        self.habitus = HabitusClaims(self.notes)
        self.scan = ScanClaims(anatomy, self.lexicon, self.notes)
        self.statuses = StatusList(anatomy, self.lexicon, self.notes)
        self.lesions = LesionList(anatomy, self.lexicon, self.notes)
        self.lobes = LobeOwner(self.lexicon)
        self._label: tuple[Place, ...] = ()
        self._recent: tuple[Place, ...] = ()
        self._section = ""
        self._listing = False
        self._several = False
        self._of_others = False
        self._labelled = False

    def read(self, clause: Clause) -> None:
        """Take everything one sentence says."""
        new_section = clause.section != self._section
        if new_section:
            self._label, self._recent, self._section, self._labelled = (), (), clause.section, False
        # 'History: ...' and then 'Liver: ...' without a heading of its own: the findings have begun.
        self._labelled = self._labelled or bool(_label(clause))
        if self._labelled and clause.section in ("history", "technique", "exam", "comparison"):
            clause.section = "findings"
        if clause.section == "comparison":
            return
        self.lobes.assign(clause, new_section)
        mark_own_lengths(clause)
        before = self.notes.taken
        self.patient.read(clause)
        self.habitus.read(clause)
        self.scan.read(clause)
        label = _label(clause)
        self._label = label if label is not None else self._label
        pronoun = clause.kind(0) == "pronoun"
        context = self._recent if pronoun else self._label
        statuses = status_mentions(clause, context)
        for status in statuses:
            self.statuses.add(status)
        bare = any(item.kind == "place" and item.value.bare and not item.value.group for item in clause.items)
        mentions, dropped = lesion_mentions(clause, self._recent if bare and not self._label else context, self.lexicon)
        for mention in mentions:
            self.lesions.add(mention)
        for words, reason in dropped:
            self.notes.dropped(words, reason)
        places = tuple(item.value for item in clause.items if item.kind == "place" and item.value.group)
        if not (mentions or dropped) and self._read_largest(clause, places):
            self._read_measures(clause, True, pronoun, bool(places))
        elif not (mentions or dropped):
            told = self._read_list_entry(clause, places) or (pronoun and self._read_place(clause, places))
            told = told or self._read_benign(clause)
            self._read_measures(clause, False, pronoun, bool(places) and not told)
            if not (told or statuses) and self.notes.taken == before:
                self.notes.dropped(clause.text, "nothing in it is in the vocabulary")
        else:
            self._read_measures(clause, True, pronoun, bool(places))
        self._listing = clause.text.endswith(";") and (self._listing or _opens_list(clause))
        self._recent = places or self._recent
        if mentions:
            self._several, self._of_others = (mentions[-1].plural and not mentions[-1].doubt) or self._several, False
        elif not set(HEADS).isdisjoint(clause.kinds):
            self._several, self._of_others = False, True

    def _read_list_entry(self, clause: Clause, places: tuple[Place, ...]) -> bool:
        """'Metastases: RLL 3.5 cm; left adrenal 2.0 cm': what follows the ';' is a lesion without a noun of its own."""
        sizes = [item for item in clause.items if item.kind == "measure" and item.value.role == "size"]
        if not self._listing or len(places) != 1 or len(sizes) != 1 or any(clause.flags):
            return False
        self.lesions.add(LesionMention(places[0], None, "", clause.text, clause.section))
        return True

    def _read_largest(self, clause: Clause, places: tuple[Place, ...]) -> bool:
        """'The largest measures 34 mm', after several lesions and not after several cysts."""
        sizes = [item.value for item in clause.items if item.kind == "measure" and item.value.role == "size"]
        named = [i for i, item in enumerate(clause.items) if item.text in _LARGEST]
        if not (self._several and named and sizes) or clause.flags[named[0]]:
            return False
        lengths = tuple(size for measure in sizes for size in measure.sizes_mm)
        sides = tuple(item.value for item in clause.items if item.kind == "place" and item.value.group == "")
        return self.lesions.largest_of_last(places or sides, lengths, clause.text, clause.section)

    def _read_benign(self, clause: Clause) -> bool:
        """'This is most consistent with a cyst.'"""
        if not clause.items:  # of signs alone, such as an underscore
            return False
        pointing = clause.kind(0) == "pronoun" or clause.items[0].text in ("this", "these", "findings")
        if not pointing or clause.kind(1) not in ("verb", "characterising", "uncertain", "word"):
            return False
        return said_benign(clause, 1, self.lexicon) and self.lesions.retract_last(clause.text, clause.section)

    def _read_place(self, clause: Clause, places: tuple[Place, ...]) -> bool:
        """'It lies in the left upper lobe.'"""
        if len(places) != 1 or any(clause.flags) or any(item.kind in ("near", "status") for item in clause.items):
            return False
        return self.lesions.place_of_last(places[0], clause.text, clause.section)

    def _read_measures(self, clause: Clause, has_head: bool, pronoun: bool, has_place: bool) -> None:
        """Lengths and densities that no lesion word of the same sentence owns."""
        for i, item in enumerate(clause.items):
            if item.kind == "measure" and item.value.role != "size":
                self.notes.dropped(item.text, _NOT_A_SIZE[item.value.role])
            elif item.kind == "measure" and not has_head:
                longest = max(item.value.sizes_mm)
                free = not (has_place or self._of_others or clause.flags[i])
                if not (free and self.lesions.size_of_last(longest, clause.text, clause.section)):
                    owner = "an organ's own length is not used" if has_place else "a length with no lesion named"
                    self.notes.dropped(clause.text, owner)
            elif item.kind == "attenuation" and pronoun and not has_place and not has_head and not clause.flags[i]:
                self.lesions.attenuation_of_last(item.value, clause.text)

    def findings(self) -> Findings:
        """Everything read as one Findings, or the error that says why there is none."""
        statuses = self.statuses.statuses()
        lesions = self.lesions.lesions()
        region = self.scan.region([lesion.organ for lesion in lesions], list(statuses))
        lesions = [lesion for lesion in lesions if self._in_field(lesion, region)]
        spoken = bool(lesions) or self.statuses.said_anything or self.lesions.said_none
        if not spoken and self.lesions.misfits:
            raise self.lesions.misfits[0]
        if not spoken and not self.scan.has_region:
            raise ReportError(
                f"expected a report that names a body region, an organ's status or a lesion, got none of them; "
                f"known organs: {', '.join(self.anatomy.organ)}."
            )
        return Findings(
            region=region,
            phase=self.scan.phase(),
            sex=self.patient.sex(),
            age_decade=self.patient.age_decade,
            habitus=self.habitus.habitus,
            organs=statuses,
            lesions=tuple(lesions),
            anatomy_name=self.anatomy.name,
        )

    def _in_field(self, lesion: Lesion, region: str) -> bool:
        if lesion.organ in self.anatomy.region_organs.get(region, ()):
            return True
        reason = f"a lesion of the {lesion.organ} lies outside the field of a {region} scan"
        self.notes.dropped(f"{lesion.organ} lesion", reason)
        self.lesions.misfits.append(FindingsError(f"{reason}; change the region."))
        return False


def _opens_list(clause: Clause) -> bool:
    """'Metastases: ...'"""
    return any(
        item.kind == "lesions" and not clause.flags[i] and clause.items[i + 1].text == ":"
        for i, item in enumerate(clause.items[:-1])
    )


def _label(clause: Clause) -> tuple[Place, ...] | None:
    """Organs of a line label ('Liver:', 'Liver/Spleen:'), () for any other label, None when there is none."""
    for i, item in enumerate(clause.items[:8]):
        if item.text == ":":
            return tuple(p.value for p in clause.items[:i] if p.kind == "place" and p.value.group)
        if item.kind in (*HEADS, "verb", "measure"):
            return None
    return None
