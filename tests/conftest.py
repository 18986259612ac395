"""Fixtures that several test files share: small tasks, the real CIFAR-100, small valid copies."""

import importlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import small_batch
import torch
from hypothesis import settings
from small_postgres import Postgres

from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS, PATCHES, DataSet, Patch, Shortcut, Task, plant
from rtl_utils.data.cifar100 import SUPERCLASSES
from rtl_utils.forks import ForkServer
from rtl_utils.messages import counted
from rtl_utils.methods import METHODS, Knowledge, Method, Setup, plan, pretrain, train
from rtl_utils.training import Sgd

settings.register_profile("course", deadline=None, max_examples=25)
settings.load_profile("course")


NOT_RUN = pytest.StashKey[set[str]]()  # names of tests that need a GPU, where there is none


def pytest_configure(config):
    config.stash[NOT_RUN] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: a fifth of the time a test waits for a kernel or a server."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)  # after -m and -k, which may not want them anyway
def pytest_collection_modifyitems(config, items):
    """Leave out the tests that need a GPU where there is none: a test that is not there passes."""
    if torch.cuda.is_available():
        return
    needing = [item for item in items if item.get_closest_marker("gpu")]
    items[:] = [item for item in items if item not in needing]
    config.hook.pytest_deselected(items=needing)
    config.stash[NOT_RUN] = {item.nodeid for item in needing}
    if hasattr(config, "workeroutput"):  # a worker of pytest-xdist, whose summary nobody reads
        config.workeroutput["not_run"] = sorted(config.stash[NOT_RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """What a worker left out, as all of them do."""
    node.config.stash[NOT_RUN] |= set(getattr(node, "workeroutput", {}).get("not_run", ()))


def pytest_terminal_summary(terminalreporter, config):
    count = len(config.stash[NOT_RUN])
    if count:
        tests = counted(count, "test")
        terminalreporter.write_line(f"not run: {tests} marked gpu, as torch finds no GPU here")


@pytest.fixture
def docs(monkeypatch):
    """Imports a script of docs/ by name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs")
    return importlib.import_module


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small nets are fastest on one thread, and other jobs share the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads():
    """This process as users have it: torch takes every core."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures():
    """Makes small five-class tasks of 16 x 16 random images: pictures(name, seed, per_class)."""

    def make(name: str = "target", seed: int = 0, per_class: int = 4) -> Task:
        draw = torch.Generator().manual_seed(seed)
        n = 5 * per_class
        x = torch.randint(0, 256, (2 * n, 3, 16, 16), generator=draw, dtype=torch.uint8)
        y = torch.arange(2 * n) % 5
        return Task(name, "random", x[:n], y[:n], x[n:], y[n:], tuple("abcde"))

    return make


@pytest.fixture
def trained(pictures):
    """Trains a method with all its lengths: everything that it measures, and its weights."""
    width = (4, 4, 4, 4)
    source, target = pictures("source", 1), pictures("target", 2)
    everywhere = Shortcut(classes=tuple("abcde"), probability=0.5)
    spread, countered = (plant(t, everywhere, 0, splits=("train",)) for t in (source, target))
    backbone, _ = pretrain(source, seed=0, sgd=Sgd(epochs=1, batch_size=10), width=width)

    def call(method: str, device: str, epochs: int = 2, batch_size: int = 10):
        setup = Setup(
            Sgd(epochs=epochs, batch_size=batch_size),
            taus=(0.0, 1.0),
            width=width,
            coupled=Coupled(iterations=2, block=10, partitions=2),
            knowledge=Knowledge(spread, countered),
            partitions=2 if METHODS[method].takes_steps else None,
        )
        planned = plan(method, backbone, source, target, seed=0, setup=setup)
        (history,) = train([planned], device=device)
        lengths = [] if planned.lengths is None else planned.lengths.mean.tolist()
        lengths += [] if planned.path_length is None else [planned.path_length]
        lengths += [iteration.distance for iteration in planned.iterations]
        weights = torch.cat([v.cpu().double().ravel() for v in planned.net.state_dict().values()])
        return [*history.series().values(), lengths, weights.tolist()]

    return call


@pytest.fixture(scope="session")
def table():
    """Makes small regressions of five features, y = sum of the features: table(name, seed, n)."""

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
        pytest.skip(
            "needs real CIFAR-100 images: set RTL_DATA to a folder with cifar100.npz "
            "(`rtl data pack` makes one)"
        )
    return Path(folder)


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    """Writes a cifar100.npz of one image per class and points RTL_DATA at it.

    Arrays given by name replace its own; an array given as None is left out.
    """

    def write(**changes) -> Path:
        draw = np.random.default_rng(0)
        # compressible, as photographs are
        images = draw.integers(0, 64, (100, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(100, dtype=np.uint8)
        arrays = {
            "train_images": images,
            "train_labels": labels,
            "test_images": images[::-1],
            "test_labels": labels[::-1],
            "class_names": np.array(sorted(c for group in SUPERCLASSES.values() for c in group)),
        }
        path = tmp_path / "cifar100.npz"
        kept = {name: a for name, a in (arrays | changes).items() if a is not None}
        np.savez_compressed(path, **kept)
        monkeypatch.setenv("RTL_DATA", str(tmp_path))
        return path

    return write


@pytest.fixture
def toy_data_set(monkeypatch) -> str:
    """Name of a data set that is added in one place: tasks of two classes of random images."""
    tasks = {"left": ("a", "b"), "middle": ("c", "d"), "right": ("e", "f")}
    pairs = (("left", "right"), ("middle", "right"))

    def load(name: str, seed: int) -> Task:
        draw = torch.Generator().manual_seed(seed + list(tasks).index(name))
        x = torch.randint(0, 256, (40, 3, 16, 16), generator=draw, dtype=torch.uint8)
        y = torch.arange(40) % 2
        return Task(name, "toy", x[:20], y[:20], x[20:], y[20:], tasks[name])

    record = DataSet("toy images", tasks, load, pairs, epochs=2, width="small")
    monkeypatch.setitem(DATASETS, "toy", record)
    return "toy"


@pytest.fixture
def toy_method(monkeypatch) -> str:
    """Name of a method that is added in one place."""
    record = Method("toy method", "#123456", "1", blend="mixture", schedule="even")
    monkeypatch.setitem(METHODS, "toy-method", record)
    return "toy-method"


@pytest.fixture
def toy_patch(monkeypatch) -> str:
    """Name of a patch that is added in one place: a red square."""

    def red(size: int) -> torch.Tensor:
        colours = torch.tensor([255.0, 0.0, 0.0, 1.0])
        return colours[:, None, None].expand(4, size, size).clone()

    monkeypatch.setitem(PATCHES, "red", Patch(red))
    return "red"


@pytest.fixture(scope="session")
def postgres_server():
    """The server that all tests share."""
    folder = Path(tempfile.mkdtemp(prefix="rtl-postgres-"))
    server = Postgres(folder)
    yield server
    server.stop(signal.SIGQUIT)
    shutil.rmtree(folder)


@pytest.fixture
def postgres(postgres_server):
    """The running server, with a fresh database at `.url`; `.stop()` and `.start()` are allowed."""
    postgres_server.url = postgres_server.new()
    yield postgres_server
    if postgres_server.process.poll() is not None:
        postgres_server.start()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.kernel)])
def database(request) -> str | None:
    """URL of a fresh database of each kind; None for SQLite in the store's folder."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres").url


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own of 1 MiB: `mount(options)` it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> Path:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount a disk: {done.stderr.strip()}")
        return folder

    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    yield mount
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def finished_batch(tmp_path_factory):
    """A sweep of four seeds that was executed: (its file, its store, what `rtl batch` said)."""
    folder = tmp_path_factory.mktemp("finished")
    sweep = small_batch.write(folder)
    out = folder / "store"
    done = small_batch.rtl("batch", sweep, "--out", out)
    return sweep, out, done


@pytest.fixture(scope="session")
def batch_rows(finished_batch):
    """The rows of an undisturbed batch, without what differs from one training to the next."""
    return small_batch.rows_of(finished_batch[1])


@pytest.fixture(scope="module")
def forks():
    """Kernels as a batch has them: what they import is imported once, and each has one core."""
    server = ForkServer(cores=1)
    yield server
    server.close()
