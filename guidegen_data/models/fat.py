"""Fat in the soft tissue of a label map: skin's cushion, the planes between muscles, drawn voxel by voxel.

A table that knows soft tissue as one class tells a slice generator nothing of what a CT of the neck shows most of:
muscles, and fat between them. Left to it, they blur into one grey. A categorical process of two kinds, fat and the
rest, draws them in 3-D first, and the slices are told of the fat as of a class more. Published label maps stay as they
are: which fat a CT shows is its own, as its texture is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from diffusers import ModelMixin
from torch import Tensor

from guidegen_data.models.detail import DetailNetwork
from guidegen_data.models.tissue import FAT, TissueNetwork, tissues_of

#: Steps of the process: with more, fat comes in grains where there is none, in a brain.
_STEPS = 3


class FatNetwork(DetailNetwork, ModelMixin):  # diffusers looks in this module for what loads it
    """The network of detail with two classes: the one that fat lies in, and fat, which is one more than the table has.

    `num_classes` counts fat, as do the slices that are told of it. Only voxels of the first class are drawn.
    """

    num_tissues = 1

    @property
    def num_table_classes(self) -> int:
        """The classes of the label table."""
        return self.config.num_classes - 1

    @property
    def within(self) -> int:
        """The class that fat lies in."""
        return self.config.classes[0]

    def opened(self, label_map: Tensor) -> Tensor:
        """Voxels (X, Y, Z) bool that may be fat."""
        return label_map == self.within

    def fill(self, label_maps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Label maps (B, X, Y, Z) uint8 with fat drawn into them, each from its own generator alone."""
        return self.draw(label_maps, generators, _STEPS)

    def _decided(self, belief: Tensor, free: Tensor) -> Tensor:
        """Fat where it is believed in most, as many voxels as are expected: the likelier kind of each voxel by itself
        would leave out most of what is thin."""
        fat = torch.where(free, belief[:, 1], -1.0)
        expected = round(float(fat[free].sum()))
        if expected == 0:
            return torch.zeros_like(fat, dtype=torch.int64)
        return (fat >= fat.flatten().kthvalue(fat.numel() - expected + 1).values).long()

    def told(self, label_map: Tensor, ct_hu: Tensor) -> Tensor:
        """A label map (X, Y, Z) uint8 with the fat of its CT (X, Y, Z) in HU: what slices learn from."""
        fat = (tissues_of(ct_hu) == FAT) & self.opened(label_map)
        return torch.where(fat, self.config.classes[1], label_map.long()).to(torch.uint8)

    def told_by(self, digest: Callable[[Mapping[str, Tensor]], str]) -> str:
        """What tells that which slices learn from: not the weights, since fat is a CT's own."""
        return f"fat of the CTs, within class {self.within}"


#: What draws the tissues that slices are told of.
DrawsTissues = TissueNetwork | FatNetwork
