"""Organs are held to their HU: the median that was asked for, as even as organs are, texture and gas left alone."""

import numpy as np
import pytest
import torch

from guidegen_data.models.inhomogeneity import hold_organ_hu, inhomogeneity, usual_inhomogeneity

SPACING, RANGE = (3.0, 3.0, 3.0), (-1024, 3071)
LIVER, BOWEL, LESION = 1, 2, 3


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    """Two organs beside each other, a lesion of 10 voxels in the first."""
    held = torch.zeros(48, 48, 48, dtype=torch.uint8)
    held[6:30, 6:42, 6:42] = LIVER
    held[30:44, 6:42, 6:42] = BOWEL
    held[14:24, 14:24, 14:24] = LESION
    return held


@pytest.fixture(scope="module")
def drawn(labels) -> torch.Tensor:
    """A liver that brightens along the body by 60 HU about a median of 70, with texture, and a bowel with gas in it."""
    rng = torch.Generator().manual_seed(0)
    ct = torch.full(labels.shape, -100.0)
    slope = torch.linspace(-30, 30, 36)
    ct[:, :, 6:42] = torch.where(labels[:, :, 6:42] == LIVER, 70 + slope, ct[:, :, 6:42])
    ct[labels == BOWEL], ct[labels == LESION] = 20, 40
    ct[36:40, 20:30, 20:30] = -900
    ct[labels > 0] += 6 * torch.randn(int((labels > 0).sum()), generator=rng)
    return ct.round().to(torch.int16)


def held_to(
    drawn,
    labels,
    liver: float,
    bowel: float = torch.nan,
    even: float = 3.0,
    beyond: float = 0.0,
    along: float = torch.inf,
) -> torch.Tensor:
    asked = torch.tensor([torch.nan, liver, bowel, torch.nan])
    usual = torch.tensor([even, beyond, along]).repeat(4, 1)
    return hold_organ_hu(drawn, labels, asked, usual, SPACING, RANGE)


def inner(labels: torch.Tensor, label: int, margin: int = 3) -> torch.Tensor:
    """Voxels of a class that lie a few voxels inside it."""
    from scipy.ndimage import binary_erosion

    return torch.from_numpy(binary_erosion((labels == label).numpy(), iterations=margin))


def test_an_organ_gets_the_median_that_was_asked_for_and_is_evened_out(drawn, labels) -> None:
    assert inhomogeneity(drawn, labels, 4, SPACING)[LIVER, 0] > 12
    for asked in (70, 110, 40):
        held = held_to(drawn, labels, asked)
        assert float(held[inner(labels, LIVER)].float().median()) == pytest.approx(asked, abs=2)
        assert inhomogeneity(held, labels, 4, SPACING)[LIVER, 0] < 5
        ends = [float(held[10:26, 26:38, z].float().mean()) for z in (10, 38)]
        assert abs(ends[1] - ends[0]) < 15  # 51 as it was drawn


def test_an_organ_that_is_as_uneven_as_usual_is_moved_as_a_whole(drawn, labels) -> None:
    held = held_to(drawn, labels, 100, even=50)
    apart = (held - drawn)[inner(labels, LIVER)].float()
    assert float(apart.median()) == pytest.approx(30, abs=1)
    assert float(apart.std()) < 1


def test_texture_stays_as_it_was_drawn(drawn, labels) -> None:
    held, within = held_to(drawn, labels, 90), inner(labels, LIVER, 4)
    steps = [(ct[:, 1:] - ct[:, :-1])[within[:, 1:]].float().numpy() for ct in (drawn, held)]
    assert np.corrcoef(*steps)[0, 1] > 0.98
    assert steps[1].std() == pytest.approx(steps[0].std(), rel=0.05)


def test_gas_in_an_organ_stays_gas(drawn, labels) -> None:
    held = held_to(drawn, labels, 70, bowel=60)
    gas = drawn < -500
    assert torch.equal(held[gas], drawn[gas])
    assert float(held[inner(labels, BOWEL) & ~gas].float().median()) == pytest.approx(60, abs=3)


def test_what_is_not_told_stays_but_for_its_border(drawn, labels) -> None:
    held = held_to(drawn, labels, 110)
    for label in (0, BOWEL, LESION):
        within = inner(labels, label)
        assert within.any()
        assert torch.equal(held[within], drawn[within])
    assert torch.equal(held_to(drawn, labels, torch.nan), drawn)


def test_a_core_is_as_much_beyond_the_organ_as_in_training_cases(drawn, labels) -> None:
    held = held_to(drawn, labels, 100, beyond=12)
    assert float(held[inner(labels, LIVER)].float().median()) == pytest.approx(112, abs=1)


def test_a_class_of_several_tissues_is_left_alone(drawn, labels) -> None:
    assert torch.equal(held_to(drawn, labels, 100, even=torch.inf), drawn)


def test_what_a_core_has_beyond_its_organ_is_measured() -> None:
    tube = torch.zeros(12, 12, 40, dtype=torch.uint8)
    tube[3:8, 3:8] = 1
    ct = torch.full(tube.shape, 100).short()
    ct[4:7, 4:7] = 150
    std, beyond, along = inhomogeneity(ct, tube, 2, SPACING)[1].tolist()
    assert beyond == 50
    assert std == pytest.approx(0, abs=0.1)  # the border is no unevenness
    assert along == pytest.approx(0, abs=0.1)


def test_an_organ_that_drifts_along_the_body_is_told_from_one_with_a_bright_side(labels) -> None:
    ramp = torch.linspace(-20, 20, 48)
    drifts, sided = (
        inhomogeneity((100 + ramp.view(shape).expand(48, 48, 48)).short(), labels, 4, SPACING)[BOWEL]
        for shape in ((1, 1, 48), (1, 48, 1))
    )
    assert drifts[0] == pytest.approx(float(sided[0]), abs=1)
    assert drifts[2] == pytest.approx(float(drifts[0]), abs=1)
    assert sided[2] < 0.5


def test_drift_beyond_the_usual_is_taken_away_and_unevenness_within_slices_stays(labels, drawn) -> None:
    sided = drawn.float() + torch.linspace(-20, 20, 48).view(1, 48, 1)
    held = held_to(sided.short(), labels, 70, even=50, along=1)
    before, after = (inhomogeneity(ct, labels, 4, SPACING)[LIVER] for ct in (sided, held))
    assert before[2] > 12
    assert after[2] < 2
    sides = [float(held[10:26, y, 10:38].float().mean()) for y in (10, 38)]
    assert sides[1] - sides[0] == pytest.approx(28 * 40 / 47, abs=3)


def test_a_thin_end_without_a_core_is_moved_as_the_slice_where_the_core_ends() -> None:
    labels = torch.zeros(16, 16, 40, dtype=torch.uint8)
    labels[4:12, 4:12, 12:36] = 1
    labels[7:9, 7:9, 4:12] = 1  # two voxels wide: no core
    ct = (100 + torch.linspace(-20, 20, 40)).expand(16, 16, 40).short()
    usual = torch.tensor([[torch.inf] * 3, [50.0, 0.0, 1.0]])
    held = hold_organ_hu(ct, labels, torch.tensor([torch.nan, 100.0]), usual, SPACING, RANGE)
    moved = (held - ct)[7, 7].float()
    assert moved[5:12].std() < 1
    assert float(moved[5:12].mean()) == pytest.approx(float(moved[14]), abs=3)


def test_classes_of_several_tissues_are_those_that_vary_most_and_those_whose_core_is_another_tissue() -> None:
    even, vessels, marrow = (5.0, 2.0, 1.0), (70.0, 2.0, 1.0), (20.0, -60.0, 1.0)
    cases = torch.tensor([[even, vessels, marrow, (torch.nan,) * 3, even]]).repeat(10, 1, 1)
    cases[0, 4, 1] = -60  # one case of ten is no rule
    usual = usual_inhomogeneity(cases, torch.zeros(10), 1)
    assert usual[:, [0, 4]].tolist() == [[list(even)] * 2] * 2
    assert torch.isinf(usual[:, [1, 2, 3]]).all()


def test_what_is_usual_is_of_the_phase_and_of_the_evener_cases() -> None:
    cases = torch.zeros(30, 2, 3)
    cases[:, 0] = torch.tensor([4.0, 1.0, 2.0])
    cases[10:20, 0] = torch.tensor([8.0, 6.0, 3.0])
    cases[20:, 0, 0] = torch.arange(10.0)
    cases[:10, 1] = 9
    cases[4:10, 1] = torch.nan
    phase = torch.arange(30) // 10
    usual = usual_inhomogeneity(cases, phase, 4)
    assert usual[0, 0].tolist() == [4, 1, 2]
    assert usual[1, 0].tolist() == [8, 6, 3]
    assert float(usual[2, 0, 0]) == 2.25
    assert torch.equal(usual[3], usual[4])  # of a phase without cases nothing else is known
    assert usual[:, 1].tolist() == [[0, 0, 0]] * 5  # four cases do not tell a phase
    cases[4, 1] = 9
    assert usual_inhomogeneity(cases, phase, 4)[:2, 1].tolist() == [[9, 9, 9], [0, 0, 0]]


def test_hu_stay_within_their_range_and_specks_are_left_alone(drawn, labels) -> None:
    speck = labels.clone()
    speck[speck == BOWEL] = 0
    speck[40, 40, :9] = BOWEL
    assert torch.equal(held_to(drawn, speck, torch.nan, bowel=500), drawn)
    assert torch.isnan(inhomogeneity(drawn, speck, 4, SPACING)[[0, BOWEL]]).all()
    assert held_to(drawn, labels, 5000).max() <= RANGE[1]
