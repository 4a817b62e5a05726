"""CT slices <-> latents: a KL autoencoder (diffusers) trained so that every contrast range counts.

Two things differ from an image autoencoder. HU are absolute and span 3000 units of which soft tissue uses 300, so the
network sees them through `compand`, a fixed invertible curve that is linear near soft tissue and logarithmic far away.
And the loss compares input and reconstruction through the same random HU windows (GuideGen v2, contrast-aware
autoencoder), so that no contrast range is sacrificed to the widest one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

HU_MIN, HU_MAX = -1024.0, 1976.0
_CENTRE_HU, _KNEE_HU, _SCALE = 40.0, 150.0, 3.0

#: name -> (lowest, highest) HU of the display windows the autoencoder is judged in
WINDOWS_HU = {"soft": (-160.0, 240.0), "liver": (-20.0, 180.0), "lung": (-1000.0, -200.0), "bone": (-100.0, 1200.0)}


def compand(ct_hu: Tensor) -> Tensor:
    """HU -> about [-0.9, 1.1]: asinh((HU - 40) / 150) / 3, after clipping to [-1024, 1976] HU. Any shape."""
    return torch.asinh((ct_hu.clamp(HU_MIN, HU_MAX) - _CENTRE_HU) / _KNEE_HU) / _SCALE


def expand(companded: Tensor) -> Tensor:
    """Inverse of `compand`, clipped to [-1024, 1976] HU. Any shape, float32."""
    hu = torch.sinh(companded.float().clamp(-1.2, 1.2) * _SCALE) * _KNEE_HU + _CENTRE_HU
    return hu.clamp(HU_MIN, HU_MAX)


class CTAutoencoder(ModelMixin, ConfigMixin):
    """Slices (B, 1, X, Y) in HU <-> latents (B, C, X/4, Y/4) of zero mean and unit variance a channel."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        block_out_channels: tuple[int, ...] = (48, 96),
        layers_per_block: int = 1,
        patch: int = 2,
        num_classes: int = 0,
        guide_channels: int = 24,
    ) -> None:
        super().__init__()
        depth = len(block_out_channels)
        self.vae = AutoencoderKL(
            in_channels=patch * patch,
            out_channels=patch * patch,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
        self.guide = MaskGuide(num_classes, guide_channels) if num_classes else None
        self.register_buffer("latent_mean", torch.zeros(1, latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, latent_channels, 1, 1))

    @property
    def downsampling(self) -> int:
        return self.config.patch * 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, ct_hu: Tensor) -> Tensor:
        """Standardised posterior means. (B, 1, X, Y) HU -> (B, C, x, y)."""
        return (self._posterior(ct_hu).mean - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """HU of standardised latents. (B, C, x, y) -> (B, 1, X, Y) float32, in [-1024, 1976].

        `labels` (B, X, Y) uint8 are the label slices, which a decoder that was trained with them draws borders from;
        one that was not takes no notice.
        """
        return expand(self.decode_companded(latents * self.latent_std + self.latent_mean, labels))

    def forward(self, ct_hu: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Companded reconstruction, posterior mean and log-variance of a training pass. ct_hu (B, 1, X, Y)."""
        posterior = self._posterior(ct_hu)
        mean, logvar = posterior.mean, posterior.logvar
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return self.decode_companded(mean + torch.exp(0.5 * logvar) * noise), mean, logvar

    def _posterior(self, ct_hu: Tensor):
        dtype = self.vae.dtype
        return self.vae.encode(F.pixel_unshuffle(compand(ct_hu), self.config.patch).to(dtype)).latent_dist

    def decode_companded(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Companded slices (B, 1, X, Y) float32 of latents as the encoder gives them."""
        decoded = self.vae.decode(latents.to(self.vae.dtype)).sample
        plain = F.pixel_shuffle(decoded, self.config.patch)
        if self.guide is None or labels is None:
            return plain.float()
        return plain.float() + self.guide(plain, labels).float()


class MaskGuide(nn.Module):
    """What the label slice adds to a decoded one: latents are too coarse for borders, and the map knows where they are.

    The paper's autoencoder decodes latents alone; its masks have the size of its latents' cells.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.read = nn.Conv2d(1 + num_classes, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.write = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, companded: Tensor, labels: Tensor) -> Tensor:
        """(B, 1, X, Y) to be added to a decoded slice of that shape, for labels (B, X, Y)."""
        classes = F.one_hot(labels.long(), self.num_classes).permute(0, 3, 1, 2).to(companded.dtype)
        hidden = F.silu(self.read(torch.cat([companded, classes], dim=1)))
        return self.write(F.silu(self.mix(hidden)))


class AutoencoderLoss(NamedTuple):
    total: Tensor
    windowed: Tensor
    gradient: Tensor
    kl: Tensor


def windowed_l1(ct_hu: Tensor, reconstruction_hu: Tensor, low_hu: Tensor, high_hu: Tensor) -> Tensor:
    """Mean |difference| seen through a window a sample, in units of the window's width. Inputs (B, 1, X, Y), (B,)."""
    low, width = low_hu.view(-1, 1, 1, 1), (high_hu - low_hu).view(-1, 1, 1, 1)
    a = ((ct_hu - low) / width).clamp(0, 1)
    b = ((reconstruction_hu - low) / width).clamp(0, 1)
    return (a - b).abs().mean()


def random_windows(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lower and upper HU (B,), (B,) of windows with log-uniform width 150..3000 HU, centred where tissue is."""
    width = 150.0 * 20.0 ** torch.rand(batch, generator=generator)
    kind = torch.rand(batch, generator=generator)
    uniform = torch.rand(batch, generator=generator)
    soft, lung, bone = -100 + 300 * uniform, -950 + 300 * uniform, 100 + 700 * uniform
    centre = torch.where(kind < 0.6, soft, torch.where(kind < 0.8, lung, bone))
    return centre - width / 2, centre + width / 2


def autoencoder_loss(
    model: CTAutoencoder, ct_hu: Tensor, generator: torch.Generator, kl_weight: float = 1e-6, num_windows: int = 2
) -> AutoencoderLoss:
    """Contrast-aware loss: companded L1 + L1 in random windows + L1 of in-plane gradients + KL. ct_hu (B,1,X,Y)."""
    output, mean, logvar = model(ct_hu, generator)
    windowed, gradient = contrast_losses(output, ct_hu, generator, num_windows)
    kl = 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).sum(dim=(1, 2, 3)).mean()
    return AutoencoderLoss(
        windowed + 0.5 * gradient + kl_weight * kl, windowed.detach(), gradient.detach(), kl.detach()
    )


def contrast_losses(
    output: Tensor, ct_hu: Tensor, generator: torch.Generator, num_windows: int = 2
) -> tuple[Tensor, Tensor]:
    """L1 of companded slices (B, 1, X, Y) against CT slices, there and in random windows; L1 of their gradients."""
    target, output_hu = compand(ct_hu), expand(output)
    windowed = (output - target).abs().mean()
    for _ in range(num_windows):
        low, high = random_windows(len(ct_hu), generator)
        windowed = windowed + 0.5 * windowed_l1(ct_hu, output_hu, low.to(ct_hu), high.to(ct_hu))
    gradient = torch.stack([(output.diff(dim=d) - target.diff(dim=d)).abs().mean() for d in (2, 3)]).sum()
    return windowed, gradient
