"""The parameters of a notebook: one table, and one call that checks them before any training."""

from rtl_utils.settings.parameters import PARAMETERS, Parameter
from rtl_utils.settings.reading import check, read, validate
from rtl_utils.settings.records import Settings
from rtl_utils.settings.trials import Tried

__all__ = [
    "PARAMETERS",
    "Parameter",
    "Settings",
    "Tried",
    "check",
    "read",
    "validate",
]
