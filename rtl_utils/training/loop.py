"""The one training loop, over one network or a population of them."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtl_utils import devices
from rtl_utils.data import Task, as_float, soft_labels
from rtl_utils.models import Net, estimate_statistics
from rtl_utils.paths import Path
from rtl_utils.progress import track
from rtl_utils.randomness import generator
from rtl_utils.training._graphs import Recordings
from rtl_utils.training._programs import Program, Single, Stacked
from rtl_utils.training._room import attempt
from rtl_utils.training._windows import Places, Windows, changed
from rtl_utils.training._workers import report, spread, usable_cores
from rtl_utils.training.records import (
    Callback,
    Epoch,
    History,
    Replica,
    StepCallback,
    TrainingDiverged,
)
from rtl_utils.training.sgd import Momentum

# raised when a training's numbers change, so that stored runs are not taken for new ones
VERSION = 1
# examples measured after each epoch, at most: it must cost little beside training
VALIDATION = 1_000
_INPUT_BYTES = 1 << 30  # bytes of inputs and masks that are made on a GPU at once

OnEpoch = Callable[[list[Replica], list[History]], bool | None]
OnDone = Callable[[int, History], None]


class _Batch(NamedTuple):
    """A mini-batch of r replicas.

    Args:
        x: (r, n, ...) inputs.
        y: (r, n, k) soft labels.
        masks: (r, n, ...) of each dropout.
        places: of the windows on it; None without windows.
    """

    x: Tensor
    y: Tensor
    masks: list[Tensor]
    places: Places | None = None

    def tensors(self) -> list[Tensor]:
        """All of it, one after the other."""
        places = [] if self.places is None else [self.places.values]
        return [self.x, self.y, *self.masks, *places]

    @classmethod
    def of(cls, size: int | None, tensors: Sequence[Tensor]) -> "_Batch":
        """The mini-batch of such tensors; `size` is that of its windows, if it has some."""
        x, y, *others = tensors
        if size is None:
            return cls(x, y, others)
        *masks, values = others
        return cls(x, y, masks, Places(size, values))


class _Job(NamedTuple):
    """Replicas that train as one program: their rows in the list that `fit` was given."""

    rows: list[int]
    program: type[Program]


def fit(
    replicas: Sequence[Replica],
    *,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
    on_done: OnDone | None = None,
    label: str | None = "training",
) -> list[History]:
    """Histories of the replicas, whose networks are trained in place.

    A replica whose loss is not finite keeps its weights of the epoch before and says so in
    `History.diverged`; a single one raises.

    Args:
        replicas: trained side by side; on a CPU a replica's numbers do not depend on the others, to
            the bit; where they train as one stack, on a GPU or for `on_epoch`, they differ within
            float32's rounding.
        device: of all of them, as `devices.resolve` takes it.
        on_epoch: called after every epoch with replicas and histories so far; may return True to
            stop. It needs networks that train in this process as one program: one network, MLPs of
            one shape, or on a GPU CNNs of one shape.
        on_done: called with a replica's index and history as soon as it is trained.
        label: of the progress bar; None for no bar where the networks train in this process.

    Raises:
        ValueError: for a device that is not there, or on_epoch with networks that train apart.
        TrainingDiverged: if there is one replica and it diverged; names epoch, step, tau and
            learning rate.
        torch.OutOfMemoryError: if the device has no room for one network, or for all that
            `on_epoch` needs together. Other groups without room are halved, which stderr says.
    """
    device = devices.resolve(device)
    histories: list[History] = [History() for _ in replicas]

    def done(row: int, history: History) -> None:
        histories[row] = history
        if on_done:
            on_done(row, history)

    jobs = _jobs(replicas, device, together=on_epoch is not None)
    if on_epoch and len(jobs) > 1:
        raise ValueError(
            f"on_epoch needs networks that train as one program; these make {len(jobs)}: train "
            "them one by one, or watch each by its `Replica.callback`"
        )
    if device != "cpu" or len(jobs) <= 1 or usable_cores() == 1:
        with devices.reference(device):
            _fit_here(replicas, jobs, device, on_epoch, done, label)
    else:
        _fit_apart(replicas, jobs, done, label or "training")
    if len(replicas) == 1 and histories[0].diverged:
        raise TrainingDiverged(histories[0])
    return histories


def _named(label: str, replicas: int, number: int, jobs: int) -> str:
    """What the bar of one job says."""
    name = f"{label} x {replicas}" if replicas > 1 else label
    return f"{name}, {number} of {jobs}" if jobs > 1 else name


@contextmanager
def one_thread() -> Iterator[None]:
    """One processor thread inside.

    The bits of a training depend on the number of threads, so alone and among others it must be
    one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def example_loss(output: Tensor, y: Tensor) -> Tensor:
    """(..., n) losses: cross-entropy -sum_k y_k log p_k, or squared error where k = 1.

    Args:
        output: (..., n, k) logits, or predicted responses.
        y: (..., n, k) soft labels, or responses.
    """
    if output.shape[-1] == 1:
        return (output - y).square()[..., 0]
    return -(y * output.log_softmax(-1)).sum(-1)


def _jobs(replicas: Sequence[Replica], device: str, together: bool) -> list[_Job]:
    """Which replicas train together, as which program: the only place where this choice is made.

    On a CPU every network is a job of its own, so that its bits do not depend on what trains beside
    it: a stack of another size rounds differently, and after many epochs that can be seen. Only
    `on_epoch`, which needs all networks in one program, stacks those without convolutions.

    On a GPU all networks of one shape and one size of data are stacked, as a step of a small one is
    mostly the start of its kernels. Left alone are a network that is partly frozen, as `Stacked`
    trains all parameters, and one whose callback looks at it after every step.

    Args:
        replicas: to be trained.
        device: of all of them.
        together: whether all must be one program.
    """
    jobs = []
    stacks: dict[tuple[object, ...], list[int]] = {}
    for row, replica in enumerate(replicas):
        partly_frozen = not all(p.requires_grad for p in replica.net.parameters())
        convolutions = any(isinstance(m, torch.nn.Conv2d) for m in replica.net.modules())
        watched = isinstance(replica.callback, StepCallback)  # it needs the network itself
        alone = device == "cpu" and (convolutions or not together)
        if alone or partly_frozen or watched:
            jobs.append(_Job([row], Single))
        else:
            stacks.setdefault(_kind(replica), []).append(row)
    for rows in stacks.values():
        jobs.append(_Job(rows, Stacked if len(rows) > 1 else Single))
    return jobs


def _kind(replica: Replica) -> tuple[object, ...]:
    """What replicas must share to be stacked."""
    net = replica.net
    path = replica.path
    validated = [path.target.x_val.shape]
    if replica.schedule.adaptive and path.source is not None:
        validated.append(path.source.x_val.shape)
    if path.held_out is not None:
        validated.append(path.held_out.x_val.shape)
    sgd = replace(replica.sgd, lr=1.0)
    kind = (str(net), net.frozen_statistics, net.head.weight.dtype, sgd)
    return *kind, replica.windows, len(path), *validated


def _fit_here(
    replicas: Sequence[Replica],
    jobs: Sequence[_Job],
    device: str,
    on_epoch: OnEpoch | None,
    done: OnDone,
    label: str | None,
) -> None:
    """One job after the other in this process; one that the device has no room for in parts."""
    for number, job in enumerate(jobs, start=1):
        waiting = job.rows
        at_once = len(waiting)
        while waiting:
            rows = waiting[:at_once]
            group = [replicas[row] for row in rows]
            program = job.program if len(rows) > 1 else Single
            name = label and _named(label, len(group), number, len(jobs))
            divisible = len(group) > 1 and on_epoch is None
            train = partial(_train, group, program, device, on_epoch, name)
            with one_thread():
                trained = attempt(group, device, train, divisible)
            if trained is None:
                at_once = (len(group) + 1) // 2
                print(
                    f"{device} has no room for {len(group)} networks at once; they train in groups "
                    f"of {at_once}",
                    file=sys.stderr,
                )
                continue
            for row, history in zip(rows, trained, strict=True):
                done(row, history)
            waiting = waiting[at_once:]


def _fit_apart(replicas: Sequence[Replica], jobs: Sequence[_Job], done: OnDone, label: str) -> None:
    """Every job in a process of its own."""

    def arrived(job: int, trained: list[_Trained]) -> None:
        for row, result in zip(jobs[job].rows, trained, strict=True):
            replicas[row].net.load_state_dict(result.state)
            replicas[row].net.eval()
            replicas[row].callback = result.callback
            done(row, result.history)

    groups = [([replicas[row] for row in job.rows], job.program) for job in jobs]
    spread(_trained, groups, arrived, [len(job.rows) for job in jobs], label)


class _Trained(NamedTuple):
    """What a process sends back: its copies of the networks are not the caller's."""

    state: dict[str, Tensor]
    callback: Callback | None
    history: History


def _trained(group: Sequence[Replica], program: type[Program]) -> list[_Trained]:
    def report_share(group: Sequence[Replica], histories: Sequence[History]) -> None:
        report(max(len(history.tau) for history in histories) / group[0].sgd.epochs)

    histories = _train(group, program, "cpu", report_share)
    return [
        _Trained(replica.net.state_dict(), replica.callback, history)
        for replica, history in zip(group, histories, strict=True)
    ]


def _train(
    group: Sequence[Replica],
    program: type[Program],
    device: str,
    on_epoch: OnEpoch | None = None,
    label: str | None = None,
) -> list[History]:
    """Train replicas that differ in weights, data, path, seed and learning rate, not in shapes."""
    started = time.perf_counter()
    training = _Training(group, program, device)
    epochs = range(group[0].sgd.epochs)
    for epoch in epochs if label is None else track(epochs, label, "epochs"):
        training.epoch(epoch)
        stopped = on_epoch is not None and on_epoch(list(group), training.histories)
        if stopped or all(history.diverged for history in training.histories):
            break
    training.finish()
    for replica, history in zip(group, training.histories, strict=True):
        replica.net.eval()
        history.seconds = (time.perf_counter() - started) / len(group)
    return training.histories


class _Training:
    """The loop's state: a group of replicas as one program, and their histories."""

    def __init__(self, group: Sequence[Replica], program: type[Program], device: str) -> None:
        for replica in group:
            replica.net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.group = group
        self.paths = _on(device, [replica.path for replica in group])
        self.targets = [path.target for path in self.paths]
        self.program = program([replica.net for replica in group])
        steps = group[0].steps
        sgds = [replica.sgd for replica in group]
        self.optimiser = Momentum(self.program, sgds, steps, group[0].net)
        self.windows = None
        if group[0].windows:
            example = as_float(self.targets[0].x_train[:1], self.program.weights.dtype)
            self.windows = Windows(group, self.program, example)
        self.steady = None
        if any(replica.steady for replica in group):
            weights = self.program.weights
            costs = [replica.steady for replica in group]
            self.steady = torch.tensor(costs, dtype=weights.dtype, device=weights.device)
        self.recordings = None
        if devices.has_graphs(self.program.weights.device):
            pixels = self.windows.pixels if self.windows is not None else []
            state = [*self.program.statistics(), *pixels]
            self.recordings = Recordings(self.program.weights.device, state)
        self.seeds = list(dict.fromkeys(replica.seed for replica in group))
        rows = [self.seeds.index(replica.seed) for replica in group]
        self.mask_rows = torch.tensor(rows, device=self.program.weights.device)
        self.histories = [History() for _ in group]
        self.sources = [path.source for path in self.paths if path.source is not None]
        self.held_out = [path.held_out for path in self.paths if path.held_out is not None]
        self.watching: list[tuple[StepCallback, Net]] = []
        for replica in group:
            if isinstance(replica.callback, StepCallback):
                self.watching.append((replica.callback, replica.net))
        self.adaptive = group[0].schedule.adaptive
        if self.adaptive:
            sources, _ = self._validate(self.sources)
            for history, loss in zip(self.histories, sources.tolist(), strict=True):
                history.start_loss = loss

    def epoch(self, epoch: int) -> None:
        """Train one epoch, measure it, and keep what is sound."""
        before = self.program.snapshot()
        taus = [
            replica.schedule.tau(epoch, replica.sgd.epochs, history)
            for replica, history in zip(self.group, self.histories, strict=True)
        ]
        if epoch == 0:
            self._call_back(taus, done=0)
        losses, right = self._steps(taus, epoch)
        measured, bad_steps = self._measured(taus, losses, right)
        for r, history in enumerate(self.histories):
            if history.diverged is None:
                history.diverged = self._divergence(r, bad_steps[r], epoch, measured[r])
            if history.diverged:  # stays where it was last sound, while the others go on
                self.program.restore(before, r)
                self.optimiser.velocity[r] = 0
            else:
                history.add(measured[r])
        self.program.write_back()
        self._call_back(taus, epoch + 1)

    @torch.no_grad()
    def finish(self) -> None:
        """Put averaged weights in place, where they are asked for and the training was sound."""
        if self.optimiser.mean is None:
            return
        sound = [r for r, history in enumerate(self.histories) if history.diverged is None]
        for r in sound:
            self.program.weights[r] = self.optimiser.mean[r]
        self.program.write_back()
        for r in sound:
            if not self.group[r].net.frozen_statistics:
                estimate_statistics(self.group[r].net, self.targets[r].x_train)

    def _steps(self, taus: Sequence[float], epoch: int) -> tuple[Tensor, Tensor]:
        """The epoch's steps: (t, r) shares of the mean loss, and (r,) accuracies.

        The caller reads them, so that no step waits for the device.
        """
        self.program.train(True)
        losses = []
        right = torch.zeros(len(self.group), dtype=torch.int64, device=self.program.weights.device)
        n = len(self.paths[0])
        for batch in self._batches(taus, epoch):
            loss, guessed = self._forward_backward(batch)
            self.optimiser.step()
            for callback, net in self.watching:
                callback.after_step(net)
            losses.append(loss * batch.x.shape[1] / n)
            right = right + guessed
        return torch.stack(losses), right / n

    def _forward_backward(self, batch: _Batch) -> tuple[Tensor, ...]:
        """Put the gradient of a mini-batch in place; (r,) mean losses, and right answers."""
        size = None if batch.places is None else batch.places.size
        if self.recordings is None:
            return self._gradient(size, batch.tensors())
        return self.recordings.play(self._gradient, size, batch.tensors())

    def _gradient(self, size: int | None, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As `_forward_backward`; it may be recorded, so it reads no value on the CPU.

        Args:
            size: of the windows, see `Places`; None without.
            tensors: of `_Batch.tensors`.
        """
        x, y, masks, places = _Batch.of(size, tensors)
        examples = x.shape[1]
        if self.windows is not None and places is not None:
            x, y, masks = _with_copies(x, y, masks, self.windows.copies(x, places))
        output = self.program(x, masks)  # (r, b, k)
        each = example_loss(output, y)
        loss = each.mean(1)  # (r,)
        if self.steady is not None:
            loss = loss + self.steady * changed(output, examples)
        self.program.backward(loss)
        guessed, given = (part[:, :examples].argmax(2) for part in (output, y))
        return each[:, :examples].mean(1).detach(), (guessed == given).sum(1)

    def _batches(self, taus: Sequence[float], epoch: int) -> Iterator[_Batch]:
        """Mini-batches of an epoch."""
        dtype = self.program.weights.dtype
        replicas = zip(self.paths, taus, self.group, strict=True)
        draws = [path.draw(tau, replica.seed, epoch) for path, tau, replica in replicas]
        noise = [generator(seed, "dropout", epoch) for seed in self.seeds]
        example = as_float(self.targets[0].x_train[:1], dtype)
        shapes = self.group[0].net.mask_shapes(example)
        n = len(self.paths[0])
        drawn = self.windows.draw(n, epoch) if self.windows is not None else []
        size = self.group[0].sgd.batch_size
        ahead = size * self._steps_ahead(example, shapes)
        for start in range(0, n, ahead):
            rows = slice(start, min(start + ahead, n))
            batches = [
                path.batch(draw, rows, dtype) for path, draw in zip(self.paths, draws, strict=True)
            ]
            x = _channels_last(torch.stack([inputs for inputs, _ in batches]))
            y = torch.stack([labels for _, labels in batches])
            parts = [slice(k, min(k + size, x.shape[1])) for k in range(0, x.shape[1], size)]
            masks = _masks(noise, shapes, parts, x)
            for part in parts:
                own = [self._shared(mask[:, part]) for mask in masks]
                there = slice(start + part.start, start + part.stop)
                on_it = self.windows.places(drawn, there) if self.windows is not None else None
                yield _Batch(x[:, part], y[:, part], own, on_it)

    def _shared(self, mask: Tensor) -> Tensor:
        """(r, n, ...) masks of the replicas, from (s, n, ...) of the seeds that they share."""
        return mask if len(self.seeds) == len(self.group) else mask[self.mask_rows]

    def _steps_ahead(self, example: Tensor, shapes: Sequence[tuple[float, torch.Size]]) -> int:
        """Of how many steps the mini-batches are made at once.

        On a CPU of one, which stays in its cache. On a GPU of as many as there is room for, mostly
        a whole epoch, so that what is drawn goes over once and not in each step; but at 2,500
        images the masks of one seed take 70 to 400 MB, and the inputs of one network 30 MB.
        """
        if example.device.type == "cpu":
            return 1
        inputs = example.numel() * len(self.group)
        masks = sum(shape.numel() for _, shape in shapes) * len(self.seeds)
        size = (inputs + masks) * example.element_size() * self.group[0].sgd.batch_size
        return max(1, _INPUT_BYTES // size)

    def _measured(
        self, taus: Sequence[float], losses: Tensor, right: Tensor
    ) -> tuple[list[Epoch], list[int]]:
        """One record per replica, and its first step whose loss is not finite; -1 if all are.

        They are read at once, as this is where the device is waited for.
        """
        val_loss, val_accuracy = self._validate(self.targets)
        columns = [losses.sum(0), right, val_loss, val_accuracy, self.optimiser.length]
        if self.adaptive:
            columns += [self._validate(self.sources)[0], self._validate(self.held_out)[0]]
        bad = ~losses.isfinite()
        first = torch.where(bad.any(0), bad.int().argmax(0), -1).to(losses.dtype)
        rows = torch.stack([*columns, first], 1).tolist()
        measured = []
        steps = []
        for tau, (*values, step) in zip(taus, rows, strict=True):
            measured.append(Epoch(tau, *values))
            steps.append(int(step))
        if self.targets[0].is_regression:
            nothing = {"train_accuracy": math.nan, "val_accuracy": math.nan}
            measured = [epoch._replace(**nothing) for epoch in measured]
        return measured, steps

    def _divergence(self, r: int, bad_step: int, epoch: int, measured: Epoch) -> str | None:
        """Where and why replica r diverged in this epoch; None if it did not."""
        if bad_step < 0 and math.isfinite(measured.val_loss + measured.weight_length):
            return None
        step = f"step {bad_step}" if bad_step >= 0 else "its last step"
        replica = self.group[r]
        return (
            f"the loss is not finite at epoch {epoch}, {step}, tau = {measured.tau:g}, "
            f"learning rate {replica.sgd.lr:g}, seed {replica.seed}; lower the learning rate"
        )

    def _call_back(self, taus: Sequence[float], done: int) -> None:
        for replica, path, tau in zip(self.group, self.paths, taus, strict=True):
            if replica.callback:
                replica.callback(replica.net, path, tau, done, replica.sgd.epochs)

    @torch.no_grad()
    def _validate(self, tasks: Sequence[Task], size: int = 125) -> tuple[Tensor, Tensor]:
        """(r,) mean losses and accuracies on the validation data, `size` examples at a time."""
        self.program.train(False)
        dtype = self.program.weights.dtype
        device = self.program.weights.device
        loss = torch.zeros(len(tasks), dtype=dtype, device=device)
        right = torch.zeros(len(tasks), dtype=torch.int64, device=device)
        n = min(len(tasks[0].y_val), VALIDATION)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            x = torch.stack([as_float(task.x_val[rows], dtype) for task in tasks])
            y = torch.stack([soft_labels(task, task.y_val[rows], dtype) for task in tasks])
            output = self.program(_channels_last(x))
            loss = loss + example_loss(output, y).sum(1)
            right = right + (output.argmax(2) == y.argmax(2)).sum(1)
        return loss / n, right / n


def _on(device: str, paths: Sequence[Path]) -> list[Path]:
    """The paths on the device; a task that several of them share goes over once."""
    there: dict[int, Task] = {}

    def moved(task: Task) -> Task:
        if id(task) not in there:
            there[id(task)] = task.to(device)
        return there[id(task)]

    return [path.with_tasks(moved) for path in paths]


def _masks(
    noise: Sequence[np.random.Generator],
    shapes: Sequence[tuple[float, torch.Size]],
    parts: Sequence[slice],
    like: Tensor,
) -> list[Tensor]:
    """(s, n, ...) dropout masks of several mini-batches, per stage of the networks.

    0 with probability rate (to 1 / 65,536), else 1 / (1 - rate). They go to the device in one copy.

    Args:
        noise: one per seed. Each mini-batch draws in its turn, so that the numbers do not depend on
            how many are made at once.
        shapes: (rate, shape for one example) of each stage.
        parts: the rows of each mini-batch.
        like: (r, n, ...) inputs; says the device and the type.
    """
    if not shapes:
        return []
    sizes = [(len(noise), like.shape[1], *shape) for _, shape in shapes]
    counts = [math.prod(size) for size in sizes]
    flat = np.empty(sum(counts), bool)
    stages = np.split(flat, np.cumsum(counts)[:-1])  # views
    kept = [stage.reshape(size) for stage, size in zip(stages, sizes, strict=True)]
    for row, rng in enumerate(noise):
        for part in parts:
            for mask, (rate, shape) in zip(kept, shapes, strict=True):
                drawn = rng.integers(0, 65_536, (part.stop - part.start, *shape), dtype="uint16")
                np.greater_equal(drawn, round(rate * 65_536), out=mask[row, part])
    there = torch.from_numpy(flat).to(like.device).split(counts)
    return [
        mask.reshape(size).to(like.dtype).div_(1 - rate)
        for mask, size, (rate, _) in zip(there, sizes, shapes, strict=True)
    ]


def _with_copies(
    x: Tensor, y: Tensor, masks: Sequence[Tensor], copies: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The mini-batch followed by copies of its first examples, with their labels and masks."""
    count = copies.shape[1]
    return (
        _channels_last(torch.cat([x, copies], 1)),
        torch.cat([y, y[:, :count]], 1),
        [torch.cat([mask, mask[:, :count]], 1) for mask in masks],
    )


def _channels_last(x: Tensor) -> Tensor:
    """(r, n, c, h, w) in the memory format in which convolutions are fast."""
    if x.ndim != 5:
        return x.contiguous()
    fast = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    unflattened: Tensor = fast.unflatten(0, x.shape[:2])
    return unflattened
