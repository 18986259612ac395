"""Distances between tasks: how far a network must go to transfer, over all ordered pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist, squareform

from rtl_utils.experiments import FINAL, Run, run
from rtl_utils.provenance import warn_if_mixed
from rtl_utils.statistics import Interval, mean_interval
from rtl_utils.store import Store

_NORMAL = 1.96  # standard errors on either side of a mean that hold 95 % of a normal distribution


class Kind(NamedTuple):
    """One kind of distance.

    Args:
        method: whose training measures it.
        metric: under which `experiments` stores it.
        unit: of its values.
        title: its name in figures and on pages.
        equation: what is computed.
        reference: who defined it, and where it is computed here.
    """

    method: str
    metric: str
    unit: str
    title: str
    equation: str
    reference: str


KINDS = {
    "fine-tuning": Kind(
        "ft",
        "weight_length",
        "2-norm of weights",
        "fine-tuning distance",
        "∫ |dw|: the sum over steps of SGD of the 2-norm of the change of all trained weights",
        "the paper, section 4.2; `training.History.weight_length`",
    ),
    "riemannian": Kind(
        "ft",
        "riemannian_length",
        "√nats",
        "Riemannian length of fine-tuning",
        "Σ √(2 E_x KL): the sum over steps of SGD, E_x the mean over random target examples",
        "Gao & Chaudhari (2021); `lengths.PathLength`",
    ),
    "uncoupled": Kind(
        "ut",
        "information_length",
        "√nats",
        "uncoupled distance",
        "mean √KL: over partitions of the path and over random pairs of examples",
        "Gao & Chaudhari (2021), equation 7, independent coupling; `lengths.PairLength.mean`",
    ),
    "coupled": Kind(
        "ct-iterated",
        "coupled_distance",
        "√nats",
        "coupled distance",
        "⟨Γ, mean √KL⟩: over partitions of the path, and over pairs weighted by the coupling Γ",
        "Gao & Chaudhari (2021), equation 7; `coupled.Iteration.distance`",
    ),
}


@dataclass(frozen=True)
class Matrix:
    """Distances over ordered pairs of tasks: sources in rows, targets in columns, zero diagonal.

    With one seed the interval of a coupled distance is 1.96 standard errors over its blocks, that
    of an information length 1.96 standard errors over its pairs; a fine-tuning distance and a
    Riemannian length, one number per training, then have none (NaN).

    Args:
        kind: a name of KINDS.
        names: of the k tasks.
        mean: (k, k) means over seeds.
        low: (k, k) lower ends of their 95 % intervals.
        high: (k, k) upper ends.
    """

    kind: str
    names: tuple[str, ...]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def off_diagonal(self) -> np.ndarray:
        """(k, k) booleans: True where source and target differ."""
        return ~np.eye(len(self.names), dtype=bool)

    @property
    def pairs(self) -> np.ndarray:
        """(k (k - 1),) distances off the diagonal, row by row."""
        return np.asarray(self.mean[self.off_diagonal])


def distance_matrix(
    tasks: Sequence[str],
    kind: str,
    seeds: Sequence[int],
    *,
    store: Store,
    dataset: str = "cifar100",
    device: str = "cpu",
    **fields: Any,
) -> Matrix:
    """Distances between all ordered pairs of the tasks, trained where the store lacks them.

    Args:
        tasks: names of two or more tasks of the data set.
        kind: a name of KINDS.
        seeds: of the trainings; means are over them.
        store: where trained runs are looked for and kept.
        dataset: a name of `data.DATASETS`.
        device: where the others are trained.
        fields: other fields of `experiments.Run`, of which an information length and a
            Riemannian length need `partitions`.

    Raises:
        ValueError: for an unknown kind, fewer than two different tasks, and what `experiments.run`
            raises.
    """
    runs = pair_runs(tasks, kind, seeds, dataset, **fields)
    return matrix(run(runs, store, device), tasks, kind)


def pair_runs(
    tasks: Sequence[str],
    kind: str,
    seeds: Sequence[int],
    dataset: str = "cifar100",
    **fields: Any,
) -> list[Run]:
    """The runs that a matrix needs: every ordered pair of tasks, every seed.

    Args:
        tasks: names of two or more tasks of the data set.
        kind: a name of KINDS.
        seeds: of the trainings.
        dataset: a name of `data.DATASETS`.
        fields: other fields of `experiments.Run`.

    Raises:
        ValueError: for an unknown kind or fewer than two different tasks.
    """
    _check(tasks, kind)
    method = KINDS[kind].method
    return [
        Run(dataset, source, target, method, seed, **fields)
        for seed in seeds
        for source, target in permutations(tasks, 2)
    ]


def matrix(rows: pd.DataFrame, tasks: Sequence[str], kind: str) -> Matrix:
    """The matrix that tidy rows hold.

    Args:
        rows: of `experiments.run` or `tables.stored`; other methods and metrics are left out.
        tasks: names of two or more tasks, in the order of the matrix.
        kind: a name of KINDS.

    Raises:
        ValueError: for a pair without a value, an unknown kind or fewer than two different tasks.
    """
    warn_if_mixed(rows)
    _check(tasks, kind)
    size = len(tasks)
    mean = np.zeros((size, size))
    low = np.zeros((size, size))
    high = np.zeros((size, size))
    final = rows[(rows.epoch == FINAL) & (rows.method == KINDS[kind].method)]
    for i, j in permutations(range(size), 2):
        part = final[(final.source == tasks[i]) & (final.target == tasks[j])]
        if not (part.metric == KINDS[kind].metric).any():
            raise ValueError(
                f"there is no {kind} distance from {tasks[i]!r} to {tasks[j]!r} among the rows"
            )
        interval = _interval(part, KINDS[kind].metric)
        mean[i, j] = interval.mean
        low[i, j] = interval.low
        high[i, j] = interval.high
    return Matrix(kind, tuple(tasks), mean, low, high)


def matrices(rows: pd.DataFrame, tasks: Sequence[str]) -> dict[str, Matrix]:
    """The matrix of each kind of distance that has rows.

    Args:
        rows: see `matrix`.
        tasks: see `matrix`.

    Raises:
        ValueError: what `matrix` raises, for a kind that has rows.
    """
    metrics = set(rows.metric) if len(rows) else set()
    methods = set(rows.method) if len(rows) else set()
    return {
        kind: matrix(rows, tasks, kind)
        for kind, record in KINDS.items()
        if record.metric in metrics and record.method in methods
    }


def embedding(distances: Matrix) -> np.ndarray:
    """(k, 2) places of the tasks in a plane whose distances stand for those of the matrix.

    The matrix is made symmetric first, as the mean of both directions.

    Source: classical scaling, Torgerson (1952).
    """
    from sklearn.manifold import ClassicalMDS  # takes a second

    scaling = ClassicalMDS(n_components=2, metric="precomputed")
    return np.asarray(scaling.fit_transform(_symmetric(distances)))


def embedding_error(distances: Matrix) -> float:
    """How far the places of `embedding` are from the distances: 0 where a plane holds them all.

    error = sqrt(sum (drawn - measured)^2 / sum measured^2), over pairs of tasks; it is Kruskal's
    stress with the measured distances below the fraction.
    """
    measured = squareform(_symmetric(distances), checks=False)
    drawn = pdist(embedding(distances))
    return float(np.sqrt(((drawn - measured) ** 2).sum() / (measured**2).sum()))


def _symmetric(distances: Matrix) -> np.ndarray:
    """(k, k) means of both directions."""
    return np.asarray((distances.mean + distances.mean.T) / 2)


def accuracies(
    rows: pd.DataFrame, tasks: Sequence[str], method: str, metric: str = "val_accuracy"
) -> np.ndarray:
    """(k (k - 1),) mean final accuracies after transfer, in the order of `Matrix.pairs`.

    Args:
        rows: tidy rows.
        tasks: names, in the order of the matrix.
        method: of the transfers.
        metric: that is averaged over seeds.

    Raises:
        ValueError: for a pair without a value.
    """
    warn_if_mixed(rows)
    final = rows[(rows.epoch == FINAL) & (rows.method == method) & (rows.metric == metric)]
    means = final.groupby(["source", "target"]).value.mean().to_dict()
    missing = [pair for pair in permutations(tasks, 2) if pair not in means]
    if missing:
        source, target = missing[0]
        raise ValueError(
            f"there is no {metric} of {method!r} from {source!r} to {target!r} among the rows"
        )
    return np.array([means[pair] for pair in permutations(tasks, 2)])


def _interval(rows: pd.DataFrame, metric: str) -> Interval:
    """Mean of a metric over seeds; the interval of a single one is that of its standard error."""
    values = rows.value[rows.metric == metric].tolist()
    interval = mean_interval(values)
    errors = rows.value[rows.metric == f"{metric}_error"].tolist()
    if len(values) > 1 or not errors:
        return interval
    half = _NORMAL * errors[0]
    return Interval(interval.mean, interval.mean - half, interval.mean + half, 1)


def _check(tasks: Sequence[str], kind: str) -> None:
    """Raises ValueError for an unknown kind or fewer than two different tasks."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if len(tasks) < 2 or len(set(tasks)) != len(tasks):
        raise ValueError(f"a distance matrix needs two different tasks or more; got {list(tasks)}")
