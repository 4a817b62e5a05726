"""A prepared folder belongs to one data set: a run that would give its files other numbers or measures is refused.

File numbers, the random split and a measured table depend on the whole list of cases. Kept beside the cases are the
configuration with the inputs (`prepared.json`), the list (`split.csv`) and how many cases the table was measured on
(`measured.json`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guidegen_data.anatomy_files import FILE_NAME
from guidegen_data.errors import SourceError
from guidegen_data.sources.inputs import check_inputs, without_inputs
from guidegen_data.sources.layouts import SourceCase
from guidegen_data.sources.prepared import write_text

_HEAD = ["case", "patient", "split"]


def claim(out: Path, config: Mapping[str, Any], cases: Sequence[SourceCase], inputs: Mapping[str, Any]) -> None:
    """Begins a prepared folder or goes on with it; a run may see fewer of its cases or more, the rest being the same.
    Until the folder has its table, no case was made, and other `inputs` take the place of those it was begun with.

    SourceError when `out` holds something else, before anything in it is changed.
    """
    rows = [[c.name, c.patient, c.split] for c in cases]
    begun = _has_config(out, config, inputs)
    held = _read_split(out / "split.csv")
    for number, (was, now) in enumerate(zip(held, rows, strict=False)):
        if was != now:
            raise SourceError(
                f"the data set changed since {out} was made: case {number} in its split.csv is {' '.join(was)}, now it "
                f"is {' '.join(now)}, and all files would be numbered anew; choose another folder."
            )
    _check_measured(out, sum(c.split == "train" for c in cases))
    if not begun:
        for folder in ("train", "validation", "cases"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        write_text(out / "prepared.json", json.dumps({**config, **inputs}, indent=1))
    if len(rows) > len(held):
        _write_split(out / "split.csv", rows)


def note_measured(out: Path, num_patients: int) -> None:
    """Keeps how many training cases the folder's table was measured on."""
    write_text(out / "measured.json", json.dumps({"training_cases": num_patients}))


def _has_config(out: Path, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    path = out / "prepared.json"
    if path.exists():
        held = json.loads(path.read_text())
        if without_inputs(held) != config:
            raise SourceError(f"{out} holds cases of another configuration ({path.name}); choose another folder.")
        if not (out / FILE_NAME).exists():
            return False
        check_inputs(out, held, inputs)
        return True
    if out.exists() and any(out.iterdir()):
        raise SourceError(f"{out} is not empty and holds no prepared cases; choose another folder.")
    return False


def _check_measured(out: Path, num_training: int) -> None:
    path = out / "measured.json"
    if not path.exists():
        return
    measured_on = json.loads(path.read_text())["training_cases"]
    if num_training > measured_on:
        raise SourceError(
            f"{out / 'anatomy.yaml'} was measured on {measured_on} training cases (--only), and now there are "
            f"{num_training}; choose another folder, with --anatomy {out / 'anatomy.yaml'} to keep that table."
        )


def _read_split(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def _write_split(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_HEAD, *rows])
    write_text(path, text.getvalue())
