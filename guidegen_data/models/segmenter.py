"""A small network that draws organs in a CT: it completes the label maps of patients whose planner left some out, and
as a second reader tells whether a made CT shows the organs of its label map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidegen_data.anatomy import Anatomy
from guidegen_data.models.autoencoder import compand
from guidegen_data.models.folded_unet import FOLD, folded, folded_unet, least_box, multiple_of
from guidegen_data.models.precision import mixed_precision

#: HU about which organs differ, and half the width of the window.
_CENTRE_HU, _HALF_WIDTH_HU = 40.0, 200.0
#: Weight of a voxel of an organ: the smallest ones hold one voxel in two thousand.
_ORGAN_WEIGHT = 10.0
#: Weight of the sizes of unknown organs, and where their penalty ends: untrained, all are far too large.
_SIZE_WEIGHT, _MOST_TOO_LARGE = 0.2, 5.0
#: An organ of which the field shows less is not read: a slice more or less decides its Dice.
MIN_READ_ML = 2.0
#: What is denser than this is body; a network is shown no more than the box around that.
_BODY_HU = -500.0


class Segmenter(ModelMixin, ConfigMixin):
    """CT (B, 1, X, Y, Z) in HU -> logits (B, K, X, Y, Z), float32. X, Y and Z are multiples of `multiple`.

    MONAI's residual U-Net on folded voxels (2 x 2 x 2 of them are channels of one): it sees the whole volume at once,
    so that it tells left from right and one end of an organ from the other. The CT is given twice, companded and in a
    soft-tissue window.
    """

    @register_to_config
    def __init__(self, num_classes: int, channels: tuple[int, ...] = (16, 32, 64, 128), num_res_units: int = 2) -> None:
        super().__init__()
        self.network = folded_unet(2, channels, num_res_units)
        self.head = nn.Conv3d(channels[0], num_classes, kernel_size=1)

    @property
    def multiple(self) -> int:
        """What the sides of a volume must be multiples of."""
        return multiple_of(self.config.channels)

    def forward(self, ct_hu: Tensor) -> Tensor:
        """Logits of the classes at every voxel."""
        soft = ((ct_hu - _CENTRE_HU) / _HALF_WIDTH_HU).clamp(-1, 1)
        logits = self.head(self.network(folded(torch.cat([compand(ct_hu), soft], dim=1))))
        return F.interpolate(logits.float(), scale_factor=float(FOLD), mode="trilinear")


def partial_losses(
    logits: Tensor, labels: Tensor, organs: Tensor, lesion_id: int, most: Tensor | None = None
) -> dict[str, Tensor]:
    """Cross-entropy and Dice loss of logits (B, K, X, Y, Z) where label maps (B, X, Y, Z) lack some of the organs.

    `organs` (O,) are the classes that may be left out. Where a label map shows none of such an organ, nobody knows
    where it is: at voxels of the other classes the probability of the label and of every unknown organ count together
    (marginal loss, Shi et al., Medical Image Analysis 2021), and the Dice loss is taken of the organs that are shown.
    An unknown organ is held to a size that organs have: what its probabilities sum to above `most` voxels (K,) is
    penalised (Kervadec et al., Medical Image Analysis 2019). Voxels of lesions say nothing of the organ below them and
    count nowhere.
    """
    log_p = logits.float().log_softmax(dim=1)
    num_classes = logits.shape[1]
    known = labels != lesion_id
    counts = torch.stack([torch.bincount(m.flatten(), minlength=num_classes) for m in labels])
    shown = counts[:, organs] > 0
    of_label = log_p.gather(1, labels[:, None])[:, 0]
    entropies, dices, sizes = [], [], []
    for b in range(len(labels)):
        unknown = organs[~shown[b]]
        is_organ = torch.isin(labels[b], organs)
        of_either = of_label[b]
        if len(unknown):
            free = torch.cat([log_p[b, unknown], of_label[b][None]]).logsumexp(dim=0)
            of_either = torch.where(is_organ, of_label[b], free)
            if most is not None:
                volumes = log_p[b, unknown].exp().sum(dim=(1, 2, 3))
                sizes.append((volumes / most[unknown] - 1).clamp(min=0, max=_MOST_TOO_LARGE).mean())
        weight = known[b] * (1 + (_ORGAN_WEIGHT - 1) * is_organ)
        entropies.append(-(of_either * weight).sum() / weight.sum().clamp(min=1))
        for k in organs[shown[b]].tolist():
            p, truth = log_p[b, k].exp() * known[b], (labels[b] == k).float()
            dices.append(1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1))
    entropy = torch.stack(entropies).mean()
    dice = torch.stack(dices).mean() if dices else entropy.new_zeros(())
    size = torch.stack(sizes).mean() if sizes else entropy.new_zeros(())
    return {
        "total": entropy + dice + _SIZE_WEIGHT * size,
        "entropy": entropy.detach(),
        "dice": dice.detach(),
        "size": size.detach(),
    }


def body_box(ct_hu: np.ndarray, multiple: int) -> tuple[slice, slice, slice]:
    """The least box around the body of a CT (X, Y, Z) in HU whose sides are multiples of `multiple` voxels.

    The whole volume, whose sides are such, where it shows no body. Air around a patient is most of many volumes, and
    says nothing.
    """
    return least_box(torch.from_numpy(ct_hu > _BODY_HU), multiple) or (slice(None),) * 3


@torch.inference_mode()
def probabilities(model: Segmenter, ct_hu: np.ndarray) -> np.ndarray:
    """Class probabilities (K, X, Y, Z) float32 of a CT (X, Y, Z) in HU; background (class 0) outside of the body's
    box."""
    device = next(model.parameters()).device
    box = body_box(ct_hu, model.multiple)
    with mixed_precision(device):
        logits = model(torch.from_numpy(ct_hu[box]).float()[None, None].to(device))
    chances = np.zeros((logits.shape[1], *ct_hu.shape), np.float32)
    chances[0] = 1
    chances[(slice(None), *box)] = logits[0].softmax(dim=0).cpu().numpy()
    return chances


def read_dice(chances: np.ndarray, label_map: np.ndarray, class_id: int, lesion_id: int) -> float:
    """Dice of a class as a network reads it (probability above one half) with its voxels in a label map (X, Y, Z).

    Voxels of lesions count for neither: they took the label of the organ below them. The label map shows the class.
    """
    truth = label_map == class_id
    read = (chances[class_id] > 0.5) & (label_map != lesion_id)
    return float(2 * (read & truth).sum() / (read.sum() + truth.sum()))


def second_read(
    reader: Segmenter, ct_hu: np.ndarray, label_map: np.ndarray, anatomy: Anatomy, least: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Class -> {"dice", "least"}: how well a network that learned organs from real CTs finds those of a made one.

    `ct_hu` and `label_map` are (X, Y, Z) on the grid of the anatomy; `least` names the classes that are read, each with
    the Dice that it must reach. A class of which less than MIN_READ_ML show is left out.
    """
    least_voxels = MIN_READ_ML * 1000 / float(np.prod(anatomy.spacing_mm))
    counts = np.bincount(label_map.ravel(), minlength=anatomy.num_classes)
    shown = {name: anatomy.id_of(name) for name in least if counts[anatomy.id_of(name)] >= least_voxels}
    if not shown:
        return {}
    chances = probabilities(reader, ct_hu)
    return {
        name: {"dice": round(read_dice(chances, label_map, k, anatomy.lesion_id), 3), "least": least[name]}
        for name, k in shown.items()
    }
