"""`guidegen evaluate` as a benchmark: python -m benchmarks.evaluation PREPARED --model NAME [--num 33].

The same figures, for the findings of the validation cases of a prepared folder, first attempts all; and, of the targets
(lesions) that were asked for, how many are on their side and at their level, each by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.record import RESULTS, save
from guidegen_data.case import Case
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.lesions import find_lesions
from guidegen_data.metrics.evaluation import cases_for, figures_of, real_cases, share_of
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.preview import preview_sheet
from guidegen_data.quality import verdict


def target_places(made: Sequence[Case]) -> dict[str, Any]:
    """Shares of the lesions asked for with one found in their organ (its side), and at their site (its level)."""
    sides, levels = [], []
    for case in made:
        found = find_lesions(case.label_map, case.anatomy, case.spacing_mm)
        for asked in case.findings.lesions:
            sides.append(any(f.organ == asked.organ for f in found))
            levels.append(any(f.site == asked.site for f in found))
    return {"N": len(sides), "side": share_of(sides), "level": share_of(levels)}


def main() -> None:
    """Parses the arguments, generates and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of guidegen prepare")
    parser.add_argument("--model", default="head-neck")
    parser.add_argument("--num", type=int, default=33)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    real = real_cases(args.prepared, pipe.anatomy, args.num)
    with torch.inference_mode(), tqdm(total=len(real.cases), desc="generating", unit="case", disable=None) as bar:
        made = cases_for(pipe, real, args.seed, bar.update)
        passed = [verdict(case)["passed"] for case in made]
        figures = figures_of(pipe, real, made)
    figures |= {"target": target_places(made), "passed_at_once": round(sum(passed) / len(passed), 3)}
    name = f"evaluation_{Path(args.model).name.replace('-', '_')}"
    preview_sheet(made[:: max(1, len(made) // 4)][:4]).save(RESULTS / f"{name}.png")
    save(name, figures, seed=args.seed)


if __name__ == "__main__":
    main()
