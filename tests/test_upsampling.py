"""Label maps at full resolution: thin structures and volumes survive, borders lose the coarse grid's steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guidegen_data.diffusion.categorical import one_hot, upsample_belief
from guidegen_data.models.upsampling import upsample_keeping_volumes

ONES = torch.ones(3)


def uncertain(labels: Tensor, belief: float = 0.8) -> Tensor:
    """A belief (1, 3, X, Y, Z) that gives the rest of each voxel's share to background."""
    held = belief * one_hot(labels, 3).float()
    held[:, 0] += 1 - belief
    return held


def count(fine: Tensor, label: int) -> float:
    return float((fine == label).sum()) / 8  # in coarse voxels


def ball(radius: float) -> Tensor:
    at = torch.stack(torch.meshgrid(*[torch.arange(20.0)] * 3, indexing="ij")) - 9.5
    return (at.square().sum(dim=0) < radius**2).long()[None]


def test_a_thin_uncertain_sheet_keeps_the_volume_that_is_believed_in() -> None:
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.int64)
    labels[:, 7] = 1
    belief = uncertain(labels, 0.65)
    assert count(upsample_belief(belief, (32, 32, 32)), 1) == 0
    kept = count(upsample_keeping_volumes(belief, (32, 32, 32), ONES), 1)
    assert kept >= 0.65 * 256


@settings(max_examples=15, deadline=None)
@given(st.floats(2.5, 8.0), st.floats(0.7, 1.0), st.floats(0.8, 1.2))
def test_the_volume_is_the_expected_one_by_the_measured_ratio(radius: float, belief: float, ratio: float) -> None:
    held = uncertain(ball(radius), belief)
    fine = upsample_keeping_volumes(held, (40, 40, 40), torch.tensor([1.0, ratio, 1.0]))
    expected = float(held[0, 1].sum()) * ratio
    plain = count(upsample_keeping_volumes(held, (40, 40, 40), torch.tensor([1.0, 0.01, 1.0])), 1)
    # A class is favoured where it comes out short, and never robbed.
    assert count(fine, 1) == pytest.approx(max(expected, plain), rel=0.1, abs=8)


def test_single_voxels_of_a_rough_border_are_smoothed_away() -> None:
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.int64)
    labels[:, :8] = 1
    labels[:, 8, ::3, ::3] = 1
    belief = uncertain(labels)
    rough = upsample_belief(belief, (32, 32, 32))
    smooth = upsample_keeping_volumes(belief, (32, 32, 32), ONES)
    surface = [int((m[:, 1:] != m[:, :-1]).sum() + (m[:, :, 1:] != m[:, :, :-1]).sum()) for m in (rough, smooth)]
    flat = 32 * 32
    assert surface[1] - flat < 0.2 * (surface[0] - flat)


def test_a_class_nobody_believes_in_never_appears() -> None:
    fine = upsample_keeping_volumes(uncertain(ball(6.0)), (40, 40, 40), torch.tensor([1.0, 1.2, 5.0]))
    assert set(fine.unique().tolist()) == {0, 1}
    assert fine.dtype == torch.uint8
