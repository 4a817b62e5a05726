"""How many steps does stage 1 need? python -m benchmarks.mask_steps PREPARED --num 24 --steps 5 10 16 20 50 250

For each number of steps: seconds a map, plausibility beside the training cases of PREPARED, and how many of the lesions
asked for the network itself drew at their site (anchored, nothing added by rule).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.record import LABEL_MAP_PARTS, save, weights
from guidegen_data.cleanup import clean_up
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.lesions import find_lesions
from guidegen_data.metrics.consistency import judge_lesion
from guidegen_data.metrics.plausibility import population, summary
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.sampling import sample_findings
from guidegen_data.sources.prepared import case_paths, load_case

_BATCH = 4


def main() -> None:
    """Measures and writes results/mask_steps.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of `guidegen prepare`")
    parser.add_argument("--model", default="torso")
    parser.add_argument("--num", type=int, default=24)
    parser.add_argument("--steps", type=int, nargs="*", default=[5, 10, 16, 20, 50, 250])
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    anatomy, spacing = pipe.anatomy, pipe.anatomy.spacing_mm
    paths = case_paths(args.prepared)
    real = population((load_case(p).label_map for p in paths[:: max(1, len(paths) // 100)]), anatomy, spacing)
    asked = [
        sample_findings(np.random.default_rng([args.seed, i]), anatomy, "coverage", i * 7) for i in range(args.num)
    ]
    rows = {}
    for steps in args.steps:
        made, verdicts, began = [], [], time.process_time()
        for start in tqdm(range(0, args.num, _BATCH), desc=f"{steps} steps", disable=None):
            block = asked[start : start + _BATCH]
            seeds = [args.seed * 100_000 + start + b for b in range(len(block))]
            masks = pipe.sample_masks(
                pipe.condition(block, seeds),
                [torch.Generator().manual_seed(s) for s in seeds],
                steps,
                place=pipe.placer(block, seeds),
                **pipe.constraints(block),
            )
            made += [clean_up(m.cpu().numpy(), f, spacing)[0] for m, f in zip(masks, block, strict=True)]
        seconds = (time.process_time() - began) / args.num
        for findings, label_map in zip(asked, made, strict=True):
            found = find_lesions(label_map, anatomy, spacing)
            verdicts += [judge_lesion(lesion, found) == "acc" for lesion in findings.lesions]
        rows[str(steps)] = {
            "cpu_seconds_a_map": round(seconds, 2),
            "lesions_drawn_at_their_site": round(float(np.mean(verdicts)), 3),
            **summary(real, population(made, anatomy, spacing)),
        }
    figures = {"num": args.num, "num_lesions": len(verdicts), "steps": rows, **weights(args.model, LABEL_MAP_PARTS)}
    save("mask_steps", figures, seed=args.seed)


if __name__ == "__main__":
    main()
