"""Frechet distance of axial slices, on features of a model's own frozen autoencoder.

A feature of a slice is its standardised latent mean, averaged over a 4 x 4 grid. The figure ranks results of one
autoencoder beside their floor of real against real; between models with other autoencoders it says nothing.
"""

from __future__ import annotations

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
