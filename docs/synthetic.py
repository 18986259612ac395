"""The section on the synthetic experiment, from the rows in results/."""

import pandas as pd
from wording import capitalised, of_sweep, paragraphs

from rtl_utils import claims, paper, statistics, tables
from rtl_utils.runs import BACKBONE
from rtl_utils.store import FINAL

SYNTHETIC_SWEEP = "synthetic"
SYNTHETIC_TITLE = "The synthetic experiment: figures 2a to 2c and claim 5"


@of_sweep
def synthetic_section(name: str, stored: pd.DataFrame) -> str:
    """Figure 2a and claim 5: the target models without and with the lasso."""
    rows = tables.in_order(stored)
    loss = statistics.mean_interval(final(rows[rows.method == BACKBONE], "val_loss")).text(3)
    parts = [
        f"## {SYNTHETIC_TITLE}",
        tables.origin(name, rows),
        f"""50 features; 0 to 19 are spurious for the target, whose first 20 columns are permuted.
        Figure 2a gives the trained models the original columns back. Losses are squared errors in
        variances of the response. The backbone's validation loss is {loss} here and
        {paper.SYNTHETIC[BACKBONE]} in the paper. The rise is the restored loss minus the permuted
        one; claim 5 is that it is not larger for a transfer than for training from scratch, and it
        is tested as in notebook 01: does the rise lie below that of scratch? That is stricter:
        equal rises would almost always be undecided. A few runs with a huge loss dominate the mean
        of the rise, the comparison that was declared; so a second measure is the logarithm of the
        ratio of both losses. The p-values are adjusted over both tables, as all of their lines ask
        the same. Thick lines are medians.""",
        "![Losses on the three views](synthetic.png)",
    ]
    models = {l1: tables.with_rise(part) for l1, part in target_models(rows).items()}
    judged = claims.rise_tables({lasso_text(l1): part for l1, part in models.items()})
    for l1, rises in models.items():
        table = tables.summary(rises, tables.VIEWS | tables.RISE, by=["method"])
        table["median rise"] = [
            f"{part.value.median():.2f}"
            for _, part in rises[rises.metric == "rise"].groupby("method", sort=False)
        ]
        table["paper: permuted"] = [f"{paper.SYNTHETIC[m]:.3f}" for m in table.index]
        parts += [
            f"### {capitalised(lasso_text(l1))} ({tables.seeds_text(rises)})",
            tables.markdown(table.rename(index=tables.label)),
            tables.markdown(judged[lasso_text(l1)]),
        ]
    return paragraphs(*parts, *lime_parts(rows))


def lime_parts(rows: pd.DataFrame) -> list[str]:
    """Figures 2b and 2c: LIME weights of the backbone and of target models without the lasso."""
    plain, *_ = target_models(rows).values()
    models = pd.concat([rows[rows.method == BACKBONE], plain])
    table = tables.summary(models, tables.LIME, by=["method"]).rename(index=tables.label)
    return [
        f"""### LIME, as in the paper's figures 2b and 2c ({tables.seeds_text(models)})""",
        """Mean |LIME weight| over 20 validation points per seed, in outputs per standard deviation
        of a feature; the backbone is explained on its own task. The paper finds large weights of
        the spurious features for the backbone (2c), small ones for the target models, and mostly
        smaller ones for UT than for FT (2b). By LIME too it finds transfers hurt no more than
        training from scratch (claim 5); these two comparisons were added when the others were
        known, and are adjusted apart.""",
        tables.markdown(table),
        tables.markdown(claims.lime_table(models)),
    ]


def target_models(rows: pd.DataFrame) -> dict[float, pd.DataFrame]:
    """Lasso penalty of the target models -> their rows."""
    models = rows[rows.method != BACKBONE]
    return dict(iter(models.groupby(models.l1.fillna(0.0))))


def lasso_text(l1: float) -> str:
    """What the target models were trained with."""
    return f"with a lasso of {l1:g} on the first layer" if l1 else "without the lasso"


def final(rows: pd.DataFrame, metric: str) -> list[float]:
    """The values of a metric after training."""
    return rows.value[(rows.metric == metric) & (rows.epoch == FINAL)].tolist()
