"""A small network beside nnU-Net's own plans, so that a training takes seconds."""

import json
from pathlib import Path

NAME = "nnUNetPlansTiny"


def write_tiny_plans(preprocessed: Path, name: str = NAME) -> None:
    """Plans of that name: the preprocessed data and everything else as planned, the network cut down."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    for configuration_name, size in (("2d", 2), ("3d_fullres", 3)):
        configuration = plans["configurations"][configuration_name]
        configuration |= {"patch_size": [24] * size, "batch_size": 4}
        configuration["architecture"]["arch_kwargs"] |= {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "kernel_sizes": [[3] * size] * 3,
            "strides": [[1] * size, [2] * size, [2] * size],
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
        }
    (preprocessed / f"{name}.json").write_text(json.dumps(plans | {"plans_name": name}))
