"""A notebook in JupyterLab, as a student opens it: run all cells, move a slider."""

import os
import subprocess
import sys
import urllib.request

import browser
import nbformat
import pytest
from playwright.sync_api import expect
from small_app import free_port, soon

from rtl_utils import headless

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NOTEBOOK = "03_cifar_baselines"
SMALL = {"seeds": [0], "epochs": 5, "n_train": 10}
LONG = 120_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of JupyterLab in a folder with the notebook, with nothing of the user's settings."""
    folder, own = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("own")
    (path,) = headless.find(NOTEBOOK)
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # what is seen comes from this run
    changes = SMALL | {"out": str(folder / "runs")}
    parameters.source += "".join(f"\n{name} = {value!r}" for name, value in changes.items())
    nbformat.write(notebook, folder / path.name)
    port = free_port()
    names = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    settings = own / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # all cells are in the document, also those that nobody has scrolled to
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=known", "--LabApp.news_url=None"]
    given = os.environ | {name: str(own / name) for name in names}
    given |= {"JUPYTERLAB_SETTINGS_DIR": str(own / "settings")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=given, **quiet) as process:
        assert soon(lambda: answers(f"http://127.0.0.1:{port}/api?token=known"), 60)
        yield f"http://127.0.0.1:{port}/lab/tree/{path.name}?token=known"
        process.terminate()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address):
            return True
    except OSError:
        return False


def test_a_student_runs_all_cells_and_moves_a_slider(lab):
    with browser.chromium() as launched, browser.visit(launched, lab) as watched:
        page = watched.page
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=LONG)
        # JupyterLab drops, without a word, what is run before it has a session
        page.get_by_text("| Idle").first.wait_for(timeout=LONG)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        tau = page.get_by_role("slider", name="tau").first
        tau.wait_for(state="attached", timeout=LONG)
        example = page.locator(".rtl-chart canvas").nth(1)
        before = example.evaluate("canvas => canvas.toDataURL()")
        tau.focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_text("tau = 0.55", exact=True)).to_be_attached(timeout=LONG)
        assert example.evaluate("canvas => canvas.toDataURL()") != before
        expect(page.get_by_text("All checks passed.").last).to_be_attached(timeout=LONG)
        background = page.locator(".rtl-scene").first.evaluate(
            "scene => getComputedStyle(scene).backgroundColor"
        )
        assert background == "rgb(255, 255, 255)", "black on a dark theme's background"
        assert not watched.foreign
