"""The page of all panels: one at a time, made when it is first asked for."""

import html
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
    "The response": SurfacePanel,
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
            try:
                made[name] = _PANELS[name]()
            except (ValueError, OSError) as error:
                shown.children = [ipw.HTML(f"<p role='status'>{html.escape(str(error))}</p>")]
                return
        shown.children = [made[name]]

    choose.observe(show, names="value")
    show()
    whole = ipw.VBox([choose, shown])
    whole.add_class("rtl-page")
    return whole
