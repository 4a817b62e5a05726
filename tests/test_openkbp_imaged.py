"""Slices of OpenKBP in which the CT was cut down to the contours are no CT, and are taken out with their labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_patients import HEAD_AND_NECK, write_openkbp

from benchmarks.downstream_scans import MORE_REAL, by_scan
from benchmarks.downstream_scores import packed
from benchmarks.openkbp_imaged import clear_all, cut_shares, is_cut
from benchmarks.openkbp_nifti import convert_all
from guidegen_data.anatomy import HEAD_NECK
from guidegen_data.cli.main import main
from guidegen_data.sources.openkbp import imaged_slices, only_imaged
from guidegen_data.sources.prepared import case_paths, load_case

SPACING = (4.0, 4.0, 3.0)


def scan(first: int, last: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A neck of 100 cm2 in slices first..last-1; the cord and a rim of one voxel around it show in every slice."""
    ct = np.full((size, size, size), -1024, np.float32)
    labels = np.zeros(ct.shape, np.uint8)
    ct[18:23, 18:23] = 30
    labels[19:22, 19:22] = 2
    ct[8:33, 8:33, first:last] = np.maximum(ct[8:33, 8:33, first:last], -100)
    return ct, labels


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 30), length=st.integers(1, 10))
def test_what_shows_contours_alone_is_cleared_and_the_body_stays(first: int, length: int) -> None:
    ct, labels = scan(first, first + length)
    shown = imaged_slices(ct, SPACING)
    assert (shown.start, shown.stop) == (first, first + length)
    cleared, left = only_imaged(ct, labels, SPACING)
    for kept, before, empty in ((cleared, ct, -1024), (left, labels, 0)):
        assert np.array_equal(kept[:, :, shown], before[:, :, shown])
        assert (np.delete(kept, np.arange(first, first + length), axis=2) == empty).all()
    again = only_imaged(cleared, left, SPACING)
    assert np.array_equal(again[0], cleared)
    assert np.array_equal(again[1], left)


def test_a_whole_scan_and_one_of_air_stay_as_they_are() -> None:
    ct, labels = scan(0, 40)
    assert np.array_equal(only_imaged(ct, labels, SPACING)[1], labels)
    air = np.full_like(ct, -1024)
    assert imaged_slices(air, SPACING) == slice(0, 0)
    assert not only_imaged(air, labels, SPACING)[1].any()


def test_of_two_pieces_the_longer_one_is_the_scan() -> None:
    ct, _ = scan(4, 20)
    ct[8:33, 8:33, 30:36] = -100
    assert imaged_slices(ct, SPACING) == slice(4, 20)


def test_a_scan_is_cut_where_a_tenth_of_the_cord_has_no_ct(tmp_path) -> None:
    import nibabel as nib

    for first, share in ((0, 0.0), (3, 0.075), (20, 0.5)):
        ct, labels = scan(first, 40)
        for what, array in (("ct", ct.astype(np.int16)), ("label", labels)):
            nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), tmp_path / f"pt_1_{what}.nii.gz")
        shares = cut_shares(tmp_path / "pt_1_ct.nii.gz")
        assert shares == {"SpinalCord": pytest.approx(share)}
        assert is_cut(shares) == (share > 0.1)


def cut_patient(provided: Path) -> Path:
    """The folder of a patient of the download whose CT was cut down to the cord but for slices 40 to 69."""
    write_openkbp(provided, 1)
    patient = provided / "train-pats" / "pt_1"
    rim = {int(line.split(",")[0]) for line in (patient / "SpinalCord.csv").read_text().splitlines()[1:]}
    head, *rows = (patient / "ct.csv").read_text().splitlines()
    # The flat index counts z, head to feet, fastest.
    kept = [row for row in rows if 40 <= int(row.split(",")[0]) % 128 < 70 or int(row.split(",")[0]) in rim]
    (patient / "ct.csv").write_text("\n".join([head, *kept]) + "\n")
    return patient


def test_the_benchmarks_folder_keeps_cut_slices_which_they_tell_of_and_then_clear(tmp_path) -> None:
    cut_patient(tmp_path / "provided")
    convert_all(tmp_path / "provided", tmp_path / "out")
    ct = tmp_path / "out" / "train" / "pt_1_ct.nii.gz"
    assert is_cut(cut_shares(ct))
    clear_all(tmp_path / "out", tmp_path / "cleared")
    assert not is_cut(cut_shares(tmp_path / "cleared" / "train" / "pt_1_ct.nii.gz"))


def test_prepare_takes_out_what_was_not_imaged_and_says_so(tmp_path, capsys) -> None:
    patient = cut_patient(tmp_path / "provided")
    contoured = [patient / f"{name}.csv" for name in HEAD_AND_NECK]
    voxels = {int(line.split(",")[0]) for path in contoured for line in path.read_text().splitlines()[1:]}
    cleared = len({i % 128 for i in voxels if not 40 <= i % 128 < 70})
    assert cleared > 10
    assert main(["prepare", "openkbp", str(tmp_path / "provided"), str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert f"the CTs of 1 patients; {cleared} slices that show nothing else were taken out" in told
    assert json.loads((tmp_path / "out" / "cases" / "pt_1.json").read_text())["num_cleared"] == cleared
    (path,) = case_paths(tmp_path / "out" / "train")
    case = load_case(path)
    shown = (case.label_map > 0).sum(axis=(0, 1)) > 0
    assert shown.sum() * HEAD_NECK.spacing_mm[2] == pytest.approx(30 * 3.0, abs=2 * HEAD_NECK.spacing_mm[2])
    far = ~np.convolve(shown, [1, 1, 1], "same").astype(bool)  # the slice beside is half air
    assert (case.ct_hu[:, :, far] == -1024).all()


def run(arm: str, seed: int, gain: dict[str, float], k: int = 5) -> dict:
    """A training whose Dice of the cord is 0.5, and more by `gain` in some of five patients."""
    dice = {name: 0.5 + gain.get(name, 0.0) for name in ("pt_1", "pt_2", "pt_3", "pt_4", "pt_221")}
    cases = {name: {"spinal cord": {"dice": d, "hd95_mm": 4.0}} for name, d in dice.items()}
    return {"arm": arm, "k": k, "seed": seed, "cases": cases}


def scans_told(runs: list[dict], cut: set[str]) -> dict:
    scores = {f"{r['arm']}-k{r['k']}-seed{r['seed']}": packed(r["cases"]) for r in runs}
    return by_scan({"trainings": [{k: v for k, v in r.items() if k != "cases"} for r in runs], "scores": scores}, cut)


def test_a_gain_of_cut_scans_alone_is_told_apart_from_that_of_whole_ones() -> None:
    runs = [run("real", 0, {}), run("real", 1, {})]
    runs += [run("guidegen-0.5", 0, {"pt_2": 0.1}), run("guidegen-0.5", 1, {"pt_2": 0.3})]
    told = scans_told(runs, {"pt_2"})["5"]
    assert told["real"] == {"all": 0.5, "whole": 0.5, "cut": 0.5, "undamaged": 0.5}
    gains = {group: row["difference"] for group, row in told["guidegen-0.5"].items()}
    assert gains == pytest.approx({"all": 0.2 / 5, "whole": 0.0, "cut": 0.2, "undamaged": 0.2 / 4}, abs=1e-4)
    assert told["guidegen-0.5"]["cut"]["by_seed"] == {"0": 0.1, "1": 0.3}
    assert told["guidegen-0.5"]["cut"]["organs"]["spinal cord"] == pytest.approx(0.2)
    assert told["guidegen-0.5"]["cut"]["organs"]["mandible"] is None
    # One cut patient says nothing of others.
    assert told["guidegen-0.5"]["cut"]["interval_95"] == [None, None]


def test_ours_is_set_beside_more_real_patients_scan_by_scan_and_p_is_corrected_over_all_rows() -> None:
    few = {"pt_1": 0.02, "pt_2": 0.05, "pt_3": 0.03, "pt_221": 0.9}
    many = {name: 0.04 for name in ("pt_1", "pt_3", "pt_4", "pt_221")}
    runs = [
        run("real", 0, {}),
        run("guidegen-0.5", 0, few),
        run("synthseg", 0, {"pt_1": 0.01}),
        run("real", 0, many, 10),
        run("real", 0, {}, 40),  # not the next one
    ]
    told = scans_told(runs, {"pt_2"})["5"]
    beside = told[f"guidegen-0.5 over {MORE_REAL}"]
    assert beside["cut"]["difference"] == pytest.approx(0.05)
    assert beside["undamaged"]["difference"] == pytest.approx((-0.02 + 0.05 - 0.01 - 0.04) / 4, abs=1e-4)
    rows = [held["undamaged"] for arm, held in told.items() if arm != "real"]
    assert len(rows) == 4
    assert min(row["p_holm"] for row in rows) == pytest.approx(min(1.0, 4 * min(row["p"] for row in rows)), rel=1e-2)
