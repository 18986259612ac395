"""The `rtl` command."""

import argparse
import json
import sys
from pathlib import Path

from rtl_utils import tasks


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 if a notebook failed, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="rtl", description="Do shortcuts survive transfer, and does task interpolation keep them out?")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="execute the notebooks headless and write one HTML page of their figures and tables")
    run.add_argument("--dataset", choices=["digits", "cifar100"], help="images of notebooks 03 to 05 (default: digits, which needs no download)")
    run.add_argument("--notebook", metavar="05", help="only the notebook whose name starts so")
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
        "--out", type=Path, default=tasks.ROOT / "runs" / "latest", help="folder for executed notebooks and the page (default: runs/latest)"
    )
    run.set_defaults(call=_run)

    refresh = commands.add_parser("refresh", help="execute notebooks with their defaults and store the outputs in notebooks/")
    refresh.add_argument("--notebook", metavar="05")
    refresh.set_defaults(call=_refresh)

    export = commands.add_parser("export", help="write the stored results, after training, as one CSV file")
    export.add_argument("path", type=Path)
    export.add_argument("--out", type=Path, default=tasks.ROOT / "runs", help="folder of results (default: runs)")
    export.set_defaults(call=_export)

    data = commands.add_parser("data", help="data sets").add_subparsers(required=True)
    pack = data.add_parser("pack", help="write CIFAR-100 as one cifar100.npz for machines without a network")
    pack.add_argument("path", type=Path, nargs="?", default=tasks.ROOT / "data" / "cifar100.npz")
    pack.set_defaults(call=_pack)

    options = parser.parse_args(arguments)
    try:
        return options.call(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"rtl: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    from rtl_utils import batch, report

    given = {name: _value(text) for name, text in options.parameter}
    notebooks = batch.find(options.notebook)
    plans = [(path, _parameters_for(path, options.dataset, given)) for path in notebooks]
    for path, parameters in plans:
        batch.check_names(path, parameters)
    done = []
    try:
        for path, parameters in plans:
            done.append(batch.execute(path, parameters, options.out))
    except batch.NotebookFailed as error:
        print(f"rtl: {error}", file=sys.stderr)
        return 1
    page = report.write_page(done, options.out / "index.html", f"Robust transfer learning · {options.dataset or 'digits'}")
    print(f"Executed notebooks: {options.out}\nEvery figure and table: {page}")
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from rtl_utils import batch

    for path in batch.find(options.notebook):
        batch.refresh(path, tasks.ROOT / "runs" / "refresh")
    return 0


def _export(options: argparse.Namespace) -> int:
    from rtl_utils.results import Store

    if not (options.out / "results.db").exists():
        raise ValueError(f"{options.out} holds no results.db; name the folder that the notebooks' parameter `out` named")
    print(f"Written: {Store(options.out).export(options.path)}")
    return 0


def _pack(options: argparse.Namespace) -> int:
    print(f"Written: {tasks.pack(options.path)}")
    return 0


def _parameters_for(notebook: Path, dataset: str | None, given: dict) -> dict:
    """`--dataset` reaches the notebooks on images; those on the synthetic task have one data set only."""
    from rtl_utils import batch

    on_images = batch.default_parameters(notebook)["dataset"] != "synthetic"
    return ({"dataset": dataset} if dataset and on_images else {}) | given


def _value(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main())
