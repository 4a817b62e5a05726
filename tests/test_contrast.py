"""Bones and lungs at the HU that they were told, with what is soft and the order of their voxels as they were drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidegen_data import TORSO
from guidegen_data.cli.export_parts import of_many_patients
from guidegen_data.models.contrast import far_from_soft_tissue, hold_contrast
from guidegen_data.pipeline import GuideGenPipeline

RANGE = (-1024, 3071)
BONE, LUNG, SPECK = 1, 2, 3


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    """A bone of 6 voxels, a lung of 14 beside it, and a speck."""
    labels = torch.zeros(40, 24, 24, dtype=torch.uint8)
    labels[4:10, 4:20, 4:20] = BONE
    labels[16:30, 4:18, 4:18] = LUNG
    labels[36, 2:5, 2:5] = SPECK
    return labels


@pytest.fixture(scope="module")
def drawn(labels) -> torch.Tensor:
    """Soft tissue of 40 HU around 150 HU of bone with marrow and cortex, and a lung of -700 HU with vessels."""
    rng = np.random.default_rng(0)
    ct = np.full(labels.shape, 40.0) + rng.normal(0, 5, labels.shape)
    bone, lung = (labels == BONE).numpy(), (labels == LUNG).numpy()
    ct[bone] = rng.choice([60, 150, 700], bone.sum(), p=[0.2, 0.6, 0.2])
    ct[lung] = np.where(rng.random(lung.sum()) < 0.1, 45, rng.normal(-700, 40, lung.sum()))
    return torch.from_numpy(np.rint(ct).astype(np.int16))


def told(**hu: float) -> torch.Tensor:
    values = torch.full((4,), torch.nan)
    for name, value in hu.items():
        values[{"bone": BONE, "lung": LUNG, "speck": SPECK}[name]] = value
    return values


def test_bone_and_lung_come_to_the_median_that_they_were_told(drawn, labels) -> None:
    held = hold_contrast(drawn, labels, told(bone=240, lung=-860), RANGE)
    assert abs(float(held[labels == BONE].float().median()) - 240) <= 3
    assert abs(float(held[labels == LUNG].float().median()) + 860) <= 3
    assert held.dtype == torch.int16


def test_what_is_soft_stays_in_and_around_them(drawn, labels) -> None:
    held = hold_contrast(drawn, labels, told(bone=240, lung=-860), RANGE)
    vessels = (labels == LUNG) & (drawn > 40)
    assert vessels.sum() > 100
    assert torch.equal(held[vessels], drawn[vessels])
    far = torch.ones_like(labels, dtype=torch.bool)
    far[1:33, 1:23, 1:23] = False
    assert torch.equal(held[far], drawn[far])


@settings(max_examples=40, deadline=None)
@given(median=st.integers(60, 1500), asked=st.integers(60, 1500), seed=st.integers(0, 9))
def test_brighter_voxels_stay_brighter_and_within_the_range(median: int, asked: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bone = torch.full((9, 9, 9), BONE, dtype=torch.uint8)
    ct = torch.from_numpy(rng.integers(-200, 2 * median + 300, bone.shape).astype(np.int16))
    held = hold_contrast(ct, bone, told(bone=asked), RANGE)
    inner = (slice(2, -2),) * 3  # where nothing fades
    order = ct[inner].flatten().argsort(stable=True)
    assert (held[inner].flatten()[order].int().diff() >= 0).all()
    assert RANGE[0] <= int(held.min())
    assert int(held.max()) <= RANGE[1]


def test_what_is_hardly_drawn_is_stretched_to_twice_its_contrast_alone(drawn, labels) -> None:
    faint = torch.where(labels == BONE, 70, 40).to(torch.int16)
    held = hold_contrast(faint, labels, told(bone=700), RANGE)
    inner = torch.zeros_like(labels, dtype=torch.bool)
    inner[6:8, 8:16, 8:16] = True
    assert held[inner].unique().tolist() == [100]


@pytest.mark.parametrize("hu", [{}, {"speck": 700}, {"bone": -860}, {"lung": 240}])
def test_the_untold_specks_and_what_lies_on_the_other_side_of_soft_tissue_are_left(drawn, labels, hu) -> None:
    assert torch.equal(hold_contrast(drawn, labels, told(**hu), RANGE), drawn)


def test_far_from_soft_tissue_are_bones_and_lungs() -> None:
    pipe = GuideGenPipeline.from_pretrained("torso", device="cpu")
    far = far_from_soft_tissue(pipe.slice_generator.hu_prior.mean[-1].float())[: TORSO.num_classes]
    assert {c.name for c in TORSO.classes if far[c.id]} == {"lung", "vertebrae", "rib"}
    hu = torch.arange(float(len(pipe.slice_generator.hu_prior.known)))
    usual = pipe.slice_generator.hu_prior.usual_inhomogeneity(-1)
    held = pipe._of_far_tissues(hu, usual).isfinite()
    assert {c.name for c in TORSO.classes if held[c.id]} == {"lung", "vertebrae", "rib"}
    necks = GuideGenPipeline.from_pretrained("head-neck", device="cpu")
    prior = necks.slice_generator.hu_prior
    held = necks._of_far_tissues(torch.zeros(11), prior.usual_inhomogeneity(-1)).isfinite()
    assert {c.name for c in necks.anatomy.classes if held[c.id]} == {"mandible"}  # bone is cut out by HU


def test_a_prior_of_few_patients_is_not_held_to(tmp_path) -> None:
    (tmp_path / "about.json").write_text('{"patients": {"train": 19, "validation": 30}}')
    assert not of_many_patients(tmp_path)
    (tmp_path / "about.json").write_text('{"patients": {"train": 20}}')
    assert of_many_patients(tmp_path)
    (tmp_path / "about.json").unlink()  # a run of before notes were taken
    assert not of_many_patients(tmp_path)
    held = {n: GuideGenPipeline.from_pretrained(n, device="cpu").config.hold_contrast for n in ("torso", "head-neck")}
    assert held == {"torso": False, "head-neck": True}
