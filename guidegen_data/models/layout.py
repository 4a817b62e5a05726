"""Layouts: where the parts of a patient lie, as a few numbers. A statistical model of coarse label maps.

A layout is the projection of a label map's class fractions on a grid of blocks onto their principal components over the
training cases (the point distribution model of Cootes et al. 1995, of fractions instead of landmarks). Stage 1 is told
the layout of a case: how far the scan reaches, how large the patient is and how the head is held is decided before the
first voxel is, so the early beliefs are not the blur of all patients. `LayoutPrior` draws layouts for findings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Rare classes count more in the components: class fractions are divided by the mean fraction to this power.
_RARITY = 0.35


def block_fractions(labels: Tensor, num_classes: int, grid: tuple[int, int, int]) -> Tensor:
    """Class fractions (B, K, *grid) float32 of the blocks of label maps (B, X, Y, Z)."""
    planes = [F.adaptive_avg_pool3d((labels == k).float().unsqueeze(1), grid) for k in range(num_classes)]
    return torch.cat(planes, dim=1)


class LayoutSpace(nn.Module):
    """Principal components of class fractions; a layout (B, D) is in standard deviations of the training cases.

    Lesions are no part of it: they go where the findings say. All zeros until `fit`.
    """

    mean: Tensor
    basis: Tensor
    weight: Tensor
    scale: Tensor

    def __init__(self, size: int, num_classes: int, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.grid, self.num_classes = grid, num_classes
        self.register_buffer("mean", torch.zeros(num_classes, *grid))
        self.register_buffer("basis", torch.zeros(size, num_classes, *grid))
        self.register_buffer("weight", torch.ones(num_classes))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, fractions: Tensor) -> None:
        """Learns the components of class fractions (N, K, *grid); with fewer cases than components the rest is 0."""
        mean = fractions.mean(dim=0)
        frequency = mean.flatten(1).mean(dim=1).clamp(min=1e-6)
        weight = (frequency / frequency[1:].max()).pow(-_RARITY)
        weight[0] = weight[0].clamp(max=1)
        centred = (fractions - mean) * weight.view(-1, 1, 1, 1)
        _, singular, components = torch.linalg.svd(centred.flatten(1), full_matrices=False)
        kept = min(len(self.scale), len(fractions) - 1)
        scale = (singular[:kept] / len(fractions) ** 0.5).clamp(min=1e-6)
        parts = components[:kept].unflatten(1, tuple(mean.shape))
        self.mean.copy_(mean)
        self.weight.copy_(weight)
        self.scale.fill_(1)
        self.scale[:kept] = scale
        self.basis.zero_()
        self.basis[:kept] = parts * scale.view(-1, 1, 1, 1, 1) / weight.view(-1, 1, 1, 1)

    def project(self, fractions: Tensor) -> Tensor:
        """Layouts (B, D) of class fractions (B, K, *grid)."""
        centred = (fractions - self.mean.float()) * self.weight.float().square().view(-1, 1, 1, 1)
        return centred.flatten(1) @ self.basis.float().flatten(1).T / self.scale.float().square()

    def expand(self, layout: Tensor) -> Tensor:
        """The class fractions (B, K, *grid) that layouts (B, D) stand for, in the precision of the network."""
        return self.mean + (layout.to(self.basis) @ self.basis.flatten(1)).unflatten(1, tuple(self.mean.shape))


class LayoutPrior(nn.Module):
    """Draws layouts for findings: a mixture of Gaussians over the training cases' layouts, chosen and moved by facts.

    The share of a component depends on the facts (naive Bayes), its mean moves with them (ridge regression within the
    components). All zeros until `fit`: every layout is then the mean one.
    """

    share: Tensor
    mean: Tensor
    spread: Tensor
    rate: Tensor
    slope: Tensor

    def __init__(self, size: int, num_facts: int, num_components: int) -> None:
        super().__init__()
        self.register_buffer("share", torch.full((num_components,), 1 / num_components))
        self.register_buffer("mean", torch.zeros(num_components, size))
        self.register_buffer("spread", torch.zeros(num_components, size, size))
        self.register_buffer("rate", torch.full((num_components, num_facts), 0.5))
        self.register_buffer("slope", torch.zeros(num_facts, size))

    def fit(self, layouts: Tensor, facts: Tensor, seed: int = 0) -> None:
        """Learns from layouts (N, D) and what is told of them, (N, F) of 0 and 1. Few cases make few components."""
        from sklearn.mixture import GaussianMixture

        num_components = min(len(self.share), max(1, len(layouts) // 25))
        mixture = GaussianMixture(num_components, covariance_type="full", reg_covar=0.05, random_state=seed, n_init=3)
        points = layouts.double().numpy()
        belongs = torch.from_numpy(mixture.fit(points).predict_proba(points))
        belongs = belongs.to(layouts)
        counts = belongs.sum(dim=0)
        rate = (belongs.T @ facts + 0.5) / (counts[:, None] + 1)
        residual = layouts - belongs @ (belongs.T @ layouts / counts[:, None])
        told = facts - belongs @ rate
        ridge = 0.02 * len(layouts) * torch.eye(facts.shape[1])
        slope = torch.linalg.solve(told.T @ told + ridge, told.T @ residual)
        left = residual - told @ slope
        own = torch.einsum("nc,nd,ne->cde", belongs, left, left) / counts.view(-1, 1, 1)
        pooled = left.T @ left / len(left)
        # Few cases a component: half of every covariance is that of all.
        spread = torch.linalg.cholesky(0.5 * own + 0.5 * pooled + 1e-4 * torch.eye(pooled.shape[0]))
        for name, value in {"share": counts / counts.sum(), "rate": rate, "spread": spread}.items():
            held = getattr(self, name)
            held.zero_()
            held[:num_components] = value
        self.mean.zero_()
        self.mean[:num_components] = belongs.T @ layouts / counts[:, None]
        self.slope.copy_(slope)

    def draw(
        self,
        facts: Tensor,
        number: int,
        generator: torch.Generator,
        width: float = 1.0,
        choosing: Sequence[bool] | None = None,
    ) -> Tensor:
        """Layouts (number, D) float32 for the facts (F,) of one case.

        `width` scales the spread around the mean that the facts lead to. Facts that are not `choosing` (F,) move a
        layout and have no say in its component: with the same random numbers an organ is smaller in the same patient.
        """
        facts = facts.float().cpu()
        rate = self.rate.float().cpu().clamp(1e-3, 1 - 1e-3)
        say = torch.ones(len(facts)) if choosing is None else torch.tensor(choosing, dtype=torch.float32)
        evidence = rate.log() @ (say * facts) + (1 - rate).log() @ (say * (1 - facts))
        share = (evidence + self.share.float().cpu().log()).softmax(dim=0)
        which = torch.multinomial(share, number, replacement=True, generator=generator)
        noise = torch.randn(number, self.mean.shape[1], generator=generator)
        centre = self.mean.float().cpu()[which] + (facts - rate[which]) @ self.slope.float().cpu()
        return centre + width * torch.einsum("nde,ne->nd", self.spread.float().cpu()[which], noise)
