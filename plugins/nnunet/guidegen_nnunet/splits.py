"""Folds that validate on real cases only: those of a training on the real data alone, with synthetic cases to train."""

from __future__ import annotations

from pathlib import Path

from guidegen_nnunet.folders import SPLITS, NnUNetError, is_synthetic, read_json, root

Folds = list[dict[str, list[str]]]


def real_folds(real_ids: list[str], real_folder: Path) -> Folds:
    """The folds of the real data set: its own splits_final.json, else the five that nnU-Net would make itself.

    NnUNetError when there are too few cases or the file names cases that are not there.
    """
    for folder in (root("nnUNet_preprocessed") / real_folder.name, real_folder):
        if (folder / SPLITS).is_file():
            folds = read_folds(folder / SPLITS)
            unknown = sorted({i for f in folds for ids in f.values() for i in ids} - set(real_ids))
            if unknown:
                raise NnUNetError(f"{folder / SPLITS} names cases that {real_folder.name} lacks: {unknown}; mend it.")
            return folds
    if len(real_ids) < 5:
        raise NnUNetError(
            f"expected at least 5 real cases for 5 folds, got {len(real_ids)}; put a {SPLITS} of your own into "
            f"{real_folder.name}."
        )
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    folds = generate_crossval_split(sorted(real_ids), seed=12345, n_splits=5)
    return [{part: [str(i) for i in fold[part]] for part in ("train", "val")} for fold in folds]


def with_synthetic(folds: Folds, synthetic_ids: list[str]) -> Folds:
    """The same folds with every synthetic case in every `train` and in no `val`."""
    return [{"train": [*fold["train"], *synthetic_ids], "val": list(fold["val"])} for fold in folds]


def read_folds(path: Path) -> Folds:
    """The folds of a splits_final.json; NnUNetError when a synthetic case is validated on or a fold is malformed."""
    folds = read_json(path)
    if not isinstance(folds, list) or not all(isinstance(f, dict) and {"train", "val"} <= f.keys() for f in folds):
        raise NnUNetError(f"expected {path} to be a list of folds with 'train' and 'val'; remake it.")
    for number, fold in enumerate(folds):
        refuse_synthetic_validation(fold["val"], f"fold {number} of {path}")
    return folds


def refuse_synthetic_validation(val_ids: list[str], where: str) -> None:
    """NnUNetError when validation would run on synthetic cases: its figures would say nothing of patients."""
    synthetic = [i for i in val_ids if is_synthetic(i)]
    if synthetic:
        raise NnUNetError(
            f"{where} validates on {len(synthetic)} synthetic cases (first {synthetic[0]}); only real cases may be "
            f"validated on: use the {SPLITS} that `guidegen nnunet export` wrote and one of its folds."
        )
