"""The one training loop, over one network or a population of them."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rtl_utils.models import Net
from rtl_utils.paths import CONSTANT, Path, Schedule, soft_labels
from rtl_utils.populations import Single, Stacked
from rtl_utils.randomness import generator
from rtl_utils.tasks import Task, as_float
from rtl_utils.workers import spread, usable_cores

VALIDATION = 1_000  # validation examples looked at after each epoch, at most: looking must cost little beside training


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with the paper's settings (section 5.2); momentum 0.9 is the project's reading.

    v <- momentum v + lr_t (grad + weight_decay w),  w <- w - v. With `cosine`, lr_t falls from lr to 0 along half a cosine. `l1` adds the
    lasso penalty l1 sum |w| over the first layer's weights, which asks each unit to read few inputs (notebook 01 needs it); `l2_sp` the penalty
    l2_sp / 2 |w - w_0|^2, a pull towards the weights that training starts from (Li et al. 2018, equation 2).
    Raises ValueError for a value outside its range.
    """

    lr: float = 1e-2
    epochs: int = 50
    batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 0.0
    l1: float = 0.0
    l2_sp: float = 0.0
    cosine: bool = False

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more; got {getattr(self, name)!r}")
        for name, low, high in (("lr", 0, math.inf), ("momentum", 0, 1), *((name, 0, math.inf) for name in ("weight_decay", "l1", "l2_sp"))):
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value < high or (name == "lr" and value == 0):
                rule = "positive" if name == "lr" else "in [0, 1)" if name == "momentum" else "0 or more"
                raise ValueError(f"{name} must be a number, {rule}; got {value!r}")

    def rate(self, step: int, steps: int) -> float:
        """lr_t / lr at a step of the whole training."""
        return (1 + math.cos(math.pi * step / steps)) / 2 if self.cosine else 1.0


class Watch(Protocol):
    """What looks at a training from outside, and may gather what it sees; it comes back in the replica, wherever that was trained."""

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Called before the first epoch (done = 0) and after each (done = 1 ... epochs); tau: the task of the epoch just done or to come."""


@dataclass
class Replica:
    """One training: a network (trained in place), a path of tasks, a schedule of tau, a seed, how SGD runs, and who watches.

    Raises ValueError for a mini-batch larger than the data, or a tau below 1 on a path without a source.
    """

    net: Net
    path: Path
    schedule: Schedule
    seed: int
    sgd: Sgd = Sgd()
    watch: Watch | None = None

    def __post_init__(self):
        if self.sgd.batch_size > len(self.path):
            raise ValueError(
                f"batch_size must be at most the {len(self.path)} training examples of {self.path.target.name!r}; got {self.sgd.batch_size}"
            )
        if self.path.source is None and self.schedule != CONSTANT:
            raise ValueError(f"a path without a source is the target alone, so taus must be [1]; got {self.schedule}")


@dataclass
class History:
    """What happened in each epoch; every list has one value an epoch. A run that diverged has the epochs before it.

    tau: the task trained on; train_loss, train_accuracy: over the mini-batches as they came, on p_tau; val_loss, val_accuracy: on the
    target's validation data, its first 1,000 examples (accuracies are NaN for a regression); length: the weight trajectory so far, the
    sum over steps of |dw| (2-norm over all trainable weights), the paper's fine-tuning distance (section 4.2); source_loss: on the source's
    validation data, and start_loss: (source, target) before the first epoch, both only where the schedule is adaptive; seconds: of wall time,
    an equal share where replicas train as one stack.
    """

    tau: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    length: list[float] = field(default_factory=list)
    source_loss: list[float] = field(default_factory=list)
    start_loss: tuple[float, float] | None = None
    diverged: str | None = None
    seconds: float = 0.0


class TrainingDiverged(ArithmeticError):
    """The loss became infinite or NaN; `history` keeps the epochs before."""

    def __init__(self, history: History):
        super().__init__(history.diverged)
        self.history = history


def fit(
    replicas: Sequence[Replica],
    *,
    device: str = "cpu",
    on_epoch: Callable[[list[Replica], list[History]], bool | None] | None = None,
    on_done: Callable[[int, History], None] | None = None,
    label: str = "training",
) -> list[History]:
    """Histories of the replicas, whose networks are trained in place.

    on_epoch: called after every epoch with replicas and histories so far, may return True to stop; needs networks that train in this
    process: one CNN, or a stack. on_done: called with a replica's index and history as soon as it is trained. label: of the progress bar.
    A replica whose loss is not finite keeps its weights of the epoch before and says so in `History.diverged`; a single one raises
    `TrainingDiverged`, which names epoch, step, tau and learning rate.
    Raises ValueError for a device that is not there.
    """
    check_device(device)
    histories: list[History] = [History() for _ in replicas]

    def done(row: int, history: History) -> None:
        histories[row] = history
        if on_done:
            on_done(row, history)

    jobs = _strategies(replicas, parts=1 if on_epoch or device != "cpu" else usable_cores())
    if on_epoch and len(jobs) > 1:
        raise ValueError("on_epoch needs networks that train in this process: one CNN, or MLPs of one shape")
    if device != "cpu" or len(jobs) <= 1:
        for rows, program in jobs:
            name = f"{label} x {len(rows)}" if len(rows) > 1 else label
            with one_thread():
                trained = _train([replicas[row] for row in rows], program, device, on_epoch, name)
            for row, history in zip(rows, trained, strict=True):
                done(row, history)
    else:
        _train_apart(replicas, jobs, done, label)
    if len(replicas) == 1 and histories[0].diverged:
        raise TrainingDiverged(histories[0])
    return histories


@contextmanager
def one_thread() -> Iterator[None]:
    """One processor thread inside: the bits of a training depend on their number, so alone and among others it must be the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_apart(replicas: Sequence[Replica], jobs: Sequence[tuple[list[int], type]], done: Callable[[int, History], None], label: str) -> None:
    def arrived(job: int, trained: list[tuple[dict[str, Tensor], Watch | None, History]]) -> None:
        for row, (state, watch, history) in zip(jobs[job][0], trained, strict=True):
            replicas[row].net.load_state_dict(state)
            replicas[row].net.eval()
            replicas[row].watch = watch
            done(row, history)

    groups = [([replicas[row] for row in rows], program) for rows, program in jobs]
    spread(_trained_states, groups, arrived, [len(rows) for rows, _ in jobs], label)


def _trained_states(group: Sequence[Replica], program_type: type) -> list[tuple[dict[str, Tensor], Watch | None, History]]:
    """What a process sends back: its copies of the networks are not the caller's."""
    histories = _train(group, program_type, "cpu")
    return [(replica.net.state_dict(), replica.watch, history) for replica, history in zip(group, histories, strict=True)]


def check_device(device: str) -> None:
    """Raises ValueError if the device is not there."""
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if device not in there:
        raise ValueError(f"device {device!r} is not there; this machine has {', '.join(there)}")


def _strategies(replicas: Sequence[Replica], parts: int) -> list[tuple[list[int], type]]:
    """Which replicas train together, as which program: decided here alone, by what was measured.

    On a CPU stacked matrix products are faster than single ones, stacked convolutions slower (44 ms a step one by one, 61 ms stacked). So
    nets without convolutions that share a shape and a size of data are stacked, in as many parts as there are cores, and every CNN is a job
    of its own.
    """
    jobs: list[tuple[list[int], type]] = []
    stacks: dict[tuple, list[int]] = {}
    for row, replica in enumerate(replicas):
        partly_frozen = not all(p.requires_grad for p in replica.net.parameters())
        if partly_frozen or any(isinstance(module, torch.nn.Conv2d) for module in replica.net.modules()):
            jobs.append(([row], Single))
        else:
            net, ends = replica.net, (replica.path.target, *([replica.path.source] if replica.schedule.adaptive else []))
            data = len(replica.path), *(task.x_val.shape for task in ends)
            kind = str(net), net.still_statistics, net.head.weight.dtype, replace(replica.sgd, lr=1.0), data
            stacks.setdefault(kind, []).append(row)
    groups = [rows[part::parts] for rows in stacks.values() for part in range(min(parts, len(rows)))]
    return jobs + [(rows, Stacked if len(rows) > 1 else Single) for rows in groups]


def _train(group: Sequence[Replica], program_type: type, device: str, on_epoch=None, label: str | None = None) -> list[History]:
    """The loop. group: replicas that differ in weights, data, path, seed and learning rate, but not in shapes or the rest of SGD."""
    started = time.perf_counter()
    for replica in group:
        replica.net.to(device, memory_format=torch.channels_last)
    paths = [replica.path.to(device) for replica in group]
    program = program_type([replica.net for replica in group])
    optimiser = _Momentum(program, group)
    histories = [History() for _ in group]
    epochs = range(group[0].sgd.epochs)
    adaptive = group[0].schedule.adaptive
    if adaptive:
        for history, *losses in zip(histories, _source_losses(program, paths), _validate(program, [path.target for path in paths])[0], strict=True):
            history.start_loss = tuple(map(float, losses))
    for epoch in epochs if label is None else tqdm(epochs, desc=label, unit="epoch", leave=False):
        before = program.snapshot()
        taus = [replica.schedule.tau(epoch, len(epochs), history) for replica, history in zip(group, histories, strict=True)]
        if epoch == 0:
            _look(group, paths, taus, 0)
        losses, accuracy = _epoch(program, optimiser, group, paths, taus, epoch)
        val_loss, val_accuracy = _validate(program, [path.target for path in paths])
        source_losses = _source_losses(program, paths) if adaptive else None
        values = torch.stack([losses.sum(0), accuracy, val_loss, val_accuracy, optimiser.length]).tolist()
        for r, history in enumerate(histories):
            if history.diverged is None and not (losses[:, r].isfinite().all() and math.isfinite(values[2][r] + values[4][r])):
                history.diverged = _divergence(losses[:, r], epoch, taus[r], group[r])
            if history.diverged:  # frozen where it was last sound; the others go on
                program.restore(before, r)
                optimiser.velocity[r] = 0
            else:
                _record(history, taus[r], *(row[r] for row in values), regression=paths[r].target.is_regression)
                if adaptive:
                    history.source_loss.append(float(source_losses[r]))
        program.write_back()
        _look(group, paths, taus, epoch + 1)
        if all(history.diverged for history in histories) or (on_epoch and on_epoch(list(group), histories)):
            break
    for replica in group:
        replica.net.eval()
    for history in histories:
        history.seconds = (time.perf_counter() - started) / len(group)
    return histories


def _source_losses(program: Single | Stacked, paths: Sequence[Path]) -> Tensor:
    return _validate(program, [path.source for path in paths])[0]


def _look(group: Sequence[Replica], paths: Sequence[Path], taus: Sequence[float], done: int) -> None:
    for replica, path, tau in zip(group, paths, taus, strict=True):
        if replica.watch:
            replica.watch(replica.net, path, tau, done, replica.sgd.epochs)


def _epoch(
    program, optimiser: "_Momentum", group: Sequence[Replica], paths: Sequence[Path], taus: Sequence[float], epoch: int
) -> tuple[Tensor, Tensor]:
    """Train for one epoch. Returns each step's share of the mean loss, (t, r), and the accuracy, (r,); read by the caller, so that no
    step waits for the device."""
    program.train(True)
    losses, right, n = [], 0, len(paths[0])
    for x, y, masks in _batches(group, paths, taus, epoch, program.weights.dtype):
        output = program(x, masks)  # (r, b, k)
        loss = example_loss(output, y).mean(1)  # (r,)
        program.backward(loss)
        optimiser.step()
        losses.append(loss.detach() * x.shape[1] / n)
        right = right + (output.argmax(2) == y.argmax(2)).sum(1)
    return torch.stack(losses), right / n


class _Momentum:
    """SGD with momentum on the flat (r, P) weights of a program; `length` is the (r,) length of the path that they have taken."""

    def __init__(self, program: Single | Stacked, group: Sequence[Replica]):
        self.program, self.sgd, self.steps_done = program, group[0].sgd, 0
        self.steps = self.sgd.epochs * math.ceil(len(group[0].path) / self.sgd.batch_size)
        self.lr = torch.tensor([[replica.sgd.lr] for replica in group], dtype=program.weights.dtype, device=program.weights.device)
        self.velocity = torch.zeros_like(program.weights)
        self.length = self.velocity.sum(1)
        self.start = program.weights.clone() if self.sgd.l2_sp else None
        self.first_layer = next(p for p in group[0].net.parameters() if p.requires_grad).numel()  # lies first in the weights

    @torch.no_grad()
    def step(self) -> None:
        weights, gradient, sgd = self.program.weights, self.program.gradient, self.sgd
        if sgd.weight_decay:
            gradient.add_(weights, alpha=sgd.weight_decay)
        if sgd.l2_sp:
            gradient.add_(weights - self.start, alpha=sgd.l2_sp)
        if sgd.l1:
            gradient[:, : self.first_layer] += sgd.l1 * weights[:, : self.first_layer].sign()
        self.velocity.mul_(sgd.momentum).addcmul_(gradient, self.lr * sgd.rate(self.steps_done, self.steps))
        weights.sub_(self.velocity)
        self.length += self.velocity.norm(dim=1)
        self.steps_done += 1


def _record(
    history: History, tau: float, train_loss: float, train_accuracy: float, val_loss: float, val_accuracy: float, length: float, *, regression: bool
) -> None:
    history.tau.append(tau)
    history.train_loss.append(train_loss)
    history.train_accuracy.append(math.nan if regression else train_accuracy)
    history.val_loss.append(val_loss)
    history.val_accuracy.append(math.nan if regression else val_accuracy)
    history.length.append(length)


def _divergence(losses: Tensor, epoch: int, tau: float, replica: Replica) -> str:
    bad = (~losses.isfinite()).nonzero()
    step = f"step {int(bad[0])}" if len(bad) else "its last step"
    where = f"epoch {epoch}, {step}, tau = {tau:g}, learning rate {replica.sgd.lr:g}, seed {replica.seed}"
    return f"the loss is not finite at {where}; lower the learning rate"


def example_loss(output: Tensor, y: Tensor) -> Tensor:
    """(..., n) losses: cross-entropy -sum_k y_k log p_k for (..., n, k) soft labels, squared error where k = 1."""
    if output.shape[-1] == 1:
        return (output - y).square()[..., 0]
    return -(y * output.log_softmax(-1)).sum(-1)


def _batches(
    group: Sequence[Replica], paths: Sequence[Path], taus: Sequence[float], epoch: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Mini-batches of one epoch: (r, n, ...) inputs, (r, n, k) soft labels and dropout masks."""
    draws = [path.draw(tau, replica.seed, epoch) for path, tau, replica in zip(paths, taus, group, strict=True)]
    noise = [generator(replica.seed, "dropout", epoch) for replica in group]
    shapes = group[0].net.mask_shapes(as_float(paths[0].target.x_train[:1], dtype))
    n, size = len(paths[0]), group[0].sgd.batch_size
    for start in range(0, n, size):
        batches = [path.batch(draw, slice(start, start + size)) for path, draw in zip(paths, draws, strict=True)]
        x, y = (torch.stack(parts).to(dtype) for parts in zip(*batches, strict=True))
        yield _channels_last(x), y, [_masks(noise, rate, (x.shape[1], *shape), x) for rate, shape in shapes]


def _masks(noise: Sequence, rate: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """(r, n, ...) dropout masks: 0 with probability rate (to 1 / 65,536), else 1 / (1 - rate)."""
    kept = [torch.from_numpy(rng.integers(0, 65_536, shape, dtype="uint16") >= round(rate * 65_536)) for rng in noise]
    return torch.stack(kept).to(like.device, like.dtype).div_(1 - rate)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous() if x.ndim != 5 else x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


@torch.no_grad()
def _validate(program: Single | Stacked, tasks: Sequence[Task], size: int = 125) -> tuple[Tensor, Tensor]:
    """(r,) mean losses and accuracies on the tasks' validation data, `size` examples at a time."""
    program.train(False)
    loss = right = 0
    n = min(len(tasks[0].y_val), VALIDATION)
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        x = torch.stack([as_float(task.x_val[rows], program.weights.dtype) for task in tasks])
        y = torch.stack([soft_labels(task, task.y_val[rows]) for task in tasks]).to(x.dtype)
        output = program(_channels_last(x))
        loss = loss + example_loss(output, y).sum(1)
        right = right + (output.argmax(2) == y.argmax(2)).sum(1)
    return loss / n, right / n
