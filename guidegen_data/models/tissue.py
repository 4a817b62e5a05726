"""What the body is made of where no class lies: fat, soft tissue and bone, drawn in one piece from the label map.

A slice generator that is told the organs alone makes up skin, muscles and the other bones slice by slice: outlines
blur, and what it drew in one slice it has to guess again in the next. Here a network that sees the whole label map says
first where they lie, and the slice generator is told of them as of the organs. Published label maps stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidegen_data.anatomy import TISSUES
from guidegen_data.models.folded_unet import FOLD, folded, folded_unet, multiple_of, unfolded

#: Below the first the air around the body and the gas in it, then each tissue up to the next bound.
_BOUNDS_HU = (-300.0, -30.0, 160.0)
#: Fat in `tissues_of`.
FAT = 1


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
        self.network = folded_unet(class_features, channels, num_res_units)
        self.head = nn.Conv3d(channels[0], (1 + len(TISSUES)) * FOLD**3, kernel_size=1)

    num_tissues = len(TISSUES)

    @property
    def num_table_classes(self) -> int:
        """The classes of the label table."""
        return self.config.num_classes

    @property
    def within(self) -> int:
        """The class that tissues are drawn in: background."""
        return 0

    @property
    def multiple(self) -> int:
        """What the sides of a label map must be multiples of."""
        return multiple_of(self.config.channels)

    def forward(self, label_map: Tensor) -> Tensor:
        """Logits at every voxel, whatever class it has."""
        x = self.classes(label_map.long()).movedim(-1, 1)
        return unfolded(self.head(self.network(folded(x))).float())

    @torch.inference_mode()
    def fill(self, label_maps: Tensor, generators: Sequence[torch.Generator] = ()) -> Tensor:
        """Label maps (B, X, Y, Z) uint8 with tissues, ids from `num_classes` on, where they had background.

        Each by itself, so that none depends on what it is filled beside; nothing is drawn from generators.
        """
        filled = []
        for label_map in label_maps:
            # Each fold is drawn by weights of its own: summed over neighbours its seams do not show. Voxels of
            # classes say nothing, since the network learned nothing there.
            free = label_map == 0
            belief = _summed(self(label_map[None])[0].softmax(dim=0) * free)
            tissue = torch.zeros_like(label_map, dtype=torch.int64)
            most = belief[0]
            for k in range(1, len(belief)):  # an argmax over so few is slow on CPUs
                tissue = torch.where(belief[k] > most, k, tissue)
                most = torch.maximum(most, belief[k])
            other = free & (tissue > 0)
            filled.append(torch.where(other, self.config.num_classes - 1 + tissue, label_map.long()).to(torch.uint8))
        return torch.stack(filled)

    def told(self, label_map: Tensor, ct_hu: Tensor) -> Tensor:
        """A label map (X, Y, Z) uint8 of a CT with tissues as slices learn from them: as they will be drawn."""
        return self.fill(label_map[None])[0]

    def told_by(self, digest: Callable[[Mapping[str, Tensor]], str]) -> str:
        """What tells that which slices learn from: the weights."""
        return digest(self.state_dict())


def _summed(volumes: Tensor) -> Tensor:
    """Volumes (C, X, Y, Z) summed over 3 x 3 x 3 voxels, one axis after the other; outside there is nothing."""
    for axis in (1, 2, 3):
        pad = [0, 0] * (3 - axis) + [1, 1]
        wide, size = F.pad(volumes, pad), volumes.shape[axis]
        volumes = wide.narrow(axis, 0, size) + wide.narrow(axis, 1, size) + wide.narrow(axis, 2, size)
    return volumes
