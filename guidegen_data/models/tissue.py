"""What the body is made of where no class lies: fat, soft tissue and bone, drawn in one piece from the label map.

A slice generator that is told the organs alone makes up skin, muscles and the other bones slice by slice: outlines
blur, and what it drew in one slice it has to guess again in the next. Here a network that sees the whole label map says
first where they lie, and the slice generator is told of them as of the organs. Published label maps stay as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

#: Their ids follow those of a label table.
TISSUES = ("fat", "soft tissue", "bone")
#: Below the first the air around the body and the gas in it, then each tissue up to the next bound.
_BOUNDS_HU = (-300.0, -30.0, 160.0)
_FOLD = 2


def tissues_of(ct_hu: Tensor) -> Tensor:
    """Tissue of every voxel of a CT in HU, by threshold: 0 air and gas, 1 fat, 2 soft tissue, 3 bone. int64."""
    return torch.bucketize(ct_hu.float(), torch.tensor(_BOUNDS_HU, device=ct_hu.device), right=True)


class TissueNetwork(ModelMixin, ConfigMixin):
    """Label map (B, X, Y, Z) -> logits (B, 4, X, Y, Z), float32, of air and the three tissues.

    MONAI's residual U-Net on folded voxels (2 x 2 x 2 of them are channels of one) of the classes' embeddings. X, Y and
    Z are multiples of `multiple`.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int = 21,
        channels: tuple[int, ...] = (16, 32, 64, 96, 96),
        class_features: int = 4,
        num_res_units: int = 2,
    ) -> None:
        super().__init__()
        self.classes = nn.Embedding(num_classes, class_features)
        self.network = UNet(
            spatial_dims=3,
            in_channels=class_features * _FOLD**3,
            out_channels=channels[0],
            channels=channels,
            strides=(1, *(2 for _ in channels[2:])),
            num_res_units=num_res_units,
        )
        self.head = nn.Conv3d(channels[0], (1 + len(TISSUES)) * _FOLD**3, kernel_size=1)

    @property
    def multiple(self) -> int:
        """What the sides of a label map must be multiples of."""
        return _FOLD * 2 ** (len(self.config.channels) - 2)

    def forward(self, label_map: Tensor) -> Tensor:
        """Logits at every voxel, whatever class it has."""
        x = self.classes(label_map.long())  # (B, X, Y, Z, E)
        b, e = len(x), x.shape[-1]
        w, h, d = (n // _FOLD for n in label_map.shape[1:])
        x = x.reshape(b, w, _FOLD, h, _FOLD, d, _FOLD, e).permute(0, 2, 4, 6, 7, 1, 3, 5)
        logits = self.head(self.network(x.reshape(b, e * _FOLD**3, w, h, d))).float()
        parts = logits.reshape(b, -1, _FOLD, _FOLD, _FOLD, w, h, d).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return parts.reshape(b, -1, *label_map.shape[1:])

    @torch.inference_mode()
    def fill(self, label_maps: Tensor) -> Tensor:
        """Label maps (B, X, Y, Z) uint8 with tissues, ids from `num_classes` on, where they had background.

        Each by itself, so that none depends on what it is filled beside.
        """
        filled = []
        for label_map in label_maps:
            # Averaged over neighbours: each fold is drawn by weights of its own, and its seams would show.
            tissue = F.avg_pool3d(self(label_map[None]), 3, stride=1, padding=1, count_include_pad=False)[0].argmax(0)
            other = (label_map == 0) & (tissue > 0)
            filled.append(torch.where(other, self.config.num_classes - 1 + tissue, label_map.long()).to(torch.uint8))
        return torch.stack(filled)
