"""The steps of stage 2: each goes an equal part of the way from noise to the slice, none is spent on nothing."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from guidegen_data.models.sampling_ct import set_even_steps


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_steps_are_even_and_the_last_one_ends_at_the_slice(num_steps) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    set_even_steps(scheduler, num_steps)
    expected = torch.linspace(1, 0, num_steps + 1)
    torch.testing.assert_close(scheduler.sigmas.cpu(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(scheduler.timesteps.cpu(), 1000 * expected[:-1], atol=1e-3, rtol=0)


def test_other_schedulers_choose_their_own_steps() -> None:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    set_even_steps(scheduler, 4)
    assert len(scheduler.timesteps) == 4
