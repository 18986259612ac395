import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from rtl_utils.statistics import (
    FEWEST,
    Interval,
    evidence,
    holm,
    image_margin,
    interquartile_mean,
    mean_interval,
    p_above,
    p_below,
    p_values,
    paired_difference,
    power,
    prediction_interval,
    seeds_needed,
    seeds_to_decide,
    share_interval,
    task_permutation,
    verdicts,
)

values = st.lists(st.floats(-1e3, 1e3), min_size=FEWEST, max_size=20)


def test_mean_interval_of_a_known_case():
    interval = mean_interval([1, 2, 3, 4, 5])
    half = 2.7764 / 2**0.5  # t of 4 degrees of freedom at 97.5 % x standard error
    assert interval.mean == 3
    assert interval.n == 5
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half), abs=1e-4)


@given(x=values)
def test_interval_holds_the_mean_and_widens_with_the_level(x):
    assume(np.ptp(x) > 1e-6)
    narrow = mean_interval(x, 0.9)
    wide = mean_interval(x, 0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize(
    ("x", "text"),
    [
        ([0.5], "50.0"),
        ([0.5, 0.7], "60.0 (50.0, 70.0)"),
        ([0.1, 0.2, 0.3, 0.6], "30.0 (10.0, 20.0, 30.0, 60.0)"),
        ([0.684] * 7, "68.4"),
        ([0.2 + 0.1, 0.3, 0.3, 0.3, 0.3], "30.0"),
    ],
)
def test_too_few_values_or_values_without_spread_have_no_interval(x, text):
    interval = mean_interval(x)
    assert interval.mean == pytest.approx(np.mean(x))
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.text(scale=100) == text


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


def test_an_interval_of_a_share_ends_where_shares_end():
    found = mean_interval([0.9, 1.0, 1.0, 1.0, 1.0])
    assert found.high > 1
    assert found.within(0, 1) == Interval(found.mean, found.low, 1.0, 5)
    alone = mean_interval([1.0]).within(0, 1)
    assert np.isnan(alone.low) and alone.points == (1.0,)


def test_interquartile_mean_ignores_stuck_runs():
    assert interquartile_mean([0.2, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.99]) == pytest.approx(0.8)


def test_share_interval_has_the_tails_of_the_binomial():
    found = share_interval(3, 20)
    assert found.mean == 0.15
    assert stats.binom.sf(2, 20, found.low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 20, found.high) == pytest.approx(0.025)
    assert share_interval(0, 10).high == pytest.approx(1 - 0.025**0.1)
    assert share_interval(10, 10).high == 1


def test_share_interval_holds_its_level_everywhere():
    ends = [share_interval(hits, 12) for hits in range(13)]
    for truth in np.linspace(0.01, 0.99, 50):
        inside = [one.low <= truth <= one.high for one in ends]
        assert stats.binom.pmf(range(13), 12, truth)[inside].sum() >= 0.95


def test_margin_of_images_is_that_of_simulated_accuracies():
    draw = np.random.default_rng(0).binomial(500, 0.7, (2, 20_000)) / 500
    inside = np.abs(draw[0] - draw[1]) <= image_margin(0.7, 500)
    assert inside.mean() == pytest.approx(0.95, abs=0.01)
    assert image_margin(0.7, 500) == pytest.approx(0.057, abs=0.0005)


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_share_is_refused(hits, n):
    with pytest.raises(ValueError, match=f"got {hits} of {n}"):
        share_interval(hits, n)


@pytest.mark.parametrize(("n", "p"), [(5, 0.0625), (6, 0.03125), (10, 2 / 1024)])
def test_smallest_p_of_wilcoxon_is_that_of_the_signs(n, p):
    found = evidence((np.arange(1, n + 1) / 10).tolist(), "above")
    assert found.wilcoxon == pytest.approx(p)
    assert evidence([0.0] * n, "above").wilcoxon == 1


@given(a=values, seed=st.integers(0, 1000))
def test_paired_difference_turns_its_sign_with_its_ends(a, seed):
    b = np.random.default_rng(seed).normal(size=len(a))
    there = paired_difference(a, b)
    back = paired_difference(b, a)
    turned = (-back.mean, -back.high, -back.low)
    assert (there.mean, there.low, there.high) == pytest.approx(turned)


def test_paired_interval_is_that_of_the_paired_t_test():
    a, b = np.random.default_rng(1).normal(size=(2, 8))
    expected = stats.ttest_rel(a, b).confidence_interval(0.9)
    found = paired_difference(a, b, 0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


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


def test_holm_leaves_out_what_was_not_tested():
    np.testing.assert_allclose(holm([0.01, math.nan, 0.04]), [0.02, math.nan, 0.04])
    assert np.isnan(holm([math.nan, math.nan])).all()


# --- claims ---------------------------------------------------------------------------------------

SPREAD = np.array([-0.02, -0.01, 0.0, 0.0, 0.01, 0.02])  # six seeds around a mean


@pytest.mark.parametrize(
    ("mean", "claim", "margin", "says"),
    [
        (0.05, "above", 0, "reproduced"),
        (0.01, "above", 0, "undecided"),
        (-0.05, "above", 0, "not reproduced"),
        (0.05, "above", 0.04, "undecided"),
        (0.05, "above", 0.1, "not reproduced"),
        (-0.05, "below", 0, "reproduced"),
        (-0.05, "below", 0.04, "undecided"),
        (0.05, "below", 0, "not reproduced"),
        (0.0, "alike", 0.02, "reproduced"),
        (0.01, "alike", 0.02, "undecided"),
        (0.05, "alike", 0.02, "not reproduced"),
        (-0.05, "alike", 0.02, "not reproduced"),
    ],
)
def test_verdict_of_known_cases(mean, claim, margin, says):
    (found,) = verdicts([evidence((SPREAD + mean).tolist(), claim, margin)])
    assert found.says == says


@given(x=st.lists(st.floats(-1, 1), min_size=FEWEST, max_size=8), margin=st.floats(0, 0.5))
def test_a_single_verdict_is_that_of_its_interval(x, margin):
    assume(np.ptp(x) > 1e-3)
    above, below, alike = (evidence(x, claim, margin) for claim in ("above", "below", "alike"))
    wide, narrow = mean_interval(x), mean_interval(x, 0.9)
    assert (above.p < 0.05) == (wide.low > margin)
    assert (above.opposite < 0.05) == (wide.high < margin)
    assert (below.p < 0.05) == (wide.high < -margin)
    assert (alike.p < 0.05) == (-margin < narrow.low and narrow.high < margin)
    assert (alike.opposite < 0.05) == (wide.low > margin or wide.high < -margin)


@given(x=st.lists(st.floats(-1, 1), min_size=FEWEST, max_size=8), margin=st.floats(0.01, 0.5))
def test_equivalence_is_that_of_statsmodels(x, margin):
    assume(np.ptp(x) > 1e-3)
    expected = DescrStatsW(np.array(x)).ttost_mean(-margin, margin)[0]
    assert evidence(x, "alike", margin).p == pytest.approx(expected)


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8), untested=st.integers(0, 3))
def test_holm_is_that_of_statsmodels_and_leaves_out_what_was_not_tested(p, untested):
    adjusted = holm([np.nan] * untested + p)
    assert np.isnan(adjusted[:untested]).all()
    assert adjusted[untested:] == pytest.approx(multipletests(p, method="holm")[1])


def test_a_verdict_uses_the_p_after_holm():
    weak = (SPREAD + 0.017).tolist()  # p = 0.035 alone
    assert verdicts([evidence(weak, "above")])[0].says == "reproduced"
    twice = verdicts([evidence(weak, "above"), evidence(weak, "above")])
    assert [one.says for one in twice] == ["undecided", "undecided"]
    assert twice[0].p == pytest.approx(2 * evidence(weak, "above").p)
    opposed = verdicts([evidence(weak, "below"), evidence(weak, "below")])
    assert [one.says for one in opposed] == ["undecided", "undecided"]


def test_few_seeds_and_no_spread_decide_nothing_and_cost_the_others_nothing():
    strong = evidence((SPREAD + 0.017).tolist(), "above")
    few = evidence([0.5, 0.6], "above")
    four = evidence([0.5, 0.6, 0.7, 0.6], "above")
    same = evidence([0.5] * FEWEST, "above")
    found = verdicts([strong, few, four, same, evidence([0.5], "alike", 0.03)])
    assert [one.says for one in found] == [
        "reproduced",
        "undecided (2 seeds)",
        "undecided (4 seeds)",
        "undecided (no spread)",
        "undecided (1 seed)",
    ]
    assert found[0].p == pytest.approx(strong.p)


def test_wrong_claims_are_rarely_reproduced():
    draw = np.random.default_rng(0)
    for claim, truth, most in (("above", 0.0, 0.025), ("alike", 0.5, 0.05)):
        samples = draw.normal(truth, 0.3, (1000, 6)).tolist()
        found = [evidence(x, claim, 0.5 if claim == "alike" else 0.0).p < 0.05 for x in samples]
        assert np.mean(found) < most + 0.025


def test_one_sided_tests_face_each_other():
    x = (SPREAD + 0.01).tolist()
    assert p_above(x, 0.0) + p_below(x, 0.0) == pytest.approx(1)
    assert p_above(x, 0.0) < 0.5 < p_above(x, 0.02)


def test_unknown_claim_is_refused():
    with pytest.raises(ValueError, match="got 'better'"):
        evidence([1, 2, 3], "better")


# --- power ----------------------------------------------------------------------------------------


def test_power_is_the_share_of_simulated_decisions():
    x = np.random.default_rng(0).normal(0, 1, (4000, 12))
    passed = stats.ttest_1samp(x, -0.8, axis=1, alternative="greater").pvalue < 0.05
    assert power([0.8], 12) == pytest.approx(passed.mean(), abs=0.02)
    assert power([0.8, 0.5], 12) == pytest.approx(power([0.8], 12) * power([0.5], 12))


@pytest.mark.parametrize("effects", [[0.8], [0.2, 0.3], [5.0]])
def test_seeds_needed_are_the_fewest_that_suffice(effects):
    n = seeds_needed(effects, 0.01)
    assert power(effects, n, 0.01) >= 0.8
    assert n == FEWEST or power(effects, n - 1, 0.01) < 0.8


def test_an_effect_of_nothing_needs_more_seeds_than_anyone_has():
    assert seeds_needed([1e-4]) is None


# --- tasks ----------------------------------------------------------------------------------------


def between_tasks(seed, k=5):
    """Two unrelated matrices, each with strong effects of rows and columns."""
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(k, 1)) + draw.normal(size=(1, k)) for _ in range(2)]


def test_task_permutation_of_a_falling_function():
    x = between_tasks(0)[0]
    found = task_permutation(x, -(x**3))
    assert found.interval.mean == pytest.approx(-1)
    assert found.falls == pytest.approx(1 / 120)  # no other of the 5! orders does as well
    assert found.rises == 1
    assert task_permutation(x, np.exp(x)).rises == pytest.approx(1 / 120)


def test_task_permutation_is_spearmans_off_the_diagonal():
    x, y = between_tasks(1)
    np.fill_diagonal(y, 99.0)
    off = ~np.eye(5, dtype=bool)
    found = task_permutation(x, y)
    assert found.interval.mean == pytest.approx(stats.spearmanr(x[off], y[off]).statistic)
    assert -1 <= found.interval.low < found.interval.mean < found.interval.high <= 1


def test_tasks_in_another_order_give_the_same():
    x, y = between_tasks(2)
    order = [3, 0, 4, 1, 2]
    there = task_permutation(x, y)
    back = task_permutation(x[np.ix_(order, order)], y[np.ix_(order, order)])
    assert (back.falls, back.rises) == (there.falls, there.rises)
    assert back.interval.low == pytest.approx(there.interval.low)


def test_unrelated_tasks_are_rarely_called_related_where_pairs_taken_alone_often_are():
    off = ~np.eye(5, dtype=bool)
    tasks, pairs = [], []
    for seed in range(200):
        x, y = between_tasks(seed)
        tasks.append(task_permutation(x, y).falls < 0.05)
        pairs.append(stats.spearmanr(x[off], y[off], alternative="less").pvalue < 0.05)
    assert np.mean(tasks) < 0.1
    assert np.mean(pairs) > 0.1


def test_many_tasks_are_tested_by_drawn_orders():
    x, y = between_tasks(3, k=8)
    found = task_permutation(x, -x)
    assert found.falls == pytest.approx(1 / 5000)
    assert 0.01 < task_permutation(x, y).falls < 0.99


@pytest.mark.parametrize("shapes", [((3, 3), (3, 3)), ((4, 4), (5, 5)), ((4, 5), (4, 5))])
def test_matrices_of_few_or_other_tasks_are_refused(shapes):
    with pytest.raises(ValueError, match="four or more"):
        task_permutation(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    ("claim", "margin", "mean"),
    [("above", 0.0, 0.6), ("below", 0.0, 0.6), ("alike", 1.5, 0.5), ("alike", 0.2, 1.0)],
)
def test_seeds_to_decide_do_so_in_four_of_five_experiments(claim, margin, mean):
    noise = np.random.default_rng(0).normal(size=10)
    values = mean + (noise - noise.mean()) / noise.std(ddof=1)
    n = seeds_to_decide(values.tolist(), claim, margin)
    draws = np.random.default_rng(1).normal(mean, 1, (400, n))
    decided = [min(p_values(row.tolist(), claim, margin)) < 0.05 for row in draws]
    assert np.mean(decided) == pytest.approx(0.8, abs=0.08)


def test_each_of_several_claims_is_decided_at_its_share_of_the_level():
    noise = np.random.default_rng(0).normal(size=10)
    values = 0.6 + (noise - noise.mean()) / noise.std(ddof=1)
    n = seeds_to_decide(values.tolist(), "above", claims=12)
    draws = np.random.default_rng(1).normal(0.6, 1, (400, n))
    decided = [min(p_values(row.tolist(), "above", 0.0)) < 0.05 / 12 for row in draws]
    assert np.mean(decided) == pytest.approx(0.8, abs=0.08)


def test_no_number_of_seeds_decides_without_spread_or_effect():
    assert seeds_to_decide([0.1, 0.1, 0.1], "above") is None
    assert seeds_to_decide([-1.0, 1.0, -1.0, 1.0], "above") is None


def test_the_next_values_lie_in_a_prediction_interval_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3, 2, (4_000, 8))
    for further in (1, 3):
        intervals = [prediction_interval(five, further) for five in draws[:, :5].tolist()]
        means = draws[:, 5 : 5 + further].mean(1)
        inside = [i.low <= x <= i.high for i, x in zip(intervals, means, strict=True)]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.01)
    few = prediction_interval([1.0, 2.0])
    assert few.points == (1.0, 2.0) and math.isnan(few.low)
