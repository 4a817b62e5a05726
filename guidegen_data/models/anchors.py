"""Lesion anchors: soft balls that tell stage 1 where a lesion shall lie and how large it shall be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def anchor_balls(places: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Anchors (B, *shape) in [0, 1] of places (B, M, 4): centre x, y, z and diameter in voxels; diameter 0 is none.

    A ball is 1 inside and falls to 0 over one voxel at its surface, so that also a lesion smaller than a voxel shows.
    """
    axes = [torch.arange(n, device=places.device, dtype=places.dtype) for n in shape]
    x, y, z = (places[..., i, None] - axis for i, axis in enumerate(axes))
    squared = (x**2)[..., :, None, None] + (y**2)[..., None, :, None] + (z**2)[..., None, None, :]
    diameter = places[..., 3, None, None, None]
    balls = (diameter / 2 + 0.5 - squared.sqrt()).clamp(0, 1) * (diameter > 0)
    return balls.amax(dim=1)


@dataclass(frozen=True)
class Placement:
    """Where the lesions of B cases shall lie, each (B, X, Y, Z): the anchors in [0, 1]; what is added to the lesion's
    logit there while sampling; and, bool, the voxels of lesions that were not placed before."""

    anchors: Tensor
    push: Tensor
    new: Tensor
