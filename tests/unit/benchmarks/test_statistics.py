"""The interval against scipy's and against closed forms; what must be seen is seen."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from foldrank.benchmarks.statistics import (
    UNSTABLE_ABOVE,
    Estimate,
    estimate,
    modes_apart,
    spread,
    stable,
    unstable_because,
)

RNG = np.random.default_rng(7)


def test_interval_of_one_launch_agrees_with_scipys_percentile_bootstrap() -> None:
    ratios = 1.3 * RNG.lognormal(0, 0.05, 24)
    ours = estimate([ratios.tolist()], seed=1)
    result = scipy.stats.bootstrap((ratios,), np.median, n_resamples=9999, method="percentile", rng=2)
    theirs = result.confidence_interval
    assert ours.ratio == np.median(ratios)
    assert ours.low == pytest.approx(theirs.low, rel=0.005)
    assert ours.high == pytest.approx(theirs.high, rel=0.005)


def test_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    hits = sum(estimate([RNG.lognormal(0, 0.1, 20).tolist()], seed=k).contains(1.0) for k in range(120))
    assert hits >= 105  # 95 % of 120 is 114; fewer than 105 happens once in 2,000


def test_launches_that_disagree_widen_the_interval() -> None:
    near, far = (1.0 + 0.001 * RNG.standard_normal(12)).tolist(), (1.1 + 0.001 * RNG.standard_normal(12)).tolist()
    together, apart = estimate([near + near], seed=0), estimate([near, far], seed=0)
    assert together.high - together.low < 0.01
    assert apart.low < 1.01
    assert apart.high > 1.09


def test_same_seed_same_interval() -> None:
    ratios = RNG.lognormal(0, 0.1, 20).tolist()
    assert estimate([ratios], seed=3) == estimate([ratios], seed=3)


@pytest.mark.parametrize("launches", [[], [[]], [[1.0], [1.0, 1.0]], [[1.0, float("nan")]], [[1.0], [-1.0]]])
def test_refuses_what_is_no_ratio(launches: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"pairs|ratio"):
        estimate(launches, seed=0)


def test_spread_of_normal_samples_is_their_deviation_over_their_middle() -> None:
    samples = 50 + 2 * np.random.default_rng(0).standard_normal(20_000)
    assert spread(samples.tolist()) == pytest.approx(0.04, rel=0.02)


def test_one_outlier_does_not_make_a_row_unstable_but_noise_does() -> None:
    quiet = 10 * (1 + 0.01 * np.random.default_rng(1).standard_normal(40))
    noisy = 10 * (1 + 0.06 * np.random.default_rng(1).standard_normal(40))
    assert stable([*quiet.tolist(), 500.0])
    assert not stable(noisy.tolist())
    assert spread(noisy.tolist()) > UNSTABLE_ABOVE


def test_two_groups_are_seen_with_their_distance_even_where_the_spread_is_small() -> None:
    noise = 0.002 * np.random.default_rng(2).standard_normal(40)
    samples = [*(1.0 + noise[:29]).tolist(), *(1.2 + noise[29:]).tolist()]
    assert stable(samples)
    assert modes_apart(samples) == pytest.approx(0.2, rel=0.02)
    assert "two groups, 20." in str(unstable_because(samples)) or "two groups, 19." in str(unstable_because(samples))


def test_one_group_is_one_group_whatever_its_form() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        assert modes_apart((1 + 0.02 * rng.standard_normal(40)).tolist()) is None
        assert modes_apart(rng.uniform(0.96, 1.04, 40).tolist()) is None
    assert modes_apart([*[1.0] * 39, 500.0]) is None
    assert modes_apart([1.0] * 20) is None


def test_groups_too_close_to_matter_are_one() -> None:
    assert modes_apart([1.0] * 10 + [1.01] * 10) is None


def test_a_wide_interval_marks_quiet_samples() -> None:
    samples = (1.2 * (1 + 0.005 * np.random.default_rng(4).standard_normal(40))).tolist()
    assert unstable_because(samples, Estimate(1.2, 1.19, 1.21)) is None
    assert unstable_because(samples, Estimate(1.2, 1.15, 1.25)) == "the 95 % interval is 8.3% wide"
