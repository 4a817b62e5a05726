"""A feature network of a user's own, as `--features feature_networks:tissue_shares` takes it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.features import FeatureNetwork


def tissue_shares() -> FeatureNetwork:
    """Shares of a region above air, above fat and above soft tissue, at half and at a quarter of the resolution."""

    def layers(ct_hu: Tensor) -> list[Tensor]:
        pool = F.avg_pool3d if ct_hu.ndim == 5 else F.avg_pool2d
        shares = torch.cat([torch.sigmoid((ct_hu - level) / 30) for level in (-500.0, -20.0, 60.0)], dim=1)
        return [pool(shares, 2), pool(shares, 4)]

    return FeatureNetwork("tissue shares", layers, volumes=True, grid=4, about={"network": "made for tests"})


def nothing() -> str:
    return "no network"
