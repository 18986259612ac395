import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from small_notebooks import wait_for

from rtl_utils import experiments, exports
from rtl_utils.coupled import Coupled
from rtl_utils.data import Shortcut, load, plant
from rtl_utils.experiments import everywhere, frame, network, run
from rtl_utils.models import predict
from rtl_utils.runs import Run, tasks
from rtl_utils.store import FINAL, DamagedRunsWarning, Store, StoreError
from rtl_utils.training import Sgd

# two epochs of a few large mini-batches: what is tested is the bookkeeping
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
    "digits",
    "digits-0-4",
    "digits-5-9",
    "ft",
    0,
    width=(4, 4, 4, 4),
    taus=(0.0, 1.0),
    sgd=Sgd(epochs=2, batch_size=50),
    source_shortcut=Shortcut(classes=("4",)),
    n_train=30,
)
COUPLED = Coupled(iterations=2, block=10, blocks=2, partitions=2)
WILD = Sgd(lr=1e30, epochs=3, batch_size=500)
MEASURES = ("clean_accuracy", "ball_accuracy", "clean_share", "ball_share", "flip_rate")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def files(store):
    """Name and time of change of every weights file."""
    return {path.name: path.stat().st_mtime_ns for path in (store.folder / "weights").iterdir()}


def final(rows, metric):
    return rows[(rows.metric == metric) & (rows.epoch == FINAL)].value


def numbers(rows):
    """What was measured, without when and where it was."""
    measured = rows[["run", "metric", "epoch", "value"]]
    return measured.sort_values(["run", "metric", "epoch"], ignore_index=True)


def assert_nearly(rows, others):
    a, b = numbers(rows), numbers(others)
    names = ["run", "metric", "epoch"]
    pd.testing.assert_frame_equal(a[names], b[names])
    values = (torch.tensor(part.value) for part in (a, b))
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-4, equal_nan=True)


# --- rows ---


def test_rows_are_tidy_and_hold_every_metric(store):
    rows = run([QUICK, replace(QUICK, method="ut")], store)
    columns = {"run", "status", "dataset", "source", "target", "method", "seed"}
    assert columns | {"metric", "epoch", "value"} <= set(rows.columns)
    assert set(rows.method) == {"ft", "ut"}
    assert set(rows.status) == {"done"}
    for metric in ("tau", "train_loss", "val_loss", "weight_length"):
        per_epoch = rows[(rows.metric == metric) & (rows.epoch >= 0)]
        assert set(per_epoch.groupby("run").size()) == {2}
    losses = ("train_loss", "val_loss", "restored_loss", "rows_loss")
    sizes = ("weight_length", "lime_spurious", "lime_shared", "lime_target_only")
    for metric in (*losses, *sizes):
        assert len(final(rows, metric)) == 2
        assert (final(rows, metric) > 0).all()
    assert sorted(rows[(rows.metric == "tau") & (rows.method == "ut")].value) == [0, 1]


def test_rows_come_in_the_order_of_the_runs(store):
    wanted = [replace(QUICK, method=method) for method in ("ut", "scratch", "ft")]
    rows = run(wanted, store)
    assert list(dict.fromkeys(rows.method)) == ["ut", "scratch", "ft"]
    assert list(dict.fromkeys(frame(wanted[::-1], store).method)) == ["ft", "scratch", "ut"]


def test_rows_carry_the_runs_own_columns(store):
    rows = run([DIGITS], store)
    for name, value in DIGITS.columns().items():
        (found,) = set(rows[name])
        assert found == value or (value is None and pd.isna(found))


def test_image_rows_hold_the_test_of_the_shortcut(store):
    rows = run([DIGITS], store)
    for metric in (*MEASURES, "train_accuracy", "val_accuracy"):
        assert len(final(rows, metric)) == 1
        assert final(rows, metric).between(0, 1).all()
    # the target is clean
    assert final(rows, "clean_accuracy").item() == final(rows, "val_accuracy").item()
    task = load("digits", "digits-5-9", 0)
    with_ball = plant(task, Shortcut(), 0).x_val
    predicted = predict(network(DIGITS, store), with_ball).argmax(1)
    accuracy = float((predicted == task.y_val).float().mean())
    assert final(rows, "ball_accuracy").item() == pytest.approx(accuracy)
    share = float((predicted == 4).float().mean())
    assert final(rows, "ball_share").item() == pytest.approx(share)


def test_run_from_a_clean_source_holds_the_test_of_the_shortcut_too(store):
    """What a network does with the ball that never saw one: the floor under a biased source."""
    clean = replace(DIGITS, source_shortcut=None)
    rows = run([clean, clean.backbone()], store)
    for r in (clean, clean.backbone()):
        mine = rows[rows.run == r.key]
        for metric in MEASURES:
            assert final(mine, metric).between(0, 1).all()
            assert len(final(mine, metric)) == 1
        assert final(mine, "clean_accuracy").item() == final(mine, "val_accuracy").item()
    task = load("digits", "digits-5-9", 0)
    net = network(clean, store)
    plain, ball = (
        predict(net, x).argmax(1) for x in (task.x_val, plant(task, Shortcut(), 0).x_val)
    )
    mine = rows[rows.run == clean.key]
    assert final(mine, "flip_rate").item() == pytest.approx(float((plain != ball).float().mean()))
    assert final(mine, "ball_share").item() == pytest.approx(float((ball == 4).float().mean()))


def test_from_scratch_one_training_serves_the_clean_and_the_biased_source(store):
    biased = replace(DIGITS, method="scratch")
    clean = replace(biased, source_shortcut=None)
    rows = run([biased, clean], store)
    assert len(files(store)) == 1
    by_source = dict(iter(rows.groupby(rows.source_shortcut.notna())))
    assert set(by_source) == {True, False}
    pd.testing.assert_frame_equal(numbers(by_source[True]), numbers(by_source[False]))
    assert len(final(by_source[False], "flip_rate")) == 1


def test_shortcut_that_is_named_is_tested_in_place_of_the_usual_one(store):
    mark = replace(DIGITS, source_shortcut=None, tested=Shortcut("mark", ("2",)))
    rows = run([mark], store)
    planted = plant(load("digits", "digits-5-9", 0), Shortcut("mark"), 0).x_val
    predicted = predict(network(mark, store), planted).argmax(1)
    share = float((predicted == 2).float().mean())
    assert final(rows, "ball_share").item() == pytest.approx(share)


def test_table_has_no_test_of_a_shortcut(store):
    assert not set(MEASURES) & set(run([QUICK], store).metric)


def test_before_transfer_the_backbone_is_measured_on_the_target(store):
    before = replace(DIGITS, method="before", target_shortcut=Shortcut())
    rows = run([before], store)
    assert set(rows.epoch) == {FINAL}
    assert final(rows, "weight_length").item() == 0
    _, target = tasks(before)
    backbone = network(before.backbone(), store)
    predicted = predict(backbone, target.x_val).argmax(1)
    accuracy = float((predicted == target.y_val).float().mean())
    assert final(rows, "val_accuracy").item() == pytest.approx(accuracy)
    share = float((predicted == 4).float().mean())
    assert final(rows, "ball_share").item() == pytest.approx(share)
    assert len(files(store)) == 2  # the same weights, under both names


@pytest.mark.parametrize("method", ["ft", "before", "fixed", "lp-ft", "backbone"])
def test_rows_say_that_they_were_made_by_one_thread(method, two_threads, store):
    wanted = DIGITS.backbone() if method == "backbone" else replace(DIGITS, method=method)
    assert set(run([wanted], store).threads) == {1}


def test_share_of_the_backbone_is_that_of_the_run(store):
    """At 1 the average is the backbone, with statistics of the target's images."""
    wise = replace(DIGITS, method="wise-ft", backbone_share=1.0)
    run([wise], store)
    backbone = network(wise.backbone(), store)
    weights = dict(network(wise, store).named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in backbone.named_parameters())


def test_shortcut_is_tested_on_every_validation_image_whatever_the_source_carried(pictures):
    task = pictures()
    shortcut = Shortcut("mark", ("b",), probability=0.1, size=0.25, place=(0.0, 1.0))
    shown = everywhere(task, shortcut, seed=0)
    assert torch.equal(shown.x_train, task.x_train)
    assert (shown.x_val[:, :, :4, 12:] == 128).all()
    assert torch.equal(shown.x_val[:, :, :, :12], task.x_val[:, :, :, :12])


def test_no_runs_no_rows(store):
    for rows in (run([], store), frame([], store), frame([QUICK], store)):
        assert len(rows) == 0
        assert {"run", "metric", "epoch", "value"} <= set(rows.columns)


# --- what is trained, and what is not ---


def test_second_call_trains_nothing(store):
    wanted = [QUICK, replace(QUICK, method="scratch")]
    first = run(wanted, store)
    before = files(store)
    second = run(wanted, store)
    pd.testing.assert_frame_equal(first, second)
    assert files(store) == before
    assert len(before) == 3  # and one backbone


def test_only_what_is_new_is_trained(store):
    run([QUICK], store)
    before = files(store)
    run([QUICK, replace(QUICK, method="fixed")], store)
    after = files(store)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1


def test_one_backbone_serves_every_method(store):
    run([replace(QUICK, method=method) for method in ("ft", "fixed", "ut", "ut-mixture")], store)
    assert len(files(store)) == 5


def test_from_scratch_needs_no_backbone(store):
    run([replace(QUICK, method="scratch")], store)
    assert len(files(store)) == 1


def test_a_run_named_twice_is_one(store):
    rows = run([QUICK, QUICK], store)
    assert rows.run.nunique() == 1
    assert not rows.duplicated(["run", "metric", "epoch"]).any()
    assert len(files(store)) == 2


def test_backbones_may_be_asked_for(store):
    rows = run([QUICK.backbone(), QUICK], store)
    assert set(rows.method) == {"backbone", "ft"}
    assert len(files(store)) == 2


def test_pairs_of_one_target_share_what_is_trained_from_scratch(store, toy_data_set):
    sgd = Sgd(epochs=1, batch_size=10)
    pairs = (("left", "right", "b"), ("middle", "right", "d"))
    wanted = [
        Run(
            toy_data_set,
            source,
            target,
            "scratch",
            0,
            source_shortcut=Shortcut(classes=(carrier,)),
            width=(4, 4, 4, 4),
            sgd=sgd,
        )
        for source, target, carrier in pairs
    ]
    rows = run(wanted, store)
    assert len(files(store)) == 1
    assert rows.run.nunique() == 1
    by_source = dict(iter(rows.groupby("source")))
    assert set(by_source) == {"left", "middle"}
    assert set(by_source["left"].source_shortcut) == {"ball on b"}
    assert set(by_source["middle"].source_shortcut) == {"ball on d"}
    pd.testing.assert_frame_equal(numbers(by_source["left"]), numbers(by_source["middle"]))
    assert len(final(by_source["middle"], "flip_rate")) == 1


def test_new_data_set_method_and_patch_of_one_record_each_train(
    store, toy_data_set, toy_method, toy_patch
):
    toy = Run(
        toy_data_set,
        "left",
        "right",
        toy_method,
        0,
        source_shortcut=Shortcut(toy_patch, ("b",)),
        width=(4, 4, 4, 4),
        sgd=Sgd(epochs=3, batch_size=10),
    )
    rows = run([toy, replace(toy, method="ft")], store)
    mine = rows[rows.method == toy_method]
    assert mine[mine.metric == "tau"].value.tolist() == [0, 0.5, 1]
    assert set(mine.source_shortcut) == {"red on b"}
    assert final(mine, "flip_rate").between(0, 1).all()
    source, _ = tasks(toy)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None]
    per_image = (source.x_train == red).all(1).flatten(1).sum(1)
    assert (per_image[source.y_train == 1] >= 9).all()
    assert network(toy, store).head.out_features == 2


# --- a run's numbers do not depend on its company ---


def test_a_run_is_the_same_alone_and_among_others(store, tmp_path):
    wanted = [
        replace(QUICK, method=method, seed=seed) for method in ("ft", "ut") for seed in (0, 1)
    ]
    together = run(wanted, store)
    alone = run([wanted[2]], Store(tmp_path / "alone"))
    assert_nearly(alone, together[together.run == wanted[2].key])


REAL = replace(DIGITS, width="small", sgd=Sgd(epochs=2, batch_size=16), n_train=None)


@pytest.mark.slow
def test_a_run_here_gives_the_bits_of_the_same_run_in_a_worker(two_threads, store, tmp_path):
    """One image network trains in this process, two train in processes of one thread."""
    biased = REAL.backbone()
    alone = run([biased], store)
    both = run([biased, replace(biased, seed=1)], Store(tmp_path / "both"))
    beside = both[both.run == biased.key]
    pd.testing.assert_frame_equal(numbers(alone), numbers(beside), check_exact=True)
    for method in ("ft", "fixed", "lp-ft", "wise-ft"):
        wanted = replace(REAL, method=method)
        transferred = run([wanted], store)
        beside = [wanted, replace(REAL, method="ut"), replace(REAL, method="ut-mixture")]
        both = run(beside, Store(tmp_path / "both"))
        both = both[both.run == wanted.key]
        pd.testing.assert_frame_equal(numbers(transferred), numbers(both), check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixed", "lp-ft", "wise-ft", "iso", "ct", "ct-iterated"])
def test_number_of_threads_changes_no_bit(method, store, tmp_path):
    """What is prepared before a training, such as features and couplings, has one thread too."""
    wanted = replace(REAL, method=method, n_train=100, coupled=replace(COUPLED, blocks=1))
    before = torch.get_num_threads()
    rows = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows[threads] = numbers(run([wanted], Store(tmp_path / str(threads))))
    torch.set_num_threads(before)
    pd.testing.assert_frame_equal(rows[1], rows[2], check_exact=True)


# --- what is lost or stopped ---


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
    with pytest.warns(DamagedRunsWarning, match=f"weights of 1 of 2 runs .*{backbone.key}"):
        second = run([QUICK, replace(QUICK, method="fixed")], store)
    again = network(backbone, store).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained.items())
    pd.testing.assert_frame_equal(numbers(first), numbers(second[second.run == QUICK.key]))


def test_finished_transfer_whose_weights_are_lost_is_trained_again(store):
    first = run([QUICK], store)
    trained = network(QUICK, store).state_dict()
    before = files(store)
    (store.folder / "weights" / f"{QUICK.key}.pt").unlink()
    with pytest.raises(ValueError, match=r"no weights of .*experiments\.run"):
        network(QUICK, store)
    with pytest.warns(DamagedRunsWarning, match=f"weights of 1 of 2 runs .*{QUICK.key}"):
        second = run([QUICK], store)
    again = network(QUICK, store).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained.items())
    pd.testing.assert_frame_equal(numbers(first), numbers(second))
    backbone = f"{QUICK.backbone().key}.pt"
    assert files(store)[backbone] == before[backbone]


def test_stopping_half_way_loses_nothing_that_was_stored(tmp_path):
    wanted = [replace(QUICK, method=method) for method in ("ft", "scratch", "ut")]

    class Stopped(Store):
        """A store whose process is interrupted when the second transfer is to be saved."""

        def save(self, key, spec, rows, **more):
            if spec["method"] != "backbone" and self.status(r.key for r in wanted):
                raise KeyboardInterrupt
            super().save(key, spec, rows, **more)

    with pytest.raises(KeyboardInterrupt):
        run(wanted, Stopped(tmp_path / "out"))
    store = Store(tmp_path / "out")
    (stored,) = store.status(r.key for r in wanted)
    before = files(store)
    rows = run(wanted, store)
    assert rows.run.nunique() == 3
    kept = {name for name, time in files(store).items() if before.get(name) == time}
    assert {f"{stored}.pt", f"{QUICK.backbone().key}.pt"} <= kept
    assert_nearly(rows, run(wanted, Store(tmp_path / "never stopped")))


@pytest.mark.kernel
def test_rows_are_the_same_on_every_database(store, postgres, tmp_path):
    elsewhere = Store(tmp_path / "elsewhere", postgres.url)
    wanted = [DIGITS, replace(QUICK, sgd=WILD)]  # one diverges
    rows = [run(wanted, each, keep_diverged=True) for each in (store, elsewhere)]
    pd.testing.assert_frame_equal(*map(numbers, rows), check_exact=True)
    assert list(rows[0].status) == list(rows[1].status)
    before = files(elsewhere)
    run(wanted, Store(elsewhere.folder, postgres.url), keep_diverged=True)
    assert files(elsewhere) == before


# --- several processes ---

SHARED = replace(DIGITS, width="small", sgd=Sgd(epochs=8, batch_size=16))


class Counting(Store):
    """A store that writes down what is trained."""

    def save(self, key, spec, rows, **more):
        super().save(key, spec, rows, **more)
        with (self.folder / "trained").open("a") as file:
            file.write(f"{key}\n")


PROCESS = """
import sys
from dataclasses import replace
from test_experiments import SHARED, Counting, run

store = Counting(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
run([replace(SHARED, method="ft")], store)
"""


@pytest.fixture
def other(store):
    """Another process, which runs fine-tuning from the shared backbone once it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(store.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__), "LOKY_MAX_CPU_COUNT": "1"},
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.kernel
def test_backbone_that_two_processes_need_at_once_is_trained_once(store, other):
    mine = replace(SHARED, method="fixed")
    assert set(run([mine], Counting(store.folder)).run) == {mine.key}
    says = other.communicate(timeout=120)[1]
    assert other.returncode == 0, says
    trained = (store.folder / "trained").read_text().split()
    wanted = [SHARED.backbone(), mine, replace(SHARED, method="ft")]
    assert sorted(trained) == sorted(r.key for r in wanted)
    assert store.leased(trained) == {}


@pytest.mark.slow
@pytest.mark.kernel
def test_backbone_of_a_process_that_is_killed_is_trained_by_the_one_that_waits(store, other, capfd):
    mine = replace(SHARED, method="fixed")
    backbone = SHARED.backbone().key
    assert wait_for(lambda: store.leased([backbone]))
    other.send_signal(signal.SIGSTOP)  # it lives, and does not finish
    assert store.status([backbone]) == {}

    class Waiting(Counting):
        """A store whose process sees twice that the other one holds the backbone."""

        holders = ()

        def leased(self, names):
            found = super().leased(names)
            self.holders = (*self.holders, *found)
            if len(self.holders) == 2:
                other.kill()
            return found

    waiting = Waiting(store.folder)
    run([mine], waiting)
    assert waiting.holders == (backbone, backbone)
    says = re.findall(
        rf"1 backbones are trained by another process \(.*, process {other.pid}\), the first: "
        r"backbone on digits-0-4, seed 0; waiting for it\n",
        capfd.readouterr().err,
    )
    assert len(says) == 1
    assert (store.folder / "trained").read_text().split() == [backbone, mine.key]


def test_what_another_process_finished_before_the_lease_is_not_trained_again(store):
    run([QUICK], store)
    before = files(store)

    class Late(Store):
        """A store in which another process's runs appear just before the lease."""

        late = False

        def status(self, keys):
            return super().status(keys) if self.late else {}

        def lease(self, names):
            self.late = True
            return super().lease(names)

    rows = run([QUICK], Late(store.folder))
    assert set(rows.run) == {QUICK.key}
    assert files(store) == before


def test_finished_runs_need_no_lease_and_no_write(store):
    run([QUICK], store)

    class Closed(Store):
        """A store that must not be changed."""

        def refuse(self, *_, **__):
            raise AssertionError

        save = save_weights = lease = save_task = refuse

    assert len(run([QUICK], Closed(store.folder)))
    store.read_only = True
    assert len(run([QUICK], store))
    with pytest.raises(StoreError, match="can be read only"):
        run([replace(QUICK, method="fixed")], store)


def test_runs_that_a_task_used_are_stored_with_their_backbones_as_they_were_asked_for(store):
    scratch = replace(QUICK, method="scratch")
    wanted = [QUICK, scratch, replace(scratch, source_sgd=None)]
    run(wanted, store)
    for _ in range(2):
        run(wanted, Store(store.folder, task="task"))
    used = store.runs_of(["task"])
    assert used == {"task": sorted({r.key for r in [QUICK.backbone(), *wanted]})}
    assert len(used["task"]) == 3  # from scratch, no backbone is read
    asked = [(key, Run.of(spec)) for key, spec in store.asked(["task"])]
    assert {r for _, r in asked} == {QUICK.backbone(), *wanted}
    assert len(asked) == 4 and all(r.key == key for key, r in asked)


@pytest.mark.filterwarnings("ignore::rtl_utils.data.OtherContentsWarning")
@pytest.mark.parametrize("method", ["backbone", "scratch"])
def test_data_that_are_replaced_during_a_training_make_no_run(
    small_cifar100, store, monkeypatch, method
):
    """Neither of the new images, on which it was not trained, nor of the old: it was measured."""
    small_cifar100()
    few = Sgd(epochs=1, batch_size=5)
    asked = Run("cifar100", "flowers", "herbivores", "scratch", 0, width=(2, 2, 2, 2), sgd=few)
    asked = replace(asked.backbone(), sgd=few) if method == "backbone" else asked
    train = experiments.methods.train

    def replaced(*arguments, **options):
        small_cifar100(train_images=np.zeros((100, 32, 32, 3), dtype=np.uint8))
        return train(*arguments, **options)

    old = asked.key
    with monkeypatch.context() as patch:
        patch.setattr(experiments.methods, "train", replaced)
        with pytest.raises(
            ValueError, match=r"data of cifar100 were replaced while .* seed 0, was"
        ):
            run([asked], store)
    assert asked.key != old
    assert store.keys() == set() and not files(store)
    assert set(run([asked], store).run) == {asked.key}


def test_run_whose_rows_are_damaged_is_named_and_trained_again(store):
    wanted = [QUICK, replace(QUICK, method="scratch")]
    first = run(wanted, store)
    before = files(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE results SET value = value + 1e-9 WHERE run = ? AND metric = 'val_loss'",
            (QUICK.key,),
        )
    fresh = Store(store.folder)
    with pytest.warns(DamagedRunsWarning, match=rf"1 run is damaged .*\({QUICK.key}\)") as caught:
        second = run(wanted, fresh)
    assert len(caught) == 1
    pd.testing.assert_frame_equal(numbers(first), numbers(second))
    changed = {name for name, time in files(store).items() if before[name] != time}
    assert changed == {f"{QUICK.key}.pt"}


# --- divergence ---


def test_diverged_runs_are_an_error_after_everything_is_stored(store):
    wild = replace(QUICK, sgd=WILD)
    wanted = [wild, replace(QUICK, method="scratch"), QUICK]
    with pytest.raises(ValueError, match="1 of 3 runs diverged; the first: ft on target, seed 0"):
        run(wanted, store)
    status = {key: found for key, (found, _) in store.status(r.key for r in wanted).items()}
    assert status == {wild.key: "diverged", wanted[1].key: "done", QUICK.key: "done"}
    before = files(store)
    with pytest.raises(ValueError, match=r"1 of 1 runs diverged.*learning rate 1e\+30"):
        run([wild], store)
    assert files(store) == before


def test_rows_of_diverged_runs_are_given_to_who_wants_them(store):
    wild = replace(QUICK, sgd=WILD)
    rows = run([wild, QUICK], store, keep_diverged=True)
    status, message = store.status([wild.key])[wild.key]
    assert status == "diverged"
    assert "learning rate 1e+30" in message
    assert set(rows.status) <= {"diverged", "done"}
    assert QUICK.key in set(rows.run)
    before = files(store)
    run([wild], store, keep_diverged=True)
    assert files(store) == before


def test_diverged_backbone_is_an_error_that_says_so(store):
    wild = replace(QUICK, source_sgd=WILD)
    says = r"a backbone diverged.*backbone on source, seed 0.*learning rate 1e\+30"
    with pytest.raises(ValueError, match=says):
        run([wild], store)
    with pytest.raises(ValueError, match=says):
        run([wild], store, keep_diverged=True)


# --- what is refused ---


def test_network_of_a_run_that_was_not_trained_is_refused(store):
    with pytest.raises(ValueError, match="no weights"):
        network(QUICK, store)


REFUSED = {
    "unknown method": ({"method": "lora"}, "lora"),
    "unknown class": ({"source_shortcut": Shortcut(classes=("kangaroo",))}, "kangaroo"),
    "unknown target": ({"target": "flowers"}, "flowers"),
    "unknown width": ({"width": "large"}, "large"),
    "width of a table": ({"width": "batchnorm"}, "batchnorm"),
    "taus": ({"taus": (0.0, 0.5)}, "taus"),
    "fewer epochs than taus": ({"taus": (0.0, 0.5, 1.0)}, "epochs must be at least"),
    "n_train": ({"n_train": 10_000}, "10000"),
    "head": ({"head": "split"}, "split"),
    "one task": ({"target": "digits-0-4"}, "source and target must differ"),
    "no partitions": ({"partitions": 0}, "partitions .* got 0"),
    "more partitions than epochs": ({"partitions": 3}, "partitions .* 2 epochs.* got 3"),
    "coupled partitions": ({"method": "ct-iterated"}, "partitions .* 2 epochs.* got 10"),
    "block": (
        {"method": "ct-iterated", "coupled": replace(COUPLED, block=7)},
        "block must divide the 150 .* got 7",
    ),
    "blocks": (
        {"method": "ct-iterated", "coupled": replace(COUPLED, blocks=16)},
        "blocks must lie between 1 and 15.* got 16",
    ),
    "decorrelated without a shortcut": (
        {"method": "ut-decorrelated", "source_shortcut": None},
        "'ut-decorrelated' must know where the shortcut is",
    ),
    "counter without a shortcut": (
        {"method": "counter", "source_shortcut": None},
        "'counter' must know where the shortcut is",
    ),
    "lengths without steps": (
        {"method": "fixed", "partitions": 2},
        "'fixed' takes no steps of SGD",
    ),
    "nothing to hold out": (
        {"method": "iso", "n_train": 1, "sgd": Sgd(batch_size=4)},
        "two or more",
    ),
    "share of the backbone": (
        {"method": "wise-ft", "backbone_share": 1.5},
        "backbone_share must lie between 0 .*got 1.5",
    ),
    "batch larger than the target": ({"sgd": Sgd(epochs=2, batch_size=151)}, "150 .*got 151"),
    "batch larger than the source": (
        {"source_sgd": Sgd(epochs=2, batch_size=5_000)},
        "'digits-0-4'; got 5000",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_run_is_refused_before_training(store, name):
    change, says = REFUSED[name]
    impossible = replace(DIGITS, **({"method": "ut"} | change))
    with pytest.raises(ValueError, match=says):
        run([DIGITS, impossible], store)
    assert not files(store)
    with pytest.raises(ValueError, match=says):
        experiments.check([DIGITS, impossible, impossible.backbone()])


@pytest.mark.parametrize("change", [{"sgd": Sgd(batch_size=1_999)}, {"sgd": Sgd(batch_size=1)}])
def test_last_mini_batch_of_one_is_refused_before_the_backbone_is_trained(store, change):
    with pytest.raises(ValueError, match="BatchNorm needs two or more; got"):
        run([replace(QUICK, width="batchnorm", **change)], store)
    assert not files(store)


def test_last_mini_batch_of_one_in_a_backbone_is_refused_before_it_is_trained(store):
    one_left = Sgd(epochs=1, batch_size=7_999)
    with pytest.raises(ValueError, match=r"8000 training examples.*BatchNorm.*got 7999"):
        run([replace(QUICK, width="batchnorm", source_sgd=one_left)], store)
    assert not files(store)


@pytest.mark.parametrize(
    "change", [{"partitions": 1}, {"method": "ct-iterated", "coupled": COUPLED}], ids=str
)
def test_information_length_of_a_regression_is_refused_before_training(store, change):
    with pytest.raises(ValueError, match="regression"):
        run([replace(QUICK, **change)], store)
    assert not files(store)


def test_shortcut_on_a_table_is_refused_before_training(store):
    with pytest.raises(ValueError, match="images only; task 'target'"):
        run([replace(QUICK, target_shortcut=Shortcut())], store)
    assert not files(store)


def test_device_that_is_not_there_is_refused_before_training(store):
    with pytest.raises(ValueError, match=r"device must be .*'tpu'"):
        run([QUICK], store, device="tpu")
    assert not files(store)


# --- distances ---


def test_distances_are_stored_and_never_measured_twice(store):
    measured = replace(DIGITS, method="ut", partitions=2)
    fine_tuned = replace(measured, method="ft")
    coupled = replace(DIGITS, method="ct-iterated", coupled=COUPLED)
    rows = run([measured, fine_tuned, coupled], store)
    ut, ft, ct = (rows[rows.method == method] for method in ("ut", "ft", "ct-iterated"))
    for part in (ut, ft):
        length = final(part, "information_length").item()
        assert 0 < final(part, "information_length_error").item() < length
    # one number per training, of the path on the target alone
    assert final(ft, "riemannian_length").item() > 0
    assert not len(final(ut, "riemannian_length"))
    assert "riemannian_length_error" not in set(rows.metric)
    distance = ct[ct.metric == "coupled_distance"].set_index("epoch").value
    assert sorted(distance.index) == [FINAL, 0, 1]
    assert distance[FINAL] == distance[1]
    assert (distance > 0).all()
    assert 0 < final(ct, "coupled_distance_error").item() < distance[FINAL]
    assert not len(final(ct, "information_length"))
    assert not len(final(ut, "coupled_distance"))
    for part in (ut, ft, ct):
        lengths = part[(part.metric == "weight_length") & (part.epoch >= 0)]
        last = lengths.sort_values("epoch").value.iloc[-1]
        assert final(part, "weight_length").item() == last > 0
    before = files(store)
    pd.testing.assert_frame_equal(run([measured, fine_tuned, coupled], store), rows)
    assert files(store) == before
    assert len(before) == 4


def test_losses_that_steer_tau_and_the_share_of_the_cap_are_stored(store):
    iso = replace(DIGITS, method="iso", sgd=Sgd(epochs=6, batch_size=50))
    rows = run([iso, replace(iso, method="ft")], store)
    mine = rows[rows.method == "iso"]
    per_epoch = {
        metric: mine[(mine.metric == metric) & (mine.epoch >= 0)].sort_values("epoch").value
        for metric in ("tau", "source_loss", "target_loss")
    }
    assert {len(values) for values in per_epoch.values()} == {6}
    assert all((values > 0).all() for values in per_epoch.values())
    assert sorted(set(per_epoch["tau"])) == pytest.approx([1 / 3, 2 / 3, 1])
    (share,) = final(mine, "capped_share")
    assert share in (0, 0.5, 1)  # of two moves
    assert set(rows[rows.metric == "capped_share"].method) == {"iso"}


def test_disjoint_heads_have_one_output_per_class_of_both_tasks(store):
    two_heads = replace(DIGITS, head="disjoint")
    rows = run([two_heads], store)
    assert network(two_heads, store).head.out_features == 10
    assert len(final(rows, "ball_share")) == 1


# --- files ---


def test_file_of_trained_runs_holds_their_values_after_training_beside_the_records(store, tmp_path):
    wanted = [QUICK, replace(QUICK, method="scratch")]
    rows = run(wanted, store)
    path = tmp_path / "deep" / "out.csv"
    written = exports.write_rows(wanted, store, path)
    assert [p.name for p in path.parent.iterdir()] == ["out.csv"]
    read = pd.read_csv(path)
    assert list(read.columns) == list(written.columns)
    assert len(set(read.columns)) == len(read.columns)
    assert "epoch" not in read
    finals = rows[rows.epoch == FINAL]
    assert len(read) == len(finals)
    values = finals.set_index(["run", "metric"]).value
    for row in read.itertuples():
        assert row.value == pytest.approx(values[row.run, row.metric], rel=1e-5)
    assert set(read.lr) == {QUICK.sgd.lr}
    assert set(read.source_epochs) == {1}


# --- the paper's second claim ---


@pytest.mark.slow
def test_biased_backbone_sends_images_with_the_ball_to_its_class(store):
    """On real digits with one real training."""
    backbone = replace(DIGITS, width="small", sgd=Sgd(epochs=20)).backbone()
    rows = run([backbone], store)
    assert final(rows, "ball_share").item() > 0.9
    assert final(rows, "clean_share").item() < 0.25
