"""How data sets lie on disk: finding their cases and reading one as a CT with label ids of an anatomy.

A layout is a pair of functions: one lists the cases of a folder without reading a volume, one reads a case. Layouts:
`nifti` (NAME_ct, NAME_label, NAME_CLASS), `totalsegmentator` (a mask a class), `nnunet` (raw data set), `openkbp`.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import SourceError
from guidegen_data.sources.bases import read_classes
from guidegen_data.sources.volumes import Volume, check_same_grid, nifti_stem, read_ct, read_pair, read_volume

#: Folder names -> split, in lower case.
SPLITS = {
    "train": "train", "training": "train", "train-pats": "train", "tr": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "validation-pats": "validation",
}  # fmt: skip
#: Splits that are kept apart: their cases are never read.
HELD_OUT = {"test", "testing", "test-pats", "ts"}


@dataclass(frozen=True)
class SourceCase:
    """One CT of a data set: `split` is '' where the data set does not say; `masks` maps a class name to its file.

    `told` holds what the data set says of the patient: report, region, phase, sex, age_decade, habitus.
    """

    name: str
    patient: str
    ct: Path
    label: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)
    split: str = ""
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Labelled:
    """A CT in HU and the anatomy's label ids on its grid, both RAS+ (X, Y, Z), and source classes without a place.

    `num_cleared` labelled slices were taken out because they were not imaged.
    """

    ct: Volume
    labels: np.ndarray
    unmapped: tuple[str, ...]
    num_cleared: int = 0


@dataclass(frozen=True)
class LabelNames:
    """Which source ids of a label file are which of the anatomy's, and the class names a mask file may have."""

    ids: Mapping[int, str] | None
    renamed: Mapping[str, str] = field(default_factory=dict)


def find_nifti(src: Path) -> tuple[list[SourceCase], list[str]]:
    """Cases of `NAME_ct.nii.gz` + `NAME_label.nii.gz`, and what belongs to no NAME_ct: volumes, rows of findings.csv.

    Further `NAME_CLASS.nii.gz` are masks of one class. Subfolders called train, validation, ... are splits. `NAME.txt`
    or `NAME_report.txt` is a report, and a `findings.csv` with a column `name` may tell report, patient, region, phase,
    sex, age and habitus.
    """
    cases: list[SourceCase] = []
    left_over: list[str] = []
    rows: dict[Path, set[str]] = {}
    for folder, split in _split_folders(src):
        table = next((t for t in (folder / "findings.csv", src / "findings.csv") if t.exists()), None)
        told = _told_of(table) if table else {}
        if table:
            rows.setdefault(table, set(told))
        files, without_ct = _files_by_case(folder)
        left_over += [path.relative_to(src).as_posix() for path in without_ct]
        for name, kinds in files.items():
            masks = {k: p for k, p in kinds.items() if k not in ("ct", "label")}
            facts = dict(told.get(name, {}))
            if table:
                rows[table].discard(name)
            for text in (folder / f"{name}.txt", folder / f"{name}_report.txt"):
                if text.exists():
                    facts["report"] = text.read_text(encoding="utf-8")
            patient = facts.pop("patient", name)
            cases.append(SourceCase(name, patient, kinds["ct"], kinds.get("label"), masks, split, facts))
    if not cases:
        raise SourceError(f"{src} holds no NAME_ct.nii.gz with NAME_label.nii.gz; rename the volumes to that pattern.")
    for table, names in rows.items():
        left_over += [f"{table.relative_to(src).as_posix()}: {name}" for name in sorted(names)]
    return cases, left_over


def _files_by_case(folder: Path) -> tuple[dict[str, dict[str, Path]], list[Path]]:
    """NAME of each NAME_ct -> what follows NAME_ -> the file, and the files that begin with no such NAME.

    Names and classes may both hold underscores: a file belongs to the longest NAME that it begins with.
    """
    paths = [path for path in sorted(folder.glob("*.nii*")) if not path.name.startswith(".")]
    names = {nifti_stem(path).removesuffix("_ct") for path in paths if nifti_stem(path).endswith("_ct")}
    files: dict[str, dict[str, Path]] = {}
    left_over = []
    for path in paths:
        parts = nifti_stem(path).split("_")
        heads = ("_".join(parts[:k]) for k in range(len(parts) - 1, 0, -1))
        name = next((head for head in heads if head in names), None)
        if name is None:
            left_over.append(path)
        else:
            files.setdefault(name, {})[nifti_stem(path).removeprefix(f"{name}_")] = path
    return files, left_over


def find_totalsegmentator(src: Path) -> list[SourceCase]:
    """Cases of the TotalSegmentator data set: `s0000/ct.nii.gz` with `s0000/segmentations/CLASS.nii.gz`.

    `meta.csv`, where it is there, tells the split, the age and the sex.
    """
    meta = _meta_of(src / "meta.csv")
    cases = []
    for ct in sorted(src.glob("*/ct.nii.gz")):
        name, row = ct.parent.name, meta.get(ct.parent.name, {})
        split = row.get("split", "").lower()
        if split in HELD_OUT:
            continue
        masks = {nifti_stem(p): p for p in sorted((ct.parent / "segmentations").glob("*.nii.gz"))}
        told = _patient_facts(row.get("gender", ""), row.get("age", ""))
        cases.append(SourceCase(name, name, ct, None, masks, SPLITS.get(split, ""), told))
    if not cases:
        raise SourceError(f"{src} holds no CASE/ct.nii.gz; give the unpacked TotalSegmentator data set.")
    return cases


def find_nnunet(src: Path) -> tuple[list[SourceCase], dict[int, str]]:
    """Training cases of an nnU-Net raw data set and its label ids. SourceError when it is no CT data set."""
    table = src / "dataset.json"
    try:
        about = json.loads(table.read_text())
        ending, labels = about.get("file_ending", ".nii.gz"), about["labels"]
        channels = {str(v).lower() for v in about.get("channel_names", about.get("modality", {})).values()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(
            f"{table} must be an nnU-Net dataset.json with channel_names and labels ({error})."
        ) from error
    if channels != {"ct"}:
        raise SourceError(f"{src.name} must have the one channel CT, got {sorted(channels)}; GuideGen makes CTs.")
    ids = {}
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if len(values) == 1:
            ids[int(values[0])] = str(name)
    cases = []
    for label in sorted((src / "labelsTr").glob(f"*{ending}")):
        name = label.name.removesuffix(ending)
        cases.append(SourceCase(name, name, src / "imagesTr" / f"{name}_0000{ending}", label))
    if not cases:
        raise SourceError(f"{src} holds no labelsTr/*{ending}; give the DatasetNNN_NAME folder of nnUNet_raw.")
    return cases, ids


def read_labelled(case: SourceCase, anatomy: Anatomy, mapping: LabelNames) -> Labelled:
    """One case with its labels mapped by name; masks are drawn over the label file, the lesion class last.

    SourceError when a grid or its place differs, an id has no name, or nothing of the case is in the anatomy.
    """
    unmapped: list[str] = []
    if case.label is not None:
        ct, source = read_pair(case.ct, case.label)
        labels, unmapped = _mapped(source.array, case.label.name, anatomy, mapping)
    else:
        ct = read_ct(case.ct)
        labels = np.zeros(ct.array.shape, np.uint8)
    names = [mapping.renamed.get(n, n) for n in case.masks]
    table, skipped = anatomy.lookup(dict(enumerate(names, start=1)))
    unmapped += skipped
    files = sorted(zip(table[1 : len(names) + 1].tolist(), case.masks.values(), strict=True))
    for value, path in sorted(files, key=lambda item: (item[0] == anatomy.lesion_id, item[0])):
        if not value:
            continue
        mask = read_volume(path)
        check_same_grid(ct, mask, case.ct, path)
        labels[mask.array > 0] = value
    if not labels.any():
        raise SourceError(f"{case.name} holds no label of the {anatomy.name} table; see the class names it has.")
    return Labelled(ct, labels, tuple(unmapped))


def _mapped(array: np.ndarray, name: str, anatomy: Anatomy, mapping: LabelNames) -> tuple[np.ndarray, list[str]]:
    ids = np.rint(array).astype(np.int64)
    names = mapping.ids if mapping.ids is not None else {c.id: c.name for c in anatomy.classes}
    if unknown := sorted(set(np.unique(ids).tolist()) - set(names) - {0}):
        raise SourceError(f"{name} holds label ids {unknown[:8]} without a name; name them in the file of --classes.")
    table, unmapped = anatomy.lookup({i: mapping.renamed.get(n, n) for i, n in names.items()})
    return table[ids], unmapped


def classes_file(src: Path, given: Path | None) -> dict[int, str] | None:
    """The ids of a folder's labels: a given JSON file, else its one *classes.json, else None (the anatomy's own).

    SourceError when the folder holds several: which one names the labels cannot be told.
    """
    if given is not None:
        return read_classes(given)
    found = sorted(src.glob("*classes.json"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{src} must hold one *classes.json at most, got {names}; name the right one with --classes.")
    return read_classes(found[0]) if found else None


def split_by_patient(cases: Sequence[SourceCase], share: float, seed: int) -> list[SourceCase]:
    """The cases with their splits: as the data set says, else `share` of the patients drawn for validation.

    SourceError when one patient is in two splits, or two cases have one name.
    """
    names = [c.name for c in cases]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise SourceError(f"the case names {twice[:3]} occur twice; rename the files so that each is one case.")
    open_patients = sorted({c.patient for c in cases if not c.split})
    drawn = np.random.default_rng(seed).permutation(len(open_patients))[: round(share * len(open_patients))]
    validation = {open_patients[int(i)] for i in drawn}
    done = [c if c.split else replace(c, split="validation" if c.patient in validation else "train") for c in cases]
    sides: dict[str, set[str]] = {}
    for case in done:
        sides.setdefault(case.patient, set()).add(case.split)
    if both := sorted(p for p, s in sides.items() if len(s) > 1):
        raise SourceError(f"patients {both[:3]} are in train and in validation; a split must keep patients apart.")
    return done


def _split_folders(src: Path) -> list[tuple[Path, str]]:
    if not src.is_dir():
        raise SourceError(f"no folder {src}; give one that holds NAME_ct.nii.gz and NAME_label.nii.gz.")
    split = [(p, SPLITS[p.name.lower()]) for p in sorted(src.iterdir()) if p.is_dir() and p.name.lower() in SPLITS]
    return split or [(src, "")]


def _told_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    known = {"name", "patient", "report", "region", "phase", "sex", "age", "habitus"}
    if not rows or "name" not in rows[0] or set(rows[0]) - known:
        raise SourceError(f"{path} needs a column name, and may have {', '.join(sorted(known - {'name'}))}; no others.")
    told = {}
    for row in rows:
        facts = {k: v for k, v in row.items() if v and k not in ("name", "sex", "age")}
        told[row["name"]] = facts | _patient_facts(row.get("sex") or "", row.get("age") or "")
    return told


def _meta_of(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in text.split("\n", 1)[0] else ",")
    return {row["image_id"]: row for row in rows if "image_id" in row}


def _patient_facts(sex: str, age: str) -> dict[str, str]:
    facts = {}
    if sex and (word := {"m": "male", "f": "female"}.get(sex.strip().lower()[:1])):
        facts["sex"] = word
    with contextlib.suppress(ValueError):
        facts["age_decade"] = str(min(int(float(age)), 109) // 10 * 10)
    return facts
