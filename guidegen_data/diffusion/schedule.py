"""Noise schedules as tables over t = 0..T with abar[0] = 1, and the steps that a sampler takes through them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidegen_data.errors import ModelError


def cosine_abar(num_timesteps: int = 1000, offset: float = 0.008, shift: float = 1.0) -> Tensor:
    """abar_t for t = 0..T (T + 1,), float64, from 1 down to 0 (Nichol and Dhariwal 2021, eq. 17).

    `shift` divides the odds abar / (1 - abar). A mask of many voxels is legible long before most of its voxels are
    right, so at shift 1 nearly all steps would be spent where nothing is left to decide (the same reasoning as the
    resolution-dependent shift of Esser et al. 2024, sec. 5.3.2).
    """
    t = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    abar = (
        torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
        / math.cos(offset / (1 + offset) * math.pi / 2) ** 2
    )
    abar = abar.clamp(0, 1)
    return abar / (abar + shift * (1 - abar))


def spaced_steps(num_timesteps: int, num_steps: int, last: int = 0) -> Tensor:
    """The visited times T = t_0 > t_1 > ... > t_n = 0, (num_steps + 1,) int64, evenly spaced.

    With `last` > 0 they are even down to t_{n-1} = last, from where the final step goes to 0 at once. ModelError for
    more steps than there are times to visit.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ModelError(f"a sampler takes 1 to {num_timesteps} steps, got {num_steps}; give a number in between.")
    even = torch.linspace(num_timesteps, 0, num_steps + 1, dtype=torch.float64)
    if num_steps > 1 and float(even[-2]) < last:
        if last > num_timesteps - num_steps + 1:
            raise ModelError(
                f"{num_steps} steps do not fit between the times {num_timesteps} and {last}, where the last one "
                f"starts; let that start at {max(1, num_timesteps - num_steps + 1)} or below."
            )
        even[:-1] = torch.linspace(num_timesteps, last, num_steps, dtype=torch.float64)
    return even.round().long()
