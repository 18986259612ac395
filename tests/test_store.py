import errno
import multiprocessing
import pickle
import sqlite3
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from rtl_utils.store import FINAL, Adopted, Store, StoreError, TaskRecord

SPEC = {"method": "ft", "seed": 3, "taus": [0, 1]}
ROWS = [("val_loss", 0, 0.5), ("val_loss", 1, 0.25), ("val_accuracy", FINAL, 0.75)]
MADE = {"commit": "abc", "threads": 1, "clean": True}


@pytest.fixture
def store(database, tmp_path):
    """A new store on a database of each kind."""
    return Store(tmp_path / "out", database)


@pytest.fixture
def local(tmp_path):
    """A new store with all in its folder."""
    return Store(tmp_path / "out")


def kept(store, key="k"):
    rows = store.values([key])
    return sorted(zip(rows.metric, rows.epoch, rows.value, strict=True))


def test_rows_come_back_with_status_and_provenance(store):
    store.save("k", SPEC, ROWS, provenance=MADE)
    store.save("other", SPEC | {"seed": 4}, ROWS)
    rows = store.values(["k"])
    columns = {"run", "status", "metric", "epoch", "value", "commit", "threads", "clean"}
    assert set(rows.columns) == columns
    assert set(rows.run) == {"k"}
    assert set(rows.status) == {"done"}
    assert set(rows.commit) == {"abc"}
    assert kept(store) == sorted(ROWS)


def test_runs_with_and_without_provenance_stand_in_one_table(store):
    store.save("k", SPEC, ROWS, provenance=MADE)
    store.save("other", SPEC, ROWS)
    rows = store.values(["k", "other"]).set_index("run")
    assert len(rows) == 2 * len(ROWS)
    assert set(rows.loc["k"].commit) == {"abc"}
    assert rows.loc["other"].commit.isna().all()


def test_records_of_all_runs_come_back_by_key(store):
    store.save("k", SPEC, ROWS)
    store.save("other", SPEC | {"seed": 4}, [])
    assert store.specs() == {"k": SPEC, "other": SPEC | {"seed": 4}}


def test_rows_are_there_for_another_process_of_the_same_folder(store):
    store.save("k", SPEC, ROWS)
    assert kept(Store(store.folder, store.url)) == sorted(ROWS)


def test_no_runs_no_rows(store):
    for rows in (store.values(["nothing"]), store.values([])):
        assert len(rows) == 0
        assert {"run", "status", "metric", "epoch", "value"} <= set(rows.columns)
    assert store.status(["nothing"]) == {}
    assert store.specs() == {}


def test_more_runs_than_one_query_may_name_are_found(store):
    keys = [f"run-{k}" for k in range(1_100)]
    for key in (keys[0], keys[-1]):
        store.save(key, SPEC, ROWS)
    assert set(store.status(keys)) == {keys[0], keys[-1]}
    assert len(store.values(keys)) == 2 * len(ROWS)


def test_second_save_replaces_the_first(store):
    store.save("k", SPEC, ROWS, message="it diverged")
    store.save("k", SPEC, ROWS[:1])
    assert kept(store) == ROWS[:1]
    assert store.status(["k"]) == {"k": ("done", None)}


def test_status_says_why_a_run_diverged(store):
    store.save("good", SPEC, ROWS)
    store.save("bad", SPEC, [], message="the loss is not finite")
    assert store.status(["good", "bad", "unknown"]) == {
        "good": ("done", None),
        "bad": ("diverged", "the loss is not finite"),
    }


def test_value_that_is_not_a_number_comes_back_as_such(store):
    store.save("k", SPEC, [("train_accuracy", 0, float("nan"))])
    assert store.values(["k"]).value.isna().all()


def test_failed_save_changes_nothing(store):
    store.save("k", SPEC, ROWS)
    one_place_two_values = [("val_loss", 0, 1.0), ("val_loss", 0, 2.0)]
    with pytest.raises(ValueError, match="run k has two values of one metric and epoch"):
        store.save("k", {"seed": 99}, one_place_two_values)
    assert kept(store) == sorted(ROWS)
    assert store.specs() == {"k": SPEC}


def adopted(key, spec=SPEC, metrics=None):
    return Adopted(key, spec, {"reads": 1}, MADE, metrics or {})


def test_adopted_run_keeps_rows_status_and_weights(store):
    store.save("k", SPEC, ROWS, message="it diverged")
    store.save_weights("k", net(7))
    store.adopt("k", adopted("new", {"seed": 5}))
    assert kept(store) == []
    assert kept(store, "new") == sorted(ROWS)
    assert store.status(["k", "new"]) == {"new": ("diverged", "it diverged")}
    assert store.specs() == {"new": {"seed": 5}}
    other = net(0)
    assert not store.has_weights("k")
    assert store.load_weights("new", other)
    assert same(other, net(7))


def test_run_without_weights_can_be_adopted(store):
    store.save("k", SPEC, ROWS)
    store.adopt("k", adopted("new"))
    assert kept(store, "new") == sorted(ROWS)
    assert not store.has_weights("new")


def test_metrics_are_renamed_in_the_adopted_run_alone(store):
    for key in ("k", "other"):
        store.save(key, SPEC, ROWS)
    store.adopt("k", adopted("new", metrics={"val_loss": "loss", "nothing": "something"}))
    renamed = [("loss" if name == "val_loss" else name, *rest) for name, *rest in ROWS]
    assert kept(store, "new") == sorted(renamed)
    assert kept(store, "other") == sorted(ROWS)


def test_adopted_run_gains_provenance_only_where_it_has_none(store):
    store.save("k", SPEC, ROWS)
    store.save("other", SPEC, ROWS, provenance={"commit": "its own"})
    store.adopt("k", adopted("new"))
    store.adopt("other", adopted("another"))
    assert set(store.values(["new"]).commit) == {"abc"}
    assert set(store.values(["another"]).commit) == {"its own"}


def test_run_that_cannot_be_adopted_stays_as_it_is(store):
    for key in ("k", "taken"):
        store.save(key, SPEC | {"key": key}, ROWS)
    with pytest.raises(ValueError, match="run taken is in the store already"):
        store.adopt("k", adopted("taken", metrics={"val_loss": "loss"}))
    for key in ("k", "taken"):
        assert kept(store, key) == sorted(ROWS)
        assert store.specs()[key] == SPEC | {"key": key}


def test_store_of_an_earlier_version_gains_the_columns_that_it_lacks(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    with sqlite3.connect(folder / "results.db") as old:
        old.execute(
            "CREATE TABLE runs (run VARCHAR(16) NOT NULL, status VARCHAR(16) NOT NULL, "
            "message VARCHAR, spec JSON NOT NULL, PRIMARY KEY (run))"
        )
        old.execute("INSERT INTO runs VALUES ('before', 'done', NULL, '{\"seed\": 3}')")
    old.close()
    store = Store(folder)
    store.save("k", SPEC, ROWS, provenance=MADE)
    assert store.specs() == {"before": {"seed": 3}, "k": SPEC}
    assert set(store.values(["k"]).commit) == {"abc"}


@pytest.mark.parametrize(
    "name",
    [
        "my data",
        "100 %",
        "what?",
        "a#b",
        "%2F",
        "%25",
        "ä ö",
        "a&b=c",
        "{x}",
        "a'b",
        'a"b',
        "a\nb",
        "a ",
        "a\\b",
    ],
)
def test_folder_of_any_name_is_a_folder(tmp_path, name):
    store = Store(tmp_path / name)
    store.save("k", SPEC, ROWS)
    assert kept(Store(tmp_path / name)) == sorted(ROWS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "results.db").exists()


def write_many(folder, writer, start):
    try:
        for attempt in range(20):
            start.wait()  # all open a new store at once
            store = Store(folder / str(attempt))
    except BaseException:
        start.abort()  # the others need not wait
        raise
    for run in range(25):
        store.save(f"{writer}-{run}", SPEC | {"seed": run}, ROWS)
        store.save("shared", SPEC, ROWS)


@pytest.mark.slow
@pytest.mark.kernel
def test_concurrent_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")  # without importing torch again
    start = context.Barrier(3, timeout=60)
    writers = [
        context.Process(target=write_many, args=(tmp_path, writer, start)) for writer in range(3)
    ]
    for process in writers:
        process.start()
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0, 0, 0]
    keys = [f"{writer}-{run}" for writer in range(3) for run in range(25)] + ["shared"]
    found = Store(tmp_path / "19").values(keys).groupby("run").size()
    assert found.to_dict() == dict.fromkeys(keys, len(ROWS))


TASK = TaskRecord(
    "t1", "sweep", "03.ipynb", {"seeds": [1, 2]}, "done", None, "b/1.ipynb", "host", "2026-01-02", 7
)


def test_records_of_tasks_come_back_by_sweep_and_status(store):
    failed = TASK._replace(task="t2", status="failed", message="no luck", seconds=None)
    other = TASK._replace(task="t0", sweep="another", parameters={})
    for record in (failed, TASK, other, failed):
        store.save_task(record)
    assert store.tasks() == [other, TASK, failed]
    assert store.tasks(sweep="sweep") == [TASK, failed]
    assert store.tasks(status="failed") == [failed]
    assert store.tasks("another", "failed") == []
    assert store.tasks(keys=["t0", "t2", "t9"]) == [other, failed]


def test_later_record_of_a_task_replaces_the_earlier(store):
    store.save_task(TASK._replace(status="running", seconds=None))
    store.save_task(TASK)
    assert store.tasks() == [TASK]


def test_runs_that_a_task_used_are_found_again(store):
    store.use([("a", SPEC)])  # of no task
    for task, runs in (("t1", ["b", "a"]), ("t2", ["b"]), ("t1", ["b", "c"])):
        Store(store.folder, store.url, task).use((run, SPEC) for run in runs)
    assert store.runs_of(["t1", "t2", "t3"]) == {"t1": ["a", "b", "c"], "t2": ["b"], "t3": []}
    assert store.asked(["t1", "t2", "t3"]) == [("a", SPEC), ("b", SPEC), ("c", SPEC)]
    assert store.asked(["t3"]) == store.asked([]) == []


def test_what_tasks_asked_for_is_kept_where_runs_share_a_key(store):
    labels = [SPEC | {"source": name, "place": (0.5, 1)} for name in ("clean", "biased")]
    for task, spec in zip(("t1", "t2"), labels, strict=True):
        for _ in range(2):
            Store(store.folder, store.url, task).use([("a", spec)])
    plain = [("a", spec | {"place": [0.5, 1]}) for spec in labels]  # as JSON has it
    assert store.asked(["t1"]) == plain[:1]
    both = store.asked(["t1", "t2"])
    assert sorted(both, key=str) == sorted(plain, key=str)
    assert store.asked(["t2", "t1", "t2"]) == both
    assert store.runs_of(["t1", "t2"]) == {"t1": ["a"], "t2": ["a"]}


def test_task_that_begins_again_asks_anew(store):
    Store(store.folder, store.url, "t1").use([("old", SPEC)])
    Store(store.folder, store.url, "t2").use([("other", SPEC)])
    store.save_task(TASK)
    assert store.runs_of(["t1"]) == {"t1": ["old"]}
    store.save_task(TASK._replace(status="running"))
    Store(store.folder, store.url, "t1").use([("new", SPEC)])
    store.save_task(TASK)
    assert store.runs_of(["t1", "t2"]) == {"t1": ["new"], "t2": ["other"]}


def test_changed_record_of_what_was_asked_is_left_out(store):
    Store(store.folder, store.url, "t1").use([("a", SPEC), ("b", SPEC), ("c", SPEC)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE uses SET spec = '{\"seed\": 4}' WHERE run = 'a'")
        connection.exec_driver_sql("UPDATE uses SET variant = 'x' WHERE run = 'b'")
    assert store.asked(["t1"]) == [("c", SPEC)]
    assert store.runs_of(["t1"]) == {"t1": ["c"]}


def test_store_that_did_not_keep_what_was_asked_executes_those_tasks_again(database, tmp_path):
    """The schema's first version; its runs stay, and failed tasks and those without runs too."""
    old = Store(tmp_path, database)
    old.save("k", SPEC, ROWS)
    tasks = [
        TASK,
        TASK._replace(task="t2"),
        TASK._replace(task="t3", status="failed", message="no luck"),
    ]
    for record in tasks:
        old.save_task(record)
    with old.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE uses")
        connection.exec_driver_sql(
            "CREATE TABLE uses (task VARCHAR NOT NULL, run VARCHAR NOT NULL, checksum VARCHAR NOT "
            "NULL, PRIMARY KEY (task, run))"
        )
        connection.exec_driver_sql("INSERT INTO uses VALUES ('t1', 'k', 'x'), ('t3', 'k', 'x')")
        connection.exec_driver_sql("UPDATE about SET value = '1' WHERE name = 'schema'")
    old.engine.dispose()
    for _ in range(2):
        store = Store(tmp_path, database, "t1")
        assert store.tasks() == tasks[1:]
        assert kept(store) == sorted(ROWS)
    store.use([("k", SPEC)])
    assert store.asked(["t1", "t3"]) == [("k", SPEC)]


def test_newer_schema_is_refused(local):
    with local.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE about SET value = '99'")
    with pytest.raises(StoreError, match=r"newer version .*99.*update rtl-utils"):
        Store(local.folder)


def test_runs_of_an_earlier_version_are_whole_after_the_migration(tmp_path):
    """Its files of weights have no digest and name no run."""
    folder = tmp_path / "old"
    (folder / "weights").mkdir(parents=True)
    with sqlite3.connect(folder / "results.db") as old:
        old.execute(
            "CREATE TABLE runs (run VARCHAR(16) NOT NULL, status VARCHAR(16) NOT NULL, "
            "message VARCHAR, spec JSON NOT NULL, provenance JSON, reads JSON, PRIMARY KEY (run))"
        )
        old.execute(
            "CREATE TABLE results (run VARCHAR(16) NOT NULL, metric VARCHAR(40) NOT NULL, "
            "epoch INTEGER NOT NULL, value FLOAT, PRIMARY KEY (run, metric, epoch))"
        )
        made = '{"commit": "abc"}'
        old.execute("INSERT INTO runs VALUES ('k', 'done', NULL, '{}', ?, '{}')", [made])
        old.executemany("INSERT INTO results VALUES ('k', ?, ?, ?)", [*ROWS, ("lost", 0, None)])
    old.close()
    torch.save(net(7).state_dict(), folder / "weights" / "k.pt")
    found = Store(folder)
    assert kept(found)[:1] == [("lost", 0, pytest.approx(float("nan"), nan_ok=True))]
    assert [row for row in kept(found) if row[0] != "lost"] == sorted(ROWS)
    assert set(found.values(["k"]).commit) == {"abc"}
    other = net(0)
    assert found.load_weights("k", other)
    assert same(other, net(7))


@pytest.mark.parametrize("below", ["", "out"])
def test_folder_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / below
    with pytest.raises(ValueError, match="out must be a folder") as error:
        Store(folder)
    assert str(folder) in str(error.value)


# --- weights ---


def net(fill):
    made = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40))
    for tensor in made.state_dict().values():
        tensor.fill_(fill)
    return made


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_weights_and_buffers_come_back(local):
    other = net(0)
    local.save_weights("k", net(7))
    assert local.load_weights("k", other)
    assert same(other, net(7))
    assert not other.training


def test_later_weights_replace_earlier_and_leave_no_other_file(local):
    other = net(0)
    local.save_weights("k", net(7))
    local.save_weights("k", net(8))
    assert local.load_weights("k", other)
    assert same(other, net(8))
    assert [path.name for path in (local.folder / "weights").iterdir()] == ["k.pt"]


def test_missing_weights_are_said_to_be_missing(local):
    assert not local.load_weights("nothing", net(0))


def weights_file(local) -> Path:
    local.save_weights("k", net(7))
    (path,) = (local.folder / "weights").glob("k*")
    return path


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_weights_are_not_loaded(local, share):
    path = weights_file(local)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert not local.load_weights("k", net(0))


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage",
        b"\x80\x02garbage",
        b"PK\x03\x04" + bytes(200),
        bytes(1000),
        pickle.dumps([1, 2]),
        pickle.dumps({"a": 1}),
    ],
    ids=["text", "broken pickle", "broken zip", "zeros", "pickled list", "pickled dict"],
)
def test_garbage_is_not_loaded(local, garbage):
    weights_file(local).write_bytes(garbage)
    assert not local.load_weights("k", net(0))


@pytest.mark.parametrize(
    "content", [[1, 2], None, {}, {"0.weight": torch.zeros(2)}, "text"], ids=str
)
def test_file_of_something_else_is_not_loaded(local, content):
    torch.save(content, weights_file(local))
    assert not local.load_weights("k", net(0))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_is_noticed_or_harmless(local, where, bit):
    path, other = weights_file(local), net(0)
    damaged = bytearray(path.read_bytes())
    damaged[int(where * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    assert not local.load_weights("k", other) or same(other, net(7))


class Writes:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickle_in_a_weights_file_is_not_run(local, tmp_path):
    path = weights_file(local)
    for content in (Writes(tmp_path / "ran"), {"0.weight": Writes(tmp_path / "ran")}):
        torch.save(content, path)
        assert not local.load_weights("k", net(0))
        path.write_bytes(pickle.dumps(content))
        assert not local.load_weights("k", net(0))
    assert not (tmp_path / "ran").exists()


def test_weights_are_a_zip_that_others_can_read(local):
    assert zipfile.is_zipfile(weights_file(local))


def test_full_disk_is_an_error_that_leaves_the_weights_as_they_were(local, monkeypatch):
    path = weights_file(local)

    def write_half(self, content):
        with self.open("wb") as file:
            file.write(bytes(content)[:100])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(StoreError, match="the disk is full; free some space and run the same"):
        local.save_weights("k", net(8))
    other = net(0)
    assert list(path.parent.iterdir()) == [path]
    assert local.load_weights("k", other)
    assert same(other, net(7))


def test_weights_of_another_network_are_not_loaded(local):
    local.save_weights("k", nn.Linear(3, 40))
    assert local.has_weights("k")
    assert not local.load_weights("k", net(0))
