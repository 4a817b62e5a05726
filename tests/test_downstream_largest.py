"""Downstream results with one piece of each organ kept."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.downstream_largest import largest_pieces, rescored
from benchmarks.downstream_scores import ORGANS, runs_of

SPACING_MM = 5.0


def written(folder: Path, name: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([SPACING_MM] * 3 + [1.0])), folder / f"{name}.nii.gz")


def cord() -> np.ndarray:
    labels = np.zeros((16, 16, 20), np.uint8)
    labels[7:9, 7:9] = ORGANS["spinal cord"]
    return labels


def test_of_every_organ_the_largest_piece_stays_and_corners_join() -> None:
    labels = cord()
    labels[9, 9, 3] = ORGANS["spinal cord"]  # touches the cord with a corner
    labels[1:4, 1:4, 1:4] = ORGANS["mandible"]
    wanted = labels.copy()
    labels[13, 13, 13] = ORGANS["spinal cord"]
    labels[13, 2:4, 13] = ORGANS["mandible"]
    assert np.array_equal(largest_pieces(labels), wanted)
    assert not largest_pieces(np.zeros_like(labels)).any()


def test_a_result_is_scored_again_without_the_specks(tmp_path) -> None:
    test, work = tmp_path / "test", tmp_path / "work"
    written(test, "pt_1_ct", np.zeros((16, 16, 20), np.int16))
    written(test, "pt_1_label", cord())
    specks = cord()
    specks[0:2, 0:2, ::2] = ORGANS["spinal cord"]
    for arm, labels in (("real", cord()), ("guidegen-falling", specks)):
        written(work / "predictions" / f"{arm}-k5-seed0", "pt_1", labels)
    trainings = [{"arm": arm, "k": 5, "seed": 0} for arm in ("real", "guidegen-falling")]
    scores = {f"{arm}-k5-seed0": {"pt_1": "spinal cord 0.9 4.0"} for arm in ("real", "guidegen-falling")}
    figures = {"test_patients": ["pt_1"], "trainings": trainings, "setting": "donor", "scores": scores}
    after = rescored(figures, work, test)
    for run in runs_of(after):
        assert run["cases"] == {"pt_1": {"spinal cord": {"dice": 1.0, "hd95_mm": 0.0}}}
    assert after["summary"]["k"]["5"]["guidegen-falling"]["against_real"]["dice"]["difference"] == 0
    assert after["setting"] == "donor"
    # Of what was scored before, only a training whose predictions are others now is scored again.
    for arm in ("real", "guidegen-falling"):
        written(work / "predictions" / f"{arm}-k5-seed0", "pt_1", np.zeros_like(specks))
    scores["real-k5-seed0"] = {"pt_1": "spinal cord 0.0 -"}
    again = rescored(figures, work, test, after)
    assert [run["cases"]["pt_1"]["spinal cord"]["dice"] for run in runs_of(again)] == [0.0, 1.0]
    assert rescored(figures, work, test)["scores"]["guidegen-falling-k5-seed0"] == {"pt_1": "spinal cord 0.0 -"}


@pytest.mark.parametrize(
    ("patients", "arm", "told"), [(["pt_2"], "real", "other test"), (["pt_1"], "donors", "no pred")]
)
def test_another_work_folder_is_refused(tmp_path, patients, arm, told) -> None:
    written(tmp_path / "test", "pt_1_ct", np.zeros((4, 4, 4), np.int16))
    figures = {"test_patients": patients, "trainings": [{"arm": arm, "k": 5, "seed": 0}]}
    figures["scores"] = {f"{arm}-k5-seed0": {}}
    with pytest.raises(SystemExit, match=told):
        rescored(figures, tmp_path, tmp_path / "test")
