"""Air within the body as a class of stage 1's own: airways and lungs, which a label table calls background.

Where a table has the body's tissues, background is two things: the air around the body, and that in airways and lungs.
To a network that knows them as one, the wall between them is a voxel or two that either side speaks against; necks come
out open to the front. Stage 1 can tell them apart (`MaskSampler`, `cavities`): it draws them as a class after those of
the table, which is background again in the label maps that leave it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


def with_cavities(label_map: np.ndarray, cavity: int) -> np.ndarray:
    """The label map (X, Y, Z) uint8 with `cavity` in the background that the body encloses within an axial slice."""
    out = label_map.copy()
    for z in range(label_map.shape[2]):
        body = label_map[:, :, z] > 0
        if body.any():
            out[:, :, z][ndimage.binary_fill_holes(body) & ~body] = cavity
    return out


def without_cavities(label_maps: Tensor, num_classes: int) -> Tensor:
    """Label maps of any shape with background where a class lies that the table of `num_classes` does not have."""
    return label_maps.masked_fill(label_maps >= num_classes, 0)


def belief_of_table(belief: Tensor, num_classes: int) -> Tensor:
    """(B, K, X, Y, Z) of a belief of K classes or more: what is believed of cavities counts as background."""
    if belief.shape[1] == num_classes:
        return belief
    merged = belief[:, :num_classes].clone()
    merged[:, 0] += belief[:, num_classes:].sum(dim=1)
    return merged


def for_cavities(constraint: Tensor | None, num_drawn: int) -> Tensor | None:
    """A constraint (B, K, X) with rows of zeros for the classes that are drawn beyond the table's."""
    if constraint is None or constraint.shape[1] == num_drawn:
        return constraint
    return F.pad(constraint, (0, 0, 0, num_drawn - constraint.shape[1]))


def clamp_known(belief: Tensor, known: Tensor, num_classes: int) -> Tensor:
    """The belief (B, K, X, Y, Z) with the labels `known` (B, X, Y, Z) where they are not -1.

    Known background of a belief that has cavities is one of the two, each as likely as it was beside the other.
    """
    given = torch.zeros_like(belief).scatter_(1, known.clamp(min=0).unsqueeze(1), 1)
    if belief.shape[1] > num_classes:
        air = torch.cat([belief[:, :1], belief[:, num_classes:]], dim=1)
        air = air / air.sum(dim=1, keepdim=True).clamp(min=1e-6)
        split = torch.zeros_like(belief)
        split[:, 0], split[:, num_classes:] = air[:, 0], air[:, 1:]
        given = torch.where((known == 0).unsqueeze(1), split, given)
    return torch.where((known >= 0).unsqueeze(1), given, belief)
