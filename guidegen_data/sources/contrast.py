"""Contrast phases painted onto a real CT organ by organ, and the HU of removed organs and implanted lesions."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import TORSO

#: phase -> class name -> typical mean HU in that phase
PHASE_HU = {
    "non-contrast": {
        "liver": 55, "spleen": 48, "kidney": 32, "pancreas": 38, "aorta": 42, "inferior vena cava": 40,
        "portal and splenic vein": 40, "heart": 42, "adrenal gland": 22,
    },
    "arterial": {
        "liver": 72, "spleen": 135, "kidney": 165, "pancreas": 100, "aorta": 340, "inferior vena cava": 85,
        "portal and splenic vein": 110, "heart": 270, "adrenal gland": 65,
    },
    "portal venous": {
        "liver": 112, "spleen": 122, "kidney": 190, "pancreas": 92, "aorta": 160, "inferior vena cava": 145,
        "portal and splenic vein": 170, "heart": 150, "adrenal gland": 70,
    },
}  # fmt: skip

#: How bright unlabelled vessels stay: HU above 75 outside bone are multiplied by this.
_VESSEL_GAIN = {"non-contrast": 0.08, "arterial": 1.0, "portal venous": 0.45}
_SPREAD_HU = {"non-contrast": 16.0, "arterial": 45.0, "portal venous": 28.0}
_FAT_HU, _FAT_SD_HU = -100.0, 12.0


def change_phase(
    ct_hu: np.ndarray, labels: np.ndarray, bone: np.ndarray, phase: str, rng: np.random.Generator
) -> np.ndarray:
    """The CT as it would look in another contrast phase. All (X, Y, Z); HU in, HU out, float32.

    Every organ's mean is moved to the phase's value (jittered a case) and its spread limited to what the phase shows;
    borders are blended over a voxel. Vessels that no label names are dimmed or left as they are.
    """
    solid = ndimage.binary_dilation(bone, iterations=2)
    excess = np.clip(ct_hu - 75, 0, None)
    out = np.where(solid | (labels == 6), ct_hu, ct_hu - (1 - _VESSEL_GAIN[phase]) * excess).astype(np.float32)
    jitter = rng.normal(1.0, 0.12)
    for name, mean_hu in PHASE_HU[phase].items():
        whole = labels == TORSO.id_of(name)
        target = mean_hu * jitter * rng.normal(1, 0.05)
        if whole.sum() < 30:
            continue
        box = around(whole)
        organ, hu = whole[box], ct_hu[box]
        core = ndimage.binary_erosion(organ)
        values = hu[core if core.sum() > 30 else organ]
        centre, spread = float(np.median(values)), float(values.std()) + 1e-3
        painted = target + (hu - centre) * min(1.0, _SPREAD_HU[phase] / spread)
        weight = np.clip(ndimage.gaussian_filter(organ.astype(np.float32), 0.6) * 1.6 - 0.3, 0, 1)
        out[box] += weight * np.where(hu > -80, painted - out[box], 0)
    return out


def around(mask: np.ndarray, margin: int = 4) -> tuple[slice, ...]:
    """The bounding box of a mask that is not empty, grown by `margin` voxels."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
    return tuple(box)


def paint_removed(ct_hu: np.ndarray, removed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fat where an organ was taken out. (X, Y, Z) HU, float32."""
    if not removed.any():
        return ct_hu
    box, out = around(removed), ct_hu.copy()
    texture = ndimage.gaussian_filter(rng.standard_normal(out[box].shape).astype(np.float32), 0.7)
    fat = _FAT_HU + _FAT_SD_HU * texture / texture.std()
    weight = np.clip(ndimage.gaussian_filter(removed[box].astype(np.float32), 0.8) * 1.8, 0, 1)
    out[box] += weight * (fat - out[box])
    return out


def paint_lesion(ct_hu: np.ndarray, lesion: np.ndarray, mean_hu: float, rng: np.random.Generator) -> np.ndarray:
    """A lesion of a given mean HU with mild inner texture, blended over its border. (X, Y, Z) HU, float32."""
    box, out = around(lesion), ct_hu.copy()
    shape = out[box].shape
    weight = np.clip(ndimage.gaussian_filter(lesion[box].astype(np.float32), 0.6) * 1.5 - 0.25, 0, 1)
    texture = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), 1.2)
    inner = mean_hu + 8 * texture / texture.std() + rng.normal(0, 9, shape).astype(np.float32)
    out[box] += weight * (inner - out[box])
    return out
