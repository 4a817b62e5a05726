"""Organs said to be enlarged or small: what stage 1 is held to so that they are.

Where the label table knows usual sizes, these words are volumes, and every belief is held to them. Where it does not,
an organ is larger or smaller than it would have been: its logit leans that way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from guidegen_data.anatomy import FindingOrgan
from guidegen_data.models.volume_bounds import VolumeBound
from guidegen_data.reports.findings import Findings

#: Times the largest usual volume that an enlarged organ has, and times the smallest that a small one has.
_ENLARGED = (1.1, 1.6)
_SMALL = (0.6, 0.9)


def own_columns(organ: FindingOrgan, width: int) -> np.ndarray:
    """Columns of a grid that are on an organ's own side of the middle of the field, bool (width,); x grows to the
    patient's right."""
    right = np.arange(width) >= width / 2
    return {"": np.ones_like(right), "right": right, "left": ~right}[organ.side]


def size_lean(findings: Findings, width: int, strength: float) -> np.ndarray:
    """What is added to the logits of organs said to be enlarged (`strength`) or small (minus `strength`).

    Float32 (K, width), on the organ's own side of the middle of the field. The network has learned sizes, but a graded
    one is rare in its training data and its borders yield little; leaning on each step's belief moves them. Organs of
    usual sizes are held to these instead (`size_bounds`).
    """
    anatomy = findings.anatomy
    lean = np.zeros((anatomy.num_classes, width), np.float32)
    for name, status in findings.organs.items():
        if status in ("enlarged", "small") and name not in anatomy.size_ml:
            organ = anatomy.organ_of(name)
            push = strength if status == "enlarged" else -strength
            lean[anatomy.id_of(organ.class_name), own_columns(organ, width)] = push
    return lean


def size_bounds(
    findings: Findings, width: int, voxel_ml: float, volume_ratio: Sequence[float] | None = None
) -> list[VolumeBound]:
    """The volumes that organs said to be enlarged or small shall have, in voxels of `voxel_ml` on the sampler's grid.

    Enlarged is more than the usual sizes of the label table, small is less; how much more or less is left to the
    network within `_ENLARGED` and `_SMALL`. `volume_ratio` (K,) as in `upsample_keeping_volumes`.
    """
    anatomy, bounds = findings.anatomy, []
    for name, status in findings.sized().items():
        organ, (low, high) = anatomy.organ_of(name), anatomy.size_ml[name]
        side = torch.from_numpy(own_columns(organ, width))
        class_id = anatomy.id_of(organ.class_name)
        unit = voxel_ml * (volume_ratio[class_id] if volume_ratio else 1.0)
        end, (least, most) = (high, _ENLARGED) if status == "enlarged" else (low, _SMALL)
        bounds.append(VolumeBound(class_id, side, least * end / unit, most * end / unit))
    return bounds
