"""LIME: which features each model relies on around a point, and over all points."""

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from rtl_utils import experiments, tables
from rtl_utils.data import DATASETS
from rtl_utils.data.synthetic import SPURIOUS
from rtl_utils.plotting import colour
from rtl_utils.probing import lime_weights
from rtl_utils.runs import BACKBONE, Run
from rtl_utils.store import Store
from rtl_utils.training import Sgd
from rtl_utils.widgets.panels import Panel, buttons, slider
from rtl_utils.widgets.scenes import Bars, Scene

_FILE = "lime.npz"
_METHODS = ("ft", "ut", "scratch")
_POINTS = 100  # explained per model
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


def stored_weights() -> dict[str, np.ndarray]:
    """Model -> (points, features) weights of seed 0 that come with the package."""
    with files(__package__).joinpath("stored", _FILE).open("rb") as file:
        arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
        return {name: arrays[name].astype(np.float32) for name in (BACKBONE, *_METHODS)}


def stored_runs() -> dict[str, Run]:
    """Model -> its training: seed 0 with the defaults of the synthetic task."""
    record = DATASETS["synthetic"]
    sgd = Sgd(epochs=record.epochs, batch_size=64, **record.sgd)
    source_sgd = Sgd(epochs=record.source_epochs or record.epochs, **record.source_sgd)
    source, target = record.pairs[0]
    first = Run(
        "synthetic",
        source,
        target,
        _METHODS[0],
        seed=0,
        width=record.width,
        sgd=sgd,
        source_sgd=source_sgd,
    )
    transfers = {name: replace(first, method=name) for name in _METHODS}
    return {BACKBONE: first.backbone()} | transfers


def write_stored() -> None:
    """Train the models whose weights come with the package anew, and write their file."""
    runs = stored_runs()
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        experiments.run(list(runs.values()), store)
        for name, run in runs.items():
            _, task = experiments.tasks(run)
            net = experiments.network(run, store)
            weights, _ = lime_weights(net, task, range(_POINTS), run.seed)
            arrays[name] = weights.astype(np.float16)
    header = json.dumps({"keys": {name: run.key for name, run in runs.items()}})
    place = files(__package__).joinpath("stored", _FILE)
    np.savez_compressed(Path(str(place)), header=np.array(header), **arrays)  # type: ignore[arg-type]


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
