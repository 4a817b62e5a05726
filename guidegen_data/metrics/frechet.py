"""Distances between distributions of features: Frechet, and a kernel distance that few cases of many features allow.

A slice's features are its standardised latent mean in a model's own frozen autoencoder, averaged over a 4 x 4 grid.
Their figure ranks results of one autoencoder beside their floor of real against real; between models with other
autoencoders it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from guidegen_data.models.autoencoder import CTAutoencoder

_GRID = 4
_BATCH = 16


@torch.inference_mode()
def slice_features(autoencoder: CTAutoencoder, ct_hu: np.ndarray) -> np.ndarray:
    """(Z, 16 C) float64 of a CT (X, Y, Z) in HU; slices without body (nothing above -500 HU) are left out."""
    shown = ct_hu[:, :, (ct_hu > -500).any(axis=(0, 1))]
    if not shown.shape[2]:
        return np.zeros((0, autoencoder.config.latent_channels * _GRID**2))
    device = next(autoencoder.parameters()).device
    slices = torch.from_numpy(shown.astype(np.float32)).permute(2, 0, 1).unsqueeze(1)
    parts = [
        F.adaptive_avg_pool2d(autoencoder.encode(part.to(device)).float(), _GRID).flatten(1).cpu()
        for part in slices.split(_BATCH)
    ]
    return torch.cat(parts).double().numpy()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of samples (N, D) and (M, D) with covariances A and B."""
    shift = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = _root(np.atleast_2d(cov_a))
    # The eigenvalues of A B are those of A^(1/2) B A^(1/2), which is symmetric.
    both = np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root)
    trace = np.trace(np.atleast_2d(cov_a)) + np.trace(np.atleast_2d(cov_b)) - 2 * np.sqrt(both.clip(min=0)).sum()
    return float(shift @ shift + trace)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def principal_axes(features: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean (D,), the `num` (or fewer) axes (D, num) of largest variance, and their share of it, of samples (N, D)."""
    mean = features.mean(axis=0)
    _, lengths, rows = np.linalg.svd(features - mean, full_matrices=False)
    total = float((lengths**2).sum())
    return mean, rows[:num].T, float((lengths[:num] ** 2).sum()) / total if total else 1.0


@dataclass(frozen=True)
class KernelDistance:
    """Squared maximum mean discrepancy, 0 in expectation where both sides are alike; `level_95` is what 95 % of random
    exchanges of the two sides stay below, and `p_value` the share of exchanges that reach the distance."""

    value: float
    level_95: float
    p_value: float


def kernel_distance(
    real: Sequence[np.ndarray],
    made: Sequence[np.ndarray],
    groups: Sequence[str],
    rng: np.random.Generator,
    num_draws: int = 2000,
) -> KernelDistance:
    """Unbiased MMD^2 (Gretton et al. 2012) of pairs i of samples real[i] (S, D) and made[i] (S', D).

    Gaussian kernel on features divided by their standard deviation, its width the median distance, both taken over
    real and made together so that an exchange changes neither. A pair counts once however many samples it has, and
    pairs of one group (patient) are never set beside each other. Under the null hypothesis a group's two sides may be
    exchanged: each draw does so by the toss of a coin a group.
    ValueError for fewer than four groups, where exchanges say nothing.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 4:
        raise ValueError(f"a kernel distance needs pairs of four groups, got {len(names)}")
    spread = np.concatenate([*real, *made]).std(axis=0)
    scale = np.where(spread > 1e-9 * spread.max(), spread, np.inf)
    kernel = _mean_kernel([s / scale for s in (*real, *made)])
    n = len(real)
    within = kernel[:n, :n] + kernel[n:, n:]
    terms = np.where(index[:, None] != index[None], within - kernel[:n, n:] - kernel[n:, :n], 0.0)
    count = int((index[:, None] != index[None]).sum())
    signs = rng.choice([-1.0, 1.0], (num_draws, len(names)))[:, index]
    draws = np.einsum("di,ij,dj->d", signs, terms, signs, optimize=True) / count
    value = float(terms.sum() / count)
    reached = 1 + int((draws >= value - 1e-12).sum())
    return KernelDistance(value, float(np.percentile(draws, 95)), reached / (num_draws + 1))


def _mean_kernel(samples: list[np.ndarray]) -> np.ndarray:
    """Mean kernel between any two sets of samples, (P, P)."""
    stacked = np.concatenate(samples)
    squares = (stacked**2).sum(axis=1)
    apart = (squares[:, None] + squares[None] - 2 * stacked @ stacked.T).clip(min=0)
    width = float(np.median(apart[np.triu_indices(len(apart), 1)]))
    starts = np.cumsum([0, *(len(s) for s in samples[:-1])])
    sums = np.add.reduceat(np.add.reduceat(np.exp(-apart / max(width, 1e-12)), starts, axis=0), starts, axis=1)
    sizes = np.array([len(s) for s in samples], dtype=float)
    return sums / (sizes[:, None] * sizes[None])
