"""SynthSeg-style cases (Billot et al., Med Image Anal 2023): random texture on a label map, by TorchIO."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from guidegen_data import Case

#: Where the mean HU of a class is drawn from: what nnU-Net's normalisation keeps of the organs' HU, and somewhat more.
_MEAN_HU = (-300.0, 1000.0)
_STD_HU = (5.0, 60.0)
_AIR_HU = -1000.0


def random_texture(case: Case, seed: int) -> Case:
    """The case with the same label map and a CT drawn anew: every class Gaussian about a random mean, bias field, blur.

    Air outside the body stays air, as every CT has it.
    """
    import torchio as tio

    labels = [int(v) for v in np.unique(case.label_map) if v]
    label_map = tio.LabelMap(tensor=torch.from_numpy(case.label_map[None].copy()), affine=case.affine)
    texture = tio.Compose(
        [
            tio.RandomLabelsToImage(
                label_key="label",
                image_key="image",
                used_labels=labels,
                default_mean=_MEAN_HU,
                default_std=_STD_HU,
                ignore_background=True,
            ),
            tio.RandomBiasField(coefficients=0.3, include=["image"]),
            tio.RandomBlur(std=(0.0, 2.0), include=["image"]),
        ]
    )
    # TorchIO draws from torch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = texture(tio.Subject(label=label_map))
    drawn = made.get_images_dict(intensity_only=True)["image"].data[0].numpy()
    ct_hu = np.where(case.label_map > 0, drawn, _AIR_HU)
    return replace(case, ct_hu=np.clip(np.rint(ct_hu), -1024, 3071).astype(np.int16))
