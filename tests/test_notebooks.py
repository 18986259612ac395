"""Every notebook: its form, its outputs, and a real run through papermill and a kernel, on digits and on the real CIFAR-100."""

import ast
import os
import re

import nbformat
import papermill
import pytest

from rtl_utils import batch

NOTEBOOKS = {path.stem: path for path in batch.find()}
SOLUTIONS = sorted((batch.NOTEBOOKS / "solutions").glob("*.ipynb"))
SMALL = {"seeds": [0], "epochs": 5}
SMOKE = {
    "01_synthetic_task": {"source_epochs": 2},
    "02_lime_probing": {"source_epochs": 2, "points": 4},
    "03_cifar_baselines": {"n_train": 10},
    "04_tennis_ball_bias": {"n_train": [5, 10]},
    "05_ut_vs_ft": {"n_train": 10, "methods": ["ct", "iso"]},
    "06_task_distance": {"n_train": 50, "methods": ["ut", "counter"], "iterations": 2},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One store for all smoke runs, as a user has, so that backbones are shared."""
    return str(tmp_path_factory.mktemp("runs"))


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def printed(path):
    return "".join(output.get("text", "") for cell in cells(path, "code") for output in cell.outputs if output.output_type == "stream")


def test_there_are_six_notebooks_and_a_solution_for_each():
    assert list(NOTEBOOKS) == list(SMOKE) == [path.stem for path in SOLUTIONS]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_keeps_the_house_form(name):
    code, prose = cells(NOTEBOOKS[name], "code"), cells(NOTEBOOKS[name], "markdown")
    assert 25 <= len(code) + len(prose) <= 40
    assert max(len(cell.source.splitlines()) for cell in code) <= 15
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    for line, node in zip(parameters.source.splitlines(), ast.parse(parameters.source).body, strict=True):
        ast.literal_eval(node.value)
        assert "  # " in line, f"no comment on: {line}"
    assert "check(globals()" in code[1].source
    assert not any(re.search(r"\.backward\(|\.step\(\)", cell.source) for cell in code), "a training loop in a notebook"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs_are_current_and_clean(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    assert notebook.metadata.get("rtl", {}).get("executed_from") == batch.source_hash(notebook), "the code changed since: run `make refresh`"
    text = "".join(str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
    assert "All checks passed." in text
    assert "image/png" in text
    for unwanted in ("/home/", "/tmp/", str(batch.ROOT), "Traceback", "Warning", "it/s]", "'stderr'"):
        assert unwanted not in text, f"{unwanted!r} in the outputs"


@pytest.mark.parametrize("name", SMOKE)
def test_notebook_runs_in_a_kernel(name, runs, tmp_path):
    done = batch.execute(NOTEBOOKS[name], SMALL | SMOKE[name] | {"out": runs}, tmp_path)
    assert "All checks passed." in printed(done)
    errors = [output for cell in cells(done, "code") for output in cell.outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not errors, errors


@pytest.mark.parametrize("name", ["03_cifar_baselines", "04_tennis_ball_bias", "05_ut_vs_ft", "06_task_distance"])
def test_notebook_runs_on_the_real_images(name, runs, tmp_path, real_cifar100, monkeypatch):
    monkeypatch.setenv("RTL_DATA", os.path.relpath(real_cifar100))  # as a user names it; the kernel runs in another folder
    pair = {"dataset": "cifar100", "source": "herbivores", "target": "flowers"}
    done = batch.execute(NOTEBOOKS[name], SMALL | SMOKE[name] | pair | {"out": runs}, tmp_path)
    assert "All checks passed." in printed(done) and "CIFAR-100" in printed(done)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solution_runs(path, runs, tmp_path):
    papermill.execute_notebook(path, tmp_path / path.name, cwd=path.parent, progress_bar=False)


def test_plain_papermill_with_a_misspelt_parameter_stops_before_training(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="seedz is not a parameter of this notebook") as caught:
        papermill.execute_notebook(NOTEBOOKS["05_ut_vs_ft"], tmp_path / "out.ipynb", {"seedz": [1]}, cwd=batch.NOTEBOOKS, progress_bar=False)
    assert caught.value.exec_count <= 3


def test_runner_refuses_a_misspelt_parameter_without_a_kernel(tmp_path):
    with pytest.raises(ValueError, match="'seedz' is not a parameter of 05_ut_vs_ft; it has dataset"):
        batch.execute(NOTEBOOKS["05_ut_vs_ft"], {"seedz": [1]}, tmp_path)
    assert not list(tmp_path.iterdir())
