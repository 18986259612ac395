"""Claim 6: rank correlations of distances and accuracies."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rtl_utils import distances
from rtl_utils.claims.verdicts import p_text
from rtl_utils.distances import Matrix
from rtl_utils.statistics import SIGNIFICANT, Association, decided, holm, task_permutation, untested
from rtl_utils.tables import seed_count


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
        published matrix, and p of rising with it by a permutation of tasks; with our fine-tuning
        distance; with our accuracy after transfer; with
        accuracy, both less their target's mean, so that a hard target counts once; p of "accuracy
        falls as distance grows" by a permutation of tasks, alone and adjusted by Holm's method over
        the kinds; the verdict on that, the paper's claim 6; and the same correlation, p-values and
        verdict for the published distances with our accuracies. A kind that too few seeds
        measured has no adjusted p, and is not judged. Our Riemannian length is compared with
        the published fine-tuning distance, which is one too.

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
        agreeing = _with_published(matrix, published)
        lines[kind] = {
            "with Gao & Chaudhari's": _association_text(agreeing),
            "p of rising with theirs": "" if agreeing is None else p_text(agreeing.rises),
            "with our fine-tuning distance": _with_fine_tuning(matrix, matrices),
            "with accuracy": ours[kind].interval.text(2),
            "with accuracy, within a target": within.interval.text(2),
            "p of falling": p_text(ours[kind].falls),
            "p of falling, Holm": p,
            "claim 6, our distances": says,
            "Gao & Chaudhari's with our accuracy": _association_text(theirs.get(kind)),
            "their p of falling": p_text(theirs[kind].falls) if kind in theirs else "",
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
        f"{found.interval.text(2)}, p of rising together {p_text(found.rises)} (permutation of "
        f"tasks; {seed_count(common)}{', so no verdict' if none else ''}). A coupling should "
        f"shorten the path; ours is longer than the uncoupled one in {above} of "
        f"{len(coupled.pairs)} pairs."
    )


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
        kind: (p_text(p), few[kind] or decided(p, opposite))
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


def _with_published(
    matrix: Matrix, published: Mapping[str, Sequence[Sequence[float]]]
) -> Association | None:
    # the published fine-tuning distance is a Riemannian length
    theirs = published.get({"riemannian": "fine-tuning"}.get(matrix.kind, matrix.kind))
    return None if theirs is None else task_permutation(matrix.mean, np.array(theirs, dtype=float))


def _with_fine_tuning(matrix: Matrix, matrices: Mapping[str, Matrix]) -> str:
    if matrix.kind == "fine-tuning":
        return ""
    return task_permutation(matrix.mean, matrices["fine-tuning"].mean).interval.text(2)
