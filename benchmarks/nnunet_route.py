"""nnU-Net's commands and ours in one set of nnU-Net folders, and real patients and cases in the forms they read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from guidegen_data import HEAD_NECK, Case, ShardReader
from guidegen_data.shards.manifest import ShardEntry
from guidegen_data.shards.writer import encode_case, write_tar

#: Label names and ids of the seven organs that OpenKBP's patients were contoured for, as our label table has them.
LABELS = {c.name: c.id for c in HEAD_NECK.classes if c.id < 8}


def write_real(pairs: list[Path], folder: Path) -> None:
    """A raw nnU-Net data set of CTs NAME_ct.nii.gz; organs that a patient's contours lack stay background."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for ct in pairs:
        name = ct.name.removesuffix("_ct.nii.gz")
        (folder / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(ct.read_bytes())
        label = ct.with_name(f"{name}_label.nii.gz")
        (folder / "labelsTr" / f"{name}.nii.gz").write_bytes(label.read_bytes())
    content = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": len(pairs), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def write_cases(make: Callable[[int], Case], num_cases: int, folder: Path, cases_a_shard: int = 16) -> None:
    """Cases 0 .. num_cases - 1 as a shard folder, as guidegen-shard writes them; shards that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, first in enumerate(range(0, num_cases, cases_a_shard)):
        path, note = folder / f"shard-{number:06d}.tar", folder / f"shard-{number:06d}.json"
        if not note.exists():
            keys = [f"s{i:09d}" for i in range(first, min(first + cases_a_shard, num_cases))]
            parts = [_tar_part(make(first + i), key) for i, key in enumerate(keys)]
            sha256, size = write_tar(path, parts)
            entry = ShardEntry(path.name, sha256, size, len(keys), keys[0], keys[-1], 0)
            note.write_text(json.dumps(asdict(entry)))
        entries.append(json.loads(note.read_text()))
    (folder / "index.json").write_text(json.dumps({"shards": entries}))


def _tar_part(case: Case, key: str) -> bytes:
    meta = {"key": key, "findings": case.findings.to_dict()}
    return encode_case(replace(case, key=key, provenance=meta)).tar()


def num_whole(folder: Path) -> int:
    """How many cases a finished shard folder holds; 0 where there is none."""
    return len(ShardReader(folder)) if (folder / "index.json").exists() else 0


class Commands:
    """Runs commands and keeps how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.environment = dict(os.environ)

    def __call__(self, name: str, *command: object) -> str:
        """Output of a command; SystemExit with it when the command fails."""
        began = time.perf_counter()
        done = subprocess.run(
            [str(c) for c in command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.seconds[name] = round(time.perf_counter() - began, 1)
        print(f"{name}: {self.seconds[name]} s", flush=True)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout}")
        return done.stdout

    def guidegen(self, name: str, *arguments: object) -> str:
        """`guidegen`."""
        return self(name, sys.executable, "-m", "guidegen_data.cli.main", *arguments)


class Route(Commands):
    """Commands in nnU-Net's folders under `work`."""

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work
        for name in ("raw", "preprocessed", "results"):
            (work / name).mkdir(parents=True, exist_ok=True)
        self.environment |= {f"nnUNet_{n}": str(work / n) for n in ("raw", "preprocessed", "results")}
        self.environment |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}

    def nnunet(self, name: str, module: str, function: str, *arguments: object) -> str:
        """One of nnU-Net's commands by its entry point."""
        return self(name, sys.executable, "-c", f"from {module} import {function}; {function}()", *arguments)
