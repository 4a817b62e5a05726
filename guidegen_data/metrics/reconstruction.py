"""How well the autoencoder gives back real CT slices: error in HU in the body, window by window; lesion contrast."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from guidegen_data.models.autoencoder import WINDOWS_HU, CTAutoencoder
from guidegen_data.sources.volumes import body_mask


@torch.inference_mode()
def reconstruct(
    autoencoder: CTAutoencoder, ct_hu: np.ndarray, batch_size: int = 16, label_map: np.ndarray | None = None
) -> np.ndarray:
    """The CT (X, Y, Z) after encoding and decoding slice by slice; X and Y are padded with air to a multiple of 16.

    With a `label_map` of its shape the decoder sees the label slices, as it does when cases are generated.
    """
    pad = [*((0, -n % 16) for n in ct_hu.shape[:2]), (0, 0)]
    padded = np.pad(ct_hu, pad, constant_values=-1024)
    slices = torch.from_numpy(padded.astype(np.float32)).permute(2, 0, 1).unsqueeze(1).split(batch_size)
    device = next(autoencoder.parameters()).device
    labels: list[torch.Tensor | None] = [None] * len(slices)
    if label_map is not None:
        labels = list(torch.from_numpy(np.pad(label_map, pad)).permute(2, 0, 1).to(device).split(batch_size))
    parts = [
        autoencoder.decode(autoencoder.encode(part.to(device)), seen).cpu()
        for part, seen in zip(slices, labels, strict=True)
    ]
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


#: Voxels between a lesion and the shell that it is compared with, and the shell's thickness.
_GAP, _SHELL = 1, 2


def lesion_contrasts(
    cts_hu: list[np.ndarray], label_map: np.ndarray, lesion_id: int, spacing_mm: tuple[float, float, float]
) -> list[tuple[float, ...]]:
    """(diameter in mm, contrast in HU in each CT) of every lesion of a label map (X, Y, Z) that several CTs share.

    Contrast is the lesion's mean minus the median of the organ around it: of labelled voxels in a shell two voxels
    thick, one voxel away. Diameter is that of the ball of its volume. Lesions that nothing labelled surrounds are left
    out.
    """
    pieces, _ = ndimage.label(label_map == lesion_id)
    found: list[tuple[float, ...]] = []
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        wide = tuple(slice(max(0, s.start - _GAP - _SHELL), s.stop + _GAP + _SHELL) for s in box)
        lesion = pieces[wide] == number
        near = ndimage.binary_dilation(lesion, iterations=_GAP)
        around = ndimage.binary_dilation(near, iterations=_SHELL) & ~near
        around &= (label_map[wide] > 0) & (label_map[wide] != lesion_id)
        if around.sum() >= lesion.sum() ** (2 / 3):
            diameter = (6 / np.pi * lesion.sum() * np.prod(spacing_mm)) ** (1 / 3)
            contrasts = (float(ct[wide][lesion].mean() - np.median(ct[wide][around])) for ct in cts_hu)
            found.append((float(diameter), *contrasts))
    return found
