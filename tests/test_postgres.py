"""PostgreSQL by URL: a real server that goes away, and many processes that write."""

import multiprocessing
import threading
import time

import pytest
from sqlalchemy.exc import SQLAlchemyError

from rtl_utils.store import FINAL, Store, StoreError, _server

pytestmark = pytest.mark.kernel

SPEC = {"method": "ft", "seed": 3, "taus": [0, 1]}
ROWS = [("val_loss", 0, 0.5), ("val_loss", 1, 0.25), ("val_accuracy", FINAL, float("nan"))]


def test_saves_go_on_after_the_server_was_away(postgres, tmp_path, capfd):
    store = Store(tmp_path, postgres.url)
    keys = [f"{k:016x}" for k in range(200)]
    half = threading.Event()
    errors = []

    def write():
        try:
            for k, key in enumerate(keys):
                store.save(key, SPEC | {"seed": k}, ROWS)
                if k == 60:
                    half.set()
        except BaseException as error:
            errors.append(error)
            half.set()

    writer = threading.Thread(target=write)
    writer.start()
    half.wait()
    postgres.stop()
    time.sleep(1)
    postgres.start()
    writer.join(60)
    assert not errors
    assert set(store.status(keys)) == set(keys)
    counted = store.values(keys).groupby("run").size()
    assert counted.to_dict() == dict.fromkeys(keys, len(ROWS))
    assert {key: spec["seed"] for key, spec in store.specs().items()} == {
        key: k for k, key in enumerate(keys)
    }
    says = capfd.readouterr().err
    assert says.count("waiting for the database at 127.0.0.1") == 1


def test_server_that_stays_away_is_named_without_its_password(postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(_server, "PATIENCE", 0.2)
    url = postgres.url.replace("postgres@", "postgres:secret@")
    store = Store(tmp_path, url)
    postgres.stop()
    for ask in (lambda: store.status(["k"]), lambda: store.save("k", SPEC, ROWS)):
        with pytest.raises(
            StoreError, match=r"the database at 127\.0\.0\.1:.* does not answer"
        ) as at:
            ask()
        assert "secret" not in str(at.value)
        assert "\n" not in str(at.value)
    with pytest.raises(StoreError, match="does not answer"):
        Store(tmp_path, url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "cannot be read; write it as postgresql"),
        ("mysql://u:secret@h/d", "must start with postgresql"),
        ("postgresql+nothing://u:secret@h/d", "must start with postgresql"),
        ("postgresql+psycopg://u:secret@h:port/d", "cannot be read; write it as postgresql"),
        ("postgresql+pg8000://u:secret@h/d", "needs the Python package 'pg8000'"),
    ],
)
def test_url_that_leads_nowhere_is_one_sentence_without_its_password(url, says, tmp_path):
    with pytest.raises(StoreError, match=says) as error:
        Store(tmp_path, url)
    assert "secret" not in str(error.value)


def test_unknown_database_is_refused_at_once(postgres, tmp_path):
    with pytest.raises(StoreError, match=r'refuses .*"nowhere" does not exist'):
        Store(tmp_path, postgres.address("nowhere"))


def test_text_that_postgres_cannot_hold_is_stored_without_it(postgres, tmp_path):
    store = Store(tmp_path, postgres.url)
    store.save("k", SPEC, [], message="it\0diverged")
    assert store.status(["k"]) == {"k": ("diverged", "it�diverged")}


def test_newer_schema_is_refused(postgres, tmp_path):
    store = Store(tmp_path, postgres.url)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE about SET value = '99'")
    with pytest.raises(StoreError, match=r"newer version .*99.*update rtl-utils"):
        Store(tmp_path, postgres.url)


def write_many(folder, url, writer, start):
    start.wait()  # all open a new store at once
    store = Store(folder, url)
    for run in range(250):
        key = f"{writer}-{run}" if run % 10 else "shared"
        store.save(key, SPEC | {"seed": run}, ROWS)


@pytest.mark.slow
def test_many_processes_lose_nothing(database, tmp_path):
    context = multiprocessing.get_context("fork")  # without importing torch again
    start = context.Barrier(4, timeout=120)
    writers = [
        context.Process(target=write_many, args=(tmp_path, database, writer, start))
        for writer in range(4)
    ]
    for process in writers:
        process.start()
    for process in writers:
        process.join(300)
    assert [process.exitcode for process in writers] == [0, 0, 0, 0]
    keys = [f"{writer}-{run}" for writer in range(4) for run in range(250) if run % 10]
    found = Store(tmp_path, database).values([*keys, "shared"]).groupby("run").size()
    assert found.to_dict() == dict.fromkeys([*keys, "shared"], len(ROWS))


def test_errors_of_the_library_do_not_come_through(postgres, tmp_path):
    store = Store(tmp_path, postgres.url)
    with pytest.raises(StoreError) as error:
        store.save("k", {"seed": float("nan")}, ROWS)
    assert not isinstance(error.value, SQLAlchemyError)
    assert store.status(["k"]) == {}
