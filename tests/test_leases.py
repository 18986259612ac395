"""Leases: of many processes one holds a name, and a dead one holds nothing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_notebooks import wait_for

from rtl_utils.store import Store, StoreError, _leases, _processes

NAMES = [f"run-{k}" for k in range(20)]


@pytest.fixture
def store(database, tmp_path):
    return Store(tmp_path / "out", database)


def again(store):
    """The same store as another process opens it."""
    return Store(store.folder, store.url)


def test_what_one_holds_nobody_else_gets_until_its_end(store):
    other = again(store)
    with store.lease(["a", "b"]) as held:
        assert held == {"a", "b"}
        with other.lease(["b", "c"]) as rest:
            assert rest == {"c"}
        with store.lease(["a"]) as twice:  # another thread of the same process
            assert twice == set()
        assert other.leased(["a", "b", "c", "d"]).keys() == {"a", "b"}
        assert f"process {os.getpid()}" in other.leased(["a"])["a"]
    assert other.leased(["a", "b"]) == {}
    with other.lease(["a", "b"]) as held:
        assert held == {"a", "b"}


def test_error_releases_what_was_held(store):
    with pytest.raises(KeyError), store.lease(["a"]):
        raise KeyError
    assert again(store).leased(["a"]) == {}


def test_no_names_no_lease(store):
    with store.lease([]) as held:
        assert held == set()
    assert store.leased([]) == {}


def test_more_names_than_one_query_may_name(store):
    names = [f"run-{k}" for k in range(1_100)]
    with store.lease(names) as held:
        assert held == set(names)
        assert set(again(store).leased(names)) == set(names)


def test_heartbeat_lives_only_while_something_is_held(store, monkeypatch):
    monkeypatch.setattr(_leases, "BEAT", 0.05)
    before = set(threading.enumerate())

    def beats():
        with store.engine.connect() as connection:
            return connection.exec_driver_sql("SELECT beat FROM leases").scalars().all()

    with store.lease(["a"]), store.lease(["b"]):
        first = beats()
        assert wait_for(lambda: min(beats()) > max(first))
        assert len(set(threading.enumerate()) - before) == 1
    assert wait_for(lambda: set(threading.enumerate()) == before)


def far_away(store, name, age):
    """Let a process on another machine hold a name, whose last sign of life is some seconds old."""
    clock = store._database.clock
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO leases (name, holder, host, place, process, started, beat) "
            f"VALUES ('{name}', 'h', 'far', 'far away', {os.getpid()}, '', {clock} - {age})"
        )


def test_holder_on_another_machine_is_dead_when_its_signs_of_life_end(store):
    far_away(store, "living", 50)
    far_away(store, "dead", 70)
    assert store.leased(["living", "dead"]) == {"living": f"far, process {os.getpid()}"}
    with store.lease(["living", "dead"]) as held:
        assert held == {"dead"}


def test_lease_that_another_took_over_is_not_released_by_the_first(store):
    """The first was suspended for long: it neither renews nor ends what is another's now."""
    with store.lease(["a"]), store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE leases SET holder = 'other', process = 1, place = 'far'")
    assert "process 1" in store.leased(["a"])["a"]


def test_process_of_the_same_number_that_started_later_is_another(store):
    with store.lease(["a"]):
        with store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE leases SET started = '1'")
        with again(store).lease(["a"]) as held:
            assert held == {"a"}


HOLDER = """
import sys, time
from rtl_utils.store import Store
folder, url, *names = sys.argv[1:]
with Store(folder, url or None).lease(names) as held:
    print(*sorted(held), flush=True)
    sys.stdin.read()
"""


def holder(store, *names):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.folder), store.url or "", *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.kernel
def test_killed_holder_holds_nothing_even_as_a_zombie(store):
    with holder(store, "a") as process:
        assert process.stdout.readline() == "a\n"
        with store.lease(["a"]) as held:
            assert held == set()
        process.send_signal(signal.SIGSTOP)  # it lives
        assert store.leased(["a"])
        process.kill()
        assert wait_for(lambda: not store.leased(["a"]), seconds=5)  # nobody has waited for it
        with store.lease(["a"]) as held:
            assert held == {"a"}


def race(folder, url, start, results):
    store = Store(folder, url)
    start.wait()
    with store.lease(NAMES) as held:
        results.put(held)
        start.wait()


@pytest.mark.slow
@pytest.mark.kernel
def test_of_eight_processes_exactly_one_gets_each_name(store):
    context = multiprocessing.get_context("fork")  # without importing torch again
    start, results = context.Barrier(8, timeout=120), context.Queue()
    racers = [
        context.Process(target=race, args=(store.folder, store.url, start, results))
        for _ in range(8)
    ]
    for process in racers:
        process.start()
    held = [results.get(timeout=120) for _ in racers]
    for process in racers:
        process.join(60)
    assert sorted(name for part in held for name in part) == sorted(NAMES)
    assert store.leased(NAMES) == {}


@pytest.mark.kernel
def test_forked_child_neither_holds_nor_releases(tmp_path):
    store = Store(tmp_path)
    with store.lease(["a"]):
        lease = store.lease(["b"])
        lease.__enter__()
        child = os.fork()
        if child == 0:
            lease.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert store.leased(["a", "b"]).keys() == {"a", "b"}
        lease.__exit__(None, None, None)
    assert store.leased(["a", "b"]) == {}


def test_this_process_lives_and_one_that_never_was_does_not():
    me = _processes.this()
    assert _processes.lives(me)
    assert _processes.lives(me._replace(number=2**22 + 1)) is False
    assert _processes.lives(me._replace(place="far away")) is None


def test_store_that_can_be_read_only_gives_no_lease(tmp_path):
    store = Store(tmp_path)
    store.read_only = True
    with pytest.raises(StoreError, match="can be read only"), store.lease(["a"]):
        time.sleep(0)
