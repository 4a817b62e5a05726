"""Sites: what `site_mask` calls a place, `site_of` calls the same; both agree with lobes marked on real scans."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.errors import AnatomyError
from guidegen_data.sites import site_mask, site_of
from guidegen_data.sources.phantom import phantom
from guidegen_data.sources.volumes import read_volume

SPACING = (3.0, 3.0, 3.0)
REAL = ("abdomen_a", "chest_d", "s0327", "s0328")
DATA = Path(os.environ.get("GUIDEGEN_DATA", "")) / "torso"
HOSTS = [(organ.name, site) for organ in TORSO.organs for site in organ.sites]
CUT = {"s0327 pelvis": slice(0, 128), "s0327 belly": slice(50, 178), "s0327 chest": slice(-128, None)}
real_maps = pytest.mark.skipif(
    "GUIDEGEN_DATA" not in os.environ or not DATA.is_dir(), reason="GUIDEGEN_DATA names no folder with torso/"
)


@cache
def source(name: str) -> np.ndarray:
    """A real map at 3 mm in its own label ids."""
    volume = read_volume(DATA / f"{name}_label.nii.gz")
    factors = [s / 3 for s in volume.spacing_mm]
    return ndimage.zoom(volume.array, factors, order=0, mode="nearest", grid_mode=True)


@cache
def names() -> dict[int, str]:
    classes = json.loads((DATA / "totalsegmentator_v2_classes.json").read_text())
    return {int(k): v for k, v in classes.items()}


@cache
def torso(name: str) -> np.ndarray:
    """A phantom of a region, or a real map (a part of it after a space) in torso ids."""
    if name in TORSO.regions:
        return phantom(np.random.default_rng(7), name)[0]
    return TORSO.lookup(names())[0][source(name.split()[0])][:, :, CUT.get(name, slice(None))]


@cache
def depth(name: str, organ: str, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (N, 3) of a site and their distance in voxels to what is not the site (N,)."""
    voxels = np.argwhere(site_mask(torso(name), SPACING, organ, site))
    if not len(voxels):
        return voxels, np.zeros(0)
    low = voxels.min(axis=0) - 1
    box = np.zeros(voxels.max(axis=0) - low + 2, bool)
    inside = tuple((voxels - low).T)
    box[inside] = True
    return voxels, ndimage.distance_transform_edt(box)[inside]


def ball(shape: tuple[int, ...], centre: np.ndarray, radius: float) -> np.ndarray:
    x, y, z = (np.arange(n) - c for n, c in zip(shape, centre, strict=True))
    return (x * x)[:, None, None] + (y * y)[:, None] + z * z <= radius * radius


def placed_and_found(name: str, organ: str, site: str, radius: int, pick: float) -> None:
    labels = torso(name)
    voxels, voxels_deep = depth(name, organ, site)
    centres = voxels[voxels_deep > radius]
    if not len(centres):
        return
    lesion = ball(labels.shape, centres[int(pick * len(centres))], radius)
    grown = np.where(lesion, np.uint8(TORSO.lesion_id), labels)
    assert site_of(lesion, grown, SPACING) == (organ, site)
    assert np.array_equal(site_mask(grown, SPACING, organ, site), site_mask(labels, SPACING, organ, site) & ~lesion)


radii, picks = st.sampled_from([1, 1, 2, 3, 4, 6, 9]), st.floats(0, 1, exclude_max=True)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TORSO.regions), st.sampled_from(HOSTS), radii, picks)
def test_a_sphere_put_inside_a_site_is_found_there(name: str, host: tuple[str, str], radius: int, pick: float) -> None:
    placed_and_found(name, *host, radius, pick)


@real_maps
@settings(max_examples=40, deadline=None)
@given(st.sampled_from((*REAL[:2], REAL[3], *CUT)), st.sampled_from(HOSTS), radii, picks)
def test_a_sphere_put_inside_a_site_of_a_real_patient_is_found_there(
    name: str, host: tuple[str, str], radius: int, pick: float
) -> None:
    placed_and_found(name, *host, radius, pick)


def test_every_site_of_an_organ_in_the_region_takes_a_lesion() -> None:
    deepest = {host: max(depth(region, *host)[1].max(initial=0) for region in TORSO.regions) for host in HOSTS}
    assert {host for host, voxels in deepest.items() if voxels <= 1} == set()


@pytest.mark.parametrize("region", TORSO.regions)
def test_the_sites_of_a_class_share_out_its_voxels(region: str) -> None:
    labels = torso(region)
    for class_id in {TORSO.ids[TORSO.organ[organ].class_name] for organ, _ in HOSTS}:
        shares = [site_mask(labels, SPACING, *h) for h in HOSTS if TORSO.ids[TORSO.organ[h[0]].class_name] == class_id]
        assert np.array_equal(np.sum(shares, axis=0), labels == class_id), TORSO.classes[class_id].name


@pytest.mark.parametrize("organ", ["kidney", "adrenal gland", "lung"])
def test_a_mirrored_patient_has_the_sides_swapped(organ: str) -> None:
    labels = torso("abdomen")
    left = site_mask(labels, SPACING, f"left {organ}", "")
    assert left.any()
    assert np.array_equal(site_mask(labels[::-1], SPACING, f"right {organ}", "")[::-1], left)


def test_without_a_spine_the_middle_of_the_body_parts_the_sides() -> None:
    labels = torso("abdomen")
    bare = np.where(labels == TORSO.ids["vertebrae"], 0, labels)
    left, bare_left = (site_mask(m, SPACING, "left kidney", "") for m in (labels, bare))
    assert np.array_equal(left, bare_left)


def test_without_gallbladder_and_vena_cava_the_liver_still_has_two_lobes() -> None:
    labels = torso("abdomen")
    landmarks = [TORSO.ids["gallbladder"], TORSO.ids["inferior vena cava"]]
    right, bare = (
        site_mask(m, SPACING, "liver", "right lobe")
        for m in (labels, np.where(np.isin(labels, landmarks), 0, labels).astype(np.uint8))
    )
    assert 2 * (right & bare).sum() > 0.85 * (right.sum() + bare.sum())


def test_a_field_that_ends_above_the_pelvis_shows_no_rectum() -> None:
    labels = torso("abdomen and pelvis")
    assert site_mask(labels, SPACING, "colon", "rectum").any()
    assert not site_mask(labels[:, :, 64:], SPACING, "colon", "rectum").any()
    assert not site_mask(labels[:, :, 64:], SPACING, "colon", "sigmoid").any()


def test_a_lesion_that_takes_the_end_of_an_organ_moves_no_site() -> None:
    labels = np.zeros((80, 30, 30), np.uint8)
    labels[10:70, 12:18, 12:18] = TORSO.ids["pancreas"]
    lesion = labels > 0
    lesion[24:] = False
    grown = np.where(lesion, TORSO.lesion_id, labels)
    assert site_of(lesion, grown, SPACING) == ("pancreas", "tail")
    for site in ("head", "body", "tail"):
        before, after = (site_mask(m, SPACING, "pancreas", site) for m in (labels, grown))
        assert np.array_equal(after, before & ~lesion)


def test_a_bulky_neighbour_does_not_outvote_the_thin_organ_around_a_small_lesion() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    lesion = ball(labels.shape, np.array([20, 20, 20]), 1)
    shell = np.argwhere(ndimage.binary_dilation(lesion) & ~lesion)
    labels[tuple(shell[:8].T)] = TORSO.ids["adrenal gland"]
    labels[tuple(shell[8:].T)] = TORSO.ids["liver"]
    assert "adrenal" in site_of(lesion, labels, SPACING)[0]
    labels[tuple(shell[2:].T)] = TORSO.ids["liver"]
    assert site_of(lesion, labels, SPACING)[0] == "liver"


def test_a_lesion_that_touches_no_organ_belongs_to_the_nearest() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[2:8, 10:30, 10:30] = TORSO.ids["spleen"]
    labels[34:38, 10:30, 10:30] = TORSO.ids["liver"]
    lesion = ball(labels.shape, np.array([16, 20, 20]), 2)
    assert site_of(lesion, labels, SPACING) == ("spleen", "")
    assert site_of(np.roll(lesion, 10, axis=0), labels, SPACING)[0] == "liver"


def test_what_cannot_have_a_site_is_refused_in_a_sentence() -> None:
    labels = torso("abdomen")
    lesion = labels == TORSO.ids["gallbladder"]
    with pytest.raises(AnatomyError, match="sites 'right lobe', 'left lobe', not 'tail'"):
        site_mask(labels, SPACING, "liver", "tail")
    with pytest.raises(AnatomyError, match="at least one voxel"):
        site_of(np.zeros_like(lesion), labels, SPACING)
    with pytest.raises(AnatomyError, match="no organ that may hold a lesion"):
        site_of(lesion, np.where(lesion, labels, 0), SPACING)
    with pytest.raises(AnatomyError, match="no organ that may hold a lesion"):
        site_of(lesion, np.minimum(labels, 7), SPACING, replace(HEAD_NECK, frame=None, organs=HEAD_NECK.organs[:7]))


@real_maps
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", REAL)
def test_sides_and_lung_lobes_agree_with_those_marked_on_a_real_scan(name: str, side: str) -> None:
    labels, marked = torso(name), {v: k for k, v in names().items()}
    for organ in ("kidney", "adrenal_gland"):
        true = source(name) == marked[f"{organ}_{side}"]
        found = site_mask(labels, SPACING, f"{side} {organ.replace('_', ' ')}", "")
        assert 2 * (true & found).sum() >= 0.99 * (true.sum() + found.sum()) > 0
    lobes = [
        marked[f"lung_{lobe}_lobe_{side}"]
        for lobe in ("upper", "middle", "lower")
        if (lobe, side) != ("middle", "left")
    ]
    lower, lung = source(name) == lobes[-1], np.isin(source(name), lobes)
    found = site_mask(labels, SPACING, f"{side} lung", "lower lobe")
    assert (found == lower)[lung].mean() > 0.87
