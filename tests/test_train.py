"""`rtl train`: sweeps whose parameters are their runs, trained without executing a notebook."""

import json
import signal

import pandas as pd
import pytest
import small_batch
import yaml
from small_notebooks import wait_for

from rtl_utils import cli, declared, grid
from rtl_utils.folders import root
from rtl_utils.runs import BACKBONE
from rtl_utils.store import Store

PARAMETERS = {"dataset": "digits", "epochs": 2, "taus": [0, 1], "n_train": 5, "batch_size": 5}
CASES = {
    "biased": {"methods": ["before", "scratch", "ft", "ut"]},
    "clean": {"source_ball": False, "methods": ["scratch", "ft"]},
}
PER_SEED = 7  # runs: from scratch no source is read, so both cases share that run
MADE = ["date", "seconds"]  # what differs from one training to the next


@pytest.fixture
def write(tmp_path):
    """Writes a sweep of `trainings.ipynb`, or of another notebook: its file."""

    def sweep(name="tiny", **changes):
        content = {
            "title": "A tiny sweep",
            "note": "What is compared.",
            "notebook": str(root() / "sweeps" / "trainings.ipynb"),
            "parameters": PARAMETERS,
            "grid": {"seeds": [0, 1]},
            "cases": CASES,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return path

    return sweep


@pytest.fixture
def rtl(tmp_path, capsys):
    """`rtl` in this process, on one store: status, stdout, and stderr without its bars."""

    def call(command, *arguments):
        status = cli.main([command, *map(str, arguments), "--out", str(tmp_path / "store")])
        out, err = capsys.readouterr()
        return status, out, [line for line in err.replace("\r", "\n").split("\n") if line.strip()]

    return call


def published(folder):
    """The rows of each seed, without what differs from one training to the next."""
    return {
        path.name: pd.read_csv(path, dtype=str).drop(columns=MADE).to_csv(index=False)
        for path in folder.glob("*.csv")
    }


@pytest.mark.kernel
@pytest.mark.slow
def test_trained_sweep_is_published_as_an_executed_one(write, tmp_path):
    sweep = write(grid={"seeds": [0]})
    for command, out in (("train", "here"), ("batch", "executed")):
        where = ("--out", tmp_path / out)
        done = small_batch.rtl(command, sweep, "--device", "cpu", *where)
        assert done.returncode == 0, done.stderr
        wanted = small_batch.rtl("results", tmp_path / command, "--sweep", sweep, *where)
        assert wanted.returncode == 0 and wanted.stderr == "", wanted.stderr
        rows = small_batch.rtl("results", tmp_path / f"{command}.csv", "--sweep", sweep, *where)
        assert rows.returncode == 0, rows.stderr
    assert published(tmp_path / "train") == published(tmp_path / "batch")
    assert set(published(tmp_path / "train")) == {"seed-0.csv"}
    files = [
        pd.read_csv(tmp_path / f"{name}.csv").drop(columns=MADE) for name in ("train", "batch")
    ]
    pd.testing.assert_frame_equal(*files)
    manifests = [
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("train", "batch")
    ]
    assert [said["command"] for said in manifests] == [
        f"rtl {c} {sweep}" for c in ("train", "batch")
    ]
    assert {said["note"] for said in manifests} == {"What is compared."}
    made = Store(tmp_path / "here")
    before = made.values(made.keys())
    after = small_batch.rtl("batch", sweep, "--device", "cpu", "--out", tmp_path / "here")
    assert after.returncode == 0 and "2 of 2 runs done" in after.stdout
    pd.testing.assert_frame_equal(made.values(made.keys()), before)  # with date and seconds


def test_second_call_trains_nothing_and_seeds_are_chosen(write, rtl, tmp_path):
    sweep, store = write(), Store(tmp_path / "store")
    status, out, err = rtl("train", sweep, "--seeds", "1", "--device", "cpu")
    assert (status, out) == (0, f"tiny: {PER_SEED} of {PER_SEED} runs done\n")
    assert f"tiny: {PER_SEED} runs: 0 stored, {PER_SEED} to train" in err
    assert {spec["seed"] for spec in store.specs().values()} == {1}
    folder = tmp_path / "results"
    status, out, err = rtl("results", folder, "--sweep", sweep)
    assert (status, err) == (0, ["rtl: tiny is not finished for seeds 0"])
    assert [path.name for path in folder.glob("*.csv")] == ["seed-1.csv"]
    status, out, err = rtl("train", sweep, "--seeds", "0-3", "--device", "cpu")
    assert f"tiny: {2 * PER_SEED} runs: {PER_SEED} stored, {PER_SEED} to train" in err
    before = store.values(store.keys())
    for path in (tmp_path / "store" / "weights").iterdir():
        path.unlink()  # rows are what is asked for, and what is published
    status, out, err = rtl("train", sweep)
    assert (status, out) == (0, f"tiny: {2 * PER_SEED} of {2 * PER_SEED} runs done\n")
    assert err[-1] == f"tiny: {2 * PER_SEED} runs: {2 * PER_SEED} stored, 0 to train"
    pd.testing.assert_frame_equal(store.values(store.keys()), before)
    assert rtl("results", folder, "--sweep", sweep)[::2] == (0, [])


def test_sweeps_are_trained_as_one_and_what_diverges_is_counted(write, rtl, tmp_path):
    tame = write("tame", cases={"tame": {"methods": ["ft"]}}, grid={"seeds": [0]})
    lost = {"methods": ["ft", "scratch"], "source_lr": 1e20}
    wild = {"methods": ["ft"], "lr": 1e20, "source_lr": 0.01}
    wild = write("wild", cases={"lost": lost, "wild": wild}, grid={"seeds": [0]})
    status, out, err = rtl("train", tame, wild, tame, "--device", "cpu")
    assert "tame, wild: 6 runs: 0 stored, 6 to train" in err
    assert (status, out) == (1, "tame, wild: 5 of 6 runs done, 2 of them diverged\n")
    said = [line for line in err if line.startswith("rtl: ")]
    assert [line.split(":")[1] for line in said[:2]] == [
        " backbone on digits-0-4, seed 0",
        " ft on digits-5-9, seed 0",
    ]
    assert said[2:] == ["rtl: 1 run cannot be trained, as the backbone diverged"]
    assert rtl("train", tame)[0] == 0
    # a run that diverged is finished, one that has no backbone is not
    folder = tmp_path / "results"
    assert rtl("results", folder, "--sweep", wild)[2] == ["rtl: wild is not finished for seeds 0"]
    only = write("wild", cases={"wild": CASES["clean"] | {"lr": 1e20, "source_lr": 0.01}})
    assert rtl("train", only, "--seeds", "0")[0] == 0
    assert rtl("results", folder, "--sweep", only)[2] == ["rtl: wild is not finished for seeds 1"]


def test_stopped_training_keeps_what_is_stored_and_carries_on(write, tmp_path):
    sweep, store = write(grid={"seeds": [*range(20)]}), tmp_path / "store"
    process = small_batch.start("train", sweep, "--out", store, "--device", "cpu")
    try:
        assert wait_for(lambda: (store / "results.db").is_file() and Store(store).keys())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "rtl: stopped; the same command carries on where it stopped"
    kept = Store(store)
    runs = declared.runs(grid.read(sweep).tasks)
    assert 0 < len(kept.status(run.key for run in runs)) < len({run.key for run in runs})


def test_other_notebooks_are_refused_in_one_sentence(write, rtl, tmp_path):
    sweep = write(notebook="05", cases={"one": {}})
    status, out, err = rtl("train", write("good"), sweep)
    assert (status, out) == (2, "")
    assert err == [
        "rtl: tiny has the notebook 05_ut_vs_ft.ipynb, whose runs are known when it is executed, "
        "as `rtl batch` does; `rtl train` takes sweeps of trainings.ipynb"
    ]
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["--seeds", "4-0"], "whole numbers and spans of them, such as 0-4,7; got '4-0'"),
        ({}, ["--seeds", "0,x"], "whole numbers and spans of them, such as 0-4,7; got '0,x'"),
        ({}, ["--seeds", ""], "whole numbers and spans of them, such as 0-4,7; got ''"),
        ({}, ["--seeds", "7-9"], "no run has a seed of --seeds; the seeds are [0, 1]"),
        ({}, ["--device", "abacus"], "device must be"),
        ({"cases": {"a": {"lr": 0}}}, [], "task trainings-a-seeds=0: lr must be"),
        ({"cases": {"a": {"partitions": 9}}}, [], "task trainings-a-seeds=0: partitions must"),
        ({"cases": {"a": {"device": ["cpu"]}}}, [], "device must be"),
    ],
)
def test_bad_input_stops_before_any_training(changes, options, message, write, rtl, tmp_path):
    status, out, err = rtl("train", write(**changes), *options)
    assert (status, out) == (2, "") and err[-1].startswith("rtl: ") and message in err[-1]
    assert not (tmp_path / "store").exists()


def test_declared_runs_are_those_of_the_notebook_with_their_backbones(write):
    tasks = grid.read(write()).tasks
    assert all(declared.is_declared(task) for task in tasks)
    runs = declared.runs(tasks)
    assert len({run.key for run in runs}) == 2 * PER_SEED and len(set(runs)) == len(runs)
    backbones = {run for run in runs if run.method == BACKBONE}
    assert backbones == {run.backbone() for run in runs if run.needs_backbone}
    # what the notebook says, word for word
    cells = json.loads(tasks[0].notebook.read_text())["cells"]
    source = "".join(line for cell in cells for line in cell["source"])
    assert "backbones = [run.backbone() for run in runs if run.needs_backbone]" in source
    assert "wanted = [*runs, *backbones]" in source
