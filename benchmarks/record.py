"""Results files: every figure with the command, commit, seed and machine it came from."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from guidegen_data.models.folder import fingerprint_of, model_folder, part_fingerprint

RESULTS = Path(__file__).parent / "results"
#: Parts of a model that draw label maps, and those that draw the CT of one.
LABEL_MAP_PARTS = ("mask_sampler", "mask_scheduler", "detail_network")
IMAGE_PARTS = ("autoencoder", "slice_generator", "slice_scheduler", "tissue_network")


def weights(model: str | Path, parts: Iterable[str]) -> dict[str, Any]:
    """What figures tell of a model when only some of its parts were used: fingerprints of all of it and of these."""
    folder = model_folder(model)
    return {"model_sha256": fingerprint_of(folder), "parts_sha256": {p: part_fingerprint(folder, p) for p in parts}}


def machine() -> dict[str, Any]:
    """What a reader needs to judge a timing: processor, cores, memory, accelerator, versions."""
    import torch

    cpu = platform.processor() or platform.machine()
    memory_gib = None
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
        memory_gib = round(int(Path("/proc/meminfo").read_text().split()[1]) / 2**20, 1)
    return {
        "cpu": cpu,
        "cores": torch.get_num_threads(),
        "memory_gib": memory_gib,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def told(word: str) -> str:
    """A word of a command as others are told it: of an absolute path the last part in capitals, but for fields in
    braces, and all else as it is."""
    name, equals, value = word.rpartition("=")
    return name + equals + ",".join(_capitals(Path(p).name) if Path(p).is_absolute() else p for p in value.split(","))


def _capitals(name: str) -> str:
    return "".join(part if part.startswith("{") else part.upper() for part in re.split(r"(\{[^}]*\})", name))


def save(name: str, figures: dict[str, Any], seed: int | None = None) -> Path:
    """Writes results/NAME.json and returns its path."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    record = {
        "benchmark": name,
        "command": "python -m benchmarks." + shlex.join([Path(sys.argv[0]).stem, *map(told, sys.argv[1:])]),
        "commit": commit.stdout.strip() or None,
        "date": datetime.now(UTC).date().isoformat(),
        "seed": seed,
        "machine": machine(),
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return path
