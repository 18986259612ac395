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
VALUES = {"val_accuracy": 0.123456789, "flip_rate": 0.5}


@pytest.fixture
def store(tmp_path):
    """A store without a training: three runs of two seeds, used by a sweep's two tasks."""
    store = Store(tmp_path / "store")
    for run in (FT, SCRATCH, replace(FT, seed=1)):
        save(store, run)
    for seed, runs in {0: (FT, SCRATCH), 1: (replace(FT, seed=1), replace(FT, seed=7))}.items():
        task = f"{seed:016x}"
        Store(store.folder, task=task).use(run.key for run in runs)
        store.save_task(record(task))
    return store


def save(store, run):
    rows = [("val_loss", 0, 2.0), *((metric, -1, v + run.seed) for metric, v in VALUES.items())]
    made = provenance("cpu", threads=1, seconds=2.0)
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
    by_key = exports.rows_of([SCRATCH.key], store)
    assert set(by_key.source_shortcut) == {"ball on 4"} and len(by_key) == 2


def test_rows_do_not_depend_on_the_order_of_the_runs_or_on_how_many_are_read_at_once(
    store, monkeypatch
):
    keys = [FT.key, SCRATCH.key, replace(FT, seed=1).key, "0" * 16]
    together = exports.rows_of(keys, store)
    assert set(together.run) == set(keys[:3])  # what the store lacks is left out
    monkeypatch.setattr(exports, "_AT_ONCE", 1)
    pd.testing.assert_frame_equal(exports.rows_of(keys[::-1], store), together)


def test_records_of_another_version_are_left_out(store):
    store.save("f" * 16, {"dataset": "digits", "colour": "red"}, [("val_accuracy", -1, 1.0)])
    assert set(exports.rows_of(["f" * 16, FT.key], store).run) == {FT.key}
    assert len(exports.rows_of(["f" * 16], store)) == 0


def test_sweep_is_published_as_a_file_per_seed_and_a_manifest(store, tmp_path):
    folder = tmp_path / "results" / "tiny"
    assert exports.publish("tiny", store, folder, "rtl batch tiny.yaml", "a note") == 3
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "seed-0.csv", "seed-1.csv"]
    first = pd.read_csv(folder / "seed-0.csv")
    assert set(first.run) == {FT.key, SCRATCH.key} and set(first.seed) == {0}
    said = json.loads((folder / "manifest.json").read_text())
    assert said["command"] == "rtl batch tiny.yaml" and said["note"] == "a note"
    assert said["runs_per_seed"] == {"0": 2, "1": 1} and said["threads"] == ["1"]


def test_publishing_leaves_other_seeds_and_other_sweeps_alone(store, tmp_path):
    folder = tmp_path / "tiny"
    exports.publish("tiny", store, folder, "first")
    before = (folder / "seed-1.csv").read_bytes()
    save(store, replace(FT, seed=2))
    Store(store.folder, task="2" * 16).use([replace(FT, seed=2).key])
    store.save_task(record("2" * 16, sweep="other"))
    assert exports.publish("other", store, folder, "second") == 1
    assert (folder / "seed-1.csv").read_bytes() == before
    said = json.loads((folder / "manifest.json").read_text())
    assert list(said["runs_per_seed"]) == ["0", "1", "2"]
    assert exports.publish("tiny", store, folder, "third", tasks=[f"{0:016x}"]) == 2


def test_nothing_to_write_is_said_in_one_sentence(store, tmp_path):
    for call in (
        lambda: exports.publish("none", store, tmp_path / "none", "command"),
        lambda: exports.write_rows([replace(FT, seed=9)], store, tmp_path / "none.csv"),
        lambda: exports.write_rows([FT], store, tmp_path / "none.xlsx"),
    ):
        with pytest.raises(ValueError, match=r"finished run|values after training|\.csv or \.parq"):
            call()
    assert not list(tmp_path.glob("none*"))
