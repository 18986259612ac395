"""Notebooks run headless: parameters checked, executed by papermill, kept whole or not at all."""

import ast
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat

from rtl_utils.experiments import code
from rtl_utils.results import code_version
from rtl_utils.tasks import ROOT

NOTEBOOKS = ROOT / "notebooks"


class NotebookFailed(RuntimeError):
    """A notebook's cell raised; the message is the cell's own error, and the notebook so far is kept beside the results."""


def find(which: str | None = None) -> list[Path]:
    """The course's notebooks in order, or the one whose name starts with `which` ("05"). Raises ValueError if there is none."""
    found = sorted(path for path in NOTEBOOKS.glob("0*.ipynb") if path.name.startswith(which or ""))
    if not found:
        names = ", ".join(path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb")))
        raise ValueError(f"no notebook starts with {which!r}; there are {names}")
    return found


def default_parameters(notebook: Path) -> dict:
    """Names and default values in the notebook's one cell tagged `parameters`."""
    (cell,) = [cell for cell in nbformat.read(notebook, as_version=4).cells if "parameters" in cell.metadata.get("tags", [])]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)}


def check_names(notebook: Path, parameters: Mapping) -> None:
    """Raises ValueError for a name that the notebook does not have: papermill only warns, and runs with the defaults."""
    known = default_parameters(notebook)
    for name in parameters:
        if name not in known:
            raise ValueError(f"{name!r} is not a parameter of {notebook.stem}; it has {', '.join(known)}")


def execute(notebook: Path, parameters: Mapping, folder: Path) -> Path:
    """Run a notebook in a kernel of its own and return where it lies, with outputs, in `folder`; shows a progress bar over its cells.

    Raises ValueError for an unknown parameter, before the kernel starts, and NotebookFailed if a cell raises.
    """
    import papermill

    check_names(notebook, parameters)
    folder.mkdir(parents=True, exist_ok=True)
    finished, partial = folder / notebook.name, folder / f"{notebook.stem}.partial.ipynb"
    try:
        with _kernel_environment():
            papermill.execute_notebook(
                notebook,
                partial,
                dict(parameters),
                cwd=NOTEBOOKS,
                progress_bar={"desc": f"{notebook.stem:22}", "disable": False},
                extra_arguments=["--IPKernelApp.log_level=40"],  # else every kernel warns that it listens on this machine's loopback
            )
    except papermill.PapermillExecutionError as error:
        raise NotebookFailed(f"{notebook.stem} stopped: {error.ename}: {error.evalue} (its cells so far: {partial})") from error
    return partial.replace(finished)


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """What a kernel inherits: no progress bars, which would end up in its outputs, and a data folder that holds in its working directory."""
    before = dict(os.environ)
    os.environ["TQDM_DISABLE"] = "1"
    if os.environ.get("RTL_DATA"):
        os.environ["RTL_DATA"] = str(Path(os.environ["RTL_DATA"]).resolve())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def refresh(notebook: Path, folder: Path) -> None:
    """Execute a notebook with its defaults and commit-ready outputs: no timings, no paths, and the hash of what it was executed from."""
    executed = nbformat.read(execute(notebook, {}, folder), as_version=4)
    source = nbformat.read(notebook, as_version=4)
    for cell, done in zip(source.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [o for o in done.outputs if o.output_type != "stream" or o.name != "stderr"], done.execution_count
    source.metadata["rtl"] = {"executed_from": source_hash(source)}
    nbformat.write(source, notebook)


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash of what a notebook's outputs depend on: its code cells and the code of the runs."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps([cells, code_version(code())]).encode()).hexdigest()[:16]
