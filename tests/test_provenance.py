import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import torch

import rtl_utils
from rtl_utils import provenance as module
from rtl_utils.experiments import frame, run
from rtl_utils.exports import write_rows
from rtl_utils.folders import checkout
from rtl_utils.provenance import FIELDS, processor, provenance, revision
from rtl_utils.runs import Run
from rtl_utils.store import FINAL, Store
from rtl_utils.training import Sgd

SGD = Sgd(epochs=1, batch_size=1_000)
RUNS = [
    Run("synthetic", "source", "target", method, 0, width="plain", taus=(1.0,), sgd=SGD)
    for method in ("ft", "scratch")
]


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=checkout(), capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs a git checkout")
    return done.stdout.strip()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def test_record_has_every_field_and_no_other():
    made = provenance("cpu", threads=1, seconds=1.23456)
    assert tuple(made) == FIELDS
    assert made["device"] == "cpu"
    assert made["threads"] == 1
    assert made["seconds"] == 1.235


def test_record_names_the_versions_and_the_moment():
    made = provenance("cpu", threads=1, seconds=0)
    assert made["python"] == platform.python_version()
    assert made["torch"] == torch.__version__
    when = datetime.fromisoformat(made["date"])
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)


def test_package_version_is_that_of_the_code_that_runs():
    assert provenance("cpu", threads=1, seconds=0)["package"] == rtl_utils.__version__


def test_commit_is_the_checkouts_head():
    assert provenance("cpu", threads=1, seconds=0)["commit"] == git("rev-parse", "HEAD")


def test_clean_says_whether_the_package_is_unchanged():
    changed = git("status", "--porcelain", "--", "rtl_utils")
    revision.cache_clear()
    assert revision() == (git("rev-parse", "HEAD"), not changed)


@pytest.fixture
def package_in_a_checkout(tmp_path):
    """A copy of the module in a git checkout of its own."""
    folder = tmp_path / "copy" / "rtl_utils"
    folder.mkdir(parents=True)
    shutil.copy(module.__file__, folder / "provenance.py")
    (folder / "__init__.py").write_text("__version__ = '0'\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=folder.parent, check=True, capture_output=True)
    return folder


def revision_of(folder, **environment):
    code = "from rtl_utils.provenance import revision; print(*revision())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=folder.parent.parent,
        env=os.environ | {"PYTHONPATH": str(folder.parent)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.kernel
def test_changed_or_new_file_of_the_package_is_not_clean(package_in_a_checkout):
    commit, clean = revision_of(package_in_a_checkout)
    assert clean == "True"
    (package_in_a_checkout.parent / "notes.txt").write_text("no part of the package")
    assert revision_of(package_in_a_checkout) == [commit, "True"]
    (package_in_a_checkout / "new.py").write_text("")
    assert revision_of(package_in_a_checkout) == [commit, "False"]
    (package_in_a_checkout / "new.py").unlink()
    (package_in_a_checkout / "__init__.py").write_text("__version__ = '1'\n")
    assert revision_of(package_in_a_checkout) == [commit, "False"]


@pytest.mark.kernel
@pytest.mark.parametrize("without", ["a checkout", "git"])
def test_outside_a_checkout_there_is_no_commit(package_in_a_checkout, without, tmp_path):
    if without == "git":
        assert revision_of(package_in_a_checkout, PATH=str(tmp_path)) == ["None", "None"]
        return
    shutil.rmtree(package_in_a_checkout.parent / ".git")
    ceiling = str(package_in_a_checkout.parent.parent)
    found = revision_of(package_in_a_checkout, GIT_CEILING_DIRECTORIES=ceiling)
    assert found == ["None", "None"]


def test_processor_is_named():
    assert processor("cpu")
    assert processor("cpu") == processor("cpu").strip()


@pytest.mark.slow
def test_every_stored_run_has_every_field(store):
    rows = run(RUNS, store)
    assert set(FIELDS) <= set(rows.columns)
    for name in FIELDS:
        if name not in ("commit", "clean"):
            assert rows[name].notna().all(), name
    assert set(rows.device) == {"cpu"}
    assert set(rows.threads) == {1}
    assert (rows.seconds > 0).all()
    assert set(rows.commit) == {git("rev-parse", "HEAD")}
    per_run = rows.groupby("run")[list(FIELDS)].nunique()
    assert (per_run == 1).all(axis=None)


def test_rows_found_again_keep_the_provenance_of_their_training(store):
    first = run(RUNS, store)
    pd.testing.assert_frame_equal(run(RUNS, store), first)
    pd.testing.assert_frame_equal(frame(RUNS, Store(store.folder)), first)


def test_export_carries_the_provenance(store, tmp_path):
    rows = run(RUNS, store)
    path = tmp_path / "out.csv"
    write_rows(RUNS, store, path)
    read = pd.read_csv(path)
    assert set(FIELDS) <= set(read.columns)
    stored = rows[rows.epoch == FINAL].drop_duplicates("run").set_index("run")
    for found in read.drop_duplicates("run").itertuples():
        for name in ("commit", "date", "torch", "package", "processor"):
            assert getattr(found, name) == stored.loc[found.run, name]


def test_exported_table_names_no_path_of_this_machine(store, tmp_path):
    run(RUNS, store)
    path = tmp_path / "out.csv"
    write_rows(RUNS, store, path)
    text = path.read_text()
    for folder in (tmp_path, Path.home(), checkout()):
        assert str(folder) not in text
