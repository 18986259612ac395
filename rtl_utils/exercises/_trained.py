"""What trained runs measured, for exercises that are experiments."""

from collections.abc import Sequence

import pandas as pd

from rtl_utils.data import load
from rtl_utils.runs import Run
from rtl_utils.settings import Settings
from rtl_utils.store import FINAL


def final(settings: Settings, runs: Sequence[Run]) -> pd.DataFrame:
    """(runs, metrics) values after training, in the order of the runs.

    A student's cell has trained them, so they come from the store; what it has not trained is
    trained here.
    """
    rows = settings.run(runs)
    last = rows[rows.epoch == FINAL]
    table = last.pivot_table("value", index="run", columns="metric", sort=False)
    return table.loc[[run.key for run in runs]].reset_index(drop=True)


def shown(settings: Settings, runs: Sequence[Run]) -> list[Run]:
    """Those of the runs that lead from the source to the target of the notebook's figures."""
    return [run for run in runs if (run.source, run.target) == settings.shown_pair]


def share_step(examples: int, seeds: int = 1) -> float:
    """A quarter of the step in which a mean over seeds of a share of examples changes.

    Two such means that are nearer to each other are the same count of examples; rounding to four
    decimals keeps an answer as near on a thousand examples.
    """
    return 0.25 / (examples * seeds)


def target_step(settings: Settings, seeds: int = 1) -> float:
    """`share_step` of accuracies on the validation images of the target that the figures show."""
    target = load(settings.dataset, settings.shown_pair[1], settings.seeds[0])
    return share_step(len(target.y_val), seeds)


def beyond_scratch(
    settings: Settings, flips: pd.DataFrame, scratch: pd.Series | pd.DataFrame
) -> tuple[list[float], dict[str, list[float]]]:
    """Flip rates beyond those of training from scratch, and what is often taken for them.

    Args:
        settings: of the notebook.
        flips: (seeds, answers) of the method.
        scratch: (seeds,) of training from scratch, or (seeds, answers) with one for each answer.

    Returns:
        One mean difference per answer, and sentence of a mistake -> its answers.
    """
    more = flips.sub(scratch, axis=0)
    right = more.mean().tolist()
    return right, {
        "the sign is reversed: subtract training from scratch": [-d for d in right],
        "these are points; give fractions, 0.1 for 10 points": [100 * d for d in right],
        "these are flip rates; subtract those of training from scratch": flips.mean().tolist(),
        f"this is seed {settings.seeds[0]} alone; take the mean over all your seeds": (
            more.iloc[0].tolist()
        ),
    }
