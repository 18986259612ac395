import hashlib
import pickle
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtl_utils import tasks
from rtl_utils.tasks import NAMES, SUPERCLASSES, as_float, cifar100, cifar100_arrays, digits, load, pack, standardise, subset, synthetic

# --- synthetic ------------------------------------------------------------------------------------------------------------------------


def test_synthetic_responses_follow_the_papers_formulas():
    source, target = synthetic("source", seed=1), synthetic("target", seed=1)
    x = source.x_train.double()
    torch.testing.assert_close(source.y_train[:, 0].double(), (x.sin() + x)[:, :30].sum(1), atol=1e-3, rtol=1e-5)  # features 0-29 alone
    x = target.x_train.double()
    torch.testing.assert_close(target.y_train[:, 0].double(), (x.cos() - x)[:, 20:].sum(1), atol=1e-3, rtol=1e-5)  # features 20-49 alone


def test_synthetic_sizes():
    for name, train, validation in (("source", 8_000, 2_000), ("target", 2_000, 8_000)):
        task = load("synthetic", name, seed=0)
        assert task.x_train.shape == (train, 50) and task.y_train.shape == (train, 1)
        assert task.x_val.shape == (validation, 50) and task.y_val.shape == (validation, 1)
        assert task.is_regression and task.outputs == 1


def test_synthetic_tasks_of_one_seed_share_their_features_distribution():
    source, target = synthetic("source", seed=2), synthetic("target", seed=2)
    assert not torch.equal(source.x_train[:100], target.x_train[:100])
    x = torch.cat([source.x_train, source.x_val])
    y = torch.cat([target.x_train, target.x_val])
    assert ((x.mean(0) - y.mean(0)).abs() < 5 * x.std(0) * (2 / 10_000) ** 0.5).all()  # five standard errors


def test_standardised_training_split_has_mean_0_and_sd_1():
    task = load("synthetic", "target", seed=0)
    for values in (task.x_train, task.y_train):
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.std(0), torch.ones(values.shape[1]), atol=1e-4, rtol=0)
    assert task.x_val.mean(0).abs().max() > 1e-4  # in the training split's units, not its own


def test_standardise_by_another_task_uses_its_units(table):
    task = table("task")
    by = replace(task, x_train=2 * task.x_train + 1, y_train=3 * task.y_train)
    shown = standardise(task, by=by)
    torch.testing.assert_close(shown.x_val, (task.x_val - by.x_train.mean(0)) / by.x_train.std(0))
    torch.testing.assert_close(shown.y_val, (task.y_val - by.y_train.mean(0)) / by.y_train.std(0))


# --- digits ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES["digits"])
def test_digits_are_uint8_rgb_of_16_pixels_split_70_30(name):
    task = digits(name, seed=0)
    n = len(task.y_train) + len(task.y_val)
    for x, y in ((task.x_train, task.y_train), (task.x_val, task.y_val)):
        assert x.shape == (len(y), 3, 16, 16) and x.dtype == torch.uint8 and y.dtype == torch.int64
        assert sorted(y.unique().tolist()) == [0, 1, 2, 3, 4]
        assert torch.equal(x[:, 0], x[:, 1]) and torch.equal(x[:, 0], x[:, 2])  # grey
    assert len(task.y_train) == round(0.7 * n)
    assert task.outputs == 5 and list(task.class_names) == list(name.removeprefix("digits-").replace("0-4", "01234").replace("5-9", "56789"))


def test_the_two_digit_tasks_are_all_1797_images_with_their_own_labels():
    from sklearn.datasets import load_digits

    counts = [torch.cat([t.y_train, t.y_val]).bincount().tolist() for t in (digits("digits-0-4", 0), digits("digits-5-9", 0))]
    assert counts[0] + counts[1] == np.bincount(load_digits().target).tolist()


def test_digits_depend_on_the_seed_alone():
    a, b, c = digits("digits-0-4", 1), digits("digits-0-4", 1), digits("digits-0-4", 2)
    assert torch.equal(a.x_train, b.x_train) and torch.equal(a.y_val, b.y_val)
    assert not torch.equal(a.x_train, c.x_train)


@given(seed=st.integers(0, 1000), n_train=st.integers(1, 4))
def test_n_train_is_images_a_class_and_leaves_validation_alone(pictures, seed, n_train):
    task = pictures()
    small = subset(task, n_train, seed)
    assert small.y_train.bincount().tolist() == [n_train] * 5
    assert small.x_val is task.x_val and small.y_val is task.y_val
    known = {x.numpy().tobytes(): int(y) for x, y in zip(task.x_train, task.y_train, strict=True)}
    chosen = [x.numpy().tobytes() for x in small.x_train]
    assert len(set(chosen)) == 5 * n_train and [known[x] for x in chosen] == small.y_train.tolist()


def test_n_train_of_a_regression_is_of_all(table):
    assert len(subset(table(), 7, seed=0).y_train) == 7


@pytest.mark.parametrize("n_train", [0, -1, 5])
def test_n_train_beyond_the_data_is_refused(pictures, n_train):
    with pytest.raises(ValueError, match=f"n_train must lie between 1 and 4.*got {n_train}"):
        subset(pictures(a_class=4), n_train, seed=0)


# --- loading --------------------------------------------------------------------------------------------------------------------------


def test_pixels_become_inputs_between_minus_2_and_2_and_features_pass():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(as_float(pixels), torch.tensor([-2.0, -1.2, 2.0]))
    assert torch.equal(as_float(torch.tensor([3.5])), torch.tensor([3.5]))


@pytest.mark.parametrize(
    ("dataset", "name"), [("imagenet", "digits-0-4"), ("digits", "flowers"), ("cifar100", "digits-0-4"), ("synthetic", "flowers")]
)
def test_unknown_data_is_refused(dataset, name):
    with pytest.raises(ValueError) as error:
        load(dataset, name, seed=0)
    assert (dataset if dataset == "imagenet" else name) in str(error.value)


def test_class_that_a_task_lacks_is_refused(pictures):
    assert pictures().class_index("c") == 2
    with pytest.raises(ValueError, match="class 'kangaroo' is not in task 'target'; it has a, b, c, d, e"):
        pictures().class_index("kangaroo")


# --- CIFAR-100 ------------------------------------------------------------------------------------------------------------------------


def test_twenty_superclasses_hold_each_of_100_classes_once():
    classes = [c for group in SUPERCLASSES.values() for c in group]
    assert len(SUPERCLASSES) == 20 and {len(group) for group in SUPERCLASSES.values()} == {5}
    assert len(classes) == len(set(classes)) == 100


@pytest.mark.parametrize("name", ["herbivores", "carnivores", "vehicles-1", "vehicles-2", "flowers"])
def test_real_superclass_has_2500_training_and_500_validation_images(real_cifar100, name):
    task = cifar100(name)
    assert task.x_train.shape == (2_500, 3, 32, 32) and task.x_val.shape == (500, 3, 32, 32) and task.x_train.dtype == torch.uint8
    assert task.y_train.bincount().tolist() == [500] * 5 and task.y_val.bincount().tolist() == [100] * 5
    assert task.class_names == SUPERCLASSES[name]


def test_real_images_carry_the_labels_of_the_file(real_cifar100):
    task = cifar100("flowers")
    with np.load(real_cifar100 / "cifar100.npz") as file:
        names, labels, images = file["class_names"].tolist(), file["test_labels"], file["test_images"]
    for k, name in enumerate(task.class_names):
        expected = {image.transpose(2, 0, 1).tobytes() for image in images[labels == names.index(name)]}
        assert {x.numpy().tobytes() for x in task.x_val[task.y_val == k]} == expected


def test_real_images_are_drawn_by_class(real_cifar100):
    assert load("cifar100", "flowers", seed=0, n_train=50).y_train.bincount().tolist() == [50] * 5
    with pytest.raises(ValueError, match="between 1 and 500"):
        load("cifar100", "flowers", seed=0, n_train=501)


def test_superclass_that_a_copy_lacks_is_refused(real_cifar100):
    with np.load(real_cifar100 / "cifar100.npz") as file:
        if len(np.unique(file["train_labels"])) == 100:
            pytest.skip("this copy is the full data set: it lacks no superclass")
    with pytest.raises(ValueError, match="no train images of some classes of 'fish'"):
        cifar100("fish")


def test_labels_follow_the_files_class_names_in_any_order(small_cifar100):
    names = sorted((c for group in SUPERCLASSES.values() for c in group), reverse=True)
    small_cifar100(class_names=np.array(names))
    arrays, task = cifar100_arrays(), cifar100("flowers")
    for k, name in enumerate(task.class_names):
        (image,) = arrays["train_images"][arrays["train_labels"] == names.index(name)]
        assert torch.equal(task.x_train[task.y_train == k][0], torch.from_numpy(image.transpose(2, 0, 1).copy()))


def test_packed_file_reads_back_equal(small_cifar100, tmp_path, monkeypatch):
    small_cifar100()
    before = cifar100_arrays()
    folder = tmp_path / "new" / "place"
    assert pack(folder / "cifar100.npz") == folder / "cifar100.npz"
    assert [path.name for path in folder.iterdir()] == ["cifar100.npz"]
    monkeypatch.setenv("RTL_DATA", str(folder))
    after = cifar100_arrays()
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def images(n=100, side=32, dtype=np.uint8):
    return np.zeros((n, side, side, 3), dtype)


def labels(values, dtype=np.uint8):
    return np.array(values, dtype)


@pytest.mark.parametrize(
    "change",
    [
        {"train_images": images(side=16)},
        {"train_images": images()[:, :, :, 0]},
        {"test_images": images(dtype=np.float32)},
        {"test_images": images(n=99)},
        {"train_images": None},
        {"class_names": None},
        {"train_labels": labels(range(100), np.int64)},
        {"test_labels": labels(range(100))[:, None]},
        {"train_labels": labels([*range(99), 100])},
        {"class_names": np.array(["rose"] * 100)},
        {"class_names": np.array([f"class {k}" for k in range(99)])},
        {"class_names": np.arange(100)},
    ],
    ids=lambda change: "-".join(change),
)
def test_file_with_a_wrong_array_is_refused_by_its_name(small_cifar100, change):
    path = small_cifar100(**change)
    with pytest.raises(ValueError) as error:
        cifar100("flowers")
    assert str(path) in str(error.value) and next(iter(change)).split("_")[1] in str(error.value)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_file_is_refused_by_its_name(small_cifar100, share):
    path = small_cifar100()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cifar100\.npz"):
        cifar100("flowers")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_is_refused_or_harmless(small_cifar100, where, bit):
    path = small_cifar100()
    whole = cifar100_arrays()
    damaged = bytearray(path.read_bytes())
    damaged[int(where * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        found = cifar100_arrays()
    except ValueError as error:
        assert str(path) in str(error)
    else:
        for name, array in whole.items():
            np.testing.assert_array_equal(found[name], array)


def test_pickle_in_a_data_file_is_not_run(small_cifar100, tmp_path):
    small_cifar100(class_names=np.array([Writes(tmp_path / "written")] * 100, dtype=object))
    with pytest.raises(ValueError, match=r"cifar100\.npz"):
        cifar100("flowers")
    assert not (tmp_path / "written").exists()


class Writes:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def torchvision_cifar100(tmp_path, monkeypatch):
    """torchvision's CIFAR100 class, with no copy of the data where the package looks first."""
    tasks.declare_missing_operators()
    from torchvision.datasets import CIFAR100

    monkeypatch.setenv("RTL_DATA", str(tmp_path / "given"))
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    return CIFAR100


def test_missing_data_says_what_was_looked_for_where_and_how_to_get_it(torchvision_cifar100, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_cifar100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")  # nobody listens there
    with pytest.raises(FileNotFoundError) as error:
        cifar100("flowers")
    for part in ("given/cifar100.npz", str(tmp_path / "data" / "cifar100.npz"), "download", "RTL_DATA", "rtl data pack", "dataset='digits'"):
        assert part in str(error.value)


@pytest.fixture
def official_archive(torchvision_cifar100, tmp_path, monkeypatch):
    """An archive in the official format, one image a class, on a server of this machine, and its checksums where torchvision keeps them."""
    served = tmp_path / "served" / "cifar-100-python"
    served.mkdir(parents=True)
    data = np.random.default_rng(0).integers(0, 256, (100, 3072), dtype=np.uint8)
    content = {"train": {"data": data, "fine_labels": list(range(100))}, "test": {"data": data[::-1], "fine_labels": list(range(100))[::-1]}}
    content["meta"] = {"fine_label_names": sorted(c for group in SUPERCLASSES.values() for c in group)}
    for name, part in content.items():
        (served / name).write_bytes(pickle.dumps(part))
    archive = served.parent / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(served, "cifar-100-python")
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (archive, *served.iterdir())}
    monkeypatch.setattr(torchvision_cifar100, "tgz_md5", sums[archive.name])
    monkeypatch.setattr(torchvision_cifar100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(torchvision_cifar100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(torchvision_cifar100, "meta", torchvision_cifar100.meta | {"md5": sums["meta"]})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served.parent)) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setattr(torchvision_cifar100, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        yield archive, data
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """A file server that logs nothing."""

    def log_message(self, *_):
        pass


def test_downloaded_archive_becomes_the_task(official_archive):
    _, data = official_archive
    task = cifar100("flowers")
    names = sorted(c for group in SUPERCLASSES.values() for c in group)
    for k, name in enumerate(task.class_names):
        expected = torch.from_numpy(data[names.index(name)].reshape(3, 32, 32))
        assert torch.equal(task.x_train[task.y_train == k][0], expected)


def test_download_with_a_wrong_checksum_is_refused(official_archive):
    archive, _ = official_archive
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(FileNotFoundError, match="CIFAR-100 is not here"):
        cifar100("flowers")
