"""Shortcuts: patches that are planted into images. The task given is never changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rtl_utils.data.task import Task
from rtl_utils.messages import shown
from rtl_utils.randomness import generator

_OPTIC_YELLOW = (204, 255, 0)
_SEAM = (250, 255, 240)


@dataclass(frozen=True)
class Patch:
    """A picture that can be planted.

    Args:
        draw: side in pixels -> (4, side, side) float RGBA, colours 0 ... 255, alpha 0 ... 1.
        size: the usual one, as in `Shortcut`.
        place: the usual one, likewise.
        version: raised when its pixels change, so that stored runs are not mistaken for new ones.
    """

    draw: Callable[[int], Tensor]
    size: float = 1 / 8
    place: tuple[float, float] | None = None
    version: int = 1


@dataclass(frozen=True)
class Shortcut:
    """A patch, where it goes, and on which images.

    Args:
        patch: a name of PATCHES.
        classes: names of the classes whose images carry it; None for every class.
        probability: share of the training images of each of these classes that carry it, at least
            one image per class.
        size: side of the patch as a share of the image's side; at least three pixels are planted.
        place: None for a place drawn per image and seed; or (down, across), each 0 ... 1, one place
            for all images: (0, 0) is the top left corner.

    Raises:
        ValueError: for an unknown patch, no classes, or a value outside its range.
    """

    patch: str = "ball"
    classes: tuple[str, ...] | None = None
    probability: float = 1.0
    size: float = 1 / 8
    place: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.patch not in PATCHES:
            raise ValueError(f"patch must be one of {', '.join(PATCHES)}; got {self.patch!r}")
        place: Any = self.place
        object.__setattr__(self, "place", tuple(place) if isinstance(place, list) else place)
        named = self.classes is None or (type(self.classes) is tuple and len(self.classes) > 0)
        if not named:
            raise ValueError(f"classes must be names in a tuple, or None; got {self.classes!r}")
        for name in ("probability", "size"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= 1:
                raise ValueError(f"{name} must lie in (0, 1]; got {shown(value)}")
        if self.place is not None and not _is_place(self.place):
            raise ValueError(
                f"place must be two numbers in [0, 1], or None; got {shown(self.place)}"
            )

    @property
    def everywhere(self) -> "Shortcut":
        """The same on every image."""
        return replace(self, classes=None, probability=1.0)

    def pixels(self, side: int) -> int:
        """Side of the planted patch on images of that side: 4 on 32 x 32, 3 on 16 x 16."""
        return max(3, round(self.size * side))

    def __str__(self) -> str:
        """As tables write it, such as "ball on kangaroo"; what is unusual about it in brackets."""
        record = PATCHES[self.patch]
        unusual = [] if self.probability == 1 else [f"{self.probability:.0%}"]
        unusual += [] if self.size == record.size else [f"size {self.size:g}"]
        unusual += [] if self.place == record.place else [f"place {_place_text(self.place)}"]
        classes = ", ".join(self.classes) if self.classes else "all"
        return f"{self.patch} on {classes}" + (f" ({', '.join(unusual)})" if unusual else "")


def _place_text(place: tuple[float, float] | None) -> str:
    return "drawn" if place is None else " ".join(f"{share:g}" for share in place)


def plant(
    task: Task, shortcut: Shortcut, seed: int, splits: Sequence[str] = ("train", "val")
) -> Task:
    """The task with the shortcut on its images.

    Places are drawn by (seed, split) for every image, the same whatever the classes.

    Args:
        task: of images.
        shortcut: what is planted.
        seed: draws places and, for a probability below 1, the images.
        splits: which of "train" and "val" are planted.

    Raises:
        ValueError: for a task without images, or a class that it lacks.

    Source: Salman et al. (2022), section 3; the paper, section 4.2.
    """
    if task.x_train.ndim != 4:
        raise ValueError(
            f"a shortcut can be planted into images only; task {task.name!r} of {task.dataset} "
            f"has {task.x_train.ndim - 1}-dimensional inputs"
        )
    if isinstance(splits, str) or not set(splits) <= {"train", "val"}:
        raise ValueError(f"splits must be 'train', 'val' or both in a list; got {shown(splits)}")
    channels, height, width = task.x_train.shape[1:]
    if channels != 3 or height != width or width < shortcut.pixels(width):
        raise ValueError(
            "a shortcut is planted into square RGB images that are larger than it; task "
            f"{task.name!r} has images of {channels} x {height} x {width}"
        )
    names = task.class_names if shortcut.classes is None else shortcut.classes
    labels = [task.class_index(name) for name in names]
    planted = {"train": task.x_train, "val": task.x_val}
    for split in splits:
        images, y = planted[split], getattr(task, f"y_{split}")
        rows = _chosen(y, labels, shortcut.probability, seed, split)
        corners = places(shortcut, images, seed, split)
        planted[split] = blend_patch(images, rows, corners, shortcut)
    return replace(task, x_train=planted["train"], x_val=planted["val"])


def places(shortcut: Shortcut, images: Tensor, seed: int, split: str) -> Tensor:
    """(n, 2) top left corners, one per image; the patch lies wholly inside the image."""
    free = images.shape[-1] - shortcut.pixels(images.shape[-1])
    if shortcut.place is not None:
        corner = [round(part * free) for part in shortcut.place]
        return torch.tensor(corner).expand(len(images), 2)
    rng = generator(seed, f"ball-{split}")
    return torch.from_numpy(rng.integers(0, free + 1, (len(images), 2)))


def blend_patch(images: Tensor, rows: Tensor, corners: Tensor, shortcut: Shortcut) -> Tensor:
    """A copy of the images with the patch alpha-blended at its place on the given rows.

    Args:
        images: (n, 3, h, w) uint8.
        rows: (m,) indices.
        corners: (n, 2) top left corners.
        shortcut: which patch, and how large.
    """
    size = shortcut.pixels(images.shape[-1])
    rgba = PATCHES[shortcut.patch].draw(size).permute(1, 2, 0)
    colour, alpha = rgba.split([3, 1], dim=-1)
    planted = images.clone()
    offset = torch.arange(size)
    rows = rows.cpu()
    down = corners[rows, 0, None, None] + offset[:, None]  # (m, size, 1)
    across = corners[rows, 1, None, None] + offset[None, :]  # (m, 1, size)
    covered = images[rows[:, None, None], :, down, across].float().cpu()  # (m, size, size, 3)
    mixed = alpha * colour + (1 - alpha) * covered
    blended = mixed.round().to(torch.uint8).to(images.device)
    planted[rows[:, None, None], :, down, across] = blended
    return planted


def ball(size: int) -> Tensor:
    """A drawn tennis ball: (4, size, size) float RGBA; alpha is the disc's share of the pixel."""
    fine = 16  # sub-pixels per pixel, in each direction
    axis = (torch.arange(size * fine) + 0.5) / (size * fine) * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = (x**2 + y**2 <= 1).float()
    arcs = ((x.abs() - 1.15) ** 2 + y**2).sqrt()  # two, as on the real thing
    seam = ((arcs - 0.75).abs() < 0.09).float()
    colours = [
        yellow * (1 - seam) + white * seam
        for yellow, white in zip(_OPTIC_YELLOW, _SEAM, strict=True)
    ]
    cells = torch.stack([*(c * inside for c in colours), inside])
    mean = torch.nn.functional.avg_pool2d(cells, fine)
    return torch.cat([mean[:3] / mean[3:].clamp(min=1e-6), mean[3:]])


def stripe(size: int) -> Tensor:
    """A white line of one pixel across the middle of the patch: (4, size, size) float RGBA."""
    rgba = torch.zeros(4, size, size)
    rgba[:, size // 2] = torch.tensor([255.0, 255.0, 255.0, 1.0])[:, None]
    return rgba


def mark(size: int) -> Tensor:
    """A grey square, as a mark in a corner: (4, size, size) float RGBA."""
    rgba = torch.full((4, size, size), 128.0)
    rgba[3] = 1.0
    return rgba


def tint(size: int) -> Tensor:
    """A transparent orange, as of another light: (4, size, size) float RGBA."""
    rgba = torch.zeros(4, size, size)
    rgba[:] = torch.tensor([255.0, 140.0, 0.0, 0.3])[:, None, None]
    return rgba


PATCHES = {
    "ball": Patch(ball),
    "stripe": Patch(stripe, size=1.0, place=(0.0, 0.0)),
    "mark": Patch(mark, place=(1.0, 1.0)),
    "tint": Patch(tint, size=1.0, place=(0.0, 0.0)),
}


def usual(patch: str, classes: tuple[str, ...] | None = None) -> Shortcut:
    """The shortcut of a patch in its usual size and place.

    Args:
        patch: a name of PATCHES.
        classes: see `Shortcut`.

    Raises:
        ValueError: for an unknown patch, or no classes.
    """
    found = PATCHES.get(patch)
    if found is None:
        return Shortcut(patch, classes)  # which says what is allowed
    return Shortcut(patch, classes, size=found.size, place=found.place)


def _is_place(place: object) -> bool:
    return (
        isinstance(place, tuple | list)
        and len(place) == 2
        and all(type(part) in (int, float) and 0 <= part <= 1 for part in place)
    )


def _chosen(y: Tensor, labels: list[int], probability: float, seed: int, split: str) -> Tensor:
    """Rows of the images that carry the shortcut."""
    if probability == 1:
        return torch.isin(y, torch.tensor(labels, device=y.device)).nonzero()[:, 0]
    rng = generator(seed, "ball-share" if split == "train" else f"ball-share-{split}")
    chosen = []
    for label in labels:
        rows = (y == label).nonzero()[:, 0]
        count = max(1, round(probability * len(rows)))
        chosen.append(rows[torch.from_numpy(rng.permutation(len(rows))[:count])])
    return torch.cat(chosen)
