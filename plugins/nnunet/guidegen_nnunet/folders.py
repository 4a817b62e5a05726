"""nnU-Net's folders and raw data sets as this plugin reads them, and how a synthetic case is told from a real one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidegen_data import GuideGenError

BOOKKEEPING = "guidegen_synthetic.json"
SPLITS = "splits_final.json"
CHANNELS = {"0": "CT"}

# The name says it: a synthetic case is recognised even where every file of ours is lost, and by a person too.
_SYNTHETIC = re.compile(r"guidegen_\d{9}")


class NnUNetError(GuideGenError):
    """A raw data set, plan, split or setting that nnU-Net training with synthetic cases must not use."""


def is_synthetic(identifier: str) -> bool:
    """Whether a case of that name came from us."""
    return _SYNTHETIC.fullmatch(identifier) is not None


def synthetic_id(key: str) -> str:
    """nnU-Net identifier of the shard case `s` + 9 digits; NnUNetError for a key of another form."""
    if not re.fullmatch(r"s\d{9}", key):
        raise NnUNetError(f"expected a shard key of 's' and 9 digits, got {key!r}; export a folder of guidegen-shard.")
    return f"guidegen_{key[1:]}"


def root(variable: str) -> Path:
    """The folder that an nnU-Net environment variable names; NnUNetError when it is not set."""
    value = os.environ.get(variable)
    if not value:
        raise NnUNetError(f"the environment variable {variable} is not set; point it to nnU-Net's folder of that name.")
    return Path(value)


def find_dataset(id_or_name: str, variable: str = "nnUNet_raw") -> Path:
    """Folder of `DatasetXXX_Name`, or of the number XXX, under an nnU-Net root; NnUNetError when none or several.

    The path of such a folder is taken for its name.
    """
    base = root(variable)
    wanted = Path(id_or_name)
    if wanted.name != id_or_name and wanted.parent.resolve() != base.resolve():
        raise NnUNetError(
            f"expected a data set in {variable} ({base}), got the path {id_or_name!r}; give its name or number, or set "
            f"{variable} to the folder that it lies in."
        )
    number = wanted.name.isdecimal()
    named = base.glob(f"Dataset{int(wanted.name):03d}_*") if number else [base / wanted.name]
    found = sorted(folder for folder in named if folder.is_dir())
    if len(found) != 1:
        what = ", ".join(p.name for p in found) or "none"
        raise NnUNetError(
            f"expected one data set {id_or_name!r} in {variable} ({base}), found {what}; name one of them."
        )
    return found[0]


def read_json(path: Path) -> Any:
    """Content of a JSON file; NnUNetError when it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise NnUNetError(f"expected the file {path}, but there is none; is this an nnU-Net data set?") from None
    except ValueError as error:
        raise NnUNetError(f"{path} is not valid JSON ({error}); mend or remake it.") from None


def write_json(content: Any, path: Path) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


@dataclass(frozen=True)
class RawDataset:
    """A raw data set with one CT channel: `cases` maps an identifier to its image and its label file.

    They are in nnU-Net's own order: as listed, else by identifier.
    """

    folder: Path
    dataset_json: dict[str, Any]
    cases: dict[str, tuple[Path, Path]]

    @property
    def file_ending(self) -> str:
        return str(self.dataset_json["file_ending"])

    @property
    def real_ids(self) -> list[str]:
        return sorted(i for i in self.cases if not is_synthetic(i))

    @property
    def synthetic_ids(self) -> list[str]:
        return sorted(i for i in self.cases if is_synthetic(i))


def read_raw_dataset(folder: Path) -> RawDataset:
    """The raw data set in a folder; NnUNetError unless it has one CT channel and a label file for every image."""
    dataset_json = read_json(folder / "dataset.json")
    missing = {"labels", "channel_names", "file_ending", "numTraining"} - dataset_json.keys()
    if missing:
        raise NnUNetError(f"{folder.name}/dataset.json lacks {', '.join(sorted(missing))}; complete it first.")
    refuse_other_channels(dataset_json, folder.name)
    cases = dict(_listed(folder, dataset_json) if "dataset" in dataset_json else _found(folder, dataset_json))
    absent = sorted(str(p) for pair in cases.values() for p in pair if not p.is_file())
    if absent:
        raise NnUNetError(
            f"{folder.name} misses {len(absent)} files of its training cases, first {absent[0]}; add them."
        )
    if len(cases) != dataset_json["numTraining"]:
        raise NnUNetError(
            f"{folder.name}/dataset.json says numTraining {dataset_json['numTraining']}, but there are {len(cases)} "
            f"training cases; correct the number or complete the folder."
        )
    return RawDataset(folder, dataset_json, cases)


def refuse_other_channels(dataset_json: dict[str, Any], what: str) -> None:
    """NnUNetError unless CT is the one channel."""
    channels = [str(c) for c in dataset_json["channel_names"].values()]
    if [c.casefold() for c in channels] != ["ct"]:
        raise NnUNetError(
            f"expected {what} to have the one channel 'CT', got {channels}; synthetic cases are CT alone and "
            f"would not fit, choose a CT data set."
        )


def _found(folder: Path, dataset_json: dict[str, Any]) -> Iterable[tuple[str, tuple[Path, Path]]]:
    suffix = f"_0000{dataset_json['file_ending']}"
    images = {image.name.removesuffix(suffix): image for image in (folder / "imagesTr").glob(f"*{suffix}")}
    for identifier, image in sorted(images.items()):
        yield identifier, (image, folder / "labelsTr" / f"{identifier}{dataset_json['file_ending']}")


def _listed(folder: Path, dataset_json: dict[str, Any]) -> Iterable[tuple[str, tuple[Path, Path]]]:
    for identifier, files in dataset_json["dataset"].items():
        image, label = (folder / os.path.expandvars(p) for p in (files["images"][0], files["label"]))
        yield identifier, (image, label)
