"""Do generated label maps look like people, and are they copies? python -m benchmarks.plausibility PREPARED --num 96

Generated from findings sampled by prevalence, beside the training cases of PREPARED (`guidegen prepare`), which are
deformed from real label maps: volumes, pieces, border roughness, neighbours per class; pairwise Dice among generated
maps (variety); Dice to the nearest training map, beside the same figure of training maps among themselves (copying).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.record import LABEL_MAP_PARTS, save, weights
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.metrics.plausibility import compare, neighbours, population, summary
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.sampling import sample_findings
from guidegen_data.sources.prepared import case_paths, load_case

_BATCH = 4
_COARSE = 4  # Dice is compared on every fourth voxel along each axis: 12 mm


def generated(pipe: GuideGenPipeline, num: int, seed: int, num_steps: int | None = None) -> list[np.ndarray]:
    """Label maps (X, Y, Z) uint8 of sampled findings, without lesions added by rule."""
    findings = [sample_findings(np.random.default_rng([seed, i]), pipe.anatomy) for i in range(num)]
    label_maps: list[np.ndarray] = []
    for start in tqdm(range(0, num, _BATCH), desc="generating", disable=None):
        block = findings[start : start + _BATCH]
        seeds = [seed * 100_000 + start + b for b in range(len(block))]
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        label_maps += [m for m, _ in pipe.label_maps(block, generators, seeds, num_steps)]
    return label_maps


def dice_table(a: list[np.ndarray], b: list[np.ndarray], num_classes: int, same: bool = False) -> np.ndarray:
    """Mean Dice over the classes that either holds, of every map of `a` with every map of `b` on the coarse grid,
    (len(a), len(b)); NaN on the diagonal when both are the `same` list. One matrix product a class."""
    flat = [np.stack([m[::_COARSE, ::_COARSE, ::_COARSE].ravel() for m in maps]) for maps in (a, b)]
    total, held = np.zeros((2, len(a), len(b)))
    for k in range(1, num_classes):
        x, y = ((f == k).astype(np.float32) for f in flat)
        sizes = x.sum(1)[:, None] + y.sum(1)[None]
        total += 2 * (x @ y.T) / np.maximum(sizes, 1)
        held += sizes > 0
    table = total / np.maximum(held, 1)
    if same:
        np.fill_diagonal(table, np.nan)
    return table


def spread(values: np.ndarray) -> dict[str, float]:
    """5th, 50th and 95th percentile, NaN left out."""
    low, middle, high = np.nanpercentile(values, [5, 50, 95])
    return {"p5": round(float(low), 3), "median": round(float(middle), 3), "p95": round(float(high), 3)}


def copying(made: list[np.ndarray], real: list[np.ndarray], num_classes: int) -> dict[str, Any]:
    """Variety and nearest training maps; a generated map nearer to its training map than 95 % of training maps are to
    each other counts as a copy."""
    among, to_real, within = (
        dice_table(made, made, num_classes, same=True),
        dice_table(made, real, num_classes),
        dice_table(real, real, num_classes, same=True),
    )
    nearest_real = np.nanmax(within, axis=1)
    nearest_made = to_real.max(axis=1)
    return {
        "num_training_maps": len(real),
        "pairwise_dice_generated": spread(among),
        "pairwise_dice_training": spread(within),
        "nearest_training_dice_generated": spread(nearest_made),
        "nearest_training_dice_training": spread(nearest_real),
        "share_nearer_than_95_percent_of_training": round(
            float((nearest_made > np.percentile(nearest_real, 95)).mean()), 3
        ),
    }


def main() -> None:
    """Measures and writes results/plausibility.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of `guidegen prepare`")
    parser.add_argument("--model", default="torso")
    parser.add_argument("--num", type=int, default=96)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    anatomy, spacing = pipe.anatomy, pipe.anatomy.spacing_mm
    real = [load_case(p).label_map for p in tqdm(case_paths(args.prepared), desc="reading", disable=None)]
    made = generated(pipe, args.num, args.seed)
    shown = real[:: max(1, len(real) // (2 * args.num))]
    populations = population(shown, anatomy, spacing), population(made, anatomy, spacing)
    touching = [t for m in shown for t in neighbours(m, anatomy).values()]
    figures = {
        "num_generated": args.num,
        "num_real": len(shown),
        "summary": summary(*populations),
        "neighbours_touching_real": round(float(np.mean(touching)), 3),
        "neighbours_touching": {
            " - ".join(pair): {
                "real": round(float(np.mean(populations[0].touches[pair])), 3),
                "made": round(float(np.mean(populations[1].touches.get(pair, [False]))), 3),
            }
            for pair in populations[0].touches
        },
        "by_class": compare(*populations),
        "copying": copying(made, real, anatomy.num_classes),
        **weights(args.model, LABEL_MAP_PARTS),
    }
    save("plausibility", figures, seed=args.seed)


if __name__ == "__main__":
    main()
