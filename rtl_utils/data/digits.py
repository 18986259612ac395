"""Cluttered digits: real images that need no download and behave like the paper's."""

import numpy as np
import torch

from rtl_utils.data.task import Task
from rtl_utils.randomness import generator

_TRAINING = 0.7  # share of the images
CLASSES = {"digits-0-4": (0, 1, 2, 3, 4), "digits-5-9": (5, 6, 7, 8, 9)}


def digits(name: str, seed: int) -> Task:
    """Scikit-learn's 1,797 real 8 x 8 digits, each at a random place of a 16 x 16 image.

    Behind the digit lie six 4 x 4 fragments of digits from the training data of both tasks, so
    that nothing of an image that is scored is trained on; pixel noise of 0.1 of the range; 70 / 30
    split. The digits are grey and the images RGB, so that a shortcut can have a colour.

    The 8 x 8 images are a file inside scikit-learn, so they need no digest: versions 1.3.2
    and 1.9.1 have the same one. scikit-learn does not promise that; a test compares the images.

    Args:
        name: "digits-0-4" or "digits-5-9".
        seed: draws places, fragments, noise and split.

    Raises:
        ValueError: for another name.
    """
    from sklearn.datasets import load_digits  # slow to import, and only these images need it

    if name not in CLASSES:
        raise ValueError(f"digits has no task {name!r}; it has {', '.join(CLASSES)}")
    bunch = load_digits()
    images = bunch.images / 16
    streams = {task: generator(seed, f"digits-{task}") for task in CLASSES}
    orders = {
        task: streams[task].permutation(np.flatnonzero(np.isin(bunch.target, CLASSES[task])))
        for task in CLASSES
    }
    cuts = {task: round(_TRAINING * len(order)) for task, order in orders.items()}
    pool = np.concatenate([order[: cuts[task]] for task, order in orders.items()])
    rows, cut = orders[name], cuts[name]
    grey = np.stack([_clutter(images, row, pool, streams[name]) for row in rows])[:, None]
    x = torch.from_numpy(grey).repeat(1, 3, 1, 1)
    y = torch.from_numpy(bunch.target[rows] - CLASSES[name][0]).long()
    names = tuple(str(digit) for digit in CLASSES[name])
    return Task(name, "digits", x[:cut], y[:cut], x[cut:], y[cut:], names)


def _clutter(
    images: np.ndarray, row: int, pool: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(16, 16) image of the digit in a row, over fragments of digits from the pool of rows."""
    canvas = np.zeros((16, 16))
    for other in pool[rng.integers(0, len(pool), 6)]:
        cut_top, cut_left = rng.integers(0, 5, 2)
        top, left = rng.integers(0, 13, 2)
        fragment = images[other, cut_top : cut_top + 4, cut_left : cut_left + 4]
        canvas[top : top + 4, left : left + 4] = fragment
    top, left = rng.integers(0, 9, 2)
    canvas[top : top + 8, left : left + 8] = images[row]  # opaque: the digit covers the clutter
    canvas += rng.normal(0, 0.1, canvas.shape)
    return (255 * canvas.clip(0, 1)).round().astype(np.uint8)
