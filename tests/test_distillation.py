"""Slices of few steps learned from those of many: reflow (Liu et al. 2023)."""

import shutil
from pathlib import Path

import little_patients
import pytest
import torch
from little_models import train_little
from safetensors.torch import load_file, save_file
from torch import nn

from guidegen_data.cli.main import main
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.slice_generator import follow_flow, slice_loss
from guidegen_data.pipeline import GuideGenPipeline

SHORT = ["--recipe", "tiny", "--num-steps", "4", "--validate-every", "0", "--device", "cpu"]


class Flow(nn.Module):
    """A slice generator with a velocity field in closed form."""

    def __init__(self, velocity) -> None:
        super().__init__()
        self.velocity = velocity
        self.seen: list[torch.Tensor] = []

    def encode_mask(self, labels, class_hu=None):
        return labels

    def forward(self, x, sigma, mask, previous, level, tokens):
        self.seen.append(sigma)
        return self.velocity(x, sigma.view(-1, 1, 1, 1))


def loss(model, teacher, **more) -> float:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(64, 2, 4, 4, generator=generator)
    labels = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    has = torch.ones(64, dtype=torch.bool)
    tokens = torch.zeros(64, 3, 5)
    return float(slice_loss(model, latents, latents, has, labels, tokens, generator, teacher=teacher, **more)["total"])


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_even_euler_steps_follow_the_flow_to_its_end(num_steps) -> None:
    x = torch.randn(3, 2, 4, 4)
    nothing = (torch.empty(0),) * 4
    straight = follow_flow(Flow(lambda x, sigma: torch.ones_like(x)), x, *nothing, num_steps=num_steps)
    assert torch.allclose(straight, x - 1, atol=1e-6)
    growing = follow_flow(Flow(lambda x, sigma: x), x, *nothing, num_steps=num_steps)
    assert torch.allclose(growing, x * (1 - 1 / num_steps) ** num_steps, atol=1e-6)
    model = Flow(lambda x, sigma: x)
    follow_flow(model, x, *nothing, num_steps=num_steps)
    assert [float(s[0]) for s in model.seen] == pytest.approx([1 - k / num_steps for k in range(num_steps)])


def test_a_straight_flow_has_nothing_to_teach_and_a_bent_one_has() -> None:
    straight = Flow(lambda x, sigma: torch.full_like(x, 0.5))
    assert loss(straight, straight) == pytest.approx(0, abs=1e-10)
    bent = Flow(lambda x, sigma: x * sigma)
    assert loss(bent, bent, teacher_steps=16) > 0.01
    assert loss(straight, None) > 0.5  # of data: the flow of a network that knows nothing of them


def test_half_of_the_examples_are_pure_noise_with_a_teacher() -> None:
    teacher, model = Flow(lambda x, sigma: torch.zeros_like(x)), Flow(lambda x, sigma: torch.zeros_like(x))
    loss(model, teacher)
    share = float((model.seen[0] == 1).float().mean())
    assert 0.3 < share < 0.7
    plain = Flow(lambda x, sigma: torch.zeros_like(x))
    loss(plain, None)
    assert not bool((plain.seen[0] == 1).any())


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """`prepared` of three patients, runs `autoencoder`, `masks` and `slices`, and their `model`. Not to be written to
    but for caches."""
    folder = tmp_path_factory.mktemp("distillation")
    train_little(folder, 3, "0", SHORT, {})
    assert main(["export", str(folder / "masks"), str(folder / "slices"), str(folder / "model")]) == 0
    return folder


def slices(work: Path, run: Path, *more: str, autoencoder: Path | None = None) -> list[str]:
    beside = ["--autoencoder", str(autoencoder or work / "autoencoder")]
    return ["train", "slices", str(work / "prepared"), str(run), *beside, *SHORT, *more]


def test_it_is_trained_from_a_model_and_refused_without_one(work, tmp_path, capsys) -> None:
    run, model = {name: tmp_path / name for name in ("student", "plain")}, str(work / "model")
    assert main(slices(work, run["student"], "--init", model, "--distil", "2")) == 0
    assert main(slices(work, run["plain"], "--init", model)) == 0
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("student", "plain")]
    assert logs[0].count("\n") == logs[1].count("\n") == 4
    assert logs[0] != logs[1]
    student, options = tmp_path / "distilled", ["--steps-ct", "2", "--delay-ct", "1", "--noise-correlation", "0.75"]
    masks = str(work / "masks")
    assert main(["export", masks, str(run["student"]), str(student), *options]) == 0
    config = GuideGenPipeline.from_pretrained(student).config
    assert (config.num_steps_ct, config.delay_ct, config.noise_correlation) == (2, 1, 0.75)
    assert "fewer than its 2 steps" in (student / "README.md").read_text()
    assert "fewer than its" not in (work / "model" / "README.md").read_text()
    capsys.readouterr()
    for option, value in (("--delay-ct", "0"), ("--noise-correlation", "1")):
        assert main(["export", masks, str(run["student"]), str(tmp_path / "none"), option, value]) == 1
        assert option in capsys.readouterr().err
    assert main(slices(work, tmp_path / "none", "--distil", "2")) == 1
    assert "needs --init MODEL" in capsys.readouterr().err


def test_slices_learn_from_a_model_in_the_latents_that_it_draws(work, tmp_path, capsys) -> None:
    """Its autoencoder may have another decoder, and what is not told of the latents is as the model has learned it."""
    held = Path(shutil.copytree(work / "model", tmp_path / "model")) / "autoencoder"
    own = CTAutoencoder.from_pretrained(held)
    with torch.no_grad():
        next(own.vae.decoder.parameters()).add_(1)
        own.latent_mean.add_(3)
    own.save_pretrained(held)
    learn = ["--init", str(tmp_path / "model"), "--distil", "2"]
    assert main(slices(work, tmp_path / "student", *learn)) == 0
    used = CTAutoencoder.from_pretrained(tmp_path / "student" / "autoencoder")
    assert torch.equal(used.latent_mean, own.latent_mean)
    with torch.no_grad():
        next(own.vae.encoder.parameters()).add_(1)
    own.save_pretrained(held)
    capsys.readouterr()
    assert main(slices(work, tmp_path / "none", *learn)) == 1
    assert "draws the latents of another autoencoder than the one given; leave --autoencoder" in capsys.readouterr().err
    assert not (tmp_path / "none" / "latents.pt").exists()


def test_a_model_of_another_label_table_is_no_teacher(work, tmp_path, capsys) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(little_patients.ANATOMY.replace("spleen", "kidney").replace("two-organs", "two-other-organs"))
    words = slices(work, tmp_path / "none", "--anatomy", str(other), "--init", str(work / "model"), "--distil", "2")
    assert main(words) == 1
    assert "knows other classes than those of the two-other-organs table" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "is_teacher"), [("mask_encoder.4.bias", False), ("hu_prior.mean", True)])
def test_a_teacher_has_every_weight_but_the_prior_of_hu(work, tmp_path, capsys, name, is_teacher) -> None:
    folder = Path(shutil.copytree(work / "model", tmp_path / "model")) / "slice_generator"
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    del weights[name]
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    words = slices(work, tmp_path / "student", "--init", str(tmp_path / "model"), "--distil", "2")
    assert main(words) == (0 if is_teacher else 1)
    assert (f"lacks 1 of the weights of these slices, such as {name}" in capsys.readouterr().err) == (not is_teacher)
