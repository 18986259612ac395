"""The long runs: what a sweep holds, what it writes, and that nothing is trained twice."""

import json
import math
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from rtl_utils import experiments, folders, tables
from rtl_utils.data import Shortcut
from rtl_utils.experiments import Run
from rtl_utils.methods import METHODS
from rtl_utils.models import NETWORKS
from rtl_utils.runs import tasks
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
        sharing = {}
        for run in found.runs(0):
            sharing.setdefault(run.key, []).append(run)
        assert all(len(set(runs)) == len(runs) for runs in sharing.values()), name  # none twice
        # from scratch no source is read, and without steps of SGD their number is not
        methods = {runs[0].method for runs in sharing.values() if len(runs) > 1}
        assert methods <= {"scratch", "before", "fixed"}, name
        assert {run.seed for run in found.runs(3)} == {3}


def test_sweeps_over_methods_hold_every_method(sweep):
    for name in ("digits-methods", "cifar-methods", "cifar-pairs"):
        assert {run.method for run in sweep.SWEEPS[name].runs(0)} == set(METHODS)


def test_digits_have_the_runs_of_the_notebooks(sweep):
    runs = sweep.digits(0)
    at_test = [run for run in runs if not run.target_shortcut]
    for biased in (True, False):
        mine = [run for run in at_test if bool(run.source_shortcut) == biased]
        sizes = {(run.n_train, run.sgd.epochs) for run in mine}
        assert sizes == {(20, 20), (20, 114), (None, 20)}
        methods = {"before", *sweep.BASICS} | ({"ut-mixture"} if biased else set())
        assert Counter(run.method for run in mine) == dict.fromkeys(methods, 3)
    assert {run.source_shortcut for run in runs} == {None, Shortcut(classes=("4",))}
    assert {run.target_shortcut for run in runs} == {None, Shortcut()}
    marked = {(run.sgd.lr, run.sgd.epochs) for run in runs if run.target_shortcut}
    assert marked == {(0.01, 20), (0.001, 20), (0.01, 4)}
    assert all(run.source_sgd == Sgd(epochs=20) for run in runs)
    later = sweep.digits(10)
    same_epochs = [run for run in at_test if run.sgd.epochs == 20]
    assert [replace(run, seed=0) for run in later if not run.target_shortcut] == same_epochs
    frozen = {run.key for run in sweep.digits_frozen(10)}
    assert {run.key for run in later if run.target_shortcut} <= frozen


def test_few_images_are_trained_for_as_many_steps_as_all(sweep):
    runs = [*sweep.digits(0), *sweep.digits_methods(0)]
    longer = {(run.n_train, run.sgd.epochs) for run in runs if run.sgd.epochs > 20}
    assert longer == {(20, 114), (50, 50)}
    _, whole = tasks(next(run for run in runs if run.n_train is None))
    for examples, epochs in (
        *((5 * n_train, epochs) for n_train, epochs in longer),
        (len(whole.y_train), 20),
    ):
        assert epochs * math.ceil(examples / 16) == pytest.approx(sweep.STEPS, abs=3)


@pytest.mark.parametrize("name", ["digits", "digits-methods", "cifar-methods", "cifar-pairs"])
def test_what_fine_tuning_inherits_has_its_clean_reference_in_every_setting(sweep, name):
    at_test = [run for run in sweep.SWEEPS[name].runs(0) if not run.target_shortcut]
    biased = {run for run in at_test if run.source_shortcut}
    clean = set(at_test) - biased
    assert {run for run in at_test if run.method in ("scratch", "ft", "ut")} >= {
        replace(run, source_shortcut=None)
        for run in biased
        if run.method in ("scratch", "ft", "ut")
    }
    assert clean <= {replace(run, source_shortcut=None) for run in biased}
    assert not any(METHODS[run.method].needs_knowledge for run in clean)
    # one ball is tested, whatever the source carries
    for run in biased:
        assert replace(run, source_shortcut=None).test == run.test


def test_maps_freeze_no_statistics_that_are_not_there(sweep):
    for runs in (sweep.digits_map(0), sweep.cifar_map(0)):
        for run in runs:
            record = METHODS[run.method]
            assert record.statistics == "updated" or NETWORKS[run.width].batchnorm
            assert run.source_sgd == Sgd(epochs=20)
        widths = {run.width for run in runs}
        assert {width for width in widths if width.endswith("plain")}
        for width in widths:
            rates = {
                m: {r.sgd.lr for r in runs if (r.method, r.width) == (m, width)} for m in FT_UT
            }
            assert rates["ft"] == rates["ut"] == {run.sgd.lr for run in runs}


FT_UT = ("ft", "ut")


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
