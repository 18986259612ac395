"""The page of all panels: one at a time, made when it is first asked for."""

from collections.abc import Callable

import ipywidgets as ipw

from rtl_utils.widgets._ball import BallPanel
from rtl_utils.widgets._epochs import EpochsPanel
from rtl_utils.widgets._lime import LimePanel
from rtl_utils.widgets._path import PathPanel
from rtl_utils.widgets._race import RacePanel
from rtl_utils.widgets._seeds import SeedsPanel
from rtl_utils.widgets._sizes import SizesPanel
from rtl_utils.widgets._surface import SurfacePanel
from rtl_utils.widgets.panels import Panel
from rtl_utils.widgets.recordings import stored

_PANELS: dict[str, Callable[[], Panel]] = {
    "The path": lambda: PathPanel(stored()),
    "Epochs and tau": lambda: EpochsPanel(stored()),
    "The race": RacePanel,
    "The ball": lambda: BallPanel(stored()),
    "Images per class": SizesPanel,
    "How many seeds?": SeedsPanel,
    "LIME": LimePanel,
    "Response surface": SurfacePanel,
}


def page() -> ipw.VBox:
    """Every panel, behind a row of buttons."""
    choose = ipw.ToggleButtons(options=list(_PANELS))
    choose.style.button_width = "auto"
    shown = ipw.VBox()
    made: dict[str, Panel] = {}

    def show(_: object = None) -> None:
        name = choose.value
        if name not in made:
            made[name] = _PANELS[name]()
        shown.children = [made[name]]

    choose.observe(show, names="value")
    show()
    return ipw.VBox([choose, shown])
