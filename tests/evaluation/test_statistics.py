"""Means, shares and rank correlations against hand numbers and SciPy."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, spearmanr

from ctmr.evaluation.statistics import rank_correlation, summarise, wilson
from ctmr.results import Summary

# Means


def test_summary_of_two_patients_by_hand() -> None:
    summary = summarise([1.0, 3.0])
    assert (summary.mean, summary.sd) == (2.0, pytest.approx(math.sqrt(2)))
    assert summary.ci95 == (1.0, 3.0)  # a quarter of the resamples are (1, 1), a quarter (3, 3)


def test_summary_of_one_patient_has_no_width() -> None:
    assert summarise([4.5]) == Summary(4.5, 0.0, (4.5, 4.5))


def test_bootstrap_interval_is_near_the_normal_one_for_many_patients() -> None:
    values = np.random.default_rng(3).normal(100, 10, 400)
    low, high = summarise(values.tolist()).ci95
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.1)
    assert high == pytest.approx(values.mean() + half, abs=0.1)


def test_bootstrap_repeats_with_its_seed_and_differs_with_another() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 9.5, 3.25, 2.125]
    assert summarise(values, seed=1) == summarise(values, seed=1)
    assert summarise(values, seed=1).ci95 != summarise(values, seed=2).ci95


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_that_cannot_be_summarised_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values, one for each patient"):
        summarise(values)


# Shares


@pytest.mark.parametrize("successes", [0, 1, 31, 59, 60])
@pytest.mark.parametrize("n", [60, 240])
def test_wilson_interval_equals_scipys(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_of_half_of_four_by_hand() -> None:
    z2 = 1.959964**2
    half = math.sqrt(z2 * 4 * 0.25 + z2**2 / 4) / (4 + z2)
    assert wilson(2, 4) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_wilson_interval_of_none_and_of_all_ends_there() -> None:
    assert wilson(0, 60)[0] == 0.0
    assert wilson(60, 60)[1] == 1.0


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_shares_that_are_none_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes <= n and n > 0"):
        wilson(successes, n)


# Rank correlations


def test_correlation_equals_scipys_with_ties() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 8, 24)
    b = a + rng.integers(0, 6, 24)
    found = rank_correlation(a.tolist(), b.tolist())
    assert found is not None
    assert found.n == 24
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic)
    assert -1 <= found.ci95[0] < found.spearman < found.ci95[1] <= 1


def test_correlation_sees_the_order_alone() -> None:
    values = [0.1, 0.2, 5.0, 7.0, 90.0]
    rising = rank_correlation(values, np.exp(values).tolist())
    falling = rank_correlation(values, [-value for value in values])
    assert rising is not None
    assert falling is not None
    assert (rising.spearman, *rising.ci95) == pytest.approx((1, 1, 1))
    assert (falling.spearman, *falling.ci95) == pytest.approx((-1, -1, -1))


def test_interval_of_unrelated_figures_holds_zero_and_that_of_related_ones_does_not() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 100))
    unrelated = rank_correlation(a.tolist(), b.tolist())
    related = rank_correlation(a.tolist(), (a + b).tolist())
    assert unrelated is not None
    assert related is not None
    assert unrelated.ci95[0] < 0 < unrelated.ci95[1]
    assert related.ci95[0] > 0


def test_images_of_one_patient_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    a, b = np.repeat(rng.normal(size=(2, 8)), 5, axis=1) + rng.normal(0, 0.01, (2, 40))
    patients = [f"p{i // 5}" for i in range(40)]
    apart = rank_correlation(a.tolist(), b.tolist())
    together = rank_correlation(a.tolist(), b.tolist(), patients=patients)
    assert apart is not None
    assert together is not None
    assert together.spearman == apart.spearman
    assert np.ptp(together.ci95) > 1.5 * np.ptp(apart.ci95)


def test_correlation_repeats_with_its_seed() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 9)).tolist()
    assert rank_correlation(a, b, seed=1) == rank_correlation(a, b, seed=1)
    assert rank_correlation(a, b, seed=1) != rank_correlation(a, b, seed=2)


@pytest.mark.parametrize(
    ("a", "b", "patients"),
    [
        ([], [], None),
        ([1, 2], [1, 2], None),
        ([1, 1, 1], [1, 2, 3], None),
        ([1, 2, 3], [0, 0, 0], None),
        ([1, 2, 3], [1, 2, 3], ["p", "p", "q"]),
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_rank(
    a: list[float], b: list[float], patients: list[str] | None
) -> None:
    assert rank_correlation(a, b, patients=patients) is None


@pytest.mark.parametrize(
    ("a", "b", "patients"),
    [
        ([1, 2, 3], [1, 2], None),
        ([1, 2, math.nan], [1, 2, 3], None),
        ([1, 2, 3], [1, 2, 3], ["p", "q"]),
    ],
)
def test_figures_that_cannot_be_paired_are_refused(
    a: list[float], b: list[float], patients: list[str] | None
) -> None:
    with pytest.raises(ValueError, match="expected finite values, one of each for each image"):
        rank_correlation(a, b, patients=patients)
