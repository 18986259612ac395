"""Training: `fit`, the one loop, what it takes and what it gives back."""

from rtl_utils.training._room import no_room
from rtl_utils.training._windows import VERSION as WINDOW_VERSION
from rtl_utils.training.loop import VERSION, example_loss, fit, one_thread
from rtl_utils.training.records import Callback, History, Replica, TrainingDiverged, Window
from rtl_utils.training.sgd import PULL_VERSION, Sgd, epochs_of

__all__ = [
    "PULL_VERSION",
    "VERSION",
    "WINDOW_VERSION",
    "Callback",
    "History",
    "Replica",
    "Sgd",
    "TrainingDiverged",
    "Window",
    "epochs_of",
    "example_loss",
    "fit",
    "no_room",
    "one_thread",
]
