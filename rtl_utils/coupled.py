"""Coupled transfer (Gao & Chaudhari 2021): which source example goes with which target example is itself found by training.

A program here is a generator: it yields the trainings that `fit` must do, one after the other, is sent each one's history, and returns the last.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rtl_utils.couplings import Block, block_transport, check_blocks, cosine_cost, joined, proximal, transport
from rtl_utils.lengths import PairLength
from rtl_utils.models import Net, predict_features
from rtl_utils.paths import Path
from rtl_utils.training import History, Replica

Program = Generator[Replica, History, History]
_FIRST_WEIGHT, _GROWTH = 0.05, 5  # of the proximal term, over the iterations
_EVEN = 1e-3  # on the last iteration, pairs with less than this part of an even share of the mass are left out: a thousandth of it at most


@dataclass(frozen=True)
class Coupled:
    """How the coupling is iterated (Gao & Chaudhari 2021, section 3): it starts block-diagonal from the features' transport, and each iteration
    trains from the backbone along its path, measures every pair's length and moves towards the cheap pairs.

    iterations: trainings; block: target examples a block, None for the largest divisor of their number up to 25; blocks: how many are measured
    and move, None for all; the others keep the coupling they start with; partitions: of the path, see `PairLength`; smoothing: entropy of the
    first coupling, in units of the cosine cost. The proximal term weighs 0.05 and grows fivefold each iteration.
    Raises ValueError for a number below 1, or a smoothing of 0 or less, under which a pair without mass could never gain any.
    """

    iterations: int = 4
    block: int | None = None
    blocks: int | None = None
    partitions: int = 10
    smoothing: float = 0.05

    def __post_init__(self):
        for name in ("iterations", "partitions"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more; got {getattr(self, name)!r}")
        if not self.smoothing > 0:
            raise ValueError(f"smoothing must be above 0; got {self.smoothing!r}")

    def sizes(self, n_target: int) -> tuple[int, int]:
        """(block, blocks) for a target of n_target training examples. Raises ValueError if they do not fit."""
        block = max(b for b in range(1, 26) if n_target % b == 0) if self.block is None else self.block
        check_blocks(block, self.blocks, n_target)
        return block, self.blocks or n_target // block


class Iteration(NamedTuple):
    """One iteration of a coupling: the coupling that was trained along, and the coupled distance <Gamma, cost> over the measured blocks, in
    sqrt(nats), with its standard error over blocks (NaN for one block)."""

    blocks: list[Block]
    distance: float
    standard_error: float


def transported(replica: Replica, backbone: Net) -> Program:
    """Train along the path whose coupling is the exact transport of the backbone's features, with the cosine cost, found once."""
    replica.path = replace(replica.path, coupling=transport(feature_cost(replica.path, backbone)))
    return (yield replica)


def iterated(replica: Replica, backbone: Net, settings: Coupled, iterations: list[Iteration]) -> Program:
    """Train and move the coupling in turn; `iterations` is filled as they are done, and the network is left as the last one trains it."""
    path, shape = replica.path, (len(replica.path.source.y_train), len(replica.path))
    block, count = settings.sizes(shape[1])
    blocks, weight = block_transport(feature_cost(path, backbone), block, replica.seed, settings.smoothing), _FIRST_WEIGHT
    for k in range(settings.iterations):
        last, measured = k == settings.iterations - 1, blocks[:count]
        pairs = [(b.mass >= (_EVEN * b.mass.mean() if last else 0)).nonzero() for b in measured]
        source, target = (np.concatenate([b[end][p[end]] for b, p in zip(measured, pairs, strict=True)]) for end in (0, 1))
        replica.net.load_state_dict(backbone.state_dict())
        replica.path = replace(path, coupling=joined(blocks, shape))
        replica.watch = PairLength(source, target, settings.partitions, replica.seed)
        history = yield replica
        costs = np.split(replica.watch.mean.astype(float), np.cumsum([len(p[0]) for p in pairs])[:-1])
        iterations.append(_iteration(blocks, pairs, costs))
        if not last:
            moved = [proximal(b, cost.reshape(b.mass.shape), weight) for b, cost in zip(measured, costs, strict=True)]
            blocks, weight = moved + blocks[count:], _GROWTH * weight
    return history


def feature_cost(path: Path, backbone: Net) -> np.ndarray:
    """(n_s, n_t) cosine costs between the backbone's features of the path's ends."""
    return cosine_cost(*(predict_features(backbone, task.x_train).cpu().numpy() for task in (path.source, path.target)))


def _iteration(blocks: Sequence[Block], pairs: Sequence[tuple], costs: Sequence[np.ndarray]) -> Iteration:
    each = [np.average(cost, weights=b.mass[p]) for b, p, cost in zip(blocks, pairs, costs, strict=False)]  # only the first ones are measured
    error = np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.nan
    return Iteration(blocks, float(np.mean(each)), float(error))
