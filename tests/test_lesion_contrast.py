"""A lesion is as bright as its report says, against the organ it lies in, and never as its organ by default."""

import numpy as np
import pytest

from guidegen_data.anatomy import TORSO
from guidegen_data.lesion_contrast import attenuation, hold_lesion_hu, offset_hu
from guidegen_data.lesions import find_lesions
from guidegen_data.reports.findings import Findings, Lesion

LIVER, SPLEEN, LUNG = (TORSO.id_of(name) for name in ("liver", "spleen", "lung"))
PLACES = {"spleen": (SPLEEN, (20, 20, 20)), "liver": (LIVER, (20, 60, 20)), "right lung": (LUNG, (70, 20, 20))}


def scene(organ: str) -> tuple[np.ndarray, np.ndarray]:
    """Three organs, one with a lesion of 9 voxels that is no brighter than it; HU and labels."""
    labels = np.zeros((96, 96, 48), np.uint8)
    ct = np.full(labels.shape, -100, np.int16)
    for label, (x, y, z) in PLACES.values():
        labels[x - 12 : x + 13, y - 12 : y + 13, z - 12 : z + 13] = label
    for label, hu in ((SPLEEN, 120), (LIVER, 100), (LUNG, -850)):
        ct[labels == label] = hu
    grid = np.indices(labels.shape) - np.array(PLACES[organ][1])[:, None, None, None]
    labels[(grid**2).sum(axis=0) <= 4.5**2] = TORSO.lesion_id
    noise = np.random.default_rng(0).normal(0, 6, labels.shape)
    return np.rint(ct + noise).astype(np.int16), labels


def held(organ: str, word: str = "", seed: int = 0, phase: str = "portal venous") -> tuple[np.ndarray, np.ndarray, str]:
    """CT and labels with the lesion held to a word, and the word that is found on them."""
    ct, labels = scene(organ)
    (found,) = find_lesions(labels, TORSO, TORSO.spacing_mm)
    region = next(r for r, organs in TORSO.region_organs.items() if found.organ in organs)
    findings = Findings(region=region, phase=phase, lesions=(Lesion(found.organ, found.site, 27.0, word),))
    out = hold_lesion_hu(ct, labels, findings, np.random.default_rng(seed))
    return out, labels, attenuation(found, out, labels, TORSO)


@pytest.mark.parametrize("word", ["hypodense", "isodense", "hyperdense"])
@pytest.mark.parametrize("organ", ["spleen", "liver"])
def test_a_lesion_shows_the_word_it_was_told(organ: str, word: str) -> None:
    assert [held(organ, word, seed)[2] for seed in range(6)] == [word] * 6


def test_without_a_word_lesions_differ_from_case_to_case_and_most_are_darker() -> None:
    words = [held("spleen", seed=seed)[2] for seed in range(30)]
    assert words.count("hypodense") > 14
    assert words.count("hyperdense") > 0
    bright = [held("spleen", seed=seed, phase="arterial")[2] for seed in range(30)]
    assert bright.count("hyperdense") > words.count("hyperdense")


def test_a_mass_in_air_is_soft_tissue_and_nothing_else_is_touched() -> None:
    before, labels = scene("right lung")
    after, labels, word = held("right lung")
    mass = labels == TORSO.lesion_id
    assert 50 < np.median(after[mass]) < 110
    assert word == ""
    elsewhere = ~mass & (labels != LUNG)
    assert np.array_equal(after[elsewhere], before[elsewhere])


def test_texture_is_kept_and_the_border_is_blended() -> None:
    before, labels = scene("liver")
    after, _, _ = held("liver", "hypodense")
    mass = labels == TORSO.lesion_id
    assert after[mass].std() == pytest.approx(before[mass].std(), abs=6)
    step = np.abs(np.diff(after.astype(int), axis=0))[(labels[1:] > 0) & (labels[:-1] > 0)]
    assert step.max() < 90


def test_target_volumes_stay_as_they_are(head_neck_scene) -> None:
    ct, labels, findings = head_neck_scene
    assert np.array_equal(hold_lesion_hu(ct, labels, findings, np.random.default_rng(0)), ct)


@pytest.fixture
def head_neck_scene() -> tuple[np.ndarray, np.ndarray, Findings]:
    """A target volume in the soft tissue of a neck, told to be at the side that it is at."""
    from guidegen_data.anatomy import anatomy_named

    anatomy = anatomy_named("head-neck")
    labels = np.zeros(anatomy.shape, np.uint8)
    labels[30:100, 30:100] = anatomy.id_of(anatomy.frame.host)
    labels[60:70, 60:70, 50:60] = anatomy.lesion_id
    ct = np.where(labels > 0, 40, -1000).astype(np.int16)
    return ct, labels, Findings(region=anatomy.regions[0], anatomy_name="head-neck")


def test_offsets_are_those_of_their_word() -> None:
    rng = np.random.default_rng(0)
    for word, low, high in (("hypodense", -65, -25), ("isodense", -10, 10), ("hyperdense", 25, 70)):
        assert all(low <= offset_hu(word, "", rng)[1] <= high for _ in range(20))
