"""The HU of every organ, case by case: what stage 2 is told of them, and the prior that they are drawn from.

How bright liver, vessels and bone are in a scan depends on contrast medium, its timing and the patient, not on their
shape. A slice generator that is told only the shape makes up its mind in the first slice and drifts from there. Here
the median HU of every class is measured on the training cases, told to the network as a picture of the label map in
these HU, and drawn from a Gaussian a contrast phase when a case is generated.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegen_data.anatomy import PHASES
from guidegen_data.models.inhomogeneity import usual_inhomogeneity

_LEAST_VOXELS = 50
#: Cases of a phase that it takes to learn it; with fewer its values are those of all phases.
_LEAST_CASES = 5
#: Residuals beyond so many robust standard deviations count as that many; share of a covariance that is kept.
_MOST_DEVIATIONS, _KEPT_COVARIANCE = 3.0, 0.8
#: Two pictures of the same HU: a soft tissue window, and the whole range.
_SOFT_CENTRE_HU, _SOFT_HALF_WIDTH_HU, _WIDE_HU = 40.0, 200.0, 1000.0
#: Channels that a label slice has in `hu_planes`.
HU_CHANNELS = 2


def median_hu(
    ct_hu: np.ndarray, label_map: np.ndarray, num_classes: int, without: Collection[int] = (0,)
) -> np.ndarray:
    """Median HU (K,) float32 of the classes of a CT and label map (X, Y, Z).

    NaN for a class of fewer than 50 voxels, and for those `without`: what is in no class, and lesions.
    """
    values = np.full(num_classes, np.nan, np.float32)
    for k in range(num_classes):
        held = ct_hu[label_map == k] if k not in without else ()
        if len(held) >= _LEAST_VOXELS:
            values[k] = np.median(held)
    return values


def phase_row(phase: str) -> int:
    """The row of a contrast phase in a prior; -1, that of all of them, for one that is not told."""
    return PHASES.index(phase) if phase else -1


def hu_planes(labels: Tensor, class_hu: Tensor) -> Tensor:
    """Label slices (B, N, X, Y) painted with the HU (B, K) of their classes: (B, 2 N, X, Y), about -1 to 1.

    The first N in a soft tissue window, the others over the whole range. A class of which nothing is known (NaN) is 0.
    """
    soft = ((class_hu - _SOFT_CENTRE_HU) / _SOFT_HALF_WIDTH_HU).clamp(-1, 1)
    wide = (class_hu / _WIDE_HU).clamp(-1, 2)
    flat = labels.long().flatten(1)
    painted = [values.nan_to_num(0).gather(1, flat).view(labels.shape) for values in (soft, wide)]
    return torch.cat(painted, dim=1)


class HUPrior(nn.Module):
    """Draws the median HU of every class: a Gaussian a contrast phase, one over all phases last; nothing until `fit`.

    Draws are kept within what was seen of each class. A prior that is not `uneven_by_phase` is one of a model made
    before classes were measured by phase and along the body; it cannot be fitted.
    """

    mean: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    known: Tensor
    inhomogeneity: Tensor

    def __init__(self, num_classes: int, num_phases: int, uneven_by_phase: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_phases + 1, num_classes))
        self.register_buffer("spread", torch.zeros(num_phases + 1, num_classes, num_classes))
        self.register_buffer("low", torch.zeros(num_classes))
        self.register_buffer("high", torch.zeros(num_classes))
        self.register_buffer("known", torch.zeros(num_classes))
        uneven = (num_phases + 1, num_classes, 3) if uneven_by_phase else (num_classes, 2)
        self.register_buffer("inhomogeneity", torch.full(uneven, torch.inf))

    def fit(self, class_hu: Tensor, phase: Tensor, inhomogeneity: Tensor | None = None) -> None:
        """Learns from medians (N, K), NaN where a class is not shown, and phases (N,), -1 where none is told.

        `inhomogeneity` (N, K, 3) is how uneven the classes are (`models.inhomogeneity`); without it none has bounds.
        """
        values = class_hu.double().numpy()
        seen = np.isfinite(values).any(axis=0)
        self.known.copy_(torch.from_numpy(seen))
        for row in range(len(self.mean)):
            own = values[phase.numpy() == row] if row < len(self.mean) - 1 else values
            mean, spread = _gaussian(own if len(own) >= _LEAST_CASES else values, values)
            self.mean[row].copy_(torch.from_numpy(mean))
            self.spread[row].copy_(torch.from_numpy(spread))
        bounds = [np.zeros(len(seen)), np.zeros(len(seen))]
        for bound, percentile in zip(bounds, (1, 99), strict=True):
            bound[seen] = np.nanpercentile(values[:, seen], percentile, axis=0)
        self.low.copy_(torch.from_numpy(bounds[0]))
        self.high.copy_(torch.from_numpy(bounds[1]))
        self.inhomogeneity.fill_(torch.inf)
        if inhomogeneity is not None:
            self.inhomogeneity.copy_(usual_inhomogeneity(inhomogeneity, phase, len(self.mean) - 1))

    def usual_inhomogeneity(self, phase: int) -> Tensor:
        """How uneven classes may be in a phase, -1 for one that is not told: (K, 3), see `models.inhomogeneity`."""
        if self.inhomogeneity.dim() == 3:
            return self.inhomogeneity[phase].float()
        return F.pad(self.inhomogeneity.float(), (0, 1), value=torch.inf)  # nothing is known of them along the body

    def draw(self, phase: int, generator: torch.Generator) -> Tensor:
        """Median HU (K,) float32 for a phase, -1 for one that is not told; NaN for classes that it does not know."""
        noise = torch.randn(self.mean.shape[1], generator=generator)
        mean, spread, low, high, known = (
            b.float().cpu() for b in (self.mean[phase], self.spread[phase], self.low, self.high, self.known)
        )
        drawn = (mean + spread @ noise).clamp(low, high)
        return torch.where(known > 0, drawn, torch.nan)


def _gaussian(values: np.ndarray, everyone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (K,) and Cholesky factor (K, K) of medians (N, K) with gaps; what they lack is as in `everyone`."""
    num_classes = values.shape[1]
    mean, left, held = np.zeros(num_classes), np.zeros(values.shape), np.isfinite(values)
    for k in range(num_classes):
        column = values[held[:, k], k] if held[:, k].any() else everyone[np.isfinite(everyone[:, k]), k]
        if len(column):
            mean[k] = np.median(column)
            wide = _MOST_DEVIATIONS * 1.4826 * np.median(np.abs(column - mean[k]))
            left[:, k] = np.where(held[:, k], np.clip(values[:, k] - mean[k], -wide, wide), 0)
    counts = held.T.astype(float) @ held
    covariance = left.T @ left / np.maximum(counts, 1)
    diagonal = np.diag(np.diag(covariance))
    covariance = diagonal + _KEPT_COVARIANCE * (covariance - diagonal)
    # Gaps make it no true covariance: what is negative is left out.
    size, axes = np.linalg.eigh(covariance)
    covariance = (axes * size.clip(min=0)) @ axes.T
    return mean, np.linalg.cholesky(covariance + 0.25 * np.eye(num_classes))
