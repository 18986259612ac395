from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from rtl_utils.distances import KINDS, Matrix, accuracies, distance_matrix, embedding, matrix, pair_runs, rank_table
from rtl_utils.results import Store
from rtl_utils.training import Sgd

TASKS = ("a", "b", "c")


def rows(kind, values, errors=None):
    """Tidy rows with one value a pair and seed: values[seed][pair]."""
    lines = []
    for seed, given in enumerate(values):
        for pair, (source, target) in enumerate(permutations(TASKS, 2)):
            line = {"source": source, "target": target, "method": KINDS[kind].method, "seed": seed, "epoch": -1}
            lines.append(line | {"metric": KINDS[kind].metric, "value": given[pair]})
            lines.append(line | {"metric": "val_accuracy", "value": given[pair] / 10})
            if errors:
                lines.append(line | {"metric": f"{KINDS[kind].metric}_error", "value": errors[pair]})
    return pd.DataFrame(lines).sample(frac=1, random_state=0)


def test_sources_lie_down_and_targets_across():
    found = matrix(rows("uncoupled", [range(1, 7), range(3, 9)]), TASKS, "uncoupled")
    assert found.mean.tolist() == [[0, 2, 3], [4, 0, 5], [6, 7, 0]]
    assert found.pairs.tolist() == [2, 3, 4, 5, 6, 7]
    off = ~np.eye(3, dtype=bool)
    assert (found.low[off] < found.mean[off]).all() and (found.mean[off] < found.high[off]).all()


def test_one_seed_has_the_interval_of_its_blocks_or_none():
    found = matrix(rows("coupled", [range(1, 7)], errors=[0.1] * 6), TASKS, "coupled")
    assert found.high[0, 1] - found.mean[0, 1] == pytest.approx(1.96 * 0.1)
    assert np.isnan(matrix(rows("fine-tuning", [range(1, 7)]), TASKS, "fine-tuning").low[0, 1])


def test_accuracies_come_in_the_order_of_the_pairs():
    assert accuracies(rows("uncoupled", [range(1, 7)]), TASKS, "ut") == pytest.approx(np.arange(1, 7) / 10)


def ranked(distances, reached):
    """The one row of the table for a kind with these distances and accuracies of the six pairs; the published matrix is our own."""
    found = rows("uncoupled", [distances])
    of_accuracy = found.metric == "val_accuracy"
    lookup = dict(zip(permutations(TASKS, 2), reached, strict=True))
    found.loc[of_accuracy, "value"] = [lookup[pair] for pair in zip(found.source[of_accuracy], found.target[of_accuracy], strict=True)]
    fine_tuning = matrix(rows("fine-tuning", [distances[::-1]]), TASKS, "fine-tuning")
    ours = matrix(found, TASKS, "uncoupled")
    both = pd.concat([found, rows("fine-tuning", [distances[::-1]])])
    return rank_table({"uncoupled": ours, "fine-tuning": fine_tuning}, both, {"uncoupled": ours.mean}).loc["uncoupled"]


def test_accuracy_that_falls_with_distance_reproduces_claim_6():
    row = ranked([1, 2, 3, 4, 5, 6], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert row["with accuracy"].startswith("-1.00") and row["claim 6"] == "reproduced"
    assert row["with Gao & Chaudhari's"].startswith("1.00") and row["with our fine-tuning distance"].startswith("-1.00")


def test_accuracy_of_hard_targets_is_no_effect_of_distance_within_them():
    # pairs ab, ac, ba, bc, ca, cb: each target's accuracy rises with distance, but the targets that are far are hard
    row = ranked([3, 1, 5, 2, 6, 4], [0.50, 0.90, 0.10, 0.91, 0.11, 0.51])
    assert float(row["with accuracy"].split()[0]) < 0 < float(row["with accuracy, within a target"].split()[0])


def test_embedding_gives_back_a_plane():
    points = np.array([[0, 0], [3, 0], [0, 4], [1, 1]])
    between = np.linalg.norm(points[:, None] - points, axis=2)
    placed = embedding(Matrix("uncoupled", tuple("abcd"), between, between, between))
    np.testing.assert_allclose(np.linalg.norm(placed[:, None] - placed, axis=2), between, atol=1e-6)


def test_matrix_of_real_trainings_has_a_direction_and_trains_once(tmp_path):
    asked = {"store": Store(tmp_path), "dataset": "digits", "n_train": 5, "sgd": Sgd(epochs=2), "partitions": 2, "taus": (0.5, 1.0)}
    found = distance_matrix(("digits-0-4", "digits-5-9"), "uncoupled", [0], **asked)
    assert found.mean[0, 1] > 0 and found.mean[1, 0] > 0 and found.mean[0, 1] != found.mean[1, 0]
    assert found.low[0, 1] < found.mean[0, 1]
    again = distance_matrix(("digits-0-4", "digits-5-9"), "uncoupled", [0], **asked)
    assert np.array_equal(again.mean, found.mean)


def test_every_pair_and_seed_has_a_run():
    runs = pair_runs(TASKS, "coupled", [0, 3], "cifar100")
    assert {(r.source, r.target, r.seed) for r in runs} == {(*pair, seed) for pair in permutations(TASKS, 2) for seed in (0, 3)}
    assert {r.method for r in runs} == {"ct-iterated"}


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
