"""Words -> concepts: the phrase table of an anatomy (its own names plus data/lexicon.yaml) and the tagger over it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from itertools import product
from typing import Any

import yaml

from guidegen_data.anatomy import Anatomy, FindingOrgan
from guidegen_data.reports.measures import Measure, find_measures
from guidegen_data.reports.spelling import meant, near_misses

_TOKEN = re.compile(r"\d+(?:[.,]\d+)?[a-z]?(?![\w])|[^\W_][\w']*|[^\w\s]")
# 'angiosarcoma', 'pheochromocytomas': names of tumours that no table lists.
_TUMOUR_ENDING = re.compile(r"\w(?:sarcoma|carcinoma|blastoma|cytoma|lymphoma|fibroma|neurinoma|plasmoma)(s|ta)?$")
_TUMOUR_LETTERS = ("oma", "omas", "omata")
_HYPHEN = re.compile(r"(?<=\w)-(?=[^\W\d_])|(?<=[^\W\d_])-(?=\w)|'s\b")


@dataclass(frozen=True, slots=True)
class Item:
    """A tagged stretch text[start:end] of a sentence: `kind` says what it is, `value` what it means.

    Kinds: 'organ' (group name), 'site' (group, site, side), 'baresite' (site name), 'other_organ', 'side', 'lesion',
    'pair' (two group names), 'lesions' (implied group or ''), 'other', 'status', 'named_status', 'measure' and the
    triggers of lexicon.yaml; 'word' and 'punct' are what no phrase covers.
    """

    kind: str
    value: Any
    text: str
    start: int
    end: int


@dataclass
class Lexicon:
    """Phrases of one anatomy as a trie over words, and the tables the rules look things up in."""

    groups: dict[str, tuple[FindingOrgan, ...]]
    plurals: frozenset[str]
    headings: Mapping[str, list[str]]
    size_mm: Mapping[str, float]
    fields: list[tuple[frozenset[str], list[str]]]
    default_regions: list[str]
    default_sites: Mapping[str, str]
    weak_lesions: frozenset[str]
    benign: frozenset[str]
    diagnoses: frozenset[str]
    loose_phases: frozenset[str]
    phase_parts: Mapping[str, frozenset[str]]
    normal_when: Mapping[str, list[str]]
    bare_lobes: frozenset[str]
    lobed_others: frozenset[str]
    spelled: frozenset[str] = frozenset()
    trie: dict[str, Any] = field(default_factory=dict, repr=False)

    def add(self, kind: str, value: Any, phrases: Iterable[object]) -> None:
        """A concept for each phrase; the first concept given to a phrase stays."""
        for phrase in phrases:
            node = self.trie
            for token, _, _ in _tokens(_plain(str(phrase))):
                node = node.setdefault(token, {})
            node.setdefault("", (kind, value))

    def tag(self, sentence: str) -> list[Item]:
        """The sentence as items: measures first, then the longest phrases, then single words."""
        text = _plain(sentence)
        measures = iter([*find_measures(text), Measure(len(text) + 1, len(text) + 1, ())])
        tokens = list(_tokens(text))
        items: list[Item] = []
        measure = next(measures)
        i = 0
        while i < len(tokens):
            start = tokens[i][1]
            if start >= measure.start:
                items.append(Item("measure", measure, text[measure.start : measure.end], measure.start, measure.end))
                while i < len(tokens) and tokens[i][1] < measure.end:
                    i += 1
                measure = next(measures)
                continue
            length, concept = self._longest(tokens, i, measure.start)
            end = tokens[i + length - 1][2]
            kind, value = concept
            items.append(Item(kind, value, text[start:end], start, end))
            i += length
        return items

    def _longest(self, tokens: list[tuple[str, int, int]], i: int, stop: int) -> tuple[int, tuple[str, Any]]:
        word = tokens[i][0]
        if word not in self.trie and (name := meant(word, self.spelled)):
            return 1, self.trie[name][""]
        best = (1, ("word" if word[0].isalnum() else "punct", word))
        if word.endswith(_TUMOUR_LETTERS) and (match := _TUMOUR_ENDING.search(word)):
            best = (1, ("lesions" if match[1] else "lesion", ""))
        node = self.trie
        for j in range(i, len(tokens)):
            if tokens[j][1] >= stop or tokens[j][0] not in node:
                break
            node = node[tokens[j][0]]
            if "" in node:
                best = (j - i + 1, node[""])
        return best

    def organs_of(self, group: str, side: str) -> tuple[FindingOrgan, ...]:
        """Organs meant by a group name and a side ('', 'left', 'right', 'both'); empty when the side is missing."""
        members = self.groups[group]
        if len(members) == 1 or side == "both":
            return members
        return tuple(o for o in members if o.side == side)


def _plain(text: str) -> str:
    return _HYPHEN.sub(lambda m: " " * len(m.group()), text)


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    for match in _TOKEN.finditer(text):
        yield match.group(), match.start(), match.end()


@cache
def _words() -> dict[str, Any]:
    text = resources.files("guidegen_data.reports").joinpath("data/lexicon.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def lexicon_for(anatomy: Anatomy) -> Lexicon:
    """The lexicon of a label table, built once: its own names, and the table's synonyms where the package has some."""
    return _build(anatomy.name, anatomy.organs, anatomy.regions)


@lru_cache(maxsize=8)
def _build(name: str, organs: tuple[FindingOrgan, ...], regions: tuple[str, ...]) -> Lexicon:
    language, table = _words()["language"], _words()["anatomies"].get(name, {})
    groups: dict[str, tuple[FindingOrgan, ...]] = {}
    for organ in organs:
        group = group_name(organ)
        groups[group] = (*groups.get(group, ()), organ)
    lexicon = Lexicon(
        groups=groups,
        plurals=frozenset(p for phrases in table.get("plurals", {}).values() for p in phrases),
        headings=language["headings"],
        size_mm=language["size_mm"],
        fields=[(frozenset(parts), names) for parts, names in table.get("fields", [])]
        or [(frozenset([region]), [region]) for region in regions],
        default_regions=table.get("default_regions", list(regions)),
        default_sites=table.get("default_sites", {}),
        weak_lesions=frozenset(language["weak_lesion"]),
        benign=frozenset(language["benign"]),
        diagnoses=frozenset(language["diagnosis"]),
        loose_phases=frozenset(language["loose_phase"]),
        normal_when=table.get("normal_when", {}),
        bare_lobes=frozenset(table.get("lobes", {}).get("bare", ())),
        lobed_others=frozenset(table.get("lobes", {}).get("others", ())),
        phase_parts={p: frozenset([part]) for part, names in table.get("phase_parts", {}).items() for p in names},
    )
    _add_anatomy(lexicon, table, organs, regions)
    _add_language(lexicon, language)
    names = {n for group, phrases in table.get("organs", {}).items() for n in (group, *phrases)} | lexicon.plurals
    lexicon.spelled = near_misses(name for name in names | set(groups) if name in lexicon.trie)
    return lexicon


def group_name(organ: FindingOrgan) -> str:
    """The name that the left and the right organ share, or the organ's own."""
    return organ.name.removeprefix(f"{organ.side} ") if organ.side else organ.name


def _add_anatomy(
    lexicon: Lexicon, table: dict[str, Any], organs: tuple[FindingOrgan, ...], regions: tuple[str, ...]
) -> None:
    for group in lexicon.groups:
        lexicon.add("organ", group, [group, *table.get("organs", {}).get(group, ())])
        lexicon.add("organ", group, table.get("plurals", {}).get(group, ()))
        for side, phrases in table.get("sided", {}).get(group, {}).items():
            lexicon.add("site", (group, "", side), phrases)
    for group, site, side, phrases in table.get("sites", ()):
        lexicon.add("site", (group, site, side), phrases)
        lexicon.add("site", (group, site, side), _segment_spellings(phrases))
    for names, phrases in table.get("pairs", ()):
        lexicon.add("pair", tuple(names), phrases)
    for site in {site for organ in organs for site in organ.sites if site}:
        lexicon.add("baresite", site, [site])
    for group, phrases in table.get("lesions", {}).items():
        lexicon.add("lesion", group, phrases)
    for names, status, phrases in table.get("named_statuses", ()):
        lexicon.add("named_status", (tuple(names), status), phrases)
    lexicon.add("other_organ", "", table.get("other_organs", ()))
    for part, phrases in table.get("parts", {region: [region] for region in regions}).items():
        lexicon.add("part", tuple(part.split("+")), phrases)


def _add_language(lexicon: Lexicon, language: dict[str, Any]) -> None:
    for value, phrase in _habitus_phrases(language["habitus"]):
        lexicon.add("habitus", value, [phrase])
    for value, words in language["habitus"]["words"].items():
        lexicon.add("habitus_word", value, words)
    for kind in ("neutral", "negation_after", "negation", "uncertain_after", "characterising", "uncertain", "history"):
        lexicon.add(kind, kind, language[kind])
    for kind in (
        "scope_break",
        "near",
        "locative",
        "verb",
        "partial",
        "many",
        "conj",
        "pronoun",
        "lesion",
        "lesions",
        "other",
    ):
        lexicon.add(kind, "", language[kind])
    for kind in ("status", "attenuation", "phase", "sex", "pronoun_sex"):
        for value, phrases in language[kind].items():
            lexicon.add(kind, value, phrases)
    for side, phrases in language["sides"].items():
        lexicon.add("side", side, phrases)
    for word, number in language["count"].items():
        lexicon.add("count", number, [word])
    lexicon.add("size_word", "", language["size_mm"])
    lexicon.add("ct", "", language["ct"])
    lexicon.add("det", "definite", language["definite"])
    lexicon.add("det", "", language["det"])


def _segment_spellings(phrases: Iterable[object]) -> Iterator[str]:
    """'segment 5' is written 'seg 5', 'seg. 5', 'segm 5' and 'couinaud segment 5' too."""
    for phrase in map(str, phrases):
        if phrase.startswith("segment "):
            rest = phrase.removeprefix("segment ")
            yield from (f"{word} {rest}" for word in ("seg", "seg .", "segm", "segm .", "couinaud", "sg", "segments"))


def _habitus_phrases(table: Mapping[str, Mapping[str, list[str]]]) -> Iterator[tuple[str, str]]:
    """(habitus, phrase) of the lexicon's table: phrases that say it alone, adjectives of nouns, amounts of fat."""
    nouns = table["nouns"]
    for value in ("slim", "average", "large"):
        words = table[value]
        yield from ((value, phrase) for phrase in words["alone"])
        for word, noun in product([*words["of_patient"], *words["of_build"]], nouns["build"]):
            yield from ((value, f"{word} {noun}"), (value, f"{noun} is {word}"), (value, f"{noun}: {word}"))
            yield value, f"{noun} {word}"
        for word, noun in product([*words["of_patient"], *words["of_build"]], nouns["patient"]):
            yield from ((value, f"{word} {noun}"), (value, f"{noun} is {word}"), (value, f"{noun} is very {word}"))
        for amount, fat in product(words["of_fat"], nouns["fat"]):
            yield from ((value, f"{amount} {fat}"), (value, f"{amount} of {fat}"))
