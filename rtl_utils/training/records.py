"""What a training takes and what it gives back."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import nn

from rtl_utils.models import Net
from rtl_utils.paths import Path
from rtl_utils.schedules import CONSTANT, Schedule
from rtl_utils.training.sgd import Sgd

Window = float | tuple[float, float]  # the side of a square, or height and width


def window_sides(window: Window) -> tuple[float, float]:
    """Height and width of a window, as shares of an image's side."""
    return window if isinstance(window, tuple) else (window, window)


class Callback(Protocol):
    """What is called during a training, and may gather what it sees.

    It comes back in the replica, wherever that was trained.
    """

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Called before the first epoch (done = 0) and after each (done = 1 ... epochs).

        Args:
            net: as it is now, in evaluation mode.
            path: that it trains on.
            tau: the task of the epoch just done, or to come.
            done: epochs done.
            epochs: of the whole training.
        """


@runtime_checkable
class StepCallback(Callback, Protocol):
    """A callback that also looks after every step of SGD."""

    def after_step(self, net: Net) -> None:
        """Called after each step.

        Args:
            net: as it is now, in training mode; put back into it, if the callback changes it.
        """


@dataclass
class Replica:
    """One training.

    Args:
        net: trained in place.
        path: of tasks.
        schedule: of tau.
        seed: of everything that the training draws.
        sgd: how SGD runs.
        callback: called after each epoch.
        windows: sizes of adversarial windows on the training images (`_windows`), as shares of an
            image's side: one number for a square, or height and width; they take turns.
        steady: weight of the divergence between the answers to an image and to its copy with a
            window, in the loss.

    Raises:
        ValueError: for windows out of range or on what is no image, a `steady` below 0 or without
            windows, a mini-batch larger than the data or of one example where BatchNorm needs two,
            a tau below 1 on a path without a source, or an adaptive schedule on a path without
            held-out examples.
    """

    net: Net
    path: Path
    schedule: Schedule
    seed: int
    sgd: Sgd = Sgd()
    callback: Callback | None = None
    windows: tuple[Window, ...] = ()
    steady: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.path)
        if not all(map(_is_window, self.windows)):
            raise ValueError(
                "a window must be a side of more than 0 and at most 1 (a whole side), or two of "
                f"them in a tuple; got {self.windows!r}"
            )
        if not (0 <= self.steady < math.inf and (self.windows or not self.steady)):
            raise ValueError(
                "steady must be 0 or more, and 0 where there are no windows; got "
                f"{self.steady!r} with windows {self.windows!r}"
            )
        if self.windows and self.path.target.x_train.ndim != 4:
            raise ValueError(f"windows are for images; {self.path.target.name!r} has features")
        if self.windows and len(sides := set(self.path.target.x_train.shape[-2:])) > 1:
            raise ValueError(
                f"windows are for square images; those of {self.path.target.name!r} have sides of "
                f"{' and '.join(map(str, sorted(sides)))} pixels: crop them, or take another method"
            )
        size = self.sgd.batch_size
        if size > n:
            raise ValueError(
                f"batch_size must be at most the {n} training examples of "
                f"{self.path.target.name!r}; got {size}"
            )
        if (size == 1 or n % size == 1) and self._needs_two_examples():
            raise ValueError(
                f"batch_size must not leave a last mini-batch of one of the {n} training examples, "
                f"since BatchNorm needs two or more; got {size}"
            )
        if self.path.source is None and self.schedule != CONSTANT:
            raise ValueError(
                "a path without a source is the target alone, so taus must be [1]; "
                f"got {self.schedule}"
            )
        if self.schedule.adaptive and self.path.held_out is None:
            raise ValueError(
                "an adaptive schedule measures its loss on held-out training examples, so the path "
                "needs held_out (data.hold_out); got None"
            )

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.sgd.epochs * math.ceil(len(self.path) / self.sgd.batch_size)

    def _needs_two_examples(self) -> bool:
        """Whether a BatchNorm takes its statistics over examples alone, not over pixels too."""
        return not self.net.frozen_statistics and any(
            isinstance(module, nn.BatchNorm1d) for module in self.net.modules()
        )


class Epoch(NamedTuple):
    """What is measured of one replica in one epoch; `History` says what each is."""

    tau: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    weight_length: float
    source_loss: float | None = None
    target_loss: float | None = None


def _is_window(window: Any) -> bool:
    """Whether it is a side, or height and width, within an image."""
    sides = window_sides(window)
    return len(sides) == 2 and all(
        isinstance(side, int | float) and 0 < side <= 1 for side in sides
    )


@dataclass
class History:
    """What happened in each epoch; a run that diverged has the epochs before it.

    Args:
        tau: the task trained on.
        train_loss: over the mini-batches as they came, on p_tau.
        train_accuracy: likewise; NaN for a regression.
        val_loss: on the target's validation data, its first 1,000 examples.
        val_accuracy: likewise; NaN for a regression.
        weight_length: of the weights' path so far, the sum over steps of |dw| (2-norm over all
            trainable weights); at the end it is the paper's fine-tuning distance (section 4.2).
        source_loss: on the source's validation data, only where the schedule is adaptive.
        target_loss: on held-out training examples of the target, likewise.
        start_loss: on the source before the first epoch, likewise.
        diverged: where and why the training stopped; None if it did not.
        seconds: of wall time; an equal share where replicas train as one stack.
    """

    tau: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    weight_length: list[float] = field(default_factory=list)
    source_loss: list[float] = field(default_factory=list)
    target_loss: list[float] = field(default_factory=list)
    start_loss: float | None = None
    diverged: str | None = None
    seconds: float = field(default=0.0, compare=False)

    def add(self, epoch: Epoch) -> None:
        """Append one epoch."""
        for name, value in epoch._asdict().items():
            if value is not None:
                getattr(self, name).append(value)

    def series(self) -> dict[str, list[float]]:
        """Every list with one value per epoch, by name."""
        return {name: getattr(self, name) for name in Epoch._fields}


class TrainingDiverged(ArithmeticError):
    """The loss became infinite or NaN; `history` keeps the epochs before."""

    def __init__(self, history: History) -> None:
        super().__init__(history.diverged)
        self.history = history
