"""The HU of organs: measured on real cases, drawn for a contrast phase, told to stage 2 and kept with the case."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from guidegen_data import pipeline_stages
from guidegen_data.anatomy import PHASES, TORSO
from guidegen_data.errors import ModelError
from guidegen_data.models.hu_prior import HUPrior, hu_planes, median_hu
from guidegen_data.models.inhomogeneity import inhomogeneity
from guidegen_data.models.noise_style import NoiseStyle
from guidegen_data.models.slice_generator import SliceGenerator
from guidegen_data.reports.findings import Findings

ARTERIAL, VENOUS = PHASES.index("arterial"), PHASES.index("portal venous")
LIVER, AORTA, TUMOUR = TORSO.id_of("liver"), TORSO.id_of("aorta"), TORSO.lesion_id


def medians(num: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes: nothing, an organ, a vessel brighter the brighter the organ is, and one that no case shows."""
    rng = np.random.default_rng(0)
    phase = np.arange(num) % 2
    organ = np.where(phase == 0, 60, 110) + rng.normal(0, 6, num)
    vessel = 3 * organ + rng.normal(0, 3, num)
    nothing = np.full(num, np.nan)
    vessel[::7] = np.nan
    values = np.stack([nothing, organ, vessel, nothing], axis=1)
    return torch.from_numpy(values).float(), torch.from_numpy(phase)


@pytest.fixture(scope="module")
def prior() -> HUPrior:
    prior = HUPrior(4, 3, uneven_by_phase=True)
    prior.fit(*medians())
    return prior


def draws(prior: HUPrior, phase: int, num: int = 300) -> np.ndarray:
    return np.stack([prior.draw(phase, torch.Generator().manual_seed(i)).numpy() for i in range(num)])


def test_medians_are_those_of_each_class_without_lesions_and_specks() -> None:
    label_map = np.zeros((16, 16, 16), np.uint8)
    label_map[:8], label_map[8:, :8], label_map[15, 15, :9] = LIVER, TUMOUR, AORTA
    ct = np.where(label_map == LIVER, 90, 30)
    ct[0, 0, 0] = 3000
    held = median_hu(ct, label_map, TORSO.num_classes, (0, TUMOUR))
    assert held[LIVER] == 90
    assert np.isnan(np.delete(held, LIVER)).all()


def test_draws_of_a_phase_are_as_bright_and_as_coupled_as_its_cases(prior) -> None:
    for phase, organ in ((0, 60), (1, 110)):
        drawn = draws(prior, phase)
        assert np.median(drawn[:, 1]) == pytest.approx(organ, abs=2)
        assert np.median(drawn[:, 2]) == pytest.approx(3 * organ, abs=8)
        assert drawn[:, 1].std() == pytest.approx(6, abs=2)
        assert np.corrcoef(drawn[:, 1], drawn[:, 2])[0, 1] > 0.7
        assert np.isnan(drawn[:, [0, 3]]).all()


def test_without_a_phase_draws_lie_anywhere_within_what_was_seen(prior) -> None:
    values = medians()[0][:, 1].numpy()
    for phase in (-1, 2):  # not told, and one that no case has
        drawn = draws(prior, phase)[:, 1]
        assert drawn.min() >= values.min()
        assert drawn.max() <= values.max()
        assert drawn.std() > 15


def test_a_slice_is_painted_with_the_hu_of_its_classes_and_zero_where_nothing_is_known() -> None:
    labels = torch.tensor([0, 1, 2, 3]).view(1, 1, 2, 2)
    planes = hu_planes(labels, torch.tensor([[torch.nan, 140.0, -860.0, 1040.0]]))
    assert planes[0, 0].flatten().tolist() == [0, 0.5, -1, 1]
    assert planes[0, 1].flatten().tolist() == pytest.approx([0, 0.14, -0.86, 1.04])


def generator(organ_hu: bool) -> SliceGenerator:
    torch.manual_seed(0)
    return SliceGenerator(4, channels=(16, 16, 32), vector_size=8, mask_features=4, organ_hu=organ_hu)


def test_a_network_that_was_told_no_hu_starts_as_it_was_and_can_learn_of_them() -> None:
    old, new = generator(False), generator(True)
    held = {k: v for k, v in old.state_dict().items() if k in new.state_dict()}
    name = "mask_encoder.0.weight"
    held[name] = new.widened(name, held[name], old.config)
    new.load_state_dict(held, strict=False)
    labels, hu = torch.randint(4, (2, 3, 16, 16)), torch.tensor([[0.0, 60, 300, 900]]).repeat(2, 1)
    assert torch.allclose(new.encode_mask(labels, hu), old.encode_mask(labels), atol=1e-6)
    new.encode_mask(labels, hu).sum().backward()
    assert new.mask_encoder[0].weight.grad[:, -6:].abs().max() > 0
    assert old.widened(name, held[name], new.config) is None
    of_another_table = {"num_classes": 7, "organ_hu": False}
    assert new.widened(name, torch.zeros(32, 3 * 7, 3, 3), of_another_table) is None


@pytest.fixture(scope="module")
def pipe():
    """Told HU, with weights that heed them."""
    pipe = tiny.tiny_pipeline()
    torch.manual_seed(0)
    network = SliceGenerator(
        latent_channels=4,
        channels=(16, 16, 32),
        vector_size=16,
        mask_features=8,
        organ_hu=True,
        uneven_by_phase=True,
    )
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    values = torch.full((20, TORSO.num_classes), torch.nan)
    values[:, LIVER] = torch.linspace(90, 110, 20)
    values[:, AORTA] = torch.linspace(300, 340, 20)
    varied = torch.where(values.isnan(), torch.nan, 5.0)[..., None] * torch.tensor([1.0, 0.0, 0.5])
    network.hu_prior.fit(values, torch.full((20,), VENOUS), varied)
    pipe.slice_generator = network
    pipe.register_modules(slice_generator=network)
    return pipe.prepare("cpu")


def case(pipe, seed: int = 1, **settings):
    label_map = np.full((32, 32, 32), LIVER, np.uint8)
    (draft,) = pipe.draft([Findings(phase="portal venous")], ["CT."], ["a"], [seed])
    return pipe.complete([replace(draft, label_map=label_map)], **settings)[0]


def test_a_case_tells_the_hu_it_was_drawn_with_and_those_asked_for_are_heeded(pipe) -> None:
    drawn = case(pipe)
    assert set(drawn.provenance["organ_hu"]) == {"liver", "aorta"}
    assert 85 <= drawn.provenance["organ_hu"]["liver"] <= 115
    assert case(pipe).provenance["organ_hu"] == drawn.provenance["organ_hu"]
    assert case(pipe, seed=2).provenance["organ_hu"] != drawn.provenance["organ_hu"]
    asked = case(pipe, organ_hu={"liver": 40})
    assert asked.provenance["organ_hu"] == {**drawn.provenance["organ_hu"], "liver": 40}
    assert not np.array_equal(asked.ct_hu, drawn.ct_hu)


def test_hu_that_cannot_be_told_are_refused(pipe) -> None:
    with pytest.raises(ModelError, match="'spleen' cannot be asked for; of these they can: aorta, liver"):
        case(pipe, organ_hu={"spleen": 100})
    with pytest.raises(ModelError, match="not told the HU of organs"):
        case(tiny.tiny_pipeline().prepare("cpu"), organ_hu={"liver": 100})


def test_organs_have_the_hu_that_they_were_told_unless_the_model_is_not_held_to_them(pipe) -> None:
    held = case(pipe, organ_hu={"liver": 100})
    assert np.median(held.ct_hu) == pytest.approx(100, abs=2)
    pipe.register_to_config(hold_hu=False)
    drawn = case(pipe, organ_hu={"liver": 100})
    pipe.register_to_config(hold_hu=True)
    assert abs(np.median(drawn.ct_hu) - 100) > 20


def test_classes_of_several_tissues_are_held_by_their_contrast_where_a_model_says_so(pipe, monkeypatch) -> None:
    given = []

    def seen(ct, labels, hu, hu_range):
        given.append({n for n, k in (("liver", LIVER), ("aorta", AORTA)) if hu[k].isfinite()})
        return ct + 7

    monkeypatch.setattr(pipeline_stages, "hold_contrast", seen)
    monkeypatch.setattr(pipeline_stages, "with_noise", lambda ct, *_: ct)
    before = case(pipe)
    pipe.register_to_config(hold_contrast=True)
    moved = case(pipe)
    uneven = pipe.slice_generator.hu_prior.inhomogeneity
    kept = uneven.clone()
    uneven[:, AORTA] = torch.inf  # as if it were of several tissues
    case(pipe)
    uneven.copy_(kept)
    pipe.register_to_config(hold_contrast=False)
    assert given == [set(), {"aorta"}]
    assert np.array_equal(moved.ct_hu, before.ct_hu + 7)


def test_how_uneven_a_class_is_comes_from_the_training_cases_and_is_without_bounds_where_none_shows_it() -> None:
    values, phase = medians()
    varied = torch.full((*values.shape, 3), torch.nan)
    varied[:, 1] = torch.tensor([6.0, 2.0, 3.0])
    varied[phase == 1, 1, 0] = 9
    prior = HUPrior(4, 3, uneven_by_phase=True)
    prior.fit(values, phase, varied)
    assert prior.usual_inhomogeneity(1)[1].tolist() == [9, 2, 3]
    assert prior.usual_inhomogeneity(-1)[1].tolist() == [6, 2, 3]
    assert torch.isinf(prior.usual_inhomogeneity(1)[[0, 2, 3]]).all()
    prior.fit(values, phase)
    assert torch.isinf(prior.inhomogeneity).all()


def test_a_prior_from_before_phases_were_told_apart_bounds_nothing_along_the_body() -> None:
    prior = HUPrior(4, 3, uneven_by_phase=False)
    prior.inhomogeneity[1] = torch.tensor([5.0, 4.0])
    for phase in (VENOUS, -1):
        assert prior.usual_inhomogeneity(phase)[1].tolist() == [5, 4, float("inf")]


def test_an_organ_is_held_as_even_as_in_the_phase_of_the_findings(pipe, monkeypatch) -> None:
    bounds = pipe.slice_generator.hu_prior.inhomogeneity.clone()
    bounds[..., LIVER, :] = torch.tensor([1.0, 0.0, 1.0])
    bounds[VENOUS, LIVER] = torch.tensor([500.0, 0.0, 500.0])
    monkeypatch.setitem(pipe.slice_generator.hu_prior._buffers, "inhomogeneity", bounds)
    labels = torch.full((1, 32, 32, 32), LIVER, dtype=torch.uint8)
    hu = torch.full((1, TORSO.num_classes), torch.nan)
    hu[0, LIVER] = 100
    uneven = []
    for findings in (None, [Findings(phase="arterial")], [Findings(phase="portal venous")]):
        generators = [torch.Generator().manual_seed(1)]
        quiet = [NoiseStyle(0.0, 1.0)]
        ct = pipe.sample_cts(labels, pipe.encode(["CT."]), generators, None, quiet, organ_hu=hu, findings=findings)[0]
        uneven.append(float(inhomogeneity(ct, labels[0], TORSO.num_classes, (3.0, 3.0, 3.0))[LIVER, 0]))
    assert uneven[0] == uneven[1] < 0.7 * uneven[2]
