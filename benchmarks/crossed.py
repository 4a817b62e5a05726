"""Mean of paired differences with an interval that speaks for other seeds and other patients than those measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean difference, its 95 % interval and the two-sided p of none; NaN where nothing can be said."""

    difference: float
    low: float
    high: float
    p: float


def crossed(gains: np.ndarray) -> Estimate:
    """Estimate of paired differences (seeds, cases), both of them drawn from many.

    Crossed random effects without replication: the variance of the mean is (MS_seeds + MS_cases - MS_rest) / n, a
    component that comes out negative counting as none, with Satterthwaite's degrees of freedom (Biometrics Bull 1946).
    Few seeds that disagree make it wide, as a test over cases whose seeds were averaged does not. Of one seed it is
    the t test over cases, and says nothing of other seeds. Cases that a seed lacks (NaN) are left out. Between the
    seeds everything is drawn anew: real patients, weights and patches.
    """
    gains = gains[:, ~np.isnan(gains).any(axis=0)]
    num_seeds, num_cases = gains.shape
    if num_cases < 2:
        return Estimate(float(gains.mean()) if gains.size else np.nan, np.nan, np.nan, np.nan)
    mean = float(gains.mean())
    of_seeds, of_cases = gains.mean(axis=1), gains.mean(axis=0)
    ms_cases = num_seeds * float(of_cases.var(ddof=1))
    terms = [(ms_cases, num_cases - 1)]
    if num_seeds > 1:
        ms_seeds = num_cases * float(of_seeds.var(ddof=1))
        rest = gains - of_seeds[:, None] - of_cases + mean
        df_rest = (num_seeds - 1) * (num_cases - 1)
        terms = _terms((ms_seeds, num_seeds - 1), terms[0], (float((rest**2).sum()) / df_rest, df_rest))
    total = sum(ms for ms, _ in terms)
    if total <= 0:
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    df = total**2 / sum(ms**2 / n for ms, n in terms)
    error = np.sqrt(total / gains.size)
    reach = float(stats.t.ppf(0.975, df) * error)
    return Estimate(mean, mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, df)))


def _terms(seeds: tuple[float, int], cases: tuple[float, int], rest: tuple[float, int]) -> list[tuple[float, int]]:
    """Mean squares, with signs, and degrees of freedom that make the variance of the mean, times the number of values.

    Where seeds (or cases) differ by no more than the rest explains, their component is none.
    """
    if seeds[0] <= rest[0]:
        return [max(cases, rest)]
    if cases[0] <= rest[0]:
        return [seeds]
    return [seeds, cases, (-rest[0], rest[1])]
