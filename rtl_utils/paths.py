"""Paths of tasks p_tau from a source (tau = 0) to a target (tau = 1): a coupling, a blend and a schedule of tau.

    (i, j) ~ coupling,   x_tau = (1 - w) x_i + w x_j,   y_tau = (1 - w) y_i + w y_j       (i: source, j: target, labels one-hot)

The blend says what the weight w is: w = tau for mixup, w ~ Bernoulli(tau) for the mixture, w ~ Beta(tau, 1 - tau) in between. The paper's
formulas (section 2.2) run the other way round, tau = 1 being the source; the direction here is the one of its prose and of Gao & Chaudhari
(2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rtl_utils.couplings import Coupling, independent
from rtl_utils.randomness import generator
from rtl_utils.tasks import Task, as_float


def mixup(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of the target: tau for every example (the paper's 'works identically to CT')."""
    return np.full(n, tau)


def mixture(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of the target: 1 with probability tau, else 0, so p_tau = (1 - tau) p_s + tau p_t (Gao & Chaudhari's UT)."""
    return (rng.random(n) < tau).astype(float)


def annealed(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of the target: Beta(tau, 1 - tau), of mean tau and mostly near 0 or 1 (Gao & Chaudhari 2021, section 4)."""
    return np.full(n, tau) if tau in (0, 1) else rng.beta(tau, 1 - tau, n)


def symmetric(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of the one of two partners: Beta(alpha, alpha), whatever tau (mixup within a task, Zhang et al. 2018)."""
    return rng.beta(alpha, alpha, n)


BLENDS = {"mixup": mixup, "mixture": mixture, "annealed": annealed, "symmetric": symmetric}


class Schedule(Protocol):
    """What `fit` asks before each epoch. An adaptive schedule needs the source's validation loss, which `fit` then measures."""

    adaptive: bool

    def tau(self, epoch: int, epochs: int, history=None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs; history: what happened before, a `training.History`."""


@dataclass(frozen=True)
class Grid:
    """Schedule of tau: each value of the grid for an equal share of the epochs; (1,) is the constant schedule.

    Raises ValueError unless the values rise within [0, 1] and end at 1.
    """

    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    adaptive: bool = field(default=False, init=False)

    def __post_init__(self):
        rising = all(a < b for a, b in zip(self.taus, self.taus[1:], strict=False))
        if not self.taus or not rising or self.taus[0] < 0 or self.taus[-1] != 1:
            raise ValueError(f"taus must rise within [0, 1] and end at 1 (0 is the source task, 1 the target); got {list(self.taus)}")

    def tau(self, epoch: int, epochs: int, history=None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs."""
        return self.taus[epoch * len(self.taus) // epochs]


CONSTANT = Grid((1.0,))


@dataclass(frozen=True)
class Even:
    """Schedule of tau: from 0 in the first epoch to 1 in the last, in equal steps."""

    adaptive: bool = field(default=False, init=False)

    def tau(self, epoch: int, epochs: int, history=None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs."""
        return epoch / (epochs - 1) if epochs > 1 else 1.0


@dataclass(frozen=True)
class IsoClassification:
    """Schedule of tau on the mixture path that holds the classification loss level (after Gao & Chaudhari 2020).

        C(tau) = (1 - tau) C_s + tau C_t <= tolerance C_0,      tau in {0, 1 / steps, ..., 1}

    C_s, C_t: validation losses on source and target, so that C is the one on p_tau; C_0: C_s before the transfer. After each epoch tau
    advances to the largest value for which this holds, and else stays. So that the budget of epochs is kept and tau reaches 1, waiting is
    capped: in epoch e of E, tau is at least 2 e / (E - 1) - 1, which forces nothing in the first half and reaches 1 in the last epoch.

    Gao & Chaudhari's full theory follows a thermodynamic surface: a variational autoencoder's rate and distortion stand beside the
    classification loss, and their Lagrange multipliers move with tau so that the loss stays level. A classifier has no rate or distortion;
    what is left is the controller of tau. Theirs is steered by the test loss, here by validation data.
    Raises ValueError for fewer steps than 1 or a tolerance below 1, under which tau could not leave the source.
    """

    steps: int = 25
    tolerance: float = 1.0
    adaptive: bool = field(default=True, init=False)

    def __post_init__(self):
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps must be a whole number, 1 or more; got {self.steps!r}")
        if not self.tolerance >= 1:
            raise ValueError(f"tolerance must be 1 or more, as a share of the source's loss; got {self.tolerance!r}")

    def tau(self, epoch: int, epochs: int, history=None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs, from the losses of the epochs before."""
        step = round(history.tau[-1] * self.steps) if history.tau else 0
        source, target = (history.source_loss[-1], history.val_loss[-1]) if history.tau else history.start_loss
        level = self.tolerance * history.start_loss[0]
        step = max([step] + [k for k in range(step, self.steps + 1) if source + k / self.steps * (target - source) <= level])
        floor = 2 * epoch / (epochs - 1) - 1 if epochs > 1 else 1.0
        return max(step, math.ceil(floor * self.steps - 1e-9)) / self.steps


def level_advance(lr: float, gradient_norm: float, source_loss: float, target_loss: float) -> float:
    """How far tau moves in one step of gradient descent so that the loss on the mixture path stays level (iso-classification, continuous).

        C = (1 - tau) C_s + tau C_t,   dC = (C_t - C_s) dtau - lr |grad C|^2 = 0   =>   dtau = lr |grad C|^2 / (C_t - C_s)

    gradient_norm: |grad C|. Infinite where the target's loss is not above the source's: any advance lowers the loss then.
    """
    return lr * gradient_norm**2 / (target_loss - source_loss) if target_loss > source_loss else math.inf


SCHEDULES = ("constant", "grid", "even", "iso")


def schedule(name: str, taus: Sequence[float], epochs: int) -> Schedule:
    """A schedule by its name, one of SCHEDULES; taus: of the grid. Raises ValueError for another name or a grid that does not fit."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {name!r}")
    return {"constant": CONSTANT, "even": Even(), "iso": IsoClassification()}.get(name) or check_taus(taus, epochs)


class Draw(NamedTuple):
    """One epoch's randomness: (n,) indices into the target, partners in the source and weights of the target; no source where tau is 1.

    moved: (n,) whether the partner is taken from the path's `moved` source; None where it has none.
    """

    target: Tensor
    source: Tensor | None
    weight: Tensor | None
    moved: Tensor | None = None


@dataclass(frozen=True)
class Path:
    """A path of tasks. Without a source it is the target alone.

    coupling: None for the product coupling; blend: a name of BLENDS, where "symmetric" mixes one task with itself (source is target); alpha:
    its parameter; fade: the source's label weighs (1 - w)^fade, so that above 1 labels change over faster than images; moved: the source with
    the same examples but another appearance, which takes over from the source's own with probability tau.
    Raises ValueError if source and target differ in input shape or outputs, if they are one task without "symmetric", for an unknown blend, a
    coupling of another shape, or alpha or fade of 0 or less.
    """

    target: Task
    source: Task | None = None
    coupling: Coupling | None = None
    blend: str = "mixup"
    alpha: float = 1.0
    fade: float = 1.0
    moved: Task | None = None

    def __post_init__(self):
        if self.blend not in BLENDS:
            raise ValueError(f"blend must be one of {', '.join(BLENDS)}; got {self.blend!r}")
        for name in ("alpha", "fade"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)!r}")
        if self.source is not None:
            _check_ends(self.source, self.target, within=self.blend == "symmetric")
        sizes = len(self.source.y_train) if self.source else 0, len(self.target.y_train)
        if self.coupling is not None and self.coupling.matrix.shape != sizes:
            raise ValueError(f"a coupling must have a row a source and a column a target example, {sizes}; got {self.coupling.matrix.shape}")
        if self.moved is not None and (self.source is None or not torch.equal(self.moved.y_train, self.source.y_train)):
            raise ValueError("moved must hold the source's examples in the source's order; its labels differ")

    def to(self, device: str) -> "Path":
        """The same path with its tasks on the device."""
        return replace(self, **{end: task.to(device) for end in ("target", "source", "moved") if (task := getattr(self, end)) is not None})

    def __len__(self) -> int:
        """Examples an epoch: the target's training examples, at every tau, so that all methods take the same number of steps."""
        return len(self.target.y_train)

    def draw(self, tau: float, seed: int, epoch: int) -> Draw:
        """Order, partners and weights of one epoch. The target's order depends on (seed, epoch) alone, so methods of one seed share it."""
        n, device = len(self), self.target.x_train.device
        order = generator(seed, "order", epoch).permutation(n)
        weight = np.ones(n) if self.source is None else self.weights(tau, generator(seed, "blend", epoch), n)
        if (weight == 1).all():
            return Draw(torch.from_numpy(order).to(device), None, None)
        rng = generator(seed, "pair", epoch)
        uniform = (rng.permutation(n) + rng.random(n)) / n  # stratified: where sizes agree, each source example comes once an epoch
        partner = independent(order, uniform, len(self.source.y_train)) if self.coupling is None else self.coupling.partners(order, uniform)
        drawn = [order, partner.astype(np.int64), weight.astype(np.float32)]
        if self.moved is not None:
            drawn.append(generator(seed, "moved", epoch).random(n) < tau)
        return Draw(*(torch.from_numpy(a).to(device) for a in drawn))

    def weights(self, tau: float, rng: np.random.Generator, n: int) -> np.ndarray:
        """(n,) weights of the target at tau."""
        return BLENDS[self.blend](tau, rng, n, self.alpha)

    def batch(self, draw: Draw, rows: slice) -> tuple[Tensor, Tensor]:
        """(n, ...) network inputs and (n, k) soft labels, or (n, 1) responses, of the drawn rows."""
        x, y = _examples(self.target, draw.target[rows])
        if draw.source is None:
            return x, y
        x_source, y_source = _examples(self.source, draw.source[rows])
        if draw.moved is not None:
            moved = draw.moved[rows]
            x_source[moved] = as_float(self.moved.x_train[draw.source[rows][moved]])
        weight = draw.weight[rows]
        wx, kept = weight.reshape(-1, *[1] * (x.ndim - 1)), (1 - weight[:, None]) ** self.fade
        return (1 - wx) * x_source + wx * x, kept * y_source + (1 - kept) * y

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


def _check_ends(source: Task, target: Task, within: bool) -> None:
    same = source is target or (source.dataset, source.name) == (target.dataset, target.name)
    if within and not same:
        raise ValueError(f"the blend 'symmetric' mixes a task with itself; got {source.name!r} and {target.name!r}")
    if same and not within:
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
