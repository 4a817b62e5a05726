"""Training one stage from a folder: builds the network, the data and the loss, and hands them to `fit`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from guidegen_data.anatomy import Anatomy
from guidegen_data.diffusion.categorical import CategoricalScheduler
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.autoencoder import CTAutoencoder, autoencoder_loss
from guidegen_data.models.mask_sampler import MaskSampler, mask_loss
from guidegen_data.models.slice_generator import SliceGenerator, slice_loss
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.fields import field_names
from guidegen_data.sources.bases import find_bases
from guidegen_data.sources.prepared import case_paths, load_case, training_folder
from guidegen_data.sources.volumes import Volume, read_ct, resample_ct, without_table
from guidegen_data.training.ct_slices import SliceSource
from guidegen_data.training.fit import FitConfig, Step, fit
from guidegen_data.training.latents import load_latent_data
from guidegen_data.training.masks import load_mask_data
from guidegen_data.training.recipes import StageRecipe


def read_training_cts(folder: Path, spacing_mm: tuple[float, float, float], leave_out: tuple[str, ...]) -> list[Tensor]:
    """Every CT of a folder at the model's spacing, (X, Y, Z) in HU: a prepared folder's, or raw ones of NAME_ct files.

    Of raw ones two versions, float32: once anti-aliased and once sharp. Prepared ones are int16 as they are.
    """
    if (folder / "prepared.json").exists():
        cases = (load_case(p) for p in case_paths(training_folder(folder)))
        held = [torch.from_numpy(c.ct_hu).short() for c in cases if c.ct_hu is not None and c.base not in leave_out]
        if not held:
            raise SourceError(f"{folder} holds no case with a CT; the autoencoder cannot be trained from labels alone.")
        return held
    volumes = []
    for name, (path, _) in find_bases(folder).items():
        if path is not None and name not in leave_out:
            ct = read_ct(path)
            ct = Volume(without_table(ct.array), ct.spacing_mm)
            volumes += [torch.from_numpy(resample_ct(ct, spacing_mm, sharp=s).array) for s in (False, True)]
    return volumes


def train_autoencoder(
    folder: Path, run_dir: Path, recipe: StageRecipe, anatomy: Anatomy, leave_out: tuple[str, ...] = ()
) -> Iterator[Step]:
    """Trains the CT autoencoder on the raw CTs of a folder, `leave_out` kept aside for `guidegen evaluate`."""
    source = SliceSource(read_training_cts(folder, anatomy.spacing_mm, leave_out), anatomy.shape[0])

    def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = source.batch(recipe.fit.batch_size, generator)
        return autoencoder_loss(model, batch, generator)._asdict()

    yield from _fit(CTAutoencoder(**recipe.network), loss_of, recipe.fit, run_dir)


def train_masks(folder: Path, run_dir: Path, recipe: StageRecipe, anatomy: Anatomy) -> Iterator[Step]:
    """Trains stage 1 on a prepared folder."""
    model = MaskSampler(num_classes=anatomy.num_classes, fields=field_names(anatomy), **recipe.network)
    data = load_mask_data(training_folder(folder), anatomy, TextEncoder(), tuple(model.config.shape))
    process = CategoricalScheduler(num_classes=anatomy.num_classes).process
    weight = data.class_weight()

    def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        labels, condition = data.batch(recipe.fit.batch_size, generator)
        return mask_loss(model, process, labels, condition, weight, generator)

    yield from _fit(model, loss_of, recipe.fit, run_dir)


def train_slices(
    folder: Path, run_dir: Path, recipe: StageRecipe, anatomy: Anatomy, autoencoder_run: Path
) -> Iterator[Step]:
    """Trains stage 2 on a prepared folder, in the latents of a trained autoencoder.

    Writes the autoencoder with its measured latent statistics to `run_dir/autoencoder`.
    """
    autoencoder = load_part(CTAutoencoder, autoencoder_run / "model")
    run_dir.mkdir(parents=True, exist_ok=True)
    data = load_latent_data(training_folder(folder), autoencoder, TextEncoder(), run_dir / "latents.pt")
    autoencoder.save_pretrained(run_dir / "autoencoder")

    def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return slice_loss(model, **data.batch(recipe.fit.batch_size, generator), generator=generator)

    yield from _fit(SliceGenerator(num_classes=anatomy.num_classes, **recipe.network), loss_of, recipe.fit, run_dir)


def _fit(model: nn.Module, loss_of, config: FitConfig, run_dir: Path) -> Iterator[Step]:
    ema = copy.deepcopy(model)
    for step in fit(model, ema, loss_of, config, run_dir):
        if (step.number + 1) % config.save_every == 0 or step.number + 1 == config.num_steps:
            ema.save_pretrained(run_dir / "model")
        yield step


def load_part(kind: type, folder: Path):
    """One trained network from a run's `model` folder. ModelError when it is missing or damaged."""
    try:
        return kind.from_pretrained(folder, use_safetensors=True).eval()  # type: ignore[attr-defined]
    except Exception as error:
        raise ModelError(f"{folder} holds no trained {kind.__name__}; train that stage first.") from error
