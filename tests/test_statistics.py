import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from rtl_utils.statistics import (
    Interval,
    holm,
    interquartile_mean,
    mean_interval,
    paired_difference,
    rank_correlation,
    share_interval,
    verdict,
)

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


def test_mean_interval_of_a_known_case():
    interval = mean_interval(
        [1, 2, 3]
    )  # t of 2 degrees of freedom at 97.5 %: 4.3027; standard error: 1 / sqrt 3
    assert interval.mean == 2
    assert interval.n == 3
    assert (interval.low, interval.high) == pytest.approx(
        (2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4
    )


@given(x=values)
def test_interval_holds_the_mean_and_widens_with_the_level(x):
    assume(np.ptp(x) > 1e-6)
    narrow = mean_interval(x, 0.9)
    wide = mean_interval(x, 0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize("x", [[0.1] * 3, [0.684] * 7])
def test_equal_values_have_no_spread(x):
    interval = mean_interval(x)
    assert interval.low == interval.high == interval.mean == pytest.approx(x[0])


def test_one_value_has_no_interval():
    interval = mean_interval([0.5])
    assert interval.mean == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.text() == "0.5"


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(3, 1, 5)) for _ in range(1000)]
    covered = sum(i.low <= 3 <= i.high for i in intervals)
    assert abs(covered - 950) < 35  # five binomial standard errors


@pytest.mark.parametrize("x", [[], [1, math.nan], [math.inf, 1]])
def test_mean_of_nothing_or_not_finite_is_refused(x):
    with pytest.raises(ValueError, match="finite values"):
        mean_interval(x)


def test_interval_as_text():
    assert Interval(0.658, 0.631, 0.685, 5).text(scale=100) == "65.8 [63.1, 68.5]"


def test_interquartile_mean_ignores_stuck_runs():
    assert interquartile_mean([0.2, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.99]) == pytest.approx(0.8)


def test_wilson_interval_of_known_cases():
    none = share_interval(0, 10)
    half = share_interval(5, 10)
    z2 = 1.959964**2
    assert none.mean == 0
    assert none.low == pytest.approx(0, abs=1e-12)
    assert none.high == pytest.approx(z2 / (10 + z2))
    assert half.mean == 0.5
    assert half.high - 0.5 == pytest.approx(0.5 - half.low)


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_share_is_refused(hits, n):
    with pytest.raises(ValueError, match=f"got {hits} of {n}"):
        share_interval(hits, n)


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (10, 2 / 1024)])
def test_smallest_p_is_that_of_the_signs(n, p):
    a = np.arange(1, n + 1) / 10
    interval, found = paired_difference(a, np.zeros(n))
    assert found == pytest.approx(p)
    assert interval.mean == pytest.approx(a.mean())


@given(a=values, seed=st.integers(0, 1000))
def test_paired_difference_turns_its_sign_with_its_ends(a, seed):
    b = np.random.default_rng(seed).normal(size=len(a))
    there, p = paired_difference(a, b)
    back, q = paired_difference(b, a)
    assert p == pytest.approx(q)
    assert 0 <= p <= 1
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_no_difference_has_p_1():
    assert paired_difference([0.5, 0.6], [0.5, 0.6])[1] == 1


def test_values_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_difference([1, 2], [1, 2, 3])


def test_holm_of_a_known_case():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_never_lowers_a_p_nor_changes_their_order(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-12).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()


@pytest.mark.parametrize(
    ("low", "high", "claim", "margin", "says"),
    [
        (0.01, 0.03, "above", 0, "reproduced"),
        (-0.01, 0.03, "above", 0, "undecided"),
        (-0.03, -0.01, "above", 0, "not reproduced"),
        (0.01, 0.03, "above", 0.02, "undecided"),
        (0.01, 0.02, "above", 0.02, "not reproduced"),
        (-0.03, -0.01, "below", 0, "reproduced"),
        (-0.03, -0.01, "below", 0.02, "undecided"),
        (0.01, 0.03, "below", 0, "not reproduced"),
        (-0.01, 0.01, "alike", 0.02, "reproduced"),
        (-0.01, 0.03, "alike", 0.02, "undecided"),
        (0.03, 0.05, "alike", 0.02, "not reproduced"),
        (-0.05, -0.03, "alike", 0.02, "not reproduced"),
        (math.nan, math.nan, "above", 0, "undecided"),
    ],
)
def test_verdict_of_known_cases(low, high, claim, margin, says):
    assert verdict(Interval((low + high) / 2, low, high, 5), claim, margin) == says


ends, margins = st.floats(-1, 1), st.floats(0, 0.5)


@given(low=ends, high=ends, margin=margins)
def test_verdicts_agree_with_each_other(low, high, margin):
    low, high = min(low, high), max(low, high)
    interval, mirrored = (
        Interval((low + high) / 2, low, high, 5),
        Interval(-(low + high) / 2, -high, -low, 5),
    )
    above, below, alike = (
        verdict(interval, claim, margin) for claim in ("above", "below", "alike")
    )
    assert below == verdict(mirrored, "above", margin)
    assert alike == verdict(mirrored, "alike", margin)
    assert [above, below, alike].count("reproduced") <= 1


def test_unknown_claim_is_refused():
    with pytest.raises(ValueError, match="got 'better'"):
        verdict(mean_interval([1, 2]), "better")


def test_rank_correlation_of_a_rising_and_of_a_falling_function_is_one_and_minus_one():
    x = np.array([4.0, -7, 0, 2, 11, -1])
    assert rank_correlation(x, np.exp(x / 10)).mean == pytest.approx(1)
    assert rank_correlation(x, -(x**3)).mean == pytest.approx(-1)


def test_rank_correlation_is_spearmans_and_lies_in_its_interval():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20)
    y = x + rng.normal(size=20)
    found = rank_correlation(x, y)
    assert found.mean == pytest.approx(stats.spearmanr(x, y).statistic)
    assert -1 <= found.low < found.mean < found.high <= 1
    assert found.low > 0


def test_rank_correlation_of_few_or_unequal_pairs_is_refused():
    for x, y in (([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3])):
        with pytest.raises(ValueError, match="four or more"):
            rank_correlation(x, y)
