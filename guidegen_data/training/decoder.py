"""Training the decoder once more, with the label slice to draw borders from, while the latents stay as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import register
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.autoencoder import CTAutoencoder, compand, contrast_losses
from guidegen_data.sources.prepared import case_paths, load_case, training_paths, validation_folder
from guidegen_data.sources.processes import spread, worth_starting
from guidegen_data.tissue_rule import loosened_case
from guidegen_data.training.adversarial import BesideDiscriminator, texture_gap
from guidegen_data.training.ct_slices import SliceSource
from guidegen_data.training.fit import Step, step_generator
from guidegen_data.training.initial import Initial
from guidegen_data.training.parallel import join
from guidegen_data.training.run_state import best_or_last, load_part
from guidegen_data.training.sheets import autoencoder_sheet
from guidegen_data.training.stages import SHEET_SEED, Setting, fit_stage

#: A generated latent is not quite a real one: the decoder learns from real ones with up to this much noise, in units of
#: their standard deviation.
_LATENT_NOISE = 0.15
#: Of the gap in texture in the total by which the weights of an adversarial run are chosen.
_TEXTURE_COUNTS = 0.1


def train_decoder(folder: Path, setting: Setting, autoencoder_run: Path, adversarial: float = 0.0) -> Iterator[Step]:
    """Fits decoder and mask guide on a prepared folder's pairs; the encoder, and so every latent, stays as it is.

    `autoencoder_run` is the run of stage 2 whose latents are to be decoded: ModelError for one of another stage. With
    an `adversarial` weight above 0 a patch discriminator that sees the label slice is trained beside it. Slices that
    draw the detail of tissues are decoded beside tissues as smooth as stage 1's, so where the run is one of such slices
    (`loose_tissues`), or a model that has them, so are those that the decoder learns from. SourceError when no case has
    a CT.
    """
    parallel, device = join(setting.device)
    known = load_part(CTAutoencoder, _autoencoder_of(autoencoder_run))
    sizes = {k: known.config[k] for k in ("latent_channels", "block_out_channels", "layers_per_block", "patch")}
    num_classes = setting.anatomy.num_classes
    decoder = CTAutoencoder(**sizes, num_classes=num_classes)
    decoder.load_state_dict(known.state_dict(), strict=False)
    for part in (decoder.vae.encoder, decoder.vae.quant_conv):
        part.requires_grad_(False)
    model = BesideDiscriminator(decoder, num_classes) if adversarial else decoder
    size, batch_size = setting.anatomy.shape[0], setting.recipe.fit.batch_size
    read = _PairReader(setting.anatomy, draws_detail_of_tissues(autoencoder_run))
    source = _pairs(training_paths(folder, setting.leave_out), size, setting.workers, read).to(device)
    apart_folder = validation_folder(folder) if setting.recipe.fit.validate_every else None
    apart = None if apart_folder is None else _pairs(case_paths(apart_folder), size, setting.workers, read).to(device)

    def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        pairs = source.pairs(batch_size, generator)
        if isinstance(model, BesideDiscriminator):
            return model.loss(*pairs, decoder_loss, adversarial, generator)
        return decoder_loss(model, *pairs, generator)[0]

    def loss_apart(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        assert apart is not None
        ct_hu, labels = apart.pairs(batch_size, generator)
        losses, output = decoder_loss(_decoder_of(model), ct_hu, labels, generator)
        losses["texture"] = texture_gap(output, compand(ct_hu), ct_hu)
        if adversarial:  # what it is for: without it the first weights would be the best ones
            losses["total"] = losses["total"] + _TEXTURE_COUNTS * losses["texture"]
        return losses

    def sheet(model: nn.Module, path: Path) -> None:
        ct_hu, labels = (apart or source).pairs(6, step_generator(SHEET_SEED, 0))
        autoencoder_sheet(_decoder_of(model), ct_hu, path, labels)

    yield from fit_stage(model, loss_of, setting, parallel, device, loss_apart if apart else None, sheet)


def _autoencoder_of(slices_run: Path) -> Path:
    """Where a run of slices keeps the autoencoder whose latents it learned, their statistics measured."""
    held = slices_run / "autoencoder"
    if not held.is_dir():
        # That of an autoencoder's own run has none: what stage 2 draws would be decoded as if it were not standardised.
        raise ModelError(
            f"a decoder is trained for a run of `guidegen train slices`, which holds the autoencoder whose latents it "
            f"learned; {slices_run} holds none, give the run of slices that the decoder is for."
        )
    return held


def draws_detail_of_tissues(run: Path) -> bool:
    """Whether the slices of a run, or of a model folder, learned from tissues as smooth as stage 1's."""
    for part in (best_or_last(run), run / Initial.SLICES.value):
        if (part / "config.json").exists():
            return bool(json.loads((part / "config.json").read_text()).get("loose_tissues", False))
    return False


def _decoder_of(model: nn.Module) -> CTAutoencoder:
    found = model.autoencoder if isinstance(model, BesideDiscriminator) else model
    assert isinstance(found, CTAutoencoder)
    return found


def decoder_loss(
    model: CTAutoencoder, ct_hu: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Windowed L1 and gradient L1 of slices (B, 1, X, Y) decoded from their own noisy latents and labels (B, X, Y), and
    what was decoded, companded."""
    with torch.no_grad():
        latents = model.encode(ct_hu).float()
        strength = _LATENT_NOISE * torch.rand(len(ct_hu), 1, 1, 1, generator=generator)
        noise = torch.randn(latents.shape, generator=generator) * strength
        latents = (latents + noise.to(latents)) * model.latent_std + model.latent_mean
    output = model.decode_companded(latents, labels)
    windowed, gradient = contrast_losses(output, ct_hu, generator)
    losses = {"total": windowed + 0.5 * gradient, "windowed": windowed.detach(), "gradient": gradient.detach()}
    return losses, output


@dataclass(frozen=True)
class _PairReader:
    """The CT (X, Y, Z) int16 HU and the label map of a prepared case, as arrays; None without CT."""

    anatomy: Anatomy
    loose_tissues: bool

    def __call__(self, numbered: tuple[int, Path]) -> tuple[np.ndarray, np.ndarray] | None:
        register(self.anatomy)  # another process knows our own tables only
        number, path = numbered
        case = load_case(path)
        if case.ct_hu is None:
            return None
        labels = case.label_map
        if self.loose_tissues:
            labels = loosened_case(labels, self.anatomy, np.random.default_rng([number, 2]))
        return case.ct_hu.astype(np.int16), labels


def _pairs(paths: Sequence[Path], size: int, workers: int, read: _PairReader) -> SliceSource:
    """Slices of the cases' CTs and of their label maps, read by so many processes."""
    with spread(worth_starting(workers, len(paths))) as over:
        told = tqdm(over(read, enumerate(paths)), desc="reading cases", unit="case", total=len(paths), disable=None)
        held = [tuple(torch.from_numpy(array) for array in pair) for pair in told if pair is not None]
    if not held:
        raise SourceError(
            f"{paths[0].parent} holds no case with a CT; a decoder cannot be trained from label maps alone."
        )
    return SliceSource([ct for ct, _ in held], size, [labels for _, labels in held])
