"""The path: how tau changes an example, its label, and what the networks answer."""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import ipywidgets as ipw
import numpy as np
import torch

from rtl_utils import plotting, tables
from rtl_utils.coupled import feature_cost
from rtl_utils.couplings import transport
from rtl_utils.paths import Path
from rtl_utils.widgets.panels import CLASSES, Panel, buttons, row, slider
from rtl_utils.widgets.recordings import TAUS, Recording, answers, stored
from rtl_utils.widgets.scenes import Bars, Image, Scene

_PAIRS = 40  # that the slider reaches
_LABEL = "#1c1c1c"
_BLENDS = {"mixup": "mixup", "mixture": "mixture", "annealed": "Beta"}


class _Examples(NamedTuple):
    """One pair along the path.

    Args:
        ends: source and target image, (height, width, 3) uint8.
        x: (taus, ...) network inputs.
        y: (taus, k) soft labels.
        answers: network -> (taus, k) probabilities.
    """

    ends: tuple[np.ndarray, np.ndarray]
    x: torch.Tensor
    y: np.ndarray
    answers: dict[str, np.ndarray]


class PathPanel(Panel):
    """Sliders for tau and the pair, buttons for blend and coupling.

    The examples are those of the first epoch of a training along the path.

    Args:
        recording: whose networks answer; None for the stored one.
    """

    def __init__(self, recording: Recording | None = None) -> None:
        super().__init__(
            "The path from source to target",
            "Move tau: the example and its label change from source to target. The networks say "
            f"which class they see. {CLASSES}",
        )
        self._recording = recording or stored()
        source, target = self._recording.tasks
        self._path = Path(target, source)
        classes = zip(source.class_names, target.class_names, strict=True)
        self._names = [f"{a}/{b}" for a, b in classes]
        self.tau = slider("tau", 0.5, 1, step=0.05)
        self.pair = slider("image pair", 1, min(_PAIRS, len(self._path)), lowest=1)
        self.blend = buttons("blend", [(text, name) for name, text in _BLENDS.items()], "mixup")
        kinds = [("independent", "independent"), ("optimal transport", "transport")]
        self.coupling = buttons("coupling", kinds, "independent")
        self._of = lru_cache(maxsize=64)(self._examples)
        self._coupled = lru_cache(maxsize=2)(self._with_coupling)
        moved: list[ipw.Widget] = [self.tau, self.pair, self.blend, self.coupling]
        self.build([self.tau, self.pair, row(self.blend, self.coupling)], moved)

    def scene(self) -> Scene:
        """Source image, example and target image; the soft label; one answer per network."""
        found = self._of(self.pair.value - 1, self.blend.value, self.coupling.value)
        k = int(np.abs(TAUS - self.tau.value).argmin())
        first, last = found.ends
        pictures = [
            Image("source", first),
            Image(f"tau = {TAUS[k]:.2f}", _pixels(found.x[k])),
            Image("target", last),
        ]
        charts = [Bars("soft label", self._names, found.y[k], [_LABEL])]
        for name, shares in found.answers.items():
            charts.append(Bars(tables.label(name), self._names, shares[k], [plotting.colour(name)]))
        return [*pictures, *charts]

    def _examples(self, pair: int, blend: str, coupling: str) -> _Examples:
        """The pair at every value of tau, answered in one batch per network."""
        path = replace(self._coupled(coupling), blend=blend)
        seed = self._recording.run.seed
        rows = slice(pair, pair + 1)
        mixed = [path.batch(path.draw(tau, seed, epoch=0), rows) for tau in TAUS]
        x, y = (torch.cat(parts) for parts in zip(*mixed, strict=True))
        start = path.draw(0.0, seed, epoch=0)
        assert start.source is not None
        assert path.source is not None
        ends = (path.source.x_train[start.source[pair]], path.target.x_train[start.target[pair]])
        nets = self._recording.at(self._recording.epochs[-1])
        return _Examples(
            (_pixels(ends[0]), _pixels(ends[1])),
            x,
            y.numpy(),
            {name: answers(net, x) for name, net in nets.items()},
        )

    def _with_coupling(self, kind: str) -> Path:
        if kind == "independent":
            return self._path
        self.say("The coupling is computed; with many images it takes some seconds.")
        cost = feature_cost(self._path, self._recording.backbone)
        return replace(self._path, coupling=transport(cost))


def _pixels(x: torch.Tensor) -> np.ndarray:
    """(height, width, 3) uint8 of a raw image or a network input."""
    raw = x if x.dtype == torch.uint8 else ((x * 0.25 + 0.5) * 255).round().clamp(0, 255)
    return np.asarray(raw.permute(1, 2, 0).to(torch.uint8).numpy())
