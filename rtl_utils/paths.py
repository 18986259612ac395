"""Paths of tasks p_tau from a source (tau = 0) to a target (tau = 1): a coupling, a blend and a schedule of tau.

    (i, j) ~ coupling,   x_tau = (1 - w) x_i + w x_j,   y_tau = (1 - w) y_i + w y_j       (i: source, j: target, labels one-hot)

The blend says what the weight w is: w = tau for mixup, w ~ Bernoulli(tau) for the mixture. The paper's formulas (section 2.2) run the other
way round, tau = 1 being the source; the direction here is the one of its prose and of Gao & Chaudhari (2021).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtl_utils.randomness import generator
from rtl_utils.tasks import Task, as_float

Coupling = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def independent(target: np.ndarray, uniform: np.ndarray, n_source: int) -> np.ndarray:
    """Source partners of the product coupling Gamma_ij = 1 / (n_s n_t): every source example is as likely for every target example.

    target: (n,) target indices; uniform: (n,) numbers in [0, 1), inverted through the conditional distribution of i given j.
    """
    return np.minimum((uniform * n_source).astype(np.int64), n_source - 1)


def mixup(tau: float, rng: np.random.Generator, n: int) -> np.ndarray:
    """Weights of the target: tau for every example (Zhang et al. 2018; the paper's 'works identically to CT')."""
    return np.full(n, tau)


def mixture(tau: float, rng: np.random.Generator, n: int) -> np.ndarray:
    """Weights of the target: 1 with probability tau, else 0, so p_tau = (1 - tau) p_s + tau p_t (Gao & Chaudhari's UT)."""
    return (rng.random(n) < tau).astype(float)


COUPLINGS: dict[str, Coupling] = {"independent": independent}
BLENDS = {"mixup": mixup, "mixture": mixture}


@dataclass(frozen=True)
class Grid:
    """Schedule of tau: each value of the grid for an equal share of the epochs; (1,) is the constant schedule.

    Raises ValueError unless the values rise within [0, 1] and end at 1.
    """

    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def __post_init__(self):
        rising = all(a < b for a, b in zip(self.taus, self.taus[1:], strict=False))
        if not self.taus or not rising or self.taus[0] < 0 or self.taus[-1] != 1:
            raise ValueError(f"taus must rise within [0, 1] and end at 1 (0 is the source task, 1 the target); got {list(self.taus)}")

    def tau(self, epoch: int, epochs: int) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs."""
        return self.taus[epoch * len(self.taus) // epochs]


CONSTANT = Grid((1.0,))


class Draw(NamedTuple):
    """One epoch's randomness: (n,) indices into the target, partners in the source and weights of the target; no source where tau is 1."""

    target: Tensor
    source: Tensor | None
    weight: Tensor | None


@dataclass(frozen=True)
class Path:
    """A path of tasks. Without a source it is the target alone.

    Raises ValueError if source and target differ in input shape or outputs, if they are one task, or for an unknown blend or coupling.
    """

    target: Task
    source: Task | None = None
    coupling: str = "independent"
    blend: str = "mixup"

    def __post_init__(self):
        for what, name, known in (("coupling", self.coupling, COUPLINGS), ("blend", self.blend, BLENDS)):
            if name not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")
        if self.source is not None:
            _check_ends(self.source, self.target)

    def to(self, device: str) -> "Path":
        """The same path with its tasks on the device."""
        return replace(self, target=self.target.to(device), source=self.source and self.source.to(device))

    def __len__(self) -> int:
        """Examples an epoch: the target's training examples, at every tau, so that all methods take the same number of steps."""
        return len(self.target.y_train)

    def draw(self, tau: float, seed: int, epoch: int) -> Draw:
        """Order, partners and weights of one epoch. The target's order depends on (seed, epoch) alone, so methods of one seed share it."""
        n, device = len(self), self.target.x_train.device
        order = generator(seed, "order", epoch).permutation(n)
        weight = np.ones(n) if self.source is None else BLENDS[self.blend](tau, generator(seed, "blend", epoch), n)
        if (weight == 1).all():
            return Draw(torch.from_numpy(order).to(device), None, None)
        rng = generator(seed, "pair", epoch)
        uniform = (rng.permutation(n) + rng.random(n)) / n  # stratified: where sizes agree, each source example comes once an epoch
        partner = COUPLINGS[self.coupling](order, uniform, len(self.source.y_train))
        return Draw(*(torch.from_numpy(a).to(device) for a in (order, partner, weight.astype(np.float32))))

    def batch(self, draw: Draw, rows: slice) -> tuple[Tensor, Tensor]:
        """(n, ...) network inputs and (n, k) soft labels, or (n, 1) responses, of the drawn rows."""
        x, y = _examples(self.target, draw.target[rows])
        if draw.source is None:
            return x, y
        x_source, y_source = _examples(self.source, draw.source[rows])
        weight = draw.weight[rows]
        wx, wy = weight.reshape(-1, *[1] * (x.ndim - 1)), weight[:, None]
        return (1 - wx) * x_source + wx * x, (1 - wy) * y_source + wy * y

    def sample(self, tau: float, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """A mini-batch of n examples of p_tau, as `batch` gives it. Raises ValueError if the target has fewer."""
        if not 1 <= n <= len(self):
            raise ValueError(f"n must lie between 1 and {len(self)}, the target's training examples; got {n}")
        return self.batch(self.draw(tau, seed, epoch=0), slice(0, n))


def soft_labels(task: Task, y: Tensor) -> Tensor:
    """(n,) labels as (n, k) one-hot probabilities; responses of a regression unchanged."""
    return y if task.is_regression else torch.nn.functional.one_hot(y, task.outputs).float()


def _examples(task: Task, rows: Tensor) -> tuple[Tensor, Tensor]:
    return as_float(task.x_train[rows]), soft_labels(task, task.y_train[rows])


def _check_ends(source: Task, target: Task) -> None:
    if source is target or (source.dataset, source.name) == (target.dataset, target.name):
        raise ValueError(f"source and target must differ; both are {target.name!r}")
    ends = [(tuple(t.x_train.shape[1:]), t.outputs) for t in (source, target)]
    if ends[0] != ends[1]:
        raise ValueError(
            f"source {source.name!r} and target {target.name!r} must share input shape and number of outputs; got {ends[0]} and {ends[1]}"
        )


def check_taus(taus: Sequence[float], epochs: int) -> Grid:
    """The grid, if every value gets at least one epoch. Raises ValueError otherwise."""
    grid = Grid(tuple(taus))
    if epochs < len(grid.taus):
        raise ValueError(f"epochs must be at least the number of taus ({len(grid.taus)}), so that each gets one; got {epochs}")
    return grid
