"""MONAI's residual U-Net on folded voxels: 2 x 2 x 2 of them are channels of one, so that it can see a whole volume."""

from __future__ import annotations

import torch
from monai.networks.nets.unet import UNet
from torch import Tensor

from guidegen_data.errors import ModelError

FOLD = 2


def folded_unet(in_channels: int, channels: tuple[int, ...], num_res_units: int) -> UNet:
    """Folded volumes of so many channels a voxel -> `channels[0]` features; each width but the first at half size."""
    return UNet(
        spatial_dims=3,
        in_channels=in_channels * FOLD**3,
        out_channels=channels[0],
        channels=channels,
        strides=(1, *(2 for _ in channels[2:])),
        num_res_units=num_res_units,
    )


def multiple_of(channels: tuple[int, ...]) -> int:
    """What the sides of a volume must be multiples of for a network of these widths."""
    return FOLD * 2 ** (len(channels) - 2)


def check_sides(shape: tuple[int, ...], multiple: int) -> None:
    """ModelError when a field of these voxels cannot be halved as often as a network does."""
    if any(n % multiple for n in shape):
        raise ModelError(f"the field must have a multiple of {multiple} voxels a side, got {shape}.")


def least_box(wanted: Tensor, multiple: int) -> tuple[slice, slice, slice] | None:
    """The least box of allowed sides, of two multiples at least, around the wanted voxels (X, Y, Z) bool; None where
    there are none. One multiple a side would be a single voxel to the innermost layer, which cannot be normalised."""
    slices = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        where = torch.nonzero(wanted.sum(dim=others)).flatten()
        if not len(where):
            return None
        low, high = int(where[0]), int(where[-1]) + 1
        length = max(2, -(-(high - low) // multiple)) * multiple
        length = min(length, wanted.shape[axis])
        low = max(0, min(low, wanted.shape[axis] - length))
        slices.append(slice(low, low + length))
    return slices[0], slices[1], slices[2]


def folded(x: Tensor) -> Tensor:
    """(B, C, X, Y, Z) -> (B, 8 C, X/2, Y/2, Z/2)."""
    b, c, *size = x.shape
    w, h, d = (n // FOLD for n in size)
    x = x.reshape(b, c, w, FOLD, h, FOLD, d, FOLD).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * FOLD**3, w, h, d)


def unfolded(x: Tensor) -> Tensor:
    """The inverse of `folded`."""
    b, c, w, h, d = x.shape
    x = x.reshape(b, c // FOLD**3, FOLD, FOLD, FOLD, w, h, d).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // FOLD**3, FOLD * w, FOLD * h, FOLD * d)
