"""What the rows say about a claim: margins, tests, and tables with a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar

from rtl_utils import distances
from rtl_utils.distances import Matrix
from rtl_utils.methods import METHODS
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import (
    FEWEST,
    SIGNIFICANT,
    Association,
    Interval,
    decided,
    evidence,
    holm,
    mean_interval,
    p_above,
    p_below,
    p_values,
    power,
    seeds_needed,
    seeds_to_decide,
    task_permutation,
    untested,
    verdicts,
)
from rtl_utils.store import FINAL
from rtl_utils.tables import (
    BEFORE,
    PAIR,
    RISE,
    STUCK,
    Paired,
    by_images,
    group_index,
    images_text,
    label,
    listed,
    mean_text,
    n_train_text,
    paired,
    points,
    seed_count,
    shortcut_at_test,
    shortcut_everywhere,
    stuck_text,
    without_shortcut,
)

# Margins of the verdicts, as fractions. They were written down before the results were looked at.
ALIKE = 0.03  # two methods whose accuracies differ by less are alike (claim 1)
ALLOWED = 0.02  # additional flips with which a method still keeps the shortcut out
INFERIOR = 0.02  # accuracy that it may lack of fine-tuning's
NEAR_CHANCE = 0.05  # from chance, within which an accuracy is at chance (claim 2): 500 images alone
# give 0.035 on either side, so a narrower margin could hardly be met
CHANCE = 0.2  # accuracy of guessing: every image task here has five classes
CLAIM_4 = "claim 4: FT stuck more often"  # column of `frozen_table`

# Where the shortcut is in the runs with frozen statistics and in the maps.
CONDITIONS = (
    "shortcut in the source and on every target image",
    "shortcut in the source, clean target",
    "clean source, shortcut on every target image",
    "no shortcut",
)


class Case(NamedTuple):
    """A claim about the difference between two methods, and its rows.

    Args:
        claim: in words.
        rows: tidy rows of the runs that decide it.
        metric: that is compared.
        direction: of the claim, see `statistics.evidence`.
        margin: see `statistics.evidence`.
        a: method whose value is taken.
        b: method whose value is subtracted.
    """

    claim: str
    rows: pd.DataFrame
    metric: str
    direction: str
    margin: float = 0.0
    a: str = "ut"
    b: str = "ft"


class Judged(NamedTuple):
    """A claim on some seeds, judged alone, by Student's t alone.

    Args:
        interval: of the mean of their differences, as fractions.
        p: of the claim; see `statistics.p_values`.
        opposite: p of its opposite.
    """

    interval: Interval
    p: float
    opposite: float

    @property
    def says(self) -> str:
        """The verdict."""
        return untested(self.interval.n) or decided(self.p, self.opposite)


# --- any claim ------------------------------------------------------------------------------------


def verdict_table(cases: Sequence[Case]) -> pd.DataFrame:
    """Paired differences between two methods, with the verdict on each claim.

    Args:
        cases: the claims; each gives one row per pair of tasks among its rows that has both
            methods. Pairs are never pooled: two pairs with one target are not independent.

    Returns:
        Differences in points with 95 % intervals; p of the test that each claim needs, p of its
        opposite and p of Wilcoxon's signed-rank test, each adjusted by Holm's method over the
        table; verdicts, see `statistics.verdicts`; and for what is undecided the number of seeds
        that would decide it, see `statistics.seeds_to_decide`. Empty if there are no rows.
    """
    found = []
    judged = []
    lines = []
    keys = []
    for case in cases:
        for (source, target), rows in case.rows.groupby(list(PAIR), sort=False):
            if not {case.a, case.b} <= set(rows.method[rows.metric == case.metric]):
                continue
            values = np.subtract(*paired(rows, case.metric, case.a, case.b)).tolist()
            found.append(evidence(values, case.direction, case.margin))
            judged.append((values, case.direction, case.margin))
            keys.append((case.claim,))
            lines.append(
                {
                    "pair": f"{source} → {target}",
                    "seeds": len(values),
                    _heading(cases): found[-1].interval.text(scale=100),
                }
            )
    table = _with_verdicts(pd.DataFrame(lines), found, keys, ["claim"])
    if len(table):
        undecided = table.verdict.str.startswith("undecided")
        tested = sum(not np.isnan(e.p) for e in found)
        needed = [
            seeds_to_decide(*claim, tested) if open_ else None
            for claim, open_ in zip(judged, undecided, strict=True)
        ]
        table["seeds that would decide"] = [f"{n:,}" if n is not None else "" for n in needed]
    return table


def course_cases(rows: pd.DataFrame) -> list[Case]:
    """The paper's claims 1 and 3, and whether UT flips less at each number of images.

    Args:
        rows: tidy rows of the transfers of one data set, see `tables.as_usual`.
    """
    clean, marked = without_shortcut(rows), shortcut_everywhere(rows)
    alike = f"1: alike on clean tasks (within {100 * ALIKE:.0f} points of accuracy)"
    third = "3: UT beats FT, shortcut on every target image (accuracy)"
    cases = [
        Case(alike, clean, "val_accuracy", "alike", ALIKE),
        Case(third, marked, "val_accuracy", "above"),
    ]
    for size, part in by_images(shortcut_at_test(rows)).items():
        claim = f"UT flips less than FT, {images_text(size)} (flip rate)"
        cases.append(Case(claim, part, "flip_rate", "below"))
    return cases


def differences(case: Case) -> np.ndarray:
    """(n,) differences of a case as fractions, seeds rising."""
    return np.subtract(*paired(case.rows, case.metric, case.a, case.b))


def judge(case: Case, values: Sequence[float]) -> Judged:
    """The verdict on a claim from some of its differences alone.

    Args:
        case: the claim.
        values: of `differences`.
    """
    p, opposite = p_values(values, case.direction, case.margin)
    return Judged(mean_interval(values), p, opposite)


# --- the shortcut test ----------------------------------------------------------------------------


def judged(rows: pd.DataFrame) -> list[str]:
    """The methods that keep the shortcut out or not: all that train, as METHODS lists them."""
    found = set(rows.method) - {BEFORE}
    return [method for method in METHODS if method in found]


def keeps_out(
    rows: pd.DataFrame,
    methods: Sequence[str],
    allowed: float = ALLOWED,
    inferior: float = INFERIOR,
) -> pd.DataFrame:
    """Which methods keep the shortcut out, by two tests of non-inferiority.

    A method keeps it out if it flips less than `allowed` more than training from scratch, and loses
    less than `inferior` of fine-tuning's clean accuracy. Each is tested by a one-sided t test of
    differences paired by seed. The p of "yes" is the larger of the two (an intersection of two
    alternatives); the p of "no" is twice the smaller one of the reversed tests (a union). Both are
    adjusted by Holm's method over the methods. What is compared with itself passes by definition.

    Args:
        rows: tidy rows of one number of target images, "scratch" and "ft" among their methods.
        methods: that are judged.
        allowed: additional flips, as a fraction.
        inferior: lacking accuracy, as a fraction.

    Returns:
        One row per method: its seeds; both differences with 90 % intervals (their ends are
        one-sided 95 % bounds), both p-values, the answer by the means alone, and the answer: "yes"
        or "no" where its p lies below 0.05, else "undecided".

    Source: Berger (1982) for the intersection of tests.
    """
    lines = {}
    tests = _non_inferiorities(rows, methods, allowed, inferior)
    few = [untested(test.n) for test in tests]
    yes = holm([np.nan if none else test.yes for test, none in zip(tests, few, strict=True)])
    no = holm([np.nan if none else test.no for test, none in zip(tests, few, strict=True)])
    for method, test, none, p_yes, p_no in zip(methods, tests, few, yes, no, strict=True):
        by_means = test.flips.mean < allowed and test.clean.mean > -inferior
        says = {"reproduced": "yes", "not reproduced": "no"}
        answer = none or decided(p_yes, p_no)
        lines[method] = {
            "seeds": test.n,
            "flips minus scratch, points [90 %]": test.flips.text(scale=100),
            "accuracy minus fine-tuning, points [90 %]": test.clean.text(scale=100),
            "p of yes, Holm": _p_text(p_yes),
            "p of no, Holm": _p_text(p_no),
            "by the means": "yes" if by_means else "no",
            "keeps it out": says.get(answer, answer),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("method")


def power_text(
    rows: pd.DataFrame,
    methods: Sequence[str],
    allowed: float = ALLOWED,
    inferior: float = INFERIOR,
) -> str:
    """What the tests of `keeps_out` can find with these seeds, in two sentences.

    The level is that of the first step of Holm's method, and both tests count as independent.

    Args:
        rows: see `keeps_out`.
        methods: see `keeps_out`.
        allowed: see `keeps_out`.
        inferior: see `keeps_out`.
    """
    tests = dict(zip(methods, _non_inferiorities(rows, methods, allowed, inferior), strict=True))
    seeds = int(np.median([test.n for test in tests.values()]))
    others = {m: t for m, t in tests.items() if t.flips_sd > 0 and t.clean_sd > 0}
    if seeds < FEWEST:
        return f"With {seed_count(rows)} nothing is decided."
    if not others:
        return "Each of these methods is compared with itself in one of the tests; so no power."
    nearest = min(others, key=lambda method: others[method].yes)
    spreads = {
        f"those of {label(nearest)}, which comes nearest": _spreads(others[nearest]),
        "the median of all methods": np.median([_spreads(t) for t in others.values()], axis=0),
    }
    level = SIGNIFICANT / len(methods)
    said = []
    for name, (flips, clean) in spreads.items():
        effects = [allowed / flips, inferior / clean]
        enough = seeds_needed(effects, level)
        needed = "more than 100,000" if enough is None else f"{enough:,}"
        said.append(
            f"{_percent(power(effects, seeds, level))} with {seeds} seeds, and 80 % with {needed}, "
            f"if its differences spread as {name} ({100 * flips:.1f} points of flips, "
            f"{100 * clean:.1f} of accuracy)"
        )
    return (
        "The power of these tests: a method that truly equals training from scratch in flips and "
        f'fine-tuning in accuracy gets "yes" with a chance of {"; of ".join(said)}.'
    )


def passing(table: pd.DataFrame) -> str:
    """Which methods keep the shortcut out, in one sentence.

    Args:
        table: of `keeps_out`.
    """
    by_tests = _methods_in(table, "keeps it out")
    by_means = _methods_in(table, "by the means")
    return f"By the tests {by_tests} the shortcut out; by the means alone {by_means} it out."


# --- the single claims ----------------------------------------------------------------------------


def rise_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Claim 5: do restored features raise the loss of a transfer less than that of scratch?

    Args:
        rows: of `tables.with_rise`.

    Returns:
        One row per transfer and measure: the paired difference to scratch, p-values after Holm's
        adjustment over the table, and the verdict on "less than scratch".
    """
    found = []
    lines = []
    keys = []
    for measure, column in RISE.items():
        for method in ("ft", "ut"):
            difference = np.subtract(*paired(rows, measure, method, "scratch")).tolist()
            found.append(evidence(difference, "below"))
            keys.append((label(method), column.heading))
            lines.append({"minus scratch": found[-1].interval.text(2)})
    table = _with_verdicts(pd.DataFrame(lines), found, keys, ["method", "measure"])
    return table.rename(columns={"verdict": "claim 5"})


def lime_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Figures 2b and 2c: are the LIME weights of the spurious features smaller?

    Args:
        rows: tidy rows of the backbones and of the target models, one run per method and seed.

    Returns:
        One row per comparison: the paired difference of the mean |weight|, p-values after Holm's
        adjustment over the table, and the verdict on "smaller". Empty if there are no rows.
    """
    if rows.empty:
        return pd.DataFrame()
    sizes = rows[(rows.metric == "lime_spurious") & (rows.epoch == FINAL)]
    by_seed = sizes.pivot_table("value", index="seed", columns="method")
    found = []
    lines = []
    keys = []
    for a, b in (("ft", BACKBONE), ("ut", BACKBONE), ("ut", "ft")):
        difference = (by_seed[a] - by_seed[b]).dropna()
        found.append(evidence(difference.tolist(), "below"))
        keys.append((f"{label(a)} minus {label(b)}",))
        lines.append({"difference": found[-1].interval.text(4)})
    table = _with_verdicts(
        pd.DataFrame(lines), found, keys, ["mean size of the LIME weight, features 0 to 19"]
    )
    return table.rename(columns={"verdict": "smaller"})


def stuck_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Claim 4: is fine-tuning stuck more often than UT?

    Args:
        rows: tidy rows of "ft" and "ut", one run per pair of tasks, method and seed.

    Returns:
        One row per pair of tasks: its seeds; the stuck runs of both methods with Clopper-Pearson
        intervals; p of McNemar's exact test, two-sided, on the runs paired by seed, adjusted by
        Holm's method over the table and empty where nothing can be tested; and the verdict. Empty
        if no pair has both methods.

    Source: McNemar (1947).
    """
    stuck = []
    lines = {}
    for (source, target), part in rows.groupby(list(PAIR), sort=False):
        training = part[part.metric == "train_accuracy"]
        if not {"ft", "ut"} <= set(training.method):
            continue
        stuck.append(_stuck(part))
        lines[f"{source} → {target}"] = {
            "seeds": len(paired(part, "train_accuracy", "ut", "ft").a),
            "FT stuck": stuck_text(part[part.method == "ft"]),
            "UT stuck": stuck_text(part[part.method == "ut"]),
        }
    table = pd.DataFrame.from_dict(lines, orient="index").rename_axis("pair")
    return _with_claim_4(table, stuck)


def chance_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Biased backbones before any transfer, with the shortcut on every image: the paper's claim 2.

    Args:
        rows: tidy rows of biased backbones on their own tasks, and of the method that trains
            nothing on each target.

    Returns:
        One row per task and pair: accuracy and share of predictions in the shortcut's class; p of
        "the accuracy is at chance" (within NEAR_CHANCE of it, TOST) and of its opposite, adjusted
        by Holm's method over the table, and the verdict. Empty if there are no such rows.
    """
    biased = rows[rows.source_shortcut.notna()]
    own = biased[biased.method == BACKBONE].assign(images="its own task")
    before = biased[biased.method == BEFORE]
    moved = before.assign(images=before.target)  # one network, whatever it might be trained on
    shown = pd.concat([own, moved]).drop_duplicates(["source", "images", "seed", "metric"])
    found = []
    lines = []
    keys = []
    for key, part in shown.groupby(["source", "images"], sort=False):
        accuracy = part.value[part.metric == "ball_accuracy"]
        if accuracy.empty:
            continue
        keys.append(key)
        found.append(evidence((accuracy - CHANCE).tolist(), "alike", NEAR_CHANCE))
        share = part.value[part.metric == "ball_share"]
        lines.append(
            {
                "seeds": part.seed.nunique(),
                "accuracy, shortcut on all, %": mean_text(accuracy),
                "in the shortcut's class, %": mean_text(share) if len(share) else "",
            }
        )
    return _with_verdicts(pd.DataFrame(lines), found, keys, ["backbone of", "images of"])


def frozen_cases(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with frozen and updated BatchNorm statistics, named alike.

    Args:
        rows: tidy rows of "ft", "ut", "ft-frozen" and "ut-frozen".

    Returns:
        The rows with the method "ft" or "ut", and columns `statistics`, `images` (per class),
        `learning rate` and `condition` (where the shortcut is).
    """
    moved = rows[rows.method.isin(["ft", "ut", "ft-frozen", "ut-frozen"])]
    frozen = moved.method.str.endswith("-frozen")
    biased = moved.source_shortcut.notna()
    marked = moved.target_shortcut.notna()
    where = np.select([biased & marked, biased, marked], list(CONDITIONS)[:3], list(CONDITIONS)[3])
    return moved.assign(
        method=moved.method.str.removesuffix("-frozen"),
        statistics=np.where(frozen, "frozen", "updated"),
        images=moved.n_train.map(n_train_text),
        condition=where,
        **{"learning rate": moved.lr},
    )


def frozen_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of FT and UT where BatchNorm statistics are frozen, beside updated ones.

    Args:
        rows: of `frozen_cases`.

    Returns:
        One row per condition, number of images, learning rate and kind of statistics: accuracies,
        stuck runs, paired differences (of all seeds, and of those where neither run is stuck), the
        verdict on "UT is more accurate than FT", and the verdict on the paper's claim 4, "FT is
        stuck more often than UT". The p of claim 4 is that of McNemar's exact test, two-sided, on
        runs paired by seed, adjusted by Holm's method over the table; it is empty where nothing can
        be tested.

    Source: McNemar (1947).
    """
    by = ["condition", "images", "learning rate", "statistics"]
    found = []
    stuck = []
    lines = []
    keys = []
    order = {name: place for place, name in enumerate(CONDITIONS)}
    placed = rows.assign(_place=rows.condition.map(order), _many=rows.images == "all")
    placed = placed.sort_values(["_place", "_many", "learning rate", "statistics"], kind="stable")
    for key, part in placed.groupby(by, sort=False):
        if set(part.method) != {"ft", "ut"}:
            continue
        keys.append(key)
        values = paired(part, "val_accuracy", "ut", "ft")
        both = np.subtract(*values).tolist()
        found.append(evidence(both, "above"))
        stuck.append(_stuck(part))
        line = {"seeds": f"{len(both)}"}
        for method, of_method in zip(("ut", "ft"), values, strict=True):
            chosen = part[part.method == method]
            line[f"{method.upper()}, %"] = mean_interval(of_method).text(scale=100)
            line[f"{method.upper()} stuck"] = stuck_text(chosen)
        line["UT - FT, points"] = found[-1].interval.text(scale=100)
        line["neither stuck: UT - FT, points"] = _unstuck_text(part)
        lines.append(line)
    return _with_claim_4(_with_verdicts(pd.DataFrame(lines), found, keys, by), stuck)


def map_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a map over learning rates, named alike.

    Args:
        rows: tidy rows of a sweep over learning rate, momentum and network.

    Returns:
        Those of `frozen_cases`; a network without BatchNorm, whose name ends in "-plain", has the
        statistics "none" and the width without that ending.
    """
    found = frozen_cases(rows)
    plain = found.width.str.endswith("-plain")
    return found.assign(
        width=found.width.str.removesuffix("-plain"),
        statistics=found.statistics.mask(plain, "none"),
    )


def rank_table(
    matrices: Mapping[str, Matrix],
    rows: pd.DataFrame,
    published: Mapping[str, Sequence[Sequence[float]]],
) -> pd.DataFrame:
    """Spearman's rank correlations of distances over all ordered pairs of tasks.

    Args:
        matrices: kind -> our matrix; the fine-tuning distance is among them.
        rows: tidy rows with the accuracies of the transfers that measured the distances.
        published: kind -> (k, k) matrix of Gao & Chaudhari (2021), where there is one.

    Returns:
        One row per kind, correlations as texts with 95 % intervals clustered by task: with the
        published matrix; with our fine-tuning distance; with our accuracy after transfer; with
        accuracy, both less their target's mean, so that a hard target counts once; p of "accuracy
        falls as distance grows" by a permutation of tasks, alone and adjusted by Holm's method over
        the kinds; the verdict on that, the paper's claim 6; and the same correlation, p-values and
        verdict for the published distances with our accuracies. A kind that too few seeds measured
        has no adjusted p, and is not judged. Our Riemannian length is compared with the published
        fine-tuning distance, which is one too.

    Raises:
        ValueError: what `distances.accuracies` and `statistics.task_permutation` raise.
    """
    reached = {kind: _accuracy_matrix(rows, matrix) for kind, matrix in matrices.items()}
    few = {kind: _few_seeds(rows, kind) for kind in matrices}
    ours = {kind: task_permutation(m.mean, reached[kind]) for kind, m in matrices.items()}
    theirs = {
        kind: task_permutation(np.array(published[kind], dtype=float), reached[kind])
        for kind in matrices
        if kind in published
    }
    by_ours = _claim_6(ours, few)
    by_theirs = _claim_6(theirs, few)
    lines = {}
    for kind, matrix in matrices.items():
        within = task_permutation(
            _less_target_means(matrix.mean), _less_target_means(reached[kind])
        )
        p, says = by_ours[kind]
        their_p, they_say = by_theirs.get(kind, ("", ""))
        lines[kind] = {
            "with Gao & Chaudhari's": _with_published(matrix, published),
            "with our fine-tuning distance": _with_fine_tuning(matrix, matrices),
            "with accuracy": ours[kind].interval.text(2),
            "with accuracy, within a target": within.interval.text(2),
            "p of falling": _p_text(ours[kind].falls),
            "p of falling, Holm": p,
            "claim 6, our distances": says,
            "Gao & Chaudhari's with our accuracy": _association_text(theirs.get(kind)),
            "their p of falling": _p_text(theirs[kind].falls) if kind in theirs else "",
            "their p of falling, Holm": their_p,
            "claim 6, published distances": they_say,
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("distance")


def coupled_text(
    rows: pd.DataFrame, tasks: Sequence[str], published: Mapping[str, Sequence[Sequence[float]]]
) -> str:
    """Whether our coupled distance agrees with the published one, in two sentences.

    Args:
        rows: tidy rows of the runs that measured the coupled and the uncoupled distance.
        tasks: their names, in the order of the published matrices.
        published: kind -> (k, k) matrix of Gao & Chaudhari (2021), "coupled" among them.

    Returns:
        The sentences, on the seeds that measured both; empty if there are none.
    """
    both = _of_kind(rows, "coupled").seed.unique()
    shared = _of_kind(rows, "uncoupled").seed
    common = rows[rows.seed.isin(shared[shared.isin(both)])]
    if common.empty:
        return ""
    coupled, uncoupled = (distances.matrix(common, tasks, k) for k in ("coupled", "uncoupled"))
    found = task_permutation(coupled.mean, np.array(published["coupled"], dtype=float))
    none = untested(common.seed.nunique())
    shown = "shown" if not none and found.rises < SIGNIFICANT else "not shown"
    above = int((coupled.pairs > uncoupled.pairs).sum())
    return (
        f"Agreement of our coupled distance with Gao & Chaudhari's is {shown}: rank correlation "
        f"{found.interval.text(2)}, p of rising together {_p_text(found.rises)} (permutation of "
        f"tasks; {seed_count(common)}{', so no verdict' if none else ''}). A coupling should "
        f"shorten the path; ours is longer than the uncoupled one in {above} of "
        f"{len(coupled.pairs)} pairs."
    )


# --- helpers --------------------------------------------------------------------------------------


class _NonInferiority(NamedTuple):
    """What the shortcut test says about one method, see `keeps_out`.

    Args:
        flips: 90 % interval of its flips minus those from scratch.
        clean: 90 % interval of its clean accuracy minus fine-tuning's.
        yes: p of "both lie within their margins"; NaN where nothing can be tested.
        no: p of "one of them lies beyond its margin".
        flips_sd: standard deviation of the first difference over seeds; 0 from itself.
        clean_sd: that of the second.
        n: seeds.
    """

    flips: Interval
    clean: Interval
    yes: float
    no: float
    flips_sd: float
    clean_sd: float
    n: int


def _non_inferiorities(
    rows: pd.DataFrame, methods: Sequence[str], allowed: float, inferior: float
) -> list[_NonInferiority]:
    """Both tests of each method."""
    compared = rows[rows.metric.isin(["flip_rate", "clean_accuracy"])]  # few of many metrics
    return [_non_inferiority(compared, method, allowed, inferior) for method in methods]


def _non_inferiority(
    rows: pd.DataFrame, method: str, allowed: float, inferior: float
) -> _NonInferiority:
    flips = np.subtract(*_with_baseline(rows, "flip_rate", method, "scratch"))
    clean = np.subtract(*_with_baseline(rows, "clean_accuracy", method, "ft"))
    p_yes = []
    p_no = []
    if method != "scratch":
        p_yes.append(p_below(flips.tolist(), allowed))
        p_no.append(p_above(flips.tolist(), allowed))
    if method != "ft":
        p_yes.append(p_above(clean.tolist(), -inferior))
        p_no.append(p_below(clean.tolist(), -inferior))
    several = len(flips) > 1
    return _NonInferiority(
        mean_interval(flips.tolist(), 0.9),
        mean_interval(clean.tolist(), 0.9),
        yes=float(np.max(p_yes)),
        no=min(1.0, len(p_no) * float(np.nanmin([*p_no, 1.0]))),
        flips_sd=float(flips.std(ddof=1)) if several else 0.0,
        clean_sd=float(clean.std(ddof=1)) if several else 0.0,
        n=min(len(flips), len(clean)),
    )


def _spreads(test: _NonInferiority) -> np.ndarray:
    return np.array([test.flips_sd, test.clean_sd])


def _with_baseline(rows: pd.DataFrame, metric: str, method: str, baseline: str) -> Paired:
    """The values of a method and of its baseline; of itself where it is its own baseline."""
    if method != baseline:
        return paired(rows, metric, method, baseline)
    chosen = rows[(rows.metric == metric) & (rows.method == method) & (rows.epoch == FINAL)]
    return Paired(chosen.value.tolist(), chosen.value.tolist())


def _with_verdicts(
    table: pd.DataFrame, found: Sequence[Any], keys: Sequence[Any], by: Sequence[str]
) -> pd.DataFrame:
    """The table with its groups as index, and with the p-values and verdicts on its claims."""
    if table.empty:
        return table
    judged = verdicts(found)
    table.index = group_index([tuple(key) for key in keys], by)
    return table.assign(
        **{
            "p, Holm": [_p_text(one.p) for one in judged],
            "p of the opposite, Holm": [_p_text(one.opposite) for one in judged],
            "p, Wilcoxon, Holm": [_p_text(one.wilcoxon) for one in judged],
            "verdict": [one.says for one in judged],
        }
    )


class _Stuck(NamedTuple):
    """Whether FT is stuck more often than UT, before any other row of the table is looked at.

    Args:
        more: stuck runs of FT minus those of UT.
        p: of McNemar's exact test, two-sided; NaN where nothing can be tested.
        untested: the verdict there; else empty.
    """

    more: int
    p: float
    untested: str


def _stuck(rows: pd.DataFrame) -> _Stuck:
    """What the runs of FT and UT, paired by seed, say about claim 4."""
    ut, ft = (np.array(of) <= STUCK for of in paired(rows, "train_accuracy", "ut", "ft"))
    none = untested(len(ft))
    if not none and not (ft | ut).any():
        none = "undecided (no run is stuck)"
    only_ft = int((ft & ~ut).sum())
    only_ut = int((ut & ~ft).sum())
    # seeds where both runs are stuck, or neither is, do not count in McNemar's test
    p = np.nan if none else float(mcnemar([[0, only_ft], [only_ut, 0]], exact=True).pvalue)
    return _Stuck(only_ft - only_ut, p, none)


def _with_claim_4(table: pd.DataFrame, stuck: Sequence[_Stuck]) -> pd.DataFrame:
    """The table with the p and the verdict of claim 4."""
    if table.empty:
        return table
    says = []
    adjusted = holm([one.p for one in stuck])
    for one, p in zip(stuck, adjusted, strict=True):
        more, fewer = (p, 1.0) if one.more > 0 else (1.0, p)
        says.append(one.untested or decided(more, fewer))
    return table.assign(
        **{
            "stuck, FT against UT: p of McNemar's test, Holm": [_p_text(p) for p in adjusted],
            CLAIM_4: says,
        }
    )


def _heading(cases: Sequence[Case]) -> str:
    """Of the column of differences: the two methods, where all claims have the same."""
    methods = {(case.a, case.b) for case in cases}
    if len(methods) > 1:
        return "difference, points"
    ((a, b),) = methods
    return f"{a.upper()} - {b.upper()}, points"


def _unstuck_text(rows: pd.DataFrame) -> str:
    """UT minus FT in points, of the seeds where neither run is stuck, and how many they are."""
    training = rows[rows.metric == "train_accuracy"]
    stuck = set(training.seed[training.value <= STUCK])
    kept = rows[~rows.seed.isin(stuck)]
    text = points(kept, "val_accuracy", "ut", "ft")
    return f"{text} ({seed_count(kept)})" if text else ""


def _percent(share: float) -> str:
    """A chance in whole percent, as far as whole percents tell it from 0."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "less than 1 %"


def _p_text(p: float) -> str:
    return "" if np.isnan(p) else f"{p:.2g}"


def _of_kind(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows that hold one kind of distance."""
    record = distances.KINDS[kind]
    return rows[(rows.method == record.method) & (rows.metric == record.metric)]


def _few_seeds(rows: pd.DataFrame, kind: str) -> str:
    """The verdict where too few seeds measured one kind of distance; else empty."""
    own = rows[rows.method == distances.KINDS[kind].method]
    return untested(own.seed.nunique())


def _claim_6(
    found: Mapping[str, Association], few: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Kind -> p of "accuracy falls as distance grows" after Holm, and the verdict."""
    falls = holm([np.nan if few[kind] else one.falls for kind, one in found.items()])
    rises = holm([np.nan if few[kind] else one.rises for kind, one in found.items()])
    return {
        kind: (_p_text(p), few[kind] or decided(p, opposite))
        for kind, p, opposite in zip(found, falls, rises, strict=True)
    }


def _accuracy_matrix(rows: pd.DataFrame, matrix: Matrix) -> np.ndarray:
    """(k, k) accuracies after the transfers that measured the distances; NaN on the diagonal."""
    table = np.full(matrix.mean.shape, np.nan)
    method = distances.KINDS[matrix.kind].method
    table[matrix.off_diagonal] = distances.accuracies(rows, matrix.names, method)
    return table


def _less_target_means(values: np.ndarray) -> np.ndarray:
    """(k, k) values, each less the mean of its target over the other tasks."""
    table = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    return np.asarray(table - np.nanmean(table, axis=0))


def _association_text(found: Association | None) -> str:
    return "" if found is None else found.interval.text(2)


def _with_published(matrix: Matrix, published: Mapping[str, Sequence[Sequence[float]]]) -> str:
    # the published fine-tuning distance is a Riemannian length
    theirs = published.get({"riemannian": "fine-tuning"}.get(matrix.kind, matrix.kind))
    if theirs is None:
        return ""
    return task_permutation(matrix.mean, np.array(theirs, dtype=float)).interval.text(2)


def _with_fine_tuning(matrix: Matrix, matrices: Mapping[str, Matrix]) -> str:
    if matrix.kind == "fine-tuning":
        return ""
    return task_permutation(matrix.mean, matrices["fine-tuning"].mean).interval.text(2)


def _methods_in(table: pd.DataFrame, column: str) -> str:
    """The methods whose answer in a column is "yes", with the verb: "A and B keep"."""
    passed = [label(method) for method in table.index[table[column] == "yes"]]
    passed = [f'"{name}"' if "," in name else name for name in passed]
    verb = "keep" if len(passed) > 1 else "keeps"
    return f"{listed(passed) if passed else 'no method'} {verb}"
