"""The network of `guidegen complete` as a second reader of a model: which organs it reads, and how well it must."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ModelError
from guidegen_data.models.segmenter import Segmenter
from guidegen_data.training.completion import DRAWN_BY, FIGURES
from guidegen_data.training.drawing_network import network_digest
from guidegen_data.training.segmenter import trained_segmenter

#: Held-out patients that must show an organ before a reader is trusted with it.
MIN_HELD_OUT = 5


def reader_of(completed: Path, anatomy: Anatomy, percentile: float) -> tuple[Segmenter, dict[str, float], str]:
    """The network of a folder that `guidegen complete` wrote, the least Dice of each class that it reads, and a section
    of a model card that tells both.

    The least Dice of a class is that `percentile` of what the network reaches in the validation patients who show it;
    a class that fewer than MIN_HELD_OUT of them show is not read. ModelError for a folder without these figures, or
    with those of another network, for another label table, spacing or shape than its network can read, a percentile
    outside of 0 to 100, or where no class is left.
    """
    if not 0 <= percentile <= 100:
        raise ModelError(f"--read-percentile is from 0 to 100, got {percentile:g}.")
    path = completed / FIGURES
    if not path.exists():
        raise ModelError(f"{completed} holds no {FIGURES}; give a folder that `guidegen complete` has finished.")
    told = json.loads(path.read_text(encoding="utf-8"))
    if told.get(DRAWN_BY) not in (None, network_digest(completed)):
        raise ModelError(f"{path} tells of another network than the folder holds; run `guidegen complete` there again.")
    held = {name: of["held_out_dice"] for name, of in told["classes"].items()}
    enough = {name: dice for name, dice in held.items() if len(dice) >= MIN_HELD_OUT}
    if not enough:
        raise ModelError(
            f"no organ of {completed} is shown by {MIN_HELD_OUT} validation patients, so nobody knows how well its "
            "network reads; complete a folder that keeps more patients apart."
        )
    least = {name: round(float(np.percentile(dice, percentile)), 3) for name, dice in enough.items()}
    rows = [
        f"| {name} | {least[name]:.3f} | {np.mean(dice):.3f} ({len(dice)}) |" for name, dice in sorted(enough.items())
    ]
    card = "\n".join([
        "## Second reader",
        "",
        "The network that `guidegen complete` trained on real CTs reads every CT that is made. A case in which it "
        f"finds an organ worse than in all but {percentile:g} of 100 held-out patients is refused.",
        "",
        "| organ | least Dice | mean Dice in held-out patients (how many) |",
        "|---|---|---|",
        *rows,
    ])  # fmt: skip
    return trained_segmenter(completed, anatomy), least, card + "\n"
