"""Sliders: panels for notebooks and for the lecture page, and the explorer's page.

A panel is made by its class and shown as the last value of a cell. Where nothing can be moved, as
under papermill or on GitHub, it shows a picture.
"""

from rtl_utils.widgets._ball import BallPanel
from rtl_utils.widgets._epochs import EpochsPanel
from rtl_utils.widgets._lime import LimePanel
from rtl_utils.widgets._page import page
from rtl_utils.widgets._path import PathPanel
from rtl_utils.widgets._race import RacePanel
from rtl_utils.widgets._refit import RefitPanel
from rtl_utils.widgets._seeds import SeedsPanel
from rtl_utils.widgets._sizes import SizesPanel
from rtl_utils.widgets._surface import SurfacePanel
from rtl_utils.widgets.recordings import Recording, of_runs, stored

__all__ = [
    "BallPanel",
    "EpochsPanel",
    "LimePanel",
    "PathPanel",
    "RacePanel",
    "Recording",
    "RefitPanel",
    "SeedsPanel",
    "SizesPanel",
    "SurfacePanel",
    "of_runs",
    "page",
    "stored",
]
