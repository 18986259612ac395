"""What files of images hold: an order that depends on contents alone, and a digest of them."""

import hashlib
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np


class OtherContentsWarning(UserWarning):
    """A file holds other images or labels than the data set's official ones."""


class Examples(NamedTuple):
    """The examples of one split in canonical order.

    Args:
        rows: (n,) where each example stands in the file.
        labels: (n,) label of each.
        mark: what the examples are; the same for the same images and labels, whatever their order.
    """

    rows: np.ndarray
    labels: np.ndarray
    mark: bytes


def canonical(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Examples:
    """Examples in an order that depends on contents alone: by SHA-256 of the image, then by label.

    The hash mixes the classes, so the first examples are a sample of all. Two examples with one
    place in this order are equal.

    Args:
        images: (m, h, w, c) uint8, all of the file.
        labels: (n,) labels 0 to 255 of the chosen images.
        rows: (n,) which images are chosen.
    """
    chosen = np.ascontiguousarray(images[rows])
    pairs = zip(chosen, labels, strict=True)
    marks = [hashlib.sha256(image).digest() + bytes([label]) for image, label in pairs]
    order = sorted(range(len(marks)), key=marks.__getitem__)
    mark = hashlib.sha256(b"".join(marks[k] for k in order)).digest()
    return Examples(rows[order], labels[order], mark)


def digest_of(splits: Iterable[Examples]) -> str:
    """16 hexadecimal digits that stand for the images and labels of these splits, in turn."""
    return hashlib.sha256(b"".join(split.mark for split in splits)).hexdigest()[:16]


@cache  # once per process
def warn_of_other_contents(path: Path, name: str) -> None:
    """Say once that a file's images of a task are not the official ones."""
    warnings.warn(
        f"{path} does not hold the official images and labels of {name!r}: its runs are kept apart "
        "from those of the official images",
        OtherContentsWarning,
        stacklevel=2,
    )
