"""Where a model lies on disk, and what it is: the folders of installed models, and the fingerprint of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from guidegen_data.anatomy import HEAD_NECK, TORSO, Anatomy
from guidegen_data.anatomy_files import FILE_NAME, read_anatomy
from guidegen_data.errors import ModelError


def model_folder(name_or_path: str | Path) -> Path:
    """The folder of an installed model or of a path. Raises ModelError naming what there is."""
    installed = Path(str(resources.files("guidegen_data") / "weights"))
    named = installed / str(name_or_path)
    folder = named if str(name_or_path).isidentifier() or "-" in str(name_or_path) else Path(name_or_path)
    if not (folder / "model_index.json").is_file():
        folder = Path(name_or_path)
    if not (folder / "model_index.json").is_file():
        known = sorted(p.parent.name for p in installed.glob("*/model_index.json"))
        raise ModelError(
            f"no model {str(name_or_path)!r}: expected one of {known} or a folder that holds model_index.json."
        )
    return folder


def is_model(name_or_path: str | Path) -> bool:
    """Whether that names an installed model or a model's folder, and no run of a training."""
    try:
        model_folder(name_or_path)
    except ModelError:
        return False
    return not (Path(name_or_path) / "about.json").exists()


def fingerprint_of(folder: Path) -> str:
    """sha256 over the names and bytes of every configuration and weight file of a model folder."""
    return _digest(folder, folder.rglob("*"))


def part_fingerprint(folder: Path, part: str) -> str:
    """The same over the files of one part of a model folder, such as `mask_sampler`; "" where it has no such part."""
    return _digest(folder, (folder / part).rglob("*")) if (folder / part).is_dir() else ""


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in paths if p.suffix in (".json", ".safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def anatomy_name_of(folder: Path) -> str:
    """Name of the label table that a model folder was made for."""
    return str(json.loads((folder / "model_index.json").read_text()).get("anatomy_name", "torso"))


def anatomy_of(folder: Path) -> Anatomy | None:
    """The label table of a model folder, known by its name from then on: its own, else the one of that name that comes
    with us, if any. AnatomyError where a table of that name has other classes, organs, sites or spacing."""
    if (folder / FILE_NAME).exists():
        return read_anatomy(folder / FILE_NAME)
    name = anatomy_name_of(folder)
    return next((table for table in (TORSO, HEAD_NECK) if table.name == name), None)
