"""The paraphrases written by hand: none in the words of a template, all of the vocabulary, read as measured."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from benchmarks.abstraction import compare, figures, nearest
from benchmarks.full_reports import FULL_PARTS, load_full_reports
from benchmarks.paraphrases import PARTS, load_paraphrases
from guidegen_data.anatomy import HABITUS, TORSO
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.reports.rendering import PLACEHOLDER
from guidegen_data.reports.templates import load_templates

PHRASES = load_templates("torso").phrases


def words_of(table: object) -> set[str]:
    """Every phrase of a table, however deep its lists lie."""
    if isinstance(table, str):
        return {table}
    children = table.values() if isinstance(table, dict) else table
    return {phrase for child in children for phrase in words_of(child)}  # type: ignore[attr-defined]


def either(phrases: set[str]) -> str:
    return "(?:" + "|".join(re.escape(p) for p in sorted(phrases)) + ")"


FIELDS = {
    "size": either(words_of(PHRASES["size"])).replace(r"\{mm\}", r"\d+").replace(r"\{cm\}", r"\d+(?:\.\d)?"),
    "attenuation": either(words_of(PHRASES["attenuation"])) + "?",
    "noun": either(words_of(PHRASES["noun"]) | words_of(PHRASES["noun_of"])),
    "in": either({p for sites in PHRASES["place"].values() for s in sites.values() for p in s["in"]}),
    "of": either({p for sites in PHRASES["place"].values() for s in sites.values() for p in s["of"]}),
    "organ": either(words_of(PHRASES["organ"]) | set(TORSO.organ)),
}
FIELDS["size"] = FIELDS["size"].replace(r"\{short_mm\}", r"\d+").replace(r"\{short_cm\}", r"\d+(?:\.\d)?")


def pattern(phrase: str) -> re.Pattern[str]:
    """What a template phrase can be rendered as."""
    parts = PLACEHOLDER.split(phrase)
    text = "".join(FIELDS[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(text.replace(r"\ ", " *"), re.I)


def test_no_sentence_of_a_paraphrase_is_one_that_a_template_can_make() -> None:
    phrases = words_of(PHRASES["lesion"]) | words_of(PHRASES["impression_lesion"])
    phrases |= words_of(PHRASES["status"]) | words_of(PHRASES["organ_status"]) | words_of(PHRASES["habitus"])
    patterns = [pattern(phrase) for phrase in phrases]
    assert any(p.fullmatch("There is a 24 mm hypodense mass in the spleen.") for p in patterns)
    texts = [text for text, _ in load_paraphrases()]
    sentences = [s for text in texts for s in re.split(r"(?<=[.;])\s+", text)]
    assert len(sentences) > 500
    assert [s for s in sentences if any(p.fullmatch(s) for p in patterns)] == []


def test_there_are_two_hundred_and_forty_over_every_site_every_status_and_every_habitus() -> None:
    cases = load_paraphrases()
    assert [len(load_paraphrases(part)) for part in PARTS] == [120, 60, 60]
    assert len({text for text, _ in cases}) == len(cases) == 240
    sites = Counter((le.organ, le.site) for _, truth in cases for le in truth.lesions)
    assert set(sites) == {(o.name, s) for o in TORSO.organs for s in o.sites}
    assert min(sites.values()) >= 4
    statuses = Counter(item for _, truth in cases for item in truth.organs.items())
    assert set(statuses) == {(o.name, s) for o in TORSO.organs for s in o.statuses if s != "normal"}
    assert min(statuses.values()) >= 3
    assert {truth.habitus for _, truth in cases} == {"", *HABITUS}


@pytest.mark.parametrize(("part", "exact"), [("first", 1.0), ("second", 0.95), ("third", 0.9)])
def test_the_rules_read_as_much_as_was_measured(part: str, exact: float) -> None:
    counts: Counter[str] = Counter()
    refused = 0
    for text, truth in load_paraphrases(part):
        try:
            read = abstract_report(text).findings
        except ValueError:
            read, refused = None, refused + 1
        counts.update(compare(truth, read))
    assert figures(counts)["exact_share"] >= exact
    assert refused <= 2


def test_whole_reports_are_read_as_much_as_was_measured_in_every_reading_that_they_allow() -> None:
    reports = load_full_reports("full reports")
    assert [len(load_full_reports(part)) for part in FULL_PARTS] == [40, 12]
    assert {report.anatomy.name for report in reports} == {"torso", "head-neck"}
    assert max(len(report.truths) for report in reports) == 3
    assert all(truth.anatomy_name == report.anatomy.name for report in reports for truth in report.truths)
    read = [nearest(r.truths, abstract_report(r.text, r.anatomy).findings)[1]["exact"] for r in reports]
    assert sum(read) >= 39


def test_of_several_readings_the_nearest_one_counts() -> None:
    arterial, venous = Findings(phase="arterial"), Findings(phase="portal venous")
    assert nearest([arterial, venous], venous)[0] == venous
    assert nearest([arterial, venous], arterial)[1]["exact"] == 1
    assert nearest([arterial, venous], Findings(phase="non-contrast"))[1]["exact"] == 0
    assert nearest([arterial, venous], None)[1]["errors"] == 1


def test_the_comparison_counts_every_field_and_what_is_read_too_much() -> None:
    truth = Findings(sex="male", organs={"spleen": "absent"}, lesions=(Lesion("liver", "left lobe", 20, "hypodense"),))
    assert compare(truth, truth)["exact"] == 1
    read = Findings(organs={"heart": "small"}, lesions=(Lesion("liver", "right lobe", 21), Lesion("stomach", "", 20)))
    counts = compare(truth, read)
    assert (counts["exact"], counts["sex stated right"], counts["status right"], counts["region right"]) == (0, 0, 0, 1)
    assert (counts["lesion organ right"], counts["lesion site right"], counts["lesion size right"]) == (1, 0, 1)
    assert (counts["extra lesions"], counts["extra statuses"]) == (1, 1)
    nothing = compare(truth, None)
    assert (nothing["errors"], nothing["lesion organ"], nothing["lesion organ right"]) == (1, 1, 0)
