"""How trainings went: python -m benchmarks.training_curves NAME STAGE=RUN[,RUN...] ... [--points 100].

Reads the logs that `guidegen train` left in its run folders; runs of one stage that follow each other (each began with
the model that the last one became) are joined. Writes results/NAME_training.json, the losses thinned to means, and a
PNG of them with the validations.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, save
from guidegen_data.training.provenance import read_lines, run_facts

_TOLD = ("recipe", "data", "patients", "examples_a_step", "steps", "best_step", "validation")


def thinned(log: list[dict[str, Any]], points: int, before: int = 0) -> list[dict[str, float]]:
    """Mean total loss of `points` stretches of a log, each at its last step; steps counted on from `before`."""
    stretches = np.array_split(np.arange(len(log)), min(points, len(log)))
    return [
        {"step": before + log[part[-1]]["step"] + 1, "total": round(float(np.mean([log[i]["total"] for i in part])), 5)}
        for part in stretches
    ]


def stage_curve(runs: list[Path], points: int) -> dict[str, Any]:
    """Losses, validations and core-seconds of runs that follow each other."""
    training, validation, about, before, seconds = [], [], [], 0, 0.0
    for run in runs:
        log = read_lines(run / "log.jsonl")
        training += thinned(log, points, before)
        for line in read_lines(run / "validation.jsonl"):
            validation.append({**{k: v for k, v in line.items() if k != "best"}, "step": before + line["step"] + 1})
        facts = run_facts(run)
        about.append({k: facts[k] for k in _TOLD if k in facts})
        seconds += sum(line["seconds"] for line in log)
        before += len(log)
    return {"runs": about, "hours": round(seconds / 3600, 2), "training": training, "validation": validation}


def draw(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel a stage: the training loss and the validations over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 3.4), layout="constrained")
    for axis, (stage, curve) in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves.items(), strict=True):
        axis.plot([p["step"] for p in curve["training"]], [p["total"] for p in curve["training"]], label="training")
        axis.plot([p["step"] for p in curve["validation"]], [p["total"] for p in curve["validation"]], "o-",
                  markersize=3, label="validation")  # fmt: skip
        axis.set(title=stage, xlabel="step", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parses the runs, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the model; the results are NAME_training")
    parser.add_argument("runs", nargs="+", metavar="STAGE=RUN", help="a run folder, or several separated by commas")
    parser.add_argument("--points", type=int, default=100, help="points of a run's curve (default 100)")
    args = parser.parse_args()
    named = dict(word.split("=", 1) for word in args.runs)
    curves = {stage: stage_curve([Path(p) for p in runs.split(",")], args.points) for stage, runs in named.items()}
    name = args.name.replace("-", "_") + "_training"
    draw(curves, RESULTS / f"{name}.png")
    save(name, curves)


if __name__ == "__main__":
    main()
