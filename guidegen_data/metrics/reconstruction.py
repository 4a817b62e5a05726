"""How well the autoencoder gives back real CT slices: mean absolute error in HU within the body, window by window."""

from __future__ import annotations

import numpy as np
import torch

from guidegen_data.models.autoencoder import WINDOWS_HU, CTAutoencoder
from guidegen_data.sources.volumes import body_mask


@torch.inference_mode()
def reconstruct(autoencoder: CTAutoencoder, ct_hu: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """The CT (X, Y, Z) after encoding and decoding slice by slice; X and Y are padded with air to a multiple of 16."""
    pad = [(0, -n % 16) for n in ct_hu.shape[:2]]
    padded = np.pad(ct_hu, [*pad, (0, 0)], constant_values=-1024)
    slices = torch.from_numpy(padded.astype(np.float32)).permute(2, 0, 1).unsqueeze(1)
    device = next(autoencoder.parameters()).device
    parts = [autoencoder.decode(autoencoder.encode(part.to(device))).cpu() for part in slices.split(batch_size)]
    out = torch.cat(parts)[:, 0].permute(1, 2, 0).numpy()
    return out[: ct_hu.shape[0], : ct_hu.shape[1]]


def window_errors_hu(ct_hu: np.ndarray, reconstruction_hu: np.ndarray) -> dict[str, float]:
    """Mean |difference| in HU inside the body, both volumes clipped to each window first; 'full' is [-1024, 1976]."""
    body = body_mask(ct_hu)
    errors = {}
    for name, (low, high) in {**WINDOWS_HU, "full": (-1024.0, 1976.0)}.items():
        difference = np.clip(ct_hu, low, high) - np.clip(reconstruction_hu, low, high)
        errors[name] = round(float(np.abs(difference[body]).mean()), 2)
    return errors
