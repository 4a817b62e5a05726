"""Layouts: what principal components hold of label maps, what is drawn for findings, and how stage 1 takes them in."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline
from torch import Tensor

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.grounding import expected_volumes_ml
from guidegen_data.models.layout import LayoutPrior, LayoutSpace, block_fractions
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler
from guidegen_data.reports.fields import field_names
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.training.initial import Initial, initial_network
from guidegen_data.training.masks import MaskData, fit_layouts

BODY, ORGAN, LESION = 1, 2, 3
FIELDS = field_names(TORSO)


def patients(number: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Label maps (N, 16, 16, 16) of balls with an organ within, and whether each patient is large, (N, 1)."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij"))
    maps, facts = [], []
    for n in range(number):
        large = n % 2
        centre = rng.normal(0, 0.5, 3)[:, None, None, None]
        far = np.sqrt(((grid - centre) ** 2).sum(axis=0))
        label_map = np.where(far < 4 + 2 * large + rng.normal(0, 0.2), BODY, 0)
        label_map[far < 1.8] = ORGAN
        maps.append(label_map)
        facts.append([float(large)])
    return torch.from_numpy(np.stack(maps).astype(np.uint8)), torch.tensor(facts)


@pytest.fixture
def fractions() -> Tensor:
    return block_fractions(patients()[0], 4, (4, 4, 4))


def test_fractions_of_blocks_are_shares_that_sum_to_one() -> None:
    maps = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    maps[0, :4, :2, :4] = ORGAN
    held = block_fractions(maps, 4, (2, 2, 2))
    assert held.shape == (1, 4, 2, 2, 2)
    assert held[0, ORGAN, 0, 0, 0] == 0.5
    assert held[0, ORGAN].sum() == 0.5
    torch.testing.assert_close(held.sum(dim=1), torch.ones(1, 2, 2, 2))


def test_with_as_many_components_as_cases_need_a_layout_gives_its_case_back(fractions) -> None:
    space = LayoutSpace(20, 4, (4, 4, 4))
    space.fit(fractions[:12])
    layouts = space.project(fractions[:12])
    torch.testing.assert_close(space.expand(layouts), fractions[:12], atol=1e-4, rtol=0)
    # Whitened, and nothing where there is nothing left to explain.
    torch.testing.assert_close(layouts[:, :11].std(dim=0, correction=0), torch.ones(11), atol=1e-3, rtol=0)
    assert not layouts[:, 11:].any()


def test_few_components_hold_most_of_what_new_patients_differ_in(fractions) -> None:
    space = LayoutSpace(6, 4, (4, 4, 4))
    space.fit(fractions)
    new = block_fractions(patients(20, seed=5)[0], 4, (4, 4, 4))
    left = (space.expand(space.project(new)) - new).square().sum()
    assert left < 0.2 * (new - fractions.mean(dim=0)).square().sum()


def test_the_prior_draws_large_patients_where_large_is_told(fractions) -> None:
    _, facts = patients()
    space, prior = LayoutSpace(6, 4, (4, 4, 4)), LayoutPrior(6, 1, 4)
    space.fit(fractions)
    prior.fit(space.project(fractions), facts)
    shares = []
    for told in (0.0, 1.0):
        drawn = prior.draw(torch.tensor([told]), 40, torch.Generator().manual_seed(1))
        shares.append(space.expand(drawn)[:, BODY].mean(dim=(1, 2, 3)))
    assert shares[0].quantile(0.9) < shares[1].quantile(0.1)
    real = [fractions[facts[:, 0] == told, BODY].mean() for told in (0, 1)]
    for drawn, known in zip(shares, real, strict=True):
        assert drawn.mean() == pytest.approx(float(known), rel=0.15)
    # Patients differ, and not from draw to draw of one seed.
    assert shares[0].std() > 0.001
    again = prior.draw(torch.tensor([1.0]), 40, torch.Generator().manual_seed(1))
    assert torch.equal(space.expand(again)[:, BODY].mean(dim=(1, 2, 3)), shares[1])


def mask_data(network: MaskSampler, lesions: bool = False) -> MaskData:
    maps, large = patients()
    labels = maps.clone()
    if lesions:
        labels[:, 7:9, 7:9, 7:9] = LESION
    fields = torch.zeros(len(maps), 1, len(network.config.fields))
    fields[:, 0, network.config.fields.index("habitus=large")] = large[:, 0]
    tokens, places = torch.zeros(len(maps), 1, 2, 8), torch.zeros(len(maps), 4, 4)
    return MaskData(labels, places, tokens, fields, torch.ones(4), 4, maps)


@pytest.fixture
def network() -> MaskSampler:
    torch.manual_seed(0)
    return MaskSampler(4, (16, 16, 16), (8, 16, 32), 8, 16, FIELDS, layout_size=6, layout_components=2, fine_channels=4)


def told(layout: Tensor) -> MaskCondition:
    batch = len(layout)
    return MaskCondition(
        torch.rand(batch, 2, 8), torch.zeros(batch, len(FIELDS)), torch.zeros(batch, 16, 16, 16), layout
    )


def test_a_fact_that_chooses_nothing_moves_the_layout_of_the_same_patient() -> None:
    prior = LayoutPrior(2, 2, 2)  # the first fact tells the components apart, the second goes with one of them
    prior.mean.copy_(torch.tensor([[-10.0, 0.0], [10.0, 0.0]]))
    prior.rate.copy_(torch.tensor([[0.5, 0.9], [0.5, 0.1]]))
    prior.slope.copy_(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))

    def drawn(graded: float, choosing: list[bool]) -> Tensor:
        return prior.draw(torch.tensor([1.0, graded]), 200, torch.Generator().manual_seed(2), choosing=choosing)

    told, untold = (drawn(graded, [True, False]) for graded in (1.0, 0.0))
    assert torch.equal(told[:, 0], untold[:, 0])
    torch.testing.assert_close(told[:, 1] - untold[:, 1], torch.full((200,), 3.0))
    assert 0.3 < float((told[:, 0] > 0).float().mean()) < 0.7
    assert float((drawn(1.0, [True, True])[:, 0] > 0).float().mean()) < 0.2


def test_sizes_of_organs_choose_no_patient_and_their_absence_does() -> None:
    network = MaskSampler(num_classes=21, shape=(8, 8, 8), channels=(8, 8, 8), layout_size=2, fields=FIELDS)
    names = [name for name in FIELDS if not name.startswith("lesion=")]
    chosen = dict(zip(names, network.layout.choosing, strict=True))
    assert not chosen["liver=enlarged"]
    assert not chosen["spleen=small"]
    assert chosen["spleen=absent"]
    assert chosen["region=chest"]


def test_training_tells_the_layout_of_the_moved_map_without_its_lesions(network) -> None:
    data = mask_data(network, lesions=True)
    fit_layouts(network, data)
    generator = torch.Generator().manual_seed(3)
    labels, condition = data.batch(4, generator, network.layout)
    assert condition.layout is not None
    assert (condition.layout[:, -1] == 1).all()
    assert (labels == LESION).any()
    assert not network.layout.space.mean[LESION].any()
    healthy = torch.where(labels == LESION, torch.tensor(ORGAN), labels)
    error = condition.layout - network.layout.known(healthy)
    assert 0.05 < float(error[:, :-1].std()) < 0.4
    assert data.batch(4, torch.Generator().manual_seed(3))[1].layout is None


def test_components_that_a_network_has_already_are_kept(network) -> None:
    fit_layouts(network, mask_data(network))
    before = network.layout.space.basis.clone()
    data = mask_data(network)
    fit_layouts(network, replace(data, healthy=data.healthy.roll(2, dims=1)))
    assert torch.equal(network.layout.space.basis, before)


def test_a_hidden_layout_is_no_layout_and_a_told_one_moves_the_belief(network) -> None:
    fit_layouts(network, mask_data(network))
    for layer in (network.layout.planes, network.layout.move, network.unet.outlet[2]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    x_t = torch.randint(4, (2, 16, 16, 16))
    t, abar = torch.full((2,), 0.9), torch.full((2,), 0.01)
    layout = network.layout.known(patients()[0][:2])
    condition = told(layout)
    without = replace(condition, layout=None)
    hidden = condition.masked(*[torch.ones(2)] * 3, torch.zeros(2))
    plain = network(x_t, t, abar, without)
    torch.testing.assert_close(network(x_t, t, abar, hidden), plain)
    assert (network(x_t, t, abar, condition) - plain).abs().max() > 0.01


def test_the_layout_taken_has_room_for_every_class_that_is_wanted(network) -> None:
    data = mask_data(network)
    # A patient in three lacks the organ altogether.
    data.healthy[::3] = torch.where(
        data.healthy[::3] == ORGAN, torch.tensor(BODY, dtype=torch.uint8), data.healthy[::3]
    )
    fit_layouts(network, data)
    layout = network.layout
    whole = layout.space.mean[ORGAN].mean() * 1.5

    def room(share: float) -> Tensor:
        wanted = torch.zeros(30, 4)
        wanted[:, ORGAN] = share * whole
        generators = [torch.Generator().manual_seed(s) for s in range(30)]
        drawn = layout.draw(torch.zeros(30, len(FIELDS)), wanted, generators, 1.0)
        assert (drawn[:, -1] == 1).all()
        return layout.space.expand(drawn[:, :-1]).clamp(min=0)[:, ORGAN].mean(dim=(1, 2, 3)) / whole

    assert (room(0.0) < 0.5).any()
    assert (room(0.5) >= 0.49).all()


def test_an_older_model_takes_the_sizes_it_does_not_name_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mask_sampler").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    config = {"_class_name": "MaskSampler", "channels": [16, 24, 40], "fields": ["stated"]}
    (tmp_path / "mask_sampler" / "config.json").write_text(json.dumps(config))
    recipe = {"channels": (8, 8, 8), "layout_size": 5, "fine_channels": 3}
    sizes = initial_network(str(tmp_path), Initial.MASKS, recipe)
    assert sizes["channels"] == (16, 24, 40)
    assert sizes["layout_size"] == 5
    assert sizes["fine_channels"] == 3


def test_room_is_wanted_for_the_organs_of_a_region_by_what_is_said_of_them() -> None:
    said = {"larynx": "absent", "mandible": "enlarged", "esophagus": "small"}
    wanted = expected_volumes_ml(Findings(region="head and neck", organs=said, anatomy_name="head-neck"))
    usual, ids = HEAD_NECK.size_ml, HEAD_NECK.ids
    assert wanted[ids["brainstem"]] == pytest.approx(0.4 * usual["brainstem"][0])
    assert wanted[ids["mandible"]] == pytest.approx(0.4 * usual["mandible"][1])
    assert wanted[ids["esophagus"]] == pytest.approx(0.2 * usual["esophagus"][0])
    assert wanted[ids["spinal cord"]] == 0
    assert ids["larynx"] not in wanted
    assert HEAD_NECK.lesion_id not in wanted
    assert TORSO.ids["urinary bladder"] not in expected_volumes_ml(Findings(region="chest"))


def test_cases_of_a_model_with_layouts_depend_on_their_own_seed_alone() -> None:
    pipe = tiny_pipeline()
    sizes = {"shape": (16, 16, 16), "channels": (8, 16, 32), "vector_size": 16}
    sampler = MaskSampler(fields=FIELDS, layout_size=4, layout_components=2, fine_channels=4, **sizes).eval()
    sampler.layout.space.basis.normal_(std=0.1)
    sampler.layout.prior.spread.copy_(torch.eye(4).expand(2, 4, 4))
    torch.nn.init.normal_(sampler.layout.planes.weight)
    pipe.register_modules(mask_sampler=sampler)
    asked = [Findings(region="abdomen"), Findings(region="chest", lesions=(Lesion("liver", "right lobe", 20.0),))]
    layouts = pipe.condition(asked, [5, 6]).layout
    assert layouts is not None
    assert not torch.equal(layouts[0], layouts[1])
    assert torch.equal(pipe.condition(asked[1:], [6]).layout, layouts[1:])
    assert pipe.condition(asked).layout is None
    both = pipe.draft(asked, ["", ""], ["a", "b"], [5, 6])
    (alone,) = pipe.draft(asked[1:], [""], ["b"], [6])
    # A batch adds numbers up in another order than a single case: here and there a voxel may tip over.
    assert (both[1].label_map != alone.label_map).mean() < 0.02
    (other,) = pipe.draft(asked[1:], [""], ["b"], [7])
    assert (other.label_map != alone.label_map).mean() > 0.1
