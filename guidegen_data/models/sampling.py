"""Running the two stages: tokens -> label maps by the categorical process, label maps -> CT slice after slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from guidegen_data.diffusion.categorical import CategoricalScheduler, one_hot, upsample_belief
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler
from guidegen_data.models.slice_generator import NO_PREVIOUS, SliceGenerator, corrupt_previous, mask_triples

_DECODE_BATCH = 16
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


@torch.inference_mode()
def sample_cts(
    model: SliceGenerator,
    scheduler,
    autoencoder: CTAutoencoder,
    label_maps: Tensor,
    tokens: Tensor,
    generators: list[torch.Generator],
    num_steps: int,
    previous_level: float = 0.1,
    on_slice: Callable[[int], None] | None = None,
) -> Tensor:
    """CTs (B, X, Y, Z) int16 HU for label maps (B, X, Y, Z) uint8; all volumes advance one slice at a time together.

    Slices run from the feet up; each sees the one below at noise level `previous_level`. HU are absolute: nothing is
    rescaled between slices.
    """
    batch, x, y, depth = label_maps.shape
    f = autoencoder.downsampling
    shape = (depth, autoencoder.config.latent_channels, x // f, y // f)
    noise = [torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators]) for _ in range(2)]
    start, blur = (n.to(label_maps.device) for n in noise)
    level = torch.full((batch,), previous_level, device=label_maps.device)
    none = torch.full((batch,), NO_PREVIOUS, device=label_maps.device)
    pooled = model.text_pool(tokens)
    latents: list[Tensor] = []
    for z in range(depth):
        mask = model.encode_mask(mask_triples(label_maps, z))
        if latents:
            previous, flag = corrupt_previous(latents[-1], level, blur[:, z]), level
        else:
            previous, flag = torch.zeros_like(start[:, z]), none
        latents.append(_clean_slice(model, scheduler, start[:, z], mask, previous, flag, (tokens, pooled), num_steps))
        if on_slice is not None:
            on_slice(z)
    return _decode(autoencoder, torch.stack(latents, dim=1))


def _clean_slice(
    model: SliceGenerator,
    scheduler,
    x: Tensor,
    mask: Tensor,
    previous: Tensor,
    level: Tensor,
    text: tuple[Tensor, Tensor],
    num_steps: int,
) -> Tensor:
    dtype = next(model.parameters()).dtype
    scheduler.set_timesteps(num_steps)
    for i, t in enumerate(scheduler.timesteps):
        sigma = torch.full((len(x),), float(scheduler.sigmas[i]), device=x.device)
        velocity = model(x.to(dtype), sigma, mask, previous, level, *text)
        x = scheduler.step(velocity.float(), t, x).prev_sample
    return x


def _decode(autoencoder: CTAutoencoder, latents: Tensor) -> Tensor:
    """(B, Z, C, x, y) -> (B, X, Y, Z) int16 HU, a fixed number of slices at a time so that memory stays flat."""
    batch, depth = latents.shape[:2]
    flat = latents.flatten(0, 1)
    parts = [
        autoencoder.decode(flat[i : i + _DECODE_BATCH])[:, 0].round().to(torch.int16)
        for i in range(0, len(flat), _DECODE_BATCH)
    ]
    return torch.cat(parts).unflatten(0, (batch, depth)).permute(0, 2, 3, 1).contiguous()
