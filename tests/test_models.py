"""The networks of both stages: what they are told decides what they say."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from tiny import tiny_pipeline

from guidegen_data.diffusion.schedule import cosine_abar
from guidegen_data.errors import ModelError
from guidegen_data.models.anchors import Placement, anchor_balls
from guidegen_data.models.autoencoder import CTAutoencoder, compand, expand, random_windows, windowed_l1
from guidegen_data.models.mask_sampler import (
    CategoricalProcess,
    MaskCondition,
    MaskSampler,
    beside_thin,
    fold,
    fold_one_hot,
    mask_loss,
    unfold,
)
from guidegen_data.models.sampling import imprinted, sample_masks
from guidegen_data.models.sampling_ct import correlated, sample_cts
from guidegen_data.models.slice_generator import SliceGenerator, corrupt_previous, mask_triples
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.findings import Findings


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def mask_model() -> MaskSampler:
    torch.manual_seed(0)
    model = MaskSampler(
        num_classes=5, shape=(8, 8, 8), channels=(8, 16, 32), token_size=12, vector_size=16, fields=("a", "b")
    )
    for name, weight in model.named_parameters():
        if name.endswith("conv2.weight"):  # zero when made: the vector would have no say yet
            torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def told(batch: int = 1, seed: int | None = None) -> MaskCondition:
    """A condition for `mask_model`: nothing told, or random tokens, fields and anchors."""
    shapes = ((batch, 3, 12), (batch, 2), (batch, 8, 8, 8))
    if seed is None:
        return MaskCondition(*(torch.zeros(s) for s in shapes))
    generator = torch.Generator().manual_seed(seed)
    return MaskCondition(*(torch.rand(s, generator=generator) for s in shapes))


def test_folding_voxels_into_channels_is_undone_by_unfolding() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 8).reshape(2, 3, 4, 6, 8)
    assert torch.equal(unfold(fold(x)), x)
    assert fold(x).shape == (2, 24, 2, 3, 4)
    assert torch.equal(fold(x)[0, :8, 0, 0, 0].sort().values, x[0, 0, :2, :2, :2].flatten().sort().values)


def test_hu_survive_companding_over_the_whole_range() -> None:
    hu = torch.linspace(-1024, 1976, 4001)
    torch.testing.assert_close(expand(compand(hu)), hu, atol=0.01, rtol=1e-5)
    assert (compand(hu).diff() > 0).all()


def test_a_window_sees_only_what_lies_inside_it() -> None:
    a, b = torch.full((1, 1, 4, 4), -900.0), torch.full((1, 1, 4, 4), -600.0)
    low, high = torch.tensor([-160.0]), torch.tensor([240.0])
    assert windowed_l1(a, b, low, high) == 0
    assert windowed_l1(a, b, torch.tensor([-1000.0]), torch.tensor([-200.0])) == pytest.approx(300 / 800)


def test_random_windows_cover_narrow_and_wide_ranges() -> None:
    low, high = random_windows(2000, torch.Generator().manual_seed(0))
    width = high - low
    assert width.min() < 200
    assert width.max() > 2500
    assert ((low + high) / 2).min() < -900


def test_a_clean_voxel_keeps_its_label_whatever_the_network_thinks(mask_model: MaskSampler) -> None:
    labels = torch.randint(5, (1, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    logits = mask_model(labels, torch.tensor([0.0]), torch.tensor([1.0]), told())
    assert torch.equal(logits.argmax(dim=1), labels)


def test_pure_noise_adds_no_evidence(mask_model: MaskSampler) -> None:
    labels = torch.randint(5, (1, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    evidence = mask_model._with_evidence(torch.zeros(1, 5, 8, 8, 8), labels, torch.tensor([0.0]))
    assert (evidence == 0).all()


def test_the_evidence_is_the_log_likelihood_of_the_noisy_label(mask_model: MaskSampler) -> None:
    process = CategoricalProcess(cosine_abar(50), 5)
    labels = torch.arange(5).view(1, 5, 1, 1)
    for t in (5, 25, 45):
        abar = process.abar[t].float().view(1)
        likelihood = process.marginal(torch.eye(5).view(1, 5, 5, 1, 1), torch.tensor([t]))[0, :, :, 0, 0]
        told = mask_model._with_evidence(torch.zeros(1, 5, 5, 1, 1), labels, abar)
        got = told[0, :, :, 0, 0].log_softmax(dim=0)
        torch.testing.assert_close(got, likelihood.log(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["tokens", "fields", "anchors"])
def test_everything_that_is_told_changes_the_belief(mask_model: MaskSampler, part: str) -> None:
    labels = torch.randint(5, (2, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    arguments = (labels, torch.full((2,), 0.9), torch.full((2,), 0.01))
    one = told(2, seed=3)
    other = replace(one, **{part: getattr(told(2, seed=4), part)})
    assert (mask_model(*arguments, one) - mask_model(*arguments, other)).abs().max() > 1e-4


def test_one_hot_cubes_hold_each_voxels_class_in_the_order_of_folding() -> None:
    labels = torch.randint(5, (2, 4, 6, 8), generator=torch.Generator().manual_seed(1))
    hot = fold_one_hot(labels, 5, torch.float32)
    assert hot.shape == (2, 40, 2, 3, 4)
    assert torch.equal(hot.unflatten(1, (8, 5)).argmax(dim=2), fold(labels.unsqueeze(1)))
    assert torch.equal(hot.unflatten(1, (8, 5)).sum(dim=2), torch.ones(2, 8, 2, 3, 4))


def test_an_anchor_is_a_ball_of_its_diameter_and_no_place_is_no_ball() -> None:
    places = torch.tensor([[[16.0, 10.0, 12.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    ball = anchor_balls(places, (32, 24, 24))[0]
    assert ball[16, 10, 12] == 1
    assert float(ball.sum()) == pytest.approx(torch.pi / 6 * 9**3, rel=0.06)
    assert ball[0, 0, 0] == 0
    tiny = anchor_balls(torch.tensor([[[4.4, 4.0, 4.0, 0.8]]]), (9, 9, 9))
    assert 0.3 < float(tiny.max()) <= 1


def test_equal_class_weights_give_plain_cross_entropy(mask_model: MaskSampler) -> None:
    process = CategoricalProcess(cosine_abar(50), 5)
    labels = torch.randint(5, (2, 8, 8, 8), generator=torch.Generator().manual_seed(4))
    losses = [
        mask_loss(mask_model, process, labels, told(2), w, torch.Generator().manual_seed(5))["total"]
        for w in (torch.ones(5), torch.tensor([1.0, 1, 1, 1, 4]))
    ]
    t = torch.randint(1, 51, (2,), generator=(g := torch.Generator().manual_seed(5)))
    x_t = process.corrupt(labels, t, g)
    logits = mask_model(x_t, t / 50, process.abar.float()[t], told(2))
    torch.testing.assert_close(losses[0], torch.nn.functional.cross_entropy(logits, labels))
    assert losses[1] != losses[0]


def test_walls_and_tubes_are_thin_and_blocks_are_not() -> None:
    labels = torch.ones(1, 20, 12, 12, dtype=torch.int64)
    labels[:, 8:10] = 2  # a wall of two voxels, with other classes at either side
    labels[:, 10:] = 3
    marked = beside_thin(labels)[0]
    assert torch.equal(marked.amax(dim=(1, 2)), marked.amin(dim=(1, 2))), "a wall all along"
    assert marked[:, 6, 6].nonzero().flatten().tolist() == [7, 8, 9, 10]
    labels[:, 8:11] = 2
    assert not beside_thin(labels).any(), "three voxels are a block"
    labels[:, 10:, 5:7, 5:7] = 2  # a tube
    assert beside_thin(labels)[0, 15, :, 6].nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_thin_parts_count_as_often_as_they_are_told_to(mask_model: MaskSampler) -> None:
    process = CategoricalProcess(cosine_abar(50), 5)
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    labels[:, 4:] = 3
    blocks = labels.clone()
    labels[:, :, :, 4] = 1

    def loss(of: torch.Tensor, weight: float) -> float:
        same = torch.Generator().manual_seed(5)
        return mask_loss(mask_model, process, of, told(1), torch.ones(5), same, thin_weight=weight)["total"].item()

    assert loss(blocks, 4) == loss(blocks, 0)
    thin = [loss(labels, weight) for weight in (0, 1, 4)]
    assert thin[2] - thin[0] == pytest.approx(4 * (thin[1] - thin[0]), rel=1e-4)
    assert thin[1] > thin[0]


def two_prompts(pipe) -> MaskCondition:
    findings = [Findings(region="chest"), Findings(region="abdomen", organs={"gallbladder": "absent"})]
    return pipe.condition(findings)


def sampled(pipe, condition: MaskCondition, **settings) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(len(condition.tokens))]
    return sample_masks(pipe.mask_sampler, pipe.mask_scheduler, condition, generators, (32, 32, 32), 3, **settings)


def test_guidance_one_is_the_conditional_model_and_zero_ignores_what_is_told(pipe) -> None:
    one = two_prompts(pipe)
    other = MaskCondition(one.tokens.flip(0), one.fields.flip(0), one.anchors)
    assert torch.equal(sampled(pipe, one, guidance=0.0), sampled(pipe, other, guidance=0.0))
    assert torch.equal(sampled(pipe, one, guidance=1.0), sampled(pipe, one, guidance=1.0))
    assert not torch.equal(sampled(pipe, one, guidance=1.0), sampled(pipe, other, guidance=1.0))


def test_labels_that_are_given_are_kept_and_steer_their_surroundings(pipe) -> None:
    known = torch.full((2, 32, 32, 32), -1)
    known[:, 4:20, 6:18, 8:24] = 3
    condition = two_prompts(pipe)
    free, held = sampled(pipe, condition), sampled(pipe, condition, known=known)
    assert (held[known >= 0] == 3).all()
    assert (free[known >= 0] == 3).float().mean() < 0.5
    assert (held[known < 0] != free[known < 0]).any()
    assert torch.equal(sampled(pipe, condition, known=torch.full_like(known, -1)), free)


def test_the_placer_is_asked_after_every_step_and_its_anchors_reach_the_network(pipe) -> None:
    asked = []

    def place(t: float, belief: torch.Tensor) -> Placement | None:
        asked.append((round(t, 2), tuple(belief.shape)))
        anchors = torch.ones(2, 16, 16, 16)
        return Placement(anchors, 0 * anchors, anchors < 0) if t > 0.9 else None

    condition = two_prompts(pipe)
    anchored = sampled(pipe, condition, place=place)
    assert asked == [(t, (2, 21, 16, 16, 16)) for t in (1.0, 0.67, 0.33)]
    assert not torch.equal(anchored, sampled(pipe, condition))


def test_anchors_raise_the_lesion_class_of_the_table_wherever_it_stands() -> None:
    torch.manual_seed(0)
    sizes = {"shape": (16, 16, 16), "channels": (8, 16, 32), "vector_size": 16, "token_size": 8}
    model = MaskSampler(num_classes=5, fields=("a",), lesion_class=2, **sizes)
    torch.nn.init.zeros_(model.unet.outlet[2].weight)
    anchors = torch.zeros(1, 16, 16, 16)
    anchors[:, 4:8, 4:8, 4:8] = 1
    x_t = torch.randint(5, (1, 16, 16, 16))
    t, abar = torch.tensor([0.9]), torch.tensor([0.01])
    nothing = MaskCondition(torch.zeros(1, 2, 8), torch.zeros(1, 1), torch.zeros(1, 16, 16, 16))
    raised = model(x_t, t, abar, replace(nothing, anchors=anchors)) - model(x_t, t, abar, nothing)
    gain = model.anchor_gain.weight.item()
    assert gain > 1
    torch.testing.assert_close(raised[:, 2], gain * anchors)
    assert not raised[:, [0, 1, 3, 4]].any()
    assert MaskSampler(num_classes=5, fields=("a",), **sizes).lesion_class == 4


def test_an_imprinted_lesion_has_the_distribution_of_noisy_lesions_and_the_rest_is_kept() -> None:
    process = CategoricalProcess(cosine_abar(100), 5)
    x_s = torch.zeros(2, 40, 40, 40, dtype=torch.long)
    where = torch.zeros(2, 40, 40, 40, dtype=torch.bool)
    where[0, :20] = True
    drawn = imprinted(x_s, where, 3, process, 60, [torch.Generator().manual_seed(i) for i in range(2)])
    assert torch.equal(drawn[~where], x_s[~where])
    expected = process.marginal(torch.eye(5)[3:4].view(1, 5, 1), torch.tensor([60]))[0, :, 0]
    torch.testing.assert_close(drawn[where].bincount(minlength=5) / where.sum(), expected, atol=0.01, rtol=0.05)


def test_a_low_temperature_makes_neighbours_agree(pipe) -> None:
    def agreement(temperature: float) -> float:
        label_maps = sampled(pipe, two_prompts(pipe), temperature=temperature)
        return float((label_maps[:, 1:] == label_maps[:, :-1]).float().mean())

    assert agreement(0.1) > agreement(1.0) > agreement(3.0)


def test_neighbouring_mask_slices_repeat_at_the_edges() -> None:
    volume = torch.arange(5).view(1, 1, 1, 5).expand(2, 4, 4, 5)
    assert mask_triples(volume, 0)[0, :, 0, 0].tolist() == [0, 0, 1]
    assert mask_triples(volume, 4)[0, :, 0, 0].tolist() == [3, 4, 4]


def test_a_slice_depends_on_its_mask_its_predecessor_and_the_text() -> None:
    torch.manual_seed(0)
    model = SliceGenerator(4, latent_channels=2, channels=(16, 16, 32), mask_features=4, token_size=8, vector_size=8)
    model.eval()
    for p in model.unet.conv_out.parameters():
        torch.nn.init.normal_(p)
    generator = torch.Generator().manual_seed(1)
    x, sigma, level = torch.randn(1, 2, 8, 8, generator=generator), torch.tensor([0.5]), torch.tensor([0.1])
    labels = torch.zeros(1, 3, 32, 32, dtype=torch.long)
    other = labels.clone()
    other[:, :, 8:20, 8:20] = 3
    previous, tokens = torch.randn(1, 2, 8, 8, generator=generator), torch.randn(1, 5, 8, generator=generator)
    base = model(x, sigma, model.encode_mask(labels), previous, level, tokens)
    assert not torch.allclose(base, model(x, sigma, model.encode_mask(other), previous, level, tokens))
    assert not torch.allclose(base, model(x, sigma, model.encode_mask(labels), -previous, level, tokens))
    assert not torch.allclose(base, model(x, sigma, model.encode_mask(labels), previous, level, -tokens))


def test_corruption_of_the_previous_slice_keeps_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    previous, noise = (torch.randn(1, 4, 64, 64, generator=generator) for _ in range(2))
    for level in (0.0, 0.3, 0.8):
        assert corrupt_previous(previous, torch.tensor([level]), noise).std() == pytest.approx(1, abs=0.02)
    assert torch.equal(corrupt_previous(previous, torch.tensor([0.0]), noise), previous)


def test_a_volume_is_the_same_alone_as_in_a_batch(pipe) -> None:
    tokens = pipe.encode(["CT chest. no tumour."]).expand(2, -1, -1)
    labels = torch.randint(0, 21, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)

    def cts(which, scheduler=pipe.slice_scheduler, **settings):
        generators = [torch.Generator().manual_seed(i) for i in which]
        return sample_cts(
            pipe.slice_generator,
            scheduler,
            pipe.autoencoder,
            labels[which],
            tokens[which],
            generators,
            num_steps=2,
            **settings,
        )

    together, alone = cts([0, 1]), torch.cat([cts([0]), cts([1])])
    assert together.shape == (2, 32, 32, 3)
    assert together.dtype == torch.int16
    assert (together - alone).abs().max() <= 1  # the last bit of float32 may differ with the batch
    staggered = cts([0, 1], delay=1)
    assert (staggered - torch.cat([cts([0], delay=1), cts([1], delay=1)])).abs().max() <= 1
    assert torch.equal(cts([0], delay=2), cts([0]))
    assert not torch.equal(staggered, together)
    heun = FlowMatchHeunDiscreteScheduler()  # asks the network three times in two steps
    assert cts([0], scheduler=heun, delay=1).shape == (1, 32, 32, 3)


def test_latents_of_an_autoencoder_have_the_shape_it_declares() -> None:
    model = CTAutoencoder(latent_channels=3, block_out_channels=(8, 16))
    ct = torch.full((2, 1, 32, 48), -1000.0)
    latents = model.encode(ct)
    assert latents.shape == (2, 3, 8, 12)
    assert model.downsampling == 4
    decoded = model.decode(latents)
    assert decoded.shape == ct.shape
    assert decoded.min() >= -1024
    assert decoded.max() <= 1976


def test_a_prompts_tokens_do_not_depend_on_its_batch_and_end_in_zeros() -> None:
    encoder = TextEncoder()
    short, long = "CT chest. no tumour.", "CT abdomen. liver enlarged. hypodense tumour 24 mm in liver left lobe."
    together = encoder([short, long])
    assert together.shape == (2, 96, encoder.token_size)
    assert torch.equal(together[0], encoder([short])[0])
    assert (together[0, 40:] == 0).all()
    assert (together[0, 0] != 0).any()


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(ModelError, match="more than 96 tokens"):
        TextEncoder()(["tumour " * 200])


def test_tokens_do_not_depend_on_the_number_of_threads() -> None:
    prompt = ["CT abdomen and pelvis. portal venous. liver enlarged. tumour 30 mm in right lobe of liver."]
    encoder, before, tokens = TextEncoder(), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            tokens.append(encoder(prompt))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], tokens[2])


def test_an_unknown_language_encoder_is_refused_by_name(tmp_path) -> None:
    # A folder, not a hub id: asking the hub takes most of a minute where there is no network.
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ModelError, match=f"no language encoder '{nowhere}'"):
        TextEncoder(str(nowhere))


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_noise_of_neighbouring_slices_goes_together_and_stays_normal(correlation) -> None:
    white = torch.randn(2, 40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = correlated(white, correlation)
    assert torch.equal(noise[:, 0], white[:, 0])
    assert float(noise[:, 30:].std()) == pytest.approx(1, abs=0.01)
    for apart in (1, 2):
        together = float((noise[:, apart:] * noise[:, :-apart]).mean())
        assert together == pytest.approx(correlation**apart, abs=0.02)
    if not correlation:
        assert torch.equal(noise, white)
