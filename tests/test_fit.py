"""The training loop: resuming, averaging, refusing."""

import copy

import pytest
import torch
from torch import nn

from guidegen_data.errors import ModelError
from guidegen_data.training.fit import FitConfig, fit
from guidegen_data.training.recipes import RECIPES, recipe_named


def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 3, generator=generator)
    return {"total": (model(x) - x.sum(dim=1, keepdim=True)).square().mean()}


def small_model() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return model, copy.deepcopy(model)


CONFIG = FitConfig(num_steps=30, batch_size=8, learning_rate=0.05, warmup_steps=2, save_every=10, bf16=False)


def test_a_killed_and_resumed_run_equals_one_that_never_stopped(tmp_path) -> None:
    whole, whole_ema = small_model()
    for _ in fit(whole, whole_ema, loss_of, CONFIG, tmp_path / "whole"):
        pass
    first, first_ema = small_model()
    for step in fit(first, first_ema, loss_of, CONFIG, tmp_path / "cut"):
        if step.number == 17:  # killed between two saves: steps 10..17 are lost and done again
            break
    second, second_ema = small_model()
    numbers = [step.number for step in fit(second, second_ema, loss_of, CONFIG, tmp_path / "cut")]
    assert numbers == list(range(10, 30))
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second_ema.weight, whole_ema.weight)


def test_training_lowers_the_loss_and_logs_every_step(tmp_path) -> None:
    model, ema = small_model()
    losses = [step.losses["total"] for step in fit(model, ema, loss_of, CONFIG, tmp_path)]
    assert losses[-1] < 0.3 * losses[0]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 30


def test_a_run_folder_of_another_configuration_is_refused(tmp_path) -> None:
    model, ema = small_model()
    for _ in fit(model, ema, loss_of, CONFIG, tmp_path):
        pass
    other = FitConfig(num_steps=31, batch_size=8, learning_rate=0.05, warmup_steps=2, save_every=10, bf16=False)
    with pytest.raises(ModelError, match="another configuration"):
        next(fit(model, ema, loss_of, other, tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path) -> None:
    model, ema = small_model()
    with pytest.raises(ModelError, match="the loss is nan at step 0"):
        next(fit(model, ema, lambda m, s, g: {"total": m(torch.full((1, 3), float("nan"))).sum()}, CONFIG, tmp_path))


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [CONFIG.learning_rate_at(i) for i in range(30)]
    assert rates[0] < rates[1]
    assert rates[2] > rates[15] > rates[29] > 0


def test_every_recipe_has_agreeing_latents_and_an_unknown_one_is_refused() -> None:
    assert len(RECIPES) >= 3
    for recipe in RECIPES.values():
        assert recipe.autoencoder.network["latent_channels"] == recipe.slices.network["latent_channels"]
    with pytest.raises(ModelError, match="no recipe 'huge'; known: tiny, small, base, paper"):
        recipe_named("huge")
