"""Parts of a model that `guidegen export` reads out of runs, each checked to belong to the others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidegen_data.anatomy import Anatomy
    from guidegen_data.models.autoencoder import CTAutoencoder
    from guidegen_data.models.detail import DetailNetwork
    from guidegen_data.models.fat import DrawsTissues
    from guidegen_data.models.slice_generator import SliceGenerator


#: Patients from whom a Gaussian of their HU says what bone and lung have. Of fewer it lies between those that there
#: are, while slices that know each of them by their shape draw what theirs had.
_MANY_PATIENTS = 20


def of_many_patients(slices: Path) -> bool:
    """Whether a run of slices learned from so many patients that bones and lungs are to have the HU that it draws."""
    from guidegen_data.training.provenance import run_facts

    return run_facts(slices).get("patients", {}).get("train", 0) >= _MANY_PATIENTS


def weights_of(run: Path, checkpoint: str) -> Path:
    """Where a run keeps its best weights, or its last ones."""
    from guidegen_data.training.run_state import best_or_last

    return best_or_last(run) if checkpoint == "best" else run / "model"


def autoencoder_of(args: argparse.Namespace, slices: Path, anatomy: Anatomy) -> CTAutoencoder:
    """That of the slices, a run's or a model's folder, or the one of the --decoder run; ModelError where that decodes
    other latents than theirs."""
    import torch

    from guidegen_data.errors import ModelError
    from guidegen_data.models.autoencoder import CTAutoencoder
    from guidegen_data.training.beside import check_table
    from guidegen_data.training.initial import Initial, trained_part
    from guidegen_data.training.run_state import load_part

    own = load_part(CTAutoencoder, slices / "autoencoder")
    if not args.decoder:
        return own
    trained_part(args.decoder, Initial.AUTOENCODER)
    check_table(args.decoder, anatomy)
    decoder = load_part(CTAutoencoder, weights_of(args.decoder, args.checkpoint))
    # A decoder's are copies of those of the slices that it was trained for.
    if not all(torch.equal(getattr(own, name), getattr(decoder, name)) for name in ("latent_mean", "latent_std")):
        raise ModelError(
            f"{args.decoder} decodes other latents than those of {slices}; give the decoder of a run of `guidegen "
            f"train decoder ... --autoencoder {slices}`."
        )
    return decoder


def slices_of(args: argparse.Namespace, folder: Path, anatomy: Anatomy) -> tuple[SliceGenerator, DrawsTissues | None]:
    """Those of a run's or a model's folder, and the network that draws what they are told of, with --fat that of its
    run; ModelError where these do not know the same classes."""
    from guidegen_data.errors import ModelError
    from guidegen_data.models.fat import FatNetwork
    from guidegen_data.models.folder import is_model
    from guidegen_data.models.slice_generator import SliceGenerator
    from guidegen_data.training.beside import check_table, tissue_part
    from guidegen_data.training.initial import Initial, trained_part
    from guidegen_data.training.run_state import load_part

    of_model = folder / Initial.SLICES.value
    slices = load_part(SliceGenerator, of_model if is_model(folder) else weights_of(folder, args.checkpoint))
    held = folder / Initial.TISSUE.value
    tissue = tissue_part(held) if held.is_dir() else None
    if args.fat:
        trained_part(args.fat, Initial.TISSUE)
        check_table(args.fat, anatomy)
        if not isinstance(tissue, FatNetwork):
            raise ModelError(f"the slices of {folder} were not told of fat; leave --fat, or train such slices.")
        tissue = tissue_part(weights_of(args.fat, args.checkpoint))
    told = anatomy.num_classes + (0 if tissue is None else tissue.num_tissues)
    if slices.config.num_classes != told:
        raise ModelError(f"{folder} learned another label table than {anatomy.name}; give runs that agree.")
    return slices, tissue


def detail_of(args: argparse.Namespace, anatomy: Anatomy) -> DetailNetwork:
    """The network of the --detail run; ModelError for a run of another stage, label table or spacing."""
    from guidegen_data.models.detail import DetailNetwork
    from guidegen_data.models.folded_unet import check_sides
    from guidegen_data.training.beside import check_table
    from guidegen_data.training.initial import Initial, trained_part
    from guidegen_data.training.run_state import load_part

    trained_part(args.detail, Initial.DETAIL)
    check_table(args.detail, anatomy)
    detail = load_part(DetailNetwork, weights_of(args.detail, args.checkpoint))
    check_sides(anatomy.shape, detail.multiple)
    return detail
