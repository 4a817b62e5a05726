"""What is taken out of a label map is given to what is nearest, wherever it lies."""

import numpy as np
from scipy import ndimage

from guidegen_data.cleanup import nearest_kept


def test_every_voxel_taken_out_goes_to_a_class_as_near_as_any() -> None:
    rng = np.random.default_rng(0)
    for density in (0.1, 0.5, 0.9):
        label_map = np.kron(rng.integers(1, 9, (5, 4, 6)), np.ones((4, 4, 4), int)).astype(np.uint8)
        noise = ndimage.gaussian_filter(rng.random(label_map.shape), 1.0)
        gone = noise <= np.quantile(noise, density)
        filled = nearest_kept(label_map, gone)
        assert np.array_equal(filled[~gone], label_map[~gone])
        least = ndimage.distance_transform_edt(gone)
        for class_id in np.unique(filled[gone]):
            given = gone & (filled == class_id)
            to_class = ndimage.distance_transform_edt(gone | (label_map != class_id))
            np.testing.assert_allclose(to_class[given], least[given])


def test_two_specks_in_one_box_do_not_take_from_each_other() -> None:
    label_map = np.full((9, 9, 9), 3, np.uint8)
    label_map[1, :, 4], label_map[:, 1, 4], label_map[7, 7, 4] = 7, 7, 8
    gone = label_map != 3
    assert (nearest_kept(label_map, gone) == 3).all()


def test_a_class_that_is_passed_over_is_given_nothing_however_near() -> None:
    label_map = np.full((12, 12, 12), 2, np.uint8)
    label_map[2:10, 2:10, 2:10] = 5
    gone = np.zeros(label_map.shape, bool)
    gone[5:7, 5:7, 5:7] = True
    label_map[gone] = 9
    assert (nearest_kept(label_map, gone)[gone] == 5).all()
    filled = nearest_kept(label_map, gone, but=(5,))
    assert (filled[gone] == 2).all()
    assert np.array_equal(filled[~gone], label_map[~gone])
