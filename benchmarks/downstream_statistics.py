"""Means, paired bootstrap over the test cases, Wilcoxon with Holm: what finished runs say against `real`.

A run is the dict that benchmarks/downstream.py writes of one training. Seeds are averaged a case and an organ first, so
that a test case counts once; an arm is compared with `real` on the seeds that both have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.downstream_scores import ORGANS

Runs = Sequence[dict[str, Any]]
NUM_DRAWS = 10_000
#: Our arms, and what each is set beside: one that differs in nothing but the CTs, one of the same real patients in the
#: same field of view, and one of other real patients.
TWINS = {
    "guidegen-0.5": {"synthseg": "synthseg", "cut": "cut", "donors": "donors"},
    "guidegen-falling": {"synthseg": "synthseg-falling", "cut": "cut-falling", "donors": "donors-falling"},
    "guidegen-and-cut-falling": {"cut": "cut-falling", "guidegen": "guidegen-falling"},
}
#: Organs of the nervous system, which gain most; what is gained without them is told too.
_NERVOUS = ("brainstem", "spinal cord")


def score_table(runs: Runs, figure: str, cases: Sequence[str]) -> np.ndarray:
    """(seeds, cases, organs) of 'dice' or 'hd95_mm'; NaN for an organ that was not contoured, or not found (HD95)."""
    table = np.full((len(runs), len(cases), len(ORGANS)), np.nan)
    for s, run in enumerate(runs):
        for c, case in enumerate(cases):
            for o, organ in enumerate(ORGANS):
                value = run["cases"][case].get(organ, {}).get(figure)
                table[s, c, o] = np.nan if value is None else value
    return table


def mean_where_there(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over the entries that are no NaN; NaN where there is none."""
    held = ~np.isnan(values)
    counts = held.sum(axis=axis)
    sums = np.where(held, values, 0).sum(axis=axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def bootstrap(differences: np.ndarray, num_draws: int = NUM_DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of paired differences (cases,), cases drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(len(differences), size=(num_draws, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test; 1 where nothing differs."""
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of the p of several arms."""
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def _levels(runs: Runs, cases: Sequence[str]) -> dict[str, Any]:
    dices, distances = (score_table(runs, figure, cases) for figure in ("dice", "hd95_mm"))
    by_organ = mean_where_there(dices, (0, 1))
    far = mean_where_there(distances, (0, 1))
    missed = (~np.isnan(dices) & np.isnan(distances)).sum(axis=(0, 1))
    return {
        "seeds": [run["seed"] for run in runs],
        "mean_dice": _rounded(case_means(dices).mean()),
        "mean_hd95_mm": _rounded(np.nanmean(case_means(distances)), 2),
        "organs": {
            organ: {"dice": _rounded(by_organ[o]), "hd95_mm": _rounded(far[o], 2), "not_found": int(missed[o])}
            for o, organ in enumerate(ORGANS)
        },
    }


def case_means(table: np.ndarray) -> np.ndarray:
    """(cases,): seeds averaged an organ, then the organs that the case has."""
    return mean_where_there(mean_where_there(table, 0), 1)


def _against(arm: Runs, other: Runs, cases: Sequence[str]) -> dict[str, Any]:
    pairs = [(a, r) for a in arm for r in other if a["seed"] == r["seed"]]
    ours, theirs = [a for a, _ in pairs], [r for _, r in pairs]
    compared: dict[str, Any] = {"seeds": [a["seed"] for a in ours]}
    for figure, digits in (("dice", 4), ("hd95_mm", 2)):
        # Of distances only pairs count in which both found the organ.
        gains = score_table(ours, figure, cases) - score_table(theirs, figure, cases)
        by_case = case_means(gains)
        by_case = by_case[~np.isnan(by_case)]
        interval = [_rounded(v, digits) for v in bootstrap(by_case)]
        compared[figure] = {"difference": _rounded(by_case.mean(), digits), "interval_95": interval}
        if figure == "dice":
            compared["p_wilcoxon"] = wilcoxon(by_case)
            compared["cases"] = _spread(by_case)
            compared["organs"], compared["without"] = {}, {}
            for o, organ in enumerate(ORGANS):
                compared["organs"] |= _gain(organ, mean_where_there(gains[:, :, o], 0))
                compared["without"] |= _gain(organ, case_means(np.delete(gains, o, axis=2)))
            left = [o for o, organ in enumerate(ORGANS) if organ not in _NERVOUS]
            compared["without"] |= _gain(" and ".join(_NERVOUS), case_means(gains[:, :, left]))
    return compared


def _spread(by_case: np.ndarray) -> dict[str, Any]:
    """How the cases differ: the median case, how many gain and lose, and the mean without the two that gain most."""
    kept = np.sort(by_case)[:-2]
    interval = [_rounded(v) for v in bootstrap(kept)] if len(kept) else [None, None]
    return {
        "median": _rounded(np.median(by_case)),
        "num_gaining": int((by_case > 0).sum()),
        "num_losing": int((by_case < 0).sum()),
        "without_two_best": {"difference": _rounded(kept.mean()) if len(kept) else None, "interval_95": interval},
    }


def _gain(organ: str, by_case: np.ndarray) -> dict[str, Any]:
    """The organ with mean and interval of the differences that are no NaN; nothing where there is none."""
    held = by_case[~np.isnan(by_case)]
    if not len(held):
        return {}
    interval = [_rounded(v) for v in bootstrap(held)]
    return {organ: {"difference": _rounded(held.mean()), "interval_95": interval}}


def _rounded(value: Any, digits: int = 4) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)


def more_real(runs: Runs, k: int) -> list[dict[str, Any]]:
    """The trainings on real patients alone of the smallest k above this one that has some; [] where none has."""
    more = [run for run in runs if run["arm"] == "real" and run["k"] > k]
    following = min((run["k"] for run in more), default=k)
    return [run for run in more if run["k"] == following]


def summary(runs: Runs, arms: Iterable[str]) -> dict[str, Any]:
    """k -> arm -> levels and, beside `real`, the difference with interval, Wilcoxon p and Holm-adjusted p.

    Of the arms in `TWINS` the difference to their like of `synthseg` too (the same label maps in the same share of
    patches, but random texture) and of `donors` (as many real patients whom the generator learned from); p is for that
    one comparison. And that to `real` of the next k for which there is one: what the cases are worth in real patients.
    Also how many test cases have a contour of each organ. Runs of one setting and one set of test cases.
    """
    cases = sorted(runs[0]["cases"])
    contoured = {organ: sum(organ in runs[0]["cases"][c] for c in cases) for organ in ORGANS}
    table: dict[str, Any] = {"num_cases": len(cases), "num_contoured": contoured, "k": {}}
    for k in sorted({run["k"] for run in runs}):
        held = {a: sorted((r for r in runs if (r["k"], r["arm"]) == (k, a)), key=lambda r: r["seed"]) for a in arms}
        rows = {arm: _levels(done, cases) for arm, done in held.items() if done}
        real_seeds = {r["seed"] for r in held.get("real", [])}
        many = more_real(runs, k)
        for arm, done in held.items():
            if arm != "real" and real_seeds & {r["seed"] for r in done}:
                rows[arm]["against_real"] = _against(done, held["real"], cases)
            for other, twin in TWINS.get(arm, {}).items():
                if {r["seed"] for r in held.get(twin, [])} & {r["seed"] for r in done}:
                    rows[arm][f"against_{other}"] = _against(done, held[twin], cases)
            if arm in TWINS and {r["seed"] for r in many} & {r["seed"] for r in done}:
                rows[arm]["against_more_real"] = {"k": many[0]["k"], **_against(done, many, cases)}
        p_values = {arm: row["against_real"]["p_wilcoxon"] for arm, row in rows.items() if "against_real" in row}
        for arm, p in holm(p_values).items():
            rows[arm]["against_real"]["p_holm"] = p
        table["k"][str(k)] = rows
    return table
