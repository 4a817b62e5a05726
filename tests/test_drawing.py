"""Of organs that share a class, one on each side, `guidegen complete` draws each where it is missing."""

import json

import numpy as np
import pytest
from little_kidneys import (
    BOXES,
    KIDNEY,
    LEFT,
    RIGHT,
    SMALL,
    SPINE,
    ByHU,
    chances,
    label_map,
    make_folders,
    write_prepared,
)

from guidegen_data.anatomy import TORSO
from guidegen_data.sources.prepared import load_case
from guidegen_data.training.completion import complete
from guidegen_data.training.drawing import draw_missing, lacking, least_voxels

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


@pytest.fixture
def prepared(tmp_path):
    return write_prepared(tmp_path / "prepared")


def test_the_least_volume_of_a_side_is_that_of_patients_who_show_it(prepared) -> None:
    assert least_voxels(prepared, ["kidney"], SMALL) == {LEFT: 72, RIGHT: 63}
    assert least_voxels(prepared, ["spleen", "kidney"], SMALL) == {LEFT: 72, RIGHT: 63}  # no note tells of a spleen


def test_no_kidney_is_called_absent_that_was_drawn_or_was_there(prepared, tmp_path) -> None:
    out = make_folders(tmp_path / "completed")
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
