"""A race: fine-tuning and uncoupled transfer, trained in step beside the kernel's event loop.

Everything that happens is reported through a queue, so whoever draws reads it when there is time.
The trainings are the package's own (`training.fit`); a race only watches them, so its numbers are
those of `methods.transfer`.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rtl_utils import experiments, methods, probing, settings, tables
from rtl_utils.data import DATASETS, Task, soft_labels
from rtl_utils.models import Net, build, folded, predict
from rtl_utils.paths import Path
from rtl_utils.runs import BACKBONE, Run, clean_tasks, tasks
from rtl_utils.schedules import CONSTANT
from rtl_utils.training import (
    History,
    Replica,
    Sgd,
    TrainingDiverged,
    example_loss,
    fit,
    one_thread,
)
from rtl_utils.widgets.recordings import Moment, moment

RACERS = ("ft", "ut")
_EVERY = 0.15  # seconds between two glances at a network within an epoch
_GLANCED = 300  # validation images of a glance, at most
_KEPT = 8  # backbones in memory

_backbones: dict[str, Net] = {}  # by the key of their run, the oldest first


class Entered(NamedTuple):
    """The entries are in order, and the race begins.

    Args:
        runs: what is trained.
    """

    runs: Sequence[Run]


class Step(NamedTuple):
    """One step of SGD is done.

    Args:
        method: "backbone", or a method of the race.
        done: steps so far.
        steps: of the whole training.
    """

    method: str
    done: int
    steps: int


class Glance(NamedTuple):
    """A network within an epoch, on some of the target's validation images.

    Args:
        method: that trains it.
        epoch: epochs done, with a fraction.
        loss: cross-entropy, without the shortcut.
        accuracy: likewise.
    """

    method: str
    epoch: float
    loss: float
    accuracy: float


class Measured(NamedTuple):
    """A network before the first epoch, or after one.

    Args:
        method: that trains it.
        moment: what was measured, on all validation images.
    """

    method: str
    moment: Moment


class Diverged(NamedTuple):
    """A training diverged; the others go on.

    Args:
        method: of that training.
        message: where and why.
    """

    method: str
    message: str


class End(NamedTuple):
    """Nothing follows.

    Args:
        how: "finished", "stopped", "refused" for a bad entry, or "failed".
        message: why, where it was refused or failed.
    """

    how: str
    message: str = ""


Report = Entered | Step | Glance | Measured | Diverged | End


def race_runs(given: Mapping[str, Any]) -> list[Run]:
    """One run per racer, all from one backbone.

    The backbone is trained as in the course, whatever the race's epochs and learning rate, unless
    `source_epochs` and `source_lr` are given.

    Args:
        given: parameters of a notebook (`settings.PARAMETERS`): "dataset", "source", "target",
            "seeds", "taus", "lr", and those that need not keep their defaults.

    Raises:
        ValueError: in one sentence, for a value that breaks its rule; nothing is trained yet.
    """
    usual = Sgd()
    fixed = {
        "methods": RACERS,
        "batch_size": usual.batch_size,
        "momentum": usual.momentum,
        "source_lr": usual.lr,
        "device": "cpu",
        "out": "runs",
    }
    if given.get("dataset") in DATASETS:
        dataset = DATASETS[given["dataset"]]
        fixed["source_epochs"] = dataset.source_epochs or dataset.epochs
    return settings.validate(fixed | dict(given)).trainings()


class Race:
    """A race that runs in threads of its own; `reports` says how far it is.

    Args:
        given: parameters of a notebook, see `race_runs`. They are checked when the race has
            started; a bad one ends it before anything is trained.

    reports: what happened, in order; the last one is an `End`.
    histories: method -> history of its training, once it has ended.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.histories: dict[str, History] = {}
        self._given = dict(given)
        self._pace = _Pace()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="race", daemon=True)
        # also when Python ends: a thread that is still inside torch then aborts the process
        self._end = weakref.finalize(self, _end, self._pace, self._thread)

    @property
    def running(self) -> bool:
        """Whether it has started and not ended."""
        return self._thread.is_alive()

    @property
    def paused(self) -> bool:
        """Whether it waits for `resume`."""
        return self._pace.paused

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def pause(self) -> None:
        """Let every training wait after the step that it is in."""
        self._pace.pause(True)

    def resume(self) -> None:
        """Go on after a pause, to the same numbers."""
        self._pace.pause(False)

    def stop(self) -> None:
        """End every training after the step that it is in; what was reported stays."""
        self._pace.stop()

    def close(self) -> None:
        """Stop, and wait until no thread is left."""
        self._end()

    def _run(self) -> None:
        try:
            runs = race_runs(self._given)
        except ValueError as error:
            self.reports.put(End("refused", str(error)))
            return
        self.reports.put(Entered(runs))
        end = End("finished")
        try:
            # around all trainings: the number of threads goes back once the last one has ended
            with one_thread():
                self._train(runs)
        except _Stopped:
            end = End("stopped")
        except TrainingDiverged as error:
            end = End("failed", f"the backbone diverged, so nothing can start from it: {error}")
        except Exception as error:  # whatever it is, whoever reads the reports must not wait
            end = End("failed", f"the race failed: {type(error).__name__}: {error}")
        self.reports.put(end)

    def _train(self, runs: Sequence[Run]) -> None:
        """The backbone, then all transfers in step."""
        source, target = tasks(runs[0])
        backbone = self._backbone(runs[0].backbone(), source)
        threads = []
        self._pace.enter([run.method for run in runs])
        for run in runs:
            planned = methods.plan(
                run.method, backbone, source, target, seed=run.seed, setup=run.setup
            )
            racer = _Racer(run, planned.first, self._pace, self.reports)
            name = f"race {run.method}"
            threads.append(
                threading.Thread(target=self._transfer, args=(racer,), name=name, daemon=True)
            )
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        if self._pace.stopped:
            raise _Stopped

    def _backbone(self, run: Run, source: Task) -> Net:
        """The trained backbone, from memory if a race has trained it before."""
        key = run.key
        if key not in _backbones:
            net = build(source, run.width, run.seed)
            replica = Replica(net, Path(source), CONSTANT, run.seed, run.sgd)
            replica.callback = _Walker(BACKBONE, replica.steps, self._pace, self.reports)
            self._pace.enter([BACKBONE])
            _fit(replica)
            _backbones[key] = net
            if len(_backbones) > _KEPT:
                del _backbones[next(iter(_backbones))]
        return _backbones[key]

    def _transfer(self, racer: "_Racer") -> None:
        """One training of the race, in a thread of its own."""
        name = racer.method
        try:
            self.histories[name] = _fit(racer.replica, racer.on_epoch)
        except _Stopped:
            pass
        except TrainingDiverged as error:
            self.histories[name] = error.history
            self.reports.put(Diverged(name, f"{tables.label(name)} diverged: {error}"))
        except Exception as error:
            self._error = error
            self.stop()
        finally:
            self._pace.leave(name)


def _fit(
    replica: Replica,
    on_epoch: Callable[[list[Replica], list[History]], None] | None = None,
) -> History:
    """`fit` without a progress bar: a thread has no cell to show it in."""
    (history,) = fit([replica], on_epoch=on_epoch, label=None)
    return history


class _Stopped(Exception):
    """The race was stopped."""


class _Pace:
    """Keeps trainings in step: none is more than one step ahead. It also pauses and stops them."""

    def __init__(self) -> None:
        self.paused = False
        self.stopped = False
        self._done: dict[str, int] = {}  # steps of each training that has not ended
        self._changed = threading.Condition()

    def enter(self, names: Sequence[str]) -> None:
        """Trainings that are about to start."""
        with self._changed:
            self._done = dict.fromkeys(names, 0)

    def leave(self, name: str) -> None:
        """A training has ended, so nobody waits for it any more."""
        with self._changed:
            del self._done[name]
            self._changed.notify_all()

    def pause(self, paused: bool) -> None:
        """Let trainings wait after their step, or go on."""
        with self._changed:
            self.paused = paused
            self._changed.notify_all()

    def stop(self) -> None:
        """Let no training go on."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def step(self, name: str) -> None:
        """Count a training's step, and wait until it may do the next.

        Raises:
            _Stopped: if it may do none.
        """
        with self._changed:
            self._done[name] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.stopped or self._may_go_on(name))
            if self.stopped:
                raise _Stopped

    def _may_go_on(self, name: str) -> bool:
        return not self.paused and self._done[name] <= min(self._done.values())


def _end(pace: _Pace, thread: threading.Thread) -> None:
    """Stop what the thread trains, and wait until it has ended."""
    pace.stop()
    if thread.is_alive() and thread is not threading.current_thread():
        thread.join()


class _Walker:
    """A callback that reports every step and keeps pace."""

    def __init__(
        self, method: str, steps: int, pace: _Pace, reports: "queue.SimpleQueue[Report]"
    ) -> None:
        self.method = method
        self.steps = steps
        self.done = 0
        self.pace = pace
        self.reports = reports

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Nothing is measured at the ends of epochs."""

    def after_step(self, net: Net) -> None:
        """Report the step, and wait until the next one may be done."""
        self.done += 1
        self.reports.put(Step(self.method, self.done, self.steps))
        self.pace.step(self.method)


class _Racer(_Walker):
    """The same, and it measures the network: at a glance between epochs, in full after each."""

    def __init__(
        self, run: Run, replica: Replica, pace: _Pace, reports: "queue.SimpleQueue[Report]"
    ) -> None:
        super().__init__(run.method, replica.steps, pace, reports)
        self.replica = replica
        replica.callback = self
        if run.test is None:
            raise ValueError(f"{run.dataset} has no shortcut; take a data set of images")
        shortcut, self.label = run.test
        _, self.clean = clean_tasks(run)
        self.planted = experiments.everywhere(self.clean, shortcut, run.seed)
        self.glanced = 0.0  # when it was

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Measure the network that the race starts from."""
        if done == 0:
            self._measure(tau, 0, 0.0)

    def after_step(self, net: Net) -> None:
        """Report the step, keep pace, and glance at the network if it is time."""
        super().after_step(net)
        if time.monotonic() - self.glanced > _EVERY:
            self._glance(net)
            self.glanced = time.monotonic()

    def on_epoch(self, replicas: Sequence[Replica], histories: Sequence[History]) -> None:
        """Measure the network after an epoch that did not diverge."""
        (history,) = histories
        if history.diverged is None:
            self._measure(history.tau[-1], len(history.tau), history.weight_length[-1])

    def _measure(self, tau: float, epoch: int, length: float) -> None:
        of_training = {"epoch": float(epoch), "tau": tau, "length": length}
        found = moment(self.replica.net, self.clean, self.planted, self.label, **of_training)
        self.reports.put(Measured(self.method, found))

    @torch.no_grad()
    def _glance(self, net: Net) -> None:
        """Loss and accuracy of a copy: the training's own network must not leave its mode."""
        y = self.clean.y_val[:_GLANCED]
        outputs = predict(folded(net), self.clean.x_val[:_GLANCED])
        loss = float(example_loss(outputs, soft_labels(self.clean, y)).mean())
        accuracy = probing.accuracy(outputs, y)
        epoch = self.done * self.replica.sgd.epochs / self.steps
        self.reports.put(Glance(self.method, epoch, loss, accuracy))
