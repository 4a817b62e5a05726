"""Recipes: every network size and training length in one place, by name, with what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guidegen_data.errors import ModelError
from guidegen_data.training.fit import FitConfig

STAGES = ("autoencoder", "masks", "detail", "tissue", "fat", "slices", "decoder")


@dataclass(frozen=True)
class StageRecipe:
    """One stage: keyword arguments of its network, and how to fit it."""

    network: dict[str, Any] = field(default_factory=dict)
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True)
class Recipe:
    """The stages of one model. The autoencoder's and the slice generator's latent channels must agree."""

    name: str
    about: str
    autoencoder: StageRecipe
    masks: StageRecipe
    slices: StageRecipe
    tissue: StageRecipe
    detail: StageRecipe
    fat: StageRecipe

    def stage(self, name: str) -> StageRecipe:
        """One of STAGES. The decoder is a part of the autoencoder, and is fitted like it."""
        return getattr(self, "autoencoder" if name == "decoder" else name)


def _tiny() -> Recipe:
    fit = FitConfig(num_steps=20, batch_size=2, learning_rate=1e-3, warmup_steps=2, save_every=10)
    return Recipe(
        "tiny",
        "a minute on a laptop: proves that the chain runs, makes nothing useful",
        StageRecipe({"latent_channels": 4, "block_out_channels": (8, 16)}, fit),
        StageRecipe(
            {
                "channels": (8, 16, 32),
                "vector_size": 32,
                "shape": (32, 32, 32),
                "layout_size": 4,
                "layout_components": 2,
                "fine_channels": 4,
            },
            fit,
        ),
        StageRecipe({"latent_channels": 4, "channels": (16, 32, 32), "vector_size": 32, "organ_hu": True}, fit),
        StageRecipe({"channels": (8, 8, 16), "num_res_units": 0}, fit),
        StageRecipe({"channels": (8, 8, 16), "num_res_units": 0, "fine_channels": 4}, fit),
        StageRecipe({"channels": (8, 8, 16), "num_res_units": 0, "fine_channels": 4}, fit),
    )


def _small() -> Recipe:
    return Recipe(
        "small",
        "the networks of the default torso weights: 10 M parameters in all, a few hours on two CPU cores",
        StageRecipe(
            {"latent_channels": 8, "block_out_channels": (32, 64)},
            FitConfig(num_steps=3500, batch_size=16, learning_rate=1.5e-3, save_every=100),
        ),
        StageRecipe(
            {"channels": (32, 64, 160), "layout_size": 32, "fine_channels": 16},
            FitConfig(num_steps=6000, batch_size=2, learning_rate=8e-4, ema_decay=0.998, save_every=100),
        ),
        StageRecipe(
            {"latent_channels": 8, "channels": (48, 96, 128), "organ_hu": True},
            FitConfig(num_steps=5000, batch_size=24, learning_rate=1e-3, ema_decay=0.998, save_every=100),
        ),
        StageRecipe(
            {"channels": (16, 32, 64, 96, 96)},
            FitConfig(num_steps=800, batch_size=1, learning_rate=2e-3, ema_decay=0.99, warmup_steps=30, save_every=50),
        ),
        StageRecipe(
            {"channels": (32, 48, 64, 64)},
            FitConfig(num_steps=2400, batch_size=1, learning_rate=2e-3, ema_decay=0.995, warmup_steps=30),
        ),
        StageRecipe(
            {"channels": (16, 24, 32, 32), "class_features": 3, "fine_channels": 8},
            FitConfig(num_steps=2400, batch_size=1, learning_rate=2e-3, ema_decay=0.995, warmup_steps=30),
        ),
    )


def _base() -> Recipe:
    return Recipe(
        "base",
        "for one GPU and a data set of your own: 60 M parameters, about a day",
        StageRecipe(
            {"latent_channels": 8, "block_out_channels": (64, 128)},
            FitConfig(num_steps=40000, batch_size=32, learning_rate=5e-4, ema_decay=0.999, save_every=1000),
        ),
        StageRecipe(
            {"channels": (64, 160, 320), "vector_size": 384, "layout_size": 48, "fine_channels": 24},
            FitConfig(num_steps=100000, batch_size=8, learning_rate=4e-4, ema_decay=0.9995, save_every=1000),
        ),
        StageRecipe(
            {"latent_channels": 8, "channels": (128, 192, 256), "vector_size": 256, "organ_hu": True},
            FitConfig(num_steps=100000, batch_size=64, learning_rate=4e-4, ema_decay=0.9995, save_every=1000),
        ),
        StageRecipe(
            {"channels": (32, 64, 128, 192, 192)},
            FitConfig(num_steps=20000, batch_size=4, learning_rate=1e-3, ema_decay=0.999, save_every=1000),
        ),
        StageRecipe(
            {"channels": (64, 96, 128, 128)},
            FitConfig(num_steps=40000, batch_size=4, learning_rate=1e-3, ema_decay=0.999, save_every=1000),
        ),
        StageRecipe(
            {"channels": (32, 48, 64, 64)},
            FitConfig(num_steps=40000, batch_size=4, learning_rate=1e-3, ema_decay=0.999, save_every=1000),
        ),
    )


def _paper() -> Recipe:
    """As long and as large as the paper's networks; its batch of one is accumulated to eight."""
    return Recipe(
        "paper",
        "the size and the length of the paper's networks, for several GPUs and thousands of CTs: weeks",
        StageRecipe(
            {"latent_channels": 8, "block_out_channels": (128, 256), "layers_per_block": 2},
            FitConfig(num_steps=200000, batch_size=32, learning_rate=2e-4, ema_decay=0.9999, save_every=2000),
        ),
        StageRecipe(
            {"channels": (96, 224, 448), "vector_size": 512, "layout_size": 64, "fine_channels": 32},
            FitConfig(
                num_steps=713000, batch_size=4, accumulate=2, learning_rate=1e-4, ema_decay=0.9999, save_every=2000
            ),
        ),
        StageRecipe(
            {"latent_channels": 8, "channels": (224, 448, 672), "vector_size": 512, "organ_hu": True},
            FitConfig(num_steps=400000, batch_size=64, learning_rate=1e-4, ema_decay=0.9999, save_every=2000),
        ),
        StageRecipe(
            {"channels": (32, 64, 128, 256, 256)},
            FitConfig(num_steps=50000, batch_size=4, learning_rate=5e-4, ema_decay=0.9995, save_every=2000),
        ),
        StageRecipe(
            {"channels": (64, 128, 192, 192)},
            FitConfig(num_steps=100000, batch_size=4, learning_rate=5e-4, ema_decay=0.9995, save_every=2000),
        ),
        StageRecipe(
            {"channels": (64, 128, 192, 192)},
            FitConfig(num_steps=100000, batch_size=4, learning_rate=5e-4, ema_decay=0.9995, save_every=2000),
        ),
    )


RECIPES = {recipe.name: recipe for recipe in (_tiny(), _small(), _base(), _paper())}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; ModelError naming the known ones otherwise."""
    if name not in RECIPES:
        raise ModelError(f"no recipe {name!r}; known: {', '.join(RECIPES)}.")
    return RECIPES[name]
