"""What a batch survives: kills, signals, full disks, a database that goes away, company."""

import os
import random
import shutil
import signal
import subprocess
import time

import pandas as pd
import psutil
import pytest
import small_batch
from small_batch import MADE, executed, rows_of, rtl, start
from small_notebooks import descendants, lives, printed, wait_for

from rtl_utils.store import Store

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def assert_nothing_is_left(processes):
    wait_for(lambda: not any(lives(p) for p in processes), seconds=15)
    assert [p for p in processes if lives(p)] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_within_seconds_and_says_how_to_carry_on(number, tmp_path):
    sweep = small_batch.write(tmp_path, "time.sleep(600)", grid={"seeds": [0, 1]})
    out = tmp_path / "store"
    process = start("batch", sweep, "--out", out, start_new_session=True)
    assert wait_for(lambda: len(Store(out).tasks(status="running")) == 2)
    time.sleep(3)
    left = descendants(process.pid)
    began = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == "rtl: stopped; the same command carries on where it stopped"
    assert "Traceback" not in said
    assert_nothing_is_left(left)
    assert "2 stopped" in rtl("runs", "--out", out).stdout


def test_kills_at_random_moments_lose_and_double_nothing(batch_rows, tmp_path):
    draw = random.Random(0)
    sweep = small_batch.write(tmp_path)
    out = tmp_path / "store"
    for _ in range(4):
        process = start("batch", sweep, "--out", out, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(2, 9))
        family = [psutil.Process(process.pid), *descendants(process.pid)]
        victim = draw.choice(family)
        victim.kill()
        time.sleep(0.5)
        process.kill()
        process.communicate()
        assert_nothing_is_left(family)
    done = rtl("batch", sweep, "--out", out, "--retry-failed")
    assert done.returncode == 0, done.stderr
    assert sorted(executed(out)) == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(rows_of(out), batch_rows)
    assert not list((out / "weights").glob("*.partial"))


def test_a_killed_worker_or_kernel_is_replaced(batch_rows, tmp_path):
    sweep = small_batch.write(tmp_path, "time.sleep(2)")
    out = tmp_path / "store"
    process = start("batch", sweep, "--out", out)
    assert wait_for(lambda: len(Store(out).tasks(status="running")) == 2)
    worker = next(p for p in descendants(process.pid) if "spawn_main" in " ".join(p.cmdline()))
    worker.kill()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    pd.testing.assert_frame_equal(rows_of(out), batch_rows)


# Disks and databases


def test_a_full_disk_stops_with_a_sentence_and_the_same_command_carries_on(
    small_disk, batch_rows, tmp_path
):
    sweep = small_batch.write(tmp_path)
    out = small_disk("-o", "remount,size=1m")
    stopped = rtl("batch", sweep, "--out", out)
    assert stopped.returncode in (1, 2)
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("rtl: ") and "the disk is full" in last
    assert "Traceback" not in stopped.stderr
    assert not list(out.rglob("*.partial"))
    small_disk("-o", "remount,size=200m")
    done = rtl("batch", sweep, "--out", out, "--retry-failed")
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(rows_of(out), batch_rows)


def test_a_finished_store_on_a_read_only_disk_can_be_read(
    finished_batch, small_disk, batch_rows, tmp_path
):
    sweep, out, _ = finished_batch
    there = small_disk("-o", "remount,size=200m") / "store"
    shutil.copytree(out, there)
    small_disk("-o", "remount,ro")
    again = rtl("batch", sweep, "--out", there)
    assert again.returncode == 0, again.stderr
    assert "4 of 4 runs done" in again.stdout
    assert "4 runs: 4 done" in rtl("runs", "--out", there).stdout
    assert rtl("results", tmp_path / "rows.csv", "--out", there).returncode == 0
    rows = pd.read_csv(tmp_path / "rows.csv", dtype={"run": str}).drop(columns=MADE)
    pd.testing.assert_frame_equal(rows, batch_rows)
    (more := tmp_path / "more").mkdir()
    refused = rtl("batch", small_batch.write(more, name="more"), "--out", there)
    assert refused.returncode == 2
    assert "read" in refused.stderr.splitlines()[-1] and "Traceback" not in refused.stderr


def test_a_database_that_goes_away_in_the_middle_costs_nothing(postgres, batch_rows, tmp_path):
    sweep = small_batch.write(tmp_path, "time.sleep(1)")
    out = tmp_path / "store"
    process = start("batch", sweep, "--out", out, "--store", postgres.url)
    store = Store(out, postgres.url)
    assert wait_for(lambda: store.tasks(status="done"))
    postgres.stop()
    time.sleep(3)
    postgres.start()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert not (out / "results.db").exists()
    pd.testing.assert_frame_equal(rows_of(out, "--store", postgres.url), batch_rows)


# Company


def test_two_batches_of_one_sweep_share_the_work(batch_rows, tmp_path):
    log = tmp_path / "log"
    mark = f"open({str(log)!r}, 'a').write(f'{{seeds[0]}}\\n'); time.sleep(1)"
    sweep = small_batch.write(tmp_path, mark)
    out = tmp_path / "store"
    both = [start("batch", sweep, "--out", out, "--workers", "1") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("4 of 4 runs done, 0 failed" in text for text, _ in said)
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3"]  # each was executed once
    pd.testing.assert_frame_equal(rows_of(out), batch_rows)


def test_a_backbone_that_tasks_share_is_trained_once_and_each_sees_gpus_of_its_own(tmp_path):
    # the rate of the transfers differs; that of the backbone does not
    train = (
        "from dataclasses import replace\nfrom rtl_utils.training import Sgd\n"
        "settings = replace(settings, source_sgd=Sgd(epochs=1, batch_size=5))\n"
    )
    grid = {"seeds": [0], "lr": [0.01, 0.02]}
    train += small_batch.TRAIN
    sweep = small_batch.write(tmp_path, "time.sleep(2)", grid=grid, train=train)
    four = {"CUDA_VISIBLE_DEVICES": "3,5,6,7"}
    out = tmp_path / "store"
    done = rtl("batch", sweep, "--out", out, "--gpus-per-run", "2", environment=four)
    assert done.returncode == 0, done.stderr
    seen = {printed(path).split()[-1] for path in (out / "batch" / "small").glob("*.ipynb")}
    assert seen == {"3,5", "6,7"}
    rows = rows_of(tmp_path / "store").drop_duplicates("run")
    assert rows.method.value_counts().to_dict() == {"scratch": 2, "ft": 2, "backbone": 1}
