"""Distances between tasks: which rows make which entry, and that real trainings give one."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from rtl_utils.data import Shortcut
from rtl_utils.distances import (
    KINDS,
    Matrix,
    accuracies,
    distance_matrix,
    embedding,
    embedding_error,
    matrices,
    matrix,
    pair_runs,
)
from rtl_utils.methods import METHODS
from rtl_utils.store import FINAL, Store
from rtl_utils.training import Sgd

TASKS = ("a", "b", "c")


def rows(kind, values, errors=None):
    """Tidy rows with one value per pair and seed: values[seed][pair]."""
    lines = []
    for seed, given in enumerate(values):
        for pair, (source, target) in enumerate(permutations(TASKS, 2)):
            line = {
                "source": source,
                "target": target,
                "method": KINDS[kind].method,
                "seed": seed,
                "epoch": FINAL,
            }
            lines.append(line | {"metric": KINDS[kind].metric, "value": given[pair]})
            lines.append(line | {"metric": "val_accuracy", "value": given[pair] / 10})
            if errors:
                error = {"metric": f"{KINDS[kind].metric}_error", "value": errors[pair]}
                lines.append(line | error)
    return pd.DataFrame(lines).sample(frac=1, random_state=0)


def test_every_kind_names_a_method_an_equation_and_a_reference():
    for kind in KINDS.values():
        assert kind.method in METHODS
        assert kind.equation
        assert kind.reference


def test_sources_lie_in_rows_and_targets_in_columns():
    of_seeds = [range(first, first + 6) for first in range(1, 6)]
    found = matrix(rows("uncoupled", of_seeds), TASKS, "uncoupled")
    assert found.mean.tolist() == [[0, 3, 4], [5, 0, 6], [7, 8, 0]]
    assert found.pairs.tolist() == [3, 4, 5, 6, 7, 8]
    off = found.off_diagonal
    assert (found.low[off] < found.mean[off]).all()
    assert (found.mean[off] < found.high[off]).all()


def test_there_is_a_matrix_for_every_kind_that_has_rows():
    some = pd.concat([rows("coupled", [range(6)]), rows("fine-tuning", [range(6)])])
    found = matrices(some, TASKS)
    assert list(found) == ["fine-tuning", "coupled"]  # as KINDS lists them
    assert found["coupled"].pairs.tolist() == [0, 1, 2, 3, 4, 5]
    assert not matrices(pd.DataFrame(), TASKS)


def test_one_seed_has_the_interval_of_its_blocks_or_none():
    coupled = matrix(rows("coupled", [range(1, 7)], errors=[0.1] * 6), TASKS, "coupled")
    assert coupled.high[0, 1] - coupled.mean[0, 1] == pytest.approx(1.96 * 0.1)
    for kind in ("fine-tuning", "riemannian"):  # one number per training
        assert np.isnan(matrix(rows(kind, [range(1, 7)]), TASKS, kind).low[0, 1])


def test_values_of_single_epochs_are_left_out():
    final = rows("uncoupled", [range(1, 7)])
    found = matrix(pd.concat([final, final.assign(epoch=0, value=99.0)]), TASKS, "uncoupled")
    assert found.pairs.tolist() == [1, 2, 3, 4, 5, 6]


def test_accuracies_come_in_the_order_of_the_pairs():
    found = accuracies(rows("uncoupled", [range(1, 7)]), TASKS, "ut")
    assert found == pytest.approx(np.arange(1, 7) / 10)


def test_a_pair_without_an_accuracy_is_named():
    with pytest.raises(ValueError, match="no val_accuracy of 'ft' from 'a' to 'b'"):
        accuracies(rows("uncoupled", [range(1, 7)]), TASKS, "ft")


def test_a_map_of_equal_distances_has_a_large_error():
    equal = 1.0 - np.eye(5)
    error = embedding_error(Matrix("uncoupled", tuple("abcde"), equal, equal, equal))
    assert error == pytest.approx(0.46, abs=0.01)


def test_embedding_gives_back_a_plane():
    points = np.array([[0, 0], [3, 0], [0, 4], [1, 1]])
    between = np.linalg.norm(points[:, None] - points, axis=2)
    placed = embedding(Matrix("uncoupled", tuple("abcd"), between, between, between))
    found = np.linalg.norm(placed[:, None] - placed, axis=2)
    np.testing.assert_allclose(found, between, atol=1e-6)


@pytest.mark.slow
def test_matrix_of_real_trainings_has_a_direction_and_trains_once(tmp_path):
    asked = {
        "store": Store(tmp_path),
        "dataset": "digits",
        "n_train": 5,
        "sgd": Sgd(epochs=2),
        "partitions": 2,
        "taus": (0.5, 1.0),
    }
    tasks = ("digits-0-4", "digits-5-9")
    found = distance_matrix(tasks, "uncoupled", [0], **asked)
    assert found.mean[0, 1] > 0
    assert found.mean[1, 0] > 0
    assert found.mean[0, 1] != found.mean[1, 0]
    assert found.low[0, 1] < found.mean[0, 1]
    again = distance_matrix(tasks, "uncoupled", [0], **asked)
    assert np.array_equal(again.mean, found.mean)


def test_the_device_reaches_the_training(tmp_path):
    asked = {"store": Store(tmp_path), "dataset": "digits", "n_train": 5, "sgd": Sgd(epochs=1)}
    with pytest.raises(ValueError, match="abacus"):
        distance_matrix(("digits-0-4", "digits-5-9"), "fine-tuning", [0], device="abacus", **asked)


def test_every_pair_and_seed_has_a_run():
    runs = pair_runs(TASKS, "coupled", [0, 3], "cifar100", source_shortcut=Shortcut())
    wanted = {(*pair, seed) for pair in permutations(TASKS, 2) for seed in (0, 3)}
    assert {(r.source, r.target, r.seed) for r in runs} == wanted
    assert {r.method for r in runs} == {"ct-iterated"}
    assert {r.source_shortcut for r in runs} == {Shortcut()}


@pytest.mark.parametrize(
    ("tasks", "kind", "message"),
    [
        (TASKS, "euclidean", "kind must be one of fine-tuning, .*'euclidean'"),
        (("a",), "coupled", "two different tasks"),
        (("a", "a"), "coupled", "two different tasks"),
    ],
)
def test_what_makes_no_matrix_is_refused(tasks, kind, message):
    with pytest.raises(ValueError, match=message):
        matrix(rows("coupled", [range(6)]), tasks, kind)
    with pytest.raises(ValueError, match=message):
        pair_runs(tasks, kind, [0])


def test_a_pair_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no uncoupled distance from 'a' to 'd'"):
        matrix(rows("uncoupled", [range(6)]), ("a", "d"), "uncoupled")
