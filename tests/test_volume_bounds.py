"""Sizes in words become volumes: what a belief expects is moved into the bounds, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.case import Draft, centred_affine
from guidegen_data.grounding import settle_lesions
from guidegen_data.models.upsampling import upsample_keeping_volumes
from guidegen_data.models.volume_bounds import VolumeBound, hold_volumes
from guidegen_data.organ_sizes import size_bounds, size_lean
from guidegen_data.quality import verdict_before_ct
from guidegen_data.reports.findings import Findings

EVERYWHERE = torch.ones(8, dtype=torch.bool)


def beliefs() -> torch.Tensor:
    """Of two cases, three classes, 8^3 voxels; unsure everywhere."""
    logits = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(3)) * 2
    return logits.softmax(dim=1)


@pytest.mark.parametrize(("least", "most"), [(300.0, 400.0), (20.0, 60.0)])
def test_the_expected_volume_moves_into_its_bound(least: float, most: float) -> None:
    before = beliefs()
    expected = float(before[0, 1].sum())
    assert not least <= expected <= most
    after = hold_volumes(before.clone(), [[VolumeBound(1, EVERYWHERE, least, most)], []])
    wanted = least if expected < least else most
    assert float(after[0, 1].sum()) == pytest.approx(wanted, rel=1e-3)
    assert torch.allclose(after.sum(dim=1), torch.ones(2, 8, 8, 8), atol=1e-5)
    assert torch.equal(after[1], before[1])
    # The others keep their shares of what is left, and no voxel is made likelier than one it was less likely than.
    assert torch.allclose(after[0, 0] / after[0, 2], before[0, 0] / before[0, 2], rtol=1e-3)
    assert torch.equal(after[0, 1].flatten().argsort(), before[0, 1].flatten().argsort())


def test_a_volume_within_its_bound_is_left_as_it_is() -> None:
    before = beliefs()
    expected = float(before[0, 1].sum())
    bound = VolumeBound(1, EVERYWHERE, expected - 1, expected + 1)
    assert torch.equal(hold_volumes(before.clone(), [[bound], []]), before)


def test_a_bound_counts_in_its_columns_alone() -> None:
    before, right = beliefs(), torch.arange(8) >= 4
    after = hold_volumes(before.clone(), [[VolumeBound(2, right, 200.0, 250.0)], []])
    assert torch.equal(after[0, :, :4], before[0, :, :4])
    assert float(after[0, 2, 4:].sum()) == pytest.approx(200.0, rel=1e-3)


def test_a_class_that_is_not_believed_in_is_not_made_out_of_nothing() -> None:
    belief = torch.zeros(1, 2, 8, 8, 8)
    belief[:, 0] = 1
    held = hold_volumes(belief, [[VolumeBound(1, EVERYWHERE, 100.0, 200.0)]])
    assert torch.isfinite(held).all()
    assert float(held[0, 1].sum()) == 0


def test_graded_organs_are_held_beyond_the_usual_sizes() -> None:
    organs = {"mandible": "enlarged", "larynx": "small", "esophagus": "absent"}
    asked = Findings(region="neck", organs=organs, anatomy_name="head-neck")
    bounds = size_bounds(asked, 8, voxel_ml=0.5, volume_ratio=[2.0] * HEAD_NECK.num_classes)
    small, enlarged = sorted(bounds, key=lambda bound: bound.class_id)
    assert (small.class_id, enlarged.class_id) == (HEAD_NECK.ids["larynx"], HEAD_NECK.ids["mandible"])
    assert enlarged.least > HEAD_NECK.size_ml["mandible"][1]  # voxels of 1 ml
    assert 0 < small.least < small.most < HEAD_NECK.size_ml["larynx"][0]
    assert not np.any(size_lean(asked, 8, 1.0))
    torso = Findings(organs={"spleen": "enlarged"})
    assert "spleen" not in TORSO.size_ml
    assert size_bounds(torso, 8, 0.5) == []
    assert np.any(size_lean(torso, 8, 1.0))


def test_a_stray_lesion_is_not_given_to_an_organ_that_has_its_size() -> None:
    mandible, soft, target = (HEAD_NECK.ids[name] for name in ("mandible", "soft tissue", "ptv70"))
    label_map = np.full((64, 64, 64), soft, np.uint8)
    label_map[20:40, 20:40, 20:40] = mandible
    stray = np.zeros(label_map.shape, bool)
    stray[34:44, 26:34, 26:34] = True
    label_map[stray] = target
    for organs, given in (({}, {mandible, soft}), ({"mandible": "small"}, {soft})):
        asked = Findings(region="neck", organs=organs, anatomy_name="head-neck")
        settled, _, strays = settle_lesions(label_map, asked, (5.0, 5.0, 5.0), np.random.default_rng(0))
        assert strays == 1
        assert set(np.unique(settled[stray])) == given


@pytest.mark.parametrize(
    ("status", "edge", "fits"), [("small", 12, True), ("small", 20, False), ("enlarged", 18, True)]
)
def test_a_verdict_measures_what_was_said_of_a_size(status: str, edge: int, fits: bool) -> None:
    asked = Findings(region="neck", organs={"mandible": status}, anatomy_name="head-neck")
    label_map = np.zeros((64, 64, 64), np.uint8)
    label_map[10 : 10 + edge, 20 : 20 + edge, 20 : 20 + edge] = HEAD_NECK.ids["mandible"]
    spacing = (2.5, 2.5, 2.5)  # 15.6 ml to a cube of ten voxels
    draft = Draft("one", label_map, centred_affine(label_map.shape, spacing), "text", asked)
    (check,) = [c for c in verdict_before_ct(draft)["checks"] if c["name"] == f"mandible {status} (ml)"]
    assert check["value"] == pytest.approx(edge**3 * 2.5**3 / 1000, abs=0.01)
    assert check["pass"] is fits
    cut = replace(draft, label_map=np.roll(label_map, -10, axis=0))
    assert not [c for c in verdict_before_ct(cut)["checks"] if c["name"].startswith("mandible small")]


def test_an_organ_is_drawn_larger_or_smaller_as_its_bound_asks() -> None:
    pipe = tiny_pipeline()
    pipe.register_to_config(volume_ratio=[1.0] * TORSO.num_classes)
    told, spleen = pipe.condition([Findings(region="abdomen")]), TORSO.ids["spleen"]
    sizes = []
    for least, most in ((0.0, 20.0), (0.0, 1e6), (1200.0, 1500.0)):
        bounds = [[VolumeBound(spleen, torch.ones(16, dtype=torch.bool), least, most)]]
        drawn = pipe.sample_masks(told, [torch.Generator().manual_seed(0)], volumes=bounds)
        sizes.append(int((drawn == spleen).sum()))
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_held_class_that_is_unsure_over_a_wide_area_is_cut_down() -> None:
    belief = torch.zeros(1, 2, 16, 16, 16)
    belief[:, 1] = torch.linspace(0.51, 0.57, 16)[:, None, None] + torch.linspace(0, 0.01, 16)[:, None]
    belief[:, 0] = 1 - belief[:, 1]
    wide = upsample_keeping_volumes(belief, (32, 32, 32), torch.ones(2))
    held = upsample_keeping_volumes(belief, (32, 32, 32), torch.ones(2), [[1]])
    assert int((wide == 1).sum()) == 32**3
    assert int((held == 1).sum()) == pytest.approx(float(belief[0, 1].sum()) * 8, rel=0.05)
    assert (held[0, -4:] == 1).all()  # the surest part of it stays
