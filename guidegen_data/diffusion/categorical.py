"""Categorical diffusion with the uniform kernel (D3PM, Austin et al. 2021; CCDM, Zbinden et al. 2023), any stride.

One verb, `mix`, is the whole kernel. `x_0` is data, noise grows with t, a step goes from t to any s < t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from guidegen_data.diffusion.schedule import cosine_abar, spaced_steps


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, *space) integer labels -> (B, K, *space)."""
    out = torch.zeros(labels.shape[0], num_classes, *labels.shape[1:], dtype=dtype, device=labels.device)
    return out.scatter_(1, labels.long().unsqueeze(1), 1)


def mix(p: Tensor, a: Tensor | float) -> Tensor:
    """a p + (1 - a) / K sum_k p_k: keep with probability a, else draw a class uniformly. (B, K, *space).

    `a` is a number or one value a case, (B,). It is the kernel both of a step (a = alpha_{t|s}) and from the data
    (a = abar_t), and it is its own transpose, which makes the posterior below linear in K.
    """
    a = _per_case(a, p)
    return torch.addcmul(p.sum(dim=1, keepdim=True) * ((1 - a) / p.shape[1]), p, a)


def draw(p: Tensor, generators: list[torch.Generator] | torch.Generator | None = None) -> Tensor:
    """A label a voxel from probabilities (B, K, *space) -> (B, *space) int64, by inverting the distribution function.

    With a list, case b uses only generators[b], so that a case does not depend on its neighbours in the batch.
    """
    shape = (1, *p.shape[2:])
    per_case = generators if isinstance(generators, list) else [generators] * len(p)
    labels = torch.zeros(p.shape[0], *p.shape[2:], dtype=torch.int16, device=p.device)
    for b, generator in enumerate(per_case):
        device = generator.device if generator is not None else p.device
        threshold = torch.rand(shape, generator=generator, device=device).to(p)[0] * p[b].sum(dim=0)
        below = torch.zeros_like(threshold)
        for k in range(p.shape[1] - 1):
            below += p[b, k]
            labels[b] += below <= threshold
    return labels.long()


@dataclass(frozen=True)
class CategoricalProcess:
    """The forward process and its reverse over K classes; `abar` is a table over t = 0..T with abar[0] = 1."""

    abar: Tensor
    num_classes: int

    @property
    def num_timesteps(self) -> int:
        return len(self.abar) - 1

    def marginal(self, x_0: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0). x_0 and the result (B, K, *space), t (B,); sums to 1 over K."""
        return mix(x_0, self.abar.to(x_0)[t])

    def corrupt(self, labels: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x_t given integer labels x_0, without a K-fold table. (B, *space), t (B,) -> (B, *space)."""
        abar = self.abar.float()[t.cpu()].view(-1, *[1] * (labels.ndim - 1))
        keep = torch.rand(labels.shape, generator=generator) < abar
        uniform = torch.randint(self.num_classes, labels.shape, generator=generator)
        return torch.where(keep.to(labels.device), labels.long(), uniform.to(labels.device))

    def reverse(self, x_t: Tensor, p_x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """p(x_s | x_t) = sum_k q(x_s | x_t, x_0 = k) p_x0[k], any s < t. (B, K, *space), sums to 1 over K.

        Bayes gives q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0). The first factor does not depend
        on x_0, so the sum over k is one `mix` and no K x K table. A one-hot p_x0 gives the posterior itself.
        """
        abar = self.abar.to(p_x0)
        w = p_x0 / mix(x_t, abar[t])
        return mix(w, abar[s]).mul_(mix(x_t, abar[t] / abar[s]))


def _per_case(a: Tensor | float, like: Tensor) -> Tensor:
    value = torch.as_tensor(a, device=like.device)
    if like.is_floating_point():
        value = value.to(like.dtype)
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value


@dataclass
class CategoricalSchedulerOutput(BaseOutput):
    """`prev_sample` (B, *space) int64: the labels at the next, less noisy time."""

    prev_sample: Tensor


class CategoricalScheduler(SchedulerMixin, ConfigMixin):
    """Diffusers-style scheduler of the categorical process: `set_timesteps`, then `step` from belief to belief.

    `last_timestep` is where the final step starts. The belief there is what gets upsampled: at a time when many voxels
    are still noise it rests on their surroundings and has smooth borders, later on it repeats single voxels.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_classes: int = 21,
        num_train_timesteps: int = 1000,
        shift: float = 20.0,
        last_timestep: int = 0,
    ) -> None:
        self.process = CategoricalProcess(cosine_abar(num_train_timesteps, shift=shift), num_classes)
        self.set_timesteps(20)

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Chooses the times to visit; `timesteps` (n,) then holds each step's start, T first."""
        self._visited = spaced_steps(self.process.num_timesteps, num_inference_steps, self.config.last_timestep)
        self.timesteps = self._visited[:-1]

    def following(self, timestep: Tensor | int) -> int:
        """The time that is visited after `timestep`, 0 after the last one."""
        index = int((self.timesteps == int(timestep)).nonzero()[0, 0])
        return int(self._visited[index + 1])

    def initial(self, shape: tuple[int, ...], generators: list[torch.Generator]) -> Tensor:
        """x_T: one uniformly drawn label a voxel, case b from generators[b]. (B, *space) int64."""
        high = self.process.num_classes
        return torch.stack([torch.randint(high, shape, generator=g, device=g.device) for g in generators])

    def visited(self, most_noise: float) -> Tensor:
        """Which of `timesteps` have noise up to `most_noise` in [0, 1]. ValueError when none has so little."""
        visited = torch.nonzero(self.timesteps <= most_noise * self.process.num_timesteps).flatten()
        if not len(visited):
            raise ValueError(f"none of the {len(self.timesteps)} visited times has {most_noise:.0%} noise or less.")
        return visited

    def noised(self, labels: Tensor, most_noise: float, generator: torch.Generator) -> tuple[Tensor, int]:
        """Labels (B, *space) corrupted to one of the visited times up to `most_noise` in [0, 1], chosen at random: x_t,
        and which of `timesteps` that is. ValueError when none has so little noise."""
        visited = self.visited(most_noise)
        index = int(visited[int(torch.randint(len(visited), (), generator=generator))])
        t = torch.full((len(labels),), int(self.timesteps[index]))
        return self.process.corrupt(labels, t, generator), index

    def step(
        self, p_x0: Tensor, timestep: Tensor | int, sample: Tensor, generators: list[torch.Generator] | None = None
    ) -> CategoricalSchedulerOutput:
        """Draws x_s given the belief p_x0 (B, K, *space) and x_t (B, *space), s being the next visited time."""
        t = torch.full((len(sample),), int(timestep), device=p_x0.device)
        s = torch.full_like(t, self.following(timestep))
        x_t = one_hot(sample, self.process.num_classes, p_x0.dtype)
        return CategoricalSchedulerOutput(prev_sample=draw(self.process.reverse(x_t, p_x0, t, s), generators))


def upsample_belief(p_x0: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Label map at full resolution: trilinear belief, one class at a time, then the largest. (B, K, *s) -> (B, *shape).

    Interpolating the belief instead of the labels gives smooth borders (nearest-neighbour labels make staircases).
    """
    labels = torch.zeros(p_x0.shape[0], *shape, dtype=torch.uint8, device=p_x0.device)
    best = torch.full(labels.shape, -1.0, device=p_x0.device)
    for k in range(p_x0.shape[1]):
        fine = F.interpolate(p_x0[:, k : k + 1].float(), size=shape, mode="trilinear", align_corners=False)[:, 0]
        wins = fine > best
        labels.masked_fill_(wins, k)
        best = torch.where(wins, fine, best)
    return labels
