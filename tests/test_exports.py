"""Stored runs as files: tidy rows with their provenance, and a sweep's folder with its manifest."""

import json
from dataclasses import asdict, replace

import pandas as pd
import pytest

from rtl_utils import exports
from rtl_utils.data import Shortcut
from rtl_utils.provenance import provenance
from rtl_utils.runs import Run, reads
from rtl_utils.store import Store, TaskRecord

FT = Run(
    "digits",
    "digits-0-4",
    "digits-5-9",
    "ft",
    0,
    source_shortcut=Shortcut(classes=("4",)),
    n_train=20,
)
SCRATCH = replace(FT, method="scratch", n_train=None)
TASKS = {f"{seed:016x}": [seed] for seed in (0, 1)}  # of the sweep -> their seeds
VALUES = {"val_accuracy": 0.123456789, "flip_rate": 0.5}


@pytest.fixture
def store(tmp_path):
    """A store without a training: three runs of two seeds, used by a sweep's two tasks."""
    store = Store(tmp_path / "store")
    for run in (FT, SCRATCH, replace(FT, seed=1)):
        save(store, run)
    for seed, runs in {0: (FT, SCRATCH), 1: (replace(FT, seed=1),)}.items():
        task = f"{seed:016x}"
        use(store, task, *runs)
    return store


def use(store, task, *runs, status="done", sweep="tiny"):
    """What a task leaves that begins, and asks for these runs."""
    store.save_task(record(task, sweep)._replace(status="running"))
    Store(store.folder, task=task).use((run.key, asdict(run)) for run in runs)
    if status != "running":
        store.save_task(record(task, sweep)._replace(status=status))


def save(store, run, made=None):
    rows = [("val_loss", 0, 2.0), *((metric, -1, v + run.seed) for metric, v in VALUES.items())]
    made = made or provenance("cpu", threads=1, seconds=2.0)
    store.save(run.key, asdict(run), rows, provenance=made, reads=reads(run))


def record(task, sweep="tiny"):
    return TaskRecord(
        task=task,
        sweep=sweep,
        notebook="trainings.ipynb",
        parameters={},
        status="done",
        message=None,
        executed=None,
        host="here",
        started="2026-11-25T00:00:00+00:00",
        seconds=1.0,
    )


def test_file_holds_the_values_after_training_beside_record_and_provenance(store, tmp_path):
    path = tmp_path / "deep" / "rows.csv"
    written = exports.write_rows([FT, SCRATCH], store, path)
    read = pd.read_csv(path)
    assert [p.name for p in path.parent.iterdir()] == ["rows.csv"]
    assert list(read) == list(written) and "epoch" not in read
    assert read[["run", "method", "metric", "value"]].values.tolist() == [
        [FT.key, "ft", "flip_rate", 0.5],
        [FT.key, "ft", "val_accuracy", 0.123457],
        [SCRATCH.key, "scratch", "flip_rate", 0.5],
        [SCRATCH.key, "scratch", "val_accuracy", 0.123457],
    ]
    assert set(read.source_shortcut) == {"ball on 4"} and set(read.threads) == {1}
    assert path.read_text().splitlines()[1].split(",")[8] == "20"  # not 20.0


def test_parquet_holds_the_same_rows_exactly(store, tmp_path):
    runs = [FT, SCRATCH, replace(FT, seed=1)]
    exports.write_rows(runs, store, tmp_path / "rows.csv")
    written = exports.write_rows(runs, store, tmp_path / "rows.parquet")
    read = pd.read_parquet(tmp_path / "rows.parquet")
    assert read.value.tolist() == written.value.tolist() and VALUES["val_accuracy"] in set(
        read.value
    )
    csv = pd.read_csv(tmp_path / "rows.csv")
    assert list(csv) == list(read) and csv.run.tolist() == read.run.tolist()


def test_runs_that_share_a_key_are_described_as_they_were_asked(store):
    clean = replace(SCRATCH, source_shortcut=None)
    assert clean.key == SCRATCH.key  # from scratch no source is read
    rows = exports.rows_of([clean, SCRATCH], store)
    assert len(rows) == 4 and set(rows.run) == {SCRATCH.key}
    assert rows.equals(exports.rows_of([SCRATCH, clean], store))
    assert rows.source_shortcut.isna().sum() == 2
    by_key = exports.rows_of([(SCRATCH.key, asdict(SCRATCH))], store)
    assert set(by_key.source_shortcut) == {"ball on 4"} and len(by_key) == 2
    same = replace(SCRATCH, source_sgd=SCRATCH.sgd)  # what a row does not tell apart is one run
    assert same != SCRATCH
    assert exports.rows_of([clean, same, SCRATCH, clean], store).equals(rows)


def test_rows_do_not_depend_on_the_order_of_the_runs_or_on_how_many_are_read_at_once(
    store, monkeypatch
):
    many = replace(SCRATCH, taus=(0.0, 1.0))  # shares its key
    runs = [FT, SCRATCH, many, replace(FT, seed=1), replace(FT, seed=9)]
    together = exports.rows_of(runs, store)
    assert set(together.run) == {run.key for run in runs[:4]}  # what the store lacks is left out
    monkeypatch.setattr(exports, "_AT_ONCE", 1)
    pd.testing.assert_frame_equal(exports.rows_of(runs[::-1], store), together)


def test_records_of_another_version_are_left_out(store):
    other = ("f" * 16, {"dataset": "digits", "colour": "red"})
    store.save(*other, [("val_accuracy", -1, 1.0)])
    assert set(exports.rows_of([other, FT], store).run) == {FT.key}
    assert len(exports.rows_of([other], store)) == 0


def test_sweep_is_published_as_a_file_per_seed_and_a_manifest(store, tmp_path):
    folder = tmp_path / "results" / "tiny"
    published = exports.publish("tiny", store, folder, "rtl batch tiny.yaml", TASKS, "a note")
    assert published == (3, 0, [], [])
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "seed-0.csv", "seed-1.csv"]
    first = pd.read_csv(folder / "seed-0.csv")
    assert set(first.run) == {FT.key, SCRATCH.key} and set(first.seed) == {0}
    said = json.loads((folder / "manifest.json").read_text())
    assert said["command"] == "rtl batch tiny.yaml" and said["note"] == "a note"
    assert said["runs_per_seed"] == {"0": 2, "1": 1} and said["threads"] == ["1"]


def test_publishing_leaves_other_seeds_and_other_sweeps_alone(store, tmp_path):
    folder = tmp_path / "tiny"
    exports.publish("tiny", store, folder, "first", TASKS)
    before = (folder / "seed-1.csv").read_bytes()
    save(store, replace(FT, seed=2))
    use(store, "2" * 16, replace(FT, seed=2), sweep="other")
    assert exports.publish("other", store, folder, "second", {"2" * 16: [2]}) == (1, 0, [], [])
    assert (folder / "seed-1.csv").read_bytes() == before
    said = json.loads((folder / "manifest.json").read_text())
    assert list(said["runs_per_seed"]) == ["0", "1", "2"]
    only = {task: seeds for task, seeds in TASKS.items() if seeds == [0]}
    assert exports.publish("tiny", store, folder, "third", only).runs == 2


def test_two_pairs_that_share_a_run_from_scratch_are_both_published(tmp_path):
    """As in table1: from scratch no source is read, so carnivores and herbivores share a run."""
    store = Store(tmp_path / "store")
    pairs = [
        Run("cifar100", source, "flowers", "scratch", 0) for source in ("herbivores", "carnivores")
    ]
    assert len({run.key for run in pairs}) == 1
    save(store, pairs[0])
    tasks = {f"{k:016x}": [0] for k in range(2)}
    for task, run in zip(tasks, pairs, strict=True):
        use(store, task, run)
    assert exports.publish("pairs", store, tmp_path / "pairs", "command", tasks).runs == 1
    rows = pd.read_csv(tmp_path / "pairs" / "seed-0.csv")
    assert sorted(zip(rows.source, rows.metric, strict=True)) == [
        (source, metric) for source in ("carnivores", "herbivores") for metric in sorted(VALUES)
    ]
    exports.write_rows(store.asked(tasks), store, tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "pairs/seed-0.csv").read_bytes()
    use(store, [*tasks][1], status="running")  # the second pair's rows are all that would be lost
    with pytest.raises(ValueError, match="hold rows that would"):
        exports.publish("pairs", store, tmp_path / "pairs", "command", tasks)


@pytest.mark.parametrize("trouble", ["stopped", "never begun", "seeds unknown"])
def test_seed_that_is_not_finished_is_named_and_loses_no_row(store, tmp_path, trouble):
    folder = tmp_path / "tiny"
    exports.publish("tiny", store, folder, "first", TASKS)
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    task = next(iter(TASKS))
    tasks, unfinished = dict(TASKS), [0]
    use(store, task, FT, status="running")  # it begins again, and has got that far
    if trouble == "never begun":
        change(store, f"DELETE FROM tasks WHERE task = '{task}'")
    elif trouble == "seeds unknown":
        tasks[task], unfinished = [], [0, 1]
    published = exports.publish("tiny", store, folder, "second", tasks)
    assert published == (1, 0, unfinished, [0])
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before
    (folder / "seed-0.csv").unlink()
    assert exports.publish("tiny", store, folder, "third", tasks) == (2, 0, unfinished, [])
    assert len(pd.read_csv(folder / "seed-0.csv")) == len(VALUES)
    save(store, SCRATCH)
    use(store, task, FT, SCRATCH, status="running")
    assert exports.publish("tiny", store, folder, "fourth", tasks).kept == []
    assert set(pd.read_csv(folder / "seed-0.csv").run) == {FT.key, SCRATCH.key}


def test_what_a_store_lacks_of_the_runs_asked_for_is_taken_from_the_files(store, tmp_path):
    """As on a second machine, which trains the seeds or cases that the first did not."""
    folder = tmp_path / "tiny"
    exports.publish("tiny", store, folder, "first", TASKS)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    second = Store(tmp_path / "second")
    added = replace(FT, method="mixup")
    for run in (FT, added):
        save(second, run)
    first, other = TASKS
    known = {first: [FT, SCRATCH, added], other: [replace(FT, seed=1)]}
    published = exports.publish("tiny", second, folder, "second", TASKS, declared=known)
    assert published == (3, 1, [], [])  # seed 1 is not of this store, and its file stays
    assert (folder / "seed-1.csv").read_bytes() == whole["seed-1.csv"]
    rows = pd.read_csv(folder / "seed-0.csv")
    assert set(rows.run) == {FT.key, SCRATCH.key, added.key}
    assert not rows.duplicated(["run", "metric"]).any()
    assert json.loads((folder / "manifest.json").read_text())["command"] == "second"
    taken = [line for line in whole["seed-0.csv"].splitlines() if SCRATCH.key.encode() in line]
    assert len(taken) == 2 and set(taken) <= set((folder / "seed-0.csv").read_bytes().splitlines())
    exports.publish("tiny", second, folder, "third", TASKS, declared=known | {first: [FT, added]})
    assert set(pd.read_csv(folder / "seed-0.csv").run) == {FT.key, added.key}


def test_a_run_that_pairs_share_is_taken_for_each_of_them_that_asks(tmp_path):
    """As from scratch, whose key reads no source: the file has it for the first pair alone."""
    first, second = (
        Run("cifar100", source, "flowers", "scratch", 0) for source in ("herbivores", "carnivores")
    )
    folder, store = tmp_path / "pairs", Store(tmp_path / "first")
    save(store, first)
    task = f"{0:016x}"
    exports.publish("pairs", store, folder, "command", {task: [0]}, declared={task: [first]})
    another, ft = Store(tmp_path / "second"), replace(second, method="ft")
    save(another, ft)
    known = {task: [second, ft]}
    published = exports.publish("pairs", another, folder, "command", {task: [0]}, declared=known)
    assert published == (2, 1, [], [])
    rows = pd.read_csv(folder / "seed-0.csv")
    assert set(zip(rows.source, rows.method, strict=True)) == {
        ("carnivores", "scratch"),
        ("carnivores", "ft"),
    }


def test_rows_keep_their_bytes_whichever_part_of_them_a_store_has(store, tmp_path):
    backbone = FT.backbone()  # it has no target: that column has a gap
    save(store, backbone)
    known = {next(iter(TASKS)): [backbone, FT, SCRATCH]}
    folder = tmp_path / "tiny"
    exports.publish("tiny", store, folder, "first", TASKS, declared=known)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for lost in (backbone, SCRATCH):
        change(store, f"DELETE FROM runs WHERE run = '{lost.key}'")
        published = exports.publish("tiny", store, folder, "second", TASKS, declared=known)
        assert published.taken > 0
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_rows_of_another_kind_of_device_are_not_joined(store, tmp_path):
    folder = tmp_path / "tiny"
    exports.publish("tiny", store, folder, "first", TASKS)
    before = (folder / "seed-0.csv").read_bytes()
    gpu = Store(tmp_path / "gpu")
    made = provenance("cpu", threads=1, seconds=2.0) | {"device": "cuda"}
    save(gpu, replace(FT, method="mixup"), made)
    known = {next(iter(TASKS)): [FT, SCRATCH, replace(FT, method="mixup")]}
    with pytest.raises(ValueError, match="hold rows that would be lost"):
        exports.publish("tiny", gpu, folder, "second", TASKS, declared=known)
    assert (folder / "seed-0.csv").read_bytes() == before


def test_files_that_only_unfinished_seeds_could_replace_are_left_in_one_sentence(store, tmp_path):
    folder = tmp_path / "tiny"
    exports.publish("tiny", store, folder, "first", TASKS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    little = Store(tmp_path / "little")
    save(little, FT)
    use(little, next(iter(TASKS)), FT, status="running")
    with pytest.raises(ValueError, match=r"'tiny' is not finished in .*little.*would be lost"):
        exports.publish("tiny", little, folder, "second", TASKS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def lost_in(folder):
    """What a manifest says of the runs that diverged: key -> why."""
    said = json.loads((folder / "manifest.json").read_text())["diverged"]
    return {run["run"]: run["why"] for run in said}


def test_diverged_run_has_no_rows_is_not_missing_and_is_named(store, tmp_path):
    wild = replace(FT, seed=1, n_train=5)
    store.save(wild.key, asdict(wild), [("val_loss", 0, 1e9)], message="it diverged")
    use(store, f"{1:016x}", replace(FT, seed=1), wild)
    folder = tmp_path / "tiny"
    assert exports.publish("tiny", store, folder, "command", TASKS) == (3, 0, [], [])
    (said,) = json.loads((folder / "manifest.json").read_text())["diverged"]
    assert (said["run"], said["why"], said["seed"]) == (wild.key, "it diverged", 1)
    assert said["n_train"] == 5 and said["target_shortcut"] is None
    first, second = TASKS
    exports.publish("tiny", store, folder, "command", {first: [0]})  # the other seed's file stays
    assert lost_in(folder) == {wild.key: "it diverged"}
    elsewhere = Store(tmp_path / "elsewhere")  # lacks the run that diverged
    save(elsewhere, replace(FT, seed=1))
    known = {second: [replace(FT, seed=1), wild]}
    exports.publish("tiny", elsewhere, folder, "command", {second: [1]}, declared=known)
    assert lost_in(folder) == {wild.key: "it diverged"}


@pytest.mark.parametrize("change", ["it has values now", "nobody asks for it"])
def test_run_that_diverged_is_named_no_longer(store, tmp_path, change):
    wild = replace(FT, seed=1, n_train=5)
    folder = tmp_path / "tiny"
    _, second = TASKS
    known = {second: [replace(FT, seed=1), wild]}
    store.save(wild.key, asdict(wild), [], message="it diverged")
    exports.publish("tiny", store, folder, "command", {second: [1]}, declared=known)
    assert lost_in(folder)
    elsewhere = Store(tmp_path / "elsewhere")
    save(elsewhere, replace(FT, seed=1))
    if change == "it has values now":
        save(elsewhere, wild)
    else:
        known = {second: [replace(FT, seed=1)]}
    exports.publish("tiny", elsewhere, folder, "command", {second: [1]}, declared=known)
    assert lost_in(folder) == {}


def test_task_whose_runs_are_declared_is_done_when_the_store_has_them(store, tmp_path):
    first, second = TASKS
    executed = tmp_path / "executed"
    exports.publish("tiny", store, executed, "command", TASKS)
    change(store, f"DELETE FROM tasks WHERE task = '{first}'")
    change(store, f"DELETE FROM uses WHERE task = '{first}'")
    assert exports.publish("tiny", store, tmp_path / "less", "command", TASKS) == (1, 0, [0], [])
    folder = tmp_path / "declared"
    known = {first: [SCRATCH, FT]}
    assert exports.publish("tiny", store, folder, "command", TASKS, declared=known) == (
        3,
        0,
        [],
        [],
    )
    for name in ("seed-0.csv", "seed-1.csv"):
        assert (folder / name).read_bytes() == (executed / name).read_bytes()
    more = {first: [SCRATCH, FT, replace(FT, n_train=5)]}
    assert exports.publish("tiny", store, folder, "command", TASKS, declared=more).unfinished == [0]
    use(store, second, replace(FT, seed=1), status="running")  # this one's runs are not known
    published = exports.publish("tiny", store, folder, "command", TASKS, declared=known)
    assert published.unfinished == [1]


def test_the_manifest_keeps_its_command_until_a_run_is_new(store, tmp_path):
    def command():
        return json.loads((tmp_path / "rows" / "manifest.json").read_text())["command"]

    save(store, replace(FT, n_train=5))
    exports.publish("tiny", store, tmp_path / "rows", "first", TASKS)
    exports.publish("tiny", store, tmp_path / "rows", "second", TASKS)
    assert command() == "first"
    first, _ = TASKS
    use(store, first, replace(FT, n_train=5))
    exports.publish("tiny", store, tmp_path / "rows", "third", TASKS)
    assert command() == "third"


def change(store, statement):
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_nothing_to_write_is_said_in_one_sentence(store, tmp_path):
    for call in (
        lambda: exports.publish("none", store, tmp_path / "none", "command", {"9" * 16: [0]}),
        lambda: exports.write_rows([replace(FT, seed=9)], store, tmp_path / "none.csv"),
        lambda: exports.write_rows([FT], store, tmp_path / "none.xlsx"),
    ):
        with pytest.raises(ValueError, match=r"finished run|values after training|\.csv or \.parq"):
            call()
    assert not list(tmp_path.glob("none*"))
