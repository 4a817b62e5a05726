"""Stage 1: what a report says -> belief about a coarse label map, the x_0 network of the categorical process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidegen_data.diffusion.categorical import CategoricalProcess
from guidegen_data.models.layout import LayoutPrior, LayoutSpace, block_fractions
from guidegen_data.models.unet3d import TextPool, UNet3d, patch_coordinates, sinusoid

#: Lesions fill a voxel in three thousand, and most of the voxels of an anchor: the log-odds between the two.
_ANCHOR_GAIN = 8.0

#: Voxels along an edge of the blocks that layouts are made of.
_BLOCK = 4

#: Layouts drawn for a case, of which one with room for all its organs is taken.
_CANDIDATES = 24


@dataclass(frozen=True)
class MaskCondition:
    """What stage 1 is told: report tokens (B, L, D), findings as numbers (B, F), lesion anchors (B, X, Y, Z) in [0, 1],
    and layouts (B, C), each followed by a 1.

    An anchor is a soft ball where a lesion shall lie. Zeros everywhere, and no layout, mean that nothing is known.
    """

    tokens: Tensor
    fields: Tensor
    anchors: Tensor
    layout: Tensor | None = None

    def masked(
        self, keep_tokens: Tensor, keep_fields: Tensor, keep_anchors: Tensor, keep_layout: Tensor | None = None
    ) -> MaskCondition:
        """The condition with what is not kept, each (B,) of 0 and 1, made unknown."""
        layout = self.layout
        if layout is not None and keep_layout is not None:
            layout = layout * keep_layout.view(-1, 1)
        return MaskCondition(
            self.tokens * keep_tokens.view(-1, 1, 1),
            self.fields * keep_fields.view(-1, 1),
            self.anchors * keep_anchors.view(-1, 1, 1, 1),
            layout,
        )

    def beside_unknown(self) -> MaskCondition:
        """(2 B): the condition, then the same anchors and layouts with nothing told: the two halves of guidance."""
        return MaskCondition(
            torch.cat([self.tokens, torch.zeros_like(self.tokens)]),
            torch.cat([self.fields, torch.zeros_like(self.fields)]),
            torch.cat([self.anchors, self.anchors]),
            None if self.layout is None else torch.cat([self.layout, self.layout]),
        )


class MaskSampler(ModelMixin, ConfigMixin):
    """Logits of p(x_0 | x_t, condition) over K classes on a grid of `shape` voxels.

    Voxels are folded 2 x 2 x 2 into channels first, so the U-Net works at an eighth of the voxels. What the noisy label
    of a voxel itself says about its x_0 is known exactly, log q(x_t | x_0); it is added to the logits, so the network
    learns only what the surroundings and the report say. `fields` names the facts of `MaskCondition.fields`. Lesions
    are `lesion_class` (-1: the last one); an anchor raises its logit where the anchor lies, and the network learns the
    shape.

    With `layout_size` > 0 it is also told a layout (see `models.layout`), as the blurred anatomy that it stands for,
    and can draw one for its fields. `fine_channels` > 0 adds a last part that sees single voxels, not folded ones.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int = 21,
        shape: tuple[int, int, int] = (64, 64, 64),
        channels: tuple[int, ...] = (32, 64, 160),
        token_size: int = 384,
        vector_size: int = 192,
        fields: tuple[str, ...] = (),
        layout_size: int = 0,
        layout_components: int = 8,
        fine_channels: int = 0,
        lesion_class: int = -1,
    ) -> None:
        super().__init__()
        self.text_pool = TextPool(token_size, vector_size)
        self.time = nn.Sequential(nn.Linear(64, vector_size), nn.SiLU(), nn.Linear(vector_size, vector_size))
        self.facts = nn.Linear(len(fields), vector_size, bias=False)
        self.unet = UNet3d(8 * num_classes + 8 + 3, 8 * num_classes, channels, vector_size, token_size)
        self.anchor_gain = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.anchor_gain.weight, _ANCHOR_GAIN)
        self.num_classes, self.lesion_class = num_classes, lesion_class % num_classes
        self.layout: LayoutInput | None = None
        if layout_size:
            grid = tuple(n // _BLOCK for n in shape)
            facts = [not name.startswith("lesion=") for name in fields]
            graded = [name.endswith(("=enlarged", "=small")) for name in fields]
            self.layout = LayoutInput(
                layout_size, num_classes, grid, facts, graded, layout_components, channels[0], vector_size
            )
        self.fine = FineHead(num_classes, channels[0], fine_channels, vector_size) if fine_channels else None

    def forward(self, x_t: Tensor, t: Tensor, abar_t: Tensor, condition: MaskCondition) -> Tensor:
        """Logits (B, K, X, Y, Z) float32. x_t (B, X, Y, Z) int64, t (B,) in [0, 1], abar_t (B,)."""
        like = self.facts.weight
        time = self.time(sinusoid(t, 64).to(like)) + self.text_pool(condition.tokens.to(like))
        vector = F.silu(time + self.facts(condition.fields.to(like)))
        labels = fold_one_hot(x_t, self.num_classes, like.dtype)
        anchors = fold(condition.anchors.unsqueeze(1).to(like))
        where = patch_coordinates(tuple(labels.shape[2:]), labels).expand(len(labels), -1, -1, -1, -1)
        features, beside = torch.cat([labels, anchors, where], dim=1), None
        if self.layout is not None and condition.layout is not None:
            beside, moved = self.layout(condition.layout.to(like), tuple(labels.shape[2:]))
            vector = vector + moved
        features, coarse = self.unet(features, vector, condition.tokens.to(like), beside)
        logits = unfold(coarse)
        if self.fine is not None:
            logits = logits + self.fine(features, labels, vector)
        logits = self._with_evidence(logits.float(), x_t, abar_t)
        logits[:, self.lesion_class] += condition.anchors.to(logits) * self.anchor_gain.weight.float()
        return logits

    def _with_evidence(self, logits: Tensor, x_t: Tensor, abar_t: Tensor) -> Tensor:
        """Logits plus log q(x_t | x_0 = k) up to a constant: log(1 + K abar / (1 - abar)) at the noisy label."""
        abar = abar_t.float().clamp(max=1 - 1e-6)
        gain = torch.log1p(self.num_classes * abar / (1 - abar))
        value = gain.view(-1, 1, 1, 1, 1).expand(-1, 1, *x_t.shape[1:])
        return logits.scatter_add(1, x_t.unsqueeze(1), value)


class LayoutInput(nn.Module):
    """Layouts as stage 1 takes them in: the fractions that they stand for on its grid, and a move of its vector."""

    def __init__(
        self,
        size: int,
        num_classes: int,
        grid: tuple[int, ...],
        facts: list[bool],
        graded: list[bool],
        num_components: int,
        channels: int,
        vector_size: int,
    ) -> None:
        super().__init__()
        self.space = LayoutSpace(size, num_classes, (grid[0], grid[1], grid[2]))
        self.prior = LayoutPrior(size, sum(facts), num_components)
        self.facts = facts
        self.choosing = [not size for size, known in zip(graded, facts, strict=True) if known]
        self.planes = nn.Conv3d(num_classes + 1, channels, 1, bias=False)
        self.move = nn.Linear(size + 1, vector_size, bias=False)
        nn.init.zeros_(self.planes.weight)
        nn.init.zeros_(self.move.weight)

    def forward(self, layout: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(B, channels, *shape) and (B, vector_size) of layouts (B, size + 1)."""
        told = layout[:, -1].view(-1, 1, 1, 1, 1)
        blurred = torch.cat([self.space.expand(layout[:, :-1]) * told, told.expand(-1, -1, *self.space.grid)], dim=1)
        return F.interpolate(self.planes(blurred), size=shape, mode="trilinear"), self.move(layout)

    def draw(self, fields: Tensor, wanted: Tensor, generators: list[torch.Generator], width: float) -> Tensor:
        """Layouts (B, size + 1) for fields (B, F), case b from generators[b] alone.

        Of a few that are drawn, the first one with room for all classes is taken, `wanted` (B, K) being the shares of
        the field that they need at least. Where none has it, the one with most room for the least of them.
        """
        chosen = []
        for told, needed, generator in zip(fields, wanted, generators, strict=True):
            layouts = self.prior.draw(told[self.facts], _CANDIDATES, generator, width, self.choosing)
            layouts = layouts.to(fields.device)
            room = self.space.expand(layouts).float().clamp(min=0).flatten(2).mean(dim=2)
            enough = (room / needed.clamp(min=1e-9)).masked_fill(needed == 0, 1).clamp(max=1)
            chosen.append(layouts[int(enough.amin(dim=1).argmax())])
        return F.pad(torch.stack(chosen), (0, 1), value=1.0)

    def known(self, labels: Tensor) -> Tensor:
        """Layouts (B, size + 1) of label maps (B, X, Y, Z) without lesions."""
        fractions = block_fractions(labels, self.space.num_classes, self.space.grid)
        return F.pad(self.space.project(fractions), (0, 1), value=1.0)


class FineHead(nn.Module):
    """Logits that single voxels and their neighbours add to the U-Net's, which sees cubes of eight."""

    def __init__(self, num_classes: int, channels: int, width: int, vector_size: int) -> None:
        super().__init__()
        self.inlet = nn.Conv3d(channels + 8 * num_classes, 8 * width, 1)
        self.modulate = nn.Linear(vector_size, 2 * width)
        self.conv = nn.Conv3d(width, width, 3, padding=1)
        self.outlet = nn.Conv3d(width, num_classes, 1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(self, features: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
        """(B, K, X, Y, Z) of the U-Net's features and the folded noisy labels, both at half size, and the vector."""
        h = self.conv(F.silu(unfold(self.inlet(torch.cat([features, labels], dim=1)))))
        scale, shift = self.modulate(vector).unflatten(1, (2, -1))[..., None, None, None].unbind(1)
        return self.outlet(F.silu(h * (1 + scale) + shift))


def fold_one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """(B, X, Y, Z) -> (B, 8 K, X/2, Y/2, Z/2): the classes of the 8 voxels of each cube, one-hot, voxel after voxel."""
    b, x, y, z = labels.shape
    cubes = labels.reshape(b, x // 2, 2, y // 2, 2, z // 2, 2).permute(0, 1, 3, 5, 2, 4, 6).flatten(4).unsqueeze(-1)
    hot = torch.zeros(*cubes.shape[:-1], num_classes, dtype=dtype, device=labels.device).scatter_(-1, cubes, 1.0)
    return hot.flatten(4).permute(0, 4, 1, 2, 3)


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


def beside_thin(labels: Tensor) -> Tensor:
    """1 in voxels (B, X, Y, Z) of parts that are less than three voxels thick, and beside those; 0 elsewhere.

    Thin is what a morphological opening of a class with a cube of three voxels takes away: walls, tubes, tips. As in
    the weight map of Ronneberger et al. 2015, eq. 2, what separates two others counts more than its volume does.
    """
    value = labels.unsqueeze(1).float()
    whole = F.max_pool3d(value, 3, 1, 1) == -F.max_pool3d(-value, 3, 1, 1)
    thin = 1 - F.max_pool3d(whole.float(), 3, 1, 1)
    return F.max_pool3d(thin, 3, 1, 1)[:, 0]


def mask_loss(
    model: nn.Module,
    process: CategoricalProcess,
    labels: Tensor,
    condition: MaskCondition,
    class_weight: Tensor,
    generator: torch.Generator,
    drop: float = 0.1,
    thin_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Cross-entropy of the belief about x_0 at a random time. labels (B, X, Y, Z), class_weight (K,).

    Rare classes count more: the weights enter the loss and, as log-weights, the logits, so that the bare logits stay
    calibrated and sampling needs no correction. A `drop` share of the cases is told nothing (guidance), another has its
    numbers hidden and must read the text, and anchors are hidden from a third: those of early, noisy times often,
    because sampling knows no places yet there. Layouts are hidden from a `drop` share. Voxels of thin parts and beside
    them count `1 + thin_weight` times, whatever their class (`beside_thin`).
    """
    batch = len(labels)
    t = torch.randint(1, process.num_timesteps + 1, (batch,), generator=generator)
    x_t = process.corrupt(labels, t, generator)
    time = (t / process.num_timesteps).to(labels.device)
    chance = torch.rand(3, batch, generator=generator).to(labels.device)
    told = (chance[0] >= drop).float()
    anchored = chance[2] >= torch.where(time > 0.6, 0.5, drop)
    laid = None
    if condition.layout is not None:
        laid = (torch.rand(batch, generator=generator).to(labels.device) >= drop).float()
    seen = condition.masked(told, told * (chance[1] >= 1.5 * drop), anchored.float(), laid)
    logits = model(x_t, time, process.abar.float()[t].to(labels.device), seen)
    adjusted = logits + class_weight.log().view(1, -1, 1, 1, 1)
    per_voxel = F.cross_entropy(adjusted, labels.long(), weight=class_weight, reduction="none")
    if thin_weight:
        per_voxel = per_voxel * (1 + thin_weight * beside_thin(labels))
    total = per_voxel.mean()
    with torch.no_grad():
        late = per_voxel.flatten(1).mean(1)[t.to(labels.device) > 0.8 * process.num_timesteps]
        noisy = late.mean() if len(late) else total
    return {"total": total, "noisy": noisy.detach()}
