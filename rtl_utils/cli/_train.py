"""`rtl train`: the runs of sweeps that describe them, trained side by side in this process."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtl_utils.cli._batch import add_store, check_parameters, open_store
from rtl_utils.cli._console import complain, named_folder, say
from rtl_utils.messages import counted, shown

if TYPE_CHECKING:  # as in `_batch`
    from rtl_utils.grid import Sweep
    from rtl_utils.runs import Run
    from rtl_utils.store import Store

_NAMED = 20  # runs that a summary names
_SPAN = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?", re.ASCII)  # 4 or 0-4


def add_train(commands: Any) -> None:
    """The options of `rtl train`."""
    train = commands.add_parser(
        "train",
        help="train the runs of sweeps side by side, on one GPU say, without executing notebooks",
    )
    train.add_argument(
        "sweeps",
        nargs="+",
        metavar="SWEEP",
        help="a file such as sweeps/table3.yaml, or table3; its notebook is trainings.ipynb",
    )
    train.add_argument(
        "--seeds", type=_spans, metavar="SEEDS", help="only runs with these seeds, such as 0-4,7"
    )
    train.add_argument(
        "--device",
        metavar="NAME",
        help="where networks train: auto, cpu, cuda, cuda:1, mps (default: as the sweep says, or "
        "auto: a GPU if there is one)",
    )
    add_store(train)
    train.set_defaults(call=_train)


def _train(options: argparse.Namespace) -> int:
    from rtl_utils import experiments
    from rtl_utils.migration import migrate

    sweeps, device = _sweeps(options.sweeps, options.device)
    runs = _runs(sweeps, options.seeds)
    store = open_store(named_folder(options.out), options.store)
    if not store.read_only:
        migrate(store)
    name = ", ".join(sweep.name for sweep in sweeps)
    lacking = _lacking(runs, store)
    say(_opening(name, len({run.key for run in runs}), len(lacking)), sys.stderr)
    if lacking:
        say(f"device: {device}", sys.stderr)
        experiments.run(lacking, store, device, keep_diverged=True)
    return _summary(name, runs, store)


def _sweeps(names: Sequence[str], device: str | None) -> tuple[list["Sweep"], str]:
    """The sweeps, and the device that this machine has for them.

    Raises:
        ValueError: for one that cannot be trained without its notebook, or several devices.
    """
    from rtl_utils import declared, devices, grid

    if device is not None:
        devices.resolve(device)
    sweeps = [grid.read(path) for path in dict.fromkeys(map(grid.find, names))]
    for sweep in sweeps:
        declared.check(sweep)
    placed = [grid.placed(sweep, device, devices.AUTO) for sweep in sweeps]
    found = {task.parameters["device"] for sweep in placed for task in sweep.tasks}
    if len(found) > 1:
        raise ValueError(
            f"the sweeps name the devices {', '.join(sorted(map(str, found)))}, and all is trained "
            "on one: name sweeps of one device"
        )
    return placed, devices.resolve(found.pop())


def _runs(sweeps: Sequence["Sweep"], spans: Sequence[range] | None) -> list["Run"]:
    """The runs that are wanted, when their parameters are checked. Raises ValueError for none."""
    from rtl_utils import declared

    tasks = [task for sweep in sweeps for task in sweep.tasks]
    check_parameters(tasks, here=True)
    every = declared.runs(tasks)
    runs = [r for r in every if spans is None or any(r.seed in span for span in spans)]
    if not runs:
        seeds = sorted({run.seed for run in every})
        raise ValueError(f"no run has a seed of --seeds; the seeds are {shown(seeds)}")
    return runs


def _lacking(runs: Sequence["Run"], store: "Store") -> list["Run"]:
    """The runs whose rows the store lacks, one per key."""
    by_key = {run.key: run for run in reversed(runs)}
    done = store.status(by_key)
    return [run for key, run in reversed(by_key.items()) if key not in done]


def _opening(name: str, every: int, lacking: int) -> str:
    return f"{name}: {counted(every, 'run')}: {every - lacking} stored, {lacking} to train"


def _summary(name: str, runs: Sequence["Run"], store: "Store") -> int:
    """Say how the runs ended; returns the exit status."""
    by_key = {run.key: run for run in reversed(runs)}
    status = store.status(by_key)
    diverged = [key for key, (how, _) in status.items() if how == "diverged"]
    for key in diverged[:_NAMED]:
        complain(f"{_named(by_key[key])}: {status[key][1]}")
    rest = f", {len(diverged)} of them diverged" if diverged else ""
    say(f"{name}: {len(status)} of {counted(len(by_key), 'run')} done{rest}")
    return 0 if len(status) == len(by_key) else 1


def _named(run: "Run") -> str:
    return f"{run.method} on {run.target or run.source}, seed {run.seed}"


def _spans(text: str) -> list[range]:
    """The seeds of a text such as "0-4,7"."""
    found = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        first, last = (0, -1) if match is None else (int(match[1]), int(match[2] or match[1]))
        if first > last:
            raise argparse.ArgumentTypeError(
                f"must be whole numbers and spans of them, such as 0-4,7; got {shown(text)}"
            )
        found.append(range(first, last + 1))
    return found
