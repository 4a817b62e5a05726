"""Stage 1 data: prepared label maps on the sampler's grid, with the tokens of prompts that describe them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guidegen_data.anatomy import PHASES, Anatomy
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.findings import SEXES, Findings
from guidegen_data.sources.prepared import case_paths, load_case

#: Classes that would vanish when two voxels become one: they win a coarse voxel with a smaller share.
_FINE_WEIGHT = {"tumour": 1.5, "adrenal gland": 2.0, "portal and splenic vein": 1.7, "esophagus": 1.5, "rib": 1.5}


def coarsen_labels(label_map: np.ndarray, anatomy: Anatomy, factor: int = 2) -> np.ndarray:
    """The class with the largest weighted share of each factor^3 block. (X, Y, Z) -> (X/f, Y/f, Z/f) uint8."""
    x, y, z = (n // factor for n in label_map.shape)
    blocks = label_map.reshape(x, factor, y, factor, z, factor).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, -1)
    best = np.zeros((x, y, z), np.float32)
    out = np.zeros((x, y, z), np.uint8)
    for value in np.unique(label_map):
        weight = _FINE_WEIGHT.get(anatomy.classes[int(value)].name, 1.0)
        share = (blocks == value).sum(axis=-1, dtype=np.float32) * weight
        wins = share > best
        best[wins], out[wins] = share[wins], value
    return out


def vary(findings: Findings, rng: np.random.Generator) -> Findings:
    """The same findings with what the label map does not show drawn anew: phase, sex, age."""
    return replace(
        findings,
        phase=str(rng.choice(["", *PHASES])),
        sex=str(rng.choice(["", *SEXES])),
        age_decade=int(rng.integers(2, 10)) * 10 if rng.random() < 0.6 else None,
    )


@dataclass(frozen=True)
class MaskData:
    """Label maps (N, X, Y, Z) uint8 and, for each, V versions of its prompt's tokens (N, V, L, D) float16."""

    labels: Tensor
    tokens: Tensor
    num_classes: int

    def class_weight(self) -> Tensor:
        """(K,) loss weights: inverse frequency to the power 0.75, between 0.3 and 60.

        A lesion holds one voxel in three thousand: with milder weights it has no part in the gradient and is never
        learned. The beliefs stay calibrated all the same, see `mask_loss`.
        """
        counts = torch.bincount(self.labels.flatten().long(), minlength=self.num_classes).double()
        frequency = (counts / counts.sum()).clamp(min=1e-7)
        return (1 / (frequency * self.num_classes)).pow(0.75).clamp(0.3, 60).float()

    def batch(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Label maps (B, X, Y, Z) int64, moved up to two voxels sideways, and tokens (B, L, D) float32."""
        which = torch.randint(len(self.labels), (batch_size,), generator=generator)
        version = torch.randint(self.tokens.shape[1], (batch_size,), generator=generator)
        shift = torch.randint(-2, 3, (batch_size, 2), generator=generator)
        labels = torch.stack(
            [self.labels[i].roll(tuple(s.tolist()), dims=(0, 1)) for i, s in zip(which, shift, strict=True)]
        )
        return labels.long(), self.tokens[which, version].float()


def load_mask_data(
    folder: Path, anatomy: Anatomy, encoder: TextEncoder, shape: tuple[int, int, int], versions: int = 3
) -> MaskData:
    """Reads a prepared folder once; maps coarsened to `shape` and tokens are kept beside it for the next run."""
    paths = case_paths(folder)
    factor = anatomy.shape[0] // shape[0]
    cache = folder / f"masks-{len(paths)}-f{factor}-v{versions}.pt"
    if cache.exists():
        held = torch.load(cache, weights_only=True)
        return MaskData(held["labels"], held["tokens"], anatomy.num_classes)
    labels, tokens = [], []
    for number, path in enumerate(tqdm(paths, desc="reading cases", unit="case", disable=None)):
        case = load_case(path)
        labels.append(torch.from_numpy(coarsen_labels(case.label_map, anatomy, factor)))
        rng = np.random.default_rng(number)
        prompts = [vary(case.findings, rng).prompt() for _ in range(versions)]
        tokens.append(encoder(prompts).half())
    data = MaskData(torch.stack(labels), torch.stack(tokens), anatomy.num_classes)
    torch.save({"labels": data.labels, "tokens": data.tokens}, cache)
    return data
