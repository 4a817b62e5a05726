"""An interval over seeds and patients that holds what it says, as one over patients alone does not."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.crossed import crossed


def drawn(rng: np.random.Generator, seeds: float, cases: float, rest: float, mean: float = 0.0) -> np.ndarray:
    shape = (3, 20)
    return (
        mean
        + rng.normal(0, seeds, (3, 1)) * np.ones(shape)
        + rng.normal(0, cases, (1, 20))
        + rng.normal(0, rest, shape)
    )


@pytest.mark.parametrize(("seeds", "cases", "rest"), [(0.02, 0.03, 0.02), (0.0, 0.03, 0.02), (0.02, 0.0, 0.05)])
def test_the_true_mean_lies_within_in_about_nineteen_of_twenty(seeds: float, cases: float, rest: float) -> None:
    rng = np.random.default_rng(0)
    told = [crossed(drawn(rng, seeds, cases, rest, 0.01)) for _ in range(600)]
    inside = np.mean([e.low <= 0.01 <= e.high for e in told])
    assert 0.93 <= inside <= 0.995
    # The p of no difference goes with the interval.
    assert all((e.p < 0.05) == (e.low > 0 or e.high < 0) for e in told)


def test_patients_alone_would_be_too_sure_where_seeds_disagree() -> None:
    rng = np.random.default_rng(1)
    held = [drawn(rng, 0.03, 0.02, 0.02) for _ in range(300)]
    found = np.mean([crossed(gains).p < 0.05 for gains in held])
    by_patients = np.mean([stats.wilcoxon(gains.mean(axis=0)).pvalue < 0.05 for gains in held])
    assert found < 0.1
    assert by_patients > 0.3


def test_one_seed_is_the_t_test_over_patients() -> None:
    gains = np.random.default_rng(2).normal(0.01, 0.05, (1, 30))
    told, theirs = crossed(gains), stats.ttest_1samp(gains[0], 0)
    assert told.p == pytest.approx(theirs.pvalue)
    assert (told.low, told.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_patients_that_a_seed_lacks_are_left_out_and_nothing_is_said_of_one_patient() -> None:
    gains = np.array([[0.1, 0.2, np.nan, 0.4], [0.2, 0.2, 0.9, 0.2]])
    assert crossed(gains).difference == pytest.approx(np.delete(gains, 2, axis=1).mean())
    alone = crossed(gains[:, :1])
    assert alone.difference == pytest.approx(0.15)
    assert np.isnan([alone.low, alone.high, alone.p]).all()
    assert np.isnan(crossed(gains[:, 2:3])).all()


def test_equal_arms_differ_by_nothing() -> None:
    assert crossed(np.zeros((3, 8))) == (0.0, 0.0, 0.0, 1.0)
