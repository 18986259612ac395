import ast
import hashlib
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sqlalchemy import event

from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS, PATCHES, Shortcut
from rtl_utils.experiments import frame, network, run
from rtl_utils.folders import checkout
from rtl_utils.methods import METHODS
from rtl_utils.migration import CODE, Migrated, migrate
from rtl_utils.models import NETWORKS, build
from rtl_utils.paths import BLENDS
from rtl_utils.runs import Run, reads, tasks
from rtl_utils.schedules import SCHEDULES
from rtl_utils.store import FINAL, Store
from rtl_utils.training import Sgd

OLD_CODE, OLD_COMMIT = next(iter(CODE.items()))
DIGITS = DATASETS["digits"]  # of today
# the record of a run as commit 52f0bda stored it
OLD = {
    "dataset": "digits",
    "source": "digits-0-4",
    "target": "digits-5-9",
    "method": "ft",
    "seed": 0,
    "source_ball": "4",
    "target_ball": False,
    "n_train": 30,
    "head": "shared",
    "width": [4, 4, 4, 4],
    "taus": [0.0, 1.0],
    "sgd": {
        "lr": 0.01,
        "epochs": 2,
        "batch_size": 50,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "l1": 0.0,
        "l2_sp": 0.0,
        "cosine": False,
    },
    "source_sgd": None,
    "coupled": {
        "iterations": 4,
        "block": None,
        "blocks": None,
        "partitions": 10,
        "smoothing": 0.05,
    },
    "partitions": None,
}
OLD_BACKBONE = OLD | {"target": None, "method": "backbone", "n_train": None, "taus": [1.0]}
# the same runs today
FT = Run(
    "digits",
    "digits-0-4",
    "digits-5-9",
    "ft",
    0,
    source_shortcut=Shortcut(classes=("4",)),
    n_train=30,
    width=(4, 4, 4, 4),
    taus=(0.0, 1.0),
    sgd=Sgd(epochs=2, batch_size=50),
)
ROWS = [
    ("tau", 0, 1.0),
    ("length", 0, 0.5),
    ("length", 1, 0.75),
    ("weight_length", FINAL, 0.75),
    ("val_accuracy", FINAL, 0.5),
]
RENAMED = sorted(("weight_length" if name == "length" else name, *rest) for name, *rest in ROWS)


def old_key(spec, code=OLD_CODE):
    """The key that the code of that time made: a hash of the record and of the source text."""
    hashed = dict(spec)
    if spec["method"] != "ct-iterated":
        hashed["coupled"] = OLD["coupled"]
    text = json.dumps([hashed, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class OldStore:
    """A store as commit 52f0bda made it."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "weights").mkdir(parents=True)
        self.do(
            "CREATE TABLE runs (run VARCHAR(16) NOT NULL, status VARCHAR(16) NOT NULL, "
            "message VARCHAR, spec JSON NOT NULL, PRIMARY KEY (run))"
        )
        self.do(
            "CREATE TABLE results (run VARCHAR(16) NOT NULL, metric VARCHAR(40) NOT NULL, "
            "epoch INTEGER NOT NULL, value FLOAT, PRIMARY KEY (run, metric, epoch))"
        )

    def add(self, spec, net=None, code=OLD_CODE, message=None):
        """Store a run of that time; returns its key."""
        key = old_key(spec, code)
        status = "diverged" if message else "done"
        self.do("INSERT INTO runs VALUES (?, ?, ?, ?)", key, status, message, json.dumps(spec))
        for row in ROWS:
            self.do("INSERT INTO results VALUES (?, ?, ?, ?)", key, *row)
        if net is not None:
            torch.save(net.state_dict(), self.folder / "weights" / f"{key}.pt")
        return key

    def open(self):
        """The same folder as today's store."""
        return Store(self.folder)

    def do(self, statement, *values):
        """Execute SQL on the database as it is."""
        connection = sqlite3.connect(self.folder / "results.db")
        with connection:
            connection.execute(statement, values)
        connection.close()


@pytest.fixture
def old(tmp_path, monkeypatch):
    """An earlier store, beside the digits of that time: theirs have changed since."""
    monkeypatch.setitem(DATASETS, "digits", replace(DIGITS, version=1))
    return OldStore(tmp_path / "out")


def kept(store, key):
    rows = store.values([key])
    return sorted(zip(rows.metric, rows.epoch, rows.value, strict=True))


def net_of(wanted, seed=7):
    """A network of a run's shape whose weights no training makes."""
    _, target = tasks(wanted)
    return build(target, wanted.width, seed)


# --- runs that are found again ---


def test_earlier_runs_are_found_again_and_not_trained(old):
    backbone, ft = net_of(FT.backbone(), 1), net_of(FT, 2)
    old.add(OLD_BACKBONE, backbone)
    old.add(OLD, ft)
    times = {path.stat().st_mtime_ns for path in (old.folder / "weights").iterdir()}
    store = old.open()
    with pytest.warns(UserWarning, match="2 were given today.s keys; 0 were left alone"):
        rows = run([FT], store)
    assert sorted(zip(rows.metric, rows.epoch, rows.value, strict=True)) == RENAMED
    weights = {path.name: path.stat().st_mtime_ns for path in (old.folder / "weights").iterdir()}
    assert weights.keys() == {f"{FT.key}.pt", f"{FT.backbone().key}.pt"}
    assert set(weights.values()) == times
    for wanted, net in ((FT, ft), (FT.backbone(), backbone)):
        found = network(wanted, store).state_dict()
        assert all(torch.equal(value, found[name]) for name, value in net.state_dict().items())


def test_store_says_once_what_it_found(old):
    old.add(OLD_BACKBONE, net_of(FT.backbone()))
    old.add(OLD, net_of(FT))
    store = old.open()
    with pytest.warns(UserWarning, match="holds runs of an earlier version"):
        run([FT], store)
    run([FT], store)  # warnings are errors here
    run([FT], old.open())


def test_found_run_is_stored_as_if_it_were_made_today(old):
    old.add(OLD)
    store = old.open()
    assert migrate(store) == Migrated(found=1, old=0)
    assert store.status([FT.key]) == {FT.key: ("done", None)}
    assert Run.of(store.specs()[FT.key]) == FT
    (stored,) = set(frame([FT], store).commit)
    assert stored == OLD_COMMIT
    with store.engine.connect() as connection:
        (found,) = connection.exec_driver_sql("SELECT reads FROM runs").scalars().all()
    assert json.loads(found) == json.loads(json.dumps(reads(FT)))


def test_second_migration_has_nothing_left_to_do(old):
    old.add(OLD)
    store = old.open()
    migrate(store)
    assert migrate(store) == Migrated(found=0, old=0)
    assert kept(store, FT.key) == RENAMED


@pytest.mark.parametrize("code", CODE)
def test_every_known_code_proves_the_commit_of_its_runs(old, code):
    old.add(OLD, code=code)
    store = old.open()
    assert migrate(store) == Migrated(found=1, old=0)
    assert set(store.values([FT.key]).commit) == {CODE[code]}


def test_provenance_that_was_stored_is_kept(old):
    """Commit 9c67935 stored the provenance, with the keys of that time."""
    key = old.add(OLD)
    old.do("ALTER TABLE runs ADD COLUMN provenance JSON")
    old.do("UPDATE runs SET provenance = ? WHERE run = ?", json.dumps({"commit": "stored"}), key)
    store = old.open()
    migrate(store)
    assert set(store.values([FT.key]).commit) == {"stored"}


TRANSLATED = {
    "ball on the target": ({"target_ball": True}, {"target_shortcut": Shortcut()}),
    "frozen statistics": ({"method": "ft-still"}, {"method": "ft-frozen"}),
    "updated statistics": ({"method": "fixed-moving"}, {"method": "fixed-updated"}),
    "a grid": ({"method": "ut"}, {"method": "ut"}),
    "all images": ({"n_train": None}, {"n_train": None}),
    "two heads": ({"head": "disjoint"}, {"head": "disjoint"}),
    "partitions": ({"method": "ut", "partitions": 2}, {"method": "ut", "partitions": 2}),
    "named width": ({"width": "small"}, {"width": "small"}),
    "another backbone": (
        {"source_sgd": OLD["sgd"] | {"lr": 0.5}},
        {"source_sgd": Sgd(lr=0.5, epochs=2, batch_size=50)},
    ),
    "iterated": (
        {"method": "ct-iterated", "coupled": OLD["coupled"] | {"blocks": 2}},
        {"method": "ct-iterated", "coupled": Coupled(blocks=2)},
    ),
    "coupled where nothing is": ({"coupled": OLD["coupled"] | {"blocks": 2}}, {}),
}


@pytest.mark.parametrize("name", TRANSLATED)
def test_record_of_that_time_is_todays_run(old, name):
    then, now = TRANSLATED[name]
    old.add(OLD | then)
    store = old.open()
    assert migrate(store) == Migrated(found=1, old=0)
    assert kept(store, replace(FT, **now).key) == RENAMED


def test_backbone_of_that_time_is_todays_backbone(old):
    old.add(OLD_BACKBONE)
    store = old.open()
    assert migrate(store) == Migrated(found=1, old=0)
    assert kept(store, FT.backbone().key) == RENAMED


def test_run_that_diverged_then_has_diverged_today(old):
    old.add(OLD, message="the loss is not finite")
    store = old.open()
    assert migrate(store) == Migrated(found=1, old=0)
    assert store.status([FT.key]) == {FT.key: ("diverged", "the loss is not finite")}


# --- runs that are left alone ---


def assert_left_alone(old, key):
    store = old.open()
    before = store.specs()
    assert migrate(store) == Migrated(found=0, old=1)
    assert store.specs() == before
    assert kept(store, key) == sorted(ROWS)


@pytest.mark.parametrize("code", ["0" * 64, next(iter(CODE))[:-1]], ids=["another", "cut"])
def test_run_of_unknown_code_is_left_alone_and_counted(old, code):
    assert_left_alone(old, old.add(OLD, code=code))


def test_unknown_runs_are_counted_in_the_warning_and_what_is_wanted_is_trained(old):
    key = old.add(OLD | {"method": "scratch"}, code="0" * 64)
    store = old.open()
    scratch = replace(FT, method="scratch")
    with pytest.warns(UserWarning, match="0 were given today.s keys; 1 were left alone"):
        rows = run([scratch], store)
    assert set(rows.run) == {scratch.key}
    assert len(rows) > len(ROWS)
    assert kept(store, key) == sorted(ROWS)


def test_run_whose_key_does_not_fit_its_record_is_left_alone(old):
    key = old.add(OLD)
    old.do("UPDATE runs SET spec = ?", json.dumps(OLD | {"seed": 1}))
    assert_left_alone(old, key)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (METHODS, "ut"),
        (DATASETS, "digits"),
        (NETWORKS, "small"),
        (BLENDS, "mixup"),
        (SCHEDULES, "grid"),
        (SCHEDULES, "constant"),  # of its backbone
        (PATCHES, "ball"),
    ],
    ids=["method", "data set", "network", "blend", "schedule", "backbone's schedule", "patch"],
)
def test_run_whose_version_was_raised_since_is_left_alone(old, table, name, monkeypatch):
    monkeypatch.setitem(table, name, replace(table[name], version=2))
    assert_left_alone(old, old.add(OLD | {"method": "ut"}))


def test_digits_of_that_time_are_not_todays(old, monkeypatch):
    """Their clutter was drawn from validation images too."""
    monkeypatch.setitem(DATASETS, "digits", DIGITS)
    assert_left_alone(old, old.add(OLD))


@pytest.mark.parametrize("method", ["fixed", "lp-ft", "wise-ft", "l2-sp", "iso"])
def test_method_whose_numbers_have_changed_since_is_left_alone(old, method):
    assert_left_alone(old, old.add(OLD | {"method": method}))


def test_riemannian_length_of_that_time_was_another(old):
    assert_left_alone(old, old.add(OLD | {"partitions": 2}))


@pytest.mark.parametrize("spec", [OLD, OLD_BACKBONE], ids=["transfer", "backbone"])
def test_clean_source_of_that_time_lacks_the_test_of_the_shortcut(old, spec):
    """It was measured after a biased source alone, so the run has to be trained again."""
    assert_left_alone(old, old.add(spec | {"source_ball": None}))


def test_run_that_does_not_use_what_was_raised_is_found(old, monkeypatch):
    for table, name in ((METHODS, "ft"), (BLENDS, "mixture"), (PATCHES, "mark")):
        monkeypatch.setitem(table, name, replace(table[name], version=2))
    old.add(OLD | {"method": "ut"})
    assert migrate(old.open()) == Migrated(found=1, old=0)


def test_run_from_a_backbone_whose_version_was_raised_since_is_left_alone(old, monkeypatch):
    monkeypatch.setattr("rtl_utils.training.VERSION", 2)
    assert_left_alone(old, old.add(OLD))


TURNED_ROUND = {
    "dataset": "synthetic",
    "source": "target",
    "target": "source",
    "source_ball": None,
    "n_train": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lora"},
        {"dataset": "mnist"},
        {"width": "huge"},
        {"head": "split"},
        {"sgd": {"speed": 1}},
        {"sgd": OLD["sgd"] | {"lr": 1e39}},
        {"target": "dogs"},
        {"source_ball": "kangaroo"},
        TURNED_ROUND,
    ],
    ids=str,
)
def test_record_that_says_nothing_today_is_left_alone(old, change):
    assert_left_alone(old, old.add(OLD | change))


def test_size_that_was_ignored_then_and_counts_today_is_left_alone(old):
    """Until version 0.2 the synthetic task had 2,000 samples whatever n_train said."""
    table = {"dataset": "synthetic", "source": "source", "target": "target", "width": "plain"}
    assert_left_alone(old, old.add(OLD | table | {"source_ball": None, "n_train": 100}))


def test_of_two_earlier_runs_that_are_one_today_the_first_is_taken(old):
    """From scratch, the backbone's settings were part of the key and decided no number."""
    scratch = replace(FT, method="scratch")
    nets = [net_of(scratch, seed) for seed in (1, 2)]
    first = old.add(OLD | {"method": "scratch"}, nets[0])
    second = old.add(OLD | {"method": "scratch", "source_sgd": OLD["sgd"] | {"lr": 0.5}}, nets[1])
    store = old.open()
    assert migrate(store) == Migrated(found=1, old=1)
    assert store.specs().keys() == {scratch.key, second}
    assert kept(store, scratch.key) == RENAMED
    assert kept(store, second) == sorted(ROWS)
    weights = {path.stem for path in (old.folder / "weights").iterdir()}
    assert weights == {scratch.key, second}
    assert first not in weights
    found = network(scratch, store).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in nets[0].state_dict().items())
    assert migrate(store) == Migrated(found=0, old=1)


def test_run_that_was_made_today_too_is_not_replaced(old):
    key = old.add(OLD)
    store = old.open()
    store.save(FT.key, {"method": "ft"}, [("val_loss", 0, 1.0)])
    assert migrate(store) == Migrated(found=0, old=1)
    assert kept(store, FT.key) == [("val_loss", 0, 1.0)]
    assert kept(store, key) == sorted(ROWS)


def test_store_of_today_has_nothing_to_migrate(tmp_path):
    store = Store(tmp_path / "out")
    assert migrate(store) == Migrated(0, 0)
    store.save(FT.key, {"method": "ft"}, ROWS)
    assert migrate(store) == Migrated(0, 0)
    assert kept(store, FT.key) == sorted(ROWS)


@pytest.mark.parametrize("when", ["before", "after"])
def test_migration_that_was_interrupted_goes_on_where_it_stopped(old, when, monkeypatch):
    """Between the move of the weights and the change of the rows, or before both."""
    old.add(OLD, net_of(FT))
    store = old.open()

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "before":
            patch.setattr(store, "adopt", interrupted)
        else:
            event.listen(store.engine, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            migrate(store)
        if when == "after":
            event.remove(store.engine, "commit", interrupted)
    assert migrate(store) == Migrated(found=1, old=0)
    assert kept(store, FT.key) == RENAMED
    assert set(store.values([FT.key]).commit) == {OLD_COMMIT}
    assert store.has_weights(FT.key)


def test_two_processes_may_migrate_one_store_at_once(old, monkeypatch):
    """The second has read the records before the first changed them."""
    old.add(OLD, net_of(FT))
    first, second = old.open(), old.open()
    stale = second.specs()
    migrate(first)
    monkeypatch.setattr(second, "specs", lambda: stale)
    migrate(second)
    assert kept(second, FT.key) == RENAMED
    assert second.has_weights(FT.key)


# --- what proves the code ---

MODULES = [
    "randomness",
    "tasks",
    "spurious",
    "models",
    "couplings",
    "paths",
    "lengths",
    "populations",
    "workers",
    "training",
    "coupled",
    "methods",
    "probing",
    "experiments",
]


def without_docstrings(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="ast.dump differs between versions")
@pytest.mark.parametrize("code", CODE)
def test_known_codes_are_the_source_texts_of_their_commits(code):
    digest = hashlib.sha256()
    for name in sorted(MODULES):
        shown = subprocess.run(
            ["git", "show", f"{CODE[code]}:rtl_utils/{name}.py"],
            cwd=checkout(),
            capture_output=True,
            text=True,
        )
        if shown.returncode:
            pytest.skip("needs the project's history")
        digest.update(without_docstrings(shown.stdout).encode())
    assert digest.hexdigest() == code
