"""Redrawing: real label maps as stage 1 would draw the same patients, with its errors and in their places."""

from __future__ import annotations

import torch
from torch import Tensor

from guidegen_data.diffusion.categorical import CategoricalScheduler, upsample_belief
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler
from guidegen_data.models.upsampling import upsample_keeping_volumes


@torch.inference_mode()
def redrawn(
    model: MaskSampler,
    scheduler: CategoricalScheduler,
    labels: Tensor,
    most_noise: float,
    condition: MaskCondition,
    generator: torch.Generator,
    shape: tuple[int, int, int],
    num_steps: int,
    volume_ratio: Tensor | None = None,
) -> Tensor:
    """Label maps (B, *shape) uint8 of label maps (B, X, Y, Z) on the sampler's grid, corrupted and drawn again.

    All are corrupted to one of the times that a draw of `num_steps` visits, up to `most_noise` in [0, 1], chosen at
    random; from there the reverse process goes on as in `sample_masks`. What stage 1 draws otherwise than it was is of
    its making, while the patient lies where it lay (SDEdit, Meng et al. 2022, for the categorical process).
    """
    scheduler.set_timesteps(num_steps)
    process = scheduler.process
    times = scheduler.timesteps[scheduler.timesteps <= most_noise * process.num_timesteps]
    first = int(torch.randint(len(times), (), generator=generator))
    size = (len(labels),)
    x_t = process.corrupt(labels, torch.full(size, int(times[first])), generator)
    belief = torch.empty(0)
    for t in times[first:]:
        abar = torch.full(size, float(process.abar[t]), device=labels.device)
        belief = model(x_t, torch.full(size, float(t) / process.num_timesteps, device=labels.device), abar, condition)
        belief = belief.softmax(dim=1)
        x_t = scheduler.step(belief, t, x_t, [generator] * len(labels)).prev_sample
    if volume_ratio is None:
        return upsample_belief(belief, shape)
    return upsample_keeping_volumes(belief, shape, volume_ratio)
