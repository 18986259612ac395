"""The YAML files of the course's sweeps: what they ask for, and the notebook that trains it."""

import csv
import json
import math
from collections import Counter
from dataclasses import asdict, replace

import nbformat
import pandas as pd
import pytest

from rtl_utils import cli, declared, grid, headless, paper
from rtl_utils.data import DATASETS, Shortcut
from rtl_utils.folders import root
from rtl_utils.methods import METHODS
from rtl_utils.models import NETWORKS
from rtl_utils.runs import tasks
from rtl_utils.settings import Tried, validate
from rtl_utils.store import FINAL, Store
from rtl_utils.training import Sgd

SWEEPS = {path.stem: path for path in sorted((root() / "sweeps").glob("*.yaml"))}
CLAIMS = ("table1", "table3", "salman")
ON_DIGITS = ("digits", "digits-methods", "digits-frozen", "digits-map")
ON_DIGITS += ("digits-refit", "digits-shortcuts")
PAPER = ("table1", "table3", "salman", "stuck", "images", "synthetic", "task-distances")
TRAININGS = root() / "sweeps" / "trainings.ipynb"
DEFAULTS = headless.default_parameters(TRAININGS)
BASICS = ("scratch", "ft", "fixed", "ut")
FT_UT = ("ft", "ut")
LABELS = ["run", "method", "source_shortcut", "target_shortcut", "n_train", "epochs", "lr"]
LABELS += ["source_epochs", "width", "seed", "metric", "value"]
STEPS = 800  # of 20 epochs of all the digits' images


@pytest.fixture(scope="module")
def asked():
    """Runs that the trainings of a sweep ask for, one list per seed; its tasks are validated."""
    tried = Tried()
    found = {}

    def runs(name, seed=None):
        if name not in found:
            found[name] = {}
            for task in grid.read(SWEEPS[name]).tasks:
                for run in validate(DEFAULTS | task.parameters, tried=tried).trainings():
                    found[name].setdefault(run.seed, []).append(run)
        return found[name] if seed is None else found[name][seed]

    return runs


def labels(rows):
    """How often each label stands in the rows."""
    return Counter(rows[LABELS].fillna("none").itertuples(index=False, name=None))


def dataset_of(task):
    return (headless.default_parameters(task.notebook) | task.parameters)["dataset"]


def test_sweeps_of_the_papers_claims_and_of_the_pages_are_there():
    published = {path.parent.name for path in (root() / "results").glob("*/manifest.json")}
    assert {*PAPER, *ON_DIGITS} <= set(SWEEPS)
    assert published <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_can_be_read(name):
    sweep = grid.read(SWEEPS[name])
    assert sweep.name == name and sweep.title != name
    assert len({task.name for task in sweep.tasks}) == len(sweep.tasks)
    assert {dataset_of(task) for task in sweep.tasks} < set(DATASETS)


def test_every_parameter_set_of_the_synthetic_sweep_is_accepted():
    tasks = grid.read(SWEEPS["synthetic"]).tasks
    seeds = {seed for task in tasks for seed in task.parameters["seeds"]}
    assert seeds == set(range(20))
    grid.check(tasks)


@pytest.mark.slow
def test_parameter_sets_of_the_cifar_sweeps_are_accepted(real_cifar100):
    some = []
    for path in SWEEPS.values():
        tasks = grid.read(path).tasks
        if dataset_of(tasks[0]) == "cifar100":
            some += tasks[:: -(-len(tasks) // 6)]  # up to six of each, from all over the sweep
    grid.check(some)


@pytest.mark.parametrize("name", [*CLAIMS, "images"])
def test_whole_seeds_finish_one_after_the_other_over_all_pairs(name):
    tasks = grid.read(SWEEPS[name]).tasks
    seeds = [task.parameters["seeds"] for task in tasks]
    assert seeds == sorted(seeds) and {seed for one in seeds for seed in one} == set(range(10))
    for task in tasks:
        given = task.parameters
        assert given.get("source_epochs", given["epochs"]) == 50 and given["width"] == "small"
        rate = given.get("source_lr", given["lr"])
        assert (given["batch_size"], rate, given["momentum"]) == (16, 0.01, 0.9)
    pairs = Counter((task.parameters["source"], task.parameters["target"]) for task in tasks)
    assert set(pairs) == set(paper.TABLES) and len(set(pairs.values())) == 1


@pytest.mark.parametrize("name", ON_DIGITS)
def test_rows_of_the_digits_are_those_that_the_sweep_asks_for(asked, name):
    files = sorted((root() / "results" / name).glob("seed-*.csv"))
    assert files
    for file in files:
        runs = asked(name, int(file.stem.removeprefix("seed-")))
        wanted = {run.key for run in runs}
        wanted |= {run.backbone().key for run in runs if run.needs_backbone}
        with file.open() as lines:
            stored = {row["run"] for row in csv.DictReader(lines)}
        manifest = json.loads((file.parent / "manifest.json").read_text())
        diverged = {run["run"] for run in manifest.get("diverged", [])}  # these have no rows
        assert not stored & diverged and stored == wanted - diverged


@pytest.mark.parametrize("name", [*ON_DIGITS, *CLAIMS])
def test_rows_are_published_with_every_label_that_the_sweep_asks_for(name, tmp_path, capsys):
    """Runs that share a key too, such as `before` with and without equal steps; nothing trains.

    No task was executed, there are no weights, and CIFAR-100's images are not needed.
    """
    published = pd.read_csv(root() / "results" / name / "seed-0.csv", dtype={"run": str})
    store = Store(tmp_path / "store")
    values = {
        key: dict(zip(run.metric, run.value, strict=True)) for key, run in published.groupby("run")
    }
    sweep = grid.read(SWEEPS[name])
    first = [task for task in sweep.tasks if task.parameters["seeds"] == [0]]
    for run in declared.runs(first):
        rows = [(metric, FINAL, value) for metric, value in values.get(run.key, {}).items()]
        store.save(run.key, asdict(run), rows, message=None if rows else "it diverged")
    folder = tmp_path / name
    assert cli.main(["results", str(folder), "--sweep", name, "--out", str(store.folder)]) == 0
    rest = sorted({seed for task in sweep.tasks for seed in task.parameters["seeds"]} - {0})
    said = f"rtl: {name} is not finished for seeds {', '.join(map(str, rest))}\n"
    assert capsys.readouterr().err == (said if rest else "")
    assert [path.name for path in folder.glob("*.csv")] == ["seed-0.csv"]
    again = pd.read_csv(folder / "seed-0.csv", dtype={"run": str})
    assert labels(again) == labels(published)
    if name in CLAIMS:  # which notebooks of the course asked for, once
        assert set(again.run) == {run.key for run in declared.runs(first)}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == f"rtl train {name}" and manifest["note"] == sweep.note


def test_digits_have_the_runs_of_the_notebooks(asked):
    runs = asked("digits", 0)
    at_test = [run for run in runs if not run.target_shortcut]
    for biased in (True, False):
        mine = [run for run in at_test if bool(run.source_shortcut) == biased]
        sizes = {(run.n_train, run.sgd.epochs) for run in mine}
        assert sizes == {(20, 20), (20, 114), (None, 20)}
        methods = {"before", *BASICS} | ({"ut-mixture"} if biased else set())
        assert Counter(run.method for run in mine) == dict.fromkeys(methods, 3)
    assert {run.source_shortcut for run in runs} == {None, Shortcut(classes=("4",))}
    assert {run.target_shortcut for run in runs} == {None, Shortcut()}
    marked = {(run.sgd.lr, run.sgd.epochs) for run in runs if run.target_shortcut}
    assert marked == {(0.01, 20), (0.001, 20), (0.01, 4)}
    assert all(run.source_sgd == Sgd(epochs=20) for run in runs)
    later = asked("digits", 10)
    same_epochs = {run for run in at_test if run.sgd.epochs == 20}
    assert {replace(run, seed=0) for run in later if not run.target_shortcut} == same_epochs
    frozen = {run.key for run in asked("digits-frozen", 10)}
    assert {run.key for run in later if run.target_shortcut} <= frozen


def test_few_images_are_trained_for_as_many_steps_as_all(asked):
    runs = [*asked("digits", 0), *asked("digits-methods", 0)]
    longer = {(run.n_train, run.sgd.epochs) for run in runs if run.sgd.epochs > 20}
    assert longer == {(20, 114), (50, 50)}
    _, whole = tasks(next(run for run in runs if run.n_train is None))
    for examples, epochs in (
        *((5 * n_train, epochs) for n_train, epochs in longer),
        (len(whole.y_train), 20),
    ):
        assert epochs * math.ceil(examples / 16) == pytest.approx(STEPS, abs=3)


@pytest.mark.parametrize("name", ["digits", "digits-methods"])
def test_what_fine_tuning_inherits_has_its_clean_reference_in_every_setting(asked, name):
    at_test = [run for run in asked(name, 0) if not run.target_shortcut]
    biased = {run for run in at_test if run.source_shortcut}
    clean = set(at_test) - biased
    assert clean >= {
        replace(run, source_shortcut=None)
        for run in biased
        if run.method in ("scratch", "ft", "ut")
    }
    assert clean <= {replace(run, source_shortcut=None) for run in biased}
    assert not any(METHODS[run.method].needs_knowledge for run in clean)
    # one ball is tested, whatever the source carries
    for run in biased:
        assert replace(run, source_shortcut=None).test == run.test


def test_sweeps_over_methods_hold_every_method(asked):
    published = {run.method for run in asked("digits-methods", 0)}
    own = {run.method for run in asked("digits-refit", 0)}
    assert published | own == set(METHODS)
    assert published & own == {"scratch", "ft"}  # the references of both


def test_map_freezes_no_statistics_that_are_not_there(asked):
    runs = asked("digits-map", 0)
    for run in runs:
        record = METHODS[run.method]
        assert record.statistics == "updated" or NETWORKS[run.width].batchnorm
        assert run.source_sgd == Sgd(epochs=20)
    widths = {run.width for run in runs}
    assert {width for width in widths if width.endswith("plain")}
    for width in widths:
        rates = {m: {r.sgd.lr for r in runs if (r.method, r.width) == (m, width)} for m in FT_UT}
        assert rates["ft"] == rates["ut"] == {run.sgd.lr for run in runs}


def test_trainings_are_a_lean_notebook():
    cells = nbformat.read(TRAININGS, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert len(cells) <= 10 and all(cell.outputs == [] for cell in code)
    lines = [line for cell in code for line in cell.source.splitlines()]
    assert max(map(len, lines)) <= 88
    assert all("  # " in line for line in code[0].source.splitlines())


@pytest.mark.kernel
@pytest.mark.slow
def test_trainings_train_what_their_parameters_ask_for(tmp_path):
    asked = {
        "methods": ["before", "counter", "ft"],
        "source_ball": False,
        "target_ball": True,
        "epochs": 1,
        "taus": [1],
        "n_train": 5,
        "batch_size": 5,
        "width": [2, 2, 2, 2],
    }
    out = {"out": str(tmp_path / "store")}
    executed = headless.execute(TRAININGS, asked | out, tmp_path / "executed")
    settings = validate(DEFAULTS | asked)
    wanted = settings.trainings()
    assert [run.method for run in wanted] == ["before", "ft"]  # no ball is to be known
    from rtl_utils.store import Store

    stored = Store(tmp_path / "store").specs()
    assert set(stored) == {run.key for run in wanted} | {wanted[0].backbone().key}
    assert "All checks passed." in executed.read_text()
