"""Distances between tasks, over all ordered pairs of them: how far a network must go from one to the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.manifold import ClassicalMDS

from rtl_utils.experiments import Run, run
from rtl_utils.results import FINAL, Store
from rtl_utils.statistics import mean_interval, rank_correlation, verdict


class Kind(NamedTuple):
    """A distance: the method whose training measures it, the metric that `experiments` stores, its unit and its name in figures."""

    method: str
    metric: str
    unit: str
    title: str


# Equations and references: `History.length` (the paper, section 4.2), `lengths.PairLength` (Gao & Chaudhari 2021), `coupled.Iteration`.
KINDS = {
    "fine-tuning": Kind("ft", "weight_length", "2-norm of weights", "fine-tuning distance, ∫|dw|"),
    "riemannian": Kind("ft", "riemannian_length", "nats$^{1/2}$", "Riemannian length of fine-tuning, Σ√(2 KL)"),
    "uncoupled": Kind("ut", "information_length", "nats$^{1/2}$", "uncoupled distance, mean √KL"),
    "coupled": Kind("ct-iterated", "coupled_distance", "nats$^{1/2}$", "coupled distance, mean √KL"),
}


@dataclass(frozen=True)
class Matrix:
    """Distances over ordered pairs of tasks: sources down, targets across, zero diagonal.

    names: the tasks, k of them; mean, low, high: (k, k) means over seeds with 95 % intervals. With one seed the interval of a coupled distance
    is 1.96 standard errors over its blocks, of an information length over its pairs; a fine-tuning distance then has none (NaN).
    """

    kind: str
    names: tuple[str, ...]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def pairs(self) -> np.ndarray:
        """(k (k - 1),) distances off the diagonal, row by row."""
        return self.mean[~np.eye(len(self.names), dtype=bool)]


def distance_matrix(tasks: Sequence[str], kind: str, seeds: Sequence[int], *, store: Store, dataset: str = "cifar100", **fields) -> Matrix:
    """Distances between all ordered pairs of the tasks, trained where the store lacks them.

    kind: a name of KINDS; fields: other fields of `experiments.Run`, of which an information length needs `partitions`.
    Raises ValueError for an unknown kind or fewer than two different tasks, and what `experiments.run` raises.
    """
    return matrix(run(pair_runs(tasks, kind, seeds, dataset, **fields), store), tasks, kind)


def pair_runs(tasks: Sequence[str], kind: str, seeds: Sequence[int], dataset: str = "cifar100", **fields) -> list[Run]:
    """The runs that a matrix needs: every ordered pair, every seed. Raises ValueError as `distance_matrix`."""
    _check(tasks, kind)
    return [Run(dataset, source, target, KINDS[kind].method, seed, **fields) for seed in seeds for source, target in permutations(tasks, 2)]


def matrix(rows: pd.DataFrame, tasks: Sequence[str], kind: str) -> Matrix:
    """The matrix that tidy rows hold. Raises ValueError for a pair without a value, and as `distance_matrix`."""
    _check(tasks, kind)
    final = rows[(rows.epoch == FINAL) & (rows.method == KINDS[kind].method)]
    size = len(tasks)
    mean, low, high = np.zeros((3, size, size))
    for i, j in permutations(range(size), 2):
        part = final[(final.source == tasks[i]) & (final.target == tasks[j])]
        values = part.value[part.metric == KINDS[kind].metric]
        if values.empty:
            raise ValueError(f"there is no {kind} distance from {tasks[i]!r} to {tasks[j]!r} among the rows")
        interval, error = mean_interval(values), part.value[part.metric == f"{KINDS[kind].metric}_error"]
        mean[i, j], low[i, j], high[i, j] = interval.mean, interval.low, interval.high
        if len(values) == 1:
            half = 1.96 * (error.iloc[0] if len(error) else np.nan)
            low[i, j], high[i, j] = interval.mean - half, interval.mean + half
    return Matrix(kind, tuple(tasks), mean, low, high)


def embedding(distances: Matrix) -> np.ndarray:
    """(k, 2) places of the tasks in a plane, by classical scaling (Torgerson 1952) of the distances, made symmetric by their mean."""
    return ClassicalMDS(n_components=2, metric="precomputed").fit_transform((distances.mean + distances.mean.T) / 2)


def accuracies(rows: pd.DataFrame, tasks: Sequence[str], method: str, metric: str = "val_accuracy") -> np.ndarray:
    """(k (k - 1),) mean final accuracies after transfer, in the order of `Matrix.pairs`."""
    final = rows[(rows.epoch == FINAL) & (rows.method == method) & (rows.metric == metric)]
    means: Mapping = final.groupby(["source", "target"]).value.mean()
    return np.array([means[pair] for pair in permutations(tasks, 2)])


def rank_table(matrices: Mapping[str, Matrix], rows: pd.DataFrame, published: Mapping[str, Sequence[Sequence[float]]]) -> pd.DataFrame:
    """Spearman's rank correlations of distances over all ordered pairs, with 95 % bootstrap intervals as texts: a row a kind.

    Columns: with the published matrices (kind -> (k, k)), with our fine-tuning distance, with accuracy after the transfer that measured the
    distance (tidy rows), the same with both less their target's mean, so that a hard target counts once, and the verdict on the paper's
    claim 6, that accuracy falls as distance grows. Raises what `accuracies` and `statistics.rank_correlation` raise.
    """
    lines = {}
    for kind, m in matrices.items():
        off, reached = ~np.eye(len(m.names), dtype=bool), accuracies(rows, m.names, KINDS[kind].method)
        falls = rank_correlation(m.pairs, reached)
        lines[kind] = {
            "with Gao & Chaudhari's": rank_correlation(m.pairs, np.asarray(published[kind])[off]).text(2) if kind in published else "",
            "with our fine-tuning distance": "" if kind == "fine-tuning" else rank_correlation(m.pairs, matrices["fine-tuning"].pairs).text(2),
            "with accuracy": falls.text(2),
            "with accuracy, within a target": rank_correlation(_within_targets(m.pairs, off), _within_targets(reached, off)).text(2),
            "claim 6": verdict(falls, "below"),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("distance")


def _within_targets(values: np.ndarray, off: np.ndarray) -> np.ndarray:
    table = np.full(off.shape, np.nan)
    table[off] = values
    return (table - np.nanmean(table, axis=0))[off]


def _check(tasks: Sequence[str], kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if len(tasks) < 2 or len(set(tasks)) != len(tasks):
        raise ValueError(f"a distance matrix needs two different tasks or more; got {list(tasks)}")
