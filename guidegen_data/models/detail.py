"""Detail that stage 1's grid is too coarse for: vertebrae with discs and processes, ribs, drawn voxel by voxel.

Stage 1 draws label maps at half resolution, and where it is unsure of a border its belief is smooth: a spine comes out
as a rod. A second categorical process over a few classes, at full resolution and told of the whole label map, takes it
from there. It learned how the classes look in real label maps of which it was shown a smoothed version. What it may
change is held in by construction: voxels of other classes stay as they are, lesions among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidegen_data.diffusion.categorical import CategoricalProcess, CategoricalScheduler
from guidegen_data.models.folded_unet import FOLD, folded, folded_unet, least_box, multiple_of, unfolded

_NEVER = -1e4


class DetailNetwork(ModelMixin, ConfigMixin):
    """Coarse label map (B, X, Y, Z) and noisy state (B, X, Y, Z) -> logits (B, F, X, Y, Z), float32, of F classes.

    `classes` are the F classes whose borders among each other are drawn anew, the one that lies between the others
    first. The state counts them 0..F-1; F stands for voxels that are closed: those of any other class, and those
    further than `reach` voxels from all but the first class (`opened`). Sides are multiples of `multiple`, the first
    width one of 8. The level of noise is not told: it shows in the noise itself.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int = 21,
        classes: tuple[int, ...] = (0, 12, 13),
        channels: tuple[int, ...] = (32, 48, 64, 64),
        class_features: int = 4,
        fine_channels: int = 16,
        num_res_units: int = 2,
        reach: int = 4,
    ) -> None:
        super().__init__()
        kinds = torch.full((256,), len(classes))
        kinds[list(classes)] = torch.arange(len(classes))
        self.register_buffer("kinds", kinds, persistent=False)
        self.coarse = nn.Embedding(num_classes, class_features)
        self.noisy = nn.Embedding(len(classes) + 1, class_features)
        self.network = folded_unet(2 * class_features, channels, num_res_units)
        # Features of a fold are shared out among its voxels; what each of them is, is decided beside its neighbours.
        of_voxel = channels[0] // FOLD**3
        self.fine = nn.Sequential(
            nn.Conv3d(of_voxel + 2 * class_features, fine_channels, kernel_size=3, padding=1),
            nn.SiLU(),
            nn.Conv3d(fine_channels, len(classes), kernel_size=1),
        )

    @property
    def multiple(self) -> int:
        """What the sides of a label map must be multiples of."""
        return multiple_of(self.config.channels)

    @property
    def process(self) -> CategoricalProcess:
        """The categorical process over the F classes."""
        return CategoricalScheduler(num_classes=len(self.config.classes)).process

    def forward(self, label_map: Tensor, state: Tensor) -> Tensor:
        """Logits of what each voxel is, whether it is open or closed."""
        x = torch.cat([self.coarse(label_map.long()), self.noisy(state.long())], dim=-1).movedim(-1, 1)
        features = unfolded(self.network(folded(x)))
        return self.fine(torch.cat([features, x.to(features)], dim=1)).float()

    def state_of(self, label_map: Tensor) -> Tensor:
        """Label map of any shape -> int64 of that shape: which of the F classes a voxel has, F where none."""
        return self.kinds[label_map.long()]

    def opened(self, label_map: Tensor) -> Tensor:
        """Voxels (X, Y, Z) bool of a label map (X, Y, Z) that may be drawn anew."""
        state = self.state_of(label_map)
        free = state < len(self.config.classes)
        near = (free & (state > 0)).float()[None]
        for axis in range(3):
            size = [1, 1, 1]
            size[axis] = 2 * self.config.reach + 1
            near = F.max_pool3d(near, size, stride=1, padding=[n // 2 for n in size])
        return free & (near[0] > 0)

    def box(self, opened: Tensor) -> tuple[slice, slice, slice] | None:
        """The least box that the network takes around open voxels (X, Y, Z); None where there are none."""
        return least_box(opened, self.multiple)

    @torch.inference_mode()
    def draw(
        self,
        label_maps: Tensor,
        generators: Sequence[torch.Generator],
        num_steps: int,
        forbidden: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Label maps (B, X, Y, Z) uint8 with their classes drawn anew, each from its own generator alone.

        `forbidden` (B, K, x) bool, x a part of X, marks classes that may not be drawn there, and voxels where `known`
        (B, X, Y, Z) is not negative are closed, as in `sample_masks`.
        """
        scheduler = CategoricalScheduler(num_classes=len(self.config.classes))
        scheduler.set_timesteps(num_steps)
        drawn = []
        for b, (label_map, generator) in enumerate(zip(label_maps, generators, strict=True)):
            opened = self.opened(label_map)
            if known is not None:
                opened &= known[b].to(opened.device) < 0
            banned = None if forbidden is None else self._banned(forbidden[b].to(opened.device), label_map.shape[0])
            drawn.append(self._drawn(label_map, opened, banned, generator, scheduler))
        return torch.stack(drawn)

    def _banned(self, forbidden: Tensor, width: int) -> Tensor | None:
        """Of the F classes, where along x they may not be drawn, (F, X); None where all may be anywhere."""
        banned = forbidden[list(self.config.classes)].repeat_interleave(width // forbidden.shape[1], dim=1)
        return banned if bool(banned.any()) else None

    def _drawn(
        self,
        label_map: Tensor,
        opened: Tensor,
        banned: Tensor | None,
        generator: torch.Generator,
        scheduler: CategoricalScheduler,
    ) -> Tensor:
        box = self.box(opened)
        if box is None:
            return label_map
        coarse, free = label_map[box][None], opened[box][None]
        closed, belief = len(self.config.classes), torch.empty(0)
        state = scheduler.initial(tuple(coarse.shape[1:]), [generator]).to(coarse.device)
        for t in scheduler.timesteps:
            logits = self(coarse, torch.where(free, state, closed))
            if banned is not None:
                logits = logits.masked_fill(banned[None, :, box[0], None, None], _NEVER)
            belief = logits.softmax(dim=1)
            state = scheduler.step(belief, t, state, [generator]).prev_sample
        ids = torch.tensor(self.config.classes, dtype=label_map.dtype, device=label_map.device)
        out = label_map.clone()
        out[box] = torch.where(free, ids[self._decided(belief, free)], coarse)[0]
        return out

    def _decided(self, belief: Tensor, free: Tensor) -> Tensor:
        """Which of the F classes the voxels (B, x, y, z) get in the end, of beliefs (B, F, x, y, z)."""
        return belief.argmax(dim=1)
