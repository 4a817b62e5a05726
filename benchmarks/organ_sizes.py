"""Do organs said to be enlarged or small, and patients said to be slim or large, come out that way?

python -m benchmarks.organ_sizes --seeds 6

Each organ with a graded size is drawn from the same seed as enlarged, normal and small, in a region that shows it; a
pair counts as right when the organ has become larger (smaller) than the normal one by at least 3 %, and is still
there: a small organ that shrank below a tenth was lost. Slim and large
patients are compared by the width of the labelled trunk, in tables that tell habitus by it. Where a table has usual
sizes (`--model head-neck --name organ_sizes_head_neck`) it is also counted which organs are what was asked for against
these: larger than the largest usual size, smaller than the smallest.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.consistency import drawn_label_maps
from benchmarks.record import LABEL_MAP_PARTS, save, weights
from guidegen_data.anatomy import HABITUS, Anatomy
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.habitus import trunk_width_mm
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.findings import Findings
from guidegen_data.sites import site_mask

#: Below this share of change a pair is counted as unchanged, which is wrong.
_LEAST = 0.03
#: Below this share of its normal volume an organ counts as lost.
_LOST = 0.1


def region_showing(organ: str, anatomy: Anatomy) -> str:
    """The first region of the vocabulary that shows an organ, the abdomen with its neighbours before the chest."""
    order = sorted(anatomy.regions, key=lambda r: {"abdomen": 0, "abdomen and pelvis": 1}.get(r, 2))
    return next(r for r in order if organ in anatomy.region_organs[r])


def main() -> None:
    """Measures and writes results/NAME.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torso")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--name", default="organ_sizes", help="of the results file")
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    anatomy = pipe.anatomy
    graded = {o.name: [s for s in o.statuses if s in ("enlarged", "small")] for o in anatomy.organs}
    jobs: list[tuple[str, str, int, Findings]] = []
    for seed in range(args.seeds):
        for organ, sizes in graded.items():
            plain = Findings(region=region_showing(organ, anatomy), anatomy_name=anatomy.name)
            jobs += [(organ, s, seed, replace(plain, organs={organ: s})) for s in sizes]
            jobs += [(organ, "normal", seed, plain)] if sizes else []
        if anatomy.habitus_cm2 is None:
            jobs += [("habitus", h, seed, Findings(region="abdomen", habitus=h)) for h in HABITUS]
    sizes_of: dict[tuple[str, str, int], float] = {}
    for start in tqdm(range(0, len(jobs), 4), desc="blocks", disable=None):
        block = jobs[start : start + 4]
        label_maps, _ = drawn_label_maps(pipe, [j[3] for j in block], [700 + j[2] for j in block], "system")
        for (organ, status, seed, _), label_map in zip(block, label_maps, strict=True):
            if organ == "habitus":
                value = trunk_width_mm(label_map, anatomy.spacing_mm)
            else:
                value = float(site_mask(label_map, anatomy.spacing_mm, organ, "", anatomy).sum())
            sizes_of[organ, status, seed] = value
    comparisons = {"enlarged": ("normal", 1), "small": ("normal", -1), "large": ("slim", 1)}
    rows: dict[str, dict[str, float | int]] = {}
    voxel_ml = float(np.prod(anatomy.spacing_mm)) / 1000
    for what, (against, sign) in comparisons.items():
        for organ in (*graded, "habitus"):
            pairs = [
                (sizes_of[organ, what, s], sizes_of[organ, against, s])
                for s in range(args.seeds)
                if (organ, what, s) in sizes_of and (organ, against, s) in sizes_of
            ]
            if pairs:
                change = np.array([sign * (a - b) / max(b, 1.0) for a, b in pairs])
                median = round(float(np.median([a / max(b, 1.0) for a, b in pairs])), 3)
                kept = np.array([a >= _LOST * b for a, b in pairs])
                right = round(float(((change > _LEAST) & kept).mean()), 3)
                row: dict[str, float | int] = {"N": len(pairs), "right_direction": right, "median_ratio": median}
                if organ in anatomy.size_ml:
                    row["as_asked"] = _as_asked([a * voxel_ml for a, _ in pairs], what, anatomy.size_ml[organ])
                rows[f"{organ} {what}"] = row
    organs = [r for name, r in rows.items() if not name.startswith("habitus")]
    measured = [r for r in organs if "as_asked" in r]
    figures: dict[str, Any] = {
        "N": sum(r["N"] for r in organs),
        "right_direction": _mean_of(organs, "right_direction"),
        "rows": rows,
        **weights(args.model, LABEL_MAP_PARTS),
    }
    if measured:
        figures |= {"as_asked": _mean_of(measured, "as_asked"), "num_as_asked": sum(r["N"] for r in measured)}
    save(args.name, figures, seed=700)


def _as_asked(volumes_ml: list[float], status: str, usual: tuple[float, float]) -> float:
    low, high = usual
    return round(float(np.mean([v > high if status == "enlarged" else v < low for v in volumes_ml])), 3)


def _mean_of(rows: list[dict[str, float | int]], key: str) -> float:
    return round(sum(r[key] * r["N"] for r in rows) / sum(r["N"] for r in rows), 3)


if __name__ == "__main__":
    main()
