"""Schedules of tau: which task of the path is trained on in which epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol


class Progress(Protocol):
    """What an adaptive schedule reads of a training so far; `training.History` has it."""

    tau: list[float]
    source_loss: list[float]
    target_loss: list[float]
    start_loss: float | None


class Schedule(Protocol):
    """What `fit` asks before each epoch.

    An adaptive schedule reads the losses on the source and on held-out examples of the target,
    which `fit` then measures. `version` is raised when its values change, so that stored runs are
    not mistaken for new ones.
    """

    adaptive: ClassVar[bool]
    version: ClassVar[int]

    def tau(self, epoch: int, epochs: int, history: Progress | None = None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs; history: what happened before."""


@dataclass(frozen=True)
class Grid:
    """Each value of a grid for an equal share of the epochs; (1,) is the constant schedule.

    Args:
        taus: the values, rising within [0, 1] to 1.

    Raises:
        ValueError: for other values.
    """

    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    adaptive: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.taus, self.taus[1:], strict=False))
        if not self.taus or not rising or self.taus[0] < 0 or self.taus[-1] != 1:
            raise ValueError(
                "taus must rise within [0, 1] and end at 1 (0 is the source task, 1 the target); "
                f"got {list(self.taus)}"
            )

    def tau(self, epoch: int, epochs: int, history: Progress | None = None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs."""
        return self.taus[epoch * len(self.taus) // epochs]


CONSTANT = Grid((1.0,))


@dataclass(frozen=True)
class Even:
    """From 0 in the first epoch to 1 in the last, in equal steps."""

    adaptive: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def tau(self, epoch: int, epochs: int, history: Progress | None = None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs."""
        return epoch / (epochs - 1) if epochs > 1 else 1.0


@dataclass(frozen=True)
class IsoClassification:
    """Holds the classification loss level on the mixture path.

    C(tau) = (1 - tau) C_s + tau C_t <= tolerance C_0,      tau in {1 / K, 2 / K, ..., 1}

    C_s: loss on the source's validation data; C_t: loss on training examples of the target that
    are held out, so that the images on which the run is scored decide nothing; so C is the loss on
    p_tau. C_0: C_s before the transfer. Training begins at 1 / K and moves to the next value once
    C is at most tolerance C_0 at the present one. So that the budget of epochs is kept and tau
    reaches 1, it moves on in any case after epochs / K epochs at one value.

    The full theory follows a thermodynamic surface: a variational autoencoder's rate and distortion
    stand beside the classification loss, and their Lagrange multipliers move with tau so that the
    loss stays level. A classifier has no rate or distortion; what is left is the controller of
    tau. Theirs takes 25 steps, is steered by the test loss and has no cap.

    Args:
        steps: K, 1 or more; with few epochs there are fewer, so that each gets two epochs.
        tolerance: of the loss, as a multiple of C_0; above 0.

    Raises:
        ValueError: for a value out of range.

    Source: after Gao & Chaudhari (2020).
    """

    steps: int = 10
    tolerance: float = 1.0
    adaptive: ClassVar[bool] = True
    version: ClassVar[int] = 2  # version 1 waited at tau = 0 for what could not happen

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps must be a whole number, 1 or more; got {self.steps!r}")
        if not self.tolerance > 0:
            raise ValueError(
                "tolerance must be above 0, as a multiple of the source's loss; "
                f"got {self.tolerance!r}"
            )

    def tau(self, epoch: int, epochs: int, history: Progress | None = None) -> float:
        """Value of tau in an epoch, 0 <= epoch < epochs, from the losses of the epochs before."""
        if history is None or history.start_loss is None:
            raise ValueError("iso-classification needs the losses before the transfer")
        steps = self._steps(epochs)
        if not history.tau:
            return 1 / steps
        now = history.tau[-1]
        waited = history.tau.count(now)
        if self._level(history, len(history.tau) - 1) or waited >= epochs // steps:
            return min(round(now * steps) + 1, steps) / steps
        return now

    def capped_share(self, history: Progress) -> float:
        """Share of the moves of tau that the cap forced, the loss being above its level; 0 to 1."""
        moves = [k for k, (a, b) in enumerate(pairwise(history.tau)) if b > a]
        forced = sum(not self._level(history, k) for k in moves)
        return forced / len(moves) if moves else 0.0

    def _steps(self, epochs: int) -> int:
        return max(1, min(self.steps, epochs // 2))

    def _level(self, history: Progress, epoch: int) -> bool:
        """Whether the loss on p_tau was at most its level after an epoch."""
        tau = history.tau[epoch]
        loss = (1 - tau) * history.source_loss[epoch] + tau * history.target_loss[epoch]
        return history.start_loss is not None and loss <= self.tolerance * history.start_loss


@dataclass(frozen=True)
class NamedSchedule:
    """A schedule as the table of methods names it.

    Args:
        make: the notebook's grid of tau -> the schedule.
        version: of its values.
        reads_taus: whether the grid decides its values.
    """

    make: Callable[[Sequence[float]], Schedule]
    version: int
    reads_taus: bool = False


SCHEDULES = {
    "constant": NamedSchedule(lambda taus: CONSTANT, Grid.version),
    "grid": NamedSchedule(lambda taus: Grid(tuple(taus)), Grid.version, reads_taus=True),
    "even": NamedSchedule(lambda taus: Even(), Even.version),
    "iso": NamedSchedule(lambda taus: IsoClassification(), IsoClassification.version),
}


def schedule(name: str, taus: Sequence[float], epochs: int) -> Schedule:
    """The schedule of that name.

    Args:
        name: one of SCHEDULES.
        taus: the grid, for the schedule that reads it.
        epochs: of the training.

    Raises:
        ValueError: for another name, a wrong grid, or fewer epochs than the grid has values.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {name!r}")
    if SCHEDULES[name].reads_taus:
        check_taus(taus, epochs)
    return SCHEDULES[name].make(taus)


def check_taus(taus: Sequence[float], epochs: int) -> None:
    """Raises ValueError unless the grid is one and every value gets at least one epoch."""
    values = Grid(tuple(taus)).taus
    if epochs < len(values):
        raise ValueError(
            f"epochs must be at least the number of taus ({len(values)}), so that each gets one; "
            f"got {epochs}"
        )
