"""The ball: where in an image it must lie to change what a network says."""

import math
from functools import lru_cache

import numpy as np
import torch

from rtl_utils import plotting, tables
from rtl_utils.data import Shortcut
from rtl_utils.data.shortcuts import blend_patch
from rtl_utils.widgets.panels import CLASSES, Panel, buttons, row, slider
from rtl_utils.widgets.recordings import Recording, answers, stored
from rtl_utils.widgets.scenes import Bars, Heat, Image, Scene

_IMAGES = 40  # that the slider reaches
_PLACES = 15  # of the map along one side, at most


class BallPanel(Panel):
    """Two sliders place the ball on a target image; a map shows the answer for every place.

    Args:
        recording: whose networks answer; None for the stored one.

    Raises:
        ValueError: for data without a shortcut.
    """

    def __init__(self, recording: Recording | None = None) -> None:
        super().__init__(
            "The ball",
            "Place the ball on an image of the target, or take it away. The map shows, for every "
            "place of the ball, the probability of the class that had the ball in the source. "
            f"{CLASSES}",
        )
        self._recording = recording or stored()
        self._shortcut, self._label = self._recording.shortcut
        source, target = self._recording.clean_tasks
        self._images = target.x_val[:_IMAGES]
        self._truth = [target.class_names[label] for label in target.y_val[:_IMAGES].tolist()]
        classes = zip(source.class_names, target.class_names, strict=True)
        self._names = [f"{a}/{b}" for a, b in classes]
        free = target.side - self._shortcut.pixels(target.side)
        step = max(
            1, math.ceil(free / (_PLACES - 1))
        )  # a patch as large as the image has one place
        self._places = np.arange(0, free + 1, step)  # pixels; a slider says which
        middle = int(self._places[len(self._places) // 2])
        last = int(self._places[-1])
        self.image = slider("image", 1, len(self._images), lowest=1)
        self.ball = buttons("ball", [("on the image", True), ("taken away", False)], True)
        self.down = slider("pixels from the top", middle, last, step)
        self.across = slider("pixels from the left", middle, last, step)
        nets = self._recording.at(self._recording.epochs[-1])
        kinds = [(tables.label(name), name) for name in nets]
        self.model = buttons("map of", kinds, kinds[-1][1])
        self._nets = nets
        self._planted = lru_cache(maxsize=_IMAGES)(self._with_ball)
        self._of = lru_cache(maxsize=3 * _IMAGES)(self._everywhere)
        moved = [self.image, self.ball, self.down, self.across, self.model]
        self.build([self.image, self.down, self.across, row(self.ball, self.model)], moved)

    def scene(self) -> Scene:
        """The image, each network's answer, and the map of the chosen one."""
        image = self.image.value - 1
        step = self.down.step
        place = (self.down.value // step, self.across.value // step)
        shown = self._planted(image)
        where = place[0] * len(self._places) + place[1] if self.ball.value else -1
        charts: list[Image | Bars | Heat] = [
            Image(f"true class: {self._truth[image]}", _rgb(shown[where]))
        ]
        for name in self._nets:
            found = self._of(image, name)[where]
            charts.append(Bars(tables.label(name), self._names, found, [plotting.colour(name)]))
        return [*charts, self._map(image, place)]

    def _map(self, image: int, place: tuple[int, int]) -> Heat:
        name = self.model.value
        side = len(self._places)
        values = self._of(image, name)[:-1, self._label].reshape(side, side)
        ticks = [(k, str(self._places[k])) for k in (0, side // 2, side - 1)]
        return Heat(
            f"{tables.label(name)}: probability of {self._names[self._label]}",
            values,
            0.0,
            1.0,
            xlabel="pixels from the left",
            ylabel="pixels from the top",
            xticks=ticks,
            yticks=ticks,
            cursor=place if self.ball.value else None,
        )

    def _everywhere(self, image: int, name: str) -> np.ndarray:
        """(places + 1, k) answers of one network in one batch; the last is without the ball."""
        return answers(self._nets[name], self._planted(image))

    def _with_ball(self, image: int) -> torch.Tensor:
        """The image with the ball at every place, and last without it."""
        side = len(self._places)
        corners = torch.from_numpy(np.stack(np.meshgrid(self._places, self._places, indexing="ij")))
        copies = self._images[image].expand(side * side + 1, -1, -1, -1)
        rows = torch.arange(side * side)
        places = torch.cat([corners.flatten(1).T, torch.zeros(1, 2, dtype=torch.int64)])
        patch = Shortcut(self._shortcut.patch, size=self._shortcut.size)
        return blend_patch(copies, rows, places, patch)


def _rgb(image: torch.Tensor) -> np.ndarray:
    return np.asarray(image.permute(1, 2, 0).numpy())
