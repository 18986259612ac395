"""Claims: which rows decide which claim, and when they decide nothing."""

import re
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from small_rows import AROUND, shortcut_rows, values_of

from rtl_utils import claims, statistics, tables
from rtl_utils.claims import ranks
from rtl_utils.distances import KINDS, Matrix
from rtl_utils.store import FINAL

# --- any claim -----------------------------------------------------------------------------------


def differing(mean, seeds=6, pair=("s", "t")):
    """Rows of UT and FT whose accuracies differ by a mean, within two points."""
    lines = [
        {
            "method": method,
            "seed": seed,
            "value": 0.5 + (method == "ut") * (mean + 0.01 * (seed % 3)),
        }
        for seed in range(seeds)
        for method in ("ut", "ft")
    ]
    named = {"source": pair[0], "target": pair[1], "metric": "val_accuracy", "epoch": FINAL}
    return pd.DataFrame(lines).assign(**named)


def test_verdicts_follow_their_claims():
    cases = [
        claims.Case("UT is better", differing(0.05), "val_accuracy", "above"),
        claims.Case("both are alike", differing(-0.01), "val_accuracy", "alike", claims.ALIKE),
        claims.Case("UT is worse", differing(0.05), "val_accuracy", "below"),
        claims.Case("FT is worse", differing(0.05), "val_accuracy", "below", a="ft", b="ut"),
    ]
    table = claims.verdict_table(cases[:3])
    assert table.verdict.tolist() == ["reproduced", "reproduced", "not reproduced"]
    assert table["UT - FT, points"].tolist()[0].startswith("6.0 [")
    assert float(table["p, Holm"].iloc[1]) < 0.05  # of equivalence, which is not that of t
    assert claims.verdict_table(cases).verdict.tolist()[3] == "reproduced"
    assert table["seeds that would decide"].tolist() == ["", "", ""]
    assert "difference, points" in claims.verdict_table(cases)


def test_what_is_undecided_says_how_many_seeds_would_decide():
    case = claims.Case("UT is better", differing(-0.005), "val_accuracy", "above")
    table = claims.verdict_table([case])
    assert table.verdict.tolist() == ["undecided"]
    (needed,) = table["seeds that would decide"]
    assert 6 < int(needed) < 100


@pytest.mark.parametrize("mean", [0.0, 0.003, 0.006, 0.008])
def test_other_claims_of_the_table_ask_for_more_seeds(mean):
    """What six seeds decide alone, they leave undecided beside eleven others."""
    cases = [
        claims.Case(f"claim {k}", differing(m), "val_accuracy", "above")
        for k, m in enumerate([mean, *[-0.005] * 11])
    ]
    alone, beside = (claims.verdict_table(some).iloc[0] for some in (cases[:1], cases))
    assert (alone.verdict, beside.verdict) == ("reproduced", "undecided")
    assert int(beside["seeds that would decide"]) > beside.seeds


def test_claims_of_one_family_alone_are_adjusted_together():
    """What eleven claims of another family say changes nothing."""
    of = {"rows": differing(0.0), "metric": "val_accuracy", "direction": "above"}
    others = [claims.Case(f"claim {k}", **of, family="others") for k in range(11)]
    case = claims.Case("this", **of, family="its own")
    alone, beside = (claims.verdict_table(some).loc["this"] for some in ([case], [*others, case]))
    assert alone.to_dict() == beside.to_dict()
    together = claims.verdict_table([*others, case._replace(family="others")]).loc["this"]
    assert float(together["p, Holm"]) > 5 * float(alone["p, Holm"])


def test_pairs_that_share_a_target_are_not_pooled():
    rows = pd.concat([differing(0.05, pair=(source, "t")) for source in ("a", "b")])
    table = claims.verdict_table([claims.Case("UT is better", rows, "val_accuracy", "above")])
    assert table.pair.tolist() == ["a → t", "b → t"]
    assert table.seeds.tolist() == [6, 6]


def test_few_seeds_give_no_verdict_and_no_interval():
    for seeds, dataset in ((2, "digits"), (4, "cifar100")):
        rows = differing(0.3, seeds).assign(dataset=dataset)
        table = claims.verdict_table([claims.Case("UT is better", rows, "val_accuracy", "above")])
        assert table.verdict.tolist() == [f"undecided ({seeds} seeds)"]
        assert table["p, Holm"].tolist() == [""]


def test_a_claim_without_rows_has_no_line():
    rows = differing(0.05)
    missing = claims.Case("CT", rows, "val_accuracy", "above", a="ct")
    assert claims.verdict_table([missing]).empty
    there = claims.Case("UT", rows, "val_accuracy", "above")
    assert claims.verdict_table([missing, there]).index.tolist() == ["UT"]


# --- the shortcut test ---------------------------------------------------------------------------


def test_keeping_the_shortcut_out_asks_for_few_flips_and_for_accuracy():
    flips = {"scratch": 0.10, "ft": 0.15, "good": 0.11, "flipping": 0.30, "weak": 0.10}
    clean = {"scratch": 0.60, "ft": 0.70, "good": 0.69, "flipping": 0.75, "weak": 0.60}
    table = claims.keeps_out(shortcut_rows(flips, clean), list(flips))
    assert table["keeps it out"].to_dict() == {
        "scratch": "no",
        "ft": "no",
        "good": "yes",
        "flipping": "no",
        "weak": "no",
    }
    assert claims.passing(table) == (
        "By the tests good keeps the shortcut out; by the means alone good keeps it out."
    )
    assert claims.passing(table.drop("good")).startswith("By the tests no method keeps the")
    both = pd.concat([table, table.loc[["good"]].rename({"good": "x"})])
    assert claims.passing(both).startswith("By the tests good and x keep the shortcut out")
    three = pd.concat([both, table.loc[["good"]].rename({"good": "y"})])
    assert claims.passing(three).startswith("By the tests good, x and y keep the shortcut out")


def test_methods_that_train_nothing_are_not_judged():
    rows = pd.DataFrame({"method": ["ut", "before", "ft", "scratch", "ut", "backbone"]})
    assert sorted(claims.judged(rows)) == ["ft", "scratch", "ut"]


def noisy(means, spread, seeds, draw):
    """Rows of the shortcut test with normal noise: method -> (flips, clean accuracy)."""
    lines = []
    for method, pair in means.items():
        for metric, mean in zip(("flip_rate", "clean_accuracy"), pair, strict=True):
            for seed, value in enumerate(draw.normal(mean, spread, seeds)):
                line = {"source": "s", "target": "t", "seed": seed, "epoch": FINAL}
                lines.append(line | {"method": method, "metric": metric, "value": value})
    return pd.DataFrame(lines)


@pytest.mark.slow
def test_a_method_as_good_as_both_references_passes_if_the_seeds_suffice():
    draw = np.random.default_rng(0)
    means = {"scratch": (0.1, 0.6), "ft": (0.3, 0.7), "x": (0.1, 0.7)}
    answers = [
        claims.keeps_out(noisy(means, 0.01, 12, draw), ["x"]).loc["x", "keeps it out"]
        for _ in range(12)
    ]
    assert answers.count("yes") > 8
    assert answers.count("no") == 0


@pytest.mark.slow
def test_a_method_at_the_margin_rarely_passes():
    draw = np.random.default_rng(0)
    means = {"scratch": (0.1, 0.6), "ft": (0.3, 0.7), "x": (0.1 + claims.ALLOWED, 0.8)}
    answers = [
        claims.keeps_out(noisy(means, 0.01, 8, draw), ["x"]).loc["x", "keeps it out"]
        for _ in range(25)
    ]
    assert answers.count("yes") <= 4  # one on average


def test_the_answers_use_the_p_after_holm():
    draw = np.random.default_rng(1)
    means = {"scratch": (0.1, 0.6), "ft": (0.3, 0.7)} | {f"x{k}": (0.1, 0.7) for k in range(4)}
    rows = noisy(means, 0.013, 6, draw)
    judged = [f"x{k}" for k in range(4)]
    table = claims.keeps_out(rows, judged)
    alone = [claims.keeps_out(rows, [method]).loc[method] for method in judged]
    assert sum(line["keeps it out"] == "yes" for line in alone) > 0
    p = table["p of yes, Holm"].astype(float)
    assert p.min() == pytest.approx(4 * min(float(a["p of yes, Holm"]) for a in alone), rel=0.05)
    assert ((table["keeps it out"] == "yes") == (p < 0.05)).all()


@pytest.mark.parametrize(("seeds", "dataset"), [(1, "digits"), (2, "digits"), (4, "cifar100")])
def test_keeping_the_shortcut_out_is_undecided_on_few_seeds(seeds, dataset):
    means = {"scratch": (0.1, 0.6), "ft": (0.1, 0.6), "x": (0.1, 0.7)}
    rows = noisy(means, 1e-4, seeds, np.random.default_rng(0)).assign(dataset=dataset)
    table = claims.keeps_out(rows, ["x", "ft"])
    says = f"undecided ({seeds} seed{'' if seeds == 1 else 's'})"
    assert table["keeps it out"].tolist() == [says, says]
    assert table.loc["x", "by the means"] == "yes"
    assert table["p of yes, Holm"].tolist() == ["", ""]
    assert "nothing is decided" in claims.power_text(rows, ["x", "ft"])


def test_power_says_how_many_seeds_would_suffice():
    means = {"scratch": (0.1, 0.6), "ft": (0.3, 0.7), "x": (0.1, 0.7)}
    wide = claims.power_text(noisy(means, 0.1, 10, np.random.default_rng(0)), list(means))
    narrow = claims.power_text(noisy(means, 0.005, 10, np.random.default_rng(0)), list(means))
    found = [
        int(re.search(r"80 % with ([\d,]+)", text)[1].replace(",", "")) for text in (wide, narrow)
    ]
    assert found[0] > 100 > 10 >= found[1]
    assert "chance of less than 1 % with 10 seeds" in wide
    assert "of x, which comes nearest" in narrow


# --- distances -----------------------------------------------------------------------------------

TASKS = ("a", "b", "c", "d")
OFF = ~np.eye(4, dtype=bool)
FAR = np.add.outer([1, 2, 4, 8], [0.1, 0.4, 0.2, 0.7])  # distances of the ordered pairs


def ranked(distance, accuracy, seeds=range(5), published=FAR, reverse_seeds=None):
    """The line of the uncoupled distance; our fine-tuning distance is the other way round.

    The fine-tuning distance has other seeds where they are given.
    """
    of_kind = {"uncoupled": seeds, "fine-tuning": seeds if reverse_seeds is None else reverse_seeds}
    none = np.full((4, 4), np.nan)
    ours = Matrix("uncoupled", TASKS, distance, none, none)
    reverse = Matrix("fine-tuning", TASKS, -distance, none, none)
    lines = [
        {"source": a, "target": b, "method": KINDS[kind].method, "seed": seed, "value": value}
        for kind in of_kind
        for seed in of_kind[kind]
        for (a, b), value in zip(permutations(TASKS, 2), accuracy[OFF], strict=True)
    ]
    rows = pd.DataFrame(lines).assign(metric="val_accuracy", epoch=FINAL, dataset="cifar100")
    matrices = {"uncoupled": ours, "fine-tuning": reverse}
    return claims.rank_table(matrices, rows, {"uncoupled": published}).loc["uncoupled"]


def test_accuracy_that_falls_with_distance_has_a_small_p():
    line = ranked(FAR, -FAR)
    assert line["with accuracy"].startswith("-1.00")
    assert float(line["p of falling, Holm"]) == pytest.approx(2 / 24, rel=0.01)  # two kinds
    assert line["claim 6, our distances"] == "undecided"  # 4! orders of two kinds cannot do better
    assert line["with Gao & Chaudhari's"].startswith("1.00")
    assert line["with our fine-tuning distance"].startswith("-1.00")
    assert line["Gao & Chaudhari's with our accuracy"].startswith("-1.00")
    assert float(line["their p of falling, Holm"]) == pytest.approx(1 / 24, rel=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_verdict_on_claim_6_is_that_of_the_permuted_tasks(sign, monkeypatch):
    monkeypatch.setattr(ranks, "holm", np.array)  # one kind alone: p = 1 / 24
    expected = "reproduced" if sign > 0 else "not reproduced"
    line = ranked(FAR, -sign * FAR)
    assert line["claim 6, our distances"] == expected
    assert line["claim 6, published distances"] == expected
    opposed = ranked(FAR, -sign * FAR, published=-FAR)
    assert opposed["claim 6, published distances"] != expected


def test_few_seeds_decide_nothing_about_claim_6():
    for seeds, says in (((0,), "undecided (1 seed)"), (range(4), "undecided (4 seeds)")):
        line = ranked(FAR, -FAR, seeds=seeds)
        assert line["claim 6, our distances"] == line["claim 6, published distances"] == says


def test_a_kind_of_few_seeds_is_not_tested_and_costs_the_others_nothing():
    line = ranked(FAR, -FAR, reverse_seeds=(0,))
    assert line["claim 6, our distances"] == "reproduced"  # 1 / 24, not adjusted
    assert ranked(FAR, -FAR, seeds=(0,), reverse_seeds=range(5))["p of falling, Holm"] == ""


def test_our_riemannian_length_is_compared_with_the_published_one():
    none = np.full((4, 4), np.nan)
    matrices = {
        "fine-tuning": Matrix("fine-tuning", TASKS, -FAR, none, none),
        "riemannian": Matrix("riemannian", TASKS, FAR, none, none),
    }
    rows = pd.DataFrame(
        [
            {"source": a, "target": b, "method": "ft", "seed": seed, "value": value}
            for seed in range(5)
            for (a, b), value in zip(permutations(TASKS, 2), -FAR[OFF], strict=True)
        ]
    ).assign(metric="val_accuracy", epoch=FINAL, dataset="cifar100")
    table = claims.rank_table(matrices, rows, {"fine-tuning": FAR})
    with_theirs = table["with Gao & Chaudhari's"]
    assert with_theirs["riemannian"].startswith("1.00")
    assert with_theirs["fine-tuning"].startswith("-1.00")
    # one published matrix and one set of accuracies are one test
    assert table.loc["riemannian", "claim 6, published distances"] == ""
    assert table.loc["fine-tuning", "claim 6, published distances"] == "reproduced"


def test_accuracy_of_hard_targets_is_no_effect_of_distance_within_them():
    # within each target accuracy rises with distance, but the targets that are far are hard
    distance = np.add.outer([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])
    accuracy = np.add.outer([0.01, 0.02, 0.03, 0.04], [0.9, 0.7, 0.5, 0.3])
    line = ranked(distance, accuracy)
    assert float(line["with accuracy"].split()[0]) < 0
    assert float(line["with accuracy, within a target"].split()[0]) > 0


def length_rows(kind, distance, seeds):
    """Rows of one kind of distance, one per seed and pair."""
    lines = [
        {"source": a, "target": b, "seed": seed, "value": value}
        for seed in seeds
        for (a, b), value in zip(permutations(TASKS, 2), distance[OFF], strict=True)
    ]
    named = {"method": KINDS[kind].method, "metric": KINDS[kind].metric}
    return pd.DataFrame(lines).assign(**named, epoch=FINAL, dataset="cifar100")


@pytest.mark.parametrize(
    ("sign", "seeds", "shown"), [(1, 5, "shown"), (-1, 5, "not shown"), (1, 1, "not shown")]
)
def test_agreement_with_the_published_coupled_distance_needs_its_p_and_seeds(sign, seeds, shown):
    above = FAR.copy()
    above[0, 1:] += 0.001
    above[1:] -= 0.001
    rows = [
        length_rows("uncoupled", FAR, range(seeds)),
        length_rows("coupled", above, range(seeds)),
    ]
    said = claims.coupled_text(pd.concat(rows), TASKS, {"coupled": (sign * FAR).tolist()})
    assert f"Gao & Chaudhari's is {shown}: rank correlation {sign}.00" in said
    assert ("1 seed, so no verdict" in said) == (seeds == 1)
    assert "longer than the uncoupled one in 3 of 12 pairs" in said


def test_coupled_and_uncoupled_distances_are_compared_on_common_seeds():
    rows = [
        length_rows("uncoupled", FAR, [0]),
        length_rows("coupled", FAR + 1, [0]),
        length_rows("coupled", FAR - 9, [1, 2]),  # of seeds that have no uncoupled distance
    ]
    said = claims.coupled_text(pd.concat(rows), TASKS, {"coupled": FAR.tolist()})
    assert "1 seed, so no verdict" in said
    assert "12 of 12 pairs" in said
    assert claims.coupled_text(pd.concat(rows[1:]), TASKS, {"coupled": FAR.tolist()}) == ""


# --- chance, frozen statistics, maps -------------------------------------------------------------


def test_claim_2_is_judged_on_the_own_task_and_on_every_target():
    rows = pd.concat(
        [
            values_of("backbone", "ball_accuracy", 0.21 + AROUND, target=None),
            values_of("backbone", "ball_share", 0.97 + AROUND, target=None),
            values_of("before", "ball_accuracy", 0.5 + AROUND),
            values_of("before", "ball_accuracy", 0.5 + AROUND, n_train=20),  # the same network
            values_of("before", "ball_share", 0.6 + AROUND),
            values_of("before", "ball_accuracy", 0.9 + AROUND, source_shortcut=None),
        ]
    )
    table = claims.chance_table(rows)
    assert table.index.tolist() == [("s", "its own task"), ("s", "t")]
    assert table.seeds.tolist() == [5, 5]
    assert table.verdict.tolist() == ["reproduced", "not reproduced"]
    assert table["in the shortcut's class, shortcut on all, %"].iloc[1].startswith("60.0 [")
    assert table["accuracy without shortcut, %"].tolist() == ["", ""]
    assert claims.chance_table(rows[rows.method == "none"]).empty


def frozen(ft, ut, ft_training, **columns):
    """Rows of FT and UT with frozen statistics."""
    return pd.concat(
        [
            values_of("ft-frozen", "val_accuracy", ft, **columns),
            values_of("ut-frozen", "val_accuracy", ut, **columns),
            values_of("ft-frozen", "train_accuracy", ft_training, **columns),
            values_of("ut-frozen", "train_accuracy", 0.9 + AROUND, **columns),
        ]
    )


def test_stuck_runs_are_counted_and_left_out_of_the_last_difference():
    ft = np.array([0.2, 0.2, 0.7, 0.71, 0.69])
    rows = frozen(ft, 0.7 + AROUND, np.where(ft < 0.3, 0.2, 0.9), target_shortcut="ball on all")
    clean = frozen(0.7 - AROUND, 0.9 + AROUND, 0.9 + AROUND)
    table = claims.frozen_table(claims.frozen_cases(pd.concat([clean, rows])))
    first, second, *_ = claims.CONDITIONS
    assert table.index.get_level_values("condition").tolist() == [first, second]
    line = table.loc[first].iloc[0]
    assert line["FT stuck"] == "2 of 5 [5, 85] %"
    assert line["UT stuck"] == "0 of 5 [0, 52] %"
    assert line["UT - FT, points"].startswith("20.0 [")
    assert line["neither stuck: UT - FT, points"].startswith("0.3 (")
    assert line["neither stuck: UT - FT, points"].endswith("(3 seeds)")
    assert table.verdict.tolist() == ["undecided", "reproduced"]


def test_a_comparison_that_two_tables_show_has_one_verdict():
    """Claim 3 on the digits stands in the table of frozen statistics, too."""
    frozen = claims.frozen_table(claims.frozen_cases(tables.stored("digits-frozen")))
    there = frozen.loc[claims.CONDITIONS[0], "all", 0.01, "updated"]
    usual = tables.as_usual(tables.course("digits"))
    judged = claims.verdict_table(claims.course_cases(usual))
    (line,) = [line for name, line in judged.iterrows() if name.startswith("3:")]
    shared = [*line.index.intersection(there.index)]
    assert {"p, Holm", "p of the opposite, Holm", "verdict"} <= {*shared}
    assert there[shared].astype(str).tolist() == line[shared].astype(str).tolist()


def stuck(ft, ut, seeds=10, **columns):
    """Rows with frozen statistics where the given seeds of FT and of UT are stuck."""
    accuracy = 0.7 + 0.01 * np.arange(seeds)
    training = [np.where(np.isin(np.arange(seeds), of), 0.25, 0.9) for of in (ft, ut)]
    return pd.concat(
        [
            values_of("ft-frozen", "val_accuracy", accuracy, **columns),
            values_of("ut-frozen", "val_accuracy", accuracy, **columns),
            values_of("ft-frozen", "train_accuracy", training[0], **columns),
            values_of("ut-frozen", "train_accuracy", training[1], **columns),
        ]
    )


def test_claim_4_is_judged_pair_by_pair_and_seed_by_seed():
    pairs = {"flowers": (range(8), ()), "vehicles-2": ((0, 1), (0, 1)), "people": ((), ())}
    rows = [
        stuck(*of, target=target).replace({"method": {"ft-frozen": "ft", "ut-frozen": "ut"}})
        for target, of in pairs.items()
    ]
    table = claims.stuck_table(pd.concat(rows))
    assert [pair.split(" → ")[1] for pair in table.index] == list(pairs)
    assert table.seeds.tolist() == [10, 10, 10]
    assert table["FT stuck"].str[:7].tolist() == ["8 of 10", "2 of 10", "0 of 10"]
    says = table[claims.CLAIM_4].tolist()
    assert says == ["reproduced", "undecided", "undecided (no run is stuck)"]
    alone = pd.concat(rows)
    assert claims.stuck_table(alone[alone.method == "ft"]).empty


def claim_4(*rows):
    """p and verdict of each line."""
    table = claims.frozen_table(claims.frozen_cases(pd.concat(rows)))
    columns = table[
        ["stuck, FT against UT: p of McNemar's test, Holm", "claim 4: FT stuck more often"]
    ]
    return [tuple(line) for line in columns.to_numpy().tolist()]


@pytest.mark.parametrize(
    ("ft", "ut", "p", "says"),
    [
        (range(6), [], "0.031", "reproduced"),  # 2 / 2^6
        (range(8), [0, 1], "0.031", "reproduced"),  # where both are stuck nothing differs
        ([], range(6), "0.031", "not reproduced"),
        (range(5), [], "0.062", "undecided"),
        (range(6), range(3, 9), "1", "undecided"),
        ([0, 1], [0, 1], "1", "undecided"),
        ([], [], "", "undecided (no run is stuck)"),
    ],
)
def test_claim_4_is_judged_by_runs_paired_by_seed(ft, ut, p, says):
    assert claim_4(stuck(list(ft), list(ut))) == [(p, says)]


def test_claim_4_uses_the_p_after_holm_of_the_lines_that_can_be_tested():
    six = list(range(6))
    lines = claim_4(
        stuck(six, []),
        stuck(six, [], source_shortcut=None),
        stuck([], [], target_shortcut="ball on all"),
    )
    assert sorted(lines) == [
        ("", "undecided (no run is stuck)"),
        ("0.062", "undecided"),
        ("0.062", "undecided"),
    ]


def test_few_seeds_decide_nothing_about_claim_4():
    assert claim_4(stuck([0, 1], [], seeds=2)) == [("", "undecided (2 seeds)")]


def test_map_rows_tell_three_states_of_the_statistics():
    rows = pd.concat(
        [
            values_of("ft", "val_accuracy", AROUND),
            values_of("ut-frozen", "val_accuracy", AROUND),
            values_of("ft", "val_accuracy", AROUND, width="wide-plain"),
            values_of("scratch", "val_accuracy", AROUND),
        ]
    )
    found = claims.map_rows(rows).groupby(["width", "method", "statistics"]).size()
    assert sorted(found.index) == [
        ("small", "ft", "updated"),
        ("small", "ut", "frozen"),
        ("wide", "ft", "none"),
    ]


def synthetic_rows(restored, permuted=0.1, seeds=6, **columns):
    """Losses of three methods on the synthetic target; restored: method -> mean restored loss."""
    wobble = np.linspace(-0.01, 0.01, seeds)
    parts = []
    for method, mean in restored.items():
        losses = {"val_loss": permuted + 0 * wobble, "rows_loss": permuted + 0 * wobble}
        losses["restored_loss"] = mean + wobble * (1 + (method == "scratch"))
        parts += [values_of(method, metric, values) for metric, values in losses.items()]
    return pd.concat(parts).assign(**columns)


def test_the_rise_is_the_restored_loss_minus_the_permuted_one():
    rows = tables.with_rise(synthetic_rows({"scratch": 0.5, "ft": 1.0}))
    ft = rows[(rows.method == "ft") & (rows.epoch == FINAL)]
    rise, ratio = (ft.value[ft.metric == name].to_numpy() for name in tables.RISE)
    restored = 1.0 + np.linspace(-0.01, 0.01, 6)
    np.testing.assert_allclose(rise, restored - 0.1)
    np.testing.assert_allclose(ratio, np.log10(restored / 0.1))


@pytest.mark.parametrize(
    ("ft", "says"), [(0.3, "reproduced"), (0.8, "not reproduced"), (0.5, "undecided")]
)
def test_claim_5_asks_whether_a_transfer_rises_less_than_scratch(ft, says):
    rows = tables.with_rise(synthetic_rows({"scratch": 0.5, "ft": ft, "ut": 0.5}))
    other = tables.with_rise(synthetic_rows({"scratch": 0.5, "ft": 0.5, "ut": 0.5}))
    table = claims.rise_tables({"these": rows, "others": other})["these"]
    assert table["claim 5"]["fine-tuning", "rise"] == says
    assert table["minus scratch"]["fine-tuning", "rise"].startswith(f"{ft - 0.5:.2f} [")
    of_eight = statistics.holm(
        [
            statistics.evidence(
                np.subtract(*tables.paired(part, metric, method, "scratch")), "below"
            ).p
            for part in (rows, other)
            for metric in tables.RISE
            for method in ("ft", "ut")
        ]
    )
    np.testing.assert_allclose(table["p, Holm"].astype(float), of_eight[:4], rtol=0.06)


def test_a_mean_on_the_margin_does_not_pass_by_rounding():
    rows = shortcut_rows({"scratch": 0.1, "ft": 0.1, "x": 0.1}, {"scratch": 0.5, "ft": 0.486})
    one = rows[rows.seed == 0]
    x = one[one.method == "ft"].assign(method="x")
    x.loc[x.metric == "clean_accuracy", "value"] = 0.466  # - 0.486 is -0.01999...
    one.loc[(one.method == "ft") & (one.metric == "clean_accuracy"), "value"] = 0.486
    table = claims.keeps_out(pd.concat([one[one.method != "x"], x]), ["x"])
    assert table.loc["x", "by the means"] == "no"


def test_figure_1_asks_which_losses_are_lower_in_all_tables_together():
    def losses(**means):
        parts = enumerate(means.items())
        return pd.concat(values_of(m, "val_loss", mean + k * AROUND) for k, (m, mean) in parts)

    these = losses(scratch=0.3, ft=0.2, ut=0.25)
    both = claims.loss_tables({"these": these, "others": losses(scratch=0.2, ft=0.2, ut=0.2)})
    assert both["these"]["lower"].to_dict() == {
        "uncoupled transfer minus fine-tuning": "not reproduced",
        "uncoupled transfer minus from scratch": "reproduced",
        "fine-tuning minus from scratch": "reproduced",
    }
    assert both["these"]["difference"].iloc[0].startswith("0.0500 [")
    assert set(both["others"]["lower"]) == {"undecided"}
    alone = claims.loss_tables({"these": these})["these"]
    together, apart = (table["p, Holm"].astype(float)[1:] for table in (both["these"], alone))
    assert (together > apart).all()


def test_spurious_weights_are_compared_by_seed():
    sizes = {"backbone": 0.2, "ft": 0.04, "ut": 0.05, "scratch": 0.03}
    rows = pd.concat(
        [
            values_of(method, "lime_spurious", mean + 0.1 * k * AROUND)
            for k, (method, mean) in enumerate(sizes.items())
        ]
    )
    table = claims.lime_table(rows)
    assert table["smaller"].tolist() == ["reproduced"] * 2 + ["not reproduced"] * 3
    assert table["difference"].iloc[2].startswith("0.0100 [")
    assert table.index[3:].tolist() == [
        "fine-tuning minus from scratch",
        "uncoupled transfer minus from scratch",
    ]
    assert claims.lime_table(rows.iloc[:0]).empty
