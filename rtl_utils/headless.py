"""Notebooks run headless: parameters checked, executed in a kernel, kept whole or not at all."""

import ast
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtl_utils import folders
from rtl_utils.messages import cut, shown
from rtl_utils.progress import Cells

if TYPE_CHECKING:  # imports that take a second; whoever mistypes a parameter need not wait
    from nbformat import NotebookNode

    from rtl_utils.forks import ForkServer
    from rtl_utils.kernels import Limits, Progress

_PROGRESS_BAR = "FloatProgressModel"


class NotebookFailed(RuntimeError):
    """A cell raised, the kernel died, or the notebook took longer than it may.

    The message names the notebook, the cell, the error, and the file that keeps the cells so far.

    Args:
        message: the whole sentence.
        reason: the part of it that says where and why.
        status: "failed", or "timeout".
        kept: the file that keeps the cells so far, if there is one.
    """

    def __init__(
        self, message: str, reason: str = "", status: str = "failed", kept: Path | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.status = status
        self.kept = kept


def find(which: str | None = None) -> list[Path]:
    """The course's notebooks in order, or those whose name starts with `which` ("05").

    Raises:
        ValueError: if there is none.
        FileNotFoundError: outside a checkout.
    """
    every = sorted(folders.notebooks().glob("0*.ipynb"))
    found = [path for path in every if path.name.startswith(which or "")]
    if not found:
        names = ", ".join(path.stem for path in every) or "none"
        raise ValueError(f"no notebook starts with {shown(which)}; there are {names}")
    return found


def solutions(which: str | None = None) -> list[Path]:
    """The solutions of the course's notebooks in order; which: as in `find`.

    Raises:
        FileNotFoundError: outside a checkout.
    """
    every = sorted((folders.notebooks() / "solutions").glob("0*.ipynb"))
    return [path for path in every if path.name.startswith(which or "")]


def default_parameters(notebook: Path) -> dict[str, Any]:
    """Names and default values in the notebook's one cell tagged `parameters`.

    Raises:
        ValueError: if there is no such cell, or it holds more than literals.
    """
    cells = _tagged(cells_of(notebook), "parameters")
    if len(cells) != 1:
        raise ValueError(
            f"{notebook.stem} must have one cell tagged `parameters`; it has {len(cells)}"
        )
    try:
        return _assigned(cells[0])
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"the cell tagged `parameters` of {notebook.stem} must hold literals only ({error})"
        ) from error


def parameters_of(executed: Path) -> dict[str, Any]:
    """Names and values of the parameters that an executed notebook ran with."""
    cells = cells_of(executed)
    values: dict[str, Any] = {}
    for source in [*_tagged(cells, "parameters"), *_tagged(cells, "injected-parameters")]:
        with suppress(SyntaxError, ValueError):
            values |= _assigned(source)
    return values


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Check what can be checked without a kernel.

    Raises:
        ValueError: for a name that the notebook does not have (papermill only warns, and runs with
            the defaults), or a value that cannot be written into a notebook.
    """
    known = default_parameters(notebook)
    for name, value in parameters.items():
        if name not in known:
            names = ", ".join(known)
            raise ValueError(f"{shown(name)} is not a parameter of {notebook.stem}; it has {names}")
        _plain(name, value)


def execute(
    notebook: Path,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    name: str | None = None,
    limits: "Limits | None" = None,
    forks: "ForkServer | None" = None,
    show: "Callable[[Progress], object] | None" = None,
) -> Path:
    """Execute a notebook in a kernel of its own.

    May be called from any thread and from several at once: it changes nothing of this process.

    Args:
        notebook: to be executed; the kernel runs in its folder.
        parameters: values that replace those of its cell tagged `parameters`.
        folder: where the executed notebook is put; is made if it is not there.
        name: file name of the executed notebook; None: that of the notebook.
        limits: what its kernel may use; None: what the machine has, as long as it takes.
        forks: forks the kernel if it can; None: the kernel starts afresh.
        show: called a few times per second with how far it is; None: said on stderr.

    Returns:
        The executed notebook. It appears there whole or not at all.

    Raises:
        ValueError: for an unknown parameter, before the kernel starts; for limits or a name that
            are none; or if another process is executing into this file.
        NotebookFailed: if a cell raises, the kernel dies, or it takes too long.
        OSError: if the folder, or that for temporary files, cannot be written.
    """
    from rtl_utils import kernels  # takes a second

    check_parameters(notebook, parameters)
    plain = {name: _plain(name, value) for name, value in parameters.items()}
    path = folder / _file_name(name or notebook.name)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        claim(path),
        tempfile.TemporaryDirectory(prefix="rtl-", ignore_cleanup_errors=True) as own,
    ):
        forget(notebook, folder, path.name)
        executed = Path(own, kernels.EXECUTED)
        try:
            with _shown(path.stem, show) as shows:
                kernels.execute(
                    notebook, plain, Path(own), shows, limits or kernels.Limits(), forks
                )
        except OSError as error:
            error.filename = error.filename or own
            raise
        except Exception as error:
            failed = _failed(path, executed, error)
            if failed is None:
                raise
            raise failed from error
        return put(executed.read_text(encoding="utf-8"), path)


def forget(notebook: Path, folder: Path, name: str | None = None) -> None:
    """Remove what earlier executions of the notebook left in the folder.

    Args:
        notebook: that was executed.
        folder: where the executed notebook was put.
        name: its file name; None: that of the notebook.

    Raises:
        ValueError: if the notebook itself lies there.
    """
    there = folder / (name or notebook.name)
    if there.exists() and there.samefile(notebook):
        raise ValueError(f"{folder} holds the notebooks themselves; name another folder for copies")
    stem = escape(there.stem)
    for pattern in (
        f"{stem}.ipynb",
        f"{stem}.partial.ipynb",
        f".{stem}.ipynb.*.partial",
        f".{stem}.partial.ipynb.*.partial",
    ):
        for left in folder.glob(pattern):
            left.unlink(missing_ok=True)


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Be the only one who writes `path`, as long as the context lasts and the process lives.

    Raises:
        ValueError: if another has claimed it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    name = path.with_name(f".{path.name}.lock")
    while True:
        with name.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"another run is writing {path}; wait for it, or name another folder"
                ) from error
            except OSError:  # a file system without locks
                pass
            if not _is_file(lock.fileno(), name):  # the one before removed it meanwhile
                continue
            try:
                yield
            finally:
                name.unlink(missing_ok=True)
            return


def put(text: str, path: Path) -> Path:
    """Write a file that appears whole or not at all, and return its path."""
    with folders.whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def refresh(notebook: Path, folder: Path) -> None:
    """Execute a notebook with its defaults and store outputs that are fit to be committed.

    They have no progress bars and nothing of stderr. The hash of what they depend on goes into the
    notebook's metadata.

    Args:
        notebook: gets the outputs.
        folder: where the executed notebook is put first.

    Raises:
        ValueError: if an output names a folder of this machine.
        NotebookFailed: see `execute`.
    """
    import nbformat

    executed = nbformat.read(execute(notebook, {}, folder), as_version=4)
    source = nbformat.read(notebook, as_version=4)
    for cell, done in zip(source.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = [output for output in done.outputs if _is_committed(output, executed)]
            cell.execution_count = done.execution_count
            _check_outputs(notebook, cell)
    source.metadata["rtl"] = {"executed_from": source_hash(source.cells)}
    put(nbformat.writes(source) + "\n", notebook)


def source_hash(cells: Sequence[Mapping[str, Any]]) -> str:
    """Hash of what a notebook's outputs depend on: its code cells, and the versions of numerics."""
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    text = json.dumps([code, versions()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, Any]:
    """Every version number that the package raises when numbers change; see `runs.reads`."""
    from rtl_utils import couplings, heads, lengths, probing, refits, training
    from rtl_utils.data import DATASETS, PATCHES
    from rtl_utils.methods import METHODS
    from rtl_utils.models import NETWORKS
    from rtl_utils.paths import BLENDS
    from rtl_utils.schedules import SCHEDULES

    records: dict[str, Mapping[str, Any]] = {
        "blends": BLENDS,
        "datasets": DATASETS,
        "methods": METHODS,
        "networks": NETWORKS,
        "patches": PATCHES,
        "schedules": SCHEDULES,
    }
    of_records = {
        kind: {name: record.version for name, record in table.items()}
        for kind, table in records.items()
    }
    rooms = (couplings, heads, lengths, probing, refits, training)
    parts = {
        "lime": probing.LIME_VERSION,
        "path_length": lengths.PATH_VERSION,
        "pull": training.PULL_VERSION,
        "window": training.WINDOW_VERSION,
    }
    return of_records | parts | {room.__name__: room.VERSION for room in rooms}


def _file_name(name: str) -> str:
    """Raises ValueError for what is no file name of a notebook."""
    if Path(name).name != name or Path(name).suffix != ".ipynb":
        raise ValueError(
            f"name a file such as a.ipynb for the executed notebook; got {shown(name)}"
        )
    return name


@contextmanager
def _shown(
    name: str, show: "Callable[[Progress], object] | None"
) -> Iterator["Callable[[Progress], object]"]:
    """What shows how far a notebook is: `show`, or else lines on stderr."""
    if show is not None:
        yield show
        return
    cells = Cells(name)
    try:
        yield lambda progress: cells.show(progress.done, progress.total, progress.now)
    except BaseException:
        cells.close()
        raise
    cells.close("done")


def _failed(path: Path, executed: Path, error: Exception) -> NotebookFailed | None:
    """What to raise for a stopped notebook, whose cells so far are kept; None for other errors."""
    from papermill import PapermillExecutionError

    from rtl_utils.kernels import KernelDied, TimedOut

    status = "timeout" if isinstance(error, TimedOut) else "failed"
    if isinstance(error, PapermillExecutionError):
        message = " ".join(str(error.evalue).split())
        said = f"{error.ename}: {message}" if message else error.ename
        reason = f"in cell [{error.exec_count}]: {said}"
    elif isinstance(error, KernelDied | TimedOut):
        reason = str(error)
    else:
        return None
    reason = cut(reason, 700)
    kept = _kept(executed, path.with_name(f"{path.stem}.partial.ipynb"))
    where = "" if kept is None else f" (its cells so far: {kept})"
    return NotebookFailed(f"{path.stem} stopped {reason}{where}", reason, status, kept)


def _kept(executed: Path, partial: Path) -> Path | None:
    """The cells so far, put where they stay; None where there is none."""
    try:
        text = executed.read_text(encoding="utf-8")
        json.loads(text)  # it may just be written, where what writes it did not end in time
    except (OSError, ValueError):
        return None
    return put(text, partial)


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that lies there."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook."""
    try:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a notebook ({cut(str(error), 200)})") from error
    return cells


def _tagged(cells: list[dict[str, Any]], tag: str) -> list[str]:
    """Source of the code cells with a tag."""
    return [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and tag in cell["metadata"].get("tags", [])
    ]


def _assigned(source: str) -> dict[str, Any]:
    """Names and literals of the assignments in some code."""
    values = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.literal_eval(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            values[node.target.id] = ast.literal_eval(node.value)
    return values


def _plain(name: str, value: Any) -> Any:
    """The value as JSON in UTF-8, which is what a notebook is, gives it back: lists for tuples.

    Raises:
        ValueError: if it cannot be written so.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"the value of {name} is nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the value of {shown(name)} must be finite numbers, UTF-8 text, true, false, null, or "
            f"lists of them; got {shown(value)}"
        ) from error


def _is_committed(output: "NotebookNode", executed: "NotebookNode") -> bool:
    """Whether an output is neither from stderr nor a progress bar."""
    if output.output_type == "stream":
        return bool(output.name != "stderr")
    widget = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
    return widget is None or not _is_bar(widget["model_id"], executed)


def _is_bar(model: str, executed: "NotebookNode") -> bool:
    """Whether a widget, or one inside it, is a progress bar."""
    widgets = executed.metadata.get("widgets", {})
    states = widgets.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    found = states.get(model, {})
    children = found.get("state", {}).get("children", [])
    inside = [child.removeprefix("IPY_MODEL_") for child in children]
    return found.get("model_name") == _PROGRESS_BAR or any(_is_bar(m, executed) for m in inside)


def _check_outputs(notebook: Path, cell: "NotebookNode") -> None:
    """Raises ValueError if a text among the outputs names a folder of this machine."""
    texts = [output.get("text", "") for output in cell.outputs]
    for output in cell.outputs:
        texts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    text = "".join(texts)
    for place in {str(folders.root()), os.path.expanduser("~"), tempfile.gettempdir()}:
        if place not in ("/", "~") and f"{place}/" in text:
            raise ValueError(
                f"{notebook.stem} shows a folder of this machine in cell [{cell.execution_count}]: "
                f"{place}; committed outputs must not"
            )
