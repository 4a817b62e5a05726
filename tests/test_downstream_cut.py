"""The benchmark's control: real patients in the field of view of generated cases, and nothing else changed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.downstream_arms import Sizes, Sources
from benchmarks.downstream_cut import cut_like
from benchmarks.nnunet_route import write_cases
from guidegen_data import HEAD_NECK, Case, ShardReader
from guidegen_data.reports.findings import Findings

MANDIBLE = HEAD_NECK.ids["mandible"]
SOFT_TISSUE = HEAD_NECK.ids["soft tissue"]


def neck(first: int, last: int, organs: tuple[int, int], texture: int = 0) -> Case:
    """A body of 156 cm2 in slices first..last-1 of 40, with a mandible in slices organs[0]..organs[1]-1."""
    ct_hu = np.full((54, 50, 40), -1024, np.int16)  # a column of air beside the body
    label_map = np.zeros(ct_hu.shape, np.uint8)
    rng = np.random.default_rng(texture)
    ct_hu[4:, :, first:last] = rng.integers(-100, 60, (50, 50, last - first))
    label_map[4:, :, first:last] = SOFT_TISSUE
    label_map[20:30, 20:30, organs[0] : organs[1]] = MANDIBLE
    findings = Findings(region="neck", anatomy_name="head-neck")
    return Case("case", ct_hu, label_map, np.diag([2.5, 2.5, 2.5, 1]), "", findings, {})


@settings(max_examples=30, deadline=None)
@given(above=st.integers(0, 9), below=st.integers(0, 9), moved=st.integers(-4, 4))
def test_a_real_case_shows_as_far_above_and_below_its_organs_as_the_generated_one(
    above: int, below: int, moved: int
) -> None:
    real = neck(0, 40, (18 + moved, 22 + moved))
    generated = neck(18 - below, 22 + above, (18, 22), texture=1)
    cut = cut_like(real, generated)
    kept = slice(18 + moved - below, 22 + moved + above)
    assert np.array_equal(cut.ct_hu[:, :, kept], real.ct_hu[:, :, kept])
    assert np.array_equal(cut.label_map[:, :, kept], real.label_map[:, :, kept])
    gone = np.delete(np.arange(40), np.arange(40)[kept])
    assert (cut.ct_hu[:, :, gone] == -1024).all()
    assert not cut.label_map[:, :, gone].any()


def test_a_real_case_that_shows_less_stays_as_it_is() -> None:
    real = neck(10, 30, (18, 22))
    cut = cut_like(real, neck(0, 40, (18, 22), texture=1))
    assert np.array_equal(cut.ct_hu, real.ct_hu)
    assert np.array_equal(cut.label_map, real.label_map)


def test_ours_beside_cut_patients_are_every_case_of_both(tmp_path, monkeypatch) -> None:
    for kind, texture in (("guidegen", 0), ("cut", 10)):
        write_cases(lambda number, t=texture: neck(0, 40, (18, 22), t + number), 3, tmp_path / kind)
    made = Sources.shards
    monkeypatch.setattr(
        Sources, "shards", lambda self, kind: made(self, kind) if "-and-" in kind else self.folder / kind
    )
    monkeypatch.setattr(Sources, "fingerprint", lambda self: "one")
    sources = Sources(tmp_path, tmp_path / "real", [], tmp_path, Sizes(num_cases=3))
    both = ShardReader(sources.shards("guidegen-and-cut"))
    parts = [ShardReader(tmp_path / kind) for kind in ("guidegen", "cut")]
    assert len(both) == 6
    for number in range(6):
        assert np.array_equal(both[number].ct_hu, parts[number % 2][number // 2].ct_hu)
    assert (tmp_path / "real/guidegen-and-cut").is_dir()  # half of it is of one k and seed


def test_a_case_without_organs_in_view_is_not_emptied() -> None:
    # The generated case's organ lies below all that its CT shows.
    assert cut_like(real := neck(0, 40, (18, 22)), neck(30, 40, (0, 2), texture=1)) is real
