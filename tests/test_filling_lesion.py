"""Target volumes of a frame: large ones fill what is there around their site, in the volume that was asked for."""

import numpy as np
import pytest

from guidegen_data.anatomy import HEAD_NECK
from guidegen_data.grounding import settle_lesions
from guidegen_data.lesions import filling_lesion, find_lesions
from guidegen_data.reports.findings import Findings, Lesion

SPACING = HEAD_NECK.spacing_mm
SOFT_TISSUE, BONE, CORD = (HEAD_NECK.id_of(name) for name in ("soft tissue", "bone", "spinal cord"))


@pytest.fixture(scope="module")
def neck() -> np.ndarray:
    """A neck of 120 x 110 mm with a spine at its back, as long as the field."""
    x, y, _ = np.meshgrid(*[(np.arange(n) - n / 2) * s for n, s in zip(HEAD_NECK.shape, SPACING, strict=True)])
    label_map = np.zeros(HEAD_NECK.shape, np.uint8)
    x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
    label_map[(x / 60) ** 2 + (y / 55) ** 2 < 1] = SOFT_TISSUE
    label_map[x**2 + (y + 25) ** 2 < 14**2] = BONE
    label_map[x**2 + (y + 25) ** 2 < 6**2] = CORD
    return label_map


@pytest.mark.parametrize(
    ("side", "level", "size_mm"),
    [
        ("right hemineck", "middle third", 80),
        ("left hemineck", "middle third", 90),
        ("central neck", "lower third", 85),
        ("central neck", "middle third", 50),
    ],
)
def test_a_target_that_is_missing_gets_its_volume_at_its_side_and_level(
    neck: np.ndarray, side: str, level: str, size_mm: float
) -> None:
    asked = Findings(anatomy_name="head-neck", region="neck", lesions=(Lesion(side, level, size_mm),))
    held, added, _ = settle_lesions(neck, asked, SPACING, np.random.default_rng(0))
    assert added == list(asked.lesions)
    (found,) = find_lesions(held, HEAD_NECK, SPACING)
    assert (found.organ, found.site) == (side, level)
    assert found.size_mm == pytest.approx(size_mm, rel=0.15)
    assert (neck[held == HEAD_NECK.lesion_id] == SOFT_TISSUE).all()


def test_what_the_room_lacks_on_one_side_is_taken_on_the_other() -> None:
    room = np.zeros((40, 40, 40), bool)
    room[:20] = True
    zone = np.zeros_like(room)
    zone[17:20, 18:22, 18:22] = True
    lesion = filling_lesion(room, zone, 24.0, (2.0, 2.0, 2.0), np.random.default_rng(0))
    assert (lesion & ~room).sum() == 0
    assert lesion.sum() == pytest.approx(np.pi / 6 * 12**3, rel=0.02)


def test_without_a_place_there_is_no_lesion() -> None:
    room = np.ones((8, 8, 8), bool)
    assert filling_lesion(room, np.zeros_like(room), 10.0, (1.0, 1.0, 1.0), np.random.default_rng(0)) is None
