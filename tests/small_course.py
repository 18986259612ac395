"""The course's notebooks and what makes them quick, for the tests that execute them."""

import nbformat

from rtl_utils import headless

NOTEBOOKS = {path.stem: path for path in headless.find()}
SOLUTIONS = headless.solutions()
SMALL = {"seeds": [0], "epochs": 5}
SMOKE = {
    "00_the_idea": {"n_train": 10},
    "01_synthetic_task": {"source_epochs": 2},
    "02_lime_probing": {"source_epochs": 2, "points": 4},
    "03_cifar_baselines": {"n_train": 10},
    "04_tennis_ball_bias": {"n_train": [5, 10]},
    "05_ut_vs_ft": {"n_train": 10, "methods": ["ct", "iso"]},
    "06_coupled_transfer": {"n_train": 50, "iterations": 2},
    "07_task_distance": {"n_train": 50, "iterations": 2},
    "08_which_method": {"n_train": 50, "methods": ["ut", "counter"]},
    "09_a_path_that_passes": {"n_train": 20},
}
ON_TABLES = ("01_synthetic_task", "02_lime_probing")
ON_IMAGES = [name for name in SMOKE if name not in ON_TABLES]
WITHOUT_EXERCISES = ("00_the_idea",)
STORES_NOTHING = ("00_the_idea",)
# 20 images are a step also where a fifth of the 25 is held out
SHORT = {"epochs": 2, "taus": [0, 1], "batch_size": 20}
SHORT_ONES = {name: {"n_train": 5} for name in ON_IMAGES} | {
    "04_tennis_ball_bias": {"n_train": [5, 10]},  # it compares sizes
    "06_coupled_transfer": {"n_train": 5, "iterations": 1},
    "07_task_distance": {"n_train": 5, "iterations": 1},
}
# the least that `check` accepts, and pairs and seeds that no figure expects
LEAST = {
    "epochs": 1,
    "taus": [1],
    "n_train": 5,
    "batch_size": 5,
    "source": ["digits-0-4", "digits-5-9"],
    "target": ["digits-5-9", "digits-0-4"],
    "seeds": [4, 2],
    "ball_class": None,
}
# as quick on images of three colours
REAL = {
    "dataset": "cifar100",
    "source": "carnivores",
    "target": "vehicles-1",
    "epochs": 1,
    "taus": [1],
    "n_train": 2,
    "batch_size": 5,
    "seeds": [1],
}


def cells(path, kind=None):
    """The cells of one type, or all."""
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if kind in (None, cell.cell_type)]


def printed(path):
    outputs = [output for cell in cells(path, "code") for output in cell.outputs]
    return "".join(o.get("text", "") for o in outputs if o.output_type == "stream")


def smoke(name, **changes):
    return SMALL | SMOKE[name] | changes


def short(name, **changes):
    """Parameters for a test that asks whether a notebook runs, whatever comes out."""
    return smoke(name, **SHORT | SHORT_ONES.get(name, {}) | changes)
