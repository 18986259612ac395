"""A panel: controls, and below them a canvas that follows."""

import base64
import html
import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw

from rtl_utils import progress
from rtl_utils.widgets.canvas import Canvas
from rtl_utils.widgets.pictures import picture
from rtl_utils.widgets.scenes import Scene

CLASSES = "A class of the source and one of the target share an output, written source/target."
_STYLE = {"description_width": "9.5em"}
_WIDE = {"width": "100%", "max_width": "34em"}


class Panel(ipw.VBox):
    """Controls above a canvas that follows them; a picture where nothing can be moved.

    A subclass makes its controls, then calls `build`.

    Args:
        title: heading of the panel.
        about: one or two sentences below it: what to move, and what to look at.
    """

    def __init__(self, title: str, about: str) -> None:
        super().__init__()
        self.title = title
        self.canvas = Canvas()
        self._heading = ipw.HTML(
            f"<h2 style='margin:0; font-size:1.2em'>{title}</h2><p>{about}</p>"
        )
        self._message = ipw.HTML()
        self._message.add_class("rtl-message")
        self.add_class("rtl-panel")

    def build(self, controls: Sequence[ipw.Widget], moved: Sequence[ipw.Widget]) -> None:
        """Lay the panel out and show its first scene.

        Args:
            controls: from top to bottom.
            moved: those whose value the scene depends on.
        """
        self.children = [self._heading, *controls, self._message, self.canvas]
        for control in moved:
            control.observe(lambda _: self.follow(), names="value")
        self.follow()

    def scene(self) -> Scene:
        """What the controls ask for.

        Raises:
            ValueError: for an entry that cannot be; its sentence is shown in the panel.
        """
        raise NotImplementedError

    def follow(self) -> None:
        """Draw what the controls ask for, or say in words why that cannot be."""
        if self.tried(lambda: self.canvas.show(self.scene())):
            self.say("")

    def tried(self, work: Callable[[], object]) -> bool:
        """Whether the work was done; if an entry was bad, the panel says why."""
        try:
            work()
        except ValueError as error:
            self.say(str(error))
            return False
        except Exception as error:
            self.say(f"This failed: {type(error).__name__}: {error}")
            raise
        return True

    def say(self, text: str) -> None:
        """Show a sentence above the canvas; "" removes it."""
        self._message.value = f"<p role='status'>{html.escape(text)}</p>" if text else ""

    def picture(self) -> bytes:
        """What the panel shows now, as a PNG."""
        return picture(self.scene(), self.title)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The panel itself and a picture of it; in a headless run the picture alone."""
        shown = {
            "text/plain": f"{self.title} (run the notebook to move its controls)",
            "image/png": base64.b64encode(self.picture()).decode(),
        }
        if progress.FILE in os.environ:
            return shown
        live = super()._repr_mimebundle_(**kwargs)
        data, metadata = live if isinstance(live, tuple) else (live, {})
        return {**(data or {}), **shown}, metadata


def slider(
    name: str, value: float, highest: float, step: float = 1, lowest: float = 0
) -> ipw.IntSlider | ipw.FloatSlider:
    """A slider over whole numbers, or over numbers where the step is none.

    Args:
        name: what it moves.
        value: at first.
        highest: value.
        step: between two values.
        lowest: value.
    """
    kind = ipw.IntSlider if step == int(step) else ipw.FloatSlider
    layout = ipw.Layout(**_WIDE)
    limits = {"min": lowest, "max": highest, "step": step}
    return kind(value=value, description=name, style=_STYLE, layout=layout, **limits)


def buttons(name: str, options: Sequence[tuple[str, Any]], value: Any) -> ipw.ToggleButtons:
    """A row of buttons of which one is pressed.

    Args:
        name: what they choose.
        options: (text, value) of each.
        value: of the one that is pressed at first.
    """
    made = ipw.ToggleButtons(options=options, value=value, description=name, style=dict(_STYLE))
    made.style.button_width = "auto"
    return made


def choice(name: str, options: Sequence[tuple[str, Any]], value: Any) -> ipw.Dropdown:
    """A list to choose from.

    Args:
        name: what is chosen.
        options: (text, value) of each.
        value: that is chosen at first.
    """
    layout = ipw.Layout(**_WIDE)
    return ipw.Dropdown(options=options, value=value, description=name, style=_STYLE, layout=layout)


def text(name: str, value: str) -> ipw.Text:
    """A field for a text.

    Args:
        name: what is entered.
        value: at first.
    """
    layout = ipw.Layout(**_WIDE)
    return ipw.Text(value=value, description=name, style=_STYLE, layout=layout)


def row(*controls: ipw.Widget) -> ipw.Box:
    """Controls beside each other, as far as there is room."""
    layout = ipw.Layout(display="flex", flex_flow="row wrap", grid_gap="0 24px")
    return ipw.Box(list(controls), layout=layout)
