"""Stage 1: report tokens -> belief about a low-resolution label map, the x_0 network of the categorical process."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidegen_data.diffusion.categorical import CategoricalProcess
from guidegen_data.models.unet3d import TextPool, UNet3d, patch_coordinates, sinusoid


class MaskSampler(ModelMixin, ConfigMixin):
    """Logits of p(x_0 | x_t, tokens) over K classes on a grid of `shape` voxels.

    Voxels are folded 2 x 2 x 2 into channels first, so the U-Net works at an eighth of the voxels. What the noisy label
    of a voxel itself says about its x_0 is known exactly, log q(x_t | x_0); it is added to the logits, so the network
    learns only what the surroundings and the text say.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int = 21,
        shape: tuple[int, int, int] = (64, 64, 64),
        channels: tuple[int, ...] = (32, 64, 160),
        token_size: int = 384,
        vector_size: int = 192,
        class_features: int = 6,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, class_features)
        self.text_pool = TextPool(token_size, vector_size)
        self.time = nn.Sequential(nn.Linear(64, vector_size), nn.SiLU(), nn.Linear(vector_size, vector_size))
        self.unet = UNet3d(8 * class_features + 3, 8 * num_classes, channels, vector_size, token_size)
        self.num_classes = num_classes

    def forward(self, x_t: Tensor, t: Tensor, abar_t: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, K, X, Y, Z) float32. x_t (B, X, Y, Z) int64, t (B,) in [0, 1], abar_t (B,), tokens (B, L, D)."""
        vector = F.silu(self.time(sinusoid(t, 64).to(tokens.dtype)) + self.text_pool(tokens))
        features = fold(self.embed(x_t).movedim(-1, 1))
        where = patch_coordinates(tuple(features.shape[2:]), features)
        features = torch.cat([features, where.expand(len(features), -1, -1, -1, -1)], dim=1)
        logits = unfold(self.unet(features, vector, tokens).float())
        return logits + self._evidence(x_t, abar_t)

    def _evidence(self, x_t: Tensor, abar_t: Tensor) -> Tensor:
        """log q(x_t | x_0 = k) up to a constant: log(1 + K abar / (1 - abar)) where k is the noisy label, else 0."""
        abar = abar_t.float().clamp(max=1 - 1e-6)
        gain = torch.log1p(self.num_classes * abar / (1 - abar))
        zeros = torch.zeros(len(x_t), self.num_classes, *x_t.shape[1:], device=x_t.device)
        value = gain.view(-1, 1, 1, 1, 1).expand(-1, 1, *x_t.shape[1:])
        return zeros.scatter_(1, x_t.unsqueeze(1), value)


def fold(x: Tensor) -> Tensor:
    """(B, C, X, Y, Z) -> (B, 8 C, X/2, Y/2, Z/2): each 2 x 2 x 2 cube of voxels becomes channels."""
    b, c, x_, y_, z_ = x.shape
    x = x.reshape(b, c, x_ // 2, 2, y_ // 2, 2, z_ // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, 8 * c, x_ // 2, y_ // 2, z_ // 2)


def unfold(x: Tensor) -> Tensor:
    """Inverse of `fold`."""
    b, c, x_, y_, z_ = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, x_, y_, z_).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // 8, 2 * x_, 2 * y_, 2 * z_)


def mask_loss(
    model: nn.Module,
    process: CategoricalProcess,
    labels: Tensor,
    tokens: Tensor,
    class_weight: Tensor,
    generator: torch.Generator,
    drop_text: float = 0.1,
) -> dict[str, Tensor]:
    """Cross-entropy of the belief about x_0 at a random time. labels (B, X, Y, Z), tokens (B, L, D), class_weight (K,).

    Rare classes count more: the weights enter the loss and, as log-weights, the logits, so that the bare logits stay
    calibrated and sampling needs no correction. Tokens of a `drop_text` share of the cases are zeroed (guidance).
    """
    batch = len(labels)
    t = torch.randint(1, process.num_timesteps + 1, (batch,), generator=generator)
    x_t = process.corrupt(labels, t, generator)
    keep = (torch.rand(batch, generator=generator) >= drop_text).to(tokens)
    time = (t / process.num_timesteps).to(labels.device)
    logits = model(x_t, time, process.abar.float()[t].to(labels.device), tokens * keep.view(-1, 1, 1))
    adjusted = logits + class_weight.log().view(1, -1, 1, 1, 1)
    per_voxel = F.cross_entropy(adjusted, labels.long(), weight=class_weight, reduction="none")
    total = per_voxel.mean()
    with torch.no_grad():
        late = per_voxel.flatten(1).mean(1)[t > 0.8 * process.num_timesteps]
        noisy = late.mean() if len(late) else total
    return {"total": total, "noisy": noisy.detach()}
