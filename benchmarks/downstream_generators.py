"""The generator of a run: a model folder that never saw its test patients, nor, in a donor setting, its real cases."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from benchmarks.downstream_arms import prepare_real_cases
from benchmarks.nnunet_route import Commands
from guidegen_data.models.folder import model_folder, part_fingerprint

#: Parts of the package's head-neck model that learned from all training patients; its autoencoder did not.
LEARNED_FROM_ALL = ("mask_sampler", "detail_network", "slice_generator")
#: Warped copies of each of the k real cases that a strict generator learns from.
_COPIES = 20


def refuse_leak(openkbp: Path, real: list[str], donors: list[str], test: list[str]) -> None:
    """SystemExit where a test patient was trained on, or a donor is one of the real cases of a segmenter."""
    with (openkbp / "index.csv").open(newline="") as file:
        training = {row["patient"] for row in csv.DictReader(file) if row["split"] == "train"}
    for what, shared in (
        ("real cases of the segmenter and patients of the generator", set(real) & set(donors)),
        ("test patients and patients of the generator", set(test) & set(donors)),
        ("test patients and real cases of the segmenter", set(test) & set(real)),
        ("test and training patients of OpenKBP", set(test) & training),
    ):
        if shared:
            sys.exit(f"{what} must differ, but {', '.join(sorted(shared))} are both; use another split.")


def refuse_shipped(model: str | Path) -> None:
    """SystemExit for the head-neck model of the package, which learned from the k real cases too, for a copy of it,
    and for a model that draws with a part of it."""
    ours, theirs = (model_folder(name) for name in (model, "head-neck"))
    shared = [
        p for p in LEARNED_FROM_ALL if (held := part_fingerprint(ours, p)) and held == part_fingerprint(theirs, p)
    ]
    if shared:
        sys.exit(
            f"{model} has the {shared[0].replace('_', ' ')} of the package's head-neck model, which learned from all "
            "training patients, the real cases too; train one on the donors alone, or take the one that did: "
            "python -m benchmarks.donor_model DONORS"
        )


def strict_model(model: Path, real: list[Path], work: Path, recipe: str, num_steps: list[int]) -> None:
    """Trains a generator on the k real cases alone and exports it to `model`, by the public commands.

    `num_steps` of the autoencoder, the masks and the slices. Run again, it goes on where it was stopped.
    """
    prepare_real_cases(real, work, _COPIES)
    data, commands = work / "cases", Commands()
    for stage, steps in zip(("autoencoder", "masks", "slices"), num_steps, strict=True):
        words = [data, work / stage, "--recipe", recipe, "--num-steps", steps]
        words += ["--autoencoder", work / "autoencoder"] if stage == "slices" else []
        commands.guidegen(f"train {stage}", "train", stage, *words)
    commands.guidegen("export", "export", work / "masks", work / "slices", model, "--anatomy", data / "anatomy.yaml")
