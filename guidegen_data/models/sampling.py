"""Running stage 1: what a report says -> label maps, by the categorical process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from guidegen_data.diffusion.categorical import CategoricalScheduler, one_hot, upsample_belief
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler

_NEVER = -1e4


@torch.inference_mode()
def sample_masks(
    model: MaskSampler,
    scheduler: CategoricalScheduler,
    condition: MaskCondition,
    generators: list[torch.Generator],
    shape: tuple[int, int, int],
    num_steps: int,
    guidance: float = 1.0,
    temperature: float = 1.0,
    forbidden: Tensor | None = None,
    known: Tensor | None = None,
    place: Callable[[float, Tensor], Tensor | None] | None = None,
) -> Tensor:
    """Label maps (B, *shape) uint8 for what a report says; case b draws from generators[b] alone.

    Guidance 1 is the plain conditional model, 0 the unconditional one (Ho and Salimans 2022); a temperature below 1
    sharpens every belief. The last belief is upsampled before its largest class is taken.

    `forbidden` (B, K, X) bool on the sampler's own grid marks classes that no belief may hold at that x. `known`
    (B, *shape) holds the labels that are given and -1 elsewhere: they are clamped in every belief, and kept as they are
    in the result. `place(t, belief)` is asked after every step, with the time in [0, 1] and the belief
    (B, K, X, Y, Z), for new lesion anchors (B, X, Y, Z); None keeps the old ones.
    """
    scheduler.set_timesteps(num_steps)
    process = scheduler.process
    grid = tuple(model.config.shape)
    x_t = scheduler.initial(grid, generators).to(condition.tokens.device)
    coarse = None if known is None else coarsest(known.to(x_t.device), grid)
    belief = torch.empty(0)
    for t in scheduler.timesteps:
        time = float(t) / process.num_timesteps
        logits = _guided(model, x_t, time, float(process.abar[t]), condition, guidance)
        if forbidden is not None:
            logits = logits.masked_fill(forbidden.to(logits.device)[..., None, None], _NEVER)
        belief = (logits / temperature).softmax(dim=1)
        if coarse is not None:
            given = one_hot(coarse.clamp(min=0), process.num_classes, belief.dtype)
            belief = torch.where((coarse >= 0).unsqueeze(1), given, belief)
        x_t = scheduler.step(belief, t, x_t, generators).prev_sample
        anchors = None if place is None else place(time, belief)
        if anchors is not None:
            condition = replace(condition, anchors=anchors.to(condition.tokens.device))
    label_maps = upsample_belief(belief, shape)
    return label_maps if known is None else torch.where(known.to(x_t.device) >= 0, known.to(label_maps), label_maps)


def coarsest(known: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Known labels (B, X, Y, Z), -1 where unknown, on a coarser grid: of each block the label at its middle."""
    step = [n // m for n, m in zip(known.shape[1:], shape, strict=True)]
    return known[:, step[0] // 2 :: step[0], step[1] // 2 :: step[1], step[2] // 2 :: step[2]].long()


def _guided(
    model: MaskSampler, x_t: Tensor, t: float, abar_t: float, condition: MaskCondition, guidance: float
) -> Tensor:
    def logits_of(labels: Tensor, told: MaskCondition) -> Tensor:
        size = (len(labels),)
        abar = torch.full(size, abar_t, device=labels.device)
        return model(labels, torch.full(size, t, device=labels.device), abar, told)

    if guidance == 1:
        return logits_of(x_t, condition)
    both = condition.beside_unknown()
    conditional, unconditional = logits_of(torch.cat([x_t, x_t]), both).chunk(2)
    return unconditional + guidance * (conditional - unconditional)
