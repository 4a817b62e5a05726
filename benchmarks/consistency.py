"""Do label maps show what their reports ask for? python -m benchmarks.consistency --num 300 [--how anchored|network]

Reports that training never saw (sampled findings rendered by templates, and paraphrases written by hand) are read by
the abstraction and sent through stage 1; the label map is judged against what the report truly says. Reported with N:
Cacc, Cerr, Cmis in all and by organ, organs absent if said absent, lesion diameter within 35 % of the request.

Three ways: `system` is what a pipeline draws (absence as a constraint, lesions anchored, what is missing added by rule:
the rule that adds a lesion also judges it, so the share added is printed beside it), and with it `published`: what
guidegen-shard makes of it, which draws a map that fails its checks anew, up to three times a report; `anchored` adds
nothing, so every lesion was drawn by the network; `network` neither constrains nor anchors: text and findings alone.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.prompts import Prompt, held_out_prompts
from benchmarks.record import LABEL_MAP_PARTS, save, weights
from guidegen_data.case import Draft
from guidegen_data.cleanup import clean_up
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.lesions import find_lesions
from guidegen_data.metrics.consistency import ABSENT_ML, absent_volumes_ml, judge_lesion
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.quality import verdict_before_ct
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.blocks import ATTEMPTS_PER_REPORT

_BATCH = 4
WAYS = ("system", "anchored", "network")


def drawn_label_maps(
    pipe: GuideGenPipeline, findings: Sequence[Findings], seeds: Sequence[int], how: str
) -> tuple[list[np.ndarray], int]:
    """Label maps (X, Y, Z) uint8 made in one of WAYS, and how many lesions a rule added."""
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    if how == "system":
        held = pipe.label_maps(findings, generators, seeds)
        return [label_map for label_map, _ in held], sum(done["lesions_added"] for _, done in held)
    held_to: dict[str, Any] = {}
    if how == "anchored":
        held_to = {**pipe.constraints(findings), "place": pipe.placer(findings, seeds)}
    masks = pipe.sample_masks(pipe.condition(findings, seeds), generators, **held_to)
    spacing = pipe.anatomy.spacing_mm
    return [clean_up(m.cpu().numpy(), f, spacing)[0] for m, f in zip(masks, findings, strict=True)], 0


def published(pipe: GuideGenPipeline, prompt: Prompt, first: Draft, seed: int) -> tuple[Draft, int]:
    """The draft that guidegen-shard would go on with, and the attempts it took; the last one if all three fail."""
    draft, attempt = first, 1
    while not verdict_before_ct(draft)["passed"] and attempt < ATTEMPTS_PER_REPORT:
        (draft,) = pipe.draft([draft.findings], [prompt.text], ["again"], [seed + 10**6 * attempt])
        attempt += 1
    return draft, attempt


class Tally:
    """Verdicts over label maps."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Counter[str]] = defaultdict(Counter)
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.ratios: list[float] = []
        self.absent: list[bool] = []

    def refuse(self, prompt: Prompt) -> None:
        """Counts the lesions of a report that the abstraction refused."""
        for lesion in prompt.truth.lesions:
            self.verdicts[lesion.organ]["mis"] += 1
            self.kinds["by hand" if prompt.by_hand else "template"]["mis"] += 1

    def add(self, prompt: Prompt, label_map: np.ndarray) -> None:
        """Judges one label map against what its report truly says."""
        anatomy = prompt.truth.anatomy
        found = find_lesions(label_map, anatomy, anatomy.spacing_mm)
        for lesion in prompt.truth.lesions:
            verdict = judge_lesion(lesion, found)
            self.verdicts[lesion.organ][verdict] += 1
            self.kinds["by hand" if prompt.by_hand else "template"][verdict] += 1
            if verdict == "acc":
                here = [f.size_mm for f in found if (f.organ, f.site) == (lesion.organ, lesion.site)]
                self.ratios.append(min((s / lesion.size_mm for s in here), key=lambda r: abs(np.log(r))))
        absent = absent_volumes_ml(label_map, prompt.truth, anatomy.spacing_mm)
        self.absent += [volume <= ABSENT_ML for volume in absent.values()]

    def figures(self) -> dict[str, Any]:
        """Shares with their N."""
        total = sum(self.verdicts.values(), Counter())
        within = np.abs(np.array(self.ratios) - 1) <= 0.35
        return {
            **_shares(total),
            "by_wording": {kind: _shares(c) for kind, c in sorted(self.kinds.items())},
            "by_organ": {organ: _shares(c) for organ, c in sorted(self.verdicts.items())},
            "num_absent": len(self.absent),
            "absent_when_said_absent": round(float(np.mean(self.absent)), 3) if self.absent else None,
            "num_placed_right": len(self.ratios),
            "diameter_within_35_percent": round(float(within.mean()), 3) if self.ratios else None,
            "median_diameter_ratio": round(float(np.median(self.ratios)), 3) if self.ratios else None,
        }


def _shares(counts: Counter[str]) -> dict[str, float | int]:
    total = sum(counts.values())
    return {"N": total, **{f"C{kind}": round(counts[kind] / max(total, 1), 3) for kind in ("acc", "err", "mis")}}


def main() -> None:
    """Measures and writes results/consistency_HOW.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torso")
    parser.add_argument("--num", type=int, default=300, help="number of prompts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--how", choices=WAYS, default="system")
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    prompts = held_out_prompts(args.num, args.seed, pipe.anatomy)
    tally, num_added = Tally(), 0
    refused = [p for p in prompts if p.understood is None]
    for prompt in refused:  # a report that is refused gives no case: its lesions count as missing
        tally.refuse(prompt)
    read = [(p, p.understood) for p in prompts if p.understood is not None]
    kept, num_drafts = Tally(), 0
    for prompt in refused:
        kept.refuse(prompt)
    for start in tqdm(range(0, len(read), _BATCH), desc="blocks", disable=None):
        block = read[start : start + _BATCH]
        asked = [understood for _, understood in block]
        seeds = [args.seed * 100_000 + start + b for b in range(len(block))]
        if args.how == "system":
            drafts = pipe.draft(asked, [p.text for p, _ in block], [f"case-{s}" for s in seeds], seeds)
            label_maps = [draft.label_map for draft in drafts]
            num_added += sum(draft.provenance["lesions_added"] for draft in drafts)
            for (prompt, _), draft, seed in zip(block, drafts, seeds, strict=True):
                last, attempts = published(pipe, prompt, draft, seed)
                kept.add(prompt, last.label_map)
                num_drafts += attempts
        else:
            label_maps, _ = drawn_label_maps(pipe, asked, seeds, args.how)
        for (prompt, _), label_map in zip(block, label_maps, strict=True):
            tally.add(prompt, label_map)
    figures = {
        "how": args.how,
        "num_prompts": len(prompts),
        "num_refused": len(refused),
        "num_by_hand": sum(p.by_hand for p in prompts),
        "num_added_by_rule": num_added,
        **tally.figures(),
        **({"published": {"num_drafts": num_drafts, **kept.figures()}} if args.how == "system" else {}),
        "steps": pipe.config.num_steps_mask,
        "guidance": pipe.config.guidance,
        **weights(args.model, LABEL_MAP_PARTS),
    }
    save(f"consistency_{args.how}", figures, seed=args.seed)


if __name__ == "__main__":
    main()
