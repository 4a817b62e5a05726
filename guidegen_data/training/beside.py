"""What stage 2 learns beside: the autoencoder whose latents it draws, and the tissues that it is told of."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from guidegen_data.anatomy import Anatomy, anatomy_named
from guidegen_data.anatomy_files import FILE_NAME, unregistered_anatomy
from guidegen_data.errors import AnatomyError, ModelError
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.fat import DrawsTissues, FatNetwork
from guidegen_data.models.folder import anatomy_name_of, model_folder
from guidegen_data.models.tissue import TissueNetwork
from guidegen_data.training.initial import Initial, part_folder, trained_part
from guidegen_data.training.run_state import load_part


def autoencoder_beside(run: Path | None, initial: str | None, anatomy: Anatomy) -> CTAutoencoder:
    """The autoencoder of a run, else that of the model or run of slices to start from.

    What its decoder knows of the classes of another table is left behind. ModelError where there is none.
    """
    if run is not None:
        return load_part(CTAutoencoder, trained_part(run, Initial.AUTOENCODER))
    if initial is None:
        raise ModelError("slices are trained in the latents of an autoencoder; give its run, or a model to start from.")
    held = load_part(CTAutoencoder, part_folder(initial, Initial.AUTOENCODER))
    if not held.config.num_classes or same_table(initial, anatomy):
        return held
    sizes = {k: v for k, v in held.config.items() if not k.startswith("_") and k != "num_classes"}
    bare = CTAutoencoder(**sizes)
    bare.load_state_dict(held.state_dict(), strict=False)
    return bare.eval()


def tissue_part(folder: Path) -> DrawsTissues:
    """The network in a folder that draws what slices are told of: tissues around the classes, or fat in one of them.

    ModelError where it cannot be read.
    """
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError):
        name = ""  # said below
    return load_part(FatNetwork if name == FatNetwork.__name__ else TissueNetwork, folder).requires_grad_(False)


def tissue_beside(run: Path | None, initial: str | None, anatomy: Anatomy) -> DrawsTissues | None:
    """The network of a run of `guidegen train tissue`, else that of the model or run of slices to start from, if any.

    One of another table is refused where it was asked for (ModelError), and else left out, which is said on stderr.
    """
    if run is not None:
        folder = trained_part(run, Initial.TISSUE)
        if not same_classes(run / FILE_NAME, anatomy):
            raise ModelError(f"{run} learned tissues around other classes than those of the {anatomy.name} table.")
        return tissue_part(folder)
    if initial is None or not (part_folder(initial, Initial.TISSUE) / "config.json").exists():
        return None
    if not same_table(initial, anatomy):
        print(f"tissues of {initial} are of another label table: slices are told of none", file=sys.stderr)
        return None
    return tissue_part(part_folder(initial, Initial.TISSUE))


def same_table(initial: str, anatomy: Anatomy) -> bool:
    """Whether a model or run has the classes of an anatomy."""
    try:
        folder = model_folder(initial)
    except ModelError:
        return same_classes(Path(initial) / FILE_NAME, anatomy)
    if (folder / FILE_NAME).exists():
        return same_classes(folder / FILE_NAME, anatomy)
    try:
        return _names(anatomy_named(anatomy_name_of(folder))) == _names(anatomy)
    except AnatomyError:
        return False


def same_classes(path: Path, anatomy: Anatomy) -> bool:
    """Whether an anatomy file has the classes of an anatomy."""
    # Read as it is: a table that is parsed takes the place of the one of its name.
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [(int(c["id"]), str(c["name"])) for c in held["classes"]] == _names(anatomy)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False


def check_table(run: Path, anatomy: Anatomy) -> None:
    """ModelError where a run learned other classes than those of an anatomy, or at another spacing."""
    learned = run / FILE_NAME
    if not same_classes(learned, anatomy):
        raise ModelError(f"{run} learned another label table than {anatomy.name}; give runs that agree.")
    spacing_mm = unregistered_anatomy(learned).spacing_mm
    if spacing_mm != anatomy.spacing_mm:
        raise ModelError(f"{run} learned at {spacing_mm} mm, here it is {anatomy.spacing_mm} mm; give runs that agree.")


def _names(anatomy: Anatomy) -> list[tuple[int, str]]:
    return [(c.id, c.name) for c in anatomy.classes]
