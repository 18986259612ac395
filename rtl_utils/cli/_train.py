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
    from rtl_utils.grid import Task
    from rtl_utils.runs import Run
    from rtl_utils.store import Store

_NAMED = 20  # runs that a summary names
_SPAN = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?", re.ASCII)  # 4 or 0-4


def add_train(commands: Any) -> None:
    """The options of `rtl train`."""
    train = commands.add_parser(
        "train",
        help="train the runs of sweeps side by side, on one GPU for example, without notebooks",
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

    tasks, name = _tasks(options.sweeps, options.device)
    check_parameters(tasks, here=True)
    device = _device(tasks)
    runs = _runs(tasks, options.seeds)
    store = open_store(named_folder(options.out), options.store)
    experiments.say_what_is_old(store)
    lacking = _lacking(runs, store)
    say(_opening(name, len({run.key for run in runs}), len(lacking)), sys.stderr)
    if lacking:
        say(f"device: {device}", sys.stderr)
        _execute(lacking, store, device)
    return _summary(name, runs, store)


def _tasks(names: Sequence[str], device: str | None) -> tuple[list["Task"], str]:
    """The tasks of sweeps on their device, and what the sweeps are called.

    Raises:
        ValueError: for a sweep that cannot be trained without its notebook, or for the device.
    """
    from rtl_utils import declared, devices, grid

    if device is not None:
        devices.resolve(device)
    sweeps = [grid.read(path) for path in dict.fromkeys(map(grid.find, names))]
    for sweep in sweeps:
        declared.check(sweep)
    placed = [grid.placed(sweep, device, devices.AUTO) for sweep in sweeps]
    tasks = [task for sweep in placed for task in sweep.tasks]
    return tasks, ", ".join(sweep.name for sweep in sweeps)


def _device(tasks: Sequence["Task"]) -> str:
    """The device of this machine that all the tasks name. Raises ValueError for several."""
    from rtl_utils import devices

    found = sorted({devices.resolve(task.parameters["device"]) for task in tasks})
    if len(found) > 1:
        raise ValueError(
            f"the sweeps name the devices {', '.join(found)}, and all is trained on one: train "
            "one sweep after the other"
        )
    return found[0]


def _runs(tasks: Sequence["Task"], spans: Sequence[range] | None) -> list["Run"]:
    """The runs of tasks whose seeds are wanted. Raises ValueError if there is none."""
    from rtl_utils import declared

    every = declared.runs(tasks)
    runs = [r for r in every if spans is None or any(r.seed in span for span in spans)]
    if not runs:
        seeds = sorted({run.seed for run in every})
        raise ValueError(f"no run has a seed of --seeds; the seeds are {shown(seeds)}")
    return runs


def _execute(runs: Sequence["Run"], store: "Store", device: str) -> None:
    """Train runs, but those whose backbone diverges: nothing can be transferred from it."""
    from rtl_utils import experiments

    able = _able(runs, store)
    try:
        experiments.run(able, store, device, keep_diverged=True)
    except ValueError:
        if len(_able(able, store)) == len(able):  # every backbone is sound
            raise
        _execute(able, store, device)


def _able(runs: Sequence["Run"], store: "Store") -> list["Run"]:
    """The runs whose backbone has not diverged, as far as the store knows."""
    from rtl_utils.runs import BACKBONE

    needed = {run: run.backbone().key for run in runs if run.needs_backbone}
    needed |= {run: run.key for run in runs if run.method == BACKBONE}
    status = store.status(needed.values())
    diverged = {key for key, (how, _) in status.items() if how == "diverged"}
    return [run for run in runs if needed.get(run) not in diverged]


def _lacking(runs: Sequence["Run"], store: "Store") -> list["Run"]:
    """The runs whose rows the store lacks, one per key."""
    by_key = _by_key(runs)
    done = store.status(by_key)
    return [run for key, run in by_key.items() if key not in done]


def _by_key(runs: Sequence["Run"]) -> dict[str, "Run"]:
    """The first run of each key, in the order of the runs."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.key, run)
    return found


def _opening(name: str, every: int, lacking: int) -> str:
    return f"{name}: {counted(every, 'run')}: {every - lacking} stored, {lacking} to train"


def _summary(name: str, runs: Sequence["Run"], store: "Store") -> int:
    """Say how the runs ended; returns the exit status."""
    by_key = _by_key(runs)
    status = store.status(by_key)
    diverged = [key for key in by_key if key in status and status[key][0] == "diverged"]
    for key in diverged[:_NAMED]:
        run = by_key[key]
        complain(f"{run.in_words}: {status[key][1]}")
    lost = len(by_key) - len(status)
    if lost:
        complain(f"{counted(lost, 'run')} cannot be trained, as the backbone diverged")
    rest = f", {len(diverged)} of them diverged" if diverged else ""
    say(f"{name}: {len(status)} of {counted(len(by_key), 'run')} done{rest}")
    return 1 if lost else 0


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
