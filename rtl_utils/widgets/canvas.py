"""The canvas of a panel: draws a scene in the browser, fed with arrays."""

from importlib.resources import files
from typing import Any

import anywidget
import traitlets

from rtl_utils.widgets.scenes import Scene


def script(name: str) -> str:
    """Text of a file that the browser gets, such as "charts.js"."""
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


class Canvas(anywidget.AnyWidget):
    """Draws one scene after the other, in place."""

    _esm = script("charts.js") + script("canvas.js")
    _css = script("charts.css")
    scene: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def show(self, scene: Scene) -> None:
        """Draw a scene instead of the one before."""
        self.scene = [chart.state() for chart in scene]
