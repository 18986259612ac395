"""Tasks: what a network is trained on, as tensors, and the loaders that make them.

Every loader returns the same record, a `Task`. Images stay uint8 until the mini-batch (`as_float`).
"""

import os
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rtl_utils.randomness import generator

ROOT = Path(__file__).resolve().parent.parent  # the checkout: `data/` and `runs/` live here

# The twenty superclasses of CIFAR-100 (Krizhevsky 2009, table 1), fine classes in alphabetical order. The five of the paper carry the paper's names.
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
DIGIT_TASKS = {"digits-0-4": (0, 1, 2, 3, 4), "digits-5-9": (5, 6, 7, 8, 9)}
SYNTHETIC_TASKS = {"source": (8_000, 2_000), "target": (2_000, 8_000)}  # training and validation samples
NAMES = {"synthetic": tuple(SYNTHETIC_TASKS), "digits": tuple(DIGIT_TASKS), "cifar100": tuple(SUPERCLASSES)}


@dataclass(frozen=True)
class Task:
    """Training and validation data of one task.

    x_train, x_val: (n, c, h, w) uint8 images, or (n, d) float32 features
    y_train, y_val: (n,) int64 labels, or (n, 1) float32 responses
    class_names: one name a label; empty for a regression.
    """

    name: str
    dataset: str
    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    class_names: tuple[str, ...] = ()

    @property
    def is_regression(self) -> bool:
        return not self.class_names

    @property
    def outputs(self) -> int:
        """Width of the head: classes, or 1 for a regression."""
        return len(self.class_names) or 1

    def to(self, device: str) -> "Task":
        """The same task with its tensors on the device."""
        moved = {name: getattr(self, name).to(device) for name in ("x_train", "y_train", "x_val", "y_val")}
        return replace(self, **moved)

    def class_index(self, name: str) -> int:
        """Label of a class. Raises ValueError if the task has no such class."""
        if name not in self.class_names:
            raise ValueError(f"class {name!r} is not in task {self.name!r}; it has {', '.join(self.class_names) or 'no classes'}")
        return self.class_names.index(name)


def as_float(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Network inputs: pixels 0 ... 255 become (x / 255 - 0.5) / 0.25; features pass unchanged.

    The constants are the same for every task, so that mixing pixels and mixing inputs is one thing.
    """
    return (x.to(dtype) / 255 - 0.5) / 0.25 if x.dtype == torch.uint8 else x.to(dtype)


def load(dataset: str, name: str, seed: int, n_train: int | None = None) -> Task:
    """Task `name` of a data set, with at most n_train training images a class, drawn by the seed.

    dataset: "synthetic", "digits" or "cifar100"; name: one of NAMES[dataset].
    Raises ValueError for an unknown data set or name, or n_train < 1 or above what a class has; FileNotFoundError if CIFAR-100 is nowhere.
    """
    if dataset not in NAMES:
        raise ValueError(f"dataset must be one of {', '.join(NAMES)}; got {dataset!r}")
    if name not in NAMES[dataset]:
        raise ValueError(f"{dataset} has no task {name!r}; it has {', '.join(NAMES[dataset])}")
    if dataset == "synthetic":
        raw = synthetic(name, seed)
        task = standardise(raw, by=raw)
    else:
        task = digits(name, seed) if dataset == "digits" else cifar100(name)
    return task if n_train is None else subset(task, n_train, seed)


def subset(task: Task, n_train: int, seed: int) -> Task:
    """The task with n_train training examples of each class (of all, for a regression); validation data unchanged."""
    groups = [torch.arange(len(task.y_train))] if task.is_regression else [(task.y_train == k).nonzero()[:, 0] for k in range(task.outputs)]
    smallest = min(len(group) for group in groups)
    if not 1 <= n_train <= smallest:
        raise ValueError(f"n_train must lie between 1 and {smallest}, the images that the smallest class of {task.name!r} has; got {n_train}")
    rng = generator(seed, "subset")
    rows = torch.cat([group[torch.from_numpy(rng.permutation(len(group))[:n_train])] for group in groups])
    return replace(task, x_train=task.x_train[rows], y_train=task.y_train[rows])


def disjoint(source: Task, target: Task) -> tuple[Task, Task]:
    """Both tasks with one head for all classes: the source's labels first, then the target's (Gao & Chaudhari 2021)."""
    names, shift = source.class_names + target.class_names, len(source.class_names)
    return replace(source, class_names=names), replace(target, class_names=names, y_train=target.y_train + shift, y_val=target.y_val + shift)


# --- synthetic regression -------------------------------------------------------------------------------------------------------------


def synthetic(name: str, seed: int, n_train: int | None = None, max_variance: float = 10.0) -> Task:
    """The paper's regression task in raw units (section 4.1): 50 independent normal features, 20 of them spurious for the target.

    x_i ~ N(mu_i, v_i), mu_i ~ U(-10, 10), v_i ~ U(0, max_variance), drawn once a seed and shared by both tasks;
    source y = sum_{i=0..29} sin x_i + x_i;  target y = sum_{i=20..49} cos x_i - x_i.
    name: "source" (8,000 train, 2,000 validation) or "target" (2,000, 8,000); n_train replaces the number of training samples.
    """
    if name not in SYNTHETIC_TASKS:
        raise ValueError(f"synthetic has no task {name!r}; it has {', '.join(SYNTHETIC_TASKS)}")
    world, rng = generator(seed, "synthetic"), generator(seed, f"synthetic-{name}")
    mean, variance = world.uniform(-10, 10, 50), world.uniform(0, max_variance, 50)
    train, validation = SYNTHETIC_TASKS[name]
    train = n_train or train
    x = rng.normal(mean, np.sqrt(variance), (train + validation, 50))
    y = (np.sin(x[:, :30]) + x[:, :30]).sum(1) if name == "source" else (np.cos(x[:, 20:]) - x[:, 20:]).sum(1)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y[:, None], dtype=torch.float32)
    return Task(name, "synthetic", x[:train], y[:train], x[train:], y[train:])


def standardise(task: Task, by: Task) -> Task:
    """Features and responses in units of `by`'s training split: (value - mean) / standard deviation.

    Pass the task itself before training; pass the task that a model was trained on to show the model other data in its own units.
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


# --- cluttered digits -----------------------------------------------------------------------------------------------------------------


def digits(name: str, seed: int) -> Task:
    """Cluttered digits: scikit-learn's 1,797 real 8 x 8 digits, each at a random place of a 16 x 16 image.

    Behind the digit lie six 4 x 4 fragments of other digits; pixel noise of 0.1 of the range; 70 / 30 split. The digits are grey, the
    images RGB, so that a ball has a colour. Places, fragments, noise and split are drawn by the seed. name: "digits-0-4" or "digits-5-9".
    """
    from sklearn.datasets import load_digits

    if name not in DIGIT_TASKS:
        raise ValueError(f"digits has no task {name!r}; it has {', '.join(DIGIT_TASKS)}")
    bunch = load_digits()
    images, rng = bunch.images / 16, generator(seed, f"digits-{name}")
    rows = rng.permutation(np.flatnonzero(np.isin(bunch.target, DIGIT_TASKS[name])))
    x = torch.from_numpy(np.stack([_clutter(images, row, rng) for row in rows])[:, None]).repeat(1, 3, 1, 1)
    y = torch.from_numpy(bunch.target[rows] - DIGIT_TASKS[name][0]).long()
    cut = round(0.7 * len(rows))
    return Task(name, "digits", x[:cut], y[:cut], x[cut:], y[cut:], tuple(str(k) for k in DIGIT_TASKS[name]))


def _clutter(images: np.ndarray, row: int, rng: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((16, 16))
    for other in rng.integers(0, len(images), 6):
        (a, b), (top, left) = rng.integers(0, 5, 2), rng.integers(0, 13, 2)
        canvas[top : top + 4, left : left + 4] = images[other, a : a + 4, b : b + 4]
    top, left = rng.integers(0, 9, 2)
    canvas[top : top + 8, left : left + 8] = images[row]  # opaque: the digit lies over the clutter
    canvas += rng.normal(0, 0.1, canvas.shape)
    return (255 * canvas.clip(0, 1)).round().astype(np.uint8)


# --- CIFAR-100 ------------------------------------------------------------------------------------------------------------------------


def cifar100(name: str) -> Task:
    """One superclass of CIFAR-100 (Krizhevsky 2009): 2,500 training and 500 validation images of 5 classes, 32 x 32 RGB.

    Looked for as `cifar100.npz` in the folder that RTL_DATA names, then in `data/`; else downloaded by torchvision, with its checksum.
    Raises FileNotFoundError if all three fail, ValueError if the file found is damaged or lacks the classes.
    """
    if name not in SUPERCLASSES:
        raise ValueError(f"cifar100 has no superclass {name!r}; it has {', '.join(SUPERCLASSES)}")
    arrays = cifar100_arrays()
    names = [str(c) for c in arrays["class_names"]]
    fine = [names.index(c) for c in SUPERCLASSES[name]]
    split = {}
    for part in ("train", "test"):
        labels = arrays[f"{part}_labels"]
        rows = np.flatnonzero(np.isin(labels, fine))
        if set(np.unique(labels[rows])) != set(fine):
            raise ValueError(f"this copy of CIFAR-100 has no {part} images of some classes of {name!r}; take another superclass or the full data set")
        images = torch.from_numpy(np.ascontiguousarray(arrays[f"{part}_images"][rows].transpose(0, 3, 1, 2)))
        split[part] = images, torch.tensor([fine.index(label) for label in labels[rows]])
    return Task(name, "cifar100", *split["train"], *split["test"], SUPERCLASSES[name])


def cifar100_arrays() -> dict[str, np.ndarray]:
    """The five arrays of `cifar100.npz`: {train, test}_images (n, 32, 32, 3) uint8, {train, test}_labels (n,), class_names (100,)."""
    folders = [Path(os.environ["RTL_DATA"])] if os.environ.get("RTL_DATA") else []
    for folder in [*folders, ROOT / "data"]:
        if (folder / "cifar100.npz").exists():
            return _read_npz(folder / "cifar100.npz", (folder / "cifar100.npz").stat().st_mtime_ns)
    try:
        return _from_torchvision(ROOT / "data")
    except Exception as error:  # the downloader raises URLError, RuntimeError, OSError, ...
        places = ", ".join(str(folder / "cifar100.npz") for folder in [*folders, ROOT / "data"])
        raise FileNotFoundError(
            f"CIFAR-100 is not here: no {places}, and the download into {ROOT / 'data'} failed ({error}). Set RTL_DATA to a folder with "
            "cifar100.npz (made by `rtl data pack` where there is a network), or use dataset='digits', which needs no download."
        ) from error


_LAYOUT = {
    "train_images": (None, 32, 32, 3),
    "train_labels": (None,),
    "test_images": (None, 32, 32, 3),
    "test_labels": (None,),
    "class_names": (100,),
}


@lru_cache(maxsize=1)  # unpacking takes a second; a changed file has another time of change
def _read_npz(path: Path, _changed: int) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _LAYOUT}
    except Exception as error:  # a damaged file can raise anything, from OSError to zlib.error
        raise ValueError(f"{path} is not a readable cifar100.npz ({error}); delete it and get it again, or make it with `rtl data pack`") from error
    for name, shape in _LAYOUT.items():
        found = arrays[name].shape
        wrong_shape = len(found) != len(shape) or any(want not in (None, got) for want, got in zip(shape, found, strict=True))
        if wrong_shape or (name != "class_names" and arrays[name].dtype != np.uint8):
            rule = f"array {name!r} must be uint8 (text for class_names) of shape {shape}"
            raise ValueError(f"{path}: {rule}; got {arrays[name].dtype} {found}; make the file again with `rtl data pack`")
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if len(images) != len(labels) or labels.max(initial=0) > 99:
            raise ValueError(
                f"{path}: {len(images)} {part} images, {len(labels)} labels up to {labels.max(initial=0)}; they must match, with labels 0 to 99"
            )
    missing = sorted({c for group in SUPERCLASSES.values() for c in group} - {str(c) for c in arrays["class_names"]})
    if missing:
        raise ValueError(f"{path}: class_names lacks {', '.join(missing[:3])}; make the file again with `rtl data pack`")
    return arrays


def _from_torchvision(folder: Path) -> dict[str, np.ndarray]:
    declare_missing_operators()
    from torchvision.datasets import CIFAR100

    parts = {"train": CIFAR100(folder, train=True, download=True), "test": CIFAR100(folder, train=False)}
    arrays = {f"{part}_images": data.data for part, data in parts.items()}
    arrays |= {f"{part}_labels": np.array(data.targets, dtype=np.uint8) for part, data in parts.items()}
    return arrays | {"class_names": np.array(parts["train"].classes)}


@cache
def declare_missing_operators() -> "torch.library.Library | None":
    """Make `import torchvision` work beside a CPU build of torch; call it before the import.

    The wheel on PyPI is built for CUDA; beside a CPU torch its compiled operators do not load, and its import stops with `operator
    torchvision::nms does not exist`. Data sets and transforms need none of them, so declaring the names is enough. The library is
    returned and cached because its declarations vanish with it.
    """
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def pack(path: Path) -> Path:
    """Write the CIFAR-100 that is found here (or downloaded) as one `cifar100.npz`, for machines without a network."""
    arrays = cifar100_arrays()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial.npz")  # renamed when whole: a reader never meets half a file
    np.savez_compressed(temporary, **arrays)
    return temporary.replace(path)
