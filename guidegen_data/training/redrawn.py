"""Label maps as a model's stage 1 draws them, each beside the real one that it is of: what detail can learn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from guidegen_data.anatomy import Anatomy
from guidegen_data.cleanup import nearest_kept
from guidegen_data.errors import ModelError
from guidegen_data.models.anchors import anchor_balls
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.findings import Findings
from guidegen_data.training.beside import same_table
from guidegen_data.training.masks import coarsen_labels, lesion_places

#: Up to this much noise, of 1, a patient is redrawn in place; with more another one comes out.
_MOST_NOISE = 0.65


class Redrawer:
    """Draws prepared cases again with the stage 1 of a model, told their findings, lesions and layouts.

    ModelError for a model of another label table than the `anatomy`, of another shape, or of so few steps that none
    begins with little enough noise.
    """

    def __init__(self, model: str, anatomy: Anatomy, device: torch.device) -> None:
        if not same_table(model, anatomy):
            raise ModelError(f"{model} draws other classes than those of the {anatomy.name} table; give another model.")
        self.pipe = GuideGenPipeline.from_pretrained(model, device=str(device))
        if self.pipe.anatomy.shape != anatomy.shape:
            raise ModelError(f"{model} draws {self.pipe.anatomy.shape} voxels, the cases have {anatomy.shape}.")
        self.device = device
        scheduler = self.pipe.mask_scheduler
        scheduler.set_timesteps(self.pipe.config.num_steps_mask)
        try:
            scheduler.visited(_MOST_NOISE)
        except ValueError as error:
            raise ModelError(
                f"{model} draws label maps in {len(scheduler.timesteps)} step(s), of which none begins with less than "
                f"{_MOST_NOISE:.0%} noise: nothing would be left of a patient; export one with more --steps-mask."
            ) from error

    def __call__(self, label_map: np.ndarray, findings: Findings, generator: torch.Generator) -> Tensor:
        """A label map (X, Y, Z) uint8 as stage 1 draws it: corrupted and drawn again, from the generator alone.

        What comes out otherwise than it was is of stage 1's making, while the patient lies where it lay.
        """
        pipe, sampler = self.pipe, self.pipe.mask_sampler
        factor = pipe.anatomy.shape[0] // sampler.config.shape[0]
        coarse = coarsen_labels(label_map, pipe.anatomy, factor)
        x, y, z = coarse.shape
        places = torch.from_numpy(lesion_places(label_map, pipe.anatomy, factor))[None]
        told = replace(pipe.condition([findings]), anchors=anchor_balls(places, (x, y, z)).to(self.device))
        if sampler.layout is not None:
            healthy = nearest_kept(coarse, coarse == pipe.anatomy.lesion_id)
            told = replace(told, layout=sampler.layout.known(torch.from_numpy(healthy)[None].to(self.device)))
        begin = pipe.mask_scheduler.noised(torch.from_numpy(coarse)[None].long(), _MOST_NOISE, generator)
        return pipe.sample_masks(told, [generator], guidance=1.0, begin=begin)[0].cpu()
