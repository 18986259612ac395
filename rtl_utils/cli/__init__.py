"""The `rtl` command.

Exit statuses: 0 done, 1 a notebook failed, 2 bad input or a file that cannot be written, 128 and
the signal's number where one ended it (130 for Ctrl-C).
"""

import argparse
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from rtl_utils import __version__, folders
from rtl_utils.messages import cut, shown

_TITLE = "Robust transfer learning"
_DIGITS = 300  # of a number; no finite float is longer


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line; None for this process's.

    Returns:
        The exit status, see above. Nothing that a user types raises.
    """
    stopped = "stopped"
    with _quiet(), _signals():
        try:
            options = _parser().parse_args(arguments)
            if options.command in ("run", "refresh"):
                stopped += "; the same command carries on where it stopped"
            status: int = options.call(options)
            if sys.stdout is not None:
                sys.stdout.flush()
        except SystemExit as end:  # of argparse
            return end.code if isinstance(end.code, int) else 2
        except KeyboardInterrupt as signalled:
            _complain(stopped)
            number = signalled.number if isinstance(signalled, Interrupted) else signal.SIGINT
            return 128 + number
        except (ValueError, OSError) as error:
            _complain(_sentence(error))
            return 2
        finally:
            _give_up_stdout()
        return status


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (`{self.prog} --help` says what is possible)")
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rtl",
        description="Does a fine-tuned network inherit the shortcuts of its first task?",
    )
    parser.add_argument("--version", action="version", version=f"rtl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_refresh(commands)
    _add_export(commands)
    _add_data(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run", help="execute the notebooks and write one HTML page of their figures and tables"
    )
    run.add_argument(
        "--dataset",
        metavar="NAME",
        help="images of notebooks 03 and later, such as cifar100 (default: digits, "
        "which needs no download)",
    )
    run.add_argument("--notebook", metavar="05", help="only notebooks whose name starts so")
    run.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a notebook parameter, as JSON or text; may be repeated",
    )
    run.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder for executed notebooks and the page (default: runs/latest)",
    )
    run.set_defaults(call=_run)


def _add_refresh(commands: Any) -> None:
    refresh = commands.add_parser(
        "refresh", help="execute notebooks with their defaults and store the outputs in notebooks/"
    )
    refresh.add_argument("--notebook", metavar="05", help="only notebooks whose name starts so")
    refresh.set_defaults(call=_refresh)


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="write what the stored runs measured after training as one CSV file"
    )
    export.add_argument("path", metavar="FILE")
    export.add_argument("--out", metavar="FOLDER", help="folder of the store (default: runs)")
    export.set_defaults(call=_export)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="data sets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    pack = data.add_parser(
        "pack", help="write CIFAR-100 as one cifar100.npz for machines without a network"
    )
    pack.add_argument("path", metavar="FILE", nargs="?", help="default: data/cifar100.npz")
    pack.set_defaults(call=_pack)


def _run(options: argparse.Namespace) -> int:
    from rtl_utils import headless

    out = _folder(options.out, "latest")
    given = _given(options.parameter)
    plans = _plans(headless.find(options.notebook), options.dataset, given)
    for path, parameters in plans:
        headless.check_parameters(path, parameters)
    page = out / "index.html"
    out.mkdir(parents=True, exist_ok=True)
    done = []
    with headless.claim(page):
        for path, _ in plans:
            headless.forget(path, out)
        page.unlink(missing_ok=True)  # the one of an earlier run would look like this one's
        try:
            for path, parameters in plans:
                done.append(headless.execute(path, parameters, out))
        except headless.NotebookFailed as error:
            _complain(str(error))
            return 1
        _write_page(done, page)
    return 0


def _plans(
    notebooks: Sequence[Path], dataset: str | None, given: Mapping[str, Any]
) -> list[tuple[Path, dict[str, Any]]]:
    """Every notebook with its parameters.

    The data set reaches the notebooks that can run on several; the others keep theirs.
    """
    from rtl_utils import headless
    from rtl_utils.data import image_datasets

    if dataset is not None and given.get("dataset", dataset) != dataset:
        raise ValueError(
            f"--dataset {dataset} and -p dataset {shown(given['dataset'])} are not the same"
        )
    wanted = dict(given) if dataset is None else {**given, "dataset": dataset}
    own = {path: headless.default_parameters(path).get("dataset") for path in notebooks}
    images = image_datasets()  # a notebook on another data set runs on nothing else
    several = any(name in images for name in own.values())
    plans = []
    for path, name in own.items():
        chosen = dict(wanted)
        if "dataset" in chosen:
            fixed = name not in images and (name is not None or several)
            if not fixed:
                _check_dataset(path, chosen["dataset"])
            elif chosen.pop("dataset") != name:
                has = f"one data set, {name}, and keeps it" if name else "no data set to choose"
                _say(f"{path.stem} has {has}", sys.stderr)
        plans.append((path, chosen))
    return plans


def _check_dataset(notebook: Path, dataset: Any) -> None:
    """Raises ValueError for a data set that the notebook would refuse after others have trained."""
    from rtl_utils.data import image_datasets

    names = image_datasets()
    if dataset not in names:
        raise ValueError(
            f"dataset must be one of {', '.join(names)} in {notebook.stem}; got {shown(dataset)}"
        )


def _write_page(notebooks: Sequence[Path], path: Path) -> None:
    from rtl_utils import report

    page = report.write_page(notebooks, path, " · ".join([_TITLE, *_datasets(notebooks)]))
    _say(f"Executed notebooks: {path.parent}")
    if page.figures or page.tables:
        _say(f"Every figure and table: {page.path}")
    else:
        _say(f"No notebook shows a figure or a table; what they print: {page.path}")


def _datasets(notebooks: Sequence[Path]) -> list[str]:
    """Titles of the data sets that executed notebooks ran on."""
    from rtl_utils import headless
    from rtl_utils.data import DATASETS

    names = [headless.parameters_of(notebook).get("dataset") for notebook in notebooks]
    known = dict.fromkeys(name for name in names if isinstance(name, str))
    return [DATASETS[name].title if name in DATASETS else name for name in known]


def _refresh(options: argparse.Namespace) -> int:
    from rtl_utils import headless

    for path in headless.find(options.notebook):
        try:
            headless.refresh(path, folders.root() / "runs" / "refresh")
        except headless.NotebookFailed as error:
            _complain(str(error))
            return 1
    return 0


def _export(options: argparse.Namespace) -> int:
    out = _folder(options.out)
    if not options.path:
        raise ValueError("name the file to write")
    if not (out / "results.db").is_file():
        raise ValueError(
            f"{out} holds no results.db; name the folder that the notebooks' parameter `out` named"
        )
    from sqlalchemy.exc import SQLAlchemyError

    try:
        written, left_out = _exported(out, Path(options.path))
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise ValueError(f"{out / 'results.db'} cannot be read ({reason})") from error
    old = f"; {left_out} of earlier versions are left out" if left_out else ""
    _say(f"Written: {options.path} ({written} runs{old})")
    return 0


def _exported(out: Path, path: Path) -> tuple[int, int]:
    """Write all runs of a store; returns their number, and that of runs of earlier versions."""
    from rtl_utils import experiments
    from rtl_utils.migration import migrate
    from rtl_utils.runs import Run
    from rtl_utils.store import Store

    store = Store(out)
    migrate(store)
    runs = []
    specs = store.specs()
    for key, spec in specs.items():
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # of another version
            run = Run.of(spec)
            if run.key == key:
                runs.append(run)
    if not runs:
        raise ValueError(f"{out} holds no runs of this version ({len(specs)} of earlier ones)")
    experiments.export(runs, store, path)
    return len(runs), len(specs) - len(runs)


def _pack(options: argparse.Namespace) -> int:
    from rtl_utils.data import pack

    path = folders.root() / "data" / "cifar100.npz" if options.path is None else Path(options.path)
    if not path.name or path.is_dir():
        raise ValueError(f"name the file to write; {shown(str(path))} is a folder")
    _say(f"Written: {pack(path)}")
    return 0


def _folder(given: str | None, default: str = "") -> Path:
    """The folder that --out names, or the one of that name in `runs`."""
    if given is None:
        return folders.root() / "runs" / default
    if not given:
        raise ValueError("--out must name a folder; got ''")
    if Path(given).exists() and not Path(given).is_dir():
        raise ValueError(f"--out must name a folder; {shown(given)} is a file")
    return Path(given).absolute()


def _given(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The parameters of the command line. Raises ValueError for a bad value, or a name twice."""
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise ValueError(f"-p {shown(name)} is given twice")
        values[name] = _value(name, text)
    return values


def _value(name: str, text: str) -> Any:
    """A parameter's value: what the text means as JSON, or the text.

    Raises:
        ValueError: if it is a number that is not finite, or nested deeper than Python reads.
    """

    def number(kind: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(digits: str) -> Any:
            if len(digits) > _DIGITS or abs(float(digits)) == float("inf"):
                raise OverflowError
            return kind(digits)

        return read

    def constant(word: str) -> NoReturn:
        raise OverflowError(word)

    try:
        return json.loads(
            text, parse_int=number(int), parse_float=number(float), parse_constant=constant
        )
    except json.JSONDecodeError:
        return text
    except OverflowError:
        message = f"numbers must be finite, of {_DIGITS} digits at most"
        raise ValueError(f"-p {shown(name)}: {message}; got {shown(text)}") from None
    except RecursionError:
        raise ValueError(f"-p {shown(name)}: the value is nested too deeply") from None


def _sentence(error: Exception) -> str:
    """What went wrong, as a sentence."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename
        if not name and not _is_somewhere():
            return "the current folder does not exist any more; change to another"
        return f"{error.strerror}: {name}" if name else error.strerror
    return str(error) or type(error).__name__


def _is_somewhere() -> bool:
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def _complain(text: str) -> None:
    """One line on stderr."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.replace("\n", " "))
    _say(cut(f"rtl: {_encodable(line, sys.stderr)}", 950), sys.stderr)


def _say(text: str, file: TextIO | None = None) -> None:
    """Print, also what the terminal cannot show: the name of a folder may be any bytes."""
    file = sys.stdout if file is None else file
    if file is not None:
        print(_encodable(text, file), file=file)


def _encodable(text: str, file: TextIO | None) -> str:
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _give_up_stdout() -> None:
    """Send to nowhere what cannot be printed, else Python complains when it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and no log lines of libraries: they are not for the one who types a command."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "papermill", "traitlets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]  # a value that tqdm cannot read would stop its import
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does; a second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        for again in before:
            signal.signal(again, lambda number, frame: os._exit(128 + number))
        raise Interrupted(number)

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # a signal that is ignored stays so: nohup, or a job in the background
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
