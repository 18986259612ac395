"""The refit: what the backbone's answer to the shortcut is along the path, before any training."""

import copy
from functools import lru_cache
from typing import NamedTuple

import ipywidgets as ipw
import numpy as np

from rtl_utils import experiments
from rtl_utils.data import at_most
from rtl_utils.refits import refit
from rtl_utils.runs import Run
from rtl_utils.store import Store
from rtl_utils.widgets.panels import CLASSES, Panel, buttons, row, slider
from rtl_utils.widgets.recordings import answers
from rtl_utils.widgets.scenes import Bars, Image, Scene

_TAUS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)  # what matters happens close to the target
_SMOOTHINGS = (0.0, 0.03, 0.3)
_IMAGES = 40  # that the slider reaches
_WITHOUT, _WITH = "#7F7F7F", "#D55E00"


class _Answers(NamedTuple):
    """(n, k) probabilities of the target's validation images, without and with the shortcut."""

    clean: np.ndarray
    planted: np.ndarray


class RefitPanel(Panel):
    """A slider for tau of the refit, one for the image, and buttons for the smoothing.

    Args:
        run: a transfer from the backbone that is refitted, with a shortcut.
        store: that holds the backbone.

    Raises:
        ValueError: for data without a shortcut, or a backbone that is not in the store.
    """

    def __init__(self, run: Run, store: Store) -> None:
        super().__init__(
            "The refit",
            "Move tau: every layer of the backbone is refitted to the mixture of source and "
            "target, as many images of each, and nothing is trained. The bars say how it answers "
            f"to an image of the target without and with the shortcut. {CLASSES}",
        )
        if run.test is None:
            raise ValueError(f"{run.dataset} has no shortcut; take a data set of images")
        shortcut, self._label = run.test
        source, self._target = experiments.tasks(run)
        # as many images as the target has: a move of the slider should take no longer for tau < 1
        self._source = at_most(source, run.n_train, run.seed)
        self._planted = experiments.everywhere(self._target, shortcut, run.seed)
        self._backbone = experiments.network(run.backbone(), store)
        classes = zip(self._source.class_names, self._target.class_names, strict=True)
        self._names = [f"{a}/{b}" for a, b in classes]
        self._of = lru_cache(maxsize=len(_TAUS) * len(_SMOOTHINGS))(self._answers)
        self.tau = ipw.SelectionSlider(
            options=[(f"{tau:g}", tau) for tau in _TAUS], value=0.0, description="tau"
        )
        self.image = slider("image", 1, min(_IMAGES, len(self._target.y_val)), lowest=1)
        self.smoothing = buttons("smoothing", [(f"{s:g}", s) for s in _SMOOTHINGS], 0.03)
        self.tau.style, self.tau.layout = self.image.style, self.image.layout
        moved: list[ipw.Widget] = [self.tau, self.image, self.smoothing]
        self.build([self.tau, self.image, row(self.smoothing)], moved)

    def scene(self) -> Scene:
        """The image without and with the shortcut, both answers, and the shares of all images."""
        k = self.image.value - 1
        found = self._of(self.tau.value, self.smoothing.value)
        truth = self._target.class_names[int(self._target.y_val[k])]
        shares = [(part.argmax(1) == self._label).mean() for part in found]
        name = self._names[self._label]
        of_all = np.array(shares, dtype=float)
        return [
            Image(f"true class: {truth}", self._pixels(k, planted=False)),
            Image("with the shortcut", self._pixels(k, planted=True)),
            Bars("answer without it", self._names, found.clean[k], [_WITHOUT]),
            Bars("answer with it", self._names, found.planted[k], [_WITH]),
            Bars(
                f"share of all images in {name}",
                ["without", "with"],
                of_all,
                [_WITHOUT, _WITH],
                ylabel="share",
            ),
        ]

    def _answers(self, tau: float, smoothing: float) -> _Answers:
        """What the refitted backbone says of every validation image."""
        net = copy.deepcopy(self._backbone)
        refit(net, self._target, self._source, tau=tau, smoothing=smoothing)
        return _Answers(answers(net, self._target.x_val), answers(net, self._planted.x_val))

    def _pixels(self, k: int, planted: bool) -> np.ndarray:
        task = self._planted if planted else self._target
        return np.asarray(task.x_val[k].permute(1, 2, 0).numpy())
