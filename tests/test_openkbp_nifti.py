"""The download of OpenKBP made the folder that the benchmarks read."""

import nibabel as nib
import numpy as np
import pytest
from little_patients import RAW_SPACING_MM, write_openkbp

from benchmarks.downstream_scores import ORGANS as SCORED
from benchmarks.openkbp_nifti import ORGANS, convert_all
from benchmarks.openkbp_split import pool_and_donors


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("openkbp")
    write_openkbp(base / "provided", 2)
    write_openkbp(base / "provided", 1, "test")
    convert_all(base / "provided", base / "out")
    return base / "provided", base / "out"


def raw(array: np.ndarray) -> np.ndarray:
    """RAS+ (X, Y, Z) in the order of the download: y front to back, x right to left, z head to feet."""
    return array[::-1, ::-1, ::-1].transpose(1, 0, 2).ravel()


def column(path, which: int) -> np.ndarray:
    return np.array([int(line.split(",")[which]) for line in path.read_text().splitlines()[1:]])


def test_every_voxel_is_where_the_download_has_it(folders) -> None:
    provided, out = folders
    for split, name in (("train", "pt_1"), ("train", "pt_2"), ("test", "pt_1")):
        source = provided / f"{split}-pats" / name
        ct = nib.load(out / split / f"{name}_ct.nii.gz")
        assert nib.aff2axcodes(ct.affine) == ("R", "A", "S")
        assert ct.header.get_zooms() == pytest.approx(RAW_SPACING_MM)
        stored = raw(np.asarray(ct.dataobj)) + 1024
        assert np.array_equal(np.flatnonzero(stored), column(source / "ct.csv", 0))
        assert np.array_equal(stored[stored > 0], column(source / "ct.csv", 1))
        labels = raw(np.asarray(nib.load(out / split / f"{name}_label.nii.gz").dataobj))
        for organ, value in zip(ORGANS, SCORED.values(), strict=True):
            held = source / f"{organ}.csv"
            assert np.array_equal(np.flatnonzero(labels == value), column(held, 0) if held.exists() else [])
        target = raw(np.asarray(nib.load(out / split / f"{name}_ptv70.nii.gz").dataobj))
        assert np.array_equal(np.flatnonzero(target), column(source / "PTV70.csv", 0))


def test_the_index_tells_splits_and_contoured_organs(folders) -> None:
    rows = (folders[1] / "index.csv").read_text().splitlines()
    organs = " ".join(organ for organ in ORGANS if organ != "Esophagus")
    told = [f"pt_1,train,{organs}", f"pt_1,test,{organs}", f"pt_2,train,{organs}"]
    assert rows == ["patient,split,organs", *told]
    assert sorted(pool_and_donors(folders[1])[0]) == ["pt_1", "pt_2"]


def test_patients_that_are_there_are_left(folders) -> None:
    provided, out = folders
    kept = out / "train" / "pt_1_label.nii.gz"
    changed = kept.stat().st_mtime_ns
    convert_all(provided, out)
    assert kept.stat().st_mtime_ns == changed


def test_a_folder_without_patients_is_told(tmp_path) -> None:
    with pytest.raises(SystemExit, match="provided-data"):
        convert_all(tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit, match="openkbp_nifti"):
        pool_and_donors(tmp_path)
