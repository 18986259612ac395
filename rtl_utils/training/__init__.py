"""Training: `fit`, the one loop, what it takes and what it gives back."""

from rtl_utils.training.loop import VERSION, check_device, example_loss, fit, one_thread
from rtl_utils.training.records import Callback, History, Replica, TrainingDiverged
from rtl_utils.training.sgd import Sgd

__all__ = [
    "VERSION",
    "Callback",
    "History",
    "Replica",
    "Sgd",
    "TrainingDiverged",
    "check_device",
    "example_loss",
    "fit",
    "one_thread",
]
