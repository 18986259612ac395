"""`rtl batch` as a user calls it: real kernels, real trainings, real clusters."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import small_batch
from small_batch import MADE, assert_complete, executed, rows_of, rtl, start
from small_notebooks import printed, wait_for

from rtl_utils import batch, cli, grid, launchers
from rtl_utils.cli._batch import _estimate, _summary
from rtl_utils.store import Store

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


# What a batch leaves


def test_every_task_becomes_a_notebook_and_its_rows(finished_batch, batch_rows):
    _, out, done = finished_batch
    assert done.returncode == 0, done.stderr
    assert "small: 4 of 4 runs done, 0 failed" in done.stdout
    assert sorted(executed(out)) == [0, 1, 2, 3]
    assert_complete(batch_rows, range(4))
    for path in executed(out).values():
        assert printed(path).splitlines()[-1].split()[0] == "1"  # the cores of a task


def test_a_finished_batch_is_skipped_and_its_runs_are_listed(finished_batch):
    sweep, out, _ = finished_batch
    before = {path: path.stat().st_mtime_ns for path in executed(out).values()}
    again = rtl("batch", sweep, "--out", out)
    assert again.returncode == 0
    assert "4 runs: 4 done, 0 to do" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in executed(out).values()} == before
    listed = rtl("runs", "--out", out, "--status", "done", "--sweep", "small").stdout
    assert listed.count("small  ") == 4
    assert "4 runs: 4 done" in listed
    assert rtl("runs", "--out", out, "--status", "failed").stdout == "0 runs\n"


def test_results_are_tidy_files_with_provenance(finished_batch, batch_rows, tmp_path):
    _, out, _ = finished_batch
    assert rtl("results", tmp_path / "rows.parquet", "--out", out).returncode == 0
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    assert {*MADE, "processor", "threads", "torch"} <= set(rows)
    assert sorted(rows.run) == sorted(batch_rows.run)
    assert rtl("results", tmp_path / "small", "--sweep", "small", "--out", out).returncode == 0
    manifest = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert manifest["runs_per_seed"] == {str(seed): 3 for seed in range(4)}
    assert len(list((tmp_path / "small").glob("seed-*.csv"))) == 4


def test_what_was_deleted_is_made_again_and_nothing_else(finished_batch, batch_rows, tmp_path):
    sweep, out, _ = finished_batch
    executed(out)[2].unlink()
    again = rtl("batch", sweep, "--out", out)
    assert "3 done, 1 to do; about" in again.stderr  # an estimate, as others were executed
    assert again.returncode == 0
    assert sorted(executed(out)) == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(rows_of(out), batch_rows)


def test_a_damaged_run_is_named_and_its_task_is_executed_again(
    finished_batch, batch_rows, tmp_path
):
    sweep, out, _ = finished_batch
    damaged = tmp_path / "store"
    shutil.copytree(out, damaged)
    with sqlite3.connect(damaged / "results.db") as database:
        (run,) = database.execute("SELECT run FROM results WHERE metric = 'flip_rate'").fetchone()
        database.execute("UPDATE results SET value = 0.123 WHERE run = ?", [run])
    database.close()
    told = rtl("results", tmp_path / "rows.csv", "--out", damaged)
    assert f"1 run is damaged and left out ({run})" in told.stderr
    again = rtl("batch", sweep, "--out", damaged)
    assert again.returncode == 0, again.stderr
    assert f"1 run is damaged and left out ({run})" in again.stderr
    assert "3 done, 1 to do" in again.stderr
    pd.testing.assert_frame_equal(rows_of(damaged), batch_rows)


# Parameters


def test_a_wrong_value_in_the_last_set_stops_everything_before_any_kernel(tmp_path):
    sweep = small_batch.write(tmp_path, grid={"seeds": [0, 1], "lr": [0.01, -1]})
    refused = rtl("batch", sweep, "--out", tmp_path / "store")
    assert refused.returncode == 2
    assert "lr must be a number, positive; got -1" in refused.stderr
    assert not (tmp_path / "store" / "batch").exists()


def test_a_dry_run_says_what_would_be_done(tmp_path):
    sweep = small_batch.write(tmp_path, grid={"seeds": [0, 1, 2]})
    said = rtl("batch", sweep, "--out", tmp_path / "store", "--dry-run", "--limit", "2")
    assert said.returncode == 0
    assert said.stdout.count("to do: ") == 2
    assert "3 runs: 0 done, 2 to do, 1 left for later by --limit" in said.stderr
    assert not (tmp_path / "store" / "batch").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--launcher-option", "queue", "a", "--launcher-option", "queue", "b"],
            "--launcher-option 'queue' is given twice",
        ),
        (["--launcher", "torque"], "--launcher must be one of local, slurm"),
        (["--cores-per-run", "999"], "--cores-per-run must be at most"),
        (["--device", "tpu"], "device must be"),
        (["--device", "cuda:64"], "device 'cuda:64' is not there"),
        (
            ["--device", "cuda:2", "--gpus-per-run", "2", "--launcher", "slurm"],
            "device 'cuda:2' is not among the 2 of --gpus-per-run",
        ),
        (["--gpus-per-run", "99"], "GPUs asked for: 99 for each of 1 runs at once; this"),
        (["--timeout", "soon"], "must be a time, positive, such as 90"),
        (["--limit", "0"], "must be a whole number, 1 or more; got '0'"),
        (["--store", "runs"], "--store must be the URL of a database"),
        (["--scheduler", "tcp://127.0.0.1:9", "--workers", "2"], "with --scheduler the workers"),
    ],
)
def test_wrong_options_are_one_sentence(options, said, tmp_path, capsys):
    sweep = str(small_batch.write(tmp_path))
    assert cli.main(["batch", sweep, "--out", str(tmp_path / "store"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rtl: ") and said in line
    assert not (tmp_path / "store").exists()


# Failures


def test_a_failed_run_is_named_the_others_go_on_and_it_can_be_retried(tmp_path):
    odd = "if seeds[0] % 2:\n    raise ValueError('no luck')"
    sweep = small_batch.write(tmp_path, odd, grid={"seeds": [0, 1, 3]})
    out = tmp_path / "store"
    done = rtl("batch", sweep, "--out", out)
    assert done.returncode == 1
    assert "1 of 3 runs done, 2 failed" in done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("rtl: ")]
    assert len(said) == 2
    for line in said:
        assert "ValueError: no luck" in line
        (kept,) = re.findall(r"its cells so far: (.*\.ipynb)\)", line)
        assert os.path.exists(kept)
    again = rtl("batch", sweep, "--out", out, "--dry-run")
    assert "1 done, 2 failed earlier (--retry-failed executes them again), 0 to do" in again.stderr
    assert rtl("runs", "--out", out, "--status", "failed").stdout.count("no luck") == 2
    retried = rtl("batch", sweep, "--out", out, "--retry-failed")
    assert "1 done, 2 to do" in retried.stderr
    assert retried.returncode == 1


def test_a_run_past_its_time_is_ended_and_marked(tmp_path):
    sweep = small_batch.write(tmp_path, "time.sleep(600)", grid={"seeds": [0]})
    done = rtl("batch", sweep, "--out", tmp_path / "store", "--timeout", "12s")
    assert done.returncode == 1
    assert re.search(r"timeout: in cell \[\d\]: it ran longer than 12 s", done.stderr)
    assert "1 timeout" in rtl("runs", "--out", tmp_path / "store").stdout


# Where tasks run


def test_a_kernel_of_a_batch_keeps_memory_as_any_other_kernel_does(tmp_path):
    # Dask's workers have a variable that makes a training in their kernels almost twice as long
    looks = "assert not [name for name in os.environ if name.startswith('MALLOC_')], os.environ"
    sweep = small_batch.write(tmp_path, f"import os\n{looks}", grid={"seeds": [0]})
    done = rtl("batch", sweep, "--out", tmp_path / "store")
    assert "1 of 1 run done" in done.stdout, done.stderr


def test_a_scheduler_that_runs_already_and_one_that_dies(tmp_path):
    sweep = small_batch.write(tmp_path, "time.sleep(seeds[0])", grid={"seeds": [0, 600]})
    out = tmp_path / "store"
    file = tmp_path / "scheduler.json"
    tools = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    tools += ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
    worker += ["--nthreads", "1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, **quiet) for command in (tools, worker)]
    try:
        assert wait_for(file.exists)
        address = json.loads(file.read_text())["address"]
        process = start("batch", sweep, "--out", out, "--scheduler", address)
        assert wait_for(lambda: Store(out).tasks(status="done"))
        assert wait_for(lambda: Store(out).tasks(status="running"))
        processes[0].kill()
        _, said = process.communicate(timeout=60)
    finally:
        for one in processes:
            one.kill()
            one.wait()
    assert process.returncode == 2
    assert "rtl: the connection to the scheduler is lost; finished runs are kept" in said
    assert "Traceback" not in said


def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr(batch, "_CONNECT", 1.0)
    options = batch.Options(scheduler="tcp://127.0.0.1:9")
    with (
        pytest.raises(ValueError, match=r"'tcp://127.0.0.1:9' does not answer .* `dask scheduler`"),
        batch._client(options),
    ):
        pass


def test_slurm_jobs_execute_tasks(tmp_path, monkeypatch):
    """With a stand-in for sbatch that runs the job's script here."""
    tools = tmp_path / "bin"
    tools.mkdir()
    job = tmp_path / "job.sh"  # sbatch keeps a copy of the script, which is then removed
    script = f'cp "$1" "{job}"; (setsid sh "{job}" >/dev/null 2>&1 &)\necho "Submitted batch job 7"'
    for name, text in {"sbatch": script, "scancel": "true"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    sweep = small_batch.write(tmp_path, grid={"seeds": [0]})
    options = [("queue", "long"), ("walltime", "01:00:00"), ("interface", "lo")]
    given = [word for pair in options for word in ("--launcher-option", *pair)]
    done = rtl("batch", sweep, "--out", tmp_path / "store", "--launcher", "slurm", *given)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 run done" in done.stdout
    asked = job.read_text()
    for line in ("-p long", "-t 01:00:00", "--cpus-per-task=1"):
        assert f"#SBATCH {line}\n" in asked


def test_a_launcher_of_ones_own_is_a_file_with_a_function_and_says_how_far_it_is(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(
        "from rtl_utils import launchers\n"
        "def launch(request):\n    return launchers.local(request._replace(workers=1))\n"
    )
    training = (
        "from rtl_utils.progress import track\n"
        "for _ in track(range(100), 'transfers', 'runs'): time.sleep(0.1)"
    )
    sweep = small_batch.write(tmp_path, training, grid={"seeds": [0]})
    done = rtl("batch", sweep, "--out", tmp_path / "store", "--launcher", own)
    assert "1 of 1 run done" in done.stdout
    assert re.search(r"small: 0 of 1 run \(0:\d\d\)", done.stderr)
    assert re.search(
        r"  09-seeds=0 \(.*worker 0\): cell \d of 7, transfers \d+/100 runs", done.stderr
    ), done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def start(request): pass", "must define a function `launch(request)`"),
        ("def launch(request) return", "cannot be run as a launcher (SyntaxError"),
        ("def launch(request): raise OSError('no queue')", "could not start (OSError: no queue)"),
        ("def launch(request): return 3", "must return a Dask cluster; got 3"),
    ],
)
def test_a_launcher_that_cannot_start_is_one_sentence(text, said, tmp_path, monkeypatch):
    own = tmp_path / "mine.py"
    own.write_text(text + "\n")
    with pytest.raises(ValueError, match=re.escape(said)):
        launchers.start(str(own), launchers.Request())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="calls sbatch, which is not on this machine"):
        launchers.start("slurm", launchers.Request())


def test_a_plan_asks_for_nothing_that_is_done(finished_batch):
    sweep, out, _ = finished_batch
    plan = batch.plan(grid.read(sweep), out, Store(out))
    assert len(plan.done) == 4 and not plan.waiting and not plan.failed
    assert plan.seconds > 0


def test_the_time_on_a_cluster_elsewhere_does_not_depend_on_this_machine(finished_batch):
    sweep, out, _ = finished_batch
    plan = batch.plan(grid.read(sweep), out, Store(out))
    large = launchers.Request(cores=999, gpus=9)
    options = batch.Options(request=large, scheduler="tcp://127.0.0.1:9")
    assert "of one worker's time" in _estimate(replace(plan, waiting=plan.done), options)


@pytest.mark.parametrize(
    ("visible", "gpus"), [("-1", []), ("0,-1,2", ["0"]), ("", []), ("GPU-a,1", ["GPU-a", "1"])]
)
def test_gpus_are_those_that_cuda_sees(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launchers._gpus() == gpus


def test_every_failure_is_counted_also_those_that_are_not_named(finished_batch, capsys):
    sweep, out, _ = finished_batch
    store = Store(out)
    plan = batch.plan(grid.read(sweep), out, store)
    (record,) = store.tasks(keys=[plan.done[0].key])
    failed = [(plan.done[0], record._replace(status="failed", message="no luck"))] * 25
    assert _summary(replace(plan, failed=failed), {}, store) == 1
    said = capsys.readouterr()
    assert said.err.count("no luck") == 20
    assert "5 more: `rtl runs --sweep small` lists them" in said.err
    assert "25 failed" in said.out
