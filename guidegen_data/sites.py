"""Where in a label map a named site lies, by the patient's own landmarks: spine, pelvis, the organ itself."""

from __future__ import annotations

import numpy as np

from guidegen_data.anatomy import TORSO, Anatomy, FindingOrgan

_ASIDE_MM = 45.0  # ascending and descending colon lie farther from the midline than this
_LIVER_LINE_MM = 18.0  # the plane through gallbladder and vena cava lies this far right of the midline


def site_mask(
    label_map: np.ndarray,
    spacing_mm: tuple[float, float, float],
    organ: FindingOrgan | str,
    site: str,
    anatomy: Anatomy = TORSO,
) -> np.ndarray:
    """Voxels of an organ's class on the asked side and site, bool (X, Y, Z); RAS+, x grows to the patient's right.

    An empty site means the whole organ (of its side). Raises AnatomyError for an organ the table does not have.
    """
    entry = anatomy.organ_of(organ) if isinstance(organ, str) else organ
    mask = label_map == anatomy.id_of(entry.class_name)
    if not mask.any() or not (entry.side or site):
        return mask
    aside = right_of_midline_mm(label_map, spacing_mm, anatomy)
    if entry.side:
        mask = mask & ((aside > 0) if entry.side == "right" else (aside < 0))
    if site and mask.any():
        mask = mask & _SITES[entry.class_name](mask, label_map, aside, spacing_mm, anatomy)[site]
    return mask


def right_of_midline_mm(
    label_map: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy = TORSO
) -> np.ndarray:
    """Distance in mm to the patient's right of the spine, per voxel column: (X, 1, Z), negative on the left.

    The midline is the mean x of the vertebrae, smoothed over 60 mm of height; without vertebrae, of all labels.
    """
    spine = label_map == anatomy.ids.get("vertebrae", 255)
    source = spine if spine.sum() > 200 else label_map > 0
    counts = source.sum(axis=1).astype(np.float64)
    x = np.arange(label_map.shape[0], dtype=np.float64)
    kernel = np.ones(max(1, round(60 / spacing_mm[2])))
    weight = np.convolve(counts.sum(axis=0), kernel, "same")
    moment = np.convolve((counts * x[:, None]).sum(axis=0), kernel, "same")
    known = weight > 0
    if not known.any():
        middle = np.full(label_map.shape[2], (label_map.shape[0] - 1) / 2)
    else:
        middle = np.interp(np.arange(len(weight)), np.flatnonzero(known), moment[known] / weight[known])
    return ((x[:, None] - middle[None]) * spacing_mm[0])[:, None, :]


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    others = tuple(a for a in range(3) if a != axis)
    inside = np.flatnonzero(mask.any(axis=others))
    return int(inside[0]), int(inside[-1])


def _along(mask: np.ndarray, axis: int) -> np.ndarray:
    """0 at the low end of the organ along an axis, 1 at its high end; broadcasts over the volume."""
    low, high = _extent(mask, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    return ((np.arange(mask.shape[axis]) - low) / max(1, high - low)).reshape(shape)


def _liver(mask, label_map, aside, spacing_mm, anatomy):
    return {"right lobe": aside > _LIVER_LINE_MM, "left lobe": aside <= _LIVER_LINE_MM}


def _pancreas(mask, label_map, aside, spacing_mm, anatomy):
    x = _along(mask, 0)
    return {"head": x > 0.66, "body": (x > 0.33) & (x <= 0.66), "tail": x <= 0.33}


def _lung(mask, label_map, aside, spacing_mm, anatomy):
    upper = (_along(mask, 2) - 0.55) + 0.5 * (_along(mask, 1) - 0.5) > 0  # the fissure rises towards the back
    return {"upper lobe": upper, "lower lobe": ~upper}


def _colon(mask, label_map, aside, spacing_mm, anatomy):
    z = np.arange(mask.shape[2]).reshape(1, 1, -1) * spacing_mm[2]
    spine = label_map == anatomy.ids["vertebrae"]
    lowest = (_extent(spine, 2)[0] if spine.any() else 0) * spacing_mm[2]
    in_view = lowest > 25  # the spine ends inside the field: the pelvis is in view
    pelvis = (z < lowest + 20) & in_view
    rectum = (z < lowest - 30) & in_view & (np.abs(aside) < 32)
    right, left = aside > _ASIDE_MM, aside < -_ASIDE_MM
    sigmoid = pelvis & ~rectum & ~right
    return {
        "rectum": rectum & ~(right & ~rectum),
        "sigmoid": sigmoid,
        "ascending": right & ~rectum,
        "descending": left & ~sigmoid & ~rectum,
        "transverse": ~right & ~left & ~sigmoid & ~rectum,
    }


_SITES = {"liver": _liver, "pancreas": _pancreas, "lung": _lung, "colon": _colon}
