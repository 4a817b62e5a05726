"""The look of a scan: image noise of a strength and a grain drawn for every case, as dose and kernel differ in life.

A network that draws CTs in a few steps draws their mean texture; what is missing is noise. Its power spectrum falls off
exponentially with frequency, as measured on real livers (benchmarks/ct_quality.py); dose sets the strength, the
reconstruction kernel the grain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidegen_data.errors import ModelError

_AIR_HU = -950  # below this there is nothing that absorbs, and hardly any noise
_NEIGHBOUR = 0.25  # of a slice's noise is shared with each slice beside it: reconstructed slices overlap


@dataclass(frozen=True)
class NoiseStyle:
    """Standard deviation of the noise in HU, and its grain: the frequency in 1/mm over which its power falls by e."""

    sigma_hu: float
    grain_per_mm: float

    def __post_init__(self) -> None:
        if not (self.sigma_hu >= 0 and self.grain_per_mm > 0):
            raise ModelError(
                f"a noise style needs sigma_hu >= 0 and grain_per_mm > 0, got {self.sigma_hu} and {self.grain_per_mm}."
            )


def draw_style(
    generator: torch.Generator, sigma_hu: tuple[float, float], grain_per_mm: tuple[float, float] = (0.03, 0.07)
) -> NoiseStyle:
    """A style drawn evenly between the bounds."""
    share = torch.rand(2, generator=generator, device=generator.device).tolist()
    values = [low + s * (high - low) for (low, high), s in zip((sigma_hu, grain_per_mm), share, strict=True)]
    return NoiseStyle(round(values[0], 3), round(values[1], 4))


def noise_hu(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], style: NoiseStyle, generator: torch.Generator
) -> Tensor:
    """Noise (X, Y, Z) float32 of the style, mean 0: white noise filtered in every axial slice, a little along z."""
    x, y, z = shape
    white = torch.randn(z, x, y, generator=generator, device=generator.device)
    fx = torch.fft.fftfreq(x, spacing_mm[0], device=white.device)[:, None]
    fy = torch.fft.rfftfreq(y, spacing_mm[1], device=white.device)[None]
    gain = torch.exp(-torch.sqrt(fx**2 + fy**2) / (2 * style.grain_per_mm))
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=(x, y))
    beside = torch.cat([noise[:1], noise[:-1]]) + torch.cat([noise[1:], noise[-1:]])
    noise = noise + _NEIGHBOUR * beside
    return (noise * (style.sigma_hu / noise.std().clamp(min=1e-6))).permute(1, 2, 0)


def with_noise(
    ct_hu: Tensor,
    spacing_mm: tuple[float, float, float],
    style: NoiseStyle,
    generator: torch.Generator,
    hu_range: tuple[int, int],
) -> Tensor:
    """The CT (X, Y, Z) int16 HU in that style, within `hu_range`; air stays as it is."""
    x, y, z = ct_hu.shape
    noise = noise_hu((x, y, z), spacing_mm, style, generator).to(ct_hu.device)
    noisy = (ct_hu + noise).round().clamp(*hu_range).to(torch.int16)
    return torch.where(ct_hu > _AIR_HU, noisy, ct_hu)
