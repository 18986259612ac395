"""Damage of every kind: what the store gives back is what was stored, or it is left out."""

import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from rtl_utils.store import FINAL, Adopted, DamagedRunsWarning, Store, StoreError, TaskRecord
from rtl_utils.training import _workers

KEYS = [f"{k:016x}" for k in range(12)]
TASK = TaskRecord(
    "task", "sweep", "nb", {"seed": 1}, "done", None, "a.ipynb", "host", "2026-01-01", 1.5
)

TWICE = {"method": "scratch", "source": "another"}  # another record that shares a run's key


def spec(key):
    return {"method": "ft", "seed": int(key, 16), "taus": [0.0, 0.1, 1.0], "text": "x" * 300}


def rows(key):
    draw = random.Random(key)
    history = [
        (metric, epoch, draw.random()) for metric in ("tau", "loss", "weight") for epoch in range(8)
    ]
    return [*history, ("accuracy", FINAL, draw.random()), ("lost", FINAL, float("nan"))]


def save(store, key):
    made = {"commit": "abc", "seconds": int(key, 16) + 0.5}
    store.save(key, spec(key), rows(key), provenance=made, reads={"seed": key})


def content(values):
    """(metric, epoch, value) of a run's rows as exact text."""
    return sorted((m, int(e), repr(float(v))) for m, e, v in values)


ASKED = [*((key, spec(key)) for key in KEYS), (KEYS[0], TWICE)]  # by the task
EXPECTED = {key: content(rows(key)) for key in KEYS}


def given(store):
    """What the store returns now: run -> content."""
    values = store.values(KEYS)
    groups = values.groupby("run")
    return {
        key: content(zip(part.metric, part.epoch, part.value, strict=True)) for key, part in groups
    }


def quietly(work):
    """Do `work`; the warnings that it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    assert {w.category for w in caught} <= {DamagedRunsWarning}, [str(w.message) for w in caught]
    return result, [str(w.message) for w in caught]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a store of which half lies in the log, as a kill leaves it."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    store = Store(folder)
    for key in KEYS[:6]:
        save(store, key)
    store.save_task(TASK)
    Store(folder, task=TASK.task).use(ASKED)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    for key in KEYS[6:]:
        save(store, key)
    killed = folder.with_name("killed")
    shutil.copytree(folder, killed)
    (killed / "results.db-shm").unlink()
    store.engine.dispose()
    return killed


@pytest.fixture(scope="module")
def closed(whole):
    """The same store with all in the file."""
    folder = whole.with_name("closed")
    shutil.copytree(whole, folder)
    Store(folder).engine.dispose()
    assert not (folder / "results.db-wal").exists()
    return folder


def damage(data, draw):
    """The bytes with one damage of a random kind."""
    kind = draw.choice(["cut", "cut pages", "flip", "flips", "zero", "swap", "noise"])
    size = 4096
    pages = max(len(data) // size, 1)
    page, other = (draw.randrange(pages) * size for _ in range(2))
    data = bytearray(data)
    if kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "cut pages":
        del data[page:]
    elif kind in {"flip", "flips"}:
        for _ in range(1 if kind == "flip" else 20):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "zero":
        data[page : page + size] = bytes(len(data[page : page + size]))
    elif kind == "swap":
        a, b = bytes(data[page : page + size]), bytes(data[other : other + size])
        data[page : page + len(b)], data[other : other + len(a)] = b, a
    else:
        data[page : page + 64] = draw.randbytes(64)
    return kind, bytes(data)


def check_damaged(folder, says):
    """Whatever was done to the folder: nothing wrong comes back, and all can be stored again."""

    def use():
        store = Store(folder)
        found = given(store)
        assert set(store.status(KEYS)) == set(found)
        assert isinstance(store.specs(), dict)
        assert store.tasks() in ([], [TASK]), store.tasks()
        assert all(one in ASKED for one in store.asked([TASK.task]))
        for key in KEYS:
            if key not in found:
                save(store, key)
        assert given(store) == EXPECTED
        store.engine.dispose()
        again = Store(folder)
        assert given(again) == EXPECTED
        assert set(again.status(KEYS)) == set(KEYS)
        again.engine.dispose()
        return found

    found, _ = quietly(use)
    wrong = {key for key, rows in found.items() if rows != EXPECTED[key]}
    assert not wrong, says
    return len(found)


@pytest.mark.slow
def test_no_damage_of_the_file_serves_a_wrong_value_or_a_raw_error(whole, closed, tmp_path):
    draw = random.Random(1)
    kept = []
    for k in range(240):
        source, name = draw.choice(
            [(closed, "results.db"), (whole, "results.db"), (whole, "results.db-wal")]
        )
        folder = tmp_path / str(k)
        shutil.copytree(source, folder)
        path = folder / name
        kind, data = damage(path.read_bytes(), draw)
        path.write_bytes(data)
        try:
            kept.append(check_damaged(folder, (k, kind, name)))
        except Exception as error:
            raise AssertionError(f"damage {k}: {kind} of {name} of {source.name}") from error
        shutil.rmtree(folder)
    assert sum(kept) / len(kept) > 8  # most damage costs few runs


def begun_anew(folder):
    """A store and its log, killed when a new turn of the log had its header and no frame yet."""
    store = Store(folder)
    for key in KEYS[:6]:
        save(store, key)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)")
    killed = folder.with_name("killed")
    shutil.copytree(folder, killed)
    (killed / "results.db-shm").unlink()
    save(store, KEYS[6])  # begins the turn
    header = (folder / "results.db-wal").read_bytes()[:32]
    before = (killed / "results.db-wal").read_bytes()
    assert header[16:24] != before[16:24]  # the salts of the two turns
    (killed / "results.db-wal").write_bytes(header + before[32:])
    store.engine.dispose()
    return killed


def test_a_turn_of_the_log_that_has_just_begun_is_not_taken_for_damage(tmp_path):
    found, said = quietly(lambda: given(Store(begun_anew(tmp_path / "out"))))
    assert said == []
    assert found == {key: EXPECTED[key] for key in KEYS[:6]}


def test_damage_of_the_first_frames_salt_is_noticed(whole, tmp_path):
    """Its salt is that of no turn, and committed frames lie behind it."""
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    log = folder / "results.db-wal"
    data = bytearray(log.read_bytes())
    data[32 + 8] ^= 1
    log.write_bytes(data)
    found, said = quietly(lambda: given(Store(folder)))
    assert "its log is damaged" in said[0]
    assert set(found) >= set(KEYS[:6])


# --- weights ---


def net(seed):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40), nn.Linear(40, 2))
    made(torch.randn(8, 3))
    return made


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def spoilt(path, store, draw):
    """Damage a file of weights in one of the ways that a check of the zip alone misses or not."""
    whole = path.read_bytes()
    kind = draw.choice(["flip", "cut", "zeros", "nan", "half", "seed", "other", "plain", "garbage"])
    state = net(1).state_dict()
    if kind == "flip":
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(whole[: draw.randrange(len(whole))])
    elif kind == "zeros":
        start = draw.randrange(len(whole) - 64)
        path.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
    elif kind == "nan":
        state["0.weight"][0, 0] = float("nan")
        torch.save({"run": "k", "state": state}, path)
    elif kind == "half":
        halves = {name: value.half() for name, value in state.items()}
        torch.save({"run": "k", "state": halves}, path)
    elif kind == "seed":
        torch.save({"run": "k", "state": net(2).state_dict()}, path)
    elif kind == "other":
        shutil.copyfile(path.with_name("other.pt"), path)
    elif kind == "plain":
        torch.save(net(2).state_dict(), path)
    else:
        path.write_bytes(draw.randbytes(len(whole)))
    return kind, path.read_bytes() != whole


def test_no_damaged_file_of_weights_is_loaded(tmp_path):
    store = Store(tmp_path)
    for key, seed in (("k", 1), ("other", 2)):
        store.save(key, {}, [], weights=store.save_weights(key, net(seed)))
    path = tmp_path / "weights" / "k.pt"
    whole = path.read_bytes()
    draw = random.Random(1)
    for _ in range(500):
        kind, changed = spoilt(path, store, draw)
        other = net(3)
        assert store.load_weights("k", other) is not changed, kind
        assert same(other, net(1) if not changed else net(3)), kind
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["nan", "half", "other"])
def test_file_of_weights_without_a_digest_is_looked_at_too(tmp_path, kind):
    """As an earlier version stored it, or as a kill before the row was written leaves it."""
    store = Store(tmp_path)
    for key, seed in (("k", 1), ("other", 2)):
        store.save_weights(key, net(seed))
    draw = random.Random(0)
    draw.choice = lambda _: kind
    assert store.load_weights("k", net(3))
    spoilt(tmp_path / "weights" / "k.pt", store, draw)
    assert not store.load_weights("k", net(3))


def test_weights_that_were_saved_for_a_row_that_was_not_are_not_loaded(tmp_path):
    """What a kill between the two leaves: the row's digest decides."""
    store = Store(tmp_path)
    store.save("k", {}, [], weights=store.save_weights("k", net(1)))
    store.save_weights("k", net(2))
    assert not store.load_weights("k", net(3))


def test_interrupted_writing_leaves_no_file(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def interrupted(self, content):
        with self.open("wb") as file:
            file.write(bytes(content)[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save_weights("k", net(1))
    assert not list((tmp_path / "weights").iterdir())


def test_partial_files_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    store = Store(tmp_path)
    names = []

    def remember(self, content):
        names.append(self.name)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", remember)
        with pytest.raises(KeyboardInterrupt):
            store.save_weights("k", net(1))
    mine = tmp_path / "weights" / names[0]
    dead = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{2**22 + 1}."))
    for path in (mine, dead):
        path.write_bytes(b"half")
    Store(tmp_path)
    assert mine.exists()
    assert not dead.exists()


# --- full disks ---

FULL = "the disk is full; free some space and run the same command again; finished runs are kept"


def fill(folder, leave=0):
    """Fill the folder's disk to the last `leave` bytes."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    if leave:
        os.truncate(path, max(path.stat().st_size - leave, 0))
    return path


@pytest.mark.parametrize("leave", [0, 4096, 40_000])
def test_full_disk_is_one_sentence_and_finished_runs_are_kept(small_disk, tmp_path, leave):
    disk = tmp_path / "disk"
    store = Store(disk / "out")
    for key in KEYS[:3]:
        save(store, key)
    filler = fill(disk, leave)

    def save_many():
        for k in range(100):
            store.save(f"more-{k}", {"x": "y" * 3000}, rows("0"))

    def save_many_weights():
        for k in range(100):
            store.save_weights(f"more-{k}", net(1))

    with pytest.raises(StoreError, match=f"out: {FULL}") as error:
        save_many()
    assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match=f"out: {FULL}"):
        save_many_weights()
    with pytest.raises(StoreError, match=FULL):
        Store(disk / "another").save("k", {}, [])
    assert not list(disk.rglob("*.partial"))
    filler.unlink()
    save(store, KEYS[3])
    assert given(store) == {key: EXPECTED[key] for key in KEYS[:4]}
    assert given(Store(disk / "out")) == {key: EXPECTED[key] for key in KEYS[:4]}


@pytest.mark.parametrize("leave", [0, 45_000, 70_000])
def test_full_disk_keeps_a_damaged_database_as_it_was(small_disk, tmp_path, closed, leave):
    disk = tmp_path / "disk"
    shutil.copytree(closed, disk / "out")
    path = disk / "out" / "results.db"
    damaged = path.read_bytes()[: -2 * 4096]
    path.write_bytes(damaged)
    filler = fill(disk, leave)
    with pytest.raises(StoreError, match=FULL):
        Store(disk / "out").values(KEYS)
    assert path.read_bytes() == damaged
    assert not [name for name in os.listdir(disk / "out") if "damaged" in name or "2" in name]
    filler.unlink()
    check_damaged(disk / "out", "after the disk was full")


def test_result_of_a_training_that_finds_no_place_is_one_sentence(
    small_disk, tmp_path, monkeypatch
):
    disk = tmp_path / "disk"
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    filler = fill(disk)
    with pytest.raises(OSError, match=r"the disk of the temporary folder is full; free some") as at:
        _workers._into_file(bytes, (100_000,), None)
    assert len(at.value.args) == 1
    assert list(disk.iterdir()) == [filler]


# --- folders that can be read only ---


def read_again(folder):
    store = Store(folder)
    assert store.read_only
    assert given(store) == EXPECTED
    assert set(store.status(KEYS)) == set(KEYS)
    assert store.tasks() == [TASK]
    assert sorted(store.asked([TASK.task]), key=str) == sorted(ASKED, key=str)
    assert store.leased(KEYS) == {}
    for change in (
        lambda: save(store, KEYS[0]),
        lambda: store.save_weights("k", net(1)),
        lambda: store.save_task(TASK),
        lambda: store.lease(["k"]).__enter__(),
    ):
        with pytest.raises(StoreError, match=r"out can be read only, so nothing can be saved"):
            change()
    return store


@pytest.mark.parametrize("name", ["closed", "whole"], ids=["finished", "killed"])
def test_store_on_a_read_only_disk_can_be_read(small_disk, tmp_path, name, request):
    disk = tmp_path / "disk"
    shutil.copytree(request.getfixturevalue(name), disk / "out")
    small_disk("-o", "remount,ro")
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    store = read_again(disk / "out")
    store.engine.dispose()
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before


def test_damaged_store_on_a_read_only_disk_gives_what_is_whole(small_disk, tmp_path, closed):
    disk = tmp_path / "disk"
    shutil.copytree(closed, disk / "out")
    path = disk / "out" / "results.db"
    with path.open("r+b") as file:
        file.write(bytes(100))
    small_disk("-o", "remount,ro")
    with pytest.warns(DamagedRunsWarning, match="12 runs were saved, 0 are lost"):
        read_again(disk / "out")


def test_read_only_disk_without_a_store_is_refused(small_disk, tmp_path):
    small_disk("-o", "remount,ro")
    with pytest.raises(StoreError, match="out must be a folder that can be written; got"):
        Store(tmp_path / "disk" / "out")


# --- one file, several users ---


def test_others_that_have_a_damaged_file_open_go_on_with_the_new_one(closed, tmp_path):
    """A connection to the old file must neither write there nor remove the new file's log."""
    folder = tmp_path / "out"
    shutil.copytree(closed, folder)
    writer = Store(folder)
    assert given(writer) == EXPECTED
    with (folder / "results.db").open("r+b") as file:
        file.write(bytes(4096))
    with pytest.warns(DamagedRunsWarning, match="12 runs were saved, 0 are lost"):
        fresh = Store(folder)
    save(fresh, KEYS[0])
    save(writer, "0" * 15 + "c")
    writer.engine.dispose()
    for store in (fresh, Store(folder)):
        assert set(store.status([*KEYS, "0" * 15 + "c"])) == {*KEYS, "0" * 15 + "c"}
    (kept,) = folder.glob("results.damaged-*.db")
    assert kept.read_bytes()[:4096] == bytes(4096)


def test_two_threads_may_use_one_store(database, tmp_path):
    store = Store(tmp_path, database)
    errors = []

    def use(first):
        try:
            for key in KEYS[first::2] * 4:
                save(store, key)
                assert key in store.status(KEYS)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert given(store) == EXPECTED


def test_reader_never_sees_half_of_a_run_that_is_replaced(database, tmp_path):
    """Rows and checksum come from one state of the database; else they would not fit."""
    reader, writer = Store(tmp_path, database), Store(tmp_path, database)
    save(writer, KEYS[0])
    done = threading.Event()

    def replace():
        for k in range(60):
            writer.save(KEYS[0], {"k": k}, rows(str(k)))
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not done.is_set():
        assert len(reader.values([KEYS[0]])) == len(rows("0"))
        assert set(reader.status([KEYS[0]])) == {KEYS[0]}
    thread.join()


# --- damage that the database itself does not see ---


def change(store, statement, *values):
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement, values)


CHANGES = {
    "a value": "UPDATE results SET value = value * (1 + 1e-15) WHERE metric = 'tau' AND run = ?",
    "no value": "UPDATE results SET value = NULL WHERE metric = 'tau' AND run = ?",
    "a text for a value": "UPDATE results SET value = 'x' WHERE metric = 'tau' AND run = ?",
    "a row less": "DELETE FROM results WHERE metric = 'tau' AND epoch = 3 AND run = ?",
    "all rows": "DELETE FROM results WHERE run = ?",
    "a name": "UPDATE results SET metric = 'nu' WHERE metric = 'tau' AND run = ?",
    "the status": "UPDATE runs SET status = 'diverged' WHERE run = ?",
    "the message": "UPDATE runs SET message = 'it diverged' WHERE run = ?",
    "the record": "UPDATE runs SET spec = '{}' WHERE run = ?",
    "no JSON": "UPDATE runs SET provenance = '{\"commit\"' WHERE run = ?",
    "no text": "UPDATE runs SET reads = x'ff00' WHERE run = ?",
    "not even UTF-8": "UPDATE runs SET message = CAST(x'ff' AS TEXT) WHERE run = ?",
    "the checksum": "UPDATE runs SET checksum = NULL WHERE run = ?",
    "the digest of the weights": "UPDATE runs SET weights = 'abc' WHERE run = ?",
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_run_is_named_left_out_and_can_be_stored_again(name, closed, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(closed, folder)
    store = Store(folder)
    change(store, CHANGES[name], KEYS[3])
    rest = {key: EXPECTED[key] for key in KEYS if key != KEYS[3]}
    assert isinstance(quietly(store.specs)[0], dict)
    if name == "not even UTF-8":  # that is mended: the run's row is gone
        with pytest.warns(DamagedRunsWarning, match="11 runs were saved, 1 are lost"):
            assert given(store) == rest
    else:
        with pytest.warns(DamagedRunsWarning, match=rf"1 run is damaged .*\({KEYS[3]}\)"):
            assert set(store.status(KEYS)) == set(rest)
        with pytest.warns(DamagedRunsWarning, match=rf"1 run is damaged .*\({KEYS[3]}\)"):
            assert given(store) == rest
    save(store, KEYS[3])
    assert given(store) == EXPECTED
    assert set(Store(folder).status(KEYS)) == set(KEYS)


def test_many_damaged_runs_are_one_warning(closed, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(closed, folder)
    store = Store(folder)
    change(store, "UPDATE runs SET status = 'x'")
    with pytest.warns(DamagedRunsWarning, match="12 runs are damaged .*; they are") as caught:
        assert store.status(KEYS) == {}
    assert len(caught) == 1
    assert KEYS[2] in str(caught[0].message)
    assert KEYS[3] not in str(caught[0].message)


def test_run_that_its_index_has_lost_is_found(closed, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(closed, folder)
    with sqlite3.connect(folder / "results.db") as database:
        root, *_ = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_runs_1'"
        ).fetchone()
    database.close()
    path = folder / "results.db"
    data = bytearray(path.read_bytes())
    place = data.index(KEYS[3].encode(), (root - 1) * 4096, root * 4096)
    data[place + 5] = ord("f")
    path.write_bytes(data)
    with pytest.warns(DamagedRunsWarning, match="12 runs were saved, 0 are lost"):
        assert set(Store(folder).status(KEYS)) == set(KEYS)


def test_damaged_run_is_not_adopted(closed, tmp_path):
    """A new checksum would make it whole."""
    folder = tmp_path / "out"
    shutil.copytree(closed, folder)
    store = Store(folder)
    change(store, "UPDATE results SET value = 0.5 WHERE run = ? AND metric = 'tau'", KEYS[3])
    store.adopt(KEYS[3], Adopted("new", {}, {}, {}, {}))
    assert store.status(["new"]) == {}


def test_emptied_database_beside_weights_is_named(tmp_path):
    store = Store(tmp_path)
    store.save("k", {}, [], weights=store.save_weights("k", net(1)))
    store.engine.dispose()
    (tmp_path / "results.db").write_bytes(b"")
    with pytest.warns(DamagedRunsWarning, match="was emptied, and .* has the weights of 1 runs"):
        again = Store(tmp_path)
    assert again.status(["k"]) == {}


def old_store(folder):
    """A store of before there were checksums, with 30 runs."""
    folder.mkdir()
    with sqlite3.connect(folder / "results.db") as old:
        old.execute(
            "CREATE TABLE runs (run VARCHAR(16) NOT NULL, status VARCHAR(16) NOT NULL, "
            "message VARCHAR, spec JSON NOT NULL, PRIMARY KEY (run))"
        )
        old.execute(
            "CREATE TABLE results (run VARCHAR(16) NOT NULL, metric VARCHAR(40) NOT NULL, "
            "epoch INTEGER NOT NULL, value FLOAT, PRIMARY KEY (run, metric, epoch))"
        )
        for key in KEYS:
            old.execute(
                "INSERT INTO runs VALUES (?, 'done', NULL, ?)", (key, json.dumps(spec(key)))
            )
            old.executemany(
                "INSERT INTO results VALUES (?, ?, ?, ?)", [(key, *row) for row in rows(key)]
            )
    old.close()


def open_old(folder, start, results):
    start.wait()
    results.put(given(Store(folder)) == EXPECTED)


@pytest.mark.kernel
def test_store_of_an_earlier_version_is_migrated_by_several_processes_at_once(tmp_path):
    old_store(tmp_path / "out")
    context = multiprocessing.get_context("fork")  # without importing torch again
    start, results = context.Barrier(4, timeout=60), context.Queue()
    openers = [
        context.Process(target=open_old, args=(tmp_path / "out", start, results)) for _ in range(4)
    ]
    for process in openers:
        process.start()
    assert [results.get(timeout=60) for _ in openers] == [True] * 4
    for process in openers:
        process.join(60)


def test_damaged_store_of_an_earlier_version_is_kept_aside(tmp_path):
    """Nothing tells which of its runs are whole."""
    folder = tmp_path / "out"
    old_store(folder)
    path = folder / "results.db"
    path.write_bytes(path.read_bytes()[: -4 * 4096])
    with pytest.warns(DamagedRunsWarning, match=r"0 runs were saved, \d+ are lost"):
        store = Store(folder)
    assert store.status(KEYS) == {}
    assert len(list(folder.glob("results.damaged-*.db"))) == 1


# --- kills ---


def save_for_ever(folder, ready):
    store = Store(folder)
    ready.set()
    for k in count():
        key = KEYS[k % len(KEYS)]
        rest = {"weights": store.save_weights(key, net(k))}
        store.save(key, {"seed": k}, rows(str(k)), **rest)


@pytest.mark.kernel
def test_killed_at_any_moment_no_run_is_half_there(tmp_path):
    context = multiprocessing.get_context("fork")  # without importing torch again
    draw = random.Random(0)
    for kills in range(1, 13):
        ready = context.Event()
        writer = context.Process(target=save_for_ever, args=(tmp_path, ready))
        writer.start()
        assert ready.wait(60)
        time.sleep(draw.uniform(0.02, 0.1))
        writer.kill()
        writer.join()
        store = Store(tmp_path)
        assert not list(tmp_path.rglob("*.partial"))
        specs = store.specs()
        status = store.status(KEYS)
        assert set(status) == set(specs)
        whole = [key for key in status if store.load_weights(key, net(0))]
        assert len(whole) >= len(status) - kills  # each left one run whose row was yet to come
        for key in whole:
            loaded = net(0)
            assert store.load_weights(key, loaded)
            assert same(loaded, net(specs[key]["seed"]))
