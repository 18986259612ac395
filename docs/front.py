"""What the README says of the results: the answer in short, the claims, and who passes."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from passing import PASSING_SWEEPS, passes, picture_of
from sections import DIFFERENCE, MARGINS, PAIRS_SWEEP, answers_of, digits_settings
from wording import ON_IMAGES, capitalised, origins, paragraphs, transfers, uncapitalised

from rtl_utils import claims, statistics, tables
from rtl_utils.data import DATASETS
from rtl_utils.statistics import FEWEST, Evidence
from rtl_utils.tables import listed, seed_count

HEADLINE = ("scratch", "ft", "ut", "ct", "iso", "counter")  # methods in the table


def headline(answers: dict[str, pd.DataFrame]) -> str:
    """What came out: the paper's claims on its images and on the digits, and who passes.

    Args:
        answers: of the project's own methods, see `passing.answer_tables`.
    """
    parts = [*claims_parts("cifar100"), *claims_parts("digits"), *methods_parts()]
    parts += passing_parts(answers)
    first = """[The paper, item by item](docs/results.md#the-paper-item-by-item) says for each
        table, figure and claim where it is reproduced, on which data, with how many seeds, and what
        came out. Here are claims 1 and 3, and the course's own question."""
    return paragraphs(in_short(), first, *parts) if parts else "No rows yet."


def in_short() -> str:
    """The answer to the course's question, as far as the intervals and the tests go."""
    said = [text for dataset in ON_IMAGES if (text := in_short_on(dataset))]
    if not said:
        return ""
    return f"""**In short.** The backbone has the ball, the target images are clean, and the ball
        appears at test time only. Inherited flips are those of a transfer from this backbone minus
        those from a clean one; a setting is a pair of tasks, a number of images and of epochs.
        Settings are counted, not pooled: they share targets and backbones. {" ".join(said)} Only
        the comparison of the two methods was declared before the runs, and on CIFAR-100 alone."""


def in_short_on(dataset: str) -> str:
    """The answer on one data set."""
    rows = tables.course(dataset)
    if rows.empty or (verdicts := notebook_verdicts(rows)).empty:
        return ""
    inherited = {method: inherited_flips(transfers(rows), method) for method in ("ft", "ut")}
    if not all(inherited.values()):
        return ""
    p = statistics.holm([one.p for found in inherited.values() for one in found])
    shown = iter(p < statistics.SIGNIFICANT)
    counts = [
        f"{tables.label(method)} in {sum(next(shown) for _ in found)} of {len(found)}"
        for method, found in inherited.items()
    ]
    less = verdicts.verdict[verdicts.index.str.startswith("UT flips less than FT")]
    count = less.str.startswith("undecided").sum()
    undecided = f"; {count} are undecided" if count else ""
    return f"""{capitalised(DATASETS[dataset].title)}: inherited flips are shown (paired t tests,
        Holm's adjustment over all of these) for {listed(counts)} settings. That uncoupled transfer
        flips less than fine-tuning is shown in {(less == "reproduced").sum()} of {len(less)}
        settings, that it flips more in {(less == "not reproduced").sum()}{undecided}."""


def inherited_flips(rows: pd.DataFrame, method: str) -> list[Evidence]:
    """Flips of a method from the biased backbone minus those from a clean one, in each setting.

    Returns:
        What the differences, paired by seed, say about "above zero", setting by setting.
    """
    flips = tables.clean_target(rows[(rows.method == method) & (rows.metric == "flip_rate")])
    found = []
    for _, pair in flips.groupby(list(tables.PAIR), sort=False):
        for part in tables.by_images(pair).values():
            source = part.source_shortcut.notna().map({True: "biased", False: "clean"})
            if source.nunique() == 2:
                both = part.assign(_source=source)
                values = tables.paired(both, "flip_rate", "biased", "clean", "_source")
                found.append(statistics.evidence(np.subtract(*values).tolist(), "above"))
    return found


def claims_parts(dataset: str) -> list[str]:
    """The verdicts on one data set, with where their rows come from."""
    rows = tables.course(dataset)
    table = notebook_verdicts(rows) if len(rows) else pd.DataFrame()
    if table.empty:
        return []
    title = DATASETS[dataset].title
    return [
        f"""**{capitalised(title)}.** The paper's claims 1 and 3 about uncoupled transfer (UT) and
        fine-tuning (FT), and the course's own question. {DIFFERENCE} If the first p lies below
        0.05, the claim is reproduced; if the second does, the opposite is shown: "not reproduced".
        Both are adjusted over the lines of claim 1, over those of claim 3, and over all lines on
        flips together. A verdict needs {FEWEST} seeds.""",
        tables.markdown(table),
        *origins(dataset),
    ]


def methods_parts() -> list[str]:
    """The shortcut test of all methods on the digits, and who passes."""
    rows = tables.stored("digits-methods")
    if rows.empty:
        return []
    settings = digits_settings()
    passing = [
        f"{capitalised(tables.images_text(size))} ({len(claims.judged(part))} methods): "
        f"{uncapitalised(claims.passing(answers_of(part)))}"
        for size, part in settings.items()
    ]
    return [
        """**Which method keeps the shortcut out?** The backbone has the ball on one class, the
        target images are clean, and the ball appears at test time. Cluttered digits: accuracy
        without the ball, and share of predictions that the ball flips; means with 95 % intervals.
        Where a setting was trained in two sweeps, the one with more seeds is quoted.""",
        tables.markdown(headline_table(settings)),
        f"""{MARGINS} The p-values are adjusted by Holm's method over the methods.
        {" ".join(passing)} [All results](docs/results.md) say how likely these tests are to find a
        method that truly passes.""",
        *orders_parts(settings),
        tables.origin("digits-methods", rows),
    ]


def passing_parts(answers: dict[str, pd.DataFrame]) -> list[str]:
    """The project's own methods: in how many settings each passes, and a picture.

    Args:
        answers: of the project's own methods, see `passing.answer_tables`.
    """
    if not answers:
        return []
    return [
        """**A transfer that passes?** The project's own methods, which do not know the shortcut, by
        the same test. A refit first takes away what the target's images do not excite; windows and
        bands are adversarial patches on copies of training images; rescaled filters are a control,
        whose steps are larger. [The account](docs/method.md) says what they do, and has every
        answer.""",
        *[f"{device}: {uncapitalised(passes(table))}" for device, table in answers.items()],
        untraced_text(),
        *[
            f"![The answer for each method in each setting, {uncapitalised(device)}]"
            f"(docs/{picture_of(device)}.png)"
            for device in answers
        ],
    ]


def untraced_text() -> str:
    """Which of these rows name a commit that did not make them."""
    stored = {name: tables.stored(name) for name in PASSING_SWEEPS}
    names = [name for name, rows in stored.items() if len(rows) and tables.untraced(rows)]
    if not names:
        return ""
    each = listed(f"`results/{name}/`" for name in names)
    return f"""The rows of {each} were trained from a copy of the code with uncommitted changes, so
        they cannot be traced to a commit; their section says what the code was."""


def headline_table(settings: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The methods of the README with their clean accuracies and flips, and their seeds."""
    columns = {}
    seeds = pd.DataFrame(index=list(HEADLINE))
    for size, part in settings.items():
        table = tables.summary(part, tables.SHORTCUT_TEST, by=["method"]).reindex(list(HEADLINE))
        for metric, name in (("clean_accuracy", "accuracy, %"), ("flip_rate", "flips, %")):
            heading = tables.SHORTCUT_TEST[metric].heading
            columns[f"{tables.images_text(size)}: {name}"] = table[heading]
        count = part.groupby("method").seed.nunique().reindex(list(HEADLINE))
        seeds[size] = count.map(lambda n: "–" if pd.isna(n) else f"{n:.0f}")
    columns["seeds of each"] = seeds.agg(" / ".join, axis=1)
    return pd.DataFrame(columns).fillna("").rename_axis("method").rename(index=tables.label)


def notebook_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on the runs of one data set."""
    return claims.verdict_table(claims.course_cases(transfers(rows)))


def orders_parts(digits: dict[str, pd.DataFrame]) -> list[str]:
    """What points the same way on CIFAR-100 as on the digits, and what does not."""
    rows = [tables.stored(name) for name in (PAIRS_SWEEP, "cifar-methods")]
    rows = [part for part in rows if len(part)]
    if not rows:
        return []
    setting = ["source", "target", "method", "seed", "source_shortcut", "target_shortcut"]
    setting += ["n_train", "epochs", "metric"]
    both = with_shortcut(pd.concat(rows, ignore_index=True).drop_duplicates(setting))
    course = transfers(with_shortcut(tables.course("cifar100")))
    # the sweeps of all methods have fewer seeds, and are asked for the last order alone
    cifar = orderings(shortcut_settings(both)) | orderings(shortcut_settings(course))
    orders = {"digits": orderings(digits.values()), "CIFAR-100": cifar}
    table = pd.DataFrame(orders).rename_axis("by the means")
    return [
        f"""Number of settings (pair of tasks, images per class, epochs) in which the means are
        ordered so. On the digits the settings are those of the table above; on CIFAR-100 the last
        order is of {seed_count(both)} per pair, the others of
        {seed_count(tables.shortcut_at_test(course))}. A setting counts if its biased backbone puts
        at least {100 * tables.LEARNED:.0f} % of the marked images of its own task into the
        shortcut's class. A method does not train if more than half of its runs are stuck.""",
        tables.markdown(table),
    ]


def with_shortcut(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the rows of sources whose biased backbones have not learned the shortcut."""
    shares = tables.shortcut_shares(rows)
    return rows[~rows.source.isin(shares.index[shares < tables.LEARNED])]


def shortcut_settings(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of the shortcut test, apart for each pair of tasks and number of images."""
    pairs = tables.shortcut_at_test(rows).groupby(["source", "target"], sort=False)
    return [part for _, pair in pairs for part in tables.by_images(pair).values()]


def orderings(settings: Iterable[pd.DataFrame]) -> dict[str, str]:
    """Orders of the methods' means -> in how many of the settings they hold."""
    held: dict[str, list[bool]] = {}
    for part in settings:
        means = part[part.metric.isin(["flip_rate", "clean_accuracy"])]
        means = means.groupby(["metric", "method"]).value.mean()
        flips, clean = means["flip_rate"], means["clean_accuracy"]
        trained = [method for method in claims.judged(part) if method != "scratch"]
        stuck = (part.value <= tables.STUCK)[part.metric == "train_accuracy"]
        stuck = stuck.groupby(part.method).mean()
        trained = [method for method in trained if stuck.get(method, 0.0) <= 0.5]
        orders = {
            "UT flips more than FT": flips["ut"] > flips["ft"],
            "FT flips more than training from scratch": flips["ft"] > flips["scratch"],
            "FT is more accurate than training from scratch": clean["ft"] > clean["scratch"],
            "FT is more accurate than UT": clean["ft"] > clean["ut"],
        }
        if "counter" in flips:
            least = flips[trained].idxmin() == "counter"
            orders["of all transfers that train, counter-examples flip least"] = least
        for order, holds in orders.items():
            held.setdefault(order, []).append(bool(holds))
    return {order: f"{sum(holds)} of {len(holds)}" for order, holds in held.items()}
