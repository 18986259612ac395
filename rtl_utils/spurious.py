"""What is planted into a task: a tennis ball into images, permuted columns into features. The task given is never changed."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rtl_utils.randomness import generator
from rtl_utils.tasks import Task

_OPTIC_YELLOW = (204, 255, 0)
_SEAM = (250, 255, 240)


def ball(size: int) -> Tensor:
    """A drawn tennis ball: (4, size, size) float RGBA, colours 0 ... 255, alpha 0 ... 1 (the share of the pixel that the disc covers)."""
    fine = 16  # sub-pixels a pixel, in each direction
    axis = (torch.arange(size * fine) + 0.5) / (size * fine) * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = (x**2 + y**2 <= 1).float()
    seam = ((((x.abs() - 1.15) ** 2 + y**2).sqrt() - 0.75).abs() < 0.09).float()  # two arcs, as on the real thing
    colours = [yellow * (1 - seam) + white * seam for yellow, white in zip(_OPTIC_YELLOW, _SEAM, strict=True)]
    cells = torch.stack([*(c * inside for c in colours), inside])
    mean = torch.nn.functional.avg_pool2d(cells, fine)
    return torch.cat([mean[:3] / mean[3:].clamp(min=1e-6), mean[3:]])


def plant_ball(task: Task, classes: str | tuple[str, ...], seed: int, splits: tuple[str, ...] = ("train", "val")) -> Task:
    """The task with a ball on every image of the classes (Salman et al. 2022, sec. 3; paper, section 4.2).

    classes: "all" or names of classes; splits: which of "train" and "val" are planted. The ball is 4 x 4 on 32 x 32
    images and 3 x 3 on 16 x 16; each image's place is drawn once by (seed, split) and lies wholly inside the image, the same
    whatever the classes.
    Raises ValueError for a task without images or a class that it lacks.
    """
    if task.x_train.ndim != 4:
        raise ValueError(
            f"a ball can be planted into images only; task {task.name!r} of {task.dataset} has {task.x_train.ndim - 1}-dimensional inputs"
        )
    labels = range(task.outputs) if classes == "all" else [task.class_index(name) for name in ((classes,) if isinstance(classes, str) else classes)]
    planted = {}
    for split in splits:
        images, y = getattr(task, f"x_{split}"), getattr(task, f"y_{split}")
        rows = torch.isin(y, torch.tensor(list(labels), device=y.device)).nonzero()[:, 0]
        planted[f"x_{split}"] = plant(images, rows, ball_places(images, seed, split))
    return replace(task, **planted)


def plant_share(task: Task, classes: tuple[str, ...], share: float, seed: int) -> Task:
    """The task with a ball on a share of the training images of each of the classes, at least one, drawn by the seed.

    The places are those of `plant_ball`. Raises ValueError for a share outside (0, 1], a task without images or a class that it lacks.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1]; got {share!r}")
    planted = plant_ball(task, classes, seed, splits=("train",)).x_train
    x, rng = task.x_train.clone(), generator(seed, "ball-share")
    for name in classes:
        rows = (task.y_train == task.class_index(name)).nonzero()[:, 0]
        chosen = rows[torch.from_numpy(rng.permutation(len(rows))[: max(1, round(share * len(rows)))])]
        x[chosen] = planted[chosen]
    return replace(task, x_train=x)


def ball_size(side: int) -> int:
    """Side of the ball in pixels: 4 on 32 x 32 images, 3 on 16 x 16."""
    return 4 if side >= 32 else 3


def ball_places(images: Tensor, seed: int, split: str) -> Tensor:
    """(n, 2) top-left corners, one an image, uniform over the places where the ball fits."""
    free = images.shape[-1] - ball_size(images.shape[-1]) + 1
    return torch.from_numpy(generator(seed, f"ball-{split}").integers(0, free, (len(images), 2)))


def plant(images: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """A copy of the images with the ball alpha-blended at its place on the given rows.

    images: (n, 3, h, w) uint8; rows: (m,) indices; places: (n, 2) corners.
    """
    size = ball_size(images.shape[-1])
    colour, alpha = ball(size).split([3, 1])
    planted, offset = images.clone(), torch.arange(size)
    rows = rows.cpu()
    down = places[rows, 0, None, None] + offset[:, None]  # (m, size, 1)
    across = places[rows, 1, None, None] + offset[None, :]  # (m, 1, size)
    patch = images[rows[:, None, None], :, down, across].float().cpu()  # (m, size, size, 3)
    mixed = alpha.permute(1, 2, 0) * colour.permute(1, 2, 0) + (1 - alpha.permute(1, 2, 0)) * patch
    planted[rows[:, None, None], :, down, across] = mixed.round().to(torch.uint8).to(images.device)
    return planted


def permute_features(task: Task, seed: int, by: str = "columns", features: int = 20) -> Task:
    """The task with its first `features` features permuted (paper, section 5.1), in raw units.

    by = "columns": one fixed permutation without fixed points moves each feature to another's place; means differ, so the inputs shift.
    by = "rows": each column is shuffled over the examples; independent features keep their distribution, so nothing changes: a control.
    Raises ValueError for another `by`, or images.
    """
    if by not in ("columns", "rows"):
        raise ValueError(f"by must be 'columns' or 'rows'; got {by!r}")
    if task.x_train.ndim != 2:
        raise ValueError(f"features can be permuted in tables only; task {task.name!r} of {task.dataset} holds images")
    rng = generator(seed, f"permute-{by}")
    cycle = rng.permutation(features)
    moved = np.arange(features)
    moved[cycle] = np.roll(cycle, 1)  # one cycle through all: no feature stays
    permuted = {}
    for split in ("x_train", "x_val"):
        x = getattr(task, split).clone()
        if by == "columns":
            x[:, :features] = x[:, torch.from_numpy(moved)]
        else:
            for column in range(features):
                x[:, column] = x[torch.from_numpy(rng.permutation(len(x))), column]
        permuted[split] = x
    return replace(task, **permuted)
