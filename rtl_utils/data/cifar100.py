"""CIFAR-100: the paper's images, from a file that is here or from torchvision's download."""

import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rtl_utils.data.contents import Examples, canonical, digest_of, warn_of_other_contents
from rtl_utils.data.task import Task
from rtl_utils.folders import data_folders, root, whole_file

# The twenty superclasses (Krizhevsky 2009, table 1), fine classes in alphabetical order. The five
# of the paper carry the paper's names.
SUPERCLASSES = {
    "aquatic-mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food-containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit-and-vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household-devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large-outdoor-things": ("bridge", "castle", "house", "road", "skyscraper"),
    "outdoor-scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium-mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small-mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles-1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles-2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
# `digest` of the official images, where a lossless copy was at hand (the tasks of the course)
OFFICIAL = {
    "carnivores": "e28e526463ee545c",
    "flowers": "a4a443c8e9825aa7",
    "herbivores": "103690c322581e3b",
    "vehicles-1": "cb4034feaa961fb3",
    "vehicles-2": "454786accd9ae5de",
}
FILE = "cifar100.npz"
_EXTRACTED = "cifar-100-python"  # the folder that torchvision's download becomes
_STALLED = 60.0  # seconds without a byte after which a download server counts as stalled


def cifar100(name: str) -> Task:
    """One superclass: 2,500 training and 500 validation images of 5 classes, 32 x 32 RGB.

    The data are looked for as `cifar100.npz` in the folder that RTL_DATA names, then in `data/`;
    else torchvision downloads them and checks their checksum. The images of a split stand in
    `contents.canonical` order, so every copy of the same images gives the same task. A copy that
    holds other images than the official ones, where those are known, is named by an
    `OtherContentsWarning`.

    Raises:
        FileNotFoundError: if all three fail.
        ValueError: for another name, or if the file found is damaged or lacks the classes.

    Source: Krizhevsky (2009).
    """
    _check_name(name)
    copy = _found_or_downloaded()
    superclass = _superclass(copy, name)
    _digest(copy, name)  # says so if the contents are others
    arrays = _arrays(copy)
    split = {}
    for part, examples in superclass.items():
        images = arrays[f"{part}_images"][examples.rows].transpose(0, 3, 1, 2)
        x = torch.from_numpy(np.ascontiguousarray(images))
        split[part] = x, torch.from_numpy(examples.labels)
    return Task(name, "cifar100", *split["train"], *split["test"], SUPERCLASSES[name])


def digest(name: str) -> str | None:
    """What tells this machine's images of a superclass from the official ones.

    Nothing is downloaded for it.

    Returns:
        None for the official images, and where there are no images of the superclass: nothing can
        be trained there. Else 16 hexadecimal digits of the contents, whatever their order; for a
        superclass that OFFICIAL lacks, always.

    Raises:
        ValueError: for another name, or if the file found is damaged.
    """
    _check_name(name)
    copy = _found()
    return None if copy is None else _digest(copy, name)


def cifar100_arrays() -> dict[str, np.ndarray]:
    """The five arrays of `cifar100.npz`, in the order of the copy that is found.

    Returns:
        train_images and test_images, (n, 32, 32, 3) uint8; train_labels and test_labels, (n,)
        uint8; class_names, (100,) text.

    Raises:
        FileNotFoundError: if they are nowhere and the download fails.
        ValueError: if the file found is damaged.
    """
    return _arrays(_found_or_downloaded())


def pack(path: Path) -> Path:
    """Write the CIFAR-100 that is found here (or downloaded) as one `cifar100.npz`.

    Args:
        path: of the file; its folder is made.

    Returns:
        The path. The file appears whole or not at all.
    """
    arrays = cifar100_arrays()
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
    return path


@cache
def declare_missing_operators() -> "torch.library.Library | None":
    """Make `import torchvision` work beside a CPU build of torch; call it before the import.

    The wheel on PyPI is built for CUDA; beside a CPU torch its compiled operators do not load, and
    its import stops with `operator torchvision::nms does not exist`. Data sets and transforms need
    none of them, so declaring the names is enough.

    Returns:
        The library that declares them, cached since its declarations vanish with it; None where
        torchvision's own operators load, which must not be declared twice.
    """
    if _own_operators_load():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _own_operators_load() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is not None and found.origin is not None:
        for path in Path(found.origin).parent.glob("_C*"):
            try:
                torch.ops.load_library(str(path))
            except (OSError, RuntimeError):  # built for another torch, or not a library
                continue
    return hasattr(torch.ops.torchvision, "nms")


def _check_name(name: str) -> None:
    if name not in SUPERCLASSES:
        raise ValueError(f"cifar100 has no superclass {name!r}; it has {', '.join(SUPERCLASSES)}")


class _Copy(NamedTuple):
    """A copy of the data on this machine.

    Args:
        path: of `cifar100.npz`, or of the folder that torchvision extracted.
        changed: times of change and sizes of its files; another copy has others.
    """

    path: Path
    changed: tuple[int, ...]

    @property
    def packed(self) -> bool:
        """Whether it is a `cifar100.npz`."""
        return self.path.name == FILE


def _found() -> _Copy | None:
    """The copy that is read; None if there is none, as before a download."""
    *packed, extracted = _places(os.environ.get("RTL_DATA"), os.getcwd())
    for path in packed:
        changed = _changed(path)
        if changed:
            return _Copy(path, changed)
    return _extracted(extracted)


@lru_cache(maxsize=8)  # every key asks, and finding the checkout reads a file
def _places(_named: str | None, _here: str) -> tuple[Path, ...]:
    """Where `cifar100.npz` may be, in turn, and then torchvision's folder."""
    folders = data_folders()
    return (*(folder / FILE for folder in folders), folders[-1] / _EXTRACTED)


def _found_or_downloaded() -> _Copy:
    copy = _found()
    if copy is not None and (copy.packed or _is_whole(copy)):
        return copy
    try:
        return _downloaded(root() / "data")
    except Exception as error:  # the downloader raises URLError, RuntimeError, OSError, ...
        places = ", ".join(str(folder / FILE) for folder in data_folders())
        raise FileNotFoundError(
            f"CIFAR-100 is not here: no {places}, and the download into {root() / 'data'} failed "
            f"({error}). Set RTL_DATA to a folder with {FILE} (made by `rtl data pack` where there "
            "is a network), or use dataset='digits', which needs no download."
        ) from error


def _downloaded(folder: Path) -> _Copy:
    declare_missing_operators()
    from torchvision.datasets import CIFAR100

    print(f"downloading CIFAR-100 (169 MB) into {folder}", file=sys.stderr)
    with _timeout(_STALLED):
        CIFAR100(folder, train=True, download=True)
    copy = _extracted(folder / _EXTRACTED)
    if copy is None or not _is_whole(copy):
        raise OSError(f"{folder / _EXTRACTED} is not whole")
    return copy


def _extracted(path: Path) -> _Copy | None:
    if not path.is_dir():
        return None
    files = [_changed(path / name) for name in ("train", "test", "meta")]
    return _Copy(path, sum(files, ())) if all(files) else None


def _changed(path: Path) -> tuple[int, ...]:
    """Time of change and size of a file; empty if there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:  # it may be there, so its contents are unknown
        raise ValueError(
            f"{path} cannot be looked at ({error.strerror}); give access to it, or set RTL_DATA to "
            "another folder"
        ) from error
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=64)  # the images of a superclass are hashed once per copy
def _superclass(copy: _Copy, name: str) -> dict[str, Examples]:
    """The examples of a superclass in each split.

    Raises:
        _MissingClasses: if the copy lacks some.
    """
    arrays = _arrays(copy)
    names = [str(c) for c in arrays["class_names"]]
    fine = [names.index(c) for c in SUPERCLASSES[name]]
    position = np.full(256, -1)
    position[fine] = range(len(fine))
    found = {}
    for part in ("train", "test"):
        labels = position[arrays[f"{part}_labels"]]
        rows = np.flatnonzero(labels >= 0)
        if len(np.unique(labels[rows])) < len(fine):
            raise _MissingClasses(
                f"this copy of CIFAR-100 has no {part} images of some classes of {name!r}; "
                "take another superclass or the full data set"
            )
        found[part] = canonical(arrays[f"{part}_images"], labels[rows], rows)
    return found


class _MissingClasses(ValueError):
    """A copy without images of some classes."""


def _digest(copy: _Copy, name: str) -> str | None:
    if not copy.packed and name in OFFICIAL:  # torchvision checks its MD5 when it is read
        return None
    found = _contents(copy, name)
    if found is None or found == OFFICIAL.get(name):
        return None
    if name in OFFICIAL:
        warn_of_other_contents(copy.path, name)
    return found


@lru_cache(maxsize=64)  # every key asks for it
def _contents(copy: _Copy, name: str) -> str | None:
    """Digest of a superclass's contents; None where the copy has not all of its classes."""
    if not copy.packed and not _is_whole(copy):  # it is downloaded again when it is needed
        return None
    try:
        return digest_of(_superclass(copy, name).values())
    except _MissingClasses:
        return None


def _arrays(copy: _Copy) -> dict[str, np.ndarray]:
    return _read_npz(copy) if copy.packed else _read_extracted(copy)


def _is_whole(copy: _Copy) -> bool:
    """Whether torchvision's checksums are those of the files that it extracted."""
    try:
        _read_extracted(copy)
    except RuntimeError:
        return False
    return True


@lru_cache(maxsize=1)  # reading and checking takes seconds
def _read_extracted(copy: _Copy) -> dict[str, np.ndarray]:
    declare_missing_operators()
    from torchvision.datasets import CIFAR100

    train = CIFAR100(copy.path.parent, train=True)
    test = CIFAR100(copy.path.parent, train=False)
    return {
        "train_images": train.data,
        "train_labels": np.array(train.targets, dtype=np.uint8),
        "test_images": test.data,
        "test_labels": np.array(test.targets, dtype=np.uint8),
        "class_names": np.array(train.classes),
    }


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """A time limit on every wait for the network inside: torchvision's downloader has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


_LAYOUT: dict[str, tuple[int | None, ...]] = {
    "train_images": (None, 32, 32, 3),
    "train_labels": (None,),
    "test_images": (None, 32, 32, 3),
    "test_labels": (None,),
    "class_names": (100,),
}


@lru_cache(maxsize=1)  # unpacking takes a second; a changed file has another time of change
def _read_npz(copy: _Copy) -> dict[str, np.ndarray]:
    path = copy.path
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _LAYOUT}
    except Exception as error:  # a damaged file can raise anything, from OSError to zlib.error
        raise ValueError(
            f"{path} is not a readable {FILE} ({error}); delete it and get it again, or make it "
            "with `rtl data pack`"
        ) from error
    for name, shape in _LAYOUT.items():
        _check_array(path, name, arrays[name], shape)
    for part in ("train", "test"):
        _check_labels(path, part, arrays[f"{part}_images"], arrays[f"{part}_labels"])
    classes = {c for group in SUPERCLASSES.values() for c in group}
    missing = sorted(classes - {str(c) for c in arrays["class_names"]})
    if missing:
        raise ValueError(
            f"{path}: class_names lacks {', '.join(missing[:3])}; make the file again with "
            "`rtl data pack`"
        )
    return arrays


def _check_array(path: Path, name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    same_rank = len(array.shape) == len(shape)
    fits = same_rank and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits or (name != "class_names" and array.dtype != np.uint8):
        raise ValueError(
            f"{path}: array {name!r} must be uint8 (text for class_names) of shape {shape}; got "
            f"{array.dtype} {array.shape}; make the file again with `rtl data pack`"
        )


def _check_labels(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    highest = labels.max(initial=0)
    if len(images) != len(labels) or highest > 99:
        raise ValueError(
            f"{path}: {len(images)} {part} images, {len(labels)} labels up to {highest}; they must "
            "match, with labels 0 to 99"
        )
