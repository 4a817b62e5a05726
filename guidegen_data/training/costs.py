"""What a stage of a recipe costs: parameters, memory, operations, counted before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from guidegen_data.anatomy import Anatomy
from guidegen_data.models.autoencoder import CTAutoencoder, compand
from guidegen_data.models.detail import DetailNetwork
from guidegen_data.models.fat import FatNetwork
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler
from guidegen_data.models.slice_generator import SliceGenerator
from guidegen_data.models.tissue import TissueNetwork
from guidegen_data.reports.fields import field_names
from guidegen_data.tissue_rule import fat_class
from guidegen_data.training.recipes import RECIPES, Recipe, StageRecipe

_TOKENS, _TOKEN_SIZE = 32, 384
#: Background and two classes, as vertebrae and ribs.
_DETAIL = (0, 1, 2)
#: Bytes a parameter in training: weight, gradient, two moments of Adam, average.
_BYTES = 20
#: A backward pass takes twice the operations of the forward pass.
_PASSES = 3


@dataclass(frozen=True)
class Cost:
    """Parameters; memory of training at the recipe's batch size in GiB; operations of one example in training."""

    parameters: int
    memory_gib: float
    operations: float

    def line(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} M parameters, about {self.memory_gib:.1f} GiB in training, "
            f"{self.operations / 1e9:.0f} G operations an example"
        )


def stage_cost(stage: str, recipe: StageRecipe, anatomy: Anatomy, native_bf16: bool = True) -> Cost:
    """The cost of a stage of a recipe for an anatomy, on a device with units for bfloat16 or without; nothing is
    allocated.
    """
    with torch.device("meta"):
        model, run = _network(stage, recipe, anatomy)
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        saved: dict[int, int] = {}
        kept: list[Tensor] = []  # a storage that is let go would be counted as one with a later one

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept.append(tensor)
            if storage._cdata not in weights:
                saved[storage._cdata] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            counter = FlopCounterMode(display=False)
            with counter:
                run()
    parameters = sum(p.numel() for p in model.parameters())
    width = 0.5 if recipe.fit.bf16 and native_bf16 else 1.0
    memory = parameters * _BYTES + recipe.fit.batch_size * sum(saved.values()) * width
    return Cost(parameters, memory / 2**30, _PASSES * float(counter.get_total_flops()))


def _network(stage: str, recipe: StageRecipe, anatomy: Anatomy):
    """A stage's network and a forward pass of one example."""
    x, y, _ = anatomy.shape
    tokens = torch.zeros(1, _TOKENS, _TOKEN_SIZE)
    if stage in ("autoencoder", "decoder"):
        num_classes = anatomy.num_classes if stage == "decoder" else 0
        autoencoder = CTAutoencoder(**recipe.network, num_classes=num_classes)
        ct = compand(torch.zeros(1, 1, x, y))
        labels = torch.zeros(1, x, y, dtype=torch.uint8) if stage == "decoder" else None

        def reconstruct() -> Tensor:
            mean = autoencoder._posterior(ct).mean
            return autoencoder.decode_companded(mean, labels)

        return autoencoder, reconstruct
    if stage == "masks":
        sampler = MaskSampler(num_classes=anatomy.num_classes, fields=field_names(anatomy), **recipe.network)
        shape = tuple(sampler.config.shape)
        told = MaskCondition(tokens, torch.zeros(1, len(field_names(anatomy))), torch.zeros(1, *shape))
        noisy = torch.zeros(1, *shape, dtype=torch.int64)
        return sampler, lambda: sampler(noisy, torch.zeros(1), torch.full((1,), 0.5), told)
    if stage == "tissue":
        tissue = TissueNetwork(num_classes=anatomy.num_classes, **recipe.network)
        return tissue, lambda: tissue(torch.zeros(1, *anatomy.shape, dtype=torch.uint8))
    if stage == "fat":
        classes = (fat_class(anatomy) or 0, anatomy.num_classes)
        fat = FatNetwork(num_classes=anatomy.num_classes + 1, **{**recipe.network, "classes": classes})
        labels = torch.zeros(1, *anatomy.shape, dtype=torch.uint8)
        return fat, lambda: fat(labels, labels)
    if stage == "detail":
        detail = DetailNetwork(num_classes=anatomy.num_classes, **{"classes": _DETAIL, **recipe.network})
        whole = torch.zeros(1, *anatomy.shape, dtype=torch.uint8)
        return detail, lambda: detail(whole, whole)
    generator = SliceGenerator(num_classes=anatomy.num_classes, **recipe.network)
    latents = torch.zeros(1, generator.config.latent_channels, x // 4, y // 4)
    zero, planes = torch.zeros(1), torch.zeros(1, generator.mask_encoder[0].in_channels, x, y)
    return generator, lambda: generator(latents, zero, generator.mask_encoder(planes), latents, zero, tokens)


def recipe_table(stage: str, anatomy: Anatomy) -> str:
    """One line a recipe: name, what it is for, what its stage costs."""
    return "\n".join(_line(recipe, stage, anatomy) for recipe in RECIPES.values())


def _line(recipe: Recipe, stage: str, anatomy: Anatomy) -> str:
    part = recipe.stage(stage)
    steps = f"{part.fit.num_steps} steps of {part.fit.batch_size * part.fit.accumulate}"
    return f"{recipe.name:6} {recipe.about}\n       {stage}: {stage_cost(stage, part, anatomy).line()}; {steps}"
