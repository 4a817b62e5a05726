"""The network that draws in a completed folder: one for all of its cases, and kept beside them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ModelError
from guidegen_data.training.run_state import best_or_last
from guidegen_data.training.segmenter import trained_segmenter

#: In a completed folder: a run that trained a network there, or another folder's network as it is.
FOLDER = "segmenter"


def network_digest(completed: Path) -> str | None:
    """What tells the network of a completed folder from any other; None where it has none."""
    weights = best_or_last(completed / FOLDER) / "diffusion_pytorch_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None


def check_own(out: Path, noted: str | None) -> None:
    """ModelError where the cases of a folder were drawn by a network that was not trained there, or is there no more.

    `noted` is the digest of the network that drew them, where the folder says it.
    """
    held = network_digest(out)
    if held and not _begun(out):
        raise ModelError(
            f"{out} was begun with the network of another folder; go on with --num-steps 0 --init {out}, or choose "
            "another folder."
        )
    if noted and not held:
        raise ModelError(f"the network that drew the cases of {out} is gone from it; choose another folder.")


def take_network(completed: Path, out: Path, anatomy: Anatomy, noted: str | None) -> None:
    """Copies the network of a completed folder into another one, that all of its cases may be drawn by that.

    ModelError where those were begun with another network, and for one of another label table, spacing or shape.
    """
    trained_segmenter(completed, anatomy)
    held, other = network_digest(out), network_digest(completed)
    if other != (held or noted or (None if _begun(out) else other)):
        raise ModelError(
            f"{out} was begun with another network than that of {completed}; run the command that began it, or choose "
            "another folder."
        )
    if held is None:
        part = out / FOLDER / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(best_or_last(completed / FOLDER), part)
        os.replace(part, out / FOLDER / "model")


def _begun(out: Path) -> bool:
    """Whether a network is trained in the folder: a run begins with its configuration."""
    return (out / FOLDER / "config.json").exists()
