"""A patch discriminator beside the decoder (Isola et al. 2017; least squares, Mao et al. 2017), in the one loop.

A loss of single voxels alone is least for the mean of all that a latent may stand for, which is blurred. The
discriminator sees decoded slices beside their label slices and learns which are real; the decoder learns to pass.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from guidegen_data.models.autoencoder import CTAutoencoder, compand

_CHANNELS, _LAYERS = 32, 3
#: HU between which texture is compared: soft tissue.
_SOFT_HU = (-200.0, 300.0)

DecoderLoss = Callable[[CTAutoencoder, Tensor, Tensor, torch.Generator], tuple[dict[str, Tensor], Tensor]]


class BesideDiscriminator(nn.Module):
    """An autoencoder whose decoder is trained, and its discriminator: one model to the loop, so that both resume and
    both take their step from the same losses. Saved are the autoencoder's weights alone."""

    def __init__(self, autoencoder: CTAutoencoder, num_classes: int) -> None:
        super().__init__()
        self.autoencoder, self.num_classes = autoencoder, num_classes
        self.discriminator = PatchDiscriminator(
            spatial_dims=2, channels=_CHANNELS, in_channels=1 + num_classes, num_layers_d=_LAYERS, norm="INSTANCE"
        )
        self.judge = PatchAdversarialLoss(criterion="least_squares", reduction="mean")

    def save_pretrained(self, folder: Path) -> None:
        """Writes the autoencoder as it would be without a discriminator."""
        self.autoencoder.save_pretrained(folder)

    def loss(
        self, ct_hu: Tensor, labels: Tensor, decoder_loss: DecoderLoss, weight: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The decoder's loss on slices (B, 1, X, Y) with labels (B, X, Y), `weight` times what fools the
        discriminator, and the discriminator's own loss. Neither moves the other's weights."""
        losses, output = decoder_loss(self.autoencoder, ct_hu, labels, generator)
        classes = F.one_hot(labels.long(), self.num_classes).permute(0, 3, 1, 2).to(output.dtype)
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        passed = torch.func.functional_call(self.discriminator, fixed, (torch.cat([output, classes], dim=1),))
        fooled = self.judge(passed[-1].float(), target_is_real=True, for_discriminator=False)
        seen = self.discriminator(torch.cat([output.detach(), classes], dim=1))[-1].float()
        real = self.discriminator(torch.cat([compand(ct_hu).to(output), classes], dim=1))[-1].float()
        told_apart = 0.5 * (
            self.judge(seen, target_is_real=False, for_discriminator=True)
            + self.judge(real, target_is_real=True, for_discriminator=True)
        )
        total = losses["total"] + weight * fooled + told_apart
        return losses | {"total": total, "fooled": fooled.detach(), "told_apart": told_apart.detach()}


def texture_gap(output: Tensor, target: Tensor, ct_hu: Tensor) -> Tensor:
    """How far the strength of fine structure in the soft tissue of slices (B, 1, X, Y) is from the real one: mean
    absolute log2 of the ratio of standard deviations, over slices with soft tissue."""
    soft = ((ct_hu > _SOFT_HU[0]) & (ct_hu < _SOFT_HU[1])).float()
    weight = soft / soft.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)

    def strength(x: Tensor) -> Tensor:
        fine = x.float() - F.avg_pool2d(x.float(), 3, stride=1, padding=1, count_include_pad=False)
        return (weight * fine.square()).sum(dim=(1, 2, 3)).clamp(min=1e-12).sqrt()

    held = soft.flatten(1).sum(dim=1) > 50
    gap = (strength(output) / strength(target)).log2().abs()
    return gap[held].mean() if bool(held.any()) else gap.new_zeros(())
