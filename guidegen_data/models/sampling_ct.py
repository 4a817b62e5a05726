"""Running stage 2: label maps -> CT, slice after slice or in a staggered schedule."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.precision import to_device
from guidegen_data.models.slice_generator import NO_PREVIOUS, SliceGenerator, corrupt_previous, mask_triples

_DECODE_BATCH = 16
#: An estimate reached at noise sigma is shown to the slice above as if it held this share of it as noise.
_LEVEL_OF_SIGMA = 0.5


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
    delay: int | None = None,
    on_slice: Callable[[int], None] | None = None,
    class_hu: Tensor | None = None,
    noise_correlation: float = 0.0,
    seen: Tensor | None = None,
) -> Tensor:
    """CTs (B, X, Y, Z) int16 HU for label maps (B, X, Y, Z) uint8; all volumes advance together.

    Slices run from the feet up; each sees the one below at noise level `previous_level`. HU are absolute: nothing is
    rescaled between slices. A slice starts `delay` steps after the one below it: by default when that one is finished,
    with a smaller delay while it is still being cleaned. It then sees the estimate that its neighbour has reached, with
    the neighbour's noise level, and num_steps / delay slices run side by side in one batch. `class_hu` (B, K) is what
    the median HU of each class shall be, NaN for what is not told. The noise that a slice starts from goes with that of
    the slice below by `noise_correlation`: what few steps make depends on it, and neighbours of real CTs are alike.
    """
    x, y, depth = label_maps.shape[1:]
    f = autoencoder.downsampling
    shape = (depth, autoencoder.config.latent_channels, x // f, y // f)
    noise = [torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators]) for _ in range(2)]
    start, blur = (to_device(n, label_maps.device) for n in (correlated(noise[0], noise_correlation), noise[1]))

    def mask_of(z: int) -> Tensor:
        return model.encode_mask(mask_triples(label_maps if seen is None else seen, z), class_hu)

    slices = sample_slices(model, scheduler, mask_of, start, blur, tokens, num_steps, previous_level, delay)
    parts: list[Tensor] = []
    group: list[Tensor] = []
    for z, latents in enumerate(slices):
        if on_slice is not None:
            on_slice(z)
        group.append(latents)
        if len(group) == _DECODE_BATCH or z == depth - 1:
            # Between the steps, not after the last one: a GPU decodes while the next kernels are being launched.
            shown = label_maps[..., z + 1 - len(group) : z + 1]
            parts.append(_decoded(autoencoder, torch.stack(group, dim=1), shown))
            group = []
    return torch.cat(parts, dim=3).contiguous()


@torch.inference_mode()
def sample_slices(
    model: SliceGenerator,
    scheduler: Any,
    mask_of: Callable[[int], Tensor],
    start: Tensor,
    blur: Tensor,
    tokens: Tensor,
    num_steps: int,
    previous_level: float = 0.1,
    delay: int | None = None,
) -> Iterator[Tensor]:
    """Latent slices (B, C, x, y), one after the other, that noise `start` (B, Z, C, x, y) becomes, as in `sample_cts`.

    `mask_of(z)` gives the mask features (B, M, x, y) of slice z when its turn comes; `blur`, like `start`, is the noise
    through which each slice is seen by the next.
    """
    text, depth = (tokens, model.text_pool(tokens)), start.shape[1]
    scheduler = copy.deepcopy(scheduler)
    set_even_steps(scheduler, num_steps)
    num_calls = len(scheduler.timesteps)
    delay = num_calls if delay is None else min(delay, num_calls)
    below: _Lane | None = None
    lanes: list[_Lane] = []
    for tick in range((depth - 1) * delay + num_calls):
        z = tick // delay
        if tick % delay == 0 and z < depth:
            lanes.append(_Lane(copy.deepcopy(scheduler), mask_of(z), start[:, z], blur[:, z], below, previous_level))
            below = lanes[-1]
        _advance(model, lanes, text)
        while lanes and lanes[0].done:
            yield lanes[0].x
            lanes.pop(0).below = None


def correlated(noise: Tensor, correlation: float) -> Tensor:
    """White noise (B, Z, C, x, y) made one that goes with its neighbour along Z, each slice as normal as before."""
    slices = [noise[:, 0]]
    for z in range(1, noise.shape[1]):
        slices.append(correlation * slices[-1] + math.sqrt(1 - correlation**2) * noise[:, z])
    return torch.stack(slices, dim=1)


def set_even_steps(scheduler: Any, num_steps: int) -> None:
    """Timesteps that part the way from noise to the slice evenly: sigma 1, (n - 1) / n, ..., 1 / n, then 0.

    Left to itself, diffusers' Euler scheduler spends its last step on what is finished but for a thousandth.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=[1 - k / num_steps for k in range(num_steps)])
    else:
        scheduler.set_timesteps(num_steps)


@dataclass
class _Lane:
    """One slice of every volume on its way from noise x (B, C, x, y), with its own scheduler and the lane below it."""

    scheduler: Any
    mask: Tensor
    x: Tensor
    blur: Tensor
    below: _Lane | None
    least_level: float
    step: int = 0
    estimate: Tensor = field(init=False)

    @property
    def done(self) -> bool:
        return self.step == len(self.scheduler.timesteps)

    @property
    def sigma(self) -> float:
        return float(self.scheduler.sigmas[self.step])

    def seen(self) -> tuple[Tensor, float]:
        """The slice below as the network shall see it, (B, C, x, y), and its noise level."""
        if self.below is None:
            return torch.zeros_like(self.x), NO_PREVIOUS
        done = self.below.done
        level = self.least_level if done else max(self.least_level, _LEVEL_OF_SIGMA * self.below.sigma)
        held = self.below.x if done else self.below.estimate
        return corrupt_previous(held, torch.full((len(held),), level, device=held.device), self.blur), level

    def take(self, velocity: Tensor) -> None:
        """One step of the scheduler; the estimate of the clean slice is x - sigma v."""
        self.estimate = self.x - self.sigma * velocity
        self.x = self.scheduler.step(velocity, self.scheduler.timesteps[self.step], self.x).prev_sample
        self.step += 1


def _advance(model: SliceGenerator, lanes: list[_Lane], text: tuple[Tensor, Tensor]) -> None:
    """One step of every lane, in one batch."""
    dtype, batch, device = next(model.parameters()).dtype, len(lanes[0].x), lanes[0].x.device
    seen = [lane.seen() for lane in lanes]
    sigma = torch.tensor([lane.sigma for lane in lanes], device=device).repeat_interleave(batch)
    level = torch.tensor([level for _, level in seen], device=device).repeat_interleave(batch)
    tokens, pooled = (t.repeat(len(lanes), *[1] * (t.ndim - 1)) for t in text)
    velocity = model(
        torch.cat([lane.x for lane in lanes]).to(dtype),
        sigma,
        torch.cat([lane.mask for lane in lanes]),
        torch.cat([previous for previous, _ in seen]),
        level,
        tokens,
        pooled,
    )
    for lane, v in zip(lanes, velocity.float().split(batch), strict=True):
        lane.take(v)


@torch.inference_mode()
def decode_slices(autoencoder: CTAutoencoder, latents: Tensor, label_maps: Tensor) -> Tensor:
    """(B, Z, C, x, y) -> (B, X, Y, Z) int16 HU, a fixed number of slices at a time so that memory stays flat."""
    pairs = zip(latents.split(_DECODE_BATCH, dim=1), label_maps.split(_DECODE_BATCH, dim=3), strict=True)
    return torch.cat([_decoded(autoencoder, *pair) for pair in pairs], dim=3).contiguous()


def _decoded(autoencoder: CTAutoencoder, latents: Tensor, label_maps: Tensor) -> Tensor:
    """The same of a few slices, case by case: what is decoded together must not depend on the batch."""
    return torch.stack(
        [
            autoencoder.decode(own, labels.permute(2, 0, 1))[:, 0].round().to(torch.int16).permute(1, 2, 0)
            for own, labels in zip(latents, label_maps, strict=True)
        ]
    )
