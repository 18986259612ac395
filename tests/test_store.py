import multiprocessing
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError
from torch import nn

from rtl_utils.results import FINAL, Store, code_version, run_key

SPEC = {"method": "ft", "seed": 3, "taus": [0, 1]}
ROWS = [("val_loss", 0, 0.5), ("val_loss", 1, 0.25), ("val_accuracy", FINAL, 0.75)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def kept(store, key="k"):
    frame = store.frame([key])
    return sorted(zip(frame.metric, frame.epoch, frame.value, strict=True))


def test_rows_come_back_with_the_columns_of_the_spec(store):
    store.save("k", SPEC, ROWS)
    store.save("other", SPEC | {"seed": 4}, ROWS)
    frame = store.frame(["k"])
    assert list(frame.columns) == ["run", "status", "method", "seed", "taus", "metric", "epoch", "value"]
    assert set(frame.run) == {"k"} and set(frame.status) == {"done"} and set(frame.seed) == {3}
    assert kept(store) == sorted(ROWS)


def test_rows_are_there_for_another_process_of_the_same_folder(store):
    store.save("k", SPEC, ROWS)
    assert kept(Store(store.folder)) == sorted(ROWS)


def test_no_runs_no_rows(store):
    frame = store.frame(["nothing"])
    assert len(frame) == 0 and {"run", "metric", "epoch", "value"} <= set(frame.columns)
    assert store.status(["nothing"]) == {}


def test_second_save_replaces_the_first(store):
    store.save("k", SPEC, ROWS, "it diverged")
    store.save("k", SPEC, ROWS[:1])
    assert kept(store) == ROWS[:1]
    assert store.status(["k"]) == {"k": ("done", None)}


def test_status_says_why_a_run_diverged(store):
    store.save("good", SPEC, ROWS)
    store.save("bad", SPEC, [], "the loss is not finite")
    assert store.status(["good", "bad", "unknown"]) == {"good": ("done", None), "bad": ("diverged", "the loss is not finite")}


def test_value_that_is_not_a_number_comes_back_as_such(store):
    store.save("k", SPEC, [("train_accuracy", 0, float("nan"))])
    assert store.frame(["k"]).value.isna().all()


RECORDS = {"sgd": {"lr": 0.1, "epochs": 3}, "coupled": {"iterations": 4, "partitions": 10}, "source_sgd": None, "partitions": 2}
WHOLE = SPEC | RECORDS | {"dataset": "digits", "source": "a", "target": "b"}


def exported(store, tmp_path):
    """Header and rows of the CSV file, as text."""
    header, *rows = [line.split(",") for line in store.export(tmp_path / "out.csv").read_text().splitlines()]
    return header, [dict(zip(header, row, strict=True)) for row in rows]


def test_export_holds_the_values_after_training_beside_the_records(store, tmp_path):
    store.save("k", WHOLE, [*ROWS, ("length", 0, 1.5), ("length", 1, 2.5)])
    _, rows = exported(store, tmp_path)
    assert {row["metric"]: float(row["value"]) for row in rows} == {"val_accuracy": 0.75, "length": 2.5}
    assert all((row["run"], row["lr"], row["coupled_iterations"], row["epoch"]) == ("k", "0.1", "4", "-1") for row in rows)


def test_export_has_one_name_a_column(store, tmp_path):
    store.save("k", WHOLE, ROWS)
    header, _ = exported(store, tmp_path)
    assert len(set(header)) == len(header)


def test_export_takes_runs_that_were_stored_before_a_record_was_added(store, tmp_path):
    store.save("old", {name: value for name, value in WHOLE.items() if name not in ("coupled", "partitions")}, ROWS)
    assert [row["run"] for row in exported(store, tmp_path)[1]] == ["old"]
    store.save("new", WHOLE, ROWS)
    assert sorted(row["run"] for row in exported(store, tmp_path)[1]) == ["new", "old"]


def test_failed_save_changes_nothing(store):
    store.save("k", SPEC, ROWS)
    with pytest.raises(IntegrityError):
        store.save("k", {"seed": 99}, [("val_loss", 0, 1.0), ("val_loss", 0, 2.0)])  # one place, two values
    assert kept(store) == sorted(ROWS) and set(store.frame(["k"]).seed) == {3}


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


def test_concurrent_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3, timeout=60)
    writers = [context.Process(target=write_many, args=(tmp_path, writer, start)) for writer in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0, 0, 0]
    keys = [f"{writer}-{run}" for writer in range(3) for run in range(25)] + ["shared"]
    assert Store(tmp_path / "19").frame(keys).groupby("run").size().to_dict() == dict.fromkeys(keys, len(ROWS))


@pytest.mark.parametrize("below", ["", "out"])
def test_folder_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / below
    with pytest.raises(ValueError, match="out must be a folder") as error:
        Store(folder)
    assert str(folder) in str(error.value)


# --- weights ----------------------------------------------------------------------------------------------------------------------------


def net(fill):
    made = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40))
    for tensor in made.state_dict().values():
        tensor.fill_(fill)
    return made


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_weights_and_buffers_come_back(store):
    other = net(0)
    store.save_weights("k", net(7))
    assert store.load_weights("k", other) and same(other, net(7)) and not other.training


def test_later_weights_replace_earlier_and_leave_no_other_file(store):
    other = net(0)
    store.save_weights("k", net(7))
    store.save_weights("k", net(8))
    assert store.load_weights("k", other) and same(other, net(8))
    assert [path.name for path in (store.folder / "weights").iterdir()] == ["k.pt"]


def test_missing_weights_are_said_to_be_missing(store):
    assert not store.load_weights("nothing", net(0))


def weights_file(store) -> Path:
    store.save_weights("k", net(7))
    (path,) = (store.folder / "weights").glob("k*")
    return path


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_weights_are_not_loaded(store, share):
    path = weights_file(store)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert not store.load_weights("k", net(0))


@pytest.mark.parametrize(
    "garbage",
    [b"garbage", b"\x80\x02garbage", b"PK\x03\x04" + bytes(200), bytes(1000), pickle.dumps([1, 2]), pickle.dumps({"a": 1})],
    ids=["text", "broken pickle", "broken zip", "zeros", "pickled list", "pickled dict"],
)
def test_garbage_is_not_loaded(store, garbage):
    weights_file(store).write_bytes(garbage)
    assert not store.load_weights("k", net(0))


@pytest.mark.parametrize("content", [[1, 2], None, {}, {"0.weight": torch.zeros(2)}, "text"], ids=str)
def test_file_of_something_else_is_not_loaded(store, content):
    torch.save(content, weights_file(store))
    assert not store.load_weights("k", net(0))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_is_noticed_or_harmless(store, where, bit):
    path, other = weights_file(store), net(0)
    damaged = bytearray(path.read_bytes())
    damaged[int(where * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    assert not store.load_weights("k", other) or same(other, net(7))


class Writes:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickle_in_a_weights_file_is_not_run(store, tmp_path):
    path = weights_file(store)
    for content in (Writes(tmp_path / "ran"), {"0.weight": Writes(tmp_path / "ran")}):
        torch.save(content, path)
        assert not store.load_weights("k", net(0))
        path.write_bytes(pickle.dumps(content))
        assert not store.load_weights("k", net(0))
    assert not (tmp_path / "ran").exists()


def test_weights_are_a_zip_that_others_can_read(store):
    assert zipfile.is_zipfile(weights_file(store))


# --- keys -------------------------------------------------------------------------------------------------------------------------------

CODE = '"""Module."""\n\n\ndef f(x):\n    """Twice."""\n    return 2 * x  # doubled\n'


@pytest.mark.parametrize(
    ("after", "same"),
    [
        (CODE.replace("# doubled", "# two times"), True),
        (CODE.replace("Twice.", "Two times."), True),
        (CODE.replace('    """Twice."""\n', ""), True),
        (CODE.replace('"""Module."""', ""), True),
        (CODE.replace("\n\n\n", "\n\n\n\n\n"), True),
        (CODE.replace("2 * x", "3 * x"), False),
        (CODE.replace("def f", "def g"), False),
        (CODE + "f(1)\n", False),
    ],
)
def test_code_version_ignores_comments_and_docstrings_alone(tmp_path, after, same):
    path = tmp_path / "module.py"
    path.write_text(CODE)
    before = code_version([path])
    path.write_text(after)
    assert (code_version([path]) == before) == same


def test_key_depends_on_every_field_and_not_on_their_order(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(CODE)
    key = run_key({"seed": 1, "method": "ft"}, [path])
    assert len(key) == 16 and int(key, 16) >= 0
    assert run_key({"method": "ft", "seed": 1}, [path]) == key
    assert len({key, run_key({"seed": 2, "method": "ft"}, [path]), run_key({"seed": 1, "method": "ut"}, [path]), run_key({"seed": 1}, [path])}) == 4
    path.write_text(CODE.replace("2 *", "3 *"))
    assert run_key({"seed": 1, "method": "ft"}, [path]) != key
