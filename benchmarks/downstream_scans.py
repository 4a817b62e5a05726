"""Where the downstream gain comes from: python -m benchmarks.downstream_scans OPENKBP

In four of ten OpenKBP patients the CT was cut away above and below the treated region, but for a thin rim around the
contours (`benchmarks.openkbp_imaged`). Trainings from before that was known took such slices as they are; in later ones
they are cleared. This divides the test patients into scans that are whole and scans that were cut (more than a tenth of
the cord's contour lies in slices without a CT), and tells what every arm of every such result gained on each: no
training is done. Intervals draw patients and seeds. Writes results/downstream_scans.json and a picture of such scans,
openkbp_imaged.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.downstream_scores import ORGANS, runs_of
from benchmarks.downstream_statistics import NUM_DRAWS, TWINS, case_means, mean_where_there, score_table, wilcoxon
from benchmarks.openkbp_imaged import ORGANS as CONTOURS
from benchmarks.openkbp_imaged import cut_shares, is_cut
from benchmarks.openkbp_imaged_sheet import draw
from benchmarks.openkbp_split import pool_and_donors
from benchmarks.record import RESULTS, save

#: Results that are told by scan: of trainings that took cut slices as they are, and of those on cleared scans.
OF_CUT_SCANS = ("downstream_donor_2400", "downstream_strict_2400", "downstream_donor_2400_float32")
OF_CLEARED_SCANS = tuple(
    f"downstream_{s}_2400_imaged{p}{pieces}"
    for s in ("donor", "strict")
    for p in ("", "_float32")
    for pieces in ("", "_largest")
)


def two_way_interval(gains: np.ndarray, num_draws: int = NUM_DRAWS, seed: int = 0) -> list[float]:
    """95 % interval of the mean of paired differences (seeds, cases), seeds and cases drawn with replacement."""
    rng, (num_seeds, num_cases) = np.random.default_rng(seed), gains.shape
    seeds = rng.integers(num_seeds, size=(num_draws, num_seeds, 1))
    drawn = gains[seeds, rng.integers(num_cases, size=(num_draws, 1, num_cases))]
    return [round(float(v), 4) for v in np.percentile(drawn.mean(axis=(1, 2)), [2.5, 97.5])]


def gained(arm: list[dict[str, Any]], other: list[dict[str, Any]], cases: list[str]) -> dict[str, Any]:
    """What runs of one arm gain over those of another on some cases, seed by seed; {} where no seed has both."""
    pairs = [(a, b) for a in arm for b in other if a["seed"] == b["seed"]]
    if not pairs:
        return {}
    ours, theirs = zip(*pairs, strict=True)
    dices = score_table(ours, "dice", cases) - score_table(theirs, "dice", cases)
    far = score_table(ours, "hd95_mm", cases) - score_table(theirs, "hd95_mm", cases)
    by_run = mean_where_there(dices, 2)
    by_case = case_means(dices)
    by_organ = mean_where_there(mean_where_there(dices, 0), 0)
    return {
        "difference": round(float(by_case.mean()), 4),
        "interval_95": two_way_interval(by_run),
        "by_seed": {str(a["seed"]): round(float(row.mean()), 4) for a, row in zip(ours, by_run, strict=True)},
        "p_wilcoxon": round(wilcoxon(by_case), 4),
        "num_gaining": int((by_case > 0).sum()),
        "num_losing": int((by_case < 0).sum()),
        "hd95_mm": round(float(np.nanmean(case_means(far))), 1),
        "organs": {o: None if np.isnan(v) else round(float(v), 4) for o, v in zip(ORGANS, by_organ, strict=True)},
    }


def by_scan(figures: dict[str, Any], cut: set[str]) -> dict[str, Any]:
    """k -> arm -> what it gained on all test patients, on whole scans and on cut ones, over real patients alone."""
    runs = runs_of(figures)
    cases = sorted(runs[0]["cases"])
    groups = {"all": cases, "whole": [c for c in cases if c not in cut], "cut": [c for c in cases if c in cut]}
    table: dict[str, Any] = {}
    for k in sorted({run["k"] for run in runs}):
        held: dict[str, list[dict[str, Any]]] = {}
        for run in runs:
            held.setdefault(run["arm"], []).extend([run] if run["k"] == k else [])
        rows = table[str(k)] = {"real": {g: _level(held["real"], names) for g, names in groups.items()}}
        for arm, done in held.items():
            if arm != "real" and done:
                rows[arm] = {g: gained(done, held["real"], names) for g, names in groups.items()}
        for ours, twins in TWINS.items():
            for twin in twins.values():
                if held.get(twin) and held.get(ours):
                    beside = {g: gained(held[ours], held[twin], names) for g, names in groups.items()}
                    rows[f"{ours} over {twin}"] = beside
    return table


def _level(runs: list[dict[str, Any]], cases: list[str]) -> float:
    return round(float(case_means(score_table(runs, "dice", cases)).mean()), 4)


def main() -> None:
    """Reads the scans and the results, and writes what each gained where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path, help="folder with index.csv, train and validation")
    args = parser.parse_args()
    pool, donors = pool_and_donors(args.openkbp)
    test = sorted(p.name.removesuffix("_ct.nii.gz") for p in (args.openkbp / "validation").glob("*_ct.nii.gz"))
    groups = {"pool of real patients": ("train", pool), "donors": ("train", donors), "test": ("validation", test)}
    cut, told = set(), {}
    for what, (split, names) in groups.items():
        held = {n: cut_shares(args.openkbp / split / f"{n}_ct.nii.gz") for n in tqdm(names, desc=what, disable=None)}
        cut |= {name for name, shares in held.items() if is_cut(shares)}
        away = {o: round(float(np.mean([s[o] for s in held.values() if o in s])), 3) for o in CONTOURS}
        told[what] = {"num": len(names), "num_cut": len(cut & set(names)), "share_of_organ_cut": away}
    results = {}
    for name in (*OF_CUT_SCANS, *OF_CLEARED_SCANS):
        if (RESULTS / f"{name}.json").exists():
            results[name] = by_scan(json.loads((RESULTS / f"{name}.json").read_text())["figures"], cut)
    of_test = args.openkbp / "validation"
    first, whole = (next(n for n in test if (n in cut) == w) for w in (True, False))
    draw(of_test / f"{whole}_ct.nii.gz", of_test / f"{first}_ct.nii.gz", RESULTS / "openkbp_imaged.png")
    save("downstream_scans", {"patients": told, "cut_test_patients": sorted(cut & set(test)), "results": results})


if __name__ == "__main__":
    main()
