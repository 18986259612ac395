"""Every notebook: its form, its outputs, and real runs in kernels, on digits and on real images."""

import ast
import re

import nbformat
import papermill
import pytest
from nbclient import NotebookClient

from rtl_utils import headless
from rtl_utils.folders import notebooks, root

NOTEBOOKS = {path.stem: path for path in headless.find()}
SOLUTIONS = sorted((notebooks() / "solutions").glob("*.ipynb"))
SMALL = {"seeds": [0], "epochs": 5}
SMOKE = {
    "01_synthetic_task": {"source_epochs": 2},
    "02_lime_probing": {"source_epochs": 2, "points": 4},
    "03_cifar_baselines": {"n_train": 10},
    "04_tennis_ball_bias": {"n_train": [5, 10]},
    "05_ut_vs_ft": {"n_train": 10, "methods": ["ct", "iso"]},
    "06_task_distance": {"n_train": 50, "methods": ["ut", "counter"], "iterations": 2},
}
ON_IMAGES = [name for name in SMOKE if name > "03"]
BOTH_WAYS = {
    "source": ["digits-0-4", "digits-5-9"],
    "target": ["digits-5-9", "digits-0-4"],
}
# the least that `check` accepts, and a pair that no figure expects
UNUSUAL = {
    "one_value_of_tau": {"epochs": 1, "taus": [1], "n_train": 5, "batch_size": 5},
    "two_pairs": BOTH_WAYS | {"seeds": [4, 2], "ball_class": None},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One store for all smoke runs, as a user has, so that backbones are shared."""
    return str(tmp_path_factory.mktemp("runs"))


def cells(path, kind):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def printed(path):
    outputs = [output for cell in cells(path, "code") for output in cell.outputs]
    return "".join(o.get("text", "") for o in outputs if o.output_type == "stream")


def smoke(name, **changes):
    return SMALL | SMOKE[name] | changes


def test_there_are_six_notebooks_and_a_solution_for_each():
    assert list(NOTEBOOKS) == list(SMOKE) == [path.stem for path in SOLUTIONS]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_keeps_the_house_form(name):
    code, prose = cells(NOTEBOOKS[name], "code"), cells(NOTEBOOKS[name], "markdown")
    assert 25 <= len(code) + len(prose) <= 42
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert max(len(cell.source.splitlines()) for cell in code if cell is not parameters) <= 15
    body = ast.parse(parameters.source).body
    for line, node in zip(parameters.source.splitlines(), body, strict=True):
        ast.literal_eval(node.value)
        assert "  # " in line, f"no comment on: {line}"
    assert "check(globals()" in code[1].source
    loops = [cell for cell in code if re.search(r"\.backward\(|\.step\(\)", cell.source)]
    assert not loops, "a training loop in a notebook"


@pytest.mark.parametrize("path", [*NOTEBOOKS.values(), *SOLUTIONS], ids=lambda path: path.stem)
def test_code_fits_a_projector(path):
    wide = [line for cell in cells(path, "code") for line in cell.source.splitlines()]
    wide = [line for line in wide if len(line) > 88]
    assert not wide, wide[0]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs_are_current_and_clean(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    executed_from = notebook.metadata.get("rtl", {}).get("executed_from")
    current = headless.source_hash(notebook.cells)
    assert executed_from == current, "the code changed since: run `make refresh`"
    text = "".join(str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
    assert "All checks passed." in text
    assert "image/png" in text
    places = ("/home/", "/tmp/", str(root()))
    bars = ("it/s]", "epoch/s]", "run/s]", "?epoch/s", "?run/s", "widget-view", "HBox(")
    for unwanted in (*places, *bars, "Traceback", "Warning", "'stderr'"):
        assert unwanted not in text, f"{unwanted!r} in the outputs"
    assert not notebook.metadata.get("widgets"), "the state of a widget is stored"


@pytest.mark.kernel
@pytest.mark.parametrize("name", SMOKE)
def test_notebook_runs_in_a_kernel(name, runs, tmp_path):
    done = headless.execute(NOTEBOOKS[name], smoke(name, out=runs), tmp_path)
    assert "All checks passed." in printed(done)
    outputs = [output for cell in cells(done, "code") for output in cell.outputs]
    errors = [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not errors, errors


@pytest.mark.kernel
@pytest.mark.parametrize("name", SMOKE)
def test_second_run_in_one_kernel_takes_a_changed_parameter(name, runs):
    """Change a parameter and run again: what notebooks are for."""
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": notebooks()}})
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    defaults = parameters.source
    taken = nbformat.v4.new_code_cell("print(settings.seeds)")
    notebook.cells.append(taken)
    with client.setup_kernel():
        for seed in (0, 1):
            values = smoke(name, out=runs, seeds=[seed])
            lines = [f"{key} = {value!r}  # changed" for key, value in values.items()]
            parameters.source = "\n".join([defaults, *lines])
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    client.execute_cell(cell, index)
            texts = [str(c.outputs) for c in notebook.cells if c.cell_type == "code"]
            assert any("All checks passed." in text for text in texts)
            assert taken.outputs[0].text == f"({seed},)\n"


@pytest.mark.kernel
@pytest.mark.parametrize("change", UNUSUAL)
@pytest.mark.parametrize("name", ON_IMAGES)
def test_notebook_runs_with_whatever_check_accepts(name, change, runs, tmp_path):
    values = smoke(name, out=runs) | UNUSUAL[change]
    if name == "06_task_distance":
        values |= {"n_train": 10, "iterations": 1, "partitions": 1}
    if name == "04_tennis_ball_bias" and "ball_class" in values:
        values["n_train"] = [5]
    kept = set(headless.default_parameters(NOTEBOOKS[name]))
    values = {key: value for key, value in values.items() if key in kept}
    done = headless.execute(NOTEBOOKS[name], values, tmp_path)
    assert "All checks passed." in printed(done)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ON_IMAGES)
def test_notebook_runs_on_the_real_images(name, runs, tmp_path, real_cifar100):
    pair = {"dataset": "cifar100", "source": "carnivores", "target": "vehicles-1"}
    done = headless.execute(NOTEBOOKS[name], smoke(name, out=runs, **pair), tmp_path)
    assert "All checks passed." in printed(done)
    assert "CIFAR-100" in printed(done)


@pytest.mark.kernel
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solution_runs(path, tmp_path):
    done = tmp_path / path.name
    papermill.execute_notebook(path, done, cwd=path.parent, progress_bar=False)


@pytest.mark.kernel
def test_plain_papermill_with_a_misspelt_parameter_stops_before_training(tmp_path):
    notebook, done = NOTEBOOKS["05_ut_vs_ft"], tmp_path / "out.ipynb"
    says = "seedz is not a parameter of this notebook"
    with pytest.raises(papermill.PapermillExecutionError, match=says) as caught:
        papermill.execute_notebook(
            notebook, done, {"seedz": [1]}, cwd=notebooks(), progress_bar=False
        )
    assert caught.value.exec_count <= 3


def test_runner_refuses_a_misspelt_parameter_without_a_kernel(tmp_path):
    says = "'seedz' is not a parameter of 05_ut_vs_ft; it has dataset"
    with pytest.raises(ValueError, match=says):
        headless.execute(NOTEBOOKS["05_ut_vs_ft"], {"seedz": [1]}, tmp_path)
    assert not list(tmp_path.iterdir())
