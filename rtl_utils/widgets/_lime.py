"""LIME: which features each model relies on around a point, and over all points."""

from collections.abc import Mapping

import numpy as np

from rtl_utils import tables
from rtl_utils.data.synthetic import SPURIOUS
from rtl_utils.plotting import colour
from rtl_utils.widgets.explanations import stored_weights
from rtl_utils.widgets.panels import Panel, buttons, slider
from rtl_utils.widgets.scenes import Bars, Scene

_USED = "#C8C8C8"  # of the features that are not spurious
_SPACE = 1.05  # length of the axis, in longest bars
_EVERY = 10  # features between two labels


class LimePanel(Panel):
    """A slider over explained points, or the mean over all of them.

    Args:
        weights: model ("backbone" or a method) -> (points, features) weights of
            `probing.lime_weights`, as many points and features for each; None for those that come
            with the package.

    Raises:
        ValueError: for weights of other shapes, that are not finite, or of an unknown model.
    """

    def __init__(self, weights: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(
            f"LIME: one bar per feature; 0 to {SPURIOUS - 1}, in colour, are spurious",
            "Choose a point: each bar is the change of the model's output per standard deviation "
            "of a feature, around that point. Which models rely on the spurious features of the "
            "target? The backbone is explained on points of the source, the others on points of "
            "the permuted target.",
        )
        self._weights = _checked(stored_weights() if weights is None else weights)
        self._colours = {name: colour(name) for name in self._weights}
        (points, _) = next(iter(self._weights.values())).shape
        shown = [("one point", "point"), ("mean |weight| over all points", "mean")]
        self.shown = buttons("shown", shown, "point")
        self.point = slider("point", 0, points - 1)
        self.build([self.shown, self.point], [self.shown, self.point])

    def follow(self) -> None:
        """Draw what is asked for; the mean over all points needs no point."""
        self.point.disabled = self.shown.value == "mean"
        super().follow()

    def scene(self) -> Scene:
        """One bar per feature and one chart per model, all on one axis."""
        if self.shown.value == "mean":
            bars = {name: np.abs(w).mean(0) for name, w in self._weights.items()}
            high = _SPACE * max(float(values.max()) for values in bars.values())
            return self._charts(bars, 0.0, high, "mean |weight|")
        bars = {name: w[self.point.value] for name, w in self._weights.items()}
        high = _SPACE * max(float(np.abs(w).max()) for w in self._weights.values())
        return self._charts(bars, -high, high, "LIME weight")

    def _charts(
        self, bars: Mapping[str, np.ndarray], low: float, high: float, ylabel: str
    ) -> list[Bars]:
        charts = []
        for name, values in bars.items():
            n = len(values)
            labels = [str(k) if k % _EVERY == 0 else "" for k in range(n)]
            colours = [self._colours[name]] * SPURIOUS + [_USED] * (n - SPURIOUS)
            charts.append(Bars(tables.label(name), labels, values, colours, low, high, ylabel))
        return charts


def _checked(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {name: np.asarray(values) for name, values in weights.items()}
    shapes = {name: values.shape for name, values in found.items()}
    usable = all(len(shape) == 2 and shape[0] and shape[1] > SPURIOUS for shape in shapes.values())
    if len(set(shapes.values())) != 1 or not usable:
        raise ValueError(
            "weights must be one (points, features) array per model, all of one shape, with a "
            f"point at least and more than {SPURIOUS} features; got the shapes {shapes}"
        )
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ValueError(f"weights must be finite; those of {name!r} are not")
    return found
