"""Batches of real CT slices for the autoencoder: small turns and zooms, contrast changes, lesion-like blobs, noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

AIR_HU = -1024.0


class SliceSource:
    """Random axial slices (B, 1, size, size) in HU out of real volumes (X, Y, Z) in HU that are already at 3 mm.

    Several versions of one volume (anti-aliased, sharp) may be given; they are drawn in proportion to their slices.
    """

    def __init__(self, volumes_hu: list[Tensor], size: int = 128, label_maps: list[Tensor] | None = None) -> None:
        if not volumes_hu:
            raise ValueError("SliceSource needs at least one volume.")
        self.label_maps = label_maps
        self.volumes_hu = volumes_hu
        self.size = size
        self.weights = torch.tensor([float(v.shape[2]) for v in volumes_hu])

    def to(self, device: torch.device) -> SliceSource:
        """The same volumes on a device, where their slices are then cut, turned and varied."""
        maps = None if self.label_maps is None else [m.to(device) for m in self.label_maps]
        return SliceSource([v.to(device) for v in self.volumes_hu], self.size, maps)

    def batch(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, 1, size, size) float32 HU; a function of the generator's state alone."""
        return torch.stack([ct for ct, _ in self._slices(batch_size, generator)]).unsqueeze(1)

    def pairs(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same with label slices (B, size, size) uint8 of the `label_maps`, never mirrored: sides have classes."""
        cts, labels = zip(*self._slices(batch_size, generator), strict=True)
        return torch.stack(cts).unsqueeze(1), torch.stack(labels)

    def _slices(self, batch_size: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        which = torch.multinomial(self.weights, batch_size, replacement=True, generator=generator)
        return [self._slice(int(i), generator) for i in which]

    def _slice(self, which: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A CT slice, and its label slice where there are label maps (else an empty tensor)."""
        volume = self.volumes_hu[which]
        u = torch.rand(8, generator=generator)
        z = int(u[0] * volume.shape[2])

        def moved(plane: Tensor, fill: float, mode: str) -> Tensor:
            return _fit(plane, self.size, u[1:3], fill) if u[3] < 0.4 else _turned(plane, self.size, u[4:8], fill, mode)

        ct = moved(volume[:, :, z].float(), AIR_HU, "bilinear")
        mirrored = torch.rand(1, generator=generator) < 0.5
        if self.label_maps is None:
            return _contrast(ct.flip(0) if mirrored else ct, generator), torch.empty(0)
        labels = moved(self.label_maps[which][:, :, z].float(), 0.0, "nearest").to(torch.uint8)
        return _contrast(ct, generator), labels


def _fit(plane: Tensor, size: int, u: Tensor, fill: float) -> Tensor:
    """Whole-voxel shift into a (size, size) field: no interpolation, so the noise stays as it is."""
    out = plane.new_full((size, size), fill)
    spans = []
    for length, r in zip(plane.shape, u.tolist(), strict=True):
        offset = int(r * (abs(size - length) + 1))
        inside = min(size, length)
        spans.append((slice(offset, offset + inside), slice(0, inside)))
        if length > size:
            spans[-1] = (slice(0, inside), slice(offset, offset + inside))
    out[spans[0][0], spans[1][0]] = plane[spans[0][1], spans[1][1]]
    return out


def _turned(plane: Tensor, size: int, u: Tensor, fill: float, mode: str) -> Tensor:
    """Rotation within 15 degrees, zoom .85 to 1.2 and a shift within 12 voxels."""
    angle = float(u[0] - 0.5) * math.pi / 6
    zoom = 0.85 + 0.35 * float(u[1])
    shift = (u[2:4] - 0.5) * 24
    scale = [size / n / zoom for n in (plane.shape[1], plane.shape[0])]
    cos, sin = math.cos(angle), math.sin(angle)
    theta = torch.tensor(
        [
            [cos * scale[0], -sin * scale[0], float(shift[0]) * 2 / plane.shape[1]],
            [sin * scale[1], cos * scale[1], float(shift[1]) * 2 / plane.shape[0]],
        ]
    )
    grid = F.affine_grid(theta[None].to(plane.device), [1, 1, size, size], align_corners=False)
    moved = F.grid_sample(plane[None, None] - fill, grid, mode=mode, padding_mode="zeros", align_corners=False)
    return moved[0, 0] + fill


def _contrast(plane: Tensor, generator: torch.Generator) -> Tensor:
    """Random gain of soft tissue, up to two lesion-like blobs within the body, and noise in half of the slices."""
    u = torch.rand(3, generator=generator)
    soft = ((plane + 200) / 100).clamp(0, 1)
    plane = plane + soft * (plane - 40) * (0.5 * float(u[0]) - 0.2)
    size = plane.shape[0]
    axis = torch.arange(size, dtype=torch.float32, device=plane.device)
    for _ in range(int(u[1] * 3)):
        r = torch.rand(5, generator=generator).tolist()
        cx, cy = 0.2 * size + 0.6 * size * r[0], 0.2 * size + 0.6 * size * r[1]
        radius = 1.5 + 8 * r[2] ** 2
        distance = ((axis[:, None] - cx) ** 2 * (0.7 + 0.6 * r[3]) + (axis[None] - cy) ** 2).sqrt()
        plane = plane + soft * torch.sigmoid(2 * (radius - distance)) * (r[4] - 0.5) * 160
    if u[2] < 0.5:
        plane = plane + torch.randn(plane.shape, generator=generator).to(plane) * soft * 24 * float(u[2])
    return plane.clamp(AIR_HU, 3071)
