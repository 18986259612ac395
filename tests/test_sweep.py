"""The long runs: what a sweep holds, what it writes, and that nothing is trained twice."""

import json

import pandas as pd
import pytest

from rtl_utils import experiments, folders, tables
from rtl_utils.data import Shortcut
from rtl_utils.experiments import Run
from rtl_utils.methods import METHODS
from rtl_utils.training import Sgd


@pytest.fixture
def sweep(monkeypatch):
    """The script as a module."""
    root = folders.checkout()
    assert root is not None
    monkeypatch.syspath_prepend(root / "sweeps")
    import sweep

    return sweep


@pytest.fixture
def tiny(sweep, tmp_path, monkeypatch):
    """A sweep of two short trainings in an empty checkout; returns its main function."""

    def runs(seed):
        asked = {"n_train": 5, "sgd": Sgd(epochs=1), "source_shortcut": Shortcut(classes=("4",))}
        return [Run("digits", *sweep.DIGITS, method, seed, **asked) for method in ("scratch", "ft")]

    monkeypatch.setattr(folders, "checkout", lambda: tmp_path)
    monkeypatch.setattr(sweep, "SWEEPS", {"tiny": sweep.Sweep(runs, 1)})
    return sweep.main


def test_every_run_of_a_sweep_is_valid_and_its_key_is_known(sweep):
    for name, found in sweep.SWEEPS.items():
        runs = found.runs(0)
        assert len({run.key for run in runs}) >= len(runs) - 2, name  # scratch reads no source
        assert {run.seed for run in found.runs(3)} == {3}


def test_sweeps_over_methods_hold_every_method(sweep):
    for name in ("digits-methods", "cifar-methods", "cifar-pairs"):
        assert {run.method for run in sweep.SWEEPS[name].runs(0)} == set(METHODS)


def test_digits_have_the_runs_of_the_notebooks(sweep):
    runs = sweep.digits(0)
    at_test = [run for run in runs if run.source_shortcut and not run.target_shortcut]
    assert {run.n_train for run in at_test} == {20, None}
    assert len(at_test) == 10
    assert len(runs) == 10 + 4 + 4 + 3
    assert {run.source_shortcut for run in runs} == {None, Shortcut(classes=("4",))}
    assert {run.target_shortcut for run in runs} == {None, Shortcut()}
    assert {(run.sgd.lr, run.sgd.epochs) for run in runs} == {(0.01, 20), (0.001, 20), (0.01, 4)}
    assert all(run.source_sgd == Sgd(epochs=20) for run in runs)
    assert sweep.digits(10) == [run for run in sweep.digits(10) if not run.target_shortcut]


@pytest.mark.slow
def test_a_sweep_writes_its_rows_and_what_made_them(tiny, tmp_path, monkeypatch):
    out = str(tmp_path / "store")
    assert tiny(["tiny", "--out", out, "--export-only"]) == 3  # two runs and a backbone
    assert not (tmp_path / "results" / "tiny").exists()
    assert tiny(["tiny", "--out", out, "--seeds", "1", "0"]) == 0
    rows = tables.stored("tiny")
    assert sorted(set(rows.seed)) == [0, 1]
    assert set(rows.method) == {"backbone", "scratch", "ft"}
    said = json.loads((tmp_path / "results" / "tiny" / "manifest.json").read_text())
    assert said["runs_per_seed"] == {"0": 3, "1": 3}
    assert "sweeps/sweep.py tiny" in said["command"]
    assert said["cores"]
    assert tables.mixed(rows) is None

    def nothing(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiments, "run", nothing)
    assert tiny(["tiny", "--out", out, "--seeds", "1", "--export-only", "--note", "twice"]) == 0
    assert tables.stored_manifest("tiny")["note"] == "twice"


@pytest.mark.slow
def test_values_do_not_depend_on_the_order_of_training(tiny, sweep, tmp_path, monkeypatch):
    path = tmp_path / "results" / "tiny" / "seed-0.csv"
    tiny(["tiny", "--out", str(tmp_path / "one")])
    first = pd.read_csv(path)
    runs = sweep.SWEEPS["tiny"].runs
    backwards = sweep.Sweep(lambda seed: runs(seed)[::-1], 1)
    monkeypatch.setattr(sweep, "SWEEPS", {"tiny": backwards})
    tiny(["tiny", "--out", str(tmp_path / "two")])
    made = ["date", "seconds"]
    pd.testing.assert_frame_equal(first.drop(columns=made), pd.read_csv(path).drop(columns=made))
