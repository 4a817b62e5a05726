"""Fingerprint, plans and folds from the real cases of a merged data set, then preprocessing of all its cases."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guidegen_nnunet.folders import (
    BOOKKEEPING,
    SPLITS,
    NnUNetError,
    RawDataset,
    find_dataset,
    read_json,
    read_raw_dataset,
    root,
    write_json,
)
from guidegen_nnunet.splits import read_folds

STAMP = "guidegen"
# Data identifier -> sha256 of the record of its export; not in the stamp, since several plans may share one's data.
_PREPROCESSED = "guidegen_preprocessed.json"
_RAW = "nnUNet_raw"
_FINGERPRINT = "dataset_fingerprint.json"
# Labels that nnU-Net scores its validation against.
_GROUND_TRUTH = "gt_segmentations"


def plan(id_or_name: str, configurations: list[str], planner_name: str, num_processes: int) -> Path:
    """Plans a merged data set as nnU-Net would plan its real cases alone, preprocesses all; returns the plans file.

    The plans carry a stamp by which the trainer knows them, and beside what was preprocessed stands of which export it
    is. NnUNetError when the data set was not exported with real cases, its folds were changed, or nnU-Net finds it
    broken.
    """
    dataset = read_raw_dataset(find_dataset(id_or_name))
    if not (dataset.folder / BOOKKEEPING).is_file() or not dataset.real_ids:
        raise NnUNetError(
            f"expected {dataset.folder.name} to be made by `guidegen nnunet export` with --real, found "
            f"{len(dataset.real_ids)} real cases; plans are made from real cases only."
        )
    preprocessed = root("nnUNet_preprocessed") / dataset.folder.name
    preprocessed.mkdir(parents=True, exist_ok=True)
    exported = _sha256(dataset.folder / BOOKKEEPING)
    _install_folds(dataset.folder / SPLITS, preprocessed / SPLITS)
    with _threads_for_planning():
        _verify(dataset, num_processes)
        _extract_fingerprint(dataset, num_processes)
        plans_file = preprocessed / f"{_plan_from_real(dataset, planner_name)}.json"
    stamp = {"num_real_cases": len(dataset.real_ids), "fingerprint_sha256": _sha256(preprocessed / _FINGERPRINT)}
    plans = read_json(plans_file)
    absent = sorted(set(configurations) - plans["configurations"].keys())
    if absent:
        raise NnUNetError(f"nnU-Net planned {', '.join(plans['configurations'])}, not {absent}; ask for one of those.")
    identifiers = _data_identifiers(plans)
    before = _noted_exports(preprocessed, identifiers.values())
    _remove_old_labels(dataset, preprocessed / _GROUND_TRUTH)
    _preprocess(dataset, plans_file.stem, configurations, num_processes)
    shutil.copyfile(dataset.folder / BOOKKEEPING, preprocessed / BOOKKEEPING)
    write_json(before | {identifiers[name]: exported for name in configurations}, preprocessed / _PREPROCESSED)
    write_json({**plans, STAMP: stamp}, plans_file)
    return plans_file


def refuse_unless_planned_from_real(
    plans: dict[str, Any], preprocessed: Path, num_real: int, data_identifier: str
) -> None:
    """NnUNetError unless `guidegen nnunet plan` made these plans and the fingerprint beside them, from real cases, and
    what was preprocessed is of the export that lies there now."""
    stamp = plans.get(STAMP)
    again = "run `guidegen nnunet plan` on this data set"
    if not stamp:
        raise NnUNetError(
            f"the plans {plans.get('plans_name')!r} were not made from real cases only (nnU-Net's own planner counts "
            f"synthetic ones as well); {again}."
        )
    fingerprint = preprocessed / _FINGERPRINT
    if _sha256(fingerprint) != stamp["fingerprint_sha256"]:
        raise NnUNetError(f"{fingerprint} was remade after the plans, with synthetic cases in it; {again}.")
    if stamp["num_real_cases"] != num_real:
        raise NnUNetError(
            f"the plans were made from {stamp['num_real_cases']} real cases, but {num_real} are preprocessed; {again}."
        )
    planned = _sha256(preprocessed / BOOKKEEPING)
    known = noted_export(preprocessed, data_identifier) or planned
    # The raw data set may have stayed on another machine.
    raw = Path(os.environ.get(_RAW, "")) / preprocessed.name / BOOKKEEPING
    if known != planned or (raw.is_file() and known != _sha256(raw)):
        raise NnUNetError(
            f"{preprocessed.name} was exported again after {data_identifier} was preprocessed, so labels there may be "
            f"old; {again}, with -c and this configuration."
        )


def noted_export(preprocessed: Path, data_identifier: str) -> str | None:
    """sha256 of the record of the export that data was preprocessed from; None where `plan` did not note it."""
    file = preprocessed / _PREPROCESSED
    return read_json(file).get(data_identifier) if file.is_file() else None


def _data_identifiers(plans: dict[str, Any]) -> dict[str, str]:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    return {name: manager.get_configuration(name).data_identifier for name in plans["configurations"]}


def _noted_exports(preprocessed: Path, data_identifiers: Iterable[str]) -> dict[str, str]:
    """Data identifier -> sha256 of the record of its export, for all that is preprocessed already."""
    if (preprocessed / _PREPROCESSED).is_file():
        return read_json(preprocessed / _PREPROCESSED)
    # A version before noted the last export that was planned alone.
    last = _sha256(preprocessed / BOOKKEEPING)
    return {identifier: last for identifier in data_identifiers if (preprocessed / identifier).is_dir()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _install_folds(source: Path, target: Path) -> None:
    """nnU-Net's planner copies the folds too, but answers other ones with a bare assertion."""
    folds = read_folds(source)
    if target.is_file() and read_folds(target) != folds:
        raise NnUNetError(f"{target} differs from {source}; delete the one that you do not want.")
    write_json(folds, target)


@contextmanager
def _threads_for_planning() -> Iterator[None]:
    """nnU-Net's planner hands nnUNet_n_proc_DA to torch as a number of threads, so 0, right for training, breaks it."""
    variable = "nnUNet_n_proc_DA"
    before = os.environ.get(variable)
    if before == "0":
        os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[variable] = before


def _verify(dataset: RawDataset, num_processes: int) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    try:
        verify_dataset_integrity(str(dataset.folder), num_processes)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise NnUNetError(f"nnU-Net finds {dataset.folder.name} broken: {reason}") from error


def _only_real(cases: dict[str, Any], dataset: RawDataset) -> dict[str, Any]:
    return {identifier: cases[identifier] for identifier in dataset.real_ids}


def _extract_fingerprint(dataset: RawDataset, num_processes: int) -> None:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    extractor = DatasetFingerprintExtractor(dataset.folder.name, num_processes)
    extractor.dataset = _only_real(extractor.dataset, dataset)
    extractor.run(overwrite_existing=True)


def _plan_from_real(dataset: RawDataset, planner_name: str) -> str:
    """Name of the plans that the planner wrote. It sees the real cases and their number (a bound of the batch size)."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = str(Path(nnunetv2.__path__[0]) / "experiment_planning")
    planner_class = recursive_find_python_class(folder, planner_name, "nnunetv2.experiment_planning")
    if planner_class is None:
        raise NnUNetError(f"nnU-Net has no planner {planner_name!r}; the default is 'ExperimentPlanner'.")
    planner = planner_class(dataset.folder.name)
    planner.dataset = _only_real(planner.dataset, dataset)
    planner.dataset_json["numTraining"] = len(dataset.real_ids)
    planner.plan_experiment()
    return str(planner.plans_identifier)


def _remove_old_labels(dataset: RawDataset, ground_truth: Path) -> None:
    """Takes away what is not the label of a case as it is now.

    nnU-Net copies a label over another one only if it is newer, and a label that was put back from a backup is not.
    """
    labels = {f"{identifier}{dataset.file_ending}": label for identifier, (_, label) in dataset.cases.items()}
    for copy in ground_truth.glob(f"*{dataset.file_ending}"):
        if copy.name not in labels or copy.read_bytes() != labels[copy.name].read_bytes():
            copy.unlink()


def _preprocess(dataset: RawDataset, plans_name: str, configurations: list[str], num_processes: int) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    number = int(dataset.folder.name[7:10])
    preprocess_dataset(number, plans_name, configurations, [num_processes])
