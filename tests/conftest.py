"""Fixtures that several test files share: small tasks, the real CIFAR-100 copy, small valid copies of it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from rtl_utils.tasks import SUPERCLASSES, Task

settings.register_profile("course", deadline=None, max_examples=25)
settings.load_profile("course")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small nets are fastest on one thread, and other jobs share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pictures():
    """Makes small five-class tasks of 16 x 16 random images: pictures(name, seed, a_class)."""

    def make(name: str = "target", seed: int = 0, a_class: int = 4) -> Task:
        draw = torch.Generator().manual_seed(seed)
        x = torch.randint(0, 256, (10 * a_class, 3, 16, 16), generator=draw, dtype=torch.uint8)
        y = torch.arange(10 * a_class) % 5
        return Task(name, "random", x[: 5 * a_class], y[: 5 * a_class], x[5 * a_class :], y[5 * a_class :], tuple("abcde"))

    return make


@pytest.fixture(scope="session")
def table():
    """Makes small regression tasks of five features, y = sum of the features: table(name, seed, n)."""

    def make(name: str = "target", seed: int = 0, n: int = 24) -> Task:
        x = torch.randn(2 * n, 5, generator=torch.Generator().manual_seed(seed))
        y = x.sum(1, keepdim=True)
        return Task(name, "random", x[:n], y[:n], x[n:], y[n:])

    return make


@pytest.fixture
def real_cifar100() -> Path:
    """Folder of the real CIFAR-100 copy, which `RTL_DATA` names."""
    folder = os.environ.get("RTL_DATA")
    if not folder or not (Path(folder) / "cifar100.npz").exists():
        pytest.skip("needs real CIFAR-100 images: set RTL_DATA to a folder with cifar100.npz (`rtl data pack` makes one)")
    return Path(folder)


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    """Writes a cifar100.npz of one image a class, with changes, and points RTL_DATA at it; an array given as None is left out."""

    def write(**changes) -> Path:
        images = np.random.default_rng(0).integers(0, 64, (100, 32, 32, 3), dtype=np.uint8)  # compressible, as photographs are
        arrays = {
            "train_images": images,
            "train_labels": np.arange(100, dtype=np.uint8),
            "test_images": images[::-1],
            "test_labels": np.arange(100, dtype=np.uint8)[::-1],
            "class_names": np.array(sorted(c for group in SUPERCLASSES.values() for c in group)),
        }
        path = tmp_path / "cifar100.npz"
        np.savez_compressed(path, **{name: a for name, a in (arrays | changes).items() if a is not None})
        monkeypatch.setenv("RTL_DATA", str(tmp_path))
        return path

    return write
