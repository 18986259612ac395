"""The one training loop, over one network or a population of them."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace

import torch
from loky import get_reusable_executor
from torch import Tensor
from tqdm.auto import tqdm

from rtl_utils.models import Net
from rtl_utils.paths import Grid, Path, soft_labels
from rtl_utils.populations import Single, Stacked
from rtl_utils.randomness import generator
from rtl_utils.tasks import as_float

VALIDATION = 1_000  # validation examples looked at after each epoch, at most: looking must cost little beside training
_STEPS_AT_ONCE = 32  # mini-batches gathered and blended together: uint8 until then


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with the paper's settings (section 5.2); momentum 0.9 is the project's reading.

    v <- momentum v + lr_t (grad + weight_decay w),  w <- w - v. With `cosine`, lr_t falls from lr to 0 along half a cosine. `l1` adds the
    lasso penalty l1 sum |w| over the first layer's weights, which asks each unit to read few inputs (notebook 01 needs it).
    Raises ValueError for a value outside its range.
    """

    lr: float = 1e-2
    epochs: int = 50
    batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 0.0
    l1: float = 0.0
    cosine: bool = False

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more; got {getattr(self, name)!r}")
        for name, low, high in (("lr", 0, math.inf), ("momentum", 0, 1), ("weight_decay", 0, math.inf), ("l1", 0, math.inf)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value < high or (name == "lr" and value == 0):
                rule = "positive" if name == "lr" else "in [0, 1)" if name == "momentum" else "0 or more"
                raise ValueError(f"{name} must be a number, {rule}; got {value!r}")

    def rate(self, step: int, steps: int) -> float:
        """lr_t / lr at a step of the whole training."""
        return (1 + math.cos(math.pi * step / steps)) / 2 if self.cosine else 1.0


@dataclass
class Replica:
    """One training: a network (trained in place), a path of tasks, a schedule of tau, a seed and how SGD runs.

    Raises ValueError for a mini-batch larger than the data, or a tau below 1 on a path without a source.
    """

    net: Net
    path: Path
    schedule: Grid
    seed: int
    sgd: Sgd = Sgd()

    def __post_init__(self):
        if self.sgd.batch_size > len(self.path):
            raise ValueError(
                f"batch_size must be at most the {len(self.path)} training examples of {self.path.target.name!r}; got {self.sgd.batch_size}"
            )
        if self.path.source is None and self.schedule.taus != (1.0,):
            raise ValueError(f"a path without a source is the target alone, so taus must be [1]; got {list(self.schedule.taus)}")


@dataclass
class History:
    """What happened in each epoch; every list has one value an epoch. A run that diverged has the epochs before it.

    tau: the task trained on; train_loss, train_accuracy: over the mini-batches as they came, on p_tau; val_loss, val_accuracy: on the
    target's validation data, its first 1,000 examples (accuracies are NaN for a regression); length: the weight trajectory so far, the
    sum over steps of |dw| (2-norm over all trainable weights), the paper's fine-tuning distance (section 4.2).
    """

    tau: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    length: list[float] = field(default_factory=list)
    diverged: str | None = None


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

    jobs = _strategies(replicas, 1 if on_epoch or device != "cpu" else usable_cores())
    if device != "cpu" or len(jobs) <= 1:
        for rows, program in jobs:
            trained = _train([replicas[row] for row in rows], program, device, on_epoch, f"{label} x {len(rows)}" if len(rows) > 1 else label)
            for row, history in zip(rows, trained, strict=True):
                done(row, history)
    elif on_epoch:
        raise ValueError("on_epoch needs networks that train in this process: one CNN, or MLPs of one shape")
    else:
        _train_in_processes(replicas, jobs, done, label)
    if len(replicas) == 1 and histories[0].diverged:
        raise TrainingDiverged(histories[0])
    return histories


def check_device(device: str) -> None:
    """Raises ValueError if the device is not there."""
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        there = "cpu and cuda" if torch.cuda.is_available() else "cpu only"
        raise ValueError(f"device {device!r} is not there; this machine has {there}")


def _strategies(replicas: Sequence[Replica], parts: int) -> list[tuple[list[int], type]]:
    """Which replicas train together, as which program: decided here alone, by what was measured (docs/performance.md).

    On a CPU stacked matrix products are faster than single ones, stacked convolutions slower. So nets without convolutions that share
    a shape and a size of data are stacked, in as many parts as there are cores, and every CNN is a job of its own.
    """
    jobs: list[tuple[list[int], type]] = []
    stacks: dict[tuple, list[int]] = {}
    for row, replica in enumerate(replicas):
        partly_frozen = not all(p.requires_grad for p in replica.net.parameters())
        if partly_frozen or any(isinstance(module, torch.nn.Conv2d) for module in replica.net.modules()):
            jobs.append(([row], Single))
        else:
            kind = str(replica.net), replace(replica.sgd, lr=1.0), len(replica.path), replica.path.target.x_val.shape
            stacks.setdefault(kind, []).append(row)
    return jobs + [(rows[part::parts], Stacked) for rows in stacks.values() for part in range(min(parts, len(rows)))]


def _train(group: Sequence[Replica], program_type: type, device: str, on_epoch=None, label: str | None = None) -> list[History]:
    """The loop. group: replicas that differ in weights, data, path, seed and learning rate, but not in shapes or the rest of SGD."""
    sgd = group[0].sgd
    for replica in group:
        replica.net.to(device, memory_format=torch.channels_last)
    paths = [replica.path.to(device) for replica in group]
    program = program_type([replica.net for replica in group])
    velocity = torch.zeros_like(program.weights)
    length = torch.zeros(len(group), dtype=program.weights.dtype, device=device)
    histories = [History() for _ in group]
    lr = torch.tensor([[replica.sgd.lr] for replica in group], dtype=program.weights.dtype, device=device)
    steps = math.ceil(len(paths[0]) / sgd.batch_size)
    first = next(p for p in group[0].net.parameters() if p.requires_grad).numel()  # the first layer's weights lie first in `program.weights`
    epochs = range(sgd.epochs) if label is None else tqdm(range(sgd.epochs), desc=label, unit="epoch", leave=False)
    for epoch in epochs:
        before = program.snapshot()
        taus = [replica.schedule.tau(epoch, sgd.epochs) for replica in group]
        losses, right, seen = [], 0, 0
        program.train(True)
        for step, (x, y, masks) in enumerate(_batches(group, paths, taus, epoch, sgd.batch_size, program.weights.dtype)):
            program.gradient.zero_()
            output = program(x, masks)  # (r, n, k)
            loss = example_loss(output, y).mean(1)  # (r,)
            loss.sum().backward()
            with torch.no_grad():
                if sgd.weight_decay:
                    program.gradient.add_(program.weights, alpha=sgd.weight_decay)
                if sgd.l1:
                    program.gradient[:, :first] += sgd.l1 * program.weights[:, :first].sign()
                velocity.mul_(sgd.momentum).add_(lr * sgd.rate(epoch * steps + step, sgd.epochs * steps) * program.gradient)
                program.weights.sub_(velocity)
                length += velocity.norm(dim=1)
                losses.append(loss.detach() * x.shape[1])
                right = right + (output.argmax(2) == y.argmax(2)).sum(1)
            seen += x.shape[1]
        losses = torch.stack(losses)  # (steps, r): read once an epoch, so that no step waits for the device
        val_loss, val_accuracy = _validate(program, paths)
        for r, history in enumerate(histories):
            if history.diverged is None and not losses[:, r].isfinite().all():
                bad = int((~losses[:, r].isfinite()).nonzero()[0, 0])
                where = f"epoch {epoch}, step {bad}, tau = {taus[r]:g}, learning rate {group[r].sgd.lr:g}, seed {group[r].seed}"
                history.diverged = f"the loss is not finite at {where}; lower the learning rate"
            if history.diverged is not None:
                program.restore(before, r)  # frozen where it was last sound; the others go on
                velocity[r] = 0
                continue
            regression = paths[r].target.is_regression
            history.tau.append(taus[r])
            history.train_loss.append(float(losses[:, r].sum() / seen))
            history.train_accuracy.append(math.nan if regression else float(right[r] / seen))
            history.val_loss.append(float(val_loss[r]))
            history.val_accuracy.append(math.nan if regression else float(val_accuracy[r]))
            history.length.append(float(length[r]))
        program.write_back()
        if all(history.diverged for history in histories) or (on_epoch and on_epoch(list(group), histories)):
            break
    for replica in group:
        replica.net.eval()
    return histories


def example_loss(output: Tensor, y: Tensor) -> Tensor:
    """(..., n) losses: cross-entropy -sum_k y_k log p_k for (..., n, k) soft labels, squared error where k = 1."""
    if output.shape[-1] == 1:
        return (output - y).square()[..., 0]
    return -(y * output.log_softmax(-1)).sum(-1)


def _batches(
    group: Sequence[Replica], paths: Sequence[Path], taus: Sequence[float], epoch: int, size: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Mini-batches of one epoch: (r, n, ...) inputs, (r, n, k) soft labels and dropout masks."""
    draws = [path.draw(tau, replica.seed, epoch) for path, tau, replica in zip(paths, taus, group, strict=True)]
    noise = [generator(replica.seed, "dropout", epoch) for replica in group]
    shapes = group[0].net.mask_shapes(as_float(paths[0].target.x_train[:1], dtype))
    n = len(paths[0])
    for start in range(0, n, size * _STEPS_AT_ONCE):
        rows = slice(start, start + size * _STEPS_AT_ONCE)
        chunks = [path.batch(draw, rows) for path, draw in zip(paths, draws, strict=True)]
        x, y = (torch.stack(parts).to(dtype) for parts in zip(*chunks, strict=True))
        for a in range(0, x.shape[1], size):
            batch = x[:, a : a + size]
            yield _channels_last(batch), y[:, a : a + size], [_masks(noise, rate, (batch.shape[1], *shape), batch) for rate, shape in shapes]


def _masks(noise: Sequence, rate: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """(r, n, ...) dropout masks: 0 with probability rate (to 1 / 65,536), else 1 / (1 - rate)."""
    kept = [torch.from_numpy(rng.integers(0, 65_536, shape, dtype="uint16") >= round(rate * 65_536)) for rng in noise]
    return torch.stack(kept).to(like.device, like.dtype).div_(1 - rate)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous() if x.ndim != 5 else x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


@torch.no_grad()
def _validate(program: Single | Stacked, paths: Sequence[Path], size: int = 125) -> tuple[Tensor, Tensor]:
    """(r,) mean losses and accuracies on the targets' validation data, `size` examples at a time."""
    program.train(False)
    targets, loss, right = [path.target for path in paths], 0, 0
    n = min(len(targets[0].y_val), VALIDATION)
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        x = torch.stack([as_float(task.x_val[rows], program.weights.dtype) for task in targets])
        y = torch.stack([soft_labels(task, task.y_val[rows]) for task in targets]).to(x.dtype)
        output = program(_channels_last(x))
        loss = loss + example_loss(output, y).sum(1)
        right = right + (output.argmax(2) == y.argmax(2)).sum(1)
    return loss / n, right / n


# --- processes ----------------------------------------------------------------------------------------------------------------------------


def _train_in_processes(
    replicas: Sequence[Replica], jobs: Sequence[tuple[list[int], type]], done: Callable[[int, History], None], label: str
) -> None:
    """Train each job in a process of one thread, as many at a time as there are cores; one whose process dies is trained again."""
    waiting, attempts = list(jobs), 3
    with tqdm(total=sum(len(rows) for rows, _ in jobs), desc=label, unit="run") as bar:
        for attempt in range(attempts):
            executor = get_reusable_executor(max_workers=min(len(jobs), usable_cores()), timeout=300, reuse=attempt == 0)
            futures = {executor.submit(_train_apart, [replicas[row] for row in rows], program): (rows, program) for rows, program in waiting}
            try:
                for future in as_completed(futures):
                    rows, _ = job = futures[future]
                    for row, (state, history) in zip(rows, future.result(), strict=True):
                        replicas[row].net.load_state_dict(state)
                        replicas[row].net.eval()
                        done(row, history)
                    waiting.remove(job)
                    bar.update(len(rows))
                return
            except BrokenProcessPool:
                if attempt == attempts - 1:
                    raise
                bar.write(f"a worker process died; {sum(len(rows) for rows, _ in waiting)} trainings start again")


def _train_apart(group: Sequence[Replica], program: type) -> list[tuple[dict[str, Tensor], History]]:
    torch.set_num_threads(1)  # at mini-batches of 16, two processes of one thread beat one of two
    torch.set_flush_denormal(True)
    histories = _train(group, program, "cpu")
    return [(replica.net.state_dict(), history) for replica, history in zip(group, histories, strict=True)]


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
