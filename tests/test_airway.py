"""The benchmark that tells whether the airway is a tube below the larynx."""

import numpy as np

from benchmarks.airway import airways, holes_mm2, sheet
from guidegen_data import HEAD_NECK

SOFT, LARYNX, CORD = (HEAD_NECK.ids[name] for name in ("soft tissue", "larynx", "spinal cord"))


def neck(bottom: int = 4, open_below: int = 0) -> np.ndarray:
    """A neck of 2.5 mm voxels with a larynx from slice 24 on and an airway of 25 mm2 x 4 x 4 voxels below it, which is
    open to the front below slice `open_below`."""
    label_map = np.zeros((48, 48, 40), np.uint8)
    label_map[8:40, 8:40, bottom:36] = SOFT
    label_map[22:26, 30:34, bottom:24] = 0
    label_map[22:26, 30:40, bottom:open_below] = 0
    label_map[20:28, 28:36, 24:30] = LARYNX
    label_map[24, 12, bottom:36] = CORD
    return label_map


def test_a_tube_is_closed_in_every_slice_and_has_its_area() -> None:
    areas = holes_mm2(neck(), HEAD_NECK)
    assert areas is not None
    assert areas.tolist() == [16 * 6.25] * 12
    assert airways([areas]) == {"num": 1, "share_of_slices_closed": 1.0, "median_area_mm2": 100.0}


def test_what_is_open_to_the_front_or_filled_is_not_closed() -> None:
    filled = neck()
    filled[filled == 0] = np.where(np.indices(filled.shape)[2][filled == 0] < 24, SOFT, 0)
    told = airways([holes_mm2(m, HEAD_NECK) for m in (neck(open_below=18), filled)])
    assert told["num"] == 2
    assert told["share_of_slices_closed"] == 0.25  # half of the one, none of the other


def test_cases_without_a_larynx_or_a_neck_below_it_are_left_out() -> None:
    without = np.where(neck() == LARYNX, SOFT, neck()).astype(np.uint8)
    assert holes_mm2(without, HEAD_NECK) is None
    assert holes_mm2(neck(bottom=21), HEAD_NECK) is None
    assert airways([None]) == {"num": 0, "share_of_slices_closed": None, "median_area_mm2": None}


def test_a_lung_far_from_the_larynx_is_no_airway() -> None:
    wide = np.pad(neck(), ((20, 20), (0, 0), (0, 0)))
    wide[8:80, 8:40, 4:24] = np.where(wide[8:80, 8:40, 4:24] == 0, SOFT, wide[8:80, 8:40, 4:24])
    wide[10:16, 20:30, 4:24] = 0
    areas = holes_mm2(wide, HEAD_NECK)
    assert areas is not None
    assert not areas.any()


def test_the_sheet_shows_every_case_in_colour() -> None:
    image = np.asarray(sheet([[neck(), neck()], [neck(open_below=24)] * 2], HEAD_NECK))
    assert image.shape == (80, 96, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) >= 3
