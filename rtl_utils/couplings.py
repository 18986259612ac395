"""Couplings of two tasks: joint distributions Gamma of source and target examples whose marginals are uniform.

Optimal transport is solved by POT (Flamary et al. 2021); what the project adds is the block-diagonal form of Gao & Chaudhari (2021).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from rtl_utils.randomness import generator

_SOLVED, _ITERATIONS = 1e-10, 1_000  # Sinkhorn's iteration stops at this error of a marginal, or after so many steps
_UNIFORM = 1e-9  # largest error of a marginal that is accepted


@dataclass(frozen=True)
class Coupling:
    """A coupling as a sparse matrix: (n_s, n_t) masses Gamma_ij that sum to 1, rows to 1 / n_s each, columns to 1 / n_t.

    Raises ValueError for a negative mass or a marginal that is not uniform to 1e-9.
    """

    matrix: csc_array

    def __post_init__(self):
        matrix = csc_array(self.matrix)
        object.__setattr__(self, "matrix", matrix)
        error = max(np.abs(matrix.sum(1 - axis) - 1 / n).max() for axis, n in enumerate(matrix.shape))
        if matrix.data.min(initial=0) < 0 or not error <= _UNIFORM:
            raise ValueError(f"a coupling needs masses of 0 or more and uniform marginals to {_UNIFORM:g}; they are off by {error:.3g}")

    def partners(self, target: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """(n,) source partners of the (n,) target indices, drawn from Gamma(i | j) by inverting its distribution at (n,) numbers in [0, 1)."""
        found = np.searchsorted(self._edges, target + uniform, side="right")
        return self.matrix.indices[np.minimum(found, self.matrix.indptr[target + 1] - 1)]  # the sum may round up to the next column

    @cached_property
    def _edges(self) -> np.ndarray:
        """Upper ends of the intervals that the pairs occupy: column j's lie in (j, j + 1], so that one search serves all columns."""
        start, mass = self.matrix.indptr, self.matrix.data * self.matrix.shape[1]
        edges = np.cumsum(mass)
        column = np.repeat(np.arange(len(start) - 1), np.diff(start))
        edges = np.minimum(column + edges - np.concatenate([[0], edges])[start[column]], column + 1)
        edges[start[1:] - 1] = np.arange(1, len(start))  # whatever the sums' rounding, a column ends where the next begins
        return edges


class Block(NamedTuple):
    """A block of a block-diagonal coupling: (a,) source and (b,) target indices and their (a, b) masses."""

    source: np.ndarray
    target: np.ndarray
    mass: np.ndarray

    @property
    def marginals(self) -> tuple[np.ndarray, np.ndarray]:
        """(a,) and (b,) masses of the block's examples; they hold whatever its inside."""
        return self.mass.sum(1), self.mass.sum(0)


def independent(target: np.ndarray, uniform: np.ndarray, n_source: int) -> np.ndarray:
    """Source partners of the product coupling Gamma_ij = 1 / (n_s n_t): every source example is as likely for every target example.

    target: (n,) target indices; uniform: (n,) numbers in [0, 1), inverted through the conditional distribution of i given j.
    """
    return np.minimum((uniform * n_source).astype(np.int64), n_source - 1)


def cosine_cost(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n_s, n_t) costs 1 - cos(f_i, f_j) of (n_s, d) and (n_t, d) features. Raises ValueError if d differs."""
    if source.shape[1] != target.shape[1]:
        raise ValueError(f"features must have one width; got {source.shape[1]} and {target.shape[1]}")
    unit = [f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12) for f in (source.astype(float), target.astype(float))]
    return 1 - unit[0] @ unit[1].T


def transport(cost: np.ndarray) -> Coupling:
    """The coupling of uniform marginals that minimises <Gamma, cost>, exactly. cost: (n_s, n_t)."""
    return Coupling(csc_array(_solve(cost, *(np.full(n, 1 / n) for n in cost.shape))))


def block_transport(cost: np.ndarray, block: int, seed: int, smoothing: float = 0.0) -> list[Block]:
    """The cheapest block-diagonal coupling along the full one: target examples are dealt into blocks by the seed, sources follow their partners.

    cost: (n_s, n_t); block: target examples in each; smoothing: weight of the entropy inside a block (Cuturi 2013), in units of the cost, 0
    for none. Where the sizes differ, a source example at a border lies in both blocks, with a part of its mass in each, so that the marginals
    stay uniform. One block of everything without smoothing is `transport`.
    Raises ValueError for a block that does not divide the target examples.
    """
    n_source, n_target = cost.shape
    check_blocks(block, None, n_target)
    order = generator(seed, "blocks").permutation(n_target)
    rank = np.empty(n_target)
    rank[order] = np.arange(n_target)
    followers = np.argsort((transport(cost).matrix @ rank) * n_source, kind="stable")
    blocks, count = [], n_target // block
    for k in range(count):
        # in units of 1 / (n_s count): the source at place s holds [s count, (s + 1) count), the block [k n_s, (k + 1) n_s)
        places = np.arange(k * n_source // count, -(-(k + 1) * n_source // count))
        shared = np.minimum((places + 1) * count, (k + 1) * n_source) - np.maximum(places * count, k * n_source)
        source, target = followers[places], np.sort(order[k * block : (k + 1) * block])
        mass = _solve(cost[np.ix_(source, target)], shared / (n_source * count), np.full(block, 1 / n_target), smoothing)
        blocks.append(Block(source, target, mass))
    return blocks


def check_blocks(block: int, blocks: int | None, n_target: int) -> None:
    """Raises ValueError unless blocks of `block` examples use up the target's, and `blocks` of them (None: all) are no more than there are."""
    if type(block) is not int or block < 1 or n_target % block:
        raise ValueError(f"block must divide the {n_target} training examples of the target; got {block!r}")
    if blocks is not None and (type(blocks) is not int or not 1 <= blocks <= n_target // block):
        raise ValueError(f"blocks must lie between 1 and {n_target // block}, as {n_target} examples make no more of {block}; got {blocks!r}")


def joined(blocks: Sequence[Block], shape: tuple[int, int]) -> Coupling:
    """The coupling that the blocks make up. shape: (n_s, n_t)."""
    rows = np.concatenate([np.repeat(b.source, len(b.target)) for b in blocks])
    columns = np.concatenate([np.tile(b.target, len(b.source)) for b in blocks])
    return Coupling(csc_array((np.concatenate([b.mass.ravel() for b in blocks]), (rows, columns)), shape=shape))


def proximal(block: Block, cost: np.ndarray, weight: float) -> Block:
    """The block whose mass minimises <Gamma, cost> / m + weight KL(Gamma / m || Gamma_last / m), m being its whole mass.

    That is entropic transport with the cost lowered by weight log Gamma_last, so no pair ever loses all of its mass. cost: (a, b).
    """
    lowered = cost - weight * np.log(block.mass / block.mass.sum())
    return block._replace(mass=_solve(lowered, *block.marginals, weight))


def _solve(cost: np.ndarray, source: np.ndarray, target: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")  # saves the seconds in which POT looks for tensors that it never gets
    import ot

    whole = source.sum()
    source, target = source / whole, target / whole
    if not smoothing:
        return ot.solve(cost, source, target).plan * whole
    plan = ot.bregman.sinkhorn_log(source, target, cost, smoothing, numItermax=_ITERATIONS, stopThr=_SOLVED, warn=False)
    return _rounded(plan, source, target) * whole


def _rounded(plan: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The plan with its marginals made exact (Altschuler et al. 2017, algorithm 2), however far the iteration came."""
    plan = plan * np.minimum(source / plan.sum(1), 1)[:, None]
    plan = plan * np.minimum(target / plan.sum(0), 1)
    short = np.maximum(source - plan.sum(1), 0), np.maximum(target - plan.sum(0), 0)
    return plan + np.outer(*short) / (short[0].sum() or 1.0)
