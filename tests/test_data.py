import hashlib
import importlib
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtl_utils import folders
from rtl_utils.data import (
    DATASETS,
    OtherContentsWarning,
    Task,
    as_float,
    at_most,
    check_task,
    cifar100,
    cifar100_arrays,
    declare_missing_operators,
    digits,
    disjoint,
    hold_out,
    load,
    pack,
    permute_features,
    soft_labels,
    standardise,
    subset,
    synthetic,
    target_views,
)
from rtl_utils.data.cifar100 import OFFICIAL, SUPERCLASSES, digest

seeds = st.integers(0, 2**32)

# --- what a task is ---

N = 10  # examples per split


def made(**changes):
    """A task of small images with changes."""
    x = torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8)
    y = torch.arange(N) % 5
    values = {"x_train": x, "y_train": y, "x_val": x, "y_val": y, "class_names": tuple("abcde")}
    return Task("mine", "own", **(values | changes))


def features(**changes):
    """A regression of five features with changes."""
    x, y = torch.randn(N, 5), torch.randn(N, 1)
    return Task("mine", "own", **({"x_train": x, "y_train": y, "x_val": x, "y_val": y} | changes))


WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_labels_of_every_whole_number_type_become_int64(dtype):
    y = (torch.arange(N) % 5).to(dtype)
    task = made(y_train=y, y_val=y)
    for labels in (task.y_train, task.y_val):
        assert labels.dtype == torch.int64
        assert labels.tolist() == y.tolist()
    assert soft_labels(task, task.y_train).shape == (N, 5)


def with_one(value, like):
    """A copy whose first value is another."""
    changed = like.clone()
    changed.view(-1)[0] = value
    return changed


_Y = torch.arange(N) % 5
REFUSED = {
    "labels from 1": (_Y + 1, "must hold labels 0 to 4, one per class name; got labels 1 to 5"),
    "a negative label": (with_one(-1, _Y), "must hold labels 0 to 4.*got labels -1 to 4"),
    "float labels": (
        _Y.float(),
        r"must be .*whole-number labels 0 to 4; got torch\.float32 of shape \(10,\)",
    ),
    "labels in a column": (
        _Y[:, None],
        r"must be .*whole-number labels 0 to 4; got .*shape \(10, 1\)",
    ),
    "one-hot labels": (
        soft_labels(made(), _Y),
        r"must be .*whole-number labels 0 to 4; got .*\(10, 5\)",
    ),
    "labels of bool": (_Y.bool(), r"must be .*whole-number labels 0 to 4; got torch\.bool"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_are_not_0_to_k_are_refused_in_a_sentence(name, split):
    labels, says = REFUSED[name]
    with pytest.raises(ValueError, match=f"^y_{split} of task 'mine' {says}") as error:
        made(**{f"y_{split}": labels})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("count", [0, 9, 11])
def test_labels_of_another_number_than_the_inputs_are_refused(split, count):
    says = f"^task 'mine' needs one label per input.*{split} split has 10 inputs and {count} labels"
    with pytest.raises(ValueError, match=says):
        made(**{f"y_{split}": torch.zeros(count, dtype=torch.int64)})


@pytest.mark.parametrize("split", ["train", "val"])
def test_empty_split_is_refused(split):
    nothing = {f"x_{split}": made().x_train[:0], f"y_{split}": made().y_train[:0]}
    says = f"^task 'mine' needs .*at least one; its {split} split has 0 inputs and 0 labels"
    with pytest.raises(ValueError, match=says):
        made(**nothing)


INPUTS = {
    "images between 0 and 1": (
        torch.rand(N, 3, 8, 8),
        r"uint8 images, 0 to 255; got torch\.float32; multiply images between 0 and 1 by 255",
    ),
    "images of int64": (torch.zeros(N, 3, 8, 8, dtype=torch.int64), r"uint8.*got torch\.int64"),
    "images without channels": (
        torch.zeros(N, 8, 8, dtype=torch.uint8),
        r"\(n, c, h, w\) uint8 images or \(n, d\) float features; got .*\(10, 8, 8\)",
    ),
    "whole-number features": (
        torch.zeros(N, 5, dtype=torch.int64),
        r".*float features; got .*int64",
    ),
    "one feature as a row": (torch.zeros(N), r".*float features; got .*shape \(10,\)"),
    "a NaN feature": (with_one(float("nan"), torch.zeros(N, 5)), "finite; .*NaN"),
    "an infinite feature": (with_one(float("-inf"), torch.zeros(N, 5)), "finite; .*infinite"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_are_neither_images_nor_features_are_refused(name, split):
    x, says = INPUTS[name]
    with pytest.raises(ValueError, match=f"^x_{split} of task 'mine' must be {says}"):
        made(**{f"x_{split}": x})


_ANSWERS = torch.zeros(N, 1)
RESPONSES = {
    "labels without class names": (_Y, r".*as the task has no class names; got torch\.int64"),
    "responses in a row": (_ANSWERS[:, 0], r"\(n, 1\) float responses.*shape \(10,\)"),
    "two responses": (torch.zeros(N, 2), r"\(n, 1\) float responses.*shape \(10, 2\)"),
    "a NaN response": (with_one(float("nan"), _ANSWERS), "finite.*NaN or infinite responses"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", RESPONSES)
def test_responses_that_are_not_numbers_are_refused(name, split):
    y, says = RESPONSES[name]
    with pytest.raises(ValueError, match=f"^y_{split} of task 'mine' must be {says}"):
        features(**{f"y_{split}": y})


@pytest.mark.parametrize("make", [made, features])
def test_validation_inputs_of_another_shape_than_the_training_inputs_are_refused(make):
    x = make().x_val
    with pytest.raises(ValueError, match=r"task 'mine'.*shape"):
        make(x_val=torch.cat([x, x], dim=-1))


def test_outputs_are_the_classes_or_one_response():
    assert (made().outputs, made().is_regression, made().side) == (5, False, 8)
    assert (features().outputs, features().is_regression, features().side) == (1, True, 5)


def test_soft_labels_are_one_hot_and_responses_pass():
    first, last = [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]
    assert soft_labels(made(), torch.tensor([1, 4])).tolist() == [first, last]
    task = features()
    assert soft_labels(task, task.y_val) is task.y_val


def test_disjoint_tasks_have_one_output_per_class_of_both():
    source, target = disjoint(made(), made(class_names=tuple("vwxyz")))
    assert source.class_names == target.class_names == tuple("abcdevwxyz")
    assert source.y_train.tolist() == _Y.tolist()
    assert target.y_val.tolist() == (_Y + 5).tolist()


# --- the table of data sets ---


@pytest.mark.parametrize(
    ("dataset", "name"),
    [(dataset, name) for dataset in ("synthetic", "digits") for name in DATASETS[dataset].tasks],
)
def test_class_names_of_the_table_are_those_of_the_loaded_task(dataset, name):
    assert load(dataset, name, seed=0).class_names == DATASETS[dataset].tasks[name]


@pytest.mark.parametrize("dataset", DATASETS)
def test_pairs_of_a_data_set_are_of_its_own_tasks(dataset):
    record = DATASETS[dataset]
    for source, target in record.pairs:
        check_task(dataset, source)
        check_task(dataset, target)
        assert source != target


# --- synthetic ---


def test_synthetic_responses_follow_the_papers_formulas():
    source, target = synthetic("source", seed=1), synthetic("target", seed=1)
    x = source.x_train.double()
    # features 0 to 29 alone
    expected = (x.sin() + x)[:, :30].sum(1)
    torch.testing.assert_close(source.y_train[:, 0].double(), expected, atol=1e-3, rtol=1e-5)
    x = target.x_train.double()
    # features 20 to 49 alone
    expected = (x.cos() - x)[:, 20:].sum(1)
    torch.testing.assert_close(target.y_train[:, 0].double(), expected, atol=1e-3, rtol=1e-5)


def test_synthetic_sizes():
    for name, train, validation in (("source", 8_000, 2_000), ("target", 2_000, 8_000)):
        task = load("synthetic", name, seed=0)
        assert task.x_train.shape == (train, 50)
        assert task.y_train.shape == (train, 1)
        assert task.x_val.shape == (validation, 50)
        assert task.y_val.shape == (validation, 1)
        assert task.is_regression
        assert task.outputs == 1


def test_synthetic_tasks_of_one_seed_share_their_features_distribution():
    source, target = synthetic("source", seed=2), synthetic("target", seed=2)
    assert not torch.equal(source.x_train[:100], target.x_train[:100])
    x = torch.cat([source.x_train, source.x_val])
    y = torch.cat([target.x_train, target.x_val])
    standard_error = x.std(0) * (2 / 10_000) ** 0.5
    assert ((x.mean(0) - y.mean(0)).abs() < 5 * standard_error).all()


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


def test_views_of_the_synthetic_target_share_one_unit_and_the_control_keeps_the_distribution():
    views = target_views(0)
    assert list(views) == ["permuted", "restored", "rows"]
    permuted, restored, rows = views.values()
    assert torch.equal(permuted.x_train[:, 20:], restored.x_train[:, 20:])
    assert torch.equal(permuted.y_val, restored.y_val)
    torch.testing.assert_close(permuted.x_train.mean(0), torch.zeros(50), atol=1e-4, rtol=0)
    # other features' means: a shifted input
    assert restored.x_train.mean(0)[:20].abs().mean() > 1
    # each column has the same values in another order
    assert torch.equal(rows.x_val.sort(0).values, permuted.x_val.sort(0).values)
    assert not torch.equal(rows.x_val[:, :20], permuted.x_val[:, :20])


@given(seed=seeds)
def test_column_permutation_moves_every_feature_and_only_those(table, seed):
    task = table(n=8)
    permuted = permute_features(task, seed, features=4)
    for split in ("x_train", "x_val"):
        before, after = getattr(task, split), getattr(permuted, split)
        places = [
            next(i for i in range(4) if torch.equal(after[:, j], before[:, i])) for j in range(4)
        ]
        assert sorted(places) == [0, 1, 2, 3]
        assert all(i != j for j, i in enumerate(places))
        assert torch.equal(after[:, 4:], before[:, 4:])


def test_column_permutation_is_one_for_both_splits_and_fixed_by_the_seed(table):
    numbered = table(n=20)
    x = torch.arange(5.0).expand(20, 5)  # each row says which column stands where
    task = replace(numbered, x_train=x, x_val=x)
    permuted = permute_features(task, seed=1, features=5)
    assert torch.equal(permuted.x_train, permuted.x_val)
    assert torch.equal(permuted.x_train, permute_features(task, seed=1, features=5).x_train)
    assert (
        len(
            {
                tuple(permute_features(task, seed=s, features=5).x_train[0].tolist())
                for s in range(20)
            }
        )
        > 5
    )


@given(seed=seeds)
def test_row_permutation_keeps_each_columns_values(table, seed):
    task = table(n=30)
    permuted = permute_features(task, seed, by="rows", features=4)
    for split in ("x_train", "x_val"):
        before, after = getattr(task, split), getattr(permuted, split)
        assert torch.equal(after.sort(0).values, before.sort(0).values)
        assert not torch.equal(after[:, :4], before[:, :4])
        assert torch.equal(after[:, 4:], before[:, 4:])


@pytest.mark.parametrize("by", ["columns", "rows"])
def test_permuting_leaves_the_original_and_the_responses(table, by):
    task, fresh = table(), table()
    permuted = permute_features(task, seed=0, by=by, features=5)
    assert torch.equal(task.x_train, fresh.x_train)
    assert torch.equal(task.x_val, fresh.x_val)
    assert torch.equal(permuted.y_train, task.y_train)
    assert torch.equal(permuted.y_val, task.y_val)


def test_permuting_by_another_axis_or_images_is_refused(table, pictures):
    with pytest.raises(ValueError, match="by must be 'columns' or 'rows'; got 'pixels'"):
        permute_features(table(), seed=0, by="pixels")
    with pytest.raises(ValueError, match="tables only; task 'target'"):
        permute_features(pictures(), seed=0)


# --- digits ---


@pytest.mark.parametrize("name", DATASETS["digits"].tasks)
def test_digits_are_uint8_rgb_of_16_pixels_split_70_30(name):
    task = digits(name, seed=0)
    n = len(task.y_train) + len(task.y_val)
    for x, y in ((task.x_train, task.y_train), (task.x_val, task.y_val)):
        assert x.shape == (len(y), 3, 16, 16)
        assert x.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert sorted(y.unique().tolist()) == [0, 1, 2, 3, 4]
        assert torch.equal(x[:, 0], x[:, 1])
        assert torch.equal(x[:, 0], x[:, 2])
    assert len(task.y_train) == round(0.7 * n)
    assert task.outputs == 5
    first, last = name.removeprefix("digits-").split("-")
    assert task.class_names == tuple(str(k) for k in range(int(first), int(last) + 1))


def test_the_two_digit_tasks_are_all_1797_images_with_their_own_labels():
    from sklearn.datasets import load_digits

    counts = [
        torch.cat([t.y_train, t.y_val]).bincount().tolist()
        for t in (digits("digits-0-4", 0), digits("digits-5-9", 0))
    ]
    assert counts[0] + counts[1] == np.bincount(load_digits().target).tolist()


def test_digits_depend_on_the_seed_alone():
    a, b, c = digits("digits-0-4", 1), digits("digits-0-4", 1), digits("digits-0-4", 2)
    assert torch.equal(a.x_train, b.x_train)
    assert torch.equal(a.y_val, b.y_val)
    assert not torch.equal(a.x_train, c.x_train)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_pixel_of_a_validation_digit_is_in_any_clutter(seed, monkeypatch):
    """The validation digits are white here and the training digits black."""
    from sklearn import datasets

    white = np.concatenate([validation_rows(name, seed, monkeypatch) for name in DIGIT_TASKS])
    bunch = datasets.load_digits()
    bunch.images[:] = 0
    bunch.images[white] = 16
    monkeypatch.setattr(datasets, "load_digits", lambda: bunch)
    for name in DIGIT_TASKS:
        task = digits(name, seed)
        assert int(task.x_train.max()) < 128  # noise alone
        for image in task.x_val[:, 0] > 127:
            top, left = image.nonzero().min(0).values
            assert image[top : top + 8, left : left + 8].all()  # the digit itself
            assert int(image.sum()) == 64  # and nothing else


DIGIT_TASKS = tuple(DATASETS["digits"].tasks)


def validation_rows(name, seed, monkeypatch):
    """Rows of scikit-learn's digits that are a task's validation images."""
    module = importlib.import_module("rtl_utils.data.digits")
    clutter, rows = module._clutter, []

    def noted(images, row, *rest):
        rows.append(row)
        return clutter(images, row, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_clutter", noted)
        task = digits(name, seed)
    return rows[len(task.y_train) :]


# --- parts of the training data ---


@given(seed=st.integers(0, 1000), n_train=st.integers(1, 4))
def test_n_train_is_images_per_class_and_leaves_validation_alone(pictures, seed, n_train):
    task = pictures()
    small = subset(task, n_train, seed)
    assert small.y_train.bincount().tolist() == [n_train] * 5
    assert small.x_val is task.x_val
    assert small.y_val is task.y_val
    known = {x.numpy().tobytes(): int(y) for x, y in zip(task.x_train, task.y_train, strict=True)}
    chosen = [x.numpy().tobytes() for x in small.x_train]
    assert len(set(chosen)) == 5 * n_train
    assert [known[x] for x in chosen] == small.y_train.tolist()


@pytest.mark.parametrize(("n_train", "per_class"), [(2, 2), (9, 3), (None, 4)])
def test_at_most_takes_the_smallest_class_where_a_task_has_fewer(pictures, n_train, per_class):
    whole = pictures(per_class=4)
    rows = slice(None) if n_train is None else slice(0, -1)  # one class has 3 images
    task = replace(whole, x_train=whole.x_train[rows], y_train=whole.y_train[rows])
    assert set(at_most(task, n_train, 0).y_train.bincount().tolist()) == {per_class}


def test_n_train_of_a_regression_is_of_all(table):
    assert len(subset(table(), 7, seed=0).y_train) == 7


@pytest.mark.parametrize("n_train", [0, -1, 5, 2.5, 2.0, "3"])
def test_n_train_that_the_data_do_not_have_is_refused(pictures, n_train):
    with pytest.raises(ValueError, match=f"n_train must .*1 and 4.*got {n_train!r}"):
        subset(pictures(per_class=4), n_train, seed=0)


def rows_of(part, whole):
    """Rows of the whole training data that a part of it holds, in a task of distinct inputs."""
    known = {x.numpy().tobytes(): row for row, x in enumerate(whole)}
    return [known[x.numpy().tobytes()] for x in part]


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 0.99), per_class=st.integers(2, 9))
def test_held_out_examples_and_the_others_are_the_training_data(pictures, seed, share, per_class):
    task = pictures(per_class=per_class)
    rest, held = hold_out(task, share, seed)
    kept, chosen = rows_of(rest.x_train, task.x_train), rows_of(held.x_val, task.x_train)
    assert sorted(kept + chosen) == list(range(5 * per_class))  # each once, in one of the two
    assert rest.y_train.tolist() == task.y_train[kept].tolist()
    assert held.y_val.tolist() == task.y_train[chosen].tolist()
    count = min(max(1, round(share * per_class)), per_class - 1)  # something is left to train on
    assert held.y_val.bincount().tolist() == [count] * 5
    assert torch.equal(held.x_train, rest.x_train)
    assert rest.x_val is task.x_val
    assert rest.y_val is task.y_val


def test_held_out_examples_are_drawn_by_the_seed(pictures):
    task = pictures(per_class=10)
    first, again, other = (hold_out(task, 0.2, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first.x_val, again.x_val)
    assert not torch.equal(first.x_val, other.x_val)


def test_a_share_of_a_regression_is_of_all(table):
    rest, held = hold_out(table(n=20), 0.25, seed=0)
    assert (len(rest.y_train), len(held.y_val)) == (15, 5)


def test_only_the_classes_that_there_are_are_held_out(pictures):
    """One head for all classes leaves outputs that the target has no example of."""
    _, target = disjoint(pictures("source"), other_classes(pictures("target", per_class=5)))
    _, held = hold_out(target, 0.2, seed=0)
    assert sorted(held.y_val.tolist()) == [5, 6, 7, 8, 9]


def other_classes(task):
    return replace(task, class_names=tuple("fghij"))


@pytest.mark.parametrize("share", [0, 1, -0.2, 1.5])
def test_share_that_leaves_nothing_is_refused(pictures, share):
    with pytest.raises(ValueError, match=f"share must lie between 0 and 1.*got {share}"):
        hold_out(pictures(per_class=5), share, seed=0)


def test_nothing_is_held_out_of_a_class_of_one_example(pictures):
    with pytest.raises(ValueError, match=r"'target' has a single training example.*raise n_train"):
        hold_out(pictures(per_class=1), 0.2, seed=0)


# --- loading ---


def test_pixels_become_inputs_between_minus_2_and_2_and_features_pass():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(as_float(pixels), torch.tensor([-2.0, -1.2, 2.0]))
    assert torch.equal(as_float(torch.tensor([3.5])), torch.tensor([3.5]))


@pytest.mark.parametrize(
    ("dataset", "name", "says"),
    [
        ("imagenet", "digits-0-4", "dataset must be one of .*got 'imagenet'"),
        ("digits", "flowers", "digits has no task 'flowers'; it has digits-0-4, digits-5-9"),
        ("cifar100", "digits-0-4", "cifar100 has no task 'digits-0-4'"),
        ("synthetic", "flowers", "synthetic has no task 'flowers'; it has source, target"),
    ],
)
def test_unknown_data_is_refused(dataset, name, says):
    for look in (lambda: load(dataset, name, seed=0), lambda: check_task(dataset, name)):
        with pytest.raises(ValueError, match=says):
            look()


def test_class_that_a_task_lacks_is_refused(pictures):
    assert pictures().class_index("c") == 2
    with pytest.raises(
        ValueError, match="class 'kangaroo' is not in task 'target'; it has a, b, c, d, e"
    ):
        pictures().class_index("kangaroo")


# --- CIFAR-100 ---


def test_twenty_superclasses_hold_each_of_100_classes_once():
    classes = [c for group in SUPERCLASSES.values() for c in group]
    assert len(SUPERCLASSES) == 20
    assert {len(group) for group in SUPERCLASSES.values()} == {5}
    assert len(classes) == len(set(classes)) == 100


@pytest.mark.parametrize(
    "name", ["herbivores", "carnivores", "vehicles-1", "vehicles-2", "flowers"]
)
def test_real_superclass_has_2500_training_and_500_validation_images(real_cifar100, name):
    task = cifar100(name)
    assert task.x_train.shape == (2_500, 3, 32, 32)
    assert task.x_val.shape == (500, 3, 32, 32)
    assert task.x_train.dtype == torch.uint8
    assert task.y_train.bincount().tolist() == [500] * 5
    assert task.y_val.bincount().tolist() == [100] * 5
    assert task.class_names == SUPERCLASSES[name]


def test_real_images_carry_the_labels_of_the_file(real_cifar100):
    task = cifar100("flowers")
    with np.load(real_cifar100 / "cifar100.npz") as file:
        names, labels, images = (
            file["class_names"].tolist(),
            file["test_labels"],
            file["test_images"],
        )
    for k, name in enumerate(task.class_names):
        expected = {
            image.transpose(2, 0, 1).tobytes() for image in images[labels == names.index(name)]
        }
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
    with pytest.warns(OtherContentsWarning):
        task = cifar100("flowers")
    arrays = cifar100_arrays()
    for k, name in enumerate(task.class_names):
        (image,) = arrays["train_images"][arrays["train_labels"] == names.index(name)]
        assert torch.equal(
            task.x_train[task.y_train == k][0], torch.from_numpy(image.transpose(2, 0, 1).copy())
        )


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
    what = next(iter(change)).split("_")[1]
    with pytest.raises(ValueError, match=what) as error:
        cifar100("flowers")
    assert str(path) in str(error.value)


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
        found = str(error)
    if isinstance(found, str):
        assert str(path) in found
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


# --- CIFAR-100: one order, and contents that are named ---

REAL = ("herbivores", "carnivores", "vehicles-1", "vehicles-2", "flowers")


def same_task(a, b):
    splits = ("x_train", "y_train", "x_val", "y_val")
    return all(torch.equal(getattr(a, split), getattr(b, split)) for split in splits)


@pytest.fixture
def copied(small_cifar100, monkeypatch):
    """Its arrays, several images per class, and a way to write others.

    The contents of `flowers` stand for the official ones, so that a warning is an error.
    """
    draw = np.random.default_rng(1)
    arrays = {"class_names": np.array(sorted(c for g in SUPERCLASSES.values() for c in g))}
    for part, per_class in (("train", 4), ("test", 2)):
        n = 100 * per_class
        arrays[f"{part}_images"] = draw.integers(0, 64, (n, 32, 32, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = draw.permutation(np.arange(n) % 100).astype(np.uint8)

    def write(**changes):
        return small_cifar100(**arrays | changes)

    write()
    monkeypatch.delitem(OFFICIAL, "flowers")
    monkeypatch.setitem(OFFICIAL, "flowers", digest("flowers"))
    return arrays, write


def of_flowers(arrays, part):
    """Rows of the images of flowers in a split."""
    fine = [arrays["class_names"].tolist().index(c) for c in SUPERCLASSES["flowers"]]
    return np.flatnonzero(np.isin(arrays[f"{part}_labels"], fine))


def both_shuffled(arrays, seed):
    found = dict(arrays)
    for part in ("train", "test"):
        order = np.random.default_rng(seed).permutation(len(arrays[f"{part}_labels"]))
        for kind in ("images", "labels"):
            found[f"{part}_{kind}"] = arrays[f"{part}_{kind}"][order]
    return found


def shuffled(kind):
    return lambda arrays: {f"train_{kind}": both_shuffled(arrays, 0)[f"train_{kind}"]}


def splits_swapped(arrays):
    other = {"train": "test", "test": "train"}
    kinds = [(part, kind) for part in other for kind in ("images", "labels")]
    return {f"{part}_{kind}": arrays[f"{other[part]}_{kind}"] for part, kind in kinds}


def without(part, rows):
    """Without images of flowers: all of one class, or one image."""

    def change(arrays):
        labels = arrays[f"{part}_labels"]
        gone = of_flowers(arrays, part)[-1]
        kept = labels != labels[gone] if rows == "class" else np.arange(len(labels)) != gone
        return {f"{part}_{kind}": arrays[f"{part}_{kind}"][kept] for kind in ("images", "labels")}

    return change


def with_first(part, kind, value):
    """With another value of the first image of flowers."""

    def change(arrays):
        array = arrays[f"{part}_{kind}"].copy()
        array[of_flowers(arrays, part)[0]] = value
        return {f"{part}_{kind}": array}

    return change


def one_bit(arrays):
    images = arrays["train_images"].copy()
    images[of_flowers(arrays, "train")[3], 31, 31, 2] ^= 1
    return {"train_images": images}


def two_labels_swapped(arrays):
    labels, rows = arrays["test_labels"].copy(), of_flowers(arrays, "test")
    first = rows[0]
    other = next(row for row in rows if labels[row] != labels[first])
    labels[[first, other]] = labels[[other, first]]
    return {"test_labels": labels}


DAMAGE = {
    "images shuffled": (shuffled("images"), "named"),
    "labels shuffled": (shuffled("labels"), "named"),
    "two labels swapped": (two_labels_swapped, "named"),
    "the splits swapped": (splits_swapped, "named"),
    "a black image": (with_first("train", "images", 0), "named"),
    "a black validation image": (with_first("test", "images", 0), "named"),
    "one bit of one pixel": (one_bit, "named"),
    "an image of another superclass": (with_first("train", "labels", 0), "named"),
    "an image lost": (without("train", "image"), "named"),
    "a class lost": (without("train", "class"), "no train images of some classes"),
    "a validation class lost": (without("test", "class"), "no test images of some classes"),
    "float images": (lambda a: {"train_images": a["train_images"] / 255}, "must be uint8"),
    "wide labels": (lambda a: {"test_labels": a["test_labels"].astype(int)}, "must be uint8"),
    "Fortran order": (lambda a: {"train_images": np.asfortranarray(a["train_images"])}, "same"),
    "both shuffled": (lambda a: both_shuffled(a, 0), "same"),
    "both shuffled otherwise": (lambda a: both_shuffled(a, 1), "same"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_other_contents_are_refused_or_named_and_another_order_is_the_same_task(copied, name):
    arrays, write = copied
    change, outcome = DAMAGE[name]
    whole = cifar100("flowers")
    assert digest("flowers") is None
    path = write(**change(arrays))
    if outcome == "same":
        assert same_task(cifar100("flowers"), whole)
        assert digest("flowers") is None
    elif outcome == "named":
        with pytest.warns(OtherContentsWarning) as told:
            task = cifar100("flowers")
        assert not same_task(task, whole)
        (one,) = told
        assert str(one.message) == (
            f"{path} does not hold the official images and labels of 'flowers': its runs are kept "
            "apart from those of the official images"
        )
        assert len(digest("flowers")) == 16
    else:
        with pytest.raises(ValueError, match=outcome) as error:
            cifar100("flowers")
        assert "\n" not in str(error.value)


def test_each_other_contents_have_a_digest_of_their_own(copied):
    arrays, write = copied
    found = set()
    changes = [change for change, outcome in DAMAGE.values() if outcome == "named"]
    for change in changes:
        write(**change(arrays))
        with warnings.catch_warnings(action="ignore", category=OtherContentsWarning):
            found.add(digest("flowers"))
    assert len(found) == len(changes)


def test_contents_are_named_once_per_process(copied):
    arrays, write = copied
    write(**one_bit(arrays))
    with warnings.catch_warnings(record=True, action="always") as told:
        for look in (digest, cifar100, cifar100, digest):
            look("flowers")
    assert [warning.category for warning in told] == [OtherContentsWarning]


def test_superclass_that_nothing_is_known_of_has_a_digest_and_no_warning(copied):
    arrays, write = copied
    assert "fish" not in OFFICIAL
    before, task = digest("fish"), cifar100("fish")
    write(**both_shuffled(arrays, 0))
    assert digest("fish") == before
    assert same_task(cifar100("fish"), task)
    write(**shuffled("labels")(arrays))
    assert digest("fish") not in (before, None)


def test_equal_images_have_one_order_by_their_labels(copied):
    """An image that stands in two classes."""
    arrays, write = copied
    images, rows = arrays["train_images"].copy(), of_flowers(arrays, "train")
    images[rows] = images[rows[0]]
    twice = arrays | {"train_images": images}
    write(**twice)
    with pytest.warns(OtherContentsWarning):
        task = cifar100("flowers")
    assert task.y_train.tolist() == sorted(task.y_train.tolist())
    write(**both_shuffled(twice, 0))
    assert same_task(cifar100("flowers"), task)


def test_digest_of_a_damaged_file_is_refused_and_of_missing_classes_none(copied):
    """Unknown contents must not be taken for the official ones."""
    arrays, write = copied
    write(**without("train", "class")(arrays))
    assert digest("flowers") is None
    path = write()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cifar100\.npz is not a readable"):
        digest("flowers")


def test_file_that_cannot_be_looked_at_is_not_taken_for_none(monkeypatch):
    monkeypatch.setenv("RTL_DATA", "/" + "x" * 300)  # longer than a name may be
    for look in (digest, cifar100):
        with pytest.raises(ValueError, match=r"cannot be looked at \(File name too long\)"):
            look("flowers")


def test_digest_of_a_superclass_that_is_none_is_refused():
    with pytest.raises(ValueError, match="cifar100 has no superclass 'dogs'"):
        digest("dogs")


def test_data_that_are_made_by_code_have_no_digest():
    for name in ("synthetic", "digits"):
        assert {DATASETS[name].digest(task) for task in DATASETS[name].tasks} == {None}


@pytest.mark.parametrize("name", REAL)
def test_real_superclass_is_the_official_one(real_cifar100, name):
    assert digest(name) is None
    assert set(OFFICIAL) == set(REAL)


def test_order_mixes_the_classes_of_both_splits(copied):
    """Notebooks and lengths look at the first few examples."""
    task = cifar100("flowers")
    for y in (task.y_train, task.y_val):
        assert y.diff().ne(0).sum() > 4  # sorted by class it would change four times


def test_first_real_images_are_a_sample_of_all_classes(real_cifar100):
    task = cifar100("flowers")
    for y in (task.y_train[:100], task.y_val[:100]):
        assert int(y.bincount(minlength=5).min()) >= 10


def test_real_images_in_another_order_are_the_same_task_and_others_are_named(
    real_cifar100, tmp_path, monkeypatch
):
    task = cifar100("flowers")
    arrays = cifar100_arrays()
    part = {"class_names": arrays["class_names"]}
    for split in ("train", "test"):
        rows = of_flowers(arrays, split)[::-1]
        part |= {
            f"{split}_{kind}": arrays[f"{split}_{kind}"][rows] for kind in ("images", "labels")
        }
    monkeypatch.setenv("RTL_DATA", str(tmp_path))
    np.savez(tmp_path / "cifar100.npz", **part)
    assert same_task(cifar100("flowers"), task)
    assert digest("flowers") is None
    np.savez(tmp_path / "cifar100.npz", **part | one_bit(part))
    with pytest.warns(OtherContentsWarning, match="'flowers'"):
        assert not same_task(cifar100("flowers"), task)


def test_digits_of_scikit_learn_are_those_that_the_runs_were_made_with():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    found = [bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)]
    assert (
        hashlib.sha256(b"".join(array.tobytes() for array in found)).hexdigest()
        == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    )


# --- CIFAR-100: downloads ---


@pytest.fixture
def torchvision_cifar100(tmp_path, monkeypatch):
    """torchvision's CIFAR100 class, with no copy of the data where the package looks first."""
    declare_missing_operators()
    from torchvision.datasets import CIFAR100

    monkeypatch.setenv("RTL_DATA", str(tmp_path / "given"))
    monkeypatch.setattr(folders, "checkout", lambda: tmp_path)
    return CIFAR100


def test_missing_data_says_what_was_looked_for_where_and_how_to_get_it(
    torchvision_cifar100, tmp_path, monkeypatch
):
    nobody = "http://127.0.0.1:9/cifar-100-python.tar.gz"
    monkeypatch.setattr(torchvision_cifar100, "url", nobody)
    with pytest.raises(FileNotFoundError) as error:
        cifar100("flowers")
    for part in (
        "given/cifar100.npz",
        str(tmp_path / "data" / "cifar100.npz"),
        "download",
        "RTL_DATA",
        "rtl data pack",
        "dataset='digits'",
    ):
        assert part in str(error.value)


@pytest.fixture
def official_archive(torchvision_cifar100, tmp_path, monkeypatch):
    """An archive in the official format, one image per class, on a server of this machine.

    Its checksums stand where torchvision keeps them.
    """
    served = tmp_path / "served" / "cifar-100-python"
    served.mkdir(parents=True)
    data = np.random.default_rng(0).integers(0, 256, (100, 3072), dtype=np.uint8)
    content = {
        "train": {"data": data, "fine_labels": list(range(100))},
        "test": {"data": data[::-1], "fine_labels": list(range(100))[::-1]},
    }
    content["meta"] = {
        "fine_label_names": sorted(c for group in SUPERCLASSES.values() for c in group)
    }
    for name, part in content.items():
        (served / name).write_bytes(pickle.dumps(part))
    archive = served.parent / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(served, "cifar-100-python")
    sums = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in (archive, *served.iterdir())
    }
    monkeypatch.setattr(torchvision_cifar100, "tgz_md5", sums[archive.name])
    monkeypatch.setattr(torchvision_cifar100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(torchvision_cifar100, "test_list", [["test", sums["test"]]])
    meta = torchvision_cifar100.meta | {"md5": sums["meta"]}
    monkeypatch.setattr(torchvision_cifar100, "meta", meta)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served.parent)) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setattr(torchvision_cifar100, "url", url)
        yield archive, data
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """A file server that logs nothing."""

    def log_message(self, *_):
        pass


@pytest.mark.kernel
def test_downloaded_archive_becomes_the_task(official_archive):
    _, data = official_archive
    task = cifar100("flowers")
    names = sorted(c for group in SUPERCLASSES.values() for c in group)
    for k, name in enumerate(task.class_names):
        expected = torch.from_numpy(data[names.index(name)].reshape(3, 32, 32))
        assert torch.equal(task.x_train[task.y_train == k][0], expected)


@pytest.mark.kernel
def test_downloaded_copy_and_the_file_packed_from_it_have_one_digest_and_one_task(
    official_archive, tmp_path, monkeypatch
):
    assert digest("fish") is None  # not here yet
    task = cifar100("fish")
    found = digest("fish")
    assert found is not None
    assert digest("flowers") is None  # torchvision has checked its MD5
    pack(tmp_path / "packed" / "cifar100.npz")
    monkeypatch.setenv("RTL_DATA", str(tmp_path / "packed"))
    assert digest("fish") == found
    assert same_task(cifar100("fish"), task)


@pytest.mark.kernel
def test_damaged_download_has_no_digest_and_is_got_again(official_archive, tmp_path):
    task = cifar100("fish")
    train = tmp_path / "data" / "cifar-100-python" / "train"
    train.write_bytes(train.read_bytes()[:-1])
    assert digest("fish") is None
    assert same_task(cifar100("fish"), task)
    assert digest("fish") is not None


def test_digest_downloads_nothing(torchvision_cifar100, capsys):
    for name in SUPERCLASSES:
        assert digest(name) is None
    assert "downloading" not in capsys.readouterr().err


@pytest.mark.kernel
def test_download_with_a_wrong_checksum_is_refused(official_archive):
    archive, _ = official_archive
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(FileNotFoundError, match="CIFAR-100 is not here"):
        cifar100("flowers")


@pytest.mark.kernel
def test_server_that_stalls_is_given_up_after_a_while(torchvision_cifar100, monkeypatch, capsys):
    module = importlib.import_module("rtl_utils.data.cifar100")
    monkeypatch.setattr(module, "_STALLED", 0.3)
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and sends nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar-100-python.tar.gz"
        monkeypatch.setattr(torchvision_cifar100, "url", url)
        started = time.monotonic()
        with pytest.raises(FileNotFoundError, match="timed out"):
            cifar100("flowers")
    assert time.monotonic() - started < 10
    assert socket.getdefaulttimeout() == before
    assert "downloading CIFAR-100 (169 MB)" in capsys.readouterr().err


# --- torchvision beside a CPU build of torch ---


def in_python(code):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.kernel
def test_operators_that_torchvision_has_are_not_declared_again():
    """Where its own library does load, a second declaration aborts the process."""
    found = in_python(
        "import torch\n"
        "own = torch.library.Library('torchvision', 'DEF')\n"
        "for name in ('nms', 'qnms'):\n"
        "    own.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "from rtl_utils.data import declare_missing_operators\n"
        "print(declare_missing_operators())\n"
        "from torchvision.datasets import CIFAR100\n"
        "print(CIFAR100.__name__)"
    )
    assert found == ["None", "CIFAR100"]


@pytest.mark.slow
@pytest.mark.kernel
def test_torchvision_can_be_imported_and_its_missing_operators_are_declared_once():
    found = in_python(
        "import torch\n"
        "from rtl_utils.data import declare_missing_operators\n"
        "first = declare_missing_operators()\n"
        "print(declare_missing_operators() is first, hasattr(torch.ops.torchvision, 'nms'))\n"
        "from torchvision.datasets import CIFAR100\n"
        "print(CIFAR100.__name__)"
    )
    assert found == ["True", "True", "CIFAR100"]
