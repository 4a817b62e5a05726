"""Stage 2 data: latents of prepared CTs (posterior means, encoded once), their label maps and their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guidegen_data.errors import SourceError
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.text import TextEncoder
from guidegen_data.sources.prepared import case_paths, load_case


@dataclass(frozen=True)
class LatentData:
    """N volumes: latents (N, Z, C, x, y) float16, label maps (N, X, Y, Z) uint8, tokens (N, L, D) float16."""

    latents: Tensor
    labels: Tensor
    tokens: Tensor

    def batch(self, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random slices as the arguments of `slice_loss`; one slice in twelve is taken as the first of its volume."""
        count, depth = self.latents.shape[:2]
        n = torch.randint(count, (batch_size,), generator=generator)
        z = torch.randint(depth, (batch_size,), generator=generator)
        first = (torch.rand(batch_size, generator=generator) < 1 / 12) | (z == 0)
        near = torch.stack([(z + k).clamp(0, depth - 1) for k in (-1, 0, 1)], dim=1)
        labels = torch.stack([self.labels[i, :, :, k].permute(2, 0, 1) for i, k in zip(n, near, strict=True)])
        return {
            "latents": self.latents[n, z].float(),
            "previous": self.latents[n, (z - 1).clamp(min=0)].float(),
            "has_previous": ~first,
            "labels": labels,
            "tokens": self.tokens[n].float(),
        }


@torch.inference_mode()
def measure_latents(autoencoder: CTAutoencoder, volumes_hu: list[Tensor]) -> None:
    """Sets the autoencoder's latent mean and standard deviation a channel from volumes (X, Y, Z) in HU, in place."""
    autoencoder.latent_mean.zero_()
    autoencoder.latent_std.fill_(1)
    parts = [encode_volume(autoencoder, v[:, :, ::4]).transpose(0, 1).flatten(1) for v in volumes_hu]
    values = torch.cat(parts, dim=1)
    autoencoder.latent_mean.copy_(values.mean(dim=1).view(1, -1, 1, 1))
    autoencoder.latent_std.copy_(values.std(dim=1).clamp(min=1e-3).view(1, -1, 1, 1))


@torch.inference_mode()
def encode_volume(autoencoder: CTAutoencoder, ct_hu: Tensor, batch_size: int = 16) -> Tensor:
    """Standardised latents (Z, C, x, y) float32 of a CT (X, Y, Z) in HU."""
    slices = ct_hu.permute(2, 0, 1).unsqueeze(1).float()
    return torch.cat([autoencoder.encode(part).float() for part in slices.split(batch_size)])


def load_latent_data(folder: Path, autoencoder: CTAutoencoder, encoder: TextEncoder, cache: Path) -> LatentData:
    """Encodes every prepared case that has a CT, once; kept in `cache` for the next run.

    Measures the latent statistics on the first cases before encoding. SourceError when no case has a CT.
    """
    if cache.exists():
        held = torch.load(cache, weights_only=True)
        autoencoder.latent_mean.copy_(held["mean"])
        autoencoder.latent_std.copy_(held["std"])
        return LatentData(held["latents"], held["labels"], held["tokens"])
    cases = [
        c for c in map(load_case, tqdm(case_paths(folder), desc="reading", unit="case", disable=None)) if has_ct(c)
    ]
    if not cases:
        raise SourceError(f"{folder} holds no case with a CT; stage 2 cannot be trained from label maps alone.")
    volumes = [torch.from_numpy(np.asarray(c.ct_hu)) for c in cases]
    measure_latents(autoencoder, volumes[:24])
    latents, tokens = [], []
    for case, volume in zip(tqdm(cases, desc="encoding", unit="case", disable=None), volumes, strict=True):
        latents.append(encode_volume(autoencoder, volume).half())
        tokens.append(encoder([case.findings.prompt()])[0].half())
    labels = torch.stack([torch.from_numpy(c.label_map) for c in cases])
    data = LatentData(torch.stack(latents), labels, torch.stack(tokens))
    state = {"mean": autoencoder.latent_mean.clone(), "std": autoencoder.latent_std.clone()}
    torch.save({"latents": data.latents, "labels": labels, "tokens": data.tokens, **state}, cache)
    return data


def has_ct(case) -> bool:
    return case.ct_hu is not None
