"""`guidegen complete`: a prepared folder again, with the organs that were not drawn in some cases drawn there.

In many data sets an organ was contoured only where someone needed it. A generator that learns from such label maps
leaves the organ out as often, while its CTs show it, and a network trained on those pairs learns background there.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import FILE_NAME, read_anatomy
from guidegen_data.errors import SourceError
from guidegen_data.models.segmenter import Segmenter, probabilities, read_dice
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.templates import library_for
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.describe import describe
from guidegen_data.sources.prepared import (
    base_of,
    case_paths,
    cases_digest,
    load_case,
    load_report,
    save_case,
    write_text,
)
from guidegen_data.sources.real import read_notes
from guidegen_data.training.drawing import Body, draw_missing, lacking, least_voxels

RECORD = "completed.jsonl"
#: How well the network draws, in how many files it drew, and by which key it is told which network that is.
FIGURES, DRAWN_BY = "completed.json", "network_sha256"


def anatomy_of(prepared: Path) -> Anatomy:
    """The label table of a prepared data set; SourceError when the folder is none."""
    if not (prepared / "cases").is_dir() or not (prepared / FILE_NAME).exists():
        raise SourceError(f"{prepared} holds no cases of a data set; run `guidegen prepare` without --num first.")
    return read_anatomy(prepared / FILE_NAME)


def claim(prepared: Path, out: Path, classes: Sequence[str]) -> None:
    """Begins the completed folder: what `prepared` says of itself, and which classes were drawn.

    SourceError when `out` holds something else.
    """
    wanted = json.loads((prepared / "prepared.json").read_text()) | {"completed": sorted(classes)}
    path = out / "prepared.json"
    if path.exists():
        if json.loads(path.read_text()) != wanted:
            raise SourceError(f"{out} was completed from other cases or for other classes; choose another folder.")
    elif out.exists() and any(out.iterdir()):
        raise SourceError(f"{out} is not empty and holds no completed cases; choose another folder.")
    for folder in ("train", "validation", "cases"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name in (FILE_NAME, "split.csv", "refused.jsonl"):  # each time: more may have been prepared since
        shutil.copyfile(prepared / name, out / name)
    write_text(path, json.dumps(wanted, indent=1))


def drawn_by(out: Path) -> str | None:
    """Digest of the network that drew the cases of a folder which is completed, where it says so."""
    path = out / FIGURES
    return json.loads(path.read_text(encoding="utf-8")).get(DRAWN_BY) if path.exists() else None


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file, none where there is none; a last line that a killed run cut off is removed."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        write_text(path, "".join(lines[:-1]))
        lines.pop()
    return [json.loads(line) for line in lines]


def held_out_dice(prepared: Path, model: Segmenter, classes: Sequence[str], anatomy: Anatomy) -> dict[str, list[float]]:
    """Dice of what the network draws against what the planners drew, in the validation patients who show a class."""
    dice: dict[str, list[float]] = {name: [] for name in classes}
    for path in _cases_of(prepared / "validation"):
        case = load_case(path)
        if case.ct_hu is None:
            continue
        chances = probabilities(model, case.ct_hu)
        for name in classes:
            class_id = anatomy.id_of(name)
            if (case.label_map == class_id).any():
                dice[name].append(read_dice(chances, case.label_map, class_id, anatomy.lesion_id))
    return dice


def complete(
    prepared: Path, out: Path, model: Segmenter, classes: Sequence[str], anatomy: Anatomy, workers: int = 1
) -> Iterator[str]:
    """Writes every case of `prepared` that `out` lacks, or that was prepared anew since, and yields its name when it is
    on disk. What `out` has of cases that are prepared no more is removed.

    Findings are measured again for the organs that were drawn; a report is written anew unless it was the user's own.
    So many threads read and write; the network looks at one case at a time.
    """
    least = least_voxels(prepared, classes, anatomy)
    notes = {n["name"]: n for n in read_notes(prepared)}
    record, done = out / RECORD, _forget_changed(prepared, out)
    files = _files_of(prepared)
    lock = threading.Lock()

    def one(file: str) -> tuple[str, str, Findings, dict[str, float], dict[str, float]]:
        case, drawn = _completed(load_case(prepared / file), model, least, anatomy, lock)
        report = load_report(prepared / file)
        if drawn and not notes[case.base]["report_read"]:
            rng = np.random.default_rng([*Path(file).stem.encode()])
            report = library_for(anatomy.name).render(case.findings, rng)
        save_case(out / file, case, report)
        drawn_ml = _drawn_ml(drawn, anatomy)
        return file, case.base, case.findings, drawn_ml, _mean_hu(case, drawn_ml)

    yield from (file for file in files if file in done)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for file, base, findings, drawn_ml, mean_hu in pool.map(one, [file for file in files if file not in done]):
            _write_note(out, notes[base], findings, drawn_ml, mean_hu)
            with open(record, "a", encoding="utf-8") as lines:
                line = {"file": file, "drawn_ml": drawn_ml, "prepared_sha256": cases_digest([prepared / file])}
                lines.write(json.dumps(line) + "\n")
            yield file


def _forget_changed(prepared: Path, out: Path) -> set[str]:
    """Files that are done. What there is of a patient of whom a case was prepared anew or is prepared no more is made
    again, or removed where there is nothing to make it of (refused by now): that is said on stderr.

    Notes go first and files last, by which a run finds again what one that was killed in between had left to do.
    """
    lines, gone = whole_lines(out / RECORD), [file for file in _files_of(out) if not (prepared / file).exists()]
    held = [line for line in lines if (out / line["file"]).exists()]
    if anew := {base_of(out / file) for file in (*gone, *(x["file"] for x in held if _is_anew(prepared, x)))}:
        held = [line for line in held if base_of(out / line["file"]) not in anew]
    patients = {note["name"] for note in read_notes(prepared) if not note["refused"]}
    for note in (out / "cases").glob("*.json"):
        if note.stem in anew or note.stem not in patients:
            note.unlink()
    if len(held) < len(lines):
        write_text(out / RECORD, "".join(json.dumps(line) + "\n" for line in held))
    for file in gone:
        (out / file).unlink()
    if gone:
        print(f"removed from {out}: {len(gone)} files whose cases {prepared} no longer has", file=sys.stderr)
    return {line["file"] for line in held}


def _files_of(folder: Path) -> list[str]:
    """The cases of a folder by their paths in it, training cases first."""
    return [f"{split}/{p.name}" for split in ("train", "validation") for p in _cases_of(folder / split)]


def _is_anew(prepared: Path, line: dict[str, Any]) -> bool:
    """Whether a case is another by now than the one that was completed; folders of an earlier version do not tell."""
    path = prepared / line["file"]
    return "prepared_sha256" in line and path.exists() and line["prepared_sha256"] != cases_digest([path])


def _cases_of(folder: Path) -> list[Path]:
    return case_paths(folder) if any(folder.glob("case-*.npz")) else []


def _drawn_ml(drawn: Mapping[Body, int], anatomy: Anatomy) -> dict[str, float]:
    """What was drawn of each class in ml, its sides together."""
    voxel_ml, voxels = float(np.prod(anatomy.spacing_mm)) / 1000, Counter[str]()
    for (k, _), count in drawn.items():
        voxels[anatomy.classes[k].name] += count
    return {name: round(count * voxel_ml, 2) for name, count in voxels.items()}


def _mean_hu(case: TrainingCase, drawn: Collection[str]) -> dict[str, float]:
    """Mean HU of each class that was drawn, or a side of it, in a case with a CT."""
    if case.ct_hu is None:
        return {}
    ids = case.findings.anatomy.ids
    return {name: round(float(case.ct_hu[case.label_map == ids[name]].mean()), 1) for name in drawn}


def _completed(
    case: TrainingCase, model: Segmenter, least: Mapping[Body, float], anatomy: Anatomy, lock: threading.Lock
) -> tuple[TrainingCase, dict[Body, int]]:
    if case.ct_hu is None or not lacking(case.label_map, least, anatomy):
        return case, {}
    with lock:
        chances = probabilities(model, case.ct_hu)
    label_map, drawn = draw_missing(case.label_map, chances, least, anatomy)
    if not drawn:
        return case, {}
    findings = _measured_again(case.findings, case.ct_hu, label_map, drawn, anatomy)
    return replace(case, label_map=label_map, findings=findings), drawn


def _measured_again(
    findings: Findings, ct_hu: np.ndarray, label_map: np.ndarray, drawn: Collection[Body], anatomy: Anatomy
) -> Findings:
    """The findings with the status of every organ that was drawn measured; all else as it was."""
    measured = describe(ct_hu, label_map, anatomy, {"region": findings.region})
    organs = dict(findings.organs)
    for organ in anatomy.organs:
        if {(anatomy.ids[organ.class_name], side) for side in ("", organ.side)} & set(drawn):
            organs.pop(organ.name, None)
            if organ.name in measured.organs:
                organs[organ.name] = measured.organs[organ.name]
    return replace(findings, organs=organs)


def _write_note(
    out: Path, note: dict[str, Any], findings: Findings, drawn_ml: dict[str, float], mean_hu: dict[str, float]
) -> None:
    """The note of a patient with what was drawn in the case as it is, which comes before its warped copies."""
    path = out / "cases" / f"{note['name']}.json"
    if not path.exists():
        before = note["volumes_ml"]  # of a class of which a side was there, its share
        volumes_ml = before | {name: round(before.get(name, 0) + ml, 2) for name, ml in drawn_ml.items()}
        measured = {"volumes_ml": volumes_ml, "mean_hu": note["mean_hu"] | mean_hu}
        note = note | {"findings": findings.to_dict(), "completed": list(drawn_ml), **measured}
        write_text(path, json.dumps(note, indent=1))
