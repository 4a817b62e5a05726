"""Dice and 95th percentile surface distance of every organ of a case, missing contours left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.nnunet_route import LABELS

ORGANS = {name: number for name, number in LABELS.items() if number}


class Score(TypedDict):
    """Of one organ: Dice from 0 to 1, and HD95 in mm, None where nothing was predicted."""

    dice: float
    hd95_mm: float | None


def dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Twice the overlap over both volumes, of two masks (X, Y, Z) that are not both empty."""
    return float(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()))


def hd95_mm(truth: np.ndarray, predicted: np.ndarray, spacing_mm: tuple[float, ...]) -> float:
    """The larger of the two 95th percentiles of distances from one mask's surface voxels to the other's.

    Masks (X, Y, Z) that both hold something.
    """
    box = tuple(
        slice(max(0, s.start - 1), s.stop + 1) for s in ndimage.find_objects((truth | predicted).astype(int))[0]
    )
    edges = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (truth, predicted)]
    distances = [ndimage.distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges]
    return float(max(np.percentile(distances[1][edges[0]], 95), np.percentile(distances[0][edges[1]], 95)))


def score_case(truth: np.ndarray, predicted: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, Score]:
    """Organ -> its score, for the organs that the truth has a contour of; label maps (X, Y, Z) of LABELS."""
    scores: dict[str, Score] = {}
    for name, number in ORGANS.items():
        wanted, found = truth == number, predicted == number
        if wanted.any():
            distance = round(hd95_mm(wanted, found, spacing_mm), 2) if found.any() else None
            scores[name] = {"dice": round(dice(wanted, found), 4), "hd95_mm": distance}
    return scores


def score_folder(
    predictions: Path, patients: dict[str, Path], after: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> dict[str, dict[str, Score]]:
    """Scores of the predictions NAME.nii.gz against the contours beside the patients' CTs (name -> CT).

    `after` is done to a predicted label map (X, Y, Z) before it is scored.
    """
    cases = {}
    for name, ct in patients.items():
        truth = nib.Nifti1Image.from_filename(ct.with_name(f"{name}_label.nii.gz"))
        predicted = nib.Nifti1Image.from_filename(predictions / f"{name}.nii.gz")
        spacing = tuple(float(v) for v in truth.header.get_zooms()[:3])
        cases[name] = score_case(np.asarray(truth.dataobj), after(np.asarray(predicted.dataobj)), spacing)
    return cases


def packed(cases: dict[str, dict[str, Score]]) -> dict[str, str]:
    """Patient -> one line, "organ dice hd95, ..." with "-" for an organ that was not found: what a result keeps."""
    return {
        name: ", ".join(
            f"{organ} {s['dice']} {'-' if s['hd95_mm'] is None else s['hd95_mm']}" for organ, s in row.items()
        )
        for name, row in sorted(cases.items())
    }


def unpacked(lines: dict[str, str]) -> dict[str, dict[str, Score]]:
    """The scores that `packed` wrote."""
    return {name: dict(map(_score, line.split(", "))) if line else {} for name, line in lines.items()}


def runs_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The trainings of a result, each with its cases' scores as the training left them."""
    return [
        {**run, "cases": unpacked(figures["scores"][f"{run['arm']}-k{run['k']}-seed{run['seed']}"])}
        for run in figures["trainings"]
    ]


def _score(written: str) -> tuple[str, Score]:
    organ, dice_, distance = written.rsplit(" ", 2)
    return organ, {"dice": float(dice_), "hd95_mm": None if distance == "-" else float(distance)}
