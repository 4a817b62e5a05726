"""Sampling of findings: always valid, a pure function of generator and index, every cell covered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidegen_data.anatomy import ANATOMIES, HEAD_NECK, TORSO
from guidegen_data.errors import FindingsError, ReportError
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.sampling import coverage_cells, sample_findings
from guidegen_data.reports.weights import check_weights, load_weights, packaged_weights


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(["prevalence", "coverage"]),
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
    for field in ("region", "phase", "sex", "age_decade"):
        counts = Counter(getattr(f, field) for f in drawn)
        total = sum(weights[field].values())
        assert set(counts) == set(weights[field])
        for value, weight in weights[field].items():
            # Five standard errors of a proportion at most.
            p = weight / total
            assert counts[value] / len(drawn) == pytest.approx(p, abs=5 * (p * (1 - p) / len(drawn)) ** 0.5)
    removed = sum(f.status("gallbladder") == "absent" for f in drawn) / len(drawn)
    assert removed == pytest.approx(0.15, abs=0.035)


def test_lesion_diameters_are_lognormal_within_their_range(drawn: list[Findings]) -> None:
    sizes = np.array([le.size_mm for f in drawn for le in f.lesions if le.organ == "liver"])
    assert sizes.min() >= 8
    assert sizes.max() <= 80
    assert np.median(sizes) == pytest.approx(24, abs=3)
    assert all(size == round(size) for size in sizes)


def test_no_case_has_lost_both_kidneys(drawn: list[Findings]) -> None:
    assert any(f.status("left kidney") == "absent" for f in drawn)
    assert not any({f.status("left kidney"), f.status("right kidney")} == {"absent"} for f in drawn)


def test_coverage_gives_every_organ_site_and_size_cell_the_same_share() -> None:
    cells = coverage_cells()
    hosts = {(o.name, s) for o in TORSO.organs for s in o.sites}
    assert {(c.organ, c.site) for c in cells} == hosts
    rng = np.random.default_rng(1)
    met: Counter = Counter()
    for index in range(3 * len(cells)):
        (lesion,) = sample_findings(rng, mode="coverage", index=index).lesions
        cell = cells[index % len(cells)]
        assert (lesion.organ, lesion.site) == (cell.organ, cell.site)
        assert cell.low_mm <= lesion.size_mm <= cell.high_mm
        met[cell] += 1
    assert set(met.values()) == {3}
    assert len(met) == len(cells)


def test_coverage_pairs_every_status_region_phase_and_attenuation_within_ten_thousand_cases() -> None:
    rng = np.random.default_rng(2)
    cases = [sample_findings(rng, mode="coverage", index=i) for i in range(4000)]
    statuses = {(o, s) for f in cases for o, s in f.organs.items()}
    assert statuses == {(o.name, s) for o in TORSO.organs for s in o.statuses if s != "normal"}
    organs = {le.organ for f in cases for le in f.lesions}
    pairs = {(f.phase, le.organ, le.attenuation) for f in cases for le in f.lesions}
    assert len(pairs) == 3 * len(organs) * 4
    regions = {(f.region, le.organ) for f in cases for le in f.lesions}
    assert regions == {(r, o) for r in TORSO.regions for o in organs if o in TORSO.region_organs[r]}


def test_an_anatomy_without_lesion_hosts_is_covered_by_its_statuses() -> None:
    rng = np.random.default_rng(3)
    cases = [sample_findings(rng, HEAD_NECK, "coverage", i) for i in range(40)]
    assert {(o, s) for f in cases for o, s in f.organs.items()} == {
        (o.name, s) for o in HEAD_NECK.organs for s in o.statuses if s != "normal"
    }


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(FindingsError, match="prevalence"):
        sample_findings(np.random.default_rng(0), mode="uniform")  # type: ignore[arg-type]


def test_the_packaged_weights_pass_their_own_check() -> None:
    check_weights(packaged_weights(TORSO), TORSO, "prevalence.yaml")


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
