"""Slices of few steps learned from those of many: reflow (Liu et al. 2023)."""

import little_patients
import pytest
import torch
from torch import nn

from guidegen_data.cli.main import main
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


def test_it_is_trained_from_a_model_and_refused_without_one(tmp_path, capsys) -> None:
    little_patients.write_nifti(tmp_path / "src", 3)
    data, table = str(tmp_path / "prepared"), str(tmp_path / "src" / "anatomy.yaml")
    assert main(["prepare", "nifti", str(tmp_path / "src"), data, "--anatomy", table]) == 0
    run = {stage: str(tmp_path / stage) for stage in ("autoencoder", "masks", "slices", "student", "plain")}
    assert main(["train", "autoencoder", data, run["autoencoder"], *SHORT]) == 0
    assert main(["train", "masks", data, run["masks"], *SHORT]) == 0
    words = ["train", "slices", data, "--autoencoder", run["autoencoder"], *SHORT]
    assert main([*words[:3], run["slices"], *words[3:]]) == 0
    model = str(tmp_path / "model")
    assert main(["export", run["masks"], run["slices"], model]) == 0
    assert main([*words[:3], run["student"], *words[3:], "--init", model, "--distil", "2"]) == 0
    assert main([*words[:3], run["plain"], *words[3:], "--init", model]) == 0
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("student", "plain")]
    assert logs[0].count("\n") == logs[1].count("\n") == 4
    assert logs[0] != logs[1]
    student, options = tmp_path / "distilled", ["--steps-ct", "2", "--delay-ct", "1", "--noise-correlation", "0.75"]
    assert main(["export", run["masks"], run["student"], str(student), *options]) == 0
    config = GuideGenPipeline.from_pretrained(student).config
    assert (config.num_steps_ct, config.delay_ct, config.noise_correlation) == (2, 1, 0.75)
    assert "fewer than its 2 steps" in (student / "README.md").read_text()
    assert "fewer than its" not in (tmp_path / "model" / "README.md").read_text()
    capsys.readouterr()
    for option, value in (("--delay-ct", "0"), ("--noise-correlation", "1")):
        assert main(["export", run["masks"], run["student"], str(tmp_path / "none"), option, value]) == 1
        assert option in capsys.readouterr().err
    assert main([*words[:3], str(tmp_path / "none"), *words[3:], "--distil", "2"]) == 1
    assert "needs --init MODEL" in capsys.readouterr().err
