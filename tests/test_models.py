"""The networks of both stages: what they are told decides what they say."""

import pytest
import torch
from tiny import tiny_pipeline

from guidegen_data.diffusion.schedule import cosine_abar
from guidegen_data.errors import ModelError
from guidegen_data.models.autoencoder import CTAutoencoder, compand, expand, random_windows, windowed_l1
from guidegen_data.models.mask_sampler import CategoricalProcess, MaskSampler, fold, mask_loss, unfold
from guidegen_data.models.sampling import sample_cts, sample_masks
from guidegen_data.models.slice_generator import SliceGenerator, corrupt_previous, mask_triples
from guidegen_data.models.text import TextEncoder


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def mask_model() -> MaskSampler:
    torch.manual_seed(0)
    return MaskSampler(num_classes=5, shape=(8, 8, 8), channels=(8, 16, 32), token_size=12, vector_size=16).eval()


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
    logits = mask_model(labels, torch.tensor([0.0]), torch.tensor([1.0]), torch.zeros(1, 3, 12))
    assert torch.equal(logits.argmax(dim=1), labels)


def test_pure_noise_adds_no_evidence(mask_model: MaskSampler) -> None:
    labels = torch.randint(5, (1, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    evidence = mask_model._evidence(labels, torch.tensor([0.0]))
    assert (evidence == 0).all()


def test_the_evidence_is_the_log_likelihood_of_the_noisy_label(mask_model: MaskSampler) -> None:
    process = CategoricalProcess(cosine_abar(50), 5)
    labels = torch.arange(5).view(1, 5, 1, 1)
    for t in (5, 25, 45):
        abar = process.abar[t].float().view(1)
        likelihood = process.marginal(torch.eye(5).view(1, 5, 5, 1, 1), torch.tensor([t]))[0, :, :, 0, 0]
        got = mask_model._evidence(labels, abar)[0, :, :, 0, 0].log_softmax(dim=0)
        torch.testing.assert_close(got, likelihood.log(), atol=1e-4, rtol=1e-4)


def test_the_text_changes_the_belief(mask_model: MaskSampler) -> None:
    labels = torch.randint(5, (2, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    arguments = (labels, torch.full((2,), 0.9), torch.full((2,), 0.01))
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randn(2, 3, 12, generator=generator) for _ in range(2)]
    one, other = (mask_model(*arguments, text) for text in texts)
    assert (one - other).abs().max() > 1e-4


def test_equal_class_weights_give_plain_cross_entropy(mask_model: MaskSampler) -> None:
    process = CategoricalProcess(cosine_abar(50), 5)
    labels = torch.randint(5, (2, 8, 8, 8), generator=torch.Generator().manual_seed(4))
    losses = [
        mask_loss(mask_model, process, labels, torch.zeros(2, 3, 12), w, torch.Generator().manual_seed(5))["total"]
        for w in (torch.ones(5), torch.tensor([1.0, 1, 1, 1, 4]))
    ]
    t = torch.randint(1, 51, (2,), generator=(g := torch.Generator().manual_seed(5)))
    x_t = process.corrupt(labels, t, g)
    logits = mask_model(x_t, t / 50, process.abar.float()[t], torch.zeros(2, 3, 12))
    torch.testing.assert_close(losses[0], torch.nn.functional.cross_entropy(logits, labels))
    assert losses[1] != losses[0]


def test_guidance_one_is_the_conditional_model_and_zero_ignores_the_text(pipe) -> None:
    tokens = pipe.encode(["CT chest. no tumour.", "CT abdomen. gallbladder absent. no tumour."])

    def masks(text, guidance):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return sample_masks(
            pipe.mask_sampler, pipe.mask_scheduler, text, generators, (16, 16, 16), 3, guidance=guidance
        )

    assert torch.equal(masks(tokens, 0.0), masks(tokens.flip(0), 0.0))
    assert torch.equal(masks(tokens, 1.0), masks(tokens, 1.0))
    assert not torch.equal(masks(tokens, 1.0), masks(tokens.flip(0), 1.0))


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

    def cts(which):
        generators = [torch.Generator().manual_seed(i) for i in which]
        return sample_cts(
            pipe.slice_generator,
            pipe.slice_scheduler,
            pipe.autoencoder,
            labels[which],
            tokens[which],
            generators,
            num_steps=2,
        )

    together, alone = cts([0, 1]), torch.cat([cts([0]), cts([1])])
    assert together.shape == (2, 32, 32, 3)
    assert together.dtype == torch.int16
    assert (together - alone).abs().max() <= 1  # the last bit of float32 may differ with the batch


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


def test_an_unknown_language_encoder_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="no language encoder 'no/such'"):
        TextEncoder("no/such")
