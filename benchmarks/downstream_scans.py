"""Where the downstream gain comes from: python -m benchmarks.downstream_scans OPENKBP

In four of ten OpenKBP patients the CT was cut away above and below the treated region, but for a thin rim around the
contours (`benchmarks.openkbp_imaged`). Trainings from before that was known took such slices as they are; in later ones
they are cleared. This divides the test patients into scans that are whole and scans that were cut (more than a tenth of
the cord's contour lies in slices without a CT), and tells what every arm of every such result gained on each: no
training is done. `_since` and `_history` are results of generators after and before (`benchmarks.donor_model`), `_192`
of 192 cases instead of 64.
Intervals and p take patients and seeds for drawn from many (`benchmarks.crossed`); p is corrected by Holm over all rows
of a result. Also without two damaged test patients. Writes results/downstream_scans.json and a picture of such scans,
openkbp_imaged.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.crossed import crossed
from benchmarks.downstream_scores import ORGANS, runs_of
from benchmarks.downstream_statistics import TWINS, case_means, holm, mean_where_there, more_real, score_table
from benchmarks.openkbp_imaged import ORGANS as CONTOURS
from benchmarks.openkbp_imaged import cut_shares, is_cut
from benchmarks.openkbp_imaged_sheet import draw
from benchmarks.openkbp_split import pool_and_donors
from benchmarks.record import RESULTS, save

#: Results that are told by scan: of trainings that took cut slices as they are, and of those on cleared scans.
OF_CUT_SCANS = ("downstream_donor_2400", "downstream_strict_2400", "downstream_donor_2400_float32")
OF_CLEARED_SCANS = tuple(
    f"downstream_{s}_2400_imaged{p}{of}"
    for s in ("donor", "strict")
    for p in ("", "_float32")
    for of in ("", "_largest", "_since", "_192", "_history", "_history_largest")
)


#: What the real patients alone of the next k are called in a row's name.
MORE_REAL = "real, next k"
#: Test patients whose contours do not lie on their organs: what is gained is told without them as well.
DAMAGED = {
    "pt_221": "contours beside their organs: bone in the brainstem, air in the parotids",
    "pt_203": "cut away within slices as well: a brainstem and parotids without a head",
}


def gained(arm: list[dict[str, Any]], other: list[dict[str, Any]], cases: list[str]) -> dict[str, Any]:
    """What runs of one arm gain over those of another on some cases, seed by seed; {} where no seed has both.

    Intervals and p of `benchmarks.crossed`; of distances (mm) over cases in which every pair of runs found an organ.
    """
    pairs = [(a, b) for a in arm for b in other if a["seed"] == b["seed"]]
    if not pairs:
        return {}
    ours, theirs = zip(*pairs, strict=True)
    dices = score_table(ours, "dice", cases) - score_table(theirs, "dice", cases)
    far = score_table(ours, "hd95_mm", cases) - score_table(theirs, "hd95_mm", cases)
    by_run = mean_where_there(dices, 2)
    by_case = by_run.mean(axis=0)
    by_organ = mean_where_there(mean_where_there(dices, 0), 0)
    return {
        **_told(by_run, 4),
        "by_seed": {str(a["seed"]): round(float(row.mean()), 4) for a, row in zip(ours, by_run, strict=True)},
        "num_gaining": int((by_case > 0).sum()),
        "num_losing": int((by_case < 0).sum()),
        "hd95_mm": _told(mean_where_there(far, 2), 1),
        "organs": {o: None if np.isnan(v) else round(float(v), 4) for o, v in zip(ORGANS, by_organ, strict=True)},
    }


def _told(gains: np.ndarray, digits: int) -> dict[str, Any]:
    """Estimate of differences (seeds, cases) as it is written down; None where it says nothing."""
    held = crossed(gains)
    difference, low, high = (None if np.isnan(v) else round(v, digits) for v in held[:3])
    return {
        "difference": difference,
        "interval_95": [low, high],
        "p": None if np.isnan(held.p) else float(f"{held.p:.3g}"),
    }


def by_scan(figures: dict[str, Any], cut: set[str]) -> dict[str, Any]:
    """k -> arm -> what it gained over real patients alone: on all test patients, on whole scans, on cut ones, and on
    all without the damaged.

    Of our arms also what they gain over their like (`TWINS`), and over real patients alone of the next k.
    """
    runs = runs_of(figures)
    cases = sorted(runs[0]["cases"])
    groups = {"all": cases, "whole": [c for c in cases if c not in cut], "cut": [c for c in cases if c in cut]}
    groups["undamaged"] = [c for c in cases if c not in DAMAGED]
    table: dict[str, Any] = {}
    for k in sorted({run["k"] for run in runs}):
        held: dict[str, list[dict[str, Any]]] = {}
        for run in runs:
            held.setdefault(run["arm"], []).extend([run] if run["k"] == k else [])
        rows = table[str(k)] = {"real": {g: _level(held["real"], names) for g, names in groups.items()}}
        for arm, done in held.items():
            if arm != "real":
                rows |= _row(arm, done, held["real"], groups)
        for ours, twins in TWINS.items():
            for twin in twins.values():
                rows |= _row(f"{ours} over {twin}", held.get(ours, []), held.get(twin, []), groups)
            rows |= _row(f"{ours} over {MORE_REAL}", held.get(ours, []), more_real(runs, k), groups)
    for group in groups:
        _correct([row[group] for rows in table.values() for arm, row in rows.items() if arm != "real"])
    return table


def _row(name: str, arm: list[Any], other: list[Any], groups: dict[str, list[str]]) -> dict[str, Any]:
    """{name: what is gained on each group}; {} where no seed has both."""
    told = {group: gained(arm, other, cases) for group, cases in groups.items()}
    return {name: told} if told["all"] else {}


def _correct(rows: list[dict[str, Any]]) -> None:
    """Adds to rows their p by Holm over all of them."""
    p_values = {str(number): row["p"] for number, row in enumerate(rows) if row["p"] is not None}
    for number, p in holm(p_values).items():
        rows[int(number)]["p_holm"] = float(f"{p:.3g}")


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
    figures = {"patients": told, "cut_test_patients": sorted(cut & set(test)), "damaged": DAMAGED, "results": results}
    save("downstream_scans", figures)


if __name__ == "__main__":
    main()
