"""Shards and a real raw data set -> one nnU-Net raw data set in which every synthetic case is known by its name."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from guidegen_data import ShardReader
from guidegen_nnunet.folders import (
    BOOKKEEPING,
    CHANNELS,
    SPLITS,
    NnUNetError,
    RawDataset,
    read_json,
    read_raw_dataset,
    root,
    synthetic_id,
    write_json,
)
from guidegen_nnunet.labels import DatasetLabels, LabelMap, project
from guidegen_nnunet.splits import Folds, real_folds, with_synthetic

_REAL_FILES = "real_files"
_READER = "overwrite_image_reader_writer"
_WRITABLE = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Export:
    """A finished raw data set and what its maker should tell the user."""

    folder: Path
    num_real: int
    num_synthetic: int
    notices: list[str] = field(default_factory=list)


def export(shards: str | Path, real: Path | None, dataset_id: int, name: str, label_map: LabelMap) -> Export:
    """Writes nnUNet_raw/DatasetXXX_Name from a shard folder and, where given, a real raw data set.

    Appears whole under its final name or not at all; run again, it completes what an interruption left. NnUNetError
    when the two do not fit together, or the name is taken by something else.
    """
    folder = _free_folder(dataset_id, name)
    dataset = read_raw_dataset(real) if real else None
    if dataset and dataset.file_ending not in _WRITABLE:
        raise NnUNetError(
            f"expected {real} to hold {' or '.join(_WRITABLE)} files, got {dataset.file_ending!r}; convert it."
        )
    reader = ShardReader(shards)
    synthetic = _new_ids(reader, dataset)
    anatomy = reader[0].anatomy
    if dataset is None and label_map:
        raise NnUNetError("a label map needs a real data set to map to; give --real, or leave --label-map out.")
    labels = dataset.dataset_json["labels"] if dataset else anatomy.ids
    projection = project(anatomy, labels, label_map)
    folds = real_folds(dataset.real_ids, dataset.folder) if dataset else []
    record = _record(reader, dataset, folds, projection, labels, synthetic)
    notices = [*_unfinished(reader), *projection.notices()]
    result = Export(folder, len(dataset.cases) if dataset else 0, len(synthetic), notices)
    if folder.exists():
        _refuse_unless_same(folder, record)
        return result
    described = _dataset_json(dataset, labels, name, result)
    partial = _partial_folder(folder, record)
    if dataset:
        _link_real(dataset, partial)
    codes = _axis_codes(dataset)
    ending = dataset.file_ending if dataset else ".nii.gz"
    _write_synthetic(reader, partial, projection, codes, ending)
    if dataset:
        write_json(with_synthetic(folds, sorted(synthetic)), partial / SPLITS)
    write_json(described, partial / "dataset.json")
    os.rename(partial, folder)
    return result


def _record(
    reader: ShardReader,
    dataset: RawDataset | None,
    folds: Folds,
    projection: DatasetLabels,
    labels: dict[str, Any],
    synthetic: dict[str, dict[str, str]],
) -> dict[str, Any]:
    """What decides what an export writes: a folder with another record is another export."""
    cases = dataset.cases if dataset else {}
    return {
        "shards": {entry.name: entry.sha256 for entry in reader.entries},
        "real_dataset": dataset.folder.name if dataset else None,
        _REAL_FILES: {identifier: [_state(file) for file in files] for identifier, files in cases.items()},
        "real_folds": folds,
        # The trainer compares these with what it is about to train on.
        "labels": labels,
        "channel_names": CHANNELS,
        "label_of_class": projection.mapped,
        "dropped_classes": list(projection.projection.dropped),
        "labels_never_synthetic": list(projection.never_synthetic),
        "cases": synthetic,
    }


def _state(file: Path) -> list[int]:
    """Bytes and time of the last change in ns: to hash thousands of CTs at every export would take an hour."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _free_folder(dataset_id: int, name: str) -> Path:
    """The final folder; NnUNetError when nnU-Net would find two data sets of that number."""
    if not 1 <= dataset_id <= 999 or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise NnUNetError(
            f"expected --id 1..999 and a --name of letters, digits, '_', '-', got {dataset_id}, {name!r}."
        )
    folder = root("nnUNet_raw") / f"Dataset{dataset_id:03d}_{name}"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        others = [p.name for p in root(variable).glob(f"Dataset{dataset_id:03d}_*") if p.name != folder.name]
        if others:
            raise NnUNetError(f"number {dataset_id} is taken by {others[0]} in {variable}; choose another --id.")
    return folder


def _new_ids(reader: ShardReader, dataset: RawDataset | None) -> dict[str, dict[str, str]]:
    """Identifier -> shard and key, by position; NnUNetError when there is none or one is taken twice."""
    located = [reader.locate(position) for position in range(len(reader))]
    if not located:
        raise NnUNetError(f"expected at least one case in {reader.folder.url}, got none; run guidegen-shard first.")
    counts = Counter(key for _, key in located)
    taken = sorted([k for k, n in counts.items() if n > 1] + list(dataset.synthetic_ids if dataset else []))
    if taken:
        raise NnUNetError(
            f"case {taken[0]} would be there twice or already stands in the real data set, which must hold real "
            f"cases only; give the data set from before any export."
        )
    return {synthetic_id(key): {"shard": tar.name, "key": key} for tar, key in located}


def _unfinished(reader: ShardReader) -> list[str]:
    """What to tell of a shard folder that holds fewer cases than it was begun for."""
    if len(reader) >= reader.num_planned:
        return []
    return [
        f"{reader.folder.url} is not finished: exported {len(reader)} of its {reader.num_planned} cases; to have all, "
        f"run the same guidegen-shard command again and export under another --id, or delete this data set first"
    ]


def _refuse_unless_same(folder: Path, record: dict[str, Any]) -> None:
    """NnUNetError unless the folder is what an export of this record left."""
    before = read_json(folder / BOOKKEEPING) if (folder / BOOKKEEPING).is_file() else {}
    if before and _REAL_FILES not in before:
        raise NnUNetError(
            f"{folder} is there already, from a version that did not note the state of the real files, so nobody can "
            f"tell whether it is of them as they are; train with it as it is, or delete it and export again."
        )
    if before != record:
        other = ", ".join(name for name in record if before.get(name) != record[name]) if before else "everything"
        raise NnUNetError(
            f"{folder} is there already and was not made from these shards, this real data set as it is now and this "
            f"label map (other: {other}); choose another --id, or delete it first."
        )


def _partial_folder(folder: Path, record: dict[str, Any]) -> Path:
    """The folder to fill, hidden from nnU-Net, with what an interrupted run of the same command has left in it."""
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists() and not ((partial / BOOKKEEPING).is_file() and read_json(partial / BOOKKEEPING) == record):
        shutil.rmtree(partial)
    for name in ("imagesTr", "labelsTr"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    write_json(record, partial / BOOKKEEPING)
    return partial


def _link_real(dataset: RawDataset, partial: Path) -> None:
    """Real cases under nnU-Net's standard names: hard links where the file system allows, else copies."""
    for identifier, (image, label) in tqdm(dataset.cases.items(), desc="real cases", unit="case", disable=None):
        for source, target in (
            (image, partial / "imagesTr" / f"{identifier}_0000{dataset.file_ending}"),
            (label, partial / "labelsTr" / f"{identifier}{dataset.file_ending}"),
        ):
            if target.exists():
                continue
            try:
                os.link(source.resolve(), target)
            except OSError:
                shutil.copyfile(source, hidden := target.with_name(f".{target.name}"))
                os.replace(hidden, target)


def _axis_codes(dataset: RawDataset | None) -> tuple[str, str, str]:
    """The commonest storage orientation of the real images.

    nnU-Net ignores directions and sees the stored order, so a synthetic case stored otherwise would be mirrored
    against the real ones: left would be right.
    """
    if dataset is None:
        return ("R", "A", "S")
    counts = Counter(
        nib.aff2axcodes(nib.Nifti1Image.from_filename(image).affine) for image, _ in dataset.cases.values()
    )
    return counts.most_common(1)[0][0]


def _write_synthetic(
    reader: ShardReader, partial: Path, projection: DatasetLabels, codes: tuple[str, str, str], ending: str
) -> None:
    for position in tqdm(range(len(reader)), desc="synthetic cases", unit="case", disable=None):
        identifier = synthetic_id(reader.locate(position)[1])
        label_file = partial / "labelsTr" / f"{identifier}{ending}"
        if label_file.exists():
            continue
        case = reader[position]
        _save(case.ct_hu, case.affine, codes, partial / "imagesTr" / f"{identifier}_0000{ending}")
        # The label goes last: where it stands, the case is whole.
        _save(projection(case.label_map, case.spacing_mm), case.affine, codes, label_file)


def _save(array: np.ndarray, affine: np.ndarray, codes: tuple[str, str, str], path: Path) -> None:
    """A NIfTI file of a RAS+ array (X, Y, Z), stored in the wanted orientation; appears whole or not at all."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    hidden = path.with_name(f".{path.name}")
    nib.save(nib.Nifti1Image(array, affine).as_reoriented(turn), hidden)
    os.replace(hidden, path)


def _dataset_json(dataset: RawDataset | None, labels: dict[str, Any], name: str, result: Export) -> dict[str, Any]:
    own = {"name": name, "labels": labels, "numTraining": result.num_real + result.num_synthetic}
    if dataset is None:
        return {"channel_names": CHANNELS, "file_ending": ".nii.gz", **own}
    kept = {k: v for k, v in dataset.dataset_json.items() if k != "dataset"}
    return {"channel_names": CHANNELS, **kept, _READER: _reader_name(dataset), **own}


def _reader_name(dataset: RawDataset) -> str:
    """The class by which nnU-Net reads the real data set; NnUNetError when it has none that can.

    It takes the first that reads the first case, which in the merged data set may be a synthetic one: SimpleITK reads
    that, but no image whose axes are not at right angles, and all of the data set would be refused.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    image = next(iter(dataset.cases.values()))[0]
    try:
        with redirect_stderr(io.StringIO()):  # the traceback of every reader that it tries in vain
            found = determine_reader_writer_from_dataset_json(dataset.dataset_json, str(image), verbose=False)
    except RuntimeError as error:
        raise NnUNetError(f"nnU-Net has no reader for {image}; copy or convert the file again.") from error
    return str(found.__name__)
