"""Running stage 1: what a report says -> label maps, by the categorical process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from guidegen_data.diffusion.categorical import CategoricalProcess, CategoricalScheduler, one_hot, upsample_belief
from guidegen_data.models.anchors import Placement
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler
from guidegen_data.models.upsampling import upsample_keeping_volumes
from guidegen_data.models.volume_bounds import VolumeBound, hold_volumes

_NEVER = -1e4


@torch.inference_mode()
def sample_masks(
    model: MaskSampler,
    scheduler: CategoricalScheduler,
    condition: MaskCondition,
    generators: list[torch.Generator],
    shape: tuple[int, int, int],
    num_steps: int,
    guidance: float = 1.0,
    temperature: float = 1.0,
    forbidden: Tensor | None = None,
    lean: Tensor | None = None,
    volumes: Sequence[Sequence[VolumeBound]] | None = None,
    known: Tensor | None = None,
    place: Callable[[float, Tensor], Placement | None] | None = None,
    volume_ratio: Tensor | None = None,
    begin: tuple[Tensor, int] | None = None,
) -> Tensor:
    """Label maps (B, *shape) uint8 for what a report says; case b draws from generators[b] alone.

    Guidance 1 is the plain conditional model, 0 the unconditional one (Ho and Salimans 2022); a temperature below 1
    sharpens every belief. The last belief is upsampled before its largest class is taken; with a `volume_ratio` (K,)
    the volumes it believes in are kept (`upsample_keeping_volumes`).

    `forbidden` (B, K, X) bool on the sampler's own grid marks classes that no belief may hold at that x; `lean`
    (B, K, X) is added to the logits there, so that a class takes more or less room than it would, and every belief is
    held to the `volumes` of its case (`hold_volumes`). `known`
    (B, *shape) holds the labels that are given and -1 elsewhere: they are clamped in every belief, and kept as they are
    in the result. `place(t, belief)` is asked after every step, with the time in [0, 1] and the belief
    (B, K, X, Y, Z), for the lesions' places; None keeps the old ones. Where a lesion is new, x_s is drawn again as if
    x_0 were a lesion: without that the noise, which was drawn for a patient without one, would speak against it. From
    then on its push is added to the lesion's logit: the belief is calibrated, and what is undecided comes out as none.

    `begin` is an x_t (B, X, Y, Z) on the sampler's grid and which of the visited times it is of (`scheduler.noised`):
    what was there is drawn again instead of anything (SDEdit, Meng et al. 2022, for the categorical process).
    """
    scheduler.set_timesteps(num_steps)
    process = scheduler.process
    grid = tuple(model.config.shape)
    x_t, first = (scheduler.initial(grid, generators), 0) if begin is None else begin
    x_t = x_t.to(condition.tokens.device)
    coarse = None if known is None else coarsest(known.to(x_t.device), grid)
    belief, push = torch.empty(0), None
    for t in scheduler.timesteps[first:]:
        time = float(t) / process.num_timesteps
        logits = _guided(model, x_t, time, float(process.abar[t]), condition, guidance)
        if push is not None:
            logits[:, model.lesion_class] += push
        if lean is not None:
            logits += lean.to(logits)[..., None, None]
        if forbidden is not None:
            logits.masked_fill_(forbidden.to(logits.device)[..., None, None], _NEVER)
        belief = (logits if temperature == 1 else logits / temperature).softmax(dim=1)
        if volumes is not None:
            belief = hold_volumes(belief, volumes)
        if coarse is not None:
            given = one_hot(coarse.clamp(min=0), process.num_classes, belief.dtype)
            belief = torch.where((coarse >= 0).unsqueeze(1), given, belief)
        x_t = scheduler.step(belief, t, x_t, generators).prev_sample
        placed = None if place is None else place(time, belief)
        if placed is not None:
            condition = replace(condition, anchors=placed.anchors.to(x_t.device))
            push = placed.push.to(logits)
            new, following = placed.new.to(x_t.device), scheduler.following(t)
            x_t = imprinted(x_t, new, model.lesion_class, process, following, generators)
    if volume_ratio is None:
        label_maps = upsample_belief(belief, shape)
    else:
        held = None if volumes is None else [[bound.class_id for bound in case] for case in volumes]
        label_maps = upsample_keeping_volumes(belief, shape, volume_ratio, held)
    return label_maps if known is None else torch.where(known.to(x_t.device) >= 0, known.to(label_maps), label_maps)


def imprinted(
    x_s: Tensor,
    lesions: Tensor,
    lesion_class: int,
    process: CategoricalProcess,
    s: int,
    generators: list[torch.Generator],
) -> Tensor:
    """x_s with the voxels of `lesions` drawn from q(x_s | x_0 = lesion class); all (B, X, Y, Z)."""
    out = x_s.clone()
    lesion, time = torch.tensor([[lesion_class]]), torch.tensor([s])
    for b, generator in enumerate(generators):
        count = int(lesions[b].sum())
        if count:
            drawn = process.corrupt(lesion.expand(1, count), time, generator)[0]
            out[b][lesions[b]] = drawn.to(out.device)
    return out


def coarsest(known: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Known labels (B, X, Y, Z), -1 where unknown, on a coarser grid: of each block the label at its middle."""
    step = [n // m for n, m in zip(known.shape[1:], shape, strict=True)]
    return known[:, step[0] // 2 :: step[0], step[1] // 2 :: step[1], step[2] // 2 :: step[2]].long()


def _guided(
    model: MaskSampler, x_t: Tensor, t: float, abar_t: float, condition: MaskCondition, guidance: float
) -> Tensor:
    def logits_of(labels: Tensor, told: MaskCondition) -> Tensor:
        size = (len(labels),)
        abar = torch.full(size, abar_t, device=labels.device)
        return model(labels, torch.full(size, t, device=labels.device), abar, told)

    if guidance == 1:
        return logits_of(x_t, condition)
    both = condition.beside_unknown()
    conditional, unconditional = logits_of(torch.cat([x_t, x_t]), both).chunk(2)
    return unconditional + guidance * (conditional - unconditional)
