"""Do label maps show what their prompts ask for? python -m benchmarks.consistency --num 100 [--network-alone]

Findings are sampled with one lesion each (coverage mode: every organ, site and size gets its share), rendered as
report text, read back by the abstraction and sent through stage 1. Reported with N: Cacc, Cerr, Cmis; organs absent if
said absent; lesion diameter within 35 % of the request. With --network-alone the belief is not constrained and missing
lesions are not added: that measures what the network learned. Without it, the same rules that place a missing lesion
also judge it, so Cacc then says that the guarantee holds, not that the network is good.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.record import save
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.lesions import find_lesions
from guidegen_data.metrics.consistency import ABSENT_ML, absent_volumes_ml, judge_lesion
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.sampling import sample_findings
from guidegen_data.reports.templates import load_templates

_BATCH = 4


def main() -> None:
    """Measures and writes results/consistency.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="torso")
    parser.add_argument("--num", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--network-alone", action="store_true", help="no constraints, nothing added")
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    spacing, library = pipe.anatomy.spacing_mm, load_templates(pipe.anatomy.name)
    asked = []
    for i in range(args.num):
        rng = np.random.default_rng([args.seed, i])
        drawn = sample_findings(rng, pipe.anatomy, mode="coverage", index=i)
        asked.append(abstract_report(library.render(drawn, rng), pipe.anatomy).findings)
    verdicts: Counter[str] = Counter()
    by_organ: dict[str, Counter[str]] = {}
    ratios, absent, num_added = [], [], 0
    for start in tqdm(range(0, args.num, _BATCH), desc="blocks", disable=None):
        block = asked[start : start + _BATCH]
        generators = [torch.Generator().manual_seed(args.seed * 100_000 + start + b) for b in range(len(block))]
        tokens = pipe.encode([f.prompt() for f in block])
        if args.network_alone:
            label_maps = [m.cpu().numpy() for m in pipe.sample_masks(tokens, generators)]
        else:
            seeds = [args.seed * 100_000 + start + b for b in range(len(block))]
            held = pipe.label_maps(block, tokens, generators, seeds)
            label_maps = [label_map for label_map, _ in held]
            num_added += sum(done["lesions_added"] for _, done in held)
        for findings, label_map in zip(block, label_maps, strict=True):
            found = find_lesions(label_map, pipe.anatomy, spacing)
            for lesion in findings.lesions:
                verdict = judge_lesion(lesion, found)
                verdicts[verdict] += 1
                by_organ.setdefault(lesion.organ, Counter())[verdict] += 1
                if verdict == "acc":
                    here = [f.size_mm for f in found if (f.organ, f.site) == (lesion.organ, lesion.site)]
                    ratios.append(here[0] / lesion.size_mm)
            absent += [v <= ABSENT_ML for v in absent_volumes_ml(label_map, findings, spacing).values()]
    total = sum(verdicts.values())
    figures = {
        "network_alone": args.network_alone,
        "num_lesions": total,
        "num_added_where_missing": num_added,
        **{f"C{kind}": round(verdicts[kind] / total, 3) for kind in ("acc", "err", "mis")},
        "by_organ": {o: dict(c) for o, c in sorted(by_organ.items())},
        "num_absent": len(absent),
        "absent_when_said_absent": round(float(np.mean(absent)), 3) if absent else None,
        "num_placed_right": len(ratios),
        "diameter_within_35_percent": round(float(np.mean(np.abs(np.array(ratios) - 1) <= 0.35)), 3)
        if ratios
        else None,
        "median_diameter_ratio": round(float(np.median(ratios)), 3) if ratios else None,
        "model_sha256": pipe.fingerprint,
    }
    save("consistency_network_alone" if args.network_alone else "consistency", figures, seed=args.seed)


if __name__ == "__main__":
    main()
