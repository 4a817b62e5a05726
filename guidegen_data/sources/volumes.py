"""NIfTI volumes as RAS+ arrays in mm, and resampling: CT with anti-aliasing, labels by class fraction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from guidegen_data.case import check_hu
from guidegen_data.errors import CaseError, SourceError

#: Files round their affines (float32, quaternions, three decimals): the farthest corner moves by less than this.
_SAME_PLACE_VOXELS = 0.5


@dataclass(frozen=True)
class Volume:
    """An (X, Y, Z) array on an RAS+ grid; `spacing_mm` is the voxel size along X, Y, Z.

    `affine` (4, 4) takes its voxels to mm as its file says; None where the grid is no file's.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray | None = None


def nifti_stem(path: Path) -> str:
    """A NIfTI file's name without `.nii` or `.nii.gz`; dots before that are the name's own."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def read_volume(path: str | Path) -> Volume:
    """A 3-D NIfTI reoriented to RAS+. Raises SourceError for a file that is missing, truncated or not 3-D."""
    try:
        image = nib.as_closest_canonical(nib.load(str(path)))
        array = np.asanyarray(image.dataobj)
    except FileNotFoundError as error:
        raise SourceError(f"no file {path}; give the path of a NIfTI volume.") from error
    except Exception as error:  # nibabel raises many kinds for a damaged file
        raise SourceError(f"{path} is no readable NIfTI volume ({type(error).__name__}); copy it again.") from error
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise SourceError(f"{path} must hold one 3-D volume, got shape {array.shape}.")
    x, y, z = (float(v) for v in image.header.get_zooms()[:3])
    return Volume(array, (x, y, z), image.affine)


def read_ct(path: str | Path) -> Volume:
    """A CT in HU as float32, clipped to [-1024, 3071]. Raises SourceError when the values cannot be HU."""
    volume = read_volume(path)
    array = volume.array.astype(np.float32)
    try:
        check_hu(array, str(path))
    except CaseError as error:
        raise SourceError(str(error)) from error
    return replace(volume, array=np.clip(array, -1024, 3071))


def read_pair(ct_path: Path, label_path: Path) -> tuple[Volume, Volume]:
    """A CT and its label map. Raises SourceError when their grids or places differ."""
    ct, label = read_ct(ct_path), read_volume(label_path)
    check_same_grid(ct, label, ct_path, label_path)
    return ct, label


def check_same_grid(ct: Volume, label: Volume, ct_path: Path, label_path: Path) -> None:
    """SourceError unless two files hold the same voxels at the same place.

    Each file is turned by its own affine: one saved without that of its CT would come out mirrored, and its shape fits.
    """
    if ct.array.shape != label.array.shape or not np.allclose(ct.spacing_mm, label.spacing_mm, atol=1e-3):
        raise SourceError(
            f"{ct_path.name} and {label_path.name} must share one grid, got {ct.array.shape} at {ct.spacing_mm} mm and "
            f"{label.array.shape} at {label.spacing_mm} mm; resample the labels to the CT."
        )
    away = _farthest_corner_voxels(ct, label)
    if away > _SAME_PLACE_VOXELS:
        raise SourceError(
            f"{ct_path.name} and {label_path.name} must lie at one place, but their affines put a corner {away:.1f} "
            f"voxels apart; save the labels with the affine of the CT."
        )


def _farthest_corner_voxels(one: Volume, other: Volume) -> float:
    """How far the corners of two equal arrays lie apart in their files' worlds: the most along an axis of the first."""
    assert one.affine is not None
    assert other.affine is not None
    corners = np.array(list(product(*((-0.5, n - 0.5) for n in one.array.shape)))).T
    apart = (other.affine - one.affine)[:3] @ np.vstack([corners, np.ones(8)])
    return float(np.abs(np.linalg.solve(one.affine[:3, :3], apart)).max())


def resample_ct(volume: Volume, spacing_mm: tuple[float, float, float], sharp: bool = False) -> Volume:
    """Linear resampling with a Gaussian anti-aliasing filter; `sharp` leaves the filter out and keeps the noise."""
    factors = [old / new for old, new in zip(volume.spacing_mm, spacing_mm, strict=True)]
    array = volume.array.astype(np.float32)
    if not sharp:
        sigma = [max(0.0, 0.4 * (1 / f - 1)) for f in factors]
        array = ndimage.gaussian_filter(array, sigma)
    zoomed = ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True)
    return Volume(zoomed.astype(np.float32), spacing_mm)


def resample_labels(volume: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    """Class fractions resampled one class at a time, then the largest: small structures keep smooth borders."""
    factors = [old / new for old, new in zip(volume.spacing_mm, spacing_mm, strict=True)]
    sigma = [max(0.0, 0.4 * (1 / f - 1)) for f in factors]
    shape = tuple(round(n * f) for n, f in zip(volume.array.shape, factors, strict=True))
    best = np.full(shape, -1.0, np.float32)
    labels = np.zeros(shape, np.uint8)
    for value in np.unique(volume.array):
        fraction = ndimage.gaussian_filter((volume.array == value).astype(np.float32), sigma)
        fraction = ndimage.zoom(fraction, factors, order=1, mode="nearest", grid_mode=True)
        wins = fraction > best
        best[wins] = fraction[wins]
        labels[wins] = value
    return Volume(labels, spacing_mm)


def body_mask(ct_hu: np.ndarray) -> np.ndarray:
    """The patient without table and clothes: largest piece above -300 HU after opening, holes filled slice by slice."""
    tissue = ndimage.binary_opening(ct_hu > -300, iterations=2)
    pieces, count = ndimage.label(tissue)
    if not count:
        raise SourceError("no body found above -300 HU; is this a CT in HU?")
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    body = ndimage.binary_dilation(pieces == sizes.argmax(), iterations=2)
    for z in range(body.shape[2]):
        body[:, :, z] = ndimage.binary_fill_holes(body[:, :, z])
    return body


def without_table(ct_hu: np.ndarray) -> np.ndarray:
    """The CT with everything outside the body set to air (-1024 HU)."""
    return np.where(body_mask(ct_hu), ct_hu, np.float32(-1024))
