"""How bright a lesion is against the organ that it lies in: what the words of a report mean, and a CT held to them.

Slices of few steps show a lesion as lesions are on average, which is as bright as the organ: nothing to learn from. So
every lesion gets a level of its own, the one that its report tells or one that lesions of its phase have.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy
from guidegen_data.lesions import FoundLesion, find_lesions
from guidegen_data.reports.findings import Findings

#: HU against the organ for the words of a report, and how often each is drawn where a report has none.
_OFFSET_HU = {"hypodense": (-65.0, -25.0), "isodense": (-10.0, 10.0), "hyperdense": (25.0, 70.0)}
_SHARES, _ARTERIAL_SHARES = (0.7, 0.15, 0.15), (0.3, 0.2, 0.5)
#: Lesions differ from their organ by less than this in HU when they are isodense.
_ISODENSE_HU = 12.0
#: Mean HU of a soft tissue mass in an organ that holds air or fluid, and its standard deviation over cases.
_MASS_HU, _MASS_SD_HU = {"non-contrast": 38.0, "arterial": 65.0, "portal venous": 80.0}, 10.0
#: Organs of less hold fluid, organs of much less air: what is said of masses in tissue does not hold there.
_FLUID_HU, _AIR_HU = 20.0, -200.0
#: No lesion is darker, unless its report says so; its voxels vary by no more than this robust standard deviation.
_LEAST_HU, _MOST_SPREAD_HU = -10.0, 25.0
_LEAST_VOXELS, _LEAST_CORE = 50, 20


def offset_hu(word: str, phase: str, rng: np.random.Generator) -> tuple[str, float]:
    """The word and an HU offset against the organ for it; draws the word where it is ''."""
    if not word:
        word = str(rng.choice(list(_OFFSET_HU), p=_ARTERIAL_SHARES if phase == "arterial" else _SHARES))
    return word, float(rng.uniform(*_OFFSET_HU[word]))


def mass_hu(phase: str, rng: np.random.Generator) -> float:
    """Mean HU of a mass in an organ of air or fluid; a phase that is not told counts as portal venous."""
    return float(_MASS_HU[phase or "portal venous"] + rng.normal(0, _MASS_SD_HU))


def attenuation(found: FoundLesion, ct_hu: np.ndarray | None, label_map: np.ndarray, anatomy: Anatomy) -> str:
    """The word for the lesion's HU against the labelled organ it lies in; '' in air-filled organs and soft tissue."""
    usual = None if ct_hu is None else _host_hu(found, ct_hu, label_map, anatomy)
    if usual is None or usual < _AIR_HU:
        return ""
    assert ct_hu is not None
    offset = float(np.median(ct_hu[found.mask])) - usual
    return "hypodense" if offset < -_ISODENSE_HU else "hyperdense" if offset > _ISODENSE_HU else "isodense"


def hold_lesion_hu(
    ct_hu: np.ndarray, label_map: np.ndarray, findings: Findings, rng: np.random.Generator
) -> np.ndarray:
    """The CT (X, Y, Z) int16 HU with every lesion of its label map as bright as the findings tell.

    One of which they tell no attenuation gets that of a word that is drawn. Lesions in soft tissue that no class names,
    such as target volumes, stay as they are: nobody sees them in a CT.
    """
    anatomy, out = findings.anatomy, ct_hu.astype(np.float32)
    left = sorted(findings.lesions, key=lambda lesion: -lesion.size_mm)
    for found in find_lesions(label_map, anatomy, anatomy.spacing_mm):
        told = next((x for x in left if (x.organ, x.site) == (found.organ, found.site)), None)
        if told is not None:
            left.remove(told)
        usual = _host_hu(found, ct_hu, label_map, anatomy)
        if usual is None:
            continue
        word = told.attenuation if told is not None else ""
        if usual < _AIR_HU or (not word and usual < _FLUID_HU):
            level = mass_hu(findings.phase, rng)
        else:
            word_told, (word, offset) = bool(word), offset_hu(word, findings.phase, rng)
            level = usual + offset if word_told else max(_LEAST_HU, usual + offset)
        _set_level(out, found.mask, level)
    return np.rint(np.clip(out, *anatomy.hu_range)).astype(np.int16)


def _host_hu(found: FoundLesion, ct_hu: np.ndarray, label_map: np.ndarray, anatomy: Anatomy) -> float | None:
    """Median HU of the class that the lesion's organ is of; None for one without a class or of too few voxels."""
    if not found.organ:
        return None
    host = anatomy.organ_of(found.organ).class_name
    around = label_map == anatomy.id_of(host)
    if (anatomy.frame is not None and host == anatomy.frame.host) or around.sum() < _LEAST_VOXELS:
        return None
    return float(np.median(ct_hu[around]))


def _set_level(ct_hu: np.ndarray, mask: np.ndarray, level: float) -> None:
    """Moves a lesion to a median, its texture kept and its border blended over a voxel; in place, float32."""
    inside = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(max(0, int(held[0]) - 4), int(held[-1]) + 5) for held in inside)
    held, hu = mask[box], ct_hu[box]
    core = ndimage.binary_erosion(held)
    values = hu[core if core.sum() >= _LEAST_CORE else held]
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    moved = level + (hu - median) * min(1.0, _MOST_SPREAD_HU / max(spread, 1e-3))
    weight = np.clip(ndimage.gaussian_filter(held.astype(np.float32), 0.6) * 1.5 - 0.25, 0, 1)
    ct_hu[box] += weight * (moved - hu)
