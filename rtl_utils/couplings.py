"""Couplings of two tasks: joint distributions of source and target examples, uniform in each.

Optimal transport is solved by POT (Flamary et al. 2021); what the project adds is the
block-diagonal form of Gao & Chaudhari (2021).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from rtl_utils.randomness import generator

VERSION = 1  # raised when a coupling changes, so that stored runs are not mistaken for new ones
_SOLVED = 1e-10  # error of a marginal at which Sinkhorn's iteration stops
_ITERATIONS = 1_000  # after which it stops in any case
_EXACT = 1e-16  # change of the objective, relative, at which a quadratic step stops
_STEPS = 10_000  # after which it stops in any case
_FOUND = 1e-3  # part of the mass that it may misplace
_UNIFORM = 1e-9  # largest error of a marginal that is accepted
_LEAST = 1e-30  # mass of a pair, as a part of an even share, below which none falls


@dataclass(frozen=True)
class Coupling:
    """A coupling as a sparse matrix.

    Args:
        matrix: (n_s, n_t) masses Gamma_ij that sum to 1, rows to 1 / n_s each, columns to 1 / n_t.

    Raises:
        ValueError: for a negative mass or a marginal that is not uniform to 1e-9.
    """

    matrix: csc_array

    def __post_init__(self) -> None:
        matrix = csc_array(self.matrix)
        object.__setattr__(self, "matrix", matrix)
        errors = [np.abs(matrix.sum(1 - axis) - 1 / n).max() for axis, n in enumerate(matrix.shape)]
        error = max(errors)
        if matrix.data.min(initial=0) < 0 or not error <= _UNIFORM:
            raise ValueError(
                f"a coupling needs masses of 0 or more and uniform marginals to {_UNIFORM:g}; "
                f"they are off by {error:.3g}"
            )

    def partners(self, target: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Source partners of target examples, drawn by inverting the distribution Gamma(i | j).

        Args:
            target: (n,) target indices.
            uniform: (n,) numbers in [0, 1).

        Returns:
            (n,) source indices.
        """
        found = np.searchsorted(self._edges, target + uniform, side="right")
        last = self.matrix.indptr[target + 1] - 1
        partners: np.ndarray = self.matrix.indices[np.minimum(found, last)]
        return partners  # the sum target + uniform may round up into the next column: hence `last`

    @cached_property
    def _edges(self) -> np.ndarray:
        """Upper ends of the intervals that the pairs occupy, for one search through all columns.

        The pairs of column j share the interval (j, j + 1] in the order of the matrix, each as
        long as its share of the column's mass.
        """
        starts = self.matrix.indptr
        n_columns = self.matrix.shape[1]
        column = np.repeat(np.arange(n_columns), np.diff(starts))  # of each pair
        total = np.cumsum(self.matrix.data * n_columns)  # over all pairs up to and with this one
        before_column = np.concatenate([[0], total])[starts[column]]
        edges: np.ndarray = np.minimum(column + total - before_column, column + 1)
        # whatever the sums' rounding, a column ends where the next begins
        edges[starts[1:] - 1] = np.arange(1, n_columns + 1)
        return edges


class Block(NamedTuple):
    """A block of a block-diagonal coupling.

    Args:
        source: (a,) source indices.
        target: (b,) target indices.
        mass: (a, b) masses.
    """

    source: np.ndarray
    target: np.ndarray
    mass: np.ndarray

    @property
    def marginals(self) -> tuple[np.ndarray, np.ndarray]:
        """(a,) and (b,) masses of the block's examples; they hold whatever its inside."""
        return self.mass.sum(1), self.mass.sum(0)


def independent(target: np.ndarray, uniform: np.ndarray, n_source: int) -> np.ndarray:
    """Source partners of the product coupling Gamma_ij = 1 / (n_s n_t).

    Args:
        target: (n,) target indices.
        uniform: (n,) numbers in [0, 1), inverted through the distribution of i given j.
        n_source: number of source examples.

    Returns:
        (n,) source indices.
    """
    return np.minimum((uniform * n_source).astype(np.int64), n_source - 1)


def cosine_cost(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n_s, n_t) costs 1 - cos(f_i, f_j) of (n_s, d) and (n_t, d) features.

    Raises:
        ValueError: if d differs.
    """
    if source.shape[1] != target.shape[1]:
        widths = f"{source.shape[1]} and {target.shape[1]}"
        raise ValueError(f"features must have one width; got {widths}")
    unit_source, unit_target = _unit(source), _unit(target)
    return np.asarray(1 - unit_source @ unit_target.T)


def transport(cost: np.ndarray) -> Coupling:
    """The coupling of uniform marginals that minimises <Gamma, cost>, exactly; cost: (n_s, n_t)."""
    n_source, n_target = cost.shape
    plan = _solve(cost, np.full(n_source, 1 / n_source), np.full(n_target, 1 / n_target))
    return Coupling(csc_array(plan))


def block_transport(cost: np.ndarray, block: int, seed: int, smoothing: float = 0.0) -> list[Block]:
    """The cheapest block-diagonal coupling along the full one.

    Target examples are dealt into blocks by the seed; sources follow their partners. Where the
    sizes differ, a source example at a border lies in both blocks, with a part of its mass in
    each, so the marginals stay uniform. One block of everything without smoothing is `transport`.

    Args:
        cost: (n_s, n_t).
        block: target examples per block.
        seed: deals them.
        smoothing: weight of the entropy inside a block (Cuturi 2013), in units of the cost; 0 for
            none, in which case most pairs have no mass.

    Raises:
        ValueError: for a block that does not divide the target examples.
    """
    n_source, n_target = cost.shape
    check_blocks(block, None, n_target)
    order = generator(seed, "blocks").permutation(n_target)
    rank = np.empty(n_target)
    rank[order] = np.arange(n_target)
    followers = np.argsort((transport(cost).matrix @ rank) * n_source, kind="stable")
    blocks = []
    count = n_target // block
    for k in range(count):
        places, shared = _shared_sources(n_source, count, k)
        source = followers[places]
        target = np.sort(order[k * block : (k + 1) * block])
        mass = _solve(
            cost[np.ix_(source, target)],
            shared / (n_source * count),
            np.full(block, 1 / n_target),
            smoothing,
        )
        blocks.append(Block(source, target, mass))
    return blocks


def check_blocks(block: int, blocks: int | None, n_target: int) -> None:
    """Raises ValueError unless the blocks fit the target.

    Args:
        block: target examples per block; they must use up the target's.
        blocks: number of blocks that are measured, no more than there are; None for all.
        n_target: the target's training examples.
    """
    if type(block) is not int or block < 1 or n_target % block:
        raise ValueError(
            f"block must divide the {n_target} training examples of the target; got {block!r}"
        )
    most = n_target // block
    if blocks is not None and (type(blocks) is not int or not 1 <= blocks <= most):
        raise ValueError(
            f"blocks must lie between 1 and {most}, as {n_target} examples make no more of "
            f"{block}; got {blocks!r}"
        )


def joined(blocks: Sequence[Block], shape: tuple[int, int]) -> Coupling:
    """The coupling that the blocks make up; shape: (n_s, n_t)."""
    rows = np.concatenate([np.repeat(b.source, len(b.target)) for b in blocks])
    columns = np.concatenate([np.tile(b.target, len(b.source)) for b in blocks])
    masses = np.concatenate([b.mass.ravel() for b in blocks])
    return Coupling(csc_array((masses, (rows, columns)), shape=shape))


def proximal(block: Block, cost: np.ndarray, weight: float) -> Block:
    """The block that is cheap and near to what it was, by the Kullback-Leibler divergence.

    It minimises <Gamma, cost> / m + weight KL(Gamma / m || Gamma_last / m), m being its whole mass:
    entropic transport with the cost lowered by weight log Gamma_last. This form is the project's;
    that of the authors' code is `proximal_quadratic`.

    Args:
        block: Gamma_last; every pair has mass.
        cost: (a, b).
        weight: of the second term, in units of the cost.
    """
    lowered = cost - weight * np.log(block.mass / block.mass.sum())
    return block._replace(mass=_solve(lowered, *block.marginals, weight))


def proximal_quadratic(block: Block, cost: np.ndarray, weight: float) -> Block:
    """The block that is cheap and near to what it was, by the squared distance.

    With G = Gamma / m, m being the block's whole mass, it minimises
    <G, cost> + weight / 2 |G - G_last|^2, so G is the plan nearest to G_last - cost / weight:
    transport with a squared 2-norm, which is solved in its dual. Pairs may lose all of their mass
    and gain it again.

    The second term is small: on b targets |G|^2 is at most 1 / b. So only a weight of about b times
    the spread of the costs holds a block back; by a smaller one it moves nearly as `transport`
    does.

    Args:
        block: Gamma_last; pairs may have no mass.
        cost: (a, b).
        weight: of the second term, in units of the cost.

    Raises:
        ValueError: for a weight so small beside the costs that no plan is found.

    Source: the code of Gao & Chaudhari (2021), which solves the same problem, in the same units, by
    conditional gradient.
    """
    ot = _pot()
    whole = block.mass.sum()
    last = block.mass / whole
    source, target = (marginal / whole for marginal in block.marginals)
    # POT minimises <G, M> + reg / 2 |G|^2; a reg of 1 suits its line search, a small one does not
    away = cost / weight - last
    plan = ot.solve(away, source, target, reg=1.0, reg_type="L2", max_iter=_STEPS, tol=_EXACT).plan
    if not abs(plan.sum(1) - source).sum() < _FOUND:
        raise ValueError(
            f"weight must be above some 1e-4 of the costs, which go up to {abs(cost).max():g}; "
            f"got {weight:g}, with which no plan is found: take a larger one, or `transport`"
        )
    return block._replace(mass=_rounded(plan, source, target) * whole)


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(float)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12))


def _shared_sources(n_source: int, count: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the sources of block k out of `count`, and how much of each lies in it.

    In units of 1 / (n_s count) the source at place s holds [s count, (s + 1) count) and the block
    holds [k n_s, (k + 1) n_s).
    """
    first = k * n_source // count
    end = ((k + 1) * n_source + count - 1) // count  # rounded up
    places = np.arange(first, end)
    upper = np.minimum((places + 1) * count, (k + 1) * n_source)
    lower = np.maximum(places * count, k * n_source)
    return places, upper - lower


def _solve(
    cost: np.ndarray, source: np.ndarray, target: np.ndarray, smoothing: float = 0.0
) -> np.ndarray:
    """(a, b) masses of the transport between marginals (a,) and (b,) of one whole mass."""
    ot = _pot()
    whole = source.sum()
    source, target = source / whole, target / whole
    if not smoothing:
        return np.asarray(ot.solve(cost, source, target).plan * whole)
    plan = ot.bregman.sinkhorn_log(
        source, target, cost, smoothing, numItermax=_ITERATIONS, stopThr=_SOLVED, warn=False
    )
    # a smooth plan has mass everywhere; where it underflows, keep the least that has a logarithm
    return np.asarray(np.maximum(_rounded(plan, source, target), _LEAST / plan.size) * whole)


def _pot() -> ModuleType:
    """POT, without the seconds in which it looks for tensors that it never gets."""
    os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")
    return import_module("ot")


def _rounded(plan: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The plan with its marginals made exact, however far the iteration came.

    Source: Altschuler et al. (2017), algorithm 2.
    """
    least = np.finfo(float).tiny  # a plan that is far off may leave an example without mass
    plan = plan * np.minimum(source / np.maximum(plan.sum(1), least), 1)[:, None]
    plan = plan * np.minimum(target / np.maximum(plan.sum(0), least), 1)
    missing_source = np.maximum(source - plan.sum(1), 0)
    missing_target = np.maximum(target - plan.sum(0), 0)
    return np.asarray(
        plan + np.outer(missing_source, missing_target) / (missing_source.sum() or 1.0)
    )
