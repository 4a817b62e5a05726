"""Fine-tuning: a network that starts from the weights of a model or a run, as far as the shapes agree."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidegen_data.errors import ModelError
from guidegen_data.models.folder import model_folder
from guidegen_data.training.run_state import best_or_last
from guidegen_data.training.weights import weights_digest


class Initial(enum.Enum):
    """The part of a model folder that a stage starts from."""

    AUTOENCODER = "autoencoder"
    MASKS = "mask_sampler"
    SLICES = "slice_generator"
    TISSUE = "tissue_network"
    DETAIL = "detail_network"


_CLASSES = {
    Initial.AUTOENCODER: ("CTAutoencoder",),
    Initial.MASKS: ("MaskSampler",),
    Initial.SLICES: ("SliceGenerator",),
    Initial.TISSUE: ("TissueNetwork", "FatNetwork"),
    Initial.DETAIL: ("DetailNetwork",),
}

#: The part that each stage of `guidegen train` trains; a decoder starts from none.
OF_STAGE = {
    "autoencoder": Initial.AUTOENCODER,
    "masks": Initial.MASKS,
    "detail": Initial.DETAIL,
    "tissue": Initial.TISSUE,
    "slices": Initial.SLICES,
}

#: What belongs to the vocabulary of a model, not to its size.
_OF_THE_TABLE = {"num_classes", "fields", "lesion_class", "tissues", "tissues_within"}


def initial_network(model: str | None, part: Initial, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the network: those of the model or run it starts from, else the recipe's; ModelError for a missing one.

    What the model does not name, because it was made before there was such a size, is the recipe's.
    """
    if model is None:
        return dict(recipe)
    config = _config(part_folder(model, part), model, part)
    kept = {k: v for k, v in config.items() if not k.startswith("_") and k not in _OF_THE_TABLE}
    return {**recipe, **{k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}}


def part_folder(model: str, part: Initial) -> Path:
    """Where a part's weights lie: in a whole model, or in a run that trained that part or learned beside it.

    ModelError for neither, and for a run of another stage.
    """
    try:
        return model_folder(model) / part.value
    except ModelError:
        of_run = best_or_last(Path(model))
        if not (of_run / "config.json").exists():
            raise
    # A run of slices holds the autoencoder and the tissues that it learned with.
    if part in (Initial.AUTOENCODER, Initial.TISSUE) and _class_of(of_run) in _CLASSES[Initial.SLICES]:
        return Path(model) / part.value
    return trained_part(Path(model), part)


def trained_part(run: Path, part: Initial) -> Path:
    """The weights of a run that trained a part: the best validated or the last ones; ModelError for another run."""
    folder = best_or_last(run)
    if not (folder / "config.json").exists():
        raise ModelError(f"{run} holds no trained {_CLASSES[part][0]}; train that stage first.")
    if (held := _class_of(folder)) not in _CLASSES[part]:
        raise ModelError(f"{run} is a run that trained a {held}, not a {_CLASSES[part][0]}; give a run of that stage.")
    return folder


def _class_of(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text()).get("_class_name"))


def _config(folder: Path, model: str, part: Initial) -> dict[str, Any]:
    if not folder.exists():
        raise ModelError(f"model {model!r} has no {part.value} to start from; leave --init for this stage.")
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError) as error:
        raise ModelError(f"model {model!r} has no readable {part.value}/config.json; copy its folder again.") from error


def initial_digest(model: str, part: Initial) -> str:
    """What tells the weights of that part from any others. ModelError where the model has no such part."""
    return weights_digest(_weights(model, part))


def _weights(model: str, part: Initial) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    folder = part_folder(model, part)
    _config(folder, model, part)
    try:
        return load_file(folder / "diffusion_pytorch_model.safetensors")
    except Exception as error:  # safetensors raises many kinds for a damaged file
        raise ModelError(f"{part.value} of model {model!r} cannot be read; copy its folder again.") from error


def start_from(network: nn.Module, model: str | None, part: Initial) -> list[str]:
    """Copies into a network every tensor of a model's part whose name and shape agree, and says how many on stderr.
    Returns the names of those that stay as they are.

    Input and output layers of another label table do; a layer that is told more than it was starts with zeros for that
    (`network.widened`). ModelError when less than half would be taken.
    """
    if model is None:
        return list(network.state_dict())
    held, own = _weights(model, part), network.state_dict()
    widened, config = getattr(network, "widened", lambda *_: None), _config(part_folder(model, part), model, part)
    grown = {name: wide for name, value in held.items() if (wide := widened(name, value, config)) is not None}
    taken = {k: v.to(own[k].dtype) for k, v in (held | grown).items() if k in own and own[k].shape == v.shape}
    share = sum(v.numel() for v in taken.values()) / sum(v.numel() for v in own.values())
    if share < 0.5:
        raise ModelError(f"only {share:.0%} of the weights of {model!r} fit this network; start without --init.")
    with torch.no_grad():
        network.load_state_dict(taken, strict=False)
    print(f"{part.value}: {share:.1%} of the weights taken from {model}", file=sys.stderr)
    return [name for name in own if name not in taken]
