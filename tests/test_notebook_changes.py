"""Every notebook in a real kernel: unusual values first, then a second run on real images."""

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from small_course import LEAST, NOTEBOOKS, ON_IMAGES, REAL, SMOKE, short

from rtl_utils import headless
from rtl_utils.data.cifar100 import cifar100_arrays
from rtl_utils.folders import notebooks


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One store for all smoke runs, as a user has, so that backbones are shared."""
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def few_real_images(real_cifar100, tmp_path, monkeypatch):
    """The first 20 real images of each class and split, as backbones train on whole tasks."""
    few, path = cifar100_arrays(), tmp_path / "cifar100.npz"
    for split in ("train", "test"):
        labels = few[f"{split}_labels"]
        rows = np.concatenate([np.flatnonzero(labels == k)[:20] for k in np.unique(labels)])
        few |= {f"{split}_{kind}": few[f"{split}_{kind}"][rows] for kind in ("images", "labels")}
    np.savez(path, **few)
    monkeypatch.setenv("RTL_DATA", str(tmp_path))
    # the warning that begins with the path: these are not the official images
    monkeypatch.setenv("PYTHONWARNINGS", f"ignore:{path}")


@pytest.mark.kernel
@pytest.mark.parametrize("name", SMOKE)
@pytest.mark.usefixtures("few_real_images")
def test_second_run_in_one_kernel_takes_changed_parameters(name, runs, monkeypatch):
    """Change parameters and run again: what notebooks are for."""
    for limit in ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS"):  # other cores have other tests
        monkeypatch.setenv(limit, "1")
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": notebooks()}})
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    defaults, known = parameters.source, headless.default_parameters(NOTEBOOKS[name])
    taken = nbformat.v4.new_code_cell("print(settings.seeds, settings.dataset)")
    notebook.cells.append(taken)
    changes = [LEAST, REAL] if name in ON_IMAGES else [{"seeds": [4]}, {"seeds": [1]}]
    with client.setup_kernel():
        for changed in changes:
            values = {k: v for k, v in short(name, out=runs, **changed).items() if k in known}
            lines = [f"{key} = {value!r}  # changed" for key, value in values.items()]
            parameters.source = "\n".join([defaults, *lines])
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    client.execute_cell(cell, index)
            outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
            said = "".join(o.get("text", "") for o in outputs)
            assert "All checks passed." in said
            assert not [o for o in outputs if o.get("name") == "stderr"]
            dataset = changed.get("dataset", known.get("dataset", "synthetic"))
            assert taken.outputs[0].text == f"{tuple(changed['seeds'])} {dataset}\n"
