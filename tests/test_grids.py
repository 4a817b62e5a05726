"""A label map or a mask belongs to its CT only where both put every voxel at the same place."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from little_patients import SPACING_MM, patient

from guidegen_data.anatomy import TORSO
from guidegen_data.errors import SourceError
from guidegen_data.sources.layouts import LabelNames, SourceCase, read_labelled
from guidegen_data.sources.volumes import Volume, check_same_grid, read_pair, read_volume

CT, LABEL = Path("p_ct.nii.gz"), Path("p_label.nii.gz")


def saved_without_its_affine(path: Path) -> Path:
    """The same stored voxels with a plain affine, as a script that knows the spacing alone writes them."""
    stored = nib.load(path)
    bare = path.with_name(f"bare_{path.name}")
    nib.Nifti1Image(np.asanyarray(stored.dataobj), np.diag([*SPACING_MM, 1.0])).to_filename(bare)
    return bare


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    """A CT and its label map as scanners write them: voxels run to the left and to the back, the origin is the table's.

    An origin at a corner of the volume would hide the mirroring: both affines would span the same box.
    """
    x, y, z = SPACING_MM
    affine = np.array([[-x, 0, 0, 161], [0, -y, 0, 140], [0, 0, z, -520], [0, 0, 0, 1]], np.float64)
    for array, path in zip(patient(1), (tmp_path / CT, tmp_path / LABEL), strict=True):
        nib.Nifti1Image(np.ascontiguousarray(array[::-1, ::-1]), affine).to_filename(path)
    return tmp_path / CT, tmp_path / LABEL


def test_a_label_map_saved_without_the_affine_of_its_ct_is_refused(pair) -> None:
    ct, label = read_pair(*pair)
    assert np.array_equal(ct.affine, label.affine)
    with pytest.raises(SourceError, match=r"must lie at one place, .* voxels apart; save the labels with the affine"):
        read_pair(pair[0], saved_without_its_affine(pair[1]))


def test_a_mask_saved_without_the_affine_of_its_ct_is_refused(pair) -> None:
    whole = SourceCase("p", "p", pair[0], masks={"liver": pair[1]})
    assert read_labelled(whole, TORSO, LabelNames(None)).labels.any()
    mirrored = SourceCase("p", "p", pair[0], masks={"liver": saved_without_its_affine(pair[1])})
    with pytest.raises(SourceError, match="must lie at one place"):
        read_labelled(mirrored, TORSO, LabelNames(None))


@given(st.sampled_from([0, 1, 2]), st.floats(-2, 2).filter(lambda v: abs(abs(v) - 0.5) > 1e-6))
def test_labels_may_lie_up_to_half_a_voxel_off(axis, voxels) -> None:
    array, affine = np.zeros((4, 5, 6), np.uint8), np.diag([*SPACING_MM, 1.0])
    moved = affine.copy()
    moved[axis, 3] = voxels * SPACING_MM[axis]
    ct, label = (Volume(array, SPACING_MM, a) for a in (affine, moved))
    if abs(voxels) < 0.5:
        check_same_grid(ct, label, CT, LABEL)
    else:
        with pytest.raises(SourceError, match=r"a corner [0-9.]+ voxels apart"):
            check_same_grid(ct, label, CT, LABEL)


def test_affines_that_differ_by_rounding_are_taken_for_one(tmp_path) -> None:
    turned = np.radians(7)
    rotation = np.array(
        [[np.cos(turned), -np.sin(turned), 0], [np.sin(turned), np.cos(turned), 0], [0, 0, 1]], np.float64
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * (0.703125, 0.703125, 5.0)
    affine[:3, 3] = (-171.3398, -201.7712, 33.3333)
    as_sform = nib.Nifti1Image(np.zeros((512, 512, 3), np.int16), None)
    as_sform.set_sform(np.round(affine, 3), 1)
    as_sform.header.set_zooms((0.703125, 0.703125, 5.0))
    as_sform.set_qform(None, 0)
    as_qform = nib.Nifti1Image(np.zeros((512, 512, 3), np.uint8), None)
    as_qform.set_qform(affine, 1)
    as_qform.set_sform(None, 0)
    as_sform.to_filename(tmp_path / CT)
    as_qform.to_filename(tmp_path / LABEL)
    ct, label = read_volume(tmp_path / CT), read_volume(tmp_path / LABEL)
    assert 1e-4 < np.abs(ct.affine - label.affine).max() < 1e-3
    check_same_grid(ct, label, CT, LABEL)
