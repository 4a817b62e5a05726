"""The preview: radiological view, slices through what matters, colours of the label table, text in full."""

from dataclasses import replace

import numpy as np
import pytest
from ellipsoids import EllipsoidGenerator

from guidegen_data.anatomy import HEAD_NECK, TORSO, Anatomy
from guidegen_data.anatomy_files import parse_anatomy
from guidegen_data.case import Case
from guidegen_data.errors import CaseError
from guidegen_data.preview import WINDOWS, cut, point_of_interest, preview_sheet, window_grey
from guidegen_data.reports.findings import Findings


@pytest.mark.parametrize(
    ("plane", "index", "left", "top"), [("axial", 5, 0, 1), ("coronal", 6, 0, 2), ("sagittal", 7, 1, 2)]
)
def test_the_patients_right_front_and_head_come_first(case: Case, plane: str, index: int, left: int, top: int) -> None:
    world = np.indices(case.ct_hu.shape).astype(np.int16)  # grows to the right, the front and the head
    for axis, along in ((left, 1), (top, 0)):
        picture = cut(replace(case, ct_hu=world[axis] * 40 - 600), plane, index).ct_hu
        assert (np.diff(picture.astype(int), axis=along) < 0).all()


def test_the_liver_lies_on_the_left_of_an_axial_picture(case: Case) -> None:
    picture = cut(case, "axial", point_of_interest(case)[2]).label_map
    assert np.argwhere(picture == 3)[:, 1].mean() < picture.shape[1] / 2


def test_slices_go_through_the_largest_lesion(case: Case) -> None:
    label_map = case.label_map.copy()
    label_map[2, 2, 2] = case.anatomy.lesion_id
    point = point_of_interest(replace(case, label_map=label_map))
    assert point != (2, 2, 2)
    assert label_map[point] == case.anatomy.lesion_id


def test_slices_go_through_the_middle_where_there_is_no_lesion() -> None:
    (quiet,) = EllipsoidGenerator().generate([Findings()], ["CT."], ["one"], [0])
    middle = np.argwhere(quiet.label_map > 0).mean(0)
    assert np.abs(np.subtract(point_of_interest(quiet), middle)).max() <= 1
    empty = replace(quiet, label_map=np.zeros_like(quiet.label_map))
    assert point_of_interest(empty) == (15, 15, 15)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_maps_its_range_to_black_and_white(window: str) -> None:
    centre, width = WINDOWS[window]
    hu = np.array([[-3000, centre - width // 2, centre, centre + width // 2, 1900]])
    assert window_grey(hu, window).tolist() == [[0, 0, 127, 255, 255]]


@pytest.mark.parametrize("anatomy", [TORSO, HEAD_NECK], ids=lambda a: a.name)
def test_no_two_classes_have_colours_that_look_alike(anatomy: Anatomy) -> None:
    colours = np.array([c.colour for c in anatomy.classes], float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    apart[np.diag_indices(len(colours))] = np.inf
    one, other = np.unravel_index(apart.argmin(), apart.shape)
    assert apart.min() > 60, (anatomy.classes[one].name, anatomy.classes[other].name)


def test_a_table_of_ones_own_gets_colours_too_and_background_none() -> None:
    names = ["background", *(f"organ {n}" for n in range(1, 6)), "tumour"]
    listed = "\n".join(f"  - {{id: {n}, name: {name}}}" for n, name in enumerate(names))
    anatomy = parse_anatomy(f"name: bare colours\nclasses:\n{listed}\n", "here")
    colours = [c.colour for c in anatomy.classes]
    assert colours[0] == (0, 0, 0)
    assert len(set(colours)) == len(names)


def test_classes_that_are_present_appear_in_their_colours_and_others_do_not(case: Case) -> None:
    colours = {tuple(c) for c in np.asarray(preview_sheet([case])).reshape(-1, 3)}
    assert case.anatomy.classes[20].colour in colours
    assert case.anatomy.classes[3].colour in colours
    assert case.anatomy.classes[19].colour not in colours  # the gallbladder is absent


def test_a_longer_report_takes_more_lines_not_more_width(case: Case) -> None:
    short, long = (preview_sheet([replace(case, report=text)]) for text in ("CT.", "A normal finding. " * 90))
    assert long.height > short.height
    assert long.width == short.width


def test_every_case_gets_a_row_and_a_failed_check_is_written_beside_its_name(case: Case) -> None:
    check = {"name": "liver mean HU", "pass": False}
    bad = replace(case, provenance={"quality": {"checks": [check]}})
    one, two, flagged = preview_sheet([case]), preview_sheet([case, case]), preview_sheet([bad])
    assert two.height > 1.5 * one.height
    assert one.tobytes() != flagged.tobytes()


def test_voxels_that_are_not_cubes_are_shown_in_proportion(case: Case) -> None:
    flat = replace(case, affine=np.diag([12.0, 12.0, 6.0, 1.0]))
    assert cut(flat, "coronal", 3).pixel_mm == (6.0, 12.0)
    assert cut(flat, "axial", 3).pixel_mm == (12.0, 12.0)


def test_nothing_to_draw_and_unknown_windows_are_refused(case: Case) -> None:
    with pytest.raises(CaseError, match="at least one case"):
        preview_sheet([])
    with pytest.raises(CaseError, match="soft, lung, bone"):
        preview_sheet([case], "brain")
