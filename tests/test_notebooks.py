"""Every notebook: its form, its stored outputs, and how it refuses a misspelt parameter."""

import ast
import re

import nbformat
import papermill
import pytest
from small_course import NOTEBOOKS, SMOKE, SOLUTIONS, WITHOUT_EXERCISES, cells

from rtl_utils import headless
from rtl_utils.folders import notebooks, root


def test_every_notebook_is_tested_and_has_a_solution_where_it_has_exercises():
    assert list(NOTEBOOKS) == list(SMOKE)
    with_exercises = [name for name in NOTEBOOKS if name not in WITHOUT_EXERCISES]
    assert with_exercises == [path.stem for path in SOLUTIONS]


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
    if name == "00_the_idea":  # it shows the loop, once
        assert len(loops) == 1
    else:
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
