"""The figures that say whether label maps look like people."""

import numpy as np
import pytest

from guidegen_data.anatomy import TORSO
from guidegen_data.metrics.plausibility import class_shapes, compare, mean_dice, neighbours, population, summary
from guidegen_data.sources.phantom import phantom

SPACING = TORSO.spacing_mm


@pytest.fixture(scope="module")
def people() -> list[np.ndarray]:
    return [phantom(np.random.default_rng(i), "abdomen")[0] for i in range(3)]


def cube(edge: int = 10) -> np.ndarray:
    label_map = np.zeros((32, 32, 32), np.uint8)
    label_map[4 : 4 + edge, 4 : 4 + edge, 4 : 4 + edge] = 3
    return label_map


def test_a_cube_has_its_volume_one_piece_and_six_faces() -> None:
    shape = class_shapes(cube(), TORSO, SPACING)["liver"]
    assert shape.volume_ml == pytest.approx(27.0)
    assert (shape.num_pieces, shape.roughness) == (1, pytest.approx(6.0))


def test_noise_on_the_border_is_rough_and_a_second_part_is_a_piece() -> None:
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random((32, 32, 32)) < 0.1, np.uint8(0), cube())
    assert class_shapes(noisy, TORSO, SPACING)["liver"].roughness > 8
    two = cube()
    two[20:24, 20:24, 20:24] = 3
    assert class_shapes(two, TORSO, SPACING)["liver"].num_pieces == 2


def test_neighbours_touch_over_a_gap_of_two_voxels_and_not_of_four() -> None:
    for gap, touch in ((0, True), (1, True), (4, False)):
        label_map = cube()
        label_map[14 + gap : 20 + gap, 4:14, 4:14] = TORSO.ids["gallbladder"]
        assert neighbours(label_map, TORSO) == {("liver", "gallbladder"): touch}


def test_a_population_compared_with_itself_has_no_error(people: list[np.ndarray]) -> None:
    held = population(people, TORSO, SPACING)
    assert held.num_maps == 3
    figures = summary(held, held)
    assert figures["volume_log2_error"] == figures["roughness_log2_error"] == 0
    assert figures["pieces_ratio"] == figures["classes_present"] == 1
    rows = compare(held, held)
    assert rows["liver"]["real_volume_ml"] == rows["liver"]["made_volume_ml"] > 500


def test_a_worse_population_is_told_apart(people: list[np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    real = population(people, TORSO, SPACING)
    broken = population([np.where(rng.random(p.shape) < 0.3, np.uint8(0), p) for p in people], TORSO, SPACING)
    figures = summary(real, broken)
    assert figures["volume_log2_error"] == pytest.approx(-np.log2(0.7), abs=0.1)
    assert figures["roughness_log2_error"] > 0.5


def test_dice_is_one_for_equal_maps_and_zero_for_disjoint_ones() -> None:
    assert mean_dice(cube(), cube(), 21) == 1
    assert mean_dice(cube(), np.roll(cube(), 12, axis=0), 21) == 0
    assert mean_dice(cube(), np.roll(cube(), 5, axis=0), 21) == pytest.approx(0.5)
