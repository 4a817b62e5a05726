"""Training cases on disk: one compressed array file a case, written whole, found again by number, and resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidegen_data.errors import SourceError
from guidegen_data.reports.findings import Findings
from guidegen_data.sources.augment import Augmenter, TrainingCase
from guidegen_data.sources.bases import check_left_out, find_bases, phantom_base, read_base, read_classes
from guidegen_data.sources.inputs import check_inputs, deformed_inputs, without_inputs


@dataclass(frozen=True)
class PrepareConfig:
    """What a prepared folder holds: `num` cases drawn with `seed` from the volumes of `source`, minus `leave_out`."""

    source: str
    num: int = 600
    seed: int = 0
    leave_out: tuple[str, ...] = ()
    image_share: float = 0.5
    num_phantoms: int = 0


def _labelled(folder: Path, leave_out: tuple[str, ...]) -> dict[str, tuple[Path | None, Path | None]]:
    """The labelled volumes of a folder, (CT, label) by name, but those left out."""
    found = find_bases(folder)
    check_left_out(leave_out, found, folder)
    return {n: paths for n, paths in found.items() if n not in leave_out and paths[1] is not None}


def _class_names(folder: Path, given: Path | None) -> dict[int, str]:
    """Names of label ids: of a file that is given, else of the folder's one `*classes.json`."""
    if given is None:
        candidates = sorted(folder.glob("*classes.json"))
        if len(candidates) != 1:
            raise SourceError(f"{folder} needs one *classes.json naming its label ids; give it with --classes.")
        given = candidates[0]
    return read_classes(given)


def prepare(folder: Path, out: Path, config: PrepareConfig, classes_path: Path | None = None) -> Iterator[int]:
    """Writes the cases that are missing and yields each number when it is on disk. Case i depends on (seed, i) alone.

    `image_share` of the cases come from volumes that have a CT. SourceError when `out` holds another set, more
    cases, or some that were drawn from other volumes or with other class names.
    """
    found, classes = _labelled(folder, config.leave_out), _class_names(folder, classes_path)
    _claim(out, config, deformed_inputs(found, classes))
    bases = [read_base(n, ct, label, classes) for n, (ct, label) in found.items()]
    bases += [phantom_base(config.seed, k) for k in range(config.num_phantoms)]
    groups = [[Augmenter(b) for b in bases if (b.ct_hu is not None) == wanted] for wanted in (True, False)]
    if not bases:
        raise SourceError(f"{folder} holds no label map; masks cannot be learned from images alone.")
    for number in range(config.num):
        path = case_path(out, number)
        if not path.exists():
            rng = np.random.default_rng([config.seed, number])
            with_image = rng.random() < config.image_share
            group = groups[0 if (with_image and groups[0]) or not groups[1] else 1]
            save_case(path, group[int(rng.integers(len(group)))].make(rng))
        yield number


def _claim(out: Path, config: PrepareConfig, inputs: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    wanted, path = json.loads(json.dumps(asdict(config))), out / "prepared.json"
    if path.exists():
        held = {"num_phantoms": 0} | json.loads(path.read_text())
        if without_inputs(held) | {"num": config.num} != wanted:
            raise SourceError(f"{out} holds cases of another configuration ({path.name}); choose another folder.")
        check_inputs(out, held, inputs)
        if case_path(out, config.num) <= (last := max(out.glob("case-*[0-9].npz"), default=path.parent)):
            raise SourceError(
                f"{out} holds {last.name}, which --num {config.num} does not reach; give a larger --num, or choose "
                "another folder."
            )
        inputs = {k: v for k, v in inputs.items() if k in held}  # of earlier cases nobody knows what they were made of
    elif any(out.iterdir()):
        raise SourceError(f"{out} is not empty and holds no prepared cases; choose another folder.")
    write_text(path, json.dumps(wanted | inputs, indent=1))


def case_path(folder: Path, number: int) -> Path:
    return folder / f"case-{number:06d}.npz"


def save_case(path: Path, case: TrainingCase, report: str = "") -> None:
    """Writes a case under a temporary name first, so that a file under its final name is whole."""
    about = np.array(json.dumps([case.findings.to_dict(), case.base]))
    arrays = {"label_map": case.label_map, "about": about, "report": np.array(report)}
    if case.ct_hu is not None:
        arrays["ct_hu"] = np.clip(np.rint(case.ct_hu), -1024, 3071).astype(np.int16)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text under a temporary name first, so that a file under its final name is whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def load_case(path: Path) -> TrainingCase:
    """A prepared case; SourceError when the file is damaged."""
    with _reading(path) as data:
        findings, base = _about(data)
        ct = data["ct_hu"].astype(np.float32) if "ct_hu" in data.files else None
        return TrainingCase(data["label_map"], ct, findings, base)


def load_findings(path: Path) -> Findings:
    """The findings of a prepared case, without unpacking the rest; SourceError when it is damaged."""
    with _reading(path) as data:
        return _about(data)[0]


def _about(data: Any) -> tuple[Findings, str]:
    about, base = json.loads(str(data["about"]))
    return Findings.from_dict(about), base


def load_label_map(path: Path) -> np.ndarray:
    """The label map of a prepared case, (X, Y, Z) uint8, without unpacking the rest; SourceError when it is damaged."""
    with _reading(path) as data:
        return data["label_map"]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The arrays of a case file; SourceError for whatever a damaged one raises while they are read."""
    try:
        with np.load(path) as data:
            yield data
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(f"{path} is damaged; delete it and run the same prepare command again.") from error


def has_ct(path: Path) -> bool:
    """Whether a prepared case has a CT, without unpacking it; SourceError when the file is damaged."""
    with _reading(path) as data:
        return "ct_hu" in data.files


def cases_digest(paths: Sequence[Path]) -> str:
    """What tells these cases from any others, wherever they lie: the checksums that their files hold, nothing unpacked.

    SourceError when a file is damaged.
    """
    digest = hashlib.sha256()
    for path in paths:
        with _reading(path) as data:
            held = [(member.filename, member.CRC) for member in data.zip.infolist()]
        digest.update(json.dumps([path.name, held]).encode())
    return digest.hexdigest()


def load_cases(paths: Sequence[Path], workers: int = 1) -> Iterator[TrainingCase]:
    """Prepared cases in order, unpacked by so many threads: most of reading a case is unpacking it."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from pool.map(load_case, paths)


def load_report(path: Path) -> str:
    """The report of a prepared case, '' where it has none."""
    with np.load(path) as data:
        return str(data["report"]) if "report" in data.files else ""


def training_folder(folder: Path) -> Path:
    """Where the training cases of a prepared folder are: in `train` where it was split, else in the folder itself."""
    return folder / "train" if (folder / "train").is_dir() else folder


def validation_folder(folder: Path) -> Path | None:
    """Where a prepared folder keeps its validation cases; None when it has none."""
    held = folder / "validation"
    return held if held.is_dir() and any(held.glob("case-*.npz")) else None


def case_paths(folder: Path) -> list[Path]:
    """All cases of a folder of case files, in order; SourceError when there is none."""
    paths = sorted(p for p in folder.glob("case-*.npz") if not p.name.endswith(".part.npz"))
    if not paths:
        raise SourceError(f"{folder} holds no prepared cases; run `guidegen prepare` first.")
    return paths


def training_paths(folder: Path, leave_out: Sequence[str] = ()) -> list[Path]:
    """The training cases of a prepared folder, in order, but those that were made of the volumes left out.

    SourceError where there is none, where none is left, and for a name that no training case was made of.
    """
    paths = case_paths(training_folder(folder))
    if not leave_out:
        return paths
    bases = [base_of(path) for path in paths]
    check_left_out(leave_out, bases, folder)
    kept = [path for path, base in zip(paths, bases, strict=True) if base not in leave_out]
    if not kept:
        raise SourceError(f"{folder} holds no training case that is not left out; add cases, or leave out fewer.")
    return kept


def base_of(path: Path) -> str:
    """Name of the volume that a prepared case was made of; SourceError when the file is damaged."""
    with _reading(path) as data:
        return json.loads(str(data["about"]))[1]
