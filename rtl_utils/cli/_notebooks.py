"""`rtl run` and `rtl refresh`: the course's notebooks, one after the other."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtl_utils import folders
from rtl_utils.cli._console import complain, named_folder, named_values, say
from rtl_utils.messages import shown

_TITLE = "Robust transfer learning"


def add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run", help="execute the notebooks and write one HTML page of their figures and tables"
    )
    run.add_argument(
        "--dataset",
        metavar="NAME",
        help="images of notebooks 00, 03 and later, such as cifar100 (default: digits, "
        "which needs no download)",
    )
    run.add_argument("--notebook", metavar="05", help="only notebooks whose name starts so")
    run.add_argument(
        "--device",
        metavar="NAME",
        help="where networks train: auto (default, a GPU if there is one), cpu, cuda, cuda:1, mps",
    )
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


def add_refresh(commands: Any) -> None:
    refresh = commands.add_parser(
        "refresh",
        help="execute notebooks and solutions with their defaults and store their outputs",
    )
    refresh.add_argument("--notebook", metavar="05", help="only notebooks whose name starts so")
    refresh.set_defaults(call=_refresh)


def _run(options: argparse.Namespace) -> int:
    from rtl_utils import headless

    out = named_folder(options.out, "latest")
    given = named_values(options.parameter)
    if options.device is not None:
        _check_same("device", options.device, given)
        given["device"] = options.device
    planned = plans(headless.find(options.notebook), options.dataset, given)
    for path, parameters in planned:
        headless.check_parameters(path, parameters)
    _say_devices(planned)
    page = out / "index.html"
    out.mkdir(parents=True, exist_ok=True)
    done = []
    with headless.claim(page):
        for path, _ in planned:
            headless.forget(path, out)
        page.unlink(missing_ok=True)  # the one of an earlier run would look like this one's
        try:
            for path, parameters in planned:
                done.append(headless.execute(path, parameters, out))
        except headless.NotebookFailed as error:
            complain(str(error))
            return 1
        _write_page(done, page)
    return 0


def plans(
    notebooks: Sequence[Path], dataset: str | None, given: Mapping[str, Any]
) -> list[tuple[Path, dict[str, Any]]]:
    """Every notebook with its parameters.

    The data set reaches the notebooks that can run on several; the others keep theirs.
    """
    from rtl_utils import headless
    from rtl_utils.data import image_datasets

    if dataset is not None:
        _check_same("dataset", dataset, given)
    wanted = dict(given) if dataset is None else {**given, "dataset": dataset}
    own = {path: headless.default_parameters(path).get("dataset") for path in notebooks}
    images = image_datasets()  # a notebook on another data set runs on nothing else
    several = any(name in images for name in own.values())
    found = []
    for path, name in own.items():
        chosen = dict(wanted)
        if "dataset" in chosen:
            fixed = name not in images and (name is not None or several)
            if not fixed:
                _check_dataset(path, chosen["dataset"])
            elif chosen.pop("dataset") != name:
                has = f"one data set, {name}, and keeps it" if name else "no data set to choose"
                say(f"{path.stem} has {has}", sys.stderr)
        found.append((path, chosen))
    return found


def _check_same(name: str, option: str, given: Mapping[str, Any]) -> None:
    """Raises ValueError if a parameter is also given by -p, as something else."""
    if given.get(name, option) != option:
        raise ValueError(f"--{name} {option} and -p {name} {shown(given[name])} are not the same")


def _say_devices(planned: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Say what the notebooks train on. Raises ValueError for a device that is not there."""
    from rtl_utils import headless

    names = [(headless.default_parameters(p) | dict(given)).get("device") for p, given in planned]
    wanted = [name for name in names if name is not None]
    if wanted:
        from rtl_utils import devices  # torch takes a second

        for line in dict.fromkeys(map(devices.said, wanted)):
            say(line, sys.stderr)


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
    say(f"Executed notebooks: {path.parent}")
    if page.figures or page.tables:
        say(f"Every figure and table: {page.path}")
    else:
        say(f"No notebook shows a figure or a table; what they print: {page.path}")


def _datasets(notebooks: Sequence[Path]) -> list[str]:
    """Titles of the data sets that executed notebooks ran on."""
    from rtl_utils import headless
    from rtl_utils.data import DATASETS

    names = [headless.parameters_of(notebook).get("dataset") for notebook in notebooks]
    known = dict.fromkeys(name for name in names if isinstance(name, str))
    return [DATASETS[name].title if name in DATASETS else name for name in known]


def _refresh(options: argparse.Namespace) -> int:
    from rtl_utils import headless

    which = options.notebook
    for path in [*headless.find(which), *headless.solutions(which)]:
        try:
            headless.refresh(path, folders.root() / "runs" / "refresh" / path.parent.name)
        except headless.NotebookFailed as error:
            complain(str(error))
            return 1
    return 0
