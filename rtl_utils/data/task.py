"""`Task`: what a network is trained on, as tensors. Images stay uint8 until the mini-batch."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rtl_utils.messages import shown
from rtl_utils.randomness import generator

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Task:
    """Training and validation data of one task.

    Args:
        name: of the task, such as "flowers".
        dataset: the data set that it belongs to.
        x_train: (n, c, h, w) uint8 images, or (n, d) float features.
        y_train: (n,) whole-number labels 0 ... k - 1, or (n, 1) float responses.
        x_val: as x_train.
        y_val: as y_train.
        class_names: one name per label; empty for a regression.

    Raises:
        ValueError: for inputs or labels of another type, shape or range, or none at all.
    """

    name: str
    dataset: str
    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names: Any = self.class_names
        if isinstance(names, str) or len(set(names)) != len(names) or len(names) == 1:
            raise ValueError(
                f"class_names of task {self.name!r} must be two or more different names, or none "
                f"for a regression; got {shown(names)}"
            )
        for split in ("train", "val"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            _check_inputs(x, f"x_{split} of task {self.name!r}")
            if not isinstance(y, Tensor) or y.ndim == 0:
                raise ValueError(f"y_{split} of task {self.name!r} must be a tensor of labels")
            if len(x) != len(y) or len(x) == 0:
                sizes = f"{len(x)} inputs and {len(y)} labels"
                raise ValueError(
                    f"task {self.name!r} needs one label per input, and at least one; "
                    f"its {split} split has {sizes}"
                )
            if self.is_regression:
                _check_responses(y, f"y_{split} of task {self.name!r}")
            else:
                _check_labels(y, self.class_names, f"y_{split} of task {self.name!r}")
                object.__setattr__(self, f"y_{split}", y.long())

        shapes = [tuple(x.shape[1:]) for x in (self.x_train, self.x_val)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"task {self.name!r} needs training and validation inputs of one shape; "
                f"got {shapes[0]} and {shapes[1]}"
            )

    @property
    def is_regression(self) -> bool:
        """Whether the labels are responses."""
        return not self.class_names

    @property
    def outputs(self) -> int:
        """Width of the head: number of classes, or 1 for a regression."""
        return len(self.class_names) or 1

    @property
    def side(self) -> int:
        """Width of the images in pixels; the number of features of a table."""
        return int(self.x_train.shape[-1])

    def to(self, device: str) -> "Task":
        """The same task with its tensors on the device."""
        return replace(
            self,
            x_train=self.x_train.to(device),
            y_train=self.y_train.to(device),
            x_val=self.x_val.to(device),
            y_val=self.y_val.to(device),
        )

    def class_index(self, name: str) -> int:
        """Label of a class.

        Raises:
            ValueError: if the task has no such class.
        """
        if name not in self.class_names:
            names = ", ".join(self.class_names) or "no classes"
            raise ValueError(f"class {name!r} is not in task {self.name!r}; it has {names}")
        return self.class_names.index(name)


def as_float(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Network inputs: pixels 0 ... 255 become (x / 255 - 0.5) / 0.25; features pass unchanged.

    The constants are the same for every task, so mixing pixels and mixing inputs is the same thing.
    """
    return (x.to(dtype) / 255 - 0.5) / 0.25 if x.dtype == torch.uint8 else x.to(dtype)


def soft_labels(task: Task, y: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(n,) labels as (n, k) one-hot probabilities; responses of a regression unchanged."""
    return y.to(dtype) if task.is_regression else one_hot(y, task.outputs).to(dtype)


def subset(task: Task, n_train: int, seed: int) -> Task:
    """The task with fewer training examples; its validation data are unchanged.

    Args:
        task: the whole task.
        n_train: training examples per class, or in all for a regression.
        seed: draws them.

    Raises:
        ValueError: if n_train is below 1 or above what the smallest class has.
    """
    groups = _groups(task)
    if task.is_regression:
        of = f"training samples that {task.name!r} has"
    else:
        of = f"images that the smallest class of {task.name!r} has"
    smallest = min(len(group) for group in groups)
    if type(n_train) is not int or not 1 <= n_train <= smallest:
        raise ValueError(
            f"n_train must lie between 1 and {smallest}, the {of}; got {shown(n_train)}"
        )
    rng = generator(seed, "subset")
    drawn = [group[torch.from_numpy(rng.permutation(len(group))[:n_train])] for group in groups]
    rows = torch.cat(drawn)
    return replace(task, x_train=task.x_train[rows], y_train=task.y_train[rows])


def at_most(task: Task, n_train: int | None, seed: int) -> Task:
    """`subset`, or as many of each class as the smallest has where that is fewer.

    Args:
        task: the whole task.
        n_train: see `subset`; None changes nothing.
        seed: see `subset`.
    """
    if n_train is None:
        return task
    return subset(task, min(n_train, *map(len, _groups(task))), seed)


def hold_out(task: Task, share: float, seed: int) -> tuple[Task, Task]:
    """Split the training data, so that a choice can be made on examples that are not scored.

    Args:
        task: the whole task.
        share: of each class's training examples that is held out, in (0, 1); at least one.
        seed: draws them.

    Returns:
        The task with the other training examples; and the same with the held-out ones in place of
        its validation data.

    Raises:
        ValueError: for a share out of range, or a class with a single training example.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, without its ends; got {share!r}")
    rng = generator(seed, "held-out")
    held, kept = [], []
    for rows in filter(len, _groups(task)):
        if len(rows) < 2:
            raise ValueError(
                f"a class of {task.name!r} has a single training example, and to hold out a part "
                "it needs two or more; raise n_train"
            )
        drawn = rows[torch.from_numpy(rng.permutation(len(rows)))]
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held.append(drawn[:count])
        kept.append(drawn[count:])
    chosen, others = torch.cat(held), torch.cat(kept)
    rest = replace(task, x_train=task.x_train[others], y_train=task.y_train[others])
    return rest, replace(rest, x_val=task.x_train[chosen], y_val=task.y_train[chosen])


def _groups(task: Task) -> list[Tensor]:
    """Rows of each class's training examples; of all of them for a regression."""
    if task.is_regression:
        return [torch.arange(len(task.y_train))]
    return [(task.y_train == k).nonzero()[:, 0] for k in range(task.outputs)]


def disjoint(source: Task, target: Task) -> tuple[Task, Task]:
    """Both tasks with one head for all classes: first the source's labels, then the target's.

    Source: Gao & Chaudhari (2021).
    """
    second = target.class_names
    if set(second) & set(source.class_names):
        second = tuple(f"{name} (target)" for name in second)
    names = source.class_names + second
    shift = len(source.class_names)
    y_train, y_val = target.y_train + shift, target.y_val + shift
    return (
        replace(source, class_names=names),
        replace(target, class_names=names, y_train=y_train, y_val=y_val),
    )


def standardise(task: Task, by: Task) -> Task:
    """Features and responses in units of `by`'s training split: (value - mean) / sd.

    Args:
        task: a table.
        by: the task itself before training; or the task that a model was trained on, to show the
            model other data in its own units.
    """
    x_mean, x_sd = by.x_train.mean(0), by.x_train.std(0)
    y_mean, y_sd = by.y_train.mean(0), by.y_train.std(0)
    return replace(
        task,
        x_train=(task.x_train - x_mean) / x_sd,
        x_val=(task.x_val - x_mean) / x_sd,
        y_train=(task.y_train - y_mean) / y_sd,
        y_val=(task.y_val - y_mean) / y_sd,
    )


def _check_inputs(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor; got {type(x).__name__}")
    images = x.ndim == 4
    if images and x.dtype != torch.uint8:
        hint = "multiply images between 0 and 1 by 255 and convert them with .to(torch.uint8)"
        raise ValueError(f"{name} must be uint8 images, 0 to 255; got {x.dtype}; {hint}")
    if not images and (x.ndim != 2 or not x.is_floating_point()):
        raise ValueError(
            f"{name} must be (n, c, h, w) uint8 images or (n, d) float features; "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    if not images and x.device.type == "cpu" and not x.isfinite().all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinite features")


def _check_labels(y: Tensor, class_names: tuple[str, ...], name: str) -> None:
    k = len(class_names)
    if y.ndim != 1 or y.dtype not in _INTEGERS:
        raise ValueError(
            f"{name} must be (n,) whole-number labels 0 to {k - 1}; "
            f"got {y.dtype} of shape {tuple(y.shape)}"
        )
    if y.device.type == "cpu" and (int(y.min()) < 0 or int(y.max()) >= k):
        raise ValueError(
            f"{name} must hold labels 0 to {k - 1}, one per class name; "
            f"got labels {int(y.min())} to {int(y.max())}"
        )


def _check_responses(y: Tensor, name: str) -> None:
    if y.ndim != 2 or y.shape[1] != 1 or not y.is_floating_point():
        raise ValueError(
            f"{name} must be (n, 1) float responses, as the task has no class names; "
            f"got {y.dtype} of shape {tuple(y.shape)}"
        )
    if y.device.type == "cpu" and not y.isfinite().all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinite responses")
