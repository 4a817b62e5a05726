"""Do generated CTs show the organs where their label maps say? python -m benchmarks.adherence PREPARED --segmenter DIR

A segmenter that learned from real patients alone is shown CTs of patients it never saw, and CTs that our image stage
draws for the label maps of the same patients. What it finds is compared with the label map, organ by organ (Dice): on
the real CT that is how well it segments; how much less it finds on the generated CT is the drop. Two controls tell what
a drop would look like: the generated CT with its label map 5 mm off, and with that of the next patient.

DIR is a folder of `guidegen complete`, PREPARED one of `guidegen prepare` whose validation
patients neither the segmenter nor the model learned from. Writes results/adherence.json and a sheet.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.record import IMAGE_PARTS, save, weights
from guidegen_data.anatomy import Anatomy
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.metrics.evaluation import real_cases
from guidegen_data.models.segmenter import Segmenter, probabilities
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.training.run_state import best_or_last, load_part
from guidegen_data.training.segmenter import organ_ids

_OFF_MM = 5.0
_LEAST_VOXELS = 30
_SHOWN = 4


@dataclass
class Found:
    """Dice of every organ that a label map shows, patient by patient, on each kind of CT."""

    real: list[dict[int, float]] = field(default_factory=list)
    generated: list[dict[int, float]] = field(default_factory=list)
    shifted: list[dict[int, float]] = field(default_factory=list)
    exchanged: list[dict[int, float]] = field(default_factory=list)


def organs_found(model: Segmenter, ct_hu: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Label map (X, Y, Z) of the organs that the segmenter is more sure of than not; 0 elsewhere."""
    chances = probabilities(model, ct_hu)
    ids = np.array(organ_ids(anatomy))
    best = chances[ids].argmax(axis=0)
    return np.where(chances[ids].max(axis=0) > 0.5, ids[best], 0)


def dices(found: np.ndarray, label_map: np.ndarray, anatomy: Anatomy) -> dict[int, float]:
    """Dice of each organ of a label map. Voxels of its lesion are left out: it hides the organs under it."""
    seen = np.where(label_map == anatomy.lesion_id, 0, found)
    rows = {}
    for k in organ_ids(anatomy):
        truth = label_map == k
        if truth.sum() >= _LEAST_VOXELS:
            rows[k] = float(2 * (truth & (seen == k)).sum() / (truth.sum() + (seen == k).sum()))
    return rows


def table(found: Found, anatomy: Anatomy) -> dict[str, Any]:
    """Mean Dice of each organ and of all, on each kind of CT, with the drop; of real CTs as many as of generated."""
    rows: dict[str, Any] = {}
    for k in organ_ids(anatomy):
        kinds: dict[str, list[float]] = {
            kind: [row[k] for row in held if k in row] for kind, held in vars(found).items()
        }
        if kinds["real"]:
            means = {kind: round(float(np.mean(values)), 3) for kind, values in kinds.items() if values}
            drop = round(means["real"] - means["generated"], 3)
            rows[anatomy.classes[k].name] = {"N": len(kinds["real"]), **means, "drop": drop}
    names = [*vars(found), "drop"]
    mean = {name: round(float(np.mean([row[name] for row in rows.values()])), 3) for name in names}
    return {"organs": rows, "mean_over_organs": mean}


def sheet(shown: Sequence[tuple[TrainingCase, np.ndarray, np.ndarray, np.ndarray]], anatomy: Anatomy) -> Any:
    """A row a patient: real CT, generated CT, coronal and axial; asked for in lines, found on this CT in colour."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(shown), 4, figsize=(12, 3 * len(shown)), squeeze=False)
    colours = matplotlib.colormaps["tab10"]
    for row, (case, made_hu, on_real, on_made) in zip(axes, shown, strict=True):
        organs = np.isin(case.label_map, organ_ids(anatomy))
        where = [int(np.median(axis)) for axis in np.nonzero(organs)]
        spans: tuple[Any, ...] = ((slice(None), where[1], slice(None)), (slice(None), slice(None), where[2]))
        for k, span in enumerate(spans):
            for j, (ct, seen) in enumerate(((np.asarray(case.ct_hu), on_real), (made_hu, on_made))):
                axis = row[2 * k + j]
                axis.imshow(ct[span].T, cmap="gray", vmin=-160, vmax=240, origin="lower")
                marked = np.ma.masked_equal(seen[span].T % 10, 0)
                axis.imshow(marked, cmap=colours, vmin=0, vmax=9, alpha=0.45, origin="lower", interpolation="nearest")
                for organ in organ_ids(anatomy):
                    truth = np.equal(case.label_map[span].T, organ)
                    if truth.any():
                        axis.contour(truth, [0.5], colors="white", linewidths=0.7)
                axis.set_axis_off()
                axis.set_title(
                    f"{'real' if j == 0 else 'generated'} {case.base}" if j == 0 else "generated", fontsize=8
                )
    figure.tight_layout()
    return figure


def shifted(label_map: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """The label map 5 mm off to the right."""
    return np.roll(label_map, max(1, round(_OFF_MM / spacing_mm[0])), axis=0)


def main() -> None:
    """Parses the arguments, generates and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of guidegen prepare, with validation patients")
    parser.add_argument("--segmenter", type=Path, required=True, help="folder of guidegen complete")
    parser.add_argument("--model", default="head-neck")
    parser.add_argument("--num", type=int, default=33)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="PNG of some patients (shows real CTs; default: a temporary folder)")
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    anatomy = pipe.anatomy
    model = load_part(Segmenter, best_or_last(args.segmenter / "segmenter")).eval()
    cases = real_cases(args.prepared, anatomy, args.num).cases
    found, made = Found(), []
    shown: list[tuple[TrainingCase, np.ndarray, np.ndarray, np.ndarray]] = []
    for i, case in enumerate(tqdm(cases, unit="patient", disable=None)):
        generators = [torch.Generator().manual_seed(args.seed * 100_000 + i)]
        labels = torch.from_numpy(case.label_map)[None]
        hu = pipe.organ_hu([case.findings.phase], generators)
        tokens = pipe.encode([case.findings.prompt()])
        made_hu = pipe.sample_cts(labels, tokens, generators, organ_hu=hu, findings=[case.findings])[0].numpy()
        on_real, on_made = (organs_found(model, np.asarray(ct), anatomy) for ct in (case.ct_hu, made_hu))
        made.append(on_made)
        found.real.append(dices(on_real, case.label_map, anatomy))
        found.generated.append(dices(on_made, case.label_map, anatomy))
        found.shifted.append(dices(on_made, shifted(case.label_map, anatomy.spacing_mm), anatomy))
        if len(shown) < _SHOWN and i % max(1, len(cases) // _SHOWN) == 0:
            shown.append((case, made_hu, on_real, on_made))
    for i, case in enumerate(cases):
        found.exchanged.append(dices(made[i - 1], case.label_map, anatomy))
    path = args.sheet or Path(tempfile.mkdtemp()) / "adherence.png"
    sheet(shown, anatomy).savefig(path, dpi=110)
    print(f"sheet: {path}")
    figures = {"num_cases": len(cases), **weights(args.model, IMAGE_PARTS), **table(found, anatomy)}
    save("adherence", figures, seed=args.seed)


if __name__ == "__main__":
    main()
