"""Helpers of the course: does a fine-tuned network inherit the shortcuts of its first task?

What a student, a researcher and an engineer import stands here; a module is loaded when one of its
names is used, so that `rtl --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtl_utils.coupled import Coupled
    from rtl_utils.data import Shortcut, Task, load, plant
    from rtl_utils.experiments import network, run
    from rtl_utils.methods import METHODS, Method, Setup, pretrain, transfer
    from rtl_utils.models import Net, build, predict
    from rtl_utils.paths import Path
    from rtl_utils.probing import flip_rate, lime_weights, shortcut_test
    from rtl_utils.runs import Run
    from rtl_utils.settings import check
    from rtl_utils.store import Store
    from rtl_utils.training import Replica, Sgd, fit

__version__ = "0.2.0"

_HOMES = {
    "Coupled": "coupled",
    "METHODS": "methods",
    "Method": "methods",
    "Net": "models",
    "Path": "paths",
    "Replica": "training",
    "Run": "runs",
    "Setup": "methods",
    "Sgd": "training",
    "Shortcut": "data",
    "Store": "store",
    "Task": "data",
    "build": "models",
    "check": "settings",
    "fit": "training",
    "flip_rate": "probing",
    "lime_weights": "probing",
    "load": "data",
    "network": "experiments",
    "plant": "data",
    "predict": "models",
    "pretrain": "methods",
    "run": "experiments",
    "shortcut_test": "probing",
    "transfer": "methods",
}

__all__ = [
    "METHODS",
    "Coupled",
    "Method",
    "Net",
    "Path",
    "Replica",
    "Run",
    "Setup",
    "Sgd",
    "Shortcut",
    "Store",
    "Task",
    "build",
    "check",
    "fit",
    "flip_rate",
    "lime_weights",
    "load",
    "network",
    "plant",
    "predict",
    "pretrain",
    "run",
    "shortcut_test",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
