"""Real volumes that training cases are made from: a folder of `NAME_ct.nii.gz` and `NAME_label.nii.gz` files."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.errors import SourceError
from guidegen_data.sources.organ_names import organs_of_names
from guidegen_data.sources.phantom import phantom
from guidegen_data.sources.volumes import (
    Volume,
    nifti_stem,
    read_ct,
    read_pair,
    read_volume,
    resample_ct,
    without_table,
)

#: TotalSegmentator classes that are bone but not in our table; contrast never changes them.
_BONE = (
    "sacrum", "sternum", "costal_cartilages", "skull", "hip_left", "hip_right", "femur_left", "femur_right",
    "humerus_left", "humerus_right", "scapula_left", "scapula_right", "clavicula_left", "clavicula_right",
)  # fmt: skip


@dataclass(frozen=True)
class Base:
    """One real volume. `labels` are uint8 ids of `anatomy` (None: image only), `ct_hu` float32 at `ct_spacing_mm`
    (None: labels only), `bone` marks voxels on the label grid whose HU contrast medium does not change, `labelled` are
    the report names of the organs that its labels would show (None: all)."""

    name: str
    anatomy: Anatomy
    labels: np.ndarray | None = None
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0)
    ct_hu: np.ndarray | None = None
    bone: np.ndarray | None = None
    unmapped: tuple[str, ...] = ()
    landmarks_mm: dict[str, float] = field(default_factory=dict)
    labelled: frozenset[str] | None = None

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        shape = self.labels.shape if self.labels is not None else (0, 0, 0)
        x, y, z = (n * s for n, s in zip(shape, self.spacing_mm, strict=True))
        return x, y, z


def read_classes(path: Path) -> dict[int, str]:
    """Label id -> class name from a JSON file. Raises SourceError when it holds something else."""
    try:
        return {int(k): str(v) for k, v in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise SourceError(f"{path} must be a JSON object of label id to class name ({error}).") from error


def find_bases(folder: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """Case name -> (CT path, label path), either of which may be None. Raises SourceError on an empty folder."""
    if not folder.is_dir():
        raise SourceError(f"no folder {folder}; give one that holds NAME_ct.nii.gz and NAME_label.nii.gz.")
    found: dict[str, tuple[Path | None, Path | None]] = {}
    for path in sorted(folder.glob("*.nii*")):
        name, _, kind = nifti_stem(path).rpartition("_")
        ct, label = found.get(name, (None, None))
        if kind == "ct":
            found[name] = (path, label)
        elif kind == "label":
            found[name] = (ct, path)
    if not found:
        raise SourceError(f"{folder} holds no NAME_ct.nii.gz or NAME_label.nii.gz; rename the volumes to that pattern.")
    return found


def is_raw(folder: Path) -> bool:
    """Whether a folder of training data holds volumes as they are, and not cases that were prepared."""
    return not (folder / "prepared.json").exists() and any(folder.glob("*.nii*"))


def ct_paths(folder: Path, leave_out: Sequence[str] = ()) -> dict[str, Path]:
    """Name -> CT of every volume of a folder but those left out; SourceError for a name that it has no CT of, and where
    none is left."""
    found = {name: ct for name, (ct, _) in find_bases(folder).items() if ct is not None}
    check_left_out(leave_out, found, folder)
    kept = {name: ct for name, ct in found.items() if name not in leave_out}
    if not kept:
        raise SourceError(f"{folder} holds no NAME_ct.nii.gz that is not left out; add CTs, or leave out fewer.")
    return kept


def check_left_out(leave_out: Sequence[str], known: Collection[str], folder: Path) -> None:
    """SourceError where a volume is to be left out that there is none of: mistyped, it would be trained on."""
    if missing := sorted(set(leave_out) - set(known)):
        some = ", ".join(sorted(set(known))[:8])
        raise SourceError(
            f"--leave-out names {missing}, of which {folder} holds nothing to train on; its volumes are named like "
            f"{some}."
        )


def read_base(
    name: str, ct_path: Path | None, label_path: Path | None, classes: dict[int, str], anatomy: Anatomy = TORSO
) -> Base:
    """One real volume with its labels mapped into `anatomy`'s table and the table the patient lies on removed."""
    ct: Volume | None = None
    if label_path is None:
        ct = read_ct(ct_path)  # type: ignore[arg-type]
        ct = resample_ct(Volume(without_table(ct.array), ct.spacing_mm), anatomy.spacing_mm)
        return Base(name, anatomy, ct_hu=ct.array, spacing_mm=ct.spacing_mm)
    if ct_path is None:
        source = read_volume(label_path)
    else:
        ct, source = read_pair(ct_path, label_path)
    ids = source.array.astype(np.int64)
    unknown = sorted(set(np.unique(ids).tolist()) - set(classes) - {0})
    if unknown:
        raise SourceError(f"{label_path.name} holds label ids {unknown} that the class file does not name; add them.")
    table, unmapped = anatomy.lookup(classes)
    labels = table[ids]
    names = {v: k for k, v in classes.items()}
    bone_ids = [names[n] for n in _BONE if n in names]
    bone = np.isin(ids, bone_ids) | np.isin(labels, [anatomy.ids.get("vertebrae", 255), anatomy.ids.get("rib", 255)])
    return Base(
        name,
        anatomy,
        labels,
        source.spacing_mm,
        None if ct is None else without_table(ct.array),
        bone,
        tuple(unmapped),
        _landmarks(ids, names, source.spacing_mm[2]),
        frozenset(organs_of_names(classes.values(), anatomy)),
    )


def _landmarks(ids: np.ndarray, names: dict[str, int], spacing_z_mm: float) -> dict[str, float]:
    """Heights in mm above the volume's lowest slice that decide what a field of view is called."""
    marks = {}
    upper = [names[n] for n in ("lung_upper_lobe_left", "lung_upper_lobe_right") if n in names]
    for mark, wanted, pick in (
        ("lung apex", upper, np.max),
        ("lung base", [names[n] for n in ("lung_lower_lobe_left", "lung_lower_lobe_right") if n in names], np.min),
        ("bladder", [names.get("urinary_bladder", -1)], np.mean),
    ):
        heights = np.flatnonzero(np.isin(ids, wanted).any(axis=(0, 1)))
        if heights.size:
            marks[mark] = float(pick(heights)) * spacing_z_mm
    return marks


def phantom_base(seed: int, number: int) -> Base:
    """A procedural torso as a further base: a function of (seed, number) alone, its region drawn too."""
    rng = np.random.default_rng([seed, number, 7])
    region = str(rng.choice(TORSO.regions))
    labels, ct = phantom(rng, region)
    apex = np.flatnonzero((labels == TORSO.id_of("lung")).any(axis=(0, 1)))
    bladder = np.flatnonzero((labels == TORSO.id_of("urinary bladder")).any(axis=(0, 1)))
    spacing_z = TORSO.spacing_mm[2]
    # A lung cut off by the top of the field has its apex above it.
    marks = {"lung apex": float(apex[-1]) * spacing_z} if apex.size and apex[-1] < labels.shape[2] - 1 else {}
    if bladder.size:
        marks["bladder"] = float(bladder.mean()) * spacing_z
    bone = np.isin(labels, [TORSO.id_of("vertebrae"), TORSO.id_of("rib")]) | (ct > 250)
    return Base(f"phantom_{number}", TORSO, labels, TORSO.spacing_mm, ct.astype(np.float32), bone, (), marks)
