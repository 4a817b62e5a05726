"""Sampling of findings: always valid, a pure function of generator and index, every cell covered."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidegen_data.anatomy import ANATOMIES, HEAD_NECK, TORSO
from guidegen_data.anatomy_files import register
from guidegen_data.errors import FindingsError, ReportError
from guidegen_data.reports.coverage import coverage_cells, coverage_statuses
from guidegen_data.reports.coverage_table import coverage_table
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.reports.sampling import sample_findings
from guidegen_data.reports.weights import check_weights, load_weights, packaged_weights


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(["prevalence", "coverage", "organs"]),
    index=st.integers(0, 10**7),
    anatomy=st.sampled_from(sorted(ANATOMIES)),
)
def test_case_i_is_a_pure_function_of_generator_and_index(seed: int, mode, index: int, anatomy: str) -> None:
    table = ANATOMIES[anatomy]
    first, second = (sample_findings(np.random.default_rng(seed), table, mode, index) for _ in range(2))
    assert first == second
    assert Findings.from_dict(first.to_dict()) == first
    # No organ is spoken of that the field does not show.
    assert {*first.organs, *(le.organ for le in first.lesions)} <= table.region_organs[first.region]


@pytest.fixture(scope="module")
def drawn() -> list[Findings]:
    rng = np.random.default_rng(0)
    return [sample_findings(rng) for _ in range(3000)]


def test_about_seven_cases_in_ten_hold_a_lesion_and_none_more_than_three(drawn: list[Findings]) -> None:
    counts = Counter(len(f.lesions) for f in drawn)
    assert 0.66 < 1 - counts[0] / len(drawn) < 0.74
    assert max(counts) == 3


def test_prevalence_follows_the_weights_of_the_file(drawn: list[Findings]) -> None:
    weights = packaged_weights(TORSO)
    for field in ("region", "phase", "sex", "age_decade", "habitus"):
        counts = Counter(getattr(f, field) for f in drawn)
        total = sum(weights[field].values())
        assert set(counts) == set(weights[field])
        for value, weight in weights[field].items():
            # Five standard errors of a proportion at most.
            p = weight / total
            assert counts[value] / len(drawn) == pytest.approx(p, abs=5 * (p * (1 - p) / len(drawn)) ** 0.5)
    removed = sum(f.status("gallbladder") == "absent" for f in drawn) / len(drawn)
    assert removed == pytest.approx(0.15, abs=0.035)


@pytest.mark.parametrize("anatomy", [TORSO, HEAD_NECK], ids=lambda a: a.name)
def test_organs_alone_are_the_findings_of_prevalence_without_lesions_and_absent_organs(anatomy) -> None:
    num_absent = 0
    for seed in range(300):
        whole = sample_findings(np.random.default_rng(seed), anatomy)
        shown = {organ: status for organ, status in whole.organs.items() if status != "absent"}
        alone = sample_findings(np.random.default_rng(seed), anatomy, "organs")
        assert alone == replace(whole, organs=shown, lesions=())
        num_absent += len(whole.organs) - len(shown)
    assert num_absent > 5


def test_lesion_diameters_are_lognormal_within_their_range(drawn: list[Findings]) -> None:
    sizes = np.array([le.size_mm for f in drawn for le in f.lesions if le.organ == "liver"])
    assert sizes.min() >= 8
    assert sizes.max() <= 80
    assert np.median(sizes) == pytest.approx(24, abs=3)
    assert all(size == round(size) for size in sizes)


def test_no_case_has_lost_both_kidneys(drawn: list[Findings]) -> None:
    assert any(f.status("left kidney") == "absent" for f in drawn)
    assert not any({f.status("left kidney"), f.status("right kidney")} == {"absent"} for f in drawn)


@pytest.fixture(scope="module")
def covered() -> list[Findings]:
    rng = np.random.default_rng(1)
    return [sample_findings(rng, mode="coverage", index=i) for i in range(10_000)]


def test_coverage_gives_every_organ_site_and_size_cell_the_same_share(covered: list[Findings]) -> None:
    cells = coverage_cells()
    assert {(c.organ, c.site) for c in cells} == {(o.name, s) for o in TORSO.organs for s in o.sites}
    met: Counter = Counter()
    for index, case in enumerate(covered):
        cell, lesion = cells[index % len(cells)], case.lesions[0]
        assert (lesion.organ, lesion.site) == (cell.organ, cell.site)
        assert cell.low_mm <= lesion.size_mm <= cell.high_mm
        met[cell] += 1
    assert len(met) == len(cells)
    assert max(met.values()) - min(met.values()) <= 1


def test_ten_thousand_cases_of_coverage_hold_every_pair_of_values_that_a_case_can_hold(covered: list[Findings]) -> None:
    rows = coverage_table(covered)
    assert [row for row in rows if row.num_met < row.num_possible] == []
    names = {row.attributes for row in rows}
    told = ["lesion", "attenuation", "status", "region", "phase", "sex", "age", "habitus"]
    assert {f"{a} x {b}" for a, b in combinations(told, 2)} | {"site x site", "status x status"} <= names
    # Nothing is rare: the rarest value of each attribute has at least half of an equal share.
    for row in rows:
        if row.attributes in ("lesion", "phase", "sex", "age", "habitus"):
            assert row.rarest > 0.5 * len(covered) / row.num_possible, row


def test_prevalence_does_not_cover_every_pair_which_is_what_coverage_is_for(drawn: list[Findings]) -> None:
    missing = [row for row in coverage_table(drawn) if row.num_met < row.num_possible]
    assert "lesion x status" in {row.attributes for row in missing}
    assert all(0 < len(row.missing) <= 3 and row.rarest == 0 for row in missing)


def test_the_coverage_table_counts_what_the_cases_hold_and_never_pairs_one_lesion_with_the_others_attenuation() -> None:
    lesions = (Lesion("liver", "left lobe", 20, "hypodense"), Lesion("spleen", "", 30, "isodense"))
    case = Findings(phase="arterial", organs={"heart": "enlarged"}, region="abdomen", lesions=lesions)
    rows = {row.attributes: row for row in coverage_table([case, case])}
    assert rows["status"].num_met == rows["status x phase"].num_met == rows["phase"].num_met == 1
    assert rows["status"].num_possible == len(coverage_statuses())
    assert rows["lesion"].num_met == rows["lesion x attenuation"].num_met == rows["lesion x phase"].num_met == 2
    assert rows["site x site"].num_met == 1
    assert rows["sex"].num_met == rows["sex x age"].num_met == 0
    # A bladder lies outside a chest scan, an absent spleen holds no lesion: no such pair is asked for.
    num_cells = len(coverage_cells())
    assert rows["lesion x region"].num_possible == sum(
        cell.organ in TORSO.region_organs[region] for cell in coverage_cells() for region in TORSO.regions
    )
    assert rows["lesion x phase"].num_possible == 3 * num_cells
    assert rows["lesion x status"].num_possible < num_cells * len(coverage_statuses())


def test_case_i_of_coverage_takes_all_but_its_diameters_from_i_alone() -> None:
    for index in (0, 83, 84, 168, 5_001):
        cases = [
            sample_findings(np.random.default_rng(seed), mode="coverage", index=index).to_dict() for seed in (1, 2)
        ]
        for case in cases:
            for lesion in case["lesions"]:
                lesion["size_mm"] = 0
        assert cases[0] == cases[1]


def test_coverage_never_calls_a_lung_lesion_darker_than_lung(covered: list[Findings]) -> None:
    words = {le.attenuation for f in covered for le in f.lesions if le.organ.endswith("lung")}
    assert words == {""}


def test_weights_without_a_table_of_habitus_draw_it_evenly() -> None:
    rng = np.random.default_rng(4)
    counts = Counter(sample_findings(rng, weights={}).habitus for _ in range(400))
    assert set(counts) == {"", "slim", "average", "large"}
    assert min(counts.values()) > 60


def test_an_anatomy_without_lesion_hosts_is_covered_by_its_statuses() -> None:
    rng = np.random.default_rng(3)
    organs = tuple(replace(o, sites=()) for o in HEAD_NECK.organs)
    bare = register(replace(HEAD_NECK, name="no-hosts", organs=organs))
    cases = [sample_findings(rng, bare, "coverage", i) for i in range(40)]
    del ANATOMIES["no-hosts"]
    assert {(o, s) for f in cases for o, s in f.organs.items()} == {
        (o.name, s) for o in organs for s in o.statuses if s != "normal"
    }


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(FindingsError, match="prevalence"):
        sample_findings(np.random.default_rng(0), mode="uniform")  # type: ignore[arg-type]


def test_the_packaged_weights_pass_their_own_check() -> None:
    for anatomy in (TORSO, HEAD_NECK):
        assert packaged_weights(anatomy)
        check_weights(packaged_weights(anatomy), anatomy, "prevalence.yaml")


def test_weights_of_a_file_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text("region: {chest: 1}\nlesions: {2: 1}\nplace: {right lung: {upper lobe: 1}}\n")
    findings = sample_findings(np.random.default_rng(0), weights=load_weights(path))
    assert findings.region == "chest"
    assert [(le.organ, le.site) for le in findings.lesions] == [("right lung", "upper lobe")] * 2


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("- 1", "mapping"),
        ("region: [chest]", "region"),
        ("region: {pelvis: 1}", "pelvis"),
        ("organs: {liver: 1}", "organs"),
        ("phase: {arterial: -1}", "phase"),
        ("phase: {arterial: often}", "phase"),
        ("habitus: {fat: 1}", "habitus"),
        ("status: {colon: {absent: 1}}", "absent"),
        ("place: {liver: {tail: 1}}", "tail"),
        ("size_mm: {default: {low: 1, high: 20}}", "size_mm"),
        ("size_mm: {liver: {low: 60, high: 20}}", "liver"),
        ("coverage_mm: [20, 10]", "coverage_mm"),
        ("region: {chest: 1", "ParserError"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_by_name(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text(text)
    with pytest.raises(ReportError, match=word) as caught:
        load_weights(path)
    assert str(path) in str(caught.value) or "weights.yaml" in str(caught.value)
    with pytest.raises(ReportError):
        load_weights(tmp_path / "none.yaml")


def test_weights_that_leave_no_choice_are_refused() -> None:
    with pytest.raises(ReportError, match="no choice"):
        sample_findings(np.random.default_rng(0), weights={"region": {"chest": 0}})


def test_no_lesion_is_drawn_where_the_field_does_not_reach() -> None:
    drawn = [sample_findings(np.random.default_rng(i)) for i in range(3000)]
    pelvic = [f.region for f in drawn for lesion in f.lesions if lesion.site in ("sigmoid", "rectum")]
    assert len(pelvic) > 50
    assert set(pelvic) == {"abdomen and pelvis"}


def test_a_site_out_of_field_that_does_not_exist_is_named() -> None:
    with pytest.raises(ReportError, match="unknown name 'tail'"):
        check_weights({"out_of_field": {"abdomen": {"colon": ["tail"]}}}, TORSO, "mine")
