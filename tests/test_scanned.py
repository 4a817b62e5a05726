"""A scan is one run of slices that show a body: what a label map has outside of it is no part of the patient."""

import numpy as np

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.scanned import body_slices, only_scanned

SPACING = (5.0, 5.0, 5.0)
CORD, TISSUE = HEAD_NECK.ids["spinal cord"], HEAD_NECK.ids["soft tissue"]


def neck(*runs: tuple[int, int]) -> np.ndarray:
    """A cord through all slices, and a body of 100 cm2 in those of the runs."""
    labels = np.zeros((40, 40, 40), np.uint8)
    for first, last in runs:
        labels[10:30, 10:30, first:last] = TISSUE
    labels[19:21, 19:21] = CORD
    return labels


def test_the_rim_above_and_below_and_the_smaller_piece_are_taken_out() -> None:
    labels = neck((3, 6), (10, 30))
    assert body_slices(labels > 0, SPACING) == slice(10, 30)
    kept, lost = only_scanned(labels, HEAD_NECK, SPACING)
    assert np.array_equal(kept[:, :, 10:30], labels[:, :, 10:30])
    assert not np.delete(kept, np.arange(10, 30), axis=2).any()
    assert lost == np.count_nonzero(labels) - np.count_nonzero(kept) == 3 * 400 + 17 * 4
    again, nothing = only_scanned(kept, HEAD_NECK, SPACING)
    assert np.array_equal(again, kept)
    assert nothing == 0


def test_what_shows_no_body_at_all_or_has_no_tissues_stays() -> None:
    for labels, anatomy in ((neck(), HEAD_NECK), (neck((10, 30)), TORSO), (neck((0, 40)), HEAD_NECK)):
        kept, lost = only_scanned(labels, anatomy, SPACING)
        assert np.array_equal(kept, labels)
        assert lost == 0
