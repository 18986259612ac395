"""Coupled transfer: which source example goes with which target example is found by training.

`Stages` are a generator: it yields the trainings that `fit` must do, one after the other, is sent
each one's history, and returns the last.

Source: Gao & Chaudhari (2021).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rtl_utils.couplings import (
    Block,
    block_transport,
    check_blocks,
    cosine_cost,
    joined,
    proximal,
    proximal_quadratic,
    transport,
)
from rtl_utils.lengths import PairLength
from rtl_utils.models import Net, predict_features
from rtl_utils.paths import Path
from rtl_utils.training import History, Replica

Stages = Generator[Replica, History, History]
_FIRST_WEIGHT = 0.05  # of the proximal term
_GROWTH = 5  # of that weight, per iteration
_NEGLIGIBLE = 1e-3  # part of an even share of the mass below which the last iteration skips a pair
_LARGEST_BLOCK = 25


@dataclass(frozen=True)
class Coupled:
    """How the coupling is iterated.

    It starts block-diagonal from the transport of the features. Each iteration trains from the
    backbone along its path, measures every pair's length and moves towards the pairs that are
    cheap. A proximal term holds it back, which weighs 0.05 and grows fivefold per iteration, as in
    the authors' code.

    The proximal term is entropic here and quadratic in the authors' code, solved by conditional
    gradient; `quadratic` asks for theirs. Their first coupling takes the features of a ResNet-50
    pre-trained on ImageNet, the one here the backbone's own.

    Args:
        iterations: trainings.
        block: target examples per block; None for the largest divisor of their number up to 25.
        blocks: how many are measured and move, None for all; the others keep their first coupling.
        partitions: of the path, see `PairLength`.
        smoothing: weight of the entropy of the first coupling, in units of the cosine cost.
        quadratic: the proximal term is `couplings.proximal_quadratic`, not `couplings.proximal`.

    Raises:
        ValueError: for a number below 1, a smoothing of 0 or less, under which a pair without mass
            could never gain any by an entropic step, or a quadratic that is neither True nor False.

    Source: Gao & Chaudhari (2021), section 3.
    """

    iterations: int = 4
    block: int | None = None
    blocks: int | None = None
    partitions: int = 10
    smoothing: float = 0.05
    quadratic: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "partitions"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more; got {value!r}")
        if not self.smoothing > 0:
            raise ValueError(f"smoothing must be above 0; got {self.smoothing!r}")
        if type(self.quadratic) is not bool:
            raise ValueError(f"quadratic must be True or False; got {self.quadratic!r}")

    def block_of(self, n_target: int) -> int:
        """Target examples per block, for a target of n_target training examples.

        Raises:
            ValueError: if the blocks do not fit.
        """
        divisors = [size for size in range(1, _LARGEST_BLOCK + 1) if n_target % size == 0]
        block = divisors[-1] if self.block is None else self.block
        check_blocks(block, self.blocks, n_target)
        return block


class Iteration(NamedTuple):
    """One iteration of a coupling.

    Args:
        blocks: the coupling that was trained along.
        distance: the coupled distance <Gamma, cost> over the measured blocks, in sqrt(nats).
        standard_error: of the distance, over blocks; NaN for one block.
    """

    blocks: list[Block]
    distance: float
    standard_error: float


class Pairs(NamedTuple):
    """The pairs of the measured blocks whose lengths are measured.

    Args:
        inside: per block, the (rows, columns) of its pairs.
        source: (p,) source examples of all pairs.
        target: (p,) target examples.
    """

    inside: list[tuple[np.ndarray, ...]]
    source: np.ndarray
    target: np.ndarray

    def by_block(self, values: np.ndarray) -> list[np.ndarray]:
        """(p,) values, one per pair, split into one array per block."""
        ends = np.cumsum([len(rows) for rows, _ in self.inside])
        return np.split(values, ends[:-1])


def transported(replica: Replica, backbone: Net) -> Stages:
    """Train along the path whose coupling is the exact transport of the backbone's features."""
    coupling = transport(feature_cost(replica.path, backbone))
    replica.path = replace(replica.path, coupling=coupling)
    return (yield replica)


def iterated(
    replica: Replica, backbone: Net, settings: Coupled, iterations: list[Iteration]
) -> Stages:
    """Train and move the coupling in turn.

    Args:
        replica: its network is left as the last iteration trains it.
        backbone: where every iteration starts.
        settings: of the iteration.
        iterations: filled as they are done.
    """
    path = replica.path
    cost = feature_cost(path, backbone)
    block = settings.block_of(len(path))
    blocks = block_transport(cost, block, replica.seed, settings.smoothing)
    count = settings.blocks or len(blocks)
    step = proximal_quadratic if settings.quadratic else proximal
    weight = _FIRST_WEIGHT
    for k in range(settings.iterations):
        last = k == settings.iterations - 1
        measured = blocks[:count]
        # a pair without mass may gain some in the step to come; after the last there is none
        pairs = _pairs(measured, least=_NEGLIGIBLE if last else 0)
        callback = PairLength(pairs.source, pairs.target, settings.partitions, replica.seed)
        replica.net.load_state_dict(backbone.state_dict())
        replica.path = replace(path, coupling=joined(blocks, cost.shape))
        replica.callback = callback
        history = yield replica
        # the training may have run in another process; the replica's callback is what came back
        lengths = pairs.by_block(replica.callback.mean.astype(float))
        iterations.append(_iteration(blocks, pairs, lengths))
        if not last:
            moved = [
                step(b, length.reshape(b.mass.shape), weight)
                for b, length in zip(measured, lengths, strict=True)
            ]
            blocks = moved + blocks[count:]
            weight *= _GROWTH
    return history


def feature_cost(path: Path, backbone: Net) -> np.ndarray:
    """(n_s, n_t) cosine costs between the backbone's features of the path's ends.

    Raises:
        ValueError: for a path without a source.
    """
    if path.source is None:
        raise ValueError("a coupling needs a source; this path is the target alone")
    source, target = (
        predict_features(backbone, task.x_train).cpu().numpy()
        for task in (path.source, path.target)
    )
    return cosine_cost(source, target)


def _pairs(blocks: Sequence[Block], least: float) -> Pairs:
    """Pairs of at least that part of their block's mean mass; all of them for 0."""
    inside = [(b.mass >= least * b.mass.mean()).nonzero() for b in blocks]
    source = [b.source[rows] for b, (rows, _) in zip(blocks, inside, strict=True)]
    target = [b.target[columns] for b, (_, columns) in zip(blocks, inside, strict=True)]
    return Pairs(inside, np.concatenate(source), np.concatenate(target))


def _iteration(blocks: list[Block], pairs: Pairs, lengths: Sequence[np.ndarray]) -> Iteration:
    # only the first blocks are measured
    measured = zip(blocks, pairs.inside, lengths, strict=False)
    each = [np.average(length, weights=b.mass[inside]) for b, inside, length in measured]
    error = np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.nan
    return Iteration(blocks, float(np.mean(each)), float(error))
