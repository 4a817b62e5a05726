"""What a segmenter of real patients finds in a case, held against its label map."""

import numpy as np
import pytest

from benchmarks import describe_parts
from benchmarks.downstream_found import draw, look, means, segmenter
from benchmarks.downstream_scores import ORGANS
from guidegen_data import HEAD_NECK, Case
from guidegen_data.case import centred_affine
from guidegen_data.reports.findings import Findings


def head(body_slices: int) -> Case:
    """A head of 128^3 at 2.5 mm with a larynx, a mandible and that many slices."""
    label_map = np.zeros(HEAD_NECK.shape, np.uint8)
    label_map[30:100, 30:100, :body_slices] = HEAD_NECK.id_of("soft tissue")
    label_map[60:70, 60:70, 10:20] = HEAD_NECK.id_of("larynx")
    label_map[60:70, 60:70, 30:40] = HEAD_NECK.id_of("mandible")
    ct = np.where(label_map > 0, 40, -1000).astype(np.int16)
    affine = centred_affine(HEAD_NECK.shape, HEAD_NECK.spacing_mm)
    return Case("one", ct, label_map, affine, "", Findings(region="neck", anatomy_name="head-neck"), {})


def half_a_larynx(case: Case) -> np.ndarray:
    found = np.zeros_like(case.label_map)
    found[60:65, 60:70, 10:20] = ORGANS["larynx"]
    return found


def test_each_organ_of_the_label_map_has_its_dice_and_no_other() -> None:
    looked = [look(head(90), half_a_larynx), look(head(60), half_a_larynx)]
    assert [of["whole"] for of in looked] == [True, False]
    table = means(looked)
    assert table["num_cases"] == 2
    assert table["organs"] == {
        "larynx": {"dice": pytest.approx(0.667, abs=1e-3), "n": 2, "hardly_found": 0},
        "mandible": {"dice": 0.0, "n": 2, "hardly_found": 2},
    }
    assert table["mean"] == 0.334


def test_the_table_and_the_sheet_show_every_kind(tmp_path) -> None:
    looked = [look(head(90), half_a_larynx)]
    told = describe_parts.found({"segmenter": "real-k5-seed0", "found": {"generated": means(looked)}})
    assert "| generated | 1 | 0.334 | 0.67 (0 of 1) | 0.00 (1 of 1) |" in told.splitlines()
    draw({"generated": looked, "real": []}, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 5000


def test_a_folder_without_the_training_is_refused(tmp_path) -> None:
    with pytest.raises(SystemExit, match="holds no training"):
        segmenter(tmp_path)
