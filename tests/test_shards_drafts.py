"""Where label maps are drawn before CTs, a draft that fails costs no CT, and the run is otherwise the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from ellipsoids import EllipsoidGenerator

from guidegen_data.anatomy import TORSO
from guidegen_data.case import Case, Draft
from guidegen_data.errors import ShardError
from guidegen_data.quality import verdict, verdict_before_ct
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.shards.blocks import generate_block
from guidegen_data.shards.plan import ReportSource, TwoStageGenerator, make_recipe

REPORT = "CT abdomen. 30 mm mass in the right lobe of the liver."


@dataclass(frozen=True)
class TwoStages(EllipsoidGenerator):
    """Keeps the CTs of its drafts aside until they are asked for; `completed` gets the keys of every call."""

    completed: list[list[str]] = field(default_factory=list)

    def draft(self, *lists: Sequence[Any], num_steps_mask: int | None = None, guidance: float | None = None):
        return [
            Draft(c.key, c.label_map, c.affine, c.report, c.findings, c.provenance, generator=c.ct_hu)
            for c in self.generate(*lists)
        ]

    def complete(
        self, drafts: Sequence[Draft], *, num_steps_ct: int | None = None, seeds: Sequence[int] | None = None
    ) -> list[Case]:
        self.completed.append([draft.key for draft in drafts])
        return [
            d.with_ct(np.clip(d.generator + (s % 40 - 20), -1024, 1976).astype(np.int16), {})
            for d, s in zip(drafts, seeds or [20] * len(drafts), strict=True)
        ]


@dataclass(frozen=True)
class FirstCTsTooBright(TwoStages):
    """A CT fails the first time that its case gets one."""

    def complete(
        self, drafts: Sequence[Draft], *, num_steps_ct: int | None = None, seeds: Sequence[int] | None = None
    ) -> list[Case]:
        seen = {key for keys in self.completed for key in keys}
        cases = super().complete(drafts, seeds=seeds)
        return [
            c if c.key in seen else d.with_ct(np.where(c.label_map > 0, 1900, c.ct_hu).astype(np.int16), {})
            for d, c in zip(drafts, cases, strict=True)
        ]


def block(generator, *, num_cases: int | None = None, number: int = 0, reports=(REPORT,), **settings) -> list[Case]:
    recipe = make_recipe(generator, seed=1, reports=reports, **settings)
    return generate_block(generator, recipe, ReportSource(recipe, generator.anatomy), number, num_cases)


def test_a_rejected_label_map_gets_no_ct() -> None:
    generator = TwoStages(misses=6)
    assert isinstance(generator, TwoStageGenerator)
    cases = block(generator)
    assert sum(case.provenance["attempt"] for case in cases) > 0
    assert generator.completed == [[case.key for case in cases]]
    rejects = [reject for case in cases for reject in case.provenance["rejects"]]
    assert {reject["found_in"] for reject in rejects} == {"label map"}
    assert all(reject["failed"] for reject in rejects)


def test_the_cases_are_those_of_a_generator_that_makes_both_at_once() -> None:
    for number in range(3):
        early, late = (block(kind(misses=6), number=number) for kind in (TwoStages, EllipsoidGenerator))
        for one, other in zip(early, late, strict=True):
            assert one.ct_hu.tobytes() == other.ct_hu.tobytes()
            assert one.label_map.tobytes() == other.label_map.tobytes()
            assert one.provenance["attempt"] == other.provenance["attempt"]


def test_a_ct_that_fails_makes_the_case_anew_from_its_label_map_on() -> None:
    generator = FirstCTsTooBright(misses=0)
    cases = block(generator)
    assert [case.provenance["attempt"] for case in cases] == [1] * len(cases)
    assert {reject["found_in"] for case in cases for reject in case.provenance["rejects"]} == {"CT"}
    assert generator.completed == [[case.key for case in cases], *([case.key] for case in cases)]


def test_without_quality_control_every_draft_gets_its_ct() -> None:
    generator = TwoStages(misses=10)
    cases = block(generator, quality_control=False)
    assert generator.completed == [[case.key for case in cases]]
    assert not any(case.provenance["rejects"] for case in cases)
    assert not all(case.provenance["quality"]["passed"] for case in cases)


def test_cases_beyond_the_run_are_not_drawn_again_but_keep_the_batch_whole() -> None:
    whole = [case.key for case in block(TwoStages(misses=0))]
    generator = TwoStages(misses=6)
    cases = block(generator, num_cases=1)
    assert [case.key for case in cases] == whole[:1]
    assert generator.completed == [whole]
    assert cases[0].ct_hu.tobytes() == block(TwoStages(misses=6))[0].ct_hu.tobytes()


def test_the_verdict_before_the_ct_is_part_of_the_whole_one(case: Case) -> None:
    draft = Draft(case.key, case.label_map, case.affine, case.report, case.findings, case.provenance)
    for asked in (draft, Draft(case.key, np.zeros_like(case.label_map), case.affine, case.report, case.findings)):
        before = verdict_before_ct(asked)
        whole = verdict(asked.with_ct(case.ct_hu, {}))
        assert before["checks"]
        assert [check for check in whole["checks"] if check in before["checks"]] == before["checks"]
        if not before["passed"]:
            assert not whole["passed"]
    assert not before["passed"]


@pytest.mark.parametrize("misses", [0, 6])
def test_styles_give_one_label_map_several_looks(misses: int) -> None:
    cases = [case for number in range(3) for case in block(TwoStages(misses=misses), number=number, styles=3)]
    for first in range(0, 12, 3):
        group = cases[first : first + 3]
        assert {case.label_map.tobytes() for case in group} == {group[0].label_map.tobytes()}
        assert len({case.ct_hu.tobytes() for case in group}) == 3
        told = [case.provenance["generation"] for case in group]
        assert [t["style"] for t in told] == [0, 1, 2]
        assert {t["label_map_of"] for t in told} == {group[0].key}
    assert len({case.label_map.tobytes() for case in cases}) == 4


def test_sampled_styles_differ_in_phase_and_say_so() -> None:
    cases = [c for number in range(3) for c in block(TwoStages(misses=0), number=number, reports=(), styles=12)]
    assert len({case.label_map.tobytes() for case in cases}) == 1
    assert len({case.findings.phase for case in cases}) > 1
    for case in cases:
        assert replace(case.findings, phase="") == replace(cases[0].findings, phase="")
        said = abstract_report(case.report, TORSO).findings.phase
        assert said in ("", case.findings.phase)


def test_a_style_whose_ct_fails_keeps_its_label_map() -> None:
    cases = block(FirstCTsTooBright(misses=0), styles=4)
    assert [case.provenance["attempt"] for case in cases] == [1] * 4
    assert len({case.label_map.tobytes() for case in cases}) == 1


@dataclass(frozen=True)
class BrightUntil(TwoStages):
    """The CTs of one case fail so often that it gets a label map of its own."""

    bad: str = ""

    def complete(self, drafts, *, num_steps_ct=None, seeds=None):
        so_far = sum(self.bad in keys for keys in self.completed)
        cases = super().complete(drafts, seeds=seeds)
        return [
            d.with_ct(np.where(c.label_map > 0, 1900, c.ct_hu).astype(np.int16), {})
            if c.key == self.bad and so_far < 3
            else c
            for d, c in zip(drafts, cases, strict=True)
        ]


@pytest.mark.parametrize("bad", ["s000000000", "s000000002"])
def test_cases_name_the_same_label_map_just_where_they_show_it(bad: str) -> None:
    cases = block(BrightUntil(misses=0, bad=bad), styles=4)
    told = {case.key: case.provenance["generation"]["label_map_of"] for case in cases}
    shown = {case.key: case.label_map.tobytes() for case in cases}
    assert len(set(shown.values())) == 2
    for one in told:
        for other in told:
            assert (told[one] == told[other]) == (shown[one] == shown[other])


def test_styles_need_a_generator_of_two_stages() -> None:
    with pytest.raises(ShardError, match="two stages"):
        make_recipe(EllipsoidGenerator(), styles=2)
