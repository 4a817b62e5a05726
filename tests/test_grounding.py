"""Label maps held to their findings: nothing forbidden, nothing asked for left out, and what was added is counted."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny import tiny_pipeline

from guidegen_data.anatomy import TORSO
from guidegen_data.diffusion.categorical import one_hot
from guidegen_data.grounding import LesionPlacer, forbidden_classes, settle_lesions
from guidegen_data.lesions import MAX_PLACED, find_lesions
from guidegen_data.organ_sizes import size_lean
from guidegen_data.reports.findings import MAX_LESIONS, Findings, Lesion
from guidegen_data.reports.shortening import unsized
from guidegen_data.sources.phantom import phantom

SPACING = TORSO.spacing_mm
SITES = [("liver", "right lobe"), ("colon", "sigmoid"), ("right kidney", ""), ("pancreas", "tail"), ("spleen", "")]


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    label_map, _ = phantom(np.random.default_rng(0), "abdomen and pelvis")
    return np.where(label_map == TORSO.lesion_id, np.uint8(0), label_map)


@pytest.mark.parametrize(("organ", "site"), SITES)
def test_a_missing_lesion_is_added_at_its_site_and_in_its_size(body: np.ndarray, organ: str, site: str) -> None:
    asked = Findings(lesions=(Lesion(organ, site, 22.0),))
    held, added, _ = settle_lesions(body, asked, SPACING, np.random.default_rng(1))
    assert added == list(asked.lesions)
    (found,) = find_lesions(held, TORSO, SPACING)
    assert (found.organ, found.site) == (organ, site)
    assert found.size_mm == pytest.approx(22, rel=0.35)
    assert np.array_equal(held[held != TORSO.lesion_id], body[held != TORSO.lesion_id])


def test_a_lesion_that_is_there_is_left_as_it_is(body: np.ndarray) -> None:
    asked = Findings(lesions=(Lesion("liver", "right lobe", 25.0),))
    held, _, _ = settle_lesions(body, asked, SPACING, np.random.default_rng(1))
    again, added, num_strays = settle_lesions(held, asked, SPACING, np.random.default_rng(2))
    assert (added, num_strays) == ([], 0)
    assert np.array_equal(again, held)


def test_a_lesion_at_a_site_nobody_asked_for_is_given_back(body: np.ndarray) -> None:
    wrong = Findings(lesions=(Lesion("spleen", "", 20.0),))
    held, _, _ = settle_lesions(body, wrong, SPACING, np.random.default_rng(1))
    asked = Findings(lesions=(Lesion("liver", "left lobe", 20.0),))
    mended, added, num_strays = settle_lesions(held, asked, SPACING, np.random.default_rng(1))
    assert (len(added), num_strays) == (1, 1)
    assert [(f.organ, f.site) for f in find_lesions(mended, TORSO, SPACING)] == [("liver", "left lobe")]
    assert (mended == TORSO.ids["spleen"]).sum() == pytest.approx((body == TORSO.ids["spleen"]).sum(), rel=0.02)


def test_of_two_lesions_at_a_site_where_one_was_asked_for_the_larger_stays(body: np.ndarray) -> None:
    pair = Findings(lesions=(Lesion("liver", "right lobe", 30.0), Lesion("liver", "right lobe", 14.0)))
    held, added, _ = settle_lesions(body, pair, SPACING, np.random.default_rng(1))
    assert len(added) == len(find_lesions(held, TORSO, SPACING)) == 2
    asked = Findings(lesions=pair.lesions[:1])
    mended, added, num_strays = settle_lesions(held, asked, SPACING, np.random.default_rng(1))
    assert (added, num_strays) == ([], 1)
    (left,) = find_lesions(mended, TORSO, SPACING)
    assert left.size_mm == pytest.approx(30, rel=0.35)


def test_a_lesion_of_an_organ_that_is_not_in_the_map_cannot_be_added(body: np.ndarray) -> None:
    without = np.where(body == TORSO.ids["spleen"], np.uint8(0), body)
    asked = Findings(lesions=(Lesion("spleen", "", 20.0),))
    held, added, _ = settle_lesions(without, asked, SPACING, np.random.default_rng(1))
    assert added == []
    assert (held == TORSO.lesion_id).sum() == 0


def test_an_absent_organ_is_forbidden_on_its_own_side_and_lesions_where_none_is_asked() -> None:
    findings = Findings(organs={"left kidney": "absent", "gallbladder": "absent", "liver": "enlarged"})
    forbidden = forbidden_classes(findings, 8)
    assert forbidden[TORSO.ids["kidney"]].tolist() == [True] * 4 + [False] * 4
    assert forbidden[TORSO.ids["gallbladder"]].all()
    assert forbidden[TORSO.lesion_id].all()
    assert forbidden.sum() == 4 + 8 + 8
    assert not forbidden_classes(Findings(lesions=(Lesion("spleen", "", 20.0),)), 8).any()


def test_what_is_forbidden_never_appears_in_a_sampled_map() -> None:
    pipe = tiny_pipeline()
    findings = Findings(organs={"right kidney": "absent", "spleen": "absent"})
    told = pipe.condition([findings])
    free = pipe.sample_masks(told, [torch.Generator().manual_seed(0)])
    forbidden = torch.from_numpy(forbidden_classes(findings, 16)).unsqueeze(0)
    held = pipe.sample_masks(told, [torch.Generator().manual_seed(0)], forbidden=forbidden)
    kidney, spleen = TORSO.ids["kidney"], TORSO.ids["spleen"]
    assert (free == spleen).any()
    assert (free[:, 68:] == kidney).any()
    assert not (held == spleen).any()
    assert not (held[:, 68:] == kidney).any()
    assert (held[:, :60] == kidney).any()


def test_a_graded_organ_leans_on_its_own_side_and_takes_more_or_less_room() -> None:
    pipe = tiny_pipeline()
    findings = Findings(organs={"right kidney": "enlarged", "spleen": "small", "left kidney": "normal"})
    lean = size_lean(findings, 16, 1.5)
    kidney, spleen = TORSO.ids["kidney"], TORSO.ids["spleen"]
    assert lean[kidney].tolist() == [0] * 8 + [1.5] * 8
    assert (lean[spleen] == -1.5).all()
    assert np.count_nonzero(lean) == 8 + 16
    told = pipe.condition([findings])
    volumes = []
    for strength in (0.0, 1.5):
        lean = torch.from_numpy(size_lean(findings, 16, strength)).unsqueeze(0)
        drawn = pipe.sample_masks(told, [torch.Generator().manual_seed(0)], lean=lean)
        volumes.append((int((drawn[:, 68:] == kidney).sum()), int((drawn == spleen).sum())))
    assert volumes[1][0] > volumes[0][0]
    assert volumes[1][1] < volumes[0][1]


def test_stage_one_reads_no_graded_size_in_words() -> None:
    asked = Findings(organs={"gallbladder": "enlarged", "spleen": "absent"}, region="abdomen")
    assert unsized(asked) == Findings(organs={"spleen": "absent"}, region="abdomen")
    assert "enlarged" in asked.prompt()


def test_lesions_are_placed_once_at_their_sites_and_not_before_their_time(body: np.ndarray) -> None:
    asked = Findings(
        lesions=(Lesion("liver", "right lobe", 30.0), Lesion("right lung", "upper lobe", 10.0)), region="abdomen"
    )
    labels = torch.from_numpy(body[::2, ::2, ::2])[None]
    belief = one_hot(labels, TORSO.num_classes).expand(2, -1, -1, -1, -1)
    placer = LesionPlacer([asked, Findings()], [3, 4], TORSO.field_mm, latest=0.7)
    assert placer(0.8, belief) is None
    placed = placer(0.6, belief)
    assert placed is not None
    anchors, new = placed.anchors, placed.new
    assert placed.push.max() <= 5
    assert anchors.shape == new.shape == (2, 64, 64, 64)
    assert not new[1].any()
    liver = belief[0, TORSO.ids["liver"]] > 0
    assert liver[new[0]].float().mean() > 0.5
    assert placed.push[0][liver].median() == 0
    assert placed.push[0][anchors[0] > 0.9].min() == pytest.approx((40 / 30) ** 1.4, rel=0.1)  # the larger of the two
    assert not anchors[1].any()
    assert liver[anchors[0] > 0.9].float().mean() > 0.6
    assert placer.places[0, 0, 3] == pytest.approx(5.0)
    assert placer(0.5, belief) is None  # both lie where they lie; or the lung's upper lobe is not in this field


def test_a_place_depends_on_the_seed_alone(body: np.ndarray) -> None:
    asked = Findings(lesions=(Lesion("liver", "right lobe", 30.0),))
    belief = one_hot(torch.from_numpy(body[::2, ::2, ::2])[None], TORSO.num_classes)
    one, again, other = (
        LesionPlacer([asked], [seed], TORSO.field_mm, latest=1.0)(0.5, belief).anchors for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_an_organ_that_is_nowhere_the_likeliest_still_gets_its_lesion(body: np.ndarray) -> None:
    belief = one_hot(torch.from_numpy(body[::2, ::2, ::2])[None], TORSO.num_classes)
    spleen = belief[:, TORSO.ids["spleen"]] > 0
    belief = torch.where(spleen[:, None], 0.0, belief)
    belief[:, 0][spleen], belief[:, TORSO.ids["spleen"]][spleen] = 0.8, 0.2
    asked = Findings(lesions=(Lesion("spleen", "", 20.0),))
    placed = LesionPlacer([asked], [1], TORSO.field_mm, latest=1.0)(0.9, belief)
    assert placed is not None
    assert spleen[placed.new].float().mean() > 0.6


def test_a_mass_that_swallows_its_gland_keeps_a_rim_of_it_where_it_was_anchored(body: np.ndarray) -> None:
    left = np.arange(128)[:, None, None] < 64
    gland = TORSO.ids["adrenal gland"]
    place = np.argwhere((body == gland) & left).mean(axis=0)
    without = np.where((body == gland) & left, np.uint8(0), body)
    asked = Findings(region="abdomen", lesions=(Lesion("left adrenal gland", "", 24.0),))
    rng = np.random.default_rng(0)
    assert settle_lesions(without, asked, TORSO.spacing_mm, rng)[1] == []
    nowhere = np.full((MAX_LESIONS, 3), np.nan)
    assert settle_lesions(without, asked, TORSO.spacing_mm, rng, nowhere)[1] == []
    places = nowhere.copy()
    places[0] = place
    made, added, _ = settle_lesions(without, asked, TORSO.spacing_mm, rng, places)
    assert added == list(asked.lesions)
    (found,) = find_lesions(made, TORSO, TORSO.spacing_mm)
    assert found.organ == "left adrenal gland"
    assert found.size_mm == pytest.approx(24, rel=0.35)
    assert ((made == gland) & left).any()
    changed = made != without
    assert set(without[changed]) <= {0, gland}  # no other organ gives anything
    assert np.linalg.norm((np.argwhere(changed) - place) * 3.0, axis=1).max() < 40


def test_places_are_told_in_voxels_of_the_label_map(body: np.ndarray) -> None:
    asked = Findings(lesions=(Lesion("liver", "right lobe", 30.0),), region="abdomen")
    belief = one_hot(torch.from_numpy(body[::2, ::2, ::2])[None], TORSO.num_classes)
    placer = LesionPlacer([asked], [3], TORSO.field_mm, latest=0.7)
    assert np.isnan(placer.places_in(0, (128, 128, 128))).all()
    placer(0.6, belief)
    x, y, z = placer.places_in(0, (128, 128, 128))[0].round().astype(int)
    assert body[x, y, z] == TORSO.ids["liver"]
    assert np.isnan(placer.places_in(0, (128, 128, 128))[1:]).all()


def test_a_map_full_of_specks_is_searched_in_seconds_and_its_smaller_ones_have_no_site(body: np.ndarray) -> None:
    spotted = body.copy()
    spotted[::6, ::6, ::6] = TORSO.lesion_id
    spotted[1::6, ::6, ::6] = TORSO.lesion_id
    spotted[::6, 1::6, ::6] = TORSO.lesion_id
    spotted[::6, ::6, 1::6] = TORSO.lesion_id
    spotted[80:86, 60:66, 66:72] = TORSO.lesion_id
    found = find_lesions(spotted, TORSO, SPACING)
    assert len(found) == MAX_PLACED + 1
    assert found[0].mask.sum() == max(f.mask.sum() for f in found[:-1])
    assert (found[-1].organ, found[-1].site) == ("", "")
    assert sum(int(f.mask.sum()) for f in found) == int((spotted == TORSO.lesion_id).sum())


@pytest.mark.parametrize(("site", "size_mm", "thinner"), [("tail", 45.0, 3), ("body", 40.0, 2), ("head", 45.0, 3)])
def test_a_mass_too_large_for_its_site_bulges_out_of_the_organ(body, site: str, size_mm: float, thinner: int) -> None:
    pancreas = TORSO.ids["pancreas"]
    asked = Findings(region="abdomen", lesions=(Lesion("pancreas", site, size_mm),))
    rest = body.copy()
    thin = ndimage.binary_erosion(body == pancreas, iterations=thinner)
    rest[ndimage.binary_dilation(body == pancreas, iterations=12) & ~thin] = 0  # room for it
    made, added, _ = settle_lesions(rest, asked, TORSO.spacing_mm, np.random.default_rng(0))
    assert added == list(asked.lesions)
    (found,) = find_lesions(made, TORSO, TORSO.spacing_mm)
    assert (found.organ, found.site) == ("pancreas", site)
    assert found.size_mm == pytest.approx(size_mm, rel=0.35)
    assert int((found.mask & (rest == 0)).sum()) > 0  # beyond the gland
    border = ndimage.binary_dilation(found.mask) & ~found.mask
    assert pancreas in made[border]
    assert set(rest[made != rest]) <= {0, pancreas}
