"""The procedural torso is a believable patient: every organ there, in its place, of its size and density."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from guidegen_data.anatomy import TORSO
from guidegen_data.case import Case, centred_affine
from guidegen_data.errors import SourceError
from guidegen_data.reports.findings import Findings
from guidegen_data.sources.phantom import _canvas, phantom

PATIENTS = [(region, seed) for region in TORSO.regions for seed in (1, 2, 3)]
TUBES = {"aorta", "inferior vena cava", "esophagus", "portal and splenic vein"}
PAIRED = {"kidney", "lung", "adrenal gland", "rib", "vertebrae"}
everyone = pytest.mark.parametrize(("region", "seed"), PATIENTS)


@cache
def patient(region: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return phantom(np.random.default_rng(seed), region)


def shown(labels: np.ndarray) -> dict[str, np.ndarray]:
    return {c.name: labels == c.id for c in TORSO.classes[1:] if (labels == c.id).any()}


def whole(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The classes that the field cuts neither below nor above."""
    return {k: v for k, v in shown(labels).items() if not (v[:, :, 0].any() or v[:, :, -1].any())}


def middle(labels: np.ndarray, name: str) -> np.ndarray:
    return np.argwhere(labels == TORSO.ids[name]).mean(axis=0)


@everyone
def test_every_organ_that_a_report_may_name_in_the_region_is_there_and_no_tumour(region: str, seed: int) -> None:
    there = set(shown(patient(region, seed)[0]))
    assert {TORSO.organ[name].class_name for name in TORSO.region_organs[region]} | {"vertebrae", "rib"} <= there
    assert "tumour" not in there


@everyone
def test_an_organ_wholly_in_the_field_has_a_plausible_volume(region: str, seed: int) -> None:
    organs = whole(patient(region, seed)[0])
    assert len(organs) > 7
    for name, mask in organs.items():
        low, high = TORSO.classes[TORSO.ids[name]].volume_ml
        assert low <= mask.sum() * 0.027 <= high, name


@everyone
def test_the_mean_density_of_every_class_is_plausible(region: str, seed: int) -> None:
    labels, ct_hu = patient(region, seed)
    for name, mask in shown(labels).items():
        low, high = TORSO.classes[TORSO.ids[name]].hu
        assert low <= ct_hu[mask].mean() <= high, name


@everyone
def test_an_unpaired_organ_is_one_piece(region: str, seed: int) -> None:
    labels = patient(region, seed)[0]
    organs = {k: v for k, v in whole(labels).items() if k not in PAIRED}
    assert len(organs) > 4
    for name, mask in organs.items():
        pieces, _ = ndimage.label(mask, np.ones((3, 3, 3)))
        assert np.bincount(pieces.ravel())[1:].max() > (0.9 if name in TUBES else 0.95) * mask.sum(), name


@everyone
def test_organs_lie_on_their_sides_of_the_patient(region: str, seed: int) -> None:
    labels = patient(region, seed)[0]
    x, y, z = ({n: middle(labels, n)[axis] for n in shown(labels)} for axis in range(3))
    assert x["liver"] > x["inferior vena cava"] > x["aorta"] > x["stomach"] > x["spleen"]
    assert x["gallbladder"] > x["vertebrae"] > x["heart"]
    assert y["aorta"] > y["vertebrae"] < y["kidney"] + 12
    assert y["pancreas"] > y["portal and splenic vein"] - 2
    assert z["lung"] > z["liver"] > z["kidney"]
    assert z["adrenal gland"] > z["kidney"]
    assert z["heart"] > z["stomach"] > z["duodenum"]


@everyone
def test_the_diaphragm_parts_lung_from_belly(region: str, seed: int) -> None:
    labels = patient(region, seed)[0]
    z = np.arange(labels.shape[2])
    lung = np.where(labels == TORSO.ids["lung"], z, 999).min(axis=2)
    belly = np.where(np.isin(labels, [TORSO.ids[n] for n in ("liver", "spleen", "stomach")]), z, -1).max(axis=2)
    both = (lung < 999) & (belly >= 0)
    assert both.sum() > 500
    assert (lung[both] <= belly[both]).mean() < 0.02


@given(st.sampled_from(TORSO.regions), st.integers(0, 99), st.tuples(*[st.integers(3, 28)] * 3))
@settings(max_examples=20, deadline=None)
def test_tubes_are_drawn_where_the_warped_frame_says(region: str, seed: int, voxel: tuple[int, int, int]) -> None:
    canvas = _canvas(np.random.default_rng(seed), region, (32, 32, 32), 12.0)
    place = canvas.place_mm[(slice(None), *voxel)]
    assert np.allclose(canvas.voxels(place[None]), voxel, atol=0.1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_pelvis_lies_below_the_bowel_and_the_chest_reaches_the_neck(seed: int) -> None:
    pelvis, chest = patient("abdomen and pelvis", seed)[0], patient("chest", seed)[0]
    bladder, bowel, kidneys = (middle(pelvis, name) for name in ("urinary bladder", "small bowel", "kidney"))
    assert bladder[2] < bowel[2] < kidneys[2]
    assert bowel[1] > kidneys[1]
    apex = np.argwhere(chest == TORSO.ids["lung"])[:, 2].max()
    assert 100 < apex < 124
    assert np.argwhere(chest == TORSO.ids["vertebrae"])[:, 2].max() > apex


@everyone
def test_a_phantom_is_a_case(region: str, seed: int) -> None:
    labels, ct_hu = patient(region, seed)
    case = Case("p", ct_hu, labels, centred_affine(labels.shape, (3, 3, 3)), "", Findings(region=region))
    assert case.ct_hu[0, 0, 64] < -900  # air around the patient


@pytest.mark.parametrize("region", TORSO.regions)
def test_the_seed_alone_makes_the_patient(region: str) -> None:
    again = phantom(np.random.default_rng(1), region)
    assert all(np.array_equal(a, b) for a, b in zip(again, patient(region, 1), strict=True))
    assert (patient(region, 1)[0] != patient(region, 2)[0]).mean() > 0.02


@pytest.mark.parametrize("region", TORSO.regions)
def test_a_coarser_grid_shows_the_same_patient(region: str) -> None:
    coarse, _ = phantom(np.random.default_rng(1), region, (64, 64, 64), 6.0)
    fine = patient(region, 1)[0]
    large = [n for n, mask in shown(fine).items() if mask.sum() * 0.027 > 120 and n not in {"rib", "vertebrae"}]
    assert len(large) > 5
    for name in large:
        value = TORSO.ids[name]
        assert (coarse == value).sum() * 8 == pytest.approx((fine == value).sum(), rel=0.12), name


def test_a_field_that_is_no_cube_is_drawn_too() -> None:
    labels, ct_hu = phantom(np.random.default_rng(0), "abdomen", (70, 60, 40), 6.0)
    assert labels.shape == ct_hu.shape == (70, 60, 40)
    assert {"liver", "spleen", "heart"} <= set(shown(labels))


def test_another_region_is_refused_by_name() -> None:
    with pytest.raises(SourceError, match="abdomen and pelvis, not 'head'"):
        phantom(np.random.default_rng(0), "head")
