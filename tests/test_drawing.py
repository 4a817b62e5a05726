"""Of organs that share a class, one on each side, `guidegen complete` draws each where it is missing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from guidegen_data.anatomy import TORSO
from guidegen_data.reports.findings import Findings
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import load_case, save_case
from guidegen_data.training.completion import complete
from guidegen_data.training.drawing import draw_missing, lacking, least_voxels

SMALL = replace(TORSO, shape=(32, 32, 32), spacing_mm=(12.0, 12.0, 12.0))
KIDNEY, SPINE, SPLEEN = TORSO.id_of("kidney"), TORSO.id_of("vertebrae"), TORSO.id_of("spleen")
LEFT, RIGHT = (KIDNEY, "left"), (KIDNEY, "right")
#: Where the kidneys of the patients lie, the right one a little smaller; x grows to the patient's right.
BOXES = {"left": np.s_[6:12, 8:14, 10:18], "right": np.s_[20:26, 8:14, 9:16]}


def label_map(*sides: str) -> np.ndarray:
    """A spine, a spleen, and the kidneys of the sides."""
    made = np.zeros(SMALL.shape, np.uint8)
    made[14:18, 4:8], made[4:9, 16:20, 20:24] = SPINE, SPLEEN
    for side in sides:
        made[BOXES[side]] = KIDNEY
    return made


def chances(*boxes) -> np.ndarray:
    made = np.zeros((TORSO.num_classes, *SMALL.shape), np.float32)
    for box in boxes:
        made[KIDNEY][box] = 0.9
    return made


SPECK = np.s_[20:22, 20:22, 4:6]
BOTH = chances(*BOXES.values(), SPECK)


@pytest.mark.parametrize("there", [(), ("left",), ("right",), ("left", "right")])
def test_each_side_is_drawn_where_it_is_missing_and_only_there(there) -> None:
    before = label_map(*there)
    out, drawn = draw_missing(before, BOTH, {LEFT: 50, RIGHT: 50}, SMALL)
    assert np.array_equal(out, label_map("left", "right"))
    voxels = {LEFT: 288, RIGHT: 252}
    assert drawn == {(k, side): n for (k, side), n in voxels.items() if side not in there}
    assert lacking(before, [LEFT, RIGHT], SMALL) == sorted(drawn)


def test_a_side_has_a_least_volume_of_its_own() -> None:
    out, drawn = draw_missing(label_map(), BOTH, {LEFT: 289, RIGHT: 252}, SMALL)
    assert drawn == {RIGHT: 252}
    assert np.array_equal(out, label_map("right"))
    assert draw_missing(label_map(), BOTH, {LEFT: 288}, SMALL)[1] == {LEFT: 288}


def test_without_a_spine_both_sides_are_drawn_whole() -> None:
    before = label_map()
    before[before == SPINE] = 0  # the midline is that of what is labelled and drawn, which cuts no kidney
    before[18:28, 16:26, 20:28] = TORSO.id_of("liver")
    out, drawn = draw_missing(before, BOTH, {LEFT: 50, RIGHT: 50}, SMALL)
    assert drawn == {LEFT: 288, RIGHT: 252}
    assert np.array_equal(out == KIDNEY, label_map("left", "right") == KIDNEY)


class ByHU(torch.nn.Module):
    """Finds kidneys where a CT is above 100 HU."""

    multiple = 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ct_hu: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, TORSO.num_classes, *ct_hu.shape[2:])
        logits[:, KIDNEY] = 50 * (ct_hu[:, 0] > 100).float() - 5
        return logits


@pytest.fixture
def prepared(tmp_path):
    """Patients whose CTs show both kidneys, and of whom somebody drew both, one or none."""
    folder = tmp_path / "prepared"
    for name in ("train", "validation", "cases"):
        (folder / name).mkdir(parents=True)
    ct = np.where(label_map("left", "right") == KIDNEY, 150.0, 20.0)
    drawn = [("left", "right"), ("left", "right"), ("left",), ("right",), ()]
    for number, sides in enumerate(drawn):
        base, labels = f"p{number}", label_map(*sides)
        absent = {f"{side} kidney": "absent" for side in BOXES if side not in sides}
        findings = Findings(region="abdomen", organs=absent)
        save_case(folder / "train" / f"case-{number:06d}.npz", TrainingCase(labels, ct, findings, base), "A report.")
        note = {"name": base, "split": "train", "refused": "", "report_read": False, "findings": findings.to_dict()}
        volumes_ml = {"kidney": round(float((labels == KIDNEY).sum()) * 1.728, 2)} if sides else {}
        note |= {"volumes_ml": volumes_ml, "mean_hu": dict.fromkeys(volumes_ml, 150.0)}
        (folder / "cases" / f"{base}.json").write_text(json.dumps(note))
    return folder


def test_the_least_volume_of_a_side_is_that_of_patients_who_show_it(prepared) -> None:
    assert least_voxels(prepared, ["kidney"], SMALL) == {LEFT: 72, RIGHT: 63}
    assert least_voxels(prepared, ["spleen", "kidney"], SMALL) == {LEFT: 72, RIGHT: 63}  # no note tells of a spleen


def test_no_kidney_is_called_absent_that_was_drawn_or_was_there(prepared, tmp_path) -> None:
    out = tmp_path / "completed"
    for name in ("train", "validation", "cases"):
        (out / name).mkdir(parents=True)
    files = list(complete(prepared, out, ByHU(), ["kidney"], SMALL))
    assert len(files) == 5
    for file in files:
        case = load_case(out / file)
        assert np.array_equal(case.label_map, label_map("left", "right"))
        assert "absent" not in case.findings.organs.values()
    lines = [json.loads(line) for line in (out / "completed.jsonl").read_text().splitlines()]
    assert [line["drawn_ml"] for line in lines] == [{}, {}, {"kidney": 435.46}, {"kidney": 497.66}, {"kidney": 933.12}]
    notes = [json.loads(p.read_text()) for p in sorted((out / "cases").glob("*.json"))]
    assert [note["volumes_ml"]["kidney"] for note in notes] == [933.12] * 5
    assert [bool(note["completed"]) for note in notes] == [False, False, True, True, True]
