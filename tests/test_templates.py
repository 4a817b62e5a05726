"""Templates: every report that is rendered is read back as the findings it was rendered from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import findings

from guidegen_data.anatomy import HEAD_NECK
from guidegen_data.errors import ReportError
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.reports.sampling import sample_findings
from guidegen_data.reports.templates import Template, TemplateLibrary, library_names, load_templates

TORSO_LIBRARY = load_templates("torso")
CASE = Findings(
    region="abdomen and pelvis",
    phase="portal venous",
    sex="female",
    age_decade=60,
    habitus="large",
    organs={"gallbladder": "absent", "liver": "enlarged"},
    lesions=(Lesion("colon", "sigmoid", 24), Lesion("liver", "right lobe", 38, "hypodense")),
)


def told(case: Findings, states: frozenset[str]) -> dict[str, object]:
    """What a template that states those fields tells of a case, sizes to the millimetre."""
    lesions = [(le.organ, le.site, round(le.size_mm), le.attenuation) for le in case.lesions]
    organs = {organ: status for organ, status in case.organs.items() if status != "normal"}
    everything = {
        "region": case.region,
        "phase": case.phase,
        "sex": case.sex,
        "age_decade": case.age_decade,
        "habitus": case.habitus,
        "organs": organs,
        "lesions": lesions,
    }
    return {name: value for name, value in everything.items() if name in states}


def assert_round_trip(library: TemplateLibrary, template: Template, case: Findings, seed: int) -> None:
    text = library.render_with(template, case, np.random.default_rng(seed))
    read = abstract_report(text, case.anatomy).findings
    assert told(read, template.states) == told(case, template.states), text


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(findings(whole_mm=False), st.sampled_from(TORSO_LIBRARY.templates), st.integers(0, 2**32))
def test_every_rendered_report_is_read_back_as_its_findings(case: Findings, template: Template, seed: int) -> None:
    assert_round_trip(TORSO_LIBRARY, template, case, seed)


@settings(max_examples=60, deadline=None)
@given(findings(HEAD_NECK), st.integers(0, 2**32))
def test_head_and_neck_reports_are_read_back_as_their_findings(case: Findings, seed: int) -> None:
    library = load_templates("head-neck")
    for template in library.templates:
        assert_round_trip(library, template, case, seed)


def test_every_phrase_of_every_table_survives_the_round_trip() -> None:
    # Random draws may miss a phrase of a rare organ: here each is the only one of its table once.
    for habitus, phrases in TORSO_LIBRARY.phrases["habitus"].items():
        for k, phrase in enumerate(phrases):
            one = {**TORSO_LIBRARY.phrases, "habitus": {habitus: [phrase]}}
            library = TemplateLibrary("one", TORSO_LIBRARY.templates, one)
            case = replace(CASE, habitus=habitus)
            for template in library.templates:
                assert_round_trip(library, template, case, k)
    for organ in CASE.anatomy.organs:
        for status in organ.statuses:
            phrases = TORSO_LIBRARY.phrases["organ_status"].get(organ.name, {}).get(status, [])
            for k, phrase in enumerate([*phrases, *TORSO_LIBRARY.phrases["status"].get(status, [])]):
                only = {"status": {status: [phrase]}, "organ_status": {}}
                library = TemplateLibrary("one", TORSO_LIBRARY.templates, {**TORSO_LIBRARY.phrases, **only})
                case = Findings(region="abdomen", organs={organ.name: status})
                assert_round_trip(library, library.templates[k % len(library.templates)], case, k)
        for site in organ.sites:
            region = next(r for r in CASE.anatomy.regions if organ.name in CASE.anatomy.region_organs[r])
            for k, phrase in enumerate([*TORSO_LIBRARY.phrases["lesion"], *TORSO_LIBRARY.phrases["impression_lesion"]]):
                library = TemplateLibrary("one", TORSO_LIBRARY.templates, {**TORSO_LIBRARY.phrases, "lesion": [phrase]})
                case = Findings(region=region, lesions=(Lesion(organ.name, site, 31, "hypodense"),))
                assert_round_trip(library, library.templates[k % len(library.templates)], case, k)


def test_sampled_findings_survive_the_round_trip_too() -> None:
    rng = np.random.default_rng(0)
    for index in range(200):
        case = sample_findings(rng, mode="coverage" if index % 2 else "prevalence", index=index)
        assert_round_trip(TORSO_LIBRARY, TORSO_LIBRARY.templates[index % len(TORSO_LIBRARY.templates)], case, index)


def test_the_wording_is_varied_and_a_function_of_the_generator_alone() -> None:
    texts = [TORSO_LIBRARY.render(CASE, np.random.default_rng(seed)) for seed in range(100)]
    assert len(set(texts)) >= 98
    assert texts[7] == TORSO_LIBRARY.render(CASE, np.random.default_rng(7))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(findings(), st.sampled_from(TORSO_LIBRARY.templates), st.integers(0, 2**32))
def test_rendered_text_is_clean(case: Findings, template: Template, seed: int) -> None:
    text = TORSO_LIBRARY.render_with(template, case, np.random.default_rng(seed))
    assert text == text.strip()
    assert not text[0].islower()
    for flaw in ("{", "}", "  ", " .", " ,", "..", ",.", "A 8", " a 8", "a iso", "a hypodense  "):
        assert flaw not in text, text


def test_a_template_that_leaves_a_field_out_says_so() -> None:
    anonymous = next(t for t in TORSO_LIBRARY.templates if t.name == "anonymous")
    assert anonymous.states == {"region", "phase", "organs", "lesions"}
    assert all(t.states >= anonymous.states for t in TORSO_LIBRARY.templates)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_plain_list_of_texts_is_a_library(tmp_path: Path) -> None:
    library = load_templates(write(tmp_path, '- "{exam}. {patient}. {findings}"\n- "{region}: {lesions}"\n'))
    assert len(library.templates) == 2
    assert_round_trip(library, library.templates[0], CASE, 0)


def test_phrases_of_a_file_replace_ours_and_the_rest_stays(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'templates: ["{exam}. {lesions}"]\nphrases:\n  lesion: ["{size} {noun}, {in}."]\n'
        "  noun: tumor\n  noun_of: {liver: [hepatoma]}\n  place: {liver: {right lobe: {in: [segment VI]}}}\n",
    )
    library = load_templates(path)
    text = library.render(CASE, np.random.default_rng(0))
    assert "hepatoma, segment VI." in text
    assert library.phrases["place"]["colon"] == TORSO_LIBRARY.phrases["place"]["colon"]
    assert library.phrases["noun"] == ["tumor"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- '{diagnosis}'", "diagnosis"),
        ("- '{findings.__class__}'", "findings.__class__"),
        ("- '{0}'", "'0'"),
        ("- '{}'", "''"),
        ("- '{{ 7 * 7 }} {exam}'", "field"),
        ("- '{exam} {'", "brace"),
        ("- 'always the same'", "no field"),
        ("- 3", "template 1"),
        ("- [a]", "template 1"),
        ("[]", "templates"),
        ("", "templates"),
        ("just words", "templates"),
        ("templates: ['{exam}']\nphrase: {}", "phrase"),
        ("templates: ['{exam}']\nphrases: [a]", "phrases"),
        ("templates: ['{exam}']\nphrases: {lesions: [a]}", "lesions"),
        ("templates: ['{exam}']\nphrases: {lesion: ['{colour}']}", "colour"),
        ("templates: ['{exam}']\nphrases: {lesion: []}", "lesion"),
        ("templates: ['{exam}']\nphrases: {negative: [no]}", "negative"),
        ("templates: ['{exam}']\nphrases: {phase: [arterial]}", "phase"),
        ("templates: ['{exam}'", "line"),
        ("- !!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_a_file_that_is_no_library_is_refused_naming_file_and_field(text: str, named: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ReportError) as caught:
        load_templates(path)
    message = str(caught.value)
    assert "mine.yaml" in message
    assert named in message
    assert "\n" not in message


def test_an_unknown_name_and_an_unreadable_file_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    large = tmp_path / "large.yaml"
    large.write_text("#" * 1_000_001)
    with pytest.raises(ReportError, match=", ".join(library_names())):
        load_templates("veterinary")
    for path in (tmp_path, binary, large):
        with pytest.raises(ReportError, match=path.name):
            load_templates(path)
