"""What a model must share with slices that learn from it: classes, latents, and every weight."""

from __future__ import annotations

from collections.abc import Sequence

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ModelError
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.training.beside import same_table
from guidegen_data.training.initial import Initial, part_folder
from guidegen_data.training.run_state import load_part
from guidegen_data.training.weights import weights_digest


def settle_latents(teacher: str | None, anatomy: Anatomy, autoencoder: CTAutoencoder) -> None:
    """Gives an autoencoder the latent statistics that a model or run of slices learned in, in place, where it has none.

    ModelError where that cannot teach slices of this label table in these latents: it knows other classes, or its own
    autoencoder encodes otherwise. How latents are decoded does not matter.
    """
    if teacher is None:
        raise ModelError("to distil needs a model to learn from; give --init MODEL.")
    if not same_table(teacher, anatomy):
        raise ModelError(
            f"{teacher} knows other classes than those of the {anatomy.name} table, so it cannot teach them; train "
            f"slices from it first, then distil those."
        )
    folder = part_folder(teacher, Initial.AUTOENCODER)
    if not (folder / "config.json").exists():
        return
    own = load_part(CTAutoencoder, folder)
    if _of_encoder(own) != _of_encoder(autoencoder):
        raise ModelError(f"{teacher} draws the latents of another autoencoder than the one given; leave --autoencoder.")
    if not autoencoder.latent_mean.any():
        autoencoder.latent_mean.copy_(own.latent_mean)
        autoencoder.latent_std.copy_(own.latent_std)


def check_taken(left: Sequence[str], teacher: str | None) -> None:
    """ModelError where weights are `left` that a network did not get from its teacher; its prior of HU is fitted."""
    if missing := [name for name in left if not name.startswith("hu_prior.")]:
        raise ModelError(
            f"{teacher} lacks {len(missing)} of the weights of these slices, such as {missing[0]}, so it cannot teach "
            f"them; train slices from it first, then distil those."
        )


def _of_encoder(autoencoder: CTAutoencoder) -> tuple[str, str]:
    """Digests of what makes latents."""
    return weights_digest(autoencoder.vae.encoder.state_dict()), weights_digest(autoencoder.vae.quant_conv.state_dict())
