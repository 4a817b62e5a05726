"""Label maps as a model's stage 1 draws them, each beside the real one that it is of: what detail can learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from guidegen_data.anatomy import Anatomy
from guidegen_data.cleanup import nearest_kept
from guidegen_data.errors import ModelError
from guidegen_data.models.anchors import anchor_balls
from guidegen_data.models.mask_sampler import MaskCondition
from guidegen_data.models.redrawing import redrawn
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.training.beside import same_table
from guidegen_data.training.masks import coarsen_labels, lesion_places

#: Up to this much noise, of 1, a patient is redrawn in place; with more another one comes out.
_MOST_NOISE = 0.65


class Redrawer:
    """Draws prepared cases again with the stage 1 of a model, told their findings, lesions and layouts.

    ModelError for a model of another label table than the `anatomy`, or of another shape.
    """

    def __init__(self, model: str, anatomy: Anatomy, device: torch.device) -> None:
        if not same_table(model, anatomy):
            raise ModelError(f"{model} draws other classes than those of the {anatomy.name} table; give another model.")
        self.pipe = GuideGenPipeline.from_pretrained(model, device=str(device))
        if self.pipe.anatomy.shape != anatomy.shape:
            raise ModelError(f"{model} draws {self.pipe.anatomy.shape} voxels, the cases have {anatomy.shape}.")
        self.device = device

    def __call__(self, case: TrainingCase, generator: torch.Generator) -> Tensor:
        """The label map (X, Y, Z) uint8 of a case as stage 1 draws it, from the generator alone."""
        pipe, sampler = self.pipe, self.pipe.mask_sampler
        factor = pipe.anatomy.shape[0] // sampler.config.shape[0]
        coarse = coarsen_labels(case.label_map, pipe.anatomy, factor)
        layout = None
        if sampler.layout is not None:
            healthy = nearest_kept(coarse, coarse == pipe.anatomy.lesion_id)
            layout = sampler.layout.known(torch.from_numpy(healthy)[None].to(self.device))
        told = pipe.condition([case.findings])
        places = torch.from_numpy(lesion_places(case.label_map, pipe.anatomy, factor))[None]
        x, y, z = coarse.shape
        anchors = anchor_balls(places, (x, y, z)).to(self.device)
        ratio = pipe.config.volume_ratio
        return redrawn(
            sampler,
            pipe.mask_scheduler,
            torch.from_numpy(coarse)[None].long().to(self.device),
            _MOST_NOISE,
            MaskCondition(told.tokens, told.fields, anchors, layout),
            generator,
            pipe.anatomy.shape,
            pipe.config.num_steps_mask,
            None if ratio is None else torch.tensor(ratio),
        )[0].cpu()
