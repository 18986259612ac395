"""Runs that a sweep's tasks describe by their parameters alone: no notebook says what they are."""

from collections.abc import Sequence

from rtl_utils import folders, headless
from rtl_utils.grid import Sweep, Task
from rtl_utils.runs import Run
from rtl_utils.settings import read

_NOTEBOOK = "trainings.ipynb"


def is_declared(task: Task) -> bool:
    """Whether a task's parameters alone say its runs: its notebook is `sweeps/trainings.ipynb`."""
    return task.notebook == (folders.root() / "sweeps" / _NOTEBOOK).resolve()


def check(sweep: Sweep) -> None:
    """Raises ValueError for a sweep with a task whose runs its notebook alone knows."""
    for task in sweep.tasks:
        if not is_declared(task):
            raise ValueError(
                f"{sweep.name} has the notebook {task.notebook.name}, whose runs are known when it "
                f"is executed, as `rtl batch` does; `rtl train` takes sweeps of {_NOTEBOOK}"
            )


def runs(tasks: Sequence[Task]) -> list[Run]:
    """The runs that declared tasks ask for, with their backbones, as their notebook would.

    Args:
        tasks: all of them declared.

    Returns:
        Each run once, in the order of the tasks. Runs that differ only in what they do not read
        share a key, and are all there.

    Raises:
        ValueError: for a parameter whose value its notebook would refuse by itself.
    """
    found: dict[Run, None] = {}
    for task in tasks:
        settings = read(headless.default_parameters(task.notebook) | task.parameters)
        transfers = settings.trainings()
        backbones = [run.backbone() for run in transfers if run.needs_backbone]
        found |= dict.fromkeys([*transfers, *backbones])
    return list(found)
