"""Stage 2: latent slices of a CT, one after the other, each given its mask slice, the slice before it and the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidegen_data.anatomy import PHASES
from guidegen_data.models.hu_prior import HU_CHANNELS, HUPrior, hu_planes
from guidegen_data.models.unet3d import TextPool

#: Level that marks "there is no previous slice"; its latents are then zero.
NO_PREVIOUS = 1.0
#: Share of the training slices whose HU are not told, and by how many HU (standard deviation) the others are off.
_UNTOLD_HU, _HU_OFF = 0.1, 3.0


class SliceGenerator(ModelMixin, ConfigMixin):
    """Velocity of the flow from latent slices to noise (Lipman et al. 2023), x_sigma = (1 - sigma) x_0 + sigma noise.

    The mask enters as class fractions of the slice and its two neighbours, reduced by a small encoder once a slice; the
    previous slice's latents enter with noise of a known level, so that sampling errors look like training noise. With
    `organ_hu` it is also told the median HU of every class (see `models.hu_prior`), as the slices painted with them.
    With `tissues` the last of `num_classes` are those around the classes of a table (`models.tissue`), or the fat in
    one of them (`models.fat`): those that lie in class `tissues_within`. With
    `loose_tissues` it learned from tissues of the table that were smoothed (`tissue_rule`), and draws their detail.
    With `uneven_by_phase` the prior of HU knows how uneven classes are by phase and along the body, unlike older ones.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int = 21,
        latent_channels: int = 4,
        downsampling: int = 4,
        channels: tuple[int, ...] = (48, 96, 128),
        mask_features: int = 24,
        token_size: int = 384,
        vector_size: int = 128,
        organ_hu: bool = False,
        tissues: bool = False,
        tissues_within: int = 0,
        loose_tissues: bool = False,
        uneven_by_phase: bool = False,
    ) -> None:
        super().__init__()
        if downsampling != 4:
            raise ValueError("the mask encoder halves twice: the autoencoder must reduce by 4.")
        self.mask_encoder = nn.Sequential(
            nn.Conv2d(3 * (num_classes + (HU_CHANNELS if organ_hu else 0)), 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, mask_features, 1),
        )
        self.text_pool = TextPool(token_size, vector_size)
        depth = len(channels)
        self.unet = UNet2DConditionModel(
            in_channels=2 * latent_channels + mask_features + 1,
            out_channels=latent_channels,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * (depth - 1) + ("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
            layers_per_block=1,
            norm_num_groups=16,
            attention_head_dim=4,
            cross_attention_dim=token_size,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=vector_size,
        )
        self.num_classes = num_classes
        self.hu_prior = HUPrior(num_classes, len(PHASES), uneven_by_phase) if organ_hu else None

    def widened(self, name: str, held: Tensor, config: Mapping[str, Any]) -> Tensor | None:
        """A weight of a generator of that configuration, which was told no HU or no tissues, made one of this network:
        zeros for HU, and for tissues what it did in the class that they lie in. None for any other weight or table."""
        more = self.config.num_classes - config.get("num_classes", 21)
        grown = more > 0 if self.config.tissues and not config.get("tissues", False) else more == 0
        if name != "mask_encoder.0.weight" or not grown or (config.get("organ_hu") and self.hu_prior is None):
            return None
        first = self.mask_encoder[0].weight
        num_classes, held = self.config.num_classes - more, held.to(first)
        classes = held[:, : 3 * num_classes].unflatten(1, (3, num_classes))
        within = self.config.tissues_within
        of_tissues = classes[:, :, within : within + 1].expand(-1, -1, more, -1, -1)
        wide = torch.cat([torch.cat([classes, of_tissues], dim=2).flatten(1, 2), held[:, 3 * num_classes :]], dim=1)
        return torch.cat([wide, torch.zeros_like(first[:, wide.shape[1] :])], dim=1)

    def encode_mask(self, labels: Tensor, class_hu: Tensor | None = None) -> Tensor:
        """Features (B, M, X/4, Y/4) of a mask slice with its neighbours below and above. labels (B, 3, X, Y) int.

        `class_hu` (B, K) in HU, NaN for what is not known, is left out where nothing is to be told.
        """
        dtype = self.mask_encoder[0].weight.dtype
        if torch.is_autocast_enabled(labels.device.type):
            dtype = torch.get_autocast_dtype(labels.device.type)
        b, neighbours, x, y = labels.shape
        fractions = torch.zeros(b, neighbours, self.num_classes, x, y, dtype=dtype, device=labels.device)
        fractions.scatter_(2, labels.long().unsqueeze(2), 1)
        planes = fractions.flatten(1, 2)
        if self.hu_prior is not None:
            if class_hu is None:
                class_hu = torch.full((b, self.num_classes), torch.nan, device=labels.device)
            planes = torch.cat([planes, hu_planes(labels, class_hu).to(planes)], dim=1)
        return self.mask_encoder(planes)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        mask: Tensor,
        previous: Tensor,
        level: Tensor,
        tokens: Tensor,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Velocity noise - x_0, (B, C, x, y). x and previous (B, C, x, y); sigma, level (B,) in [0, 1]; mask features
        of `encode_mask`; tokens (B, L, D) and, where it is at hand, their `text_pool` (B, V)."""
        flag = level.to(x).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        inputs = torch.cat([x, previous.to(x), mask.to(x), flag], dim=1)
        tokens = tokens.to(x)
        if pooled is None:
            pooled = self.text_pool(tokens)
        return self.unet(inputs, sigma.float() * 1000, encoder_hidden_states=tokens, class_labels=pooled).sample


def mask_triples(label_maps: Tensor, z: int) -> Tensor:
    """Label slices z - 1, z, z + 1 (edges repeated) of volumes (B, X, Y, Z) -> (B, 3, X, Y)."""
    return label_slab(label_maps, z, 1)


def label_slab(label_maps: Tensor, z: int, slices: int) -> Tensor:
    """Label slices z - 1 .. z + slices (edges repeated) of volumes (B, X, Y, Z) -> (B, slices + 2, X, Y)."""
    last = label_maps.shape[3] - 1
    return torch.stack([label_maps[..., min(max(k, 0), last)] for k in range(z - 1, z + slices + 1)], dim=1)


def slice_loss(
    model: nn.Module,
    latents: Tensor,
    previous: Tensor,
    has_previous: Tensor,
    labels: Tensor,
    tokens: Tensor,
    generator: torch.Generator,
    class_hu: Tensor | None = None,
    drop_text: float = 0.1,
    max_level: float = 0.6,
    teacher: nn.Module | None = None,
    teacher_steps: int = 8,
) -> dict[str, Tensor]:
    """Squared error of the velocity at a random noise level. latents, previous (B, C, x, y), labels (B, 3, X, Y),
    class_hu (B, K).

    The previous slice is corrupted to a random level, which the network is told; where `has_previous` (B,) is false it
    is zero and the level is NO_PREVIOUS.

    With a `teacher` the network learns its flow made straight (reflow, Liu et al. 2023): each noise leads to the slice
    that the teacher makes of it in `teacher_steps`, and half of the examples are pure noise, where a sampler of few
    steps takes its longest one.
    """
    batch = len(latents)
    half = torch.rand(batch, generator=generator) < 0.7
    normal = torch.sigmoid(torch.randn(batch, generator=generator))
    sigma = torch.where(half, normal, torch.rand(batch, generator=generator)).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    level = (max_level * torch.rand(batch, generator=generator) ** 1.5).to(latents.device)
    corrupted = corrupt_previous(previous, level, torch.randn(latents.shape, generator=generator).to(latents))
    present = has_previous.to(latents.device).view(-1, 1, 1, 1)
    corrupted = torch.where(present, corrupted, torch.zeros_like(corrupted))
    level = torch.where(has_previous.to(level.device), level, torch.full_like(level, NO_PREVIOUS))
    keep = (torch.rand(batch, generator=generator) >= drop_text).to(tokens).view(-1, 1, 1)
    if class_hu is not None:
        off = _HU_OFF * torch.randn(class_hu.shape, generator=generator)
        untold = torch.rand(batch, 1, generator=generator) < _UNTOLD_HU
        class_hu = torch.where(untold.to(class_hu.device), torch.nan, class_hu + off.to(class_hu))
    if teacher is not None:
        told = teacher.encode_mask(labels, class_hu), corrupted, level, tokens * keep
        latents = follow_flow(teacher, noise, *told, num_steps=teacher_steps)
        sigma = torch.where(torch.rand(batch, generator=generator).to(sigma.device) < 0.5, 1.0, sigma)
    s = sigma.view(-1, 1, 1, 1)
    velocity = model(
        (1 - s) * latents + s * noise,
        sigma,
        model.encode_mask(labels, class_hu),
        corrupted,
        level,
        tokens * keep,
    )
    return {"total": F.mse_loss(velocity.float(), noise - latents)}


@torch.no_grad()
def follow_flow(
    model: nn.Module, x: Tensor, mask: Tensor, previous: Tensor, level: Tensor, tokens: Tensor, num_steps: int
) -> Tensor:
    """The slices (B, C, x, y) that even Euler steps make of noise x; the other arguments are those of the network."""
    for k in range(num_steps):
        sigma = torch.full((len(x),), 1 - k / num_steps, device=x.device)
        x = x - model(x, sigma, mask, previous, level, tokens).float() / num_steps
    return x


def corrupt_previous(previous: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """The previous slice's latents at a noise level in [0, 1): sqrt(1 - l^2) previous + l noise. level (B,)."""
    scale = level.to(previous).view(-1, 1, 1, 1)
    return (1 - scale**2).sqrt() * previous + scale * noise
