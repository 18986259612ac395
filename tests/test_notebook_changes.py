"""Every notebook in real kernels: a second run, unusual values, real images."""

import nbformat
import pytest
from nbclient import NotebookClient
from small_course import NOTEBOOKS, ON_IMAGES, SHORT_ONES, SMOKE, UNUSUAL, printed, short, smoke

from rtl_utils import headless
from rtl_utils.folders import notebooks
from rtl_utils.kernels import Limits

ONE = Limits(cores=1)  # the other core has other tests
REAL = {"dataset": "cifar100", "source": "carnivores", "target": "vehicles-1"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One store for all smoke runs, as a user has, so that backbones are shared."""
    return str(tmp_path_factory.mktemp("runs"))


@pytest.mark.kernel
@pytest.mark.parametrize("name", SMOKE)
def test_second_run_in_one_kernel_takes_changed_parameters(name, runs, real_cifar100, monkeypatch):
    """Change parameters and run again: what notebooks are for. The second images are real."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # the other core has other tests
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": notebooks()}})
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    defaults = parameters.source
    taken = nbformat.v4.new_code_cell("print(settings.seeds, settings.dataset)")
    notebook.cells.append(taken)
    real = REAL if name in ON_IMAGES else {}
    with client.setup_kernel():
        for seed, changes in enumerate(({}, real)):
            values = short(name, out=runs, seeds=[seed], **changes)
            lines = [f"{key} = {value!r}  # changed" for key, value in values.items()]
            parameters.source = "\n".join([defaults, *lines])
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    client.execute_cell(cell, index)
            outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
            said = "".join(o.get("text", "") for o in outputs)
            assert "All checks passed." in said
            assert not [o for o in outputs if o.get("name") == "stderr"]
            usual = "digits" if name in ON_IMAGES else "synthetic"
            assert taken.outputs[0].text == f"({seed},) {changes.get('dataset', usual)}\n"


@pytest.mark.kernel
@pytest.mark.parametrize("name", ON_IMAGES)
def test_notebook_runs_with_whatever_check_accepts(name, runs, forks, tmp_path):
    values = smoke(name, out=runs) | SHORT_ONES.get(name, {}) | UNUSUAL
    kept = set(headless.default_parameters(NOTEBOOKS[name]))
    values = {key: value for key, value in values.items() if key in kept}
    done = headless.execute(NOTEBOOKS[name], values, tmp_path, limits=ONE, forks=forks)
    assert "All checks passed." in printed(done)
