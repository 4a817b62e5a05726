"""A small 3-D U-Net for label volumes on CPUs: most of its work at an eighth of the voxels, text at the bottom."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, size: int) -> Tensor:
    """Sinusoidal embedding of times in [0, 1]. (B,) -> (B, size) float32."""
    half = size // 2
    frequency = torch.exp(torch.linspace(0, math.log(1000.0), half, device=t.device))
    angle = t.float()[:, None] * frequency[None] * 2 * math.pi
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class TextPool(nn.Module):
    """Tokens (B, L, D) -> one vector (B, size): learned queries over the tokens. All-zero tokens are padding."""

    def __init__(self, token_size: int, size: int, num_queries: int = 12, value_size: int = 32) -> None:
        super().__init__()
        self.score = nn.Linear(token_size, num_queries)
        self.value = nn.Linear(token_size, value_size)
        self.out = nn.Sequential(nn.Linear(num_queries * value_size, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, tokens: Tensor) -> Tensor:
        padding = (tokens == 0).all(dim=2, keepdim=True)
        score = self.score(tokens).float().masked_fill(padding, -1e4).softmax(dim=1)
        pooled = score.transpose(1, 2).to(tokens.dtype) @ self.value(tokens).masked_fill(padding, 0)
        return self.out(pooled.flatten(1))


class ResBlock3d(nn.Module):
    """Norm, SiLU, conv; then the time/text vector as scale and shift; norm, SiLU, conv; and the input added."""

    def __init__(self, channels: int, vector_size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(vector_size, 2 * channels)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(vector).unflatten(1, (2, -1))[..., None, None, None].unbind(1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return x + h


class TextAttention3d(nn.Module):
    """Self-attention over the voxels, then cross-attention to the tokens, then a feed-forward layer; all residual."""

    def __init__(self, channels: int, token_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(token_size, 2 * channels, bias=False)
        self.out_self, self.out_cross = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.feed = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v))
        return out.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        h = x.flatten(2).transpose(1, 2)
        h = h + self.out_self(self._attend(*self.qkv(self.norms[0](h)).chunk(3, dim=2)))
        h = h + self.out_cross(self._attend(self.query(self.norms[1](h)), *self.key_value(tokens).chunk(2, dim=2)))
        h = h + self.feed(self.norms[2](h))
        return h.transpose(1, 2).reshape(x.shape)


class UNet3d(nn.Module):
    """(B, C_in, X, Y, Z) -> features (B, C, X, Y, Z) and (B, C_out, X, Y, Z), steered by a vector (B, V) everywhere and
    tokens at the bottom. What is given `beside` the input, (B, C, X, Y, Z), is added after the first layer.

    `channels` are the widths at full, half and quarter size; skips are added, not concatenated, which halves the work
    of the way up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, channels: tuple[int, ...], vector_size: int, token_size: int
    ) -> None:
        super().__init__()
        self.inlet = nn.Conv3d(in_channels, channels[0], 1)
        self.down = nn.ModuleList(ResBlock3d(c, vector_size) for c in channels[:-1])
        self.shrink = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairwise(channels))
        bottom = channels[-1]
        self.middle = nn.ModuleList([ResBlock3d(bottom, vector_size), ResBlock3d(bottom, vector_size)])
        self.attention = nn.ModuleList([TextAttention3d(bottom, token_size, bottom // 32) for _ in range(2)])
        self.grow = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairwise(channels))
        self.up = nn.ModuleList(ResBlock3d(c, vector_size) for c in channels[:-1])
        self.outlet = nn.Sequential(nn.GroupNorm(8, channels[0]), nn.SiLU(), nn.Conv3d(channels[0], out_channels, 1))

    def forward(self, x: Tensor, vector: Tensor, tokens: Tensor, beside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.inlet(x) if beside is None else self.inlet(x) + beside
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, vector)
            skips.append(h)
            h = shrink(h)
        for block, attention in zip(self.middle, self.attention, strict=True):
            h = attention(block(h, vector), tokens)
        for block, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            h = block(grow(h) + skips.pop(), vector)
        return h, self.outlet(h)


def patch_coordinates(shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Position of every voxel in [-1, 1] along X, Y, Z: (1, 3, X, Y, Z)."""
    axes = [torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)
