"""What the adherence benchmark counts: organs found where a label map says, each against its own outline."""

import numpy as np
import pytest

from benchmarks.adherence import Found, dices, shifted, table
from guidegen_data import HEAD_NECK

CORD, PTV = HEAD_NECK.id_of("spinal cord"), HEAD_NECK.lesion_id


@pytest.fixture
def cord() -> np.ndarray:
    label_map = np.zeros((32, 32, 32), dtype=np.uint8)
    label_map[10:20, 10:20, 4:28] = CORD
    return label_map


def test_an_organ_found_where_it_is_said_to_be_scores_one_and_five_mm_off_half(cord) -> None:
    assert dices(cord, cord, HEAD_NECK) == {CORD: 1.0}
    assert dices(cord, shifted(cord, (1.0, 1.0, 1.0)), HEAD_NECK) == {CORD: 0.5}


def test_what_lies_under_a_lesion_is_neither_missed_nor_false(cord) -> None:
    hidden = cord.copy()
    hidden[:, :, 16:] = PTV
    assert dices(cord, hidden, HEAD_NECK) == {CORD: 1.0}


def test_organs_that_a_label_map_lacks_are_not_scored(cord) -> None:
    assert dices(cord, np.zeros_like(cord), HEAD_NECK) == {}


def test_the_drop_is_what_a_generated_ct_shows_less_than_the_real_one() -> None:
    found = Found([{CORD: 0.8}, {CORD: 0.6}], [{CORD: 0.6}, {CORD: 0.6}], [{CORD: 0.3}] * 2, [{CORD: 0.1}, {}])
    rows = table(found, HEAD_NECK)
    assert rows["organs"] == {
        "spinal cord": {"N": 2, "real": 0.7, "generated": 0.6, "shifted": 0.3, "exchanged": 0.1, "drop": 0.1}
    }
    assert rows["mean_over_organs"]["drop"] == 0.1
