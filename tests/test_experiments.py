import os
from dataclasses import fields, replace

import pandas as pd
import pytest
import torch

from rtl_utils import experiments
from rtl_utils.coupled import Coupled
from rtl_utils.experiments import Run, network, run, synthetic_views
from rtl_utils.models import predict
from rtl_utils.results import FINAL, Store
from rtl_utils.spurious import plant_ball
from rtl_utils.tasks import load
from rtl_utils.training import Sgd

# one epoch of a few large mini-batches: what is tested is the bookkeeping
QUICK = Run(
    "synthetic",
    "source",
    "target",
    "ft",
    0,
    width="plain",
    taus=(0.0, 1.0),
    sgd=Sgd(epochs=2, batch_size=1_000),
    source_sgd=Sgd(epochs=1, batch_size=2_000),
)
DIGITS = Run(
    "digits", "digits-0-4", "digits-5-9", "ft", 0, width=(4, 4, 4, 4), taus=(0.0, 1.0), sgd=Sgd(epochs=2, batch_size=50), source_ball="4", n_train=30
)
COUPLED = Coupled(iterations=2, block=10, blocks=2, partitions=2)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def files(store):
    """Name and time of change of every weights file."""
    return {path.name: path.stat().st_mtime_ns for path in (store.folder / "weights").iterdir()}


def final(rows, metric):
    return rows[(rows.metric == metric) & (rows.epoch == FINAL)].value


def sorted_rows(rows):
    return rows.sort_values(["run", "metric", "epoch"], ignore_index=True)


def test_rows_are_tidy_and_hold_every_metric(store):
    rows = run([QUICK, replace(QUICK, method="ut")], store)
    assert {"run", "status", "dataset", "source", "target", "method", "seed", "metric", "epoch", "value"} <= set(rows.columns)
    assert set(rows.method) == {"ft", "ut"} and set(rows.status) == {"done"}
    for metric in ("tau", "train_loss", "val_loss", "length"):
        assert (rows[(rows.metric == metric) & (rows.epoch >= 0)].groupby("run").size() == 2).all()  # two epochs
    for metric in ("train_loss", "val_loss", "restored_loss", "rows_loss"):
        assert len(final(rows, metric)) == 2 and (final(rows, metric) > 0).all()
    assert sorted(rows[(rows.metric == "tau") & (rows.method == "ut")].value) == [0, 1]


def test_image_rows_hold_the_ball_test(store):
    rows = run([DIGITS], store)
    for metric in ("clean_accuracy", "ball_accuracy", "clean_share", "ball_share", "flip_rate", "train_accuracy", "val_accuracy"):
        assert len(final(rows, metric)) == 1 and final(rows, metric).between(0, 1).all()
    assert final(rows, "clean_accuracy").item() == final(rows, "val_accuracy").item()  # the target is clean
    task, net = load("digits", "digits-5-9", 0), network(DIGITS, store)
    with_ball = predict(net, plant_ball(task, "all", 0).x_val).argmax(1)
    assert final(rows, "ball_accuracy").item() == pytest.approx(float((with_ball == task.y_val).float().mean()))
    assert final(rows, "ball_share").item() == pytest.approx(float((with_ball == 4).float().mean()))


def test_second_call_trains_nothing(store):
    wanted = [QUICK, replace(QUICK, method="scratch")]
    first, before = run(wanted, store), files(store)
    second = run(wanted, store)
    pd.testing.assert_frame_equal(sorted_rows(first), sorted_rows(second))
    assert files(store) == before and len(before) == 3  # and one backbone


def test_only_what_is_new_is_trained(store):
    run([QUICK], store)
    before = files(store)
    run([QUICK, replace(QUICK, method="fixed")], store)
    after = files(store)
    assert before.items() <= after.items() and len(after) == len(before) + 1


def test_one_backbone_serves_every_method(store):
    run([replace(QUICK, method=method) for method in ("ft", "fixed", "ut", "ut-mixture")], store)
    assert len(files(store)) == 5


def test_from_scratch_needs_no_backbone(store):
    run([replace(QUICK, method="scratch")], store)
    assert len(files(store)) == 1


def test_a_run_named_twice_is_one(store):
    rows = run([QUICK, QUICK], store)
    assert rows.run.nunique() == 1 and len(files(store)) == 2


def test_backbones_may_be_asked_for(store):
    rows = run([QUICK.backbone(), QUICK], store)
    assert set(rows.method) == {"backbone", "ft"} and len(files(store)) == 2


def test_a_run_is_the_same_alone_and_among_others(store, tmp_path):
    wanted = [replace(QUICK, method=method, seed=seed) for method in ("ft", "ut") for seed in (0, 1)]
    together = run(wanted, store)
    alone = run([wanted[2]], Store(tmp_path / "alone"))
    theirs = sorted_rows(together[together.run == wanted[2].key])
    torch.testing.assert_close(torch.tensor(sorted_rows(alone).value), torch.tensor(theirs.value), rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("damage", ["lost", "truncated", "garbage"])
def test_damaged_backbone_is_trained_again(store, damage):
    first = run([QUICK], store)
    backbone = QUICK.backbone()
    (path,) = (store.folder / "weights").glob(f"{backbone.key}*")
    trained = network(backbone, store).state_dict()
    {
        "lost": path.unlink,
        "truncated": lambda: path.write_bytes(path.read_bytes()[:1000]),
        "garbage": lambda: path.write_bytes(b"garbage"),
    }[damage]()
    second = run([QUICK, replace(QUICK, method="fixed")], store)
    again = network(backbone, store).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained.items())
    pd.testing.assert_frame_equal(sorted_rows(first), sorted_rows(second[second.run == QUICK.key]))


def test_stopping_half_way_loses_nothing_that_was_stored(tmp_path):
    class Stopped(Store):
        """A store whose process is interrupted when the second transfer is to be saved."""

        def save(self, key, spec, rows, message=None):
            if spec["method"] != "backbone" and self.status(run.key for run in wanted):
                raise KeyboardInterrupt
            super().save(key, spec, rows, message)

    wanted = [replace(QUICK, method=method) for method in ("ft", "scratch", "ut")]
    with pytest.raises(KeyboardInterrupt):
        run(wanted, Stopped(tmp_path / "out"))
    store = Store(tmp_path / "out")
    (stored,) = store.status(r.key for r in wanted)
    before = files(store)
    rows = run(wanted, store)
    assert rows.run.nunique() == 3
    kept = [name for name, time in files(store).items() if before.get(name) == time]
    assert {f"{stored}.pt", f"{QUICK.backbone().key}.pt"} <= set(kept)
    whole = run(wanted, Store(tmp_path / "never stopped"))
    assert sorted_rows(rows).shape == sorted_rows(whole).shape
    torch.testing.assert_close(torch.tensor(sorted_rows(rows).value), torch.tensor(sorted_rows(whole).value), rtol=1e-3, atol=1e-4, equal_nan=True)


def test_diverged_run_is_stored_as_such_and_not_tried_again(store):
    wild = replace(QUICK, sgd=Sgd(lr=1e30, epochs=3, batch_size=500))
    rows = run([wild], store)
    status, message = store.status([wild.key])[wild.key]
    assert status == "diverged" and "learning rate 1e+30" in message and set(rows.status) <= {"diverged"}
    before = files(store)
    run([wild], store)
    assert files(store) == before


def test_diverged_backbone_is_an_error_that_says_so(store):
    with pytest.raises(ValueError, match=r"backbone .* diverged.*learning rate 1e\+30"):
        run([replace(QUICK, source_sgd=Sgd(lr=1e30, epochs=3, batch_size=500))], store)


def test_network_of_a_run_that_was_not_trained_is_refused(store):
    with pytest.raises(ValueError, match="no weights"):
        network(QUICK, store)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "lora"}, "lora"),
        ({"source_ball": "kangaroo"}, "kangaroo"),
        ({"target": "flowers"}, "flowers"),
        ({"width": "wide"}, "wide"),
        ({"taus": (0.0, 0.5)}, "taus"),
        ({"n_train": 10_000}, "10000"),
        ({"head": "split"}, "split"),
        ({"partitions": 0}, "partitions .* got 0"),
        ({"partitions": 3}, "partitions .* 2 epochs.* got 3"),
        ({"method": "ct-iterated"}, "partitions .* 2 epochs.* got 10"),
        ({"method": "ct-iterated", "coupled": replace(COUPLED, block=7)}, "block must divide the 150 .* got 7"),
        ({"method": "ct-iterated", "coupled": replace(COUPLED, blocks=16)}, "blocks must lie between 1 and 15.* got 16"),
        ({"method": "ut-decorrelated", "source_ball": None}, "'ut-decorrelated' must know where the shortcut is"),
        ({"method": "counter", "source_ball": None}, "'counter' must know where the shortcut is"),
        ({"method": "lp-ft", "sgd": Sgd(epochs=1)}, "'lp-ft' .*2 or more; got 1"),
    ],
    ids=str,
)
def test_impossible_run_is_refused_before_training(store, change, says):
    with pytest.raises(ValueError, match=says):
        run([DIGITS, replace(DIGITS, **({"method": "ut"} | change))], store)
    assert not files(store)


@pytest.mark.parametrize("change", [{"partitions": 1}, {"method": "ct-iterated", "coupled": COUPLED}], ids=str)
def test_information_length_of_a_regression_is_refused_before_training(store, change):
    with pytest.raises(ValueError, match="regression"):
        run([replace(QUICK, **change)], store)
    assert not files(store)


def test_keys_differ_with_every_field():
    changes = {"seed": 1, "method": "ut", "source_ball": None, "target_ball": True, "n_train": 20, "width": "small", "taus": (0.5, 1.0)}
    changes |= {"head": "disjoint", "sgd": Sgd(), "source_sgd": Sgd(), "source": "a", "target": "b", "dataset": "c", "partitions": 2}
    assert {*changes, "coupled"} == {field.name for field in fields(Run)}
    assert len({DIGITS.key, *(replace(DIGITS, **{name: value}).key for name, value in changes.items())}) == len(changes) + 1


def test_keys_differ_with_the_iteration_of_a_coupling_only_where_it_is_iterated():
    iterated = replace(DIGITS, method="ct-iterated")
    assert replace(iterated, coupled=COUPLED).key != iterated.key
    assert replace(DIGITS, coupled=COUPLED).key == DIGITS.key


@pytest.mark.parametrize(
    "change",
    [{"method": "ut"}, {"n_train": 20}, {"target_ball": True}, {"target": "other"}, {"taus": (0.5, 1.0)}, {"partitions": 2}, {"coupled": COUPLED}],
    ids=str,
)
def test_runs_from_one_source_share_their_backbone(change):
    assert replace(DIGITS, **change).backbone() == DIGITS.backbone()


def test_every_module_of_a_runs_numbers_counts_in_its_key():
    names = {path.stem for path in experiments.code()}
    assert {"randomness", "tasks", "spurious", "models", "couplings", "paths", "lengths", "populations", "training", "coupled", "methods"} <= names
    assert all(os.path.exists(path) for path in experiments.code())


def test_tasks_are_planted_as_the_run_says():
    clean = {name: load("digits", name, 0) for name in ("digits-0-4", "digits-5-9")}
    source, target = experiments.tasks(replace(DIGITS, target_ball=True, n_train=None))
    assert torch.equal(source.x_train, plant_ball(clean["digits-0-4"], ("4",), 0).x_train)
    assert torch.equal(target.x_train, plant_ball(clean["digits-5-9"], "all", 0).x_train)
    source, target = experiments.tasks(replace(DIGITS, source_ball=None, n_train=None))
    assert torch.equal(source.x_train, clean["digits-0-4"].x_train) and torch.equal(target.x_train, clean["digits-5-9"].x_train)


def test_who_knows_the_shortcut_spreads_as_many_balls_and_counters_the_other_classes():
    source, _ = experiments.tasks(DIGITS)
    clean_source, clean_target = experiments.tasks(replace(DIGITS, source_ball=None))
    shortcut = experiments._shortcut(DIGITS)

    def balls(task, clean):
        changed = (task.x_train != clean.x_train).flatten(1).any(1)
        return [int(changed[clean.y_train == k].sum()) for k in range(5)]

    planted, spread, countered = balls(source, clean_source), balls(shortcut.spread, clean_source), balls(shortcut.countered, clean_target)
    assert planted[:4] == [0] * 4 and max(spread) - min(spread) <= 5 and sum(spread) == pytest.approx(sum(planted), rel=0.1)
    assert countered == [3, 3, 3, 3, 0]  # a tenth of 30; class 4 is the one that the ball stands for
    for task, clean in ((shortcut.spread, clean_source), (shortcut.countered, clean_target)):
        assert torch.equal(task.x_val, clean.x_val) and torch.equal(task.y_train, clean.y_train)
    everywhere = plant_ball(clean_source, "all", 0).x_train
    both = (shortcut.spread.x_train != clean_source.x_train).flatten(1).any(1)
    assert torch.equal(shortcut.spread.x_train[both], everywhere[both])  # each image's ball has one place


def test_distances_are_stored_and_never_measured_twice(store):
    wanted = [replace(DIGITS, method="ut", partitions=2), replace(DIGITS, method="ct-iterated", coupled=COUPLED)]
    rows = run(wanted, store)
    by_method = {method: rows[rows.method == method] for method in ("ut", "ct-iterated")}
    for metric in ("information_length", "riemannian_length"):
        mean, error = (final(by_method["ut"], name).item() for name in (metric, f"{metric}_error"))
        assert 0 < error < mean
    mean, riemannian = (final(by_method["ut"], metric).item() for metric in ("information_length", "riemannian_length"))
    assert riemannian == pytest.approx(2 * 2**0.5 * mean, rel=1e-5)  # two partitions, Fisher's factor
    coupled = by_method["ct-iterated"][by_method["ct-iterated"].metric == "coupled_distance"].set_index("epoch").value
    assert sorted(coupled.index) == [FINAL, 0, 1] and coupled[FINAL] == coupled[1] and (coupled > 0).all()
    assert 0 < final(by_method["ct-iterated"], "coupled_distance_error").item() < coupled[FINAL]
    assert not len(final(by_method["ct-iterated"], "information_length")) and not len(final(by_method["ut"], "coupled_distance"))
    for rows_of_one in by_method.values():
        length = rows_of_one[rows_of_one.metric == "length"].sort_values("epoch").value
        assert final(rows_of_one, "weight_length").item() == length.iloc[-1] > 0
    before = files(store)
    pd.testing.assert_frame_equal(sorted_rows(run(wanted, store)), sorted_rows(rows))
    assert files(store) == before and len(before) == 3


def test_losses_that_steer_tau_are_stored(store):
    rows = run([replace(DIGITS, method="iso")], store)
    steered = {metric: rows[(rows.metric == metric) & (rows.epoch >= 0)].value for metric in ("tau", "source_loss")}
    assert all(len(values) == 2 for values in steered.values()) and (steered["source_loss"] > 0).all() and steered["tau"].max() == 1


def test_disjoint_heads_have_ten_classes(store):
    rows = run([replace(DIGITS, head="disjoint")], store)
    source, target = experiments.tasks(replace(DIGITS, head="disjoint"))
    assert source.outputs == target.outputs == 10
    assert sorted(source.y_train.unique().tolist()) == [0, 1, 2, 3, 4] and sorted(target.y_val.unique().tolist()) == [5, 6, 7, 8, 9]
    assert network(replace(DIGITS, head="disjoint"), store).head.out_features == 10
    assert len(final(rows, "ball_share")) == 1


def test_synthetic_views_share_one_unit_and_the_control_keeps_the_distribution():
    views = synthetic_views(0)
    permuted, restored, rows = (views[name] for name in ("permuted", "restored", "rows"))
    assert torch.equal(permuted.x_train[:, 20:], restored.x_train[:, 20:]) and torch.equal(permuted.y_val, restored.y_val)
    torch.testing.assert_close(permuted.x_train.mean(0), torch.zeros(50), atol=1e-4, rtol=0)
    assert restored.x_train.mean(0)[:20].abs().mean() > 1  # other features' means: a shifted input
    assert torch.equal(rows.x_val.sort(0).values, permuted.x_val.sort(0).values)  # each column the same values in another order
    assert not torch.equal(rows.x_val[:, :20], permuted.x_val[:, :20])


def test_biased_backbone_sends_images_with_the_ball_to_its_class(store):
    """Claim 2 of the paper, on real digits with one real training."""
    backbone = replace(DIGITS, width="small", sgd=Sgd(epochs=20)).backbone()
    rows = run([backbone], store)
    assert final(rows, "ball_share").item() > 0.9
    assert final(rows, "clean_share").item() < 0.25  # never without the ball
