"""A pipeline of the real parts in the smallest size, with random weights: for tests of behaviour, not of quality."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from guidegen_data.anatomy import TORSO
from guidegen_data.diffusion.categorical import CategoricalScheduler
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.mask_sampler import MaskSampler
from guidegen_data.models.slice_generator import SliceGenerator
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.fields import field_names


def tiny_pipeline(seed: int = 0) -> GuideGenPipeline:
    """Untrained, 32^3 masks, 10 k parameters a stage or so; one or two steps a stage."""
    torch.manual_seed(seed)
    return GuideGenPipeline(
        MaskSampler(shape=(16, 16, 16), channels=(8, 16, 32), vector_size=16, fields=field_names(TORSO)),
        CategoricalScheduler(),
        CTAutoencoder(latent_channels=4, block_out_channels=(8, 16)),
        SliceGenerator(latent_channels=4, channels=(16, 16, 32), vector_size=16, mask_features=8),
        FlowMatchEulerDiscreteScheduler(),
        num_steps_mask=2,
        num_steps_ct=1,
        guidance=1.5,
    )
