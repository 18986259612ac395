"""Images per class: what few target images do to flips and accuracy, one dot per seed."""

import pandas as pd

from rtl_utils import tables
from rtl_utils.claims import CHANCE
from rtl_utils.methods import METHODS
from rtl_utils.plotting import colour
from rtl_utils.statistics import mean_interval
from rtl_utils.widgets.panels import Panel, buttons, choice
from rtl_utils.widgets.rows import stored
from rtl_utils.widgets.scenes import Dots, Group, Scene

_SWEEPS = ("digits", "digits-methods")  # of the same data set
_ALWAYS = {"scratch": "scratch", "ft": "FT", "ut": "UT"}  # as the dots are named
_PERCENT = 100
_CHANCE = (_PERCENT * CHANCE, "chance")


class SizesPanel(Panel):
    """Buttons for the images per class; one more method can be chosen beside the usual three.

    Raises:
        FileNotFoundError: outside the course's checkout, which holds the rows.
    """

    def __init__(self) -> None:
        super().__init__(
            "Images per class (cluttered digits)",
            "The source has the shortcut on one class, the target images are clean. Flips are the "
            "predictions that change when the shortcut is added; accuracy is without it. "
            "Choose how many target images there are per class. Each dot is one seed, the bar "
            "beside the dots the 95 % interval of their mean. FT is fine-tuning, UT uncoupled "
            "transfer.",
        )
        rows = pd.concat([tables.shortcut_at_test(stored(name)) for name in _SWEEPS])
        setting = ["run", "n_train", "epochs", "metric"]  # a run may stand in both sweeps
        self._rows = tables.by_images(rows.drop_duplicates(setting))
        found = set(rows.method)
        others = [m for m in METHODS if m in found and m not in _ALWAYS]
        self.size = buttons("images per class", [(text, text) for text in self._rows], "all")
        more = [("none", ""), *((f"{tables.label(m)} ({m})", m) for m in others)]
        self.other = choice("one more method", more, "")
        self.build([self.size, self.other], [self.size, self.other])

    def scene(self) -> Scene:
        """Flips and accuracy, one column of dots per method."""
        rows = self._rows[self.size.value]
        names = [*_ALWAYS, *([self.other.value] if self.other.value else [])]
        where = tables.images_text(self.size.value)
        absent = [name for name in names if name not in set(rows.method)]
        if absent:
            where += f"; no runs of {absent[0]}"
        flips = [_group(rows, "flip_rate", name) for name in names]
        accuracies = [_group(rows, "clean_accuracy", name) for name in names]
        axis = (0.0, float(_PERCENT))
        return [
            Dots(f"flips, {where}", flips, "flips, % of predictions", axis),
            Dots(f"accuracy, {where}", accuracies, "accuracy, %", axis, _CHANCE),
        ]


def _group(rows: pd.DataFrame, metric: str, method: str) -> Group:
    """The values of a method in percent; none where it was not run."""
    chosen = rows.value[(rows.method == method) & (rows.metric == metric)]
    values = _PERCENT * chosen.to_numpy(dtype=float)
    ends = None
    if len(values):
        found = mean_interval(values.tolist())
        ends = (found.low, found.mean, found.high)
    return Group(_ALWAYS.get(method, method), values, colour(method), ends)
