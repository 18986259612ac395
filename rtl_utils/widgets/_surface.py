"""The response surface: how the response of the synthetic task changes along the path."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rtl_utils.data import synthetic
from rtl_utils.data.synthetic import SPURIOUS
from rtl_utils.widgets.panels import Panel, slider
from rtl_utils.widgets.scenes import Curves, Heat, Line, Scene, Tick

_SHARED = 30  # features before this one belong to the source
_FEATURES = 50
_REACH = 2.0  # standard deviations on either side of the mean
_STEP = 0.25  # standard deviations between two values of an axis
_OFFSETS = np.arange(-_REACH, _REACH + _STEP, _STEP)
_STEPS = len(_OFFSETS)
_MIXED = "#D55E00"
_SOURCE = "#1c1c1c"
_TARGET = "#7F7F7F"


class Surface(NamedTuple):
    """Responses of both tasks over two features, less those where all features are at their mean.

    Args:
        across: (steps,) values of the feature in the columns.
        up: (steps,) values of the feature in the rows, the largest first.
        source: (steps, steps) responses of the source.
        target: (steps, steps) responses of the target.
    """

    across: np.ndarray
    up: np.ndarray
    source: np.ndarray
    target: np.ndarray

    def mixed(self, tau: float) -> np.ndarray:
        """(steps, steps) responses (1 - tau) source + tau target."""
        return (1 - tau) * self.source + tau * self.target

    def along_row(self, row: int) -> "Section":
        """The cross section through one row."""
        return Section(self.across, self.source[row], self.target[row])

    def along_column(self, column: int) -> "Section":
        """The cross section through one column."""
        return Section(self.up, self.source[:, column], self.target[:, column])


class Section(NamedTuple):
    """Responses of both tasks along one feature.

    Args:
        x: (steps,) values of the feature.
        source: (steps,) responses of the source.
        target: (steps,) responses of the target.
    """

    x: np.ndarray
    source: np.ndarray
    target: np.ndarray


class SurfacePanel(Panel):
    """Sliders for tau, two features, and the place of the cross sections.

    f_tau(x) = (1 - tau) f_s(x) + tau f_t(x),
    f_s(x) = sum_{i=0..29} sin x_i + x_i,  f_t(x) = sum_{i=20..49} cos x_i - x_i;
    two features vary within two standard deviations of their means, the others stay at theirs. What
    is shown is f_tau(x) - f_tau(mean): the others add a constant, which would hide all else. Both
    responses are taken at one x; the path of uncoupled transfer mixes two inputs as well.

    Args:
        seed: of the task, whose means and standard deviations are those of its source's training
            samples.

    Raises:
        ValueError: for another seed than `randomness.generator` takes.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(
            "The response along the path",
            "Move tau: the response to a spurious feature (0 to 19) fades, that to a feature of "
            "the target alone (30 to 49) appears, and the slope of a shared one (20 to 29) changes "
            "its sign. Shown is the response in raw units, (1 − tau) × source + tau × target, less "
            "its value where all features are at their mean; two features vary, the other 48 stay "
            "at their mean.",
        )
        x = synthetic("source", seed).x_train.numpy().astype(float)
        self._mean, self._spread = x.mean(0), x.std(0)
        self.tau = slider("tau", 0.5, 1.0, step=0.05)
        # wide features show their waves
        widest = int(self._spread[:SPURIOUS].argmax())
        widest_shared = SPURIOUS + int(self._spread[SPURIOUS:_SHARED].argmax())
        self.across = slider("feature across", widest, _FEATURES - 1)
        self.up = slider("feature up", widest_shared, _FEATURES - 1)
        self.place_across = slider("place across (sd)", 0.0, _REACH, _STEP, -_REACH)
        self.place_up = slider("place up (sd)", 0.0, _REACH, _STEP, -_REACH)
        self._of = lru_cache(maxsize=64)(self.surface)
        moved = [self.tau, self.across, self.up, self.place_across, self.place_up]
        self.build(moved, moved)

    def scene(self) -> Scene:
        """The surface as a map, and its cross sections through the framed cell."""
        across, up, tau = self.across.value, self.up.value, self.tau.value
        if across == up:
            raise ValueError(f"choose two different features; both are feature {across}")
        found = self._of(across, up)
        high = float(np.abs([found.source, found.target]).max())
        column, row = _nearest(self.place_across.value), _nearest(-self.place_up.value)
        heat = Heat(
            f"response, {-high:.1f} (white) to {high:.1f}",
            found.mixed(tau),
            -high,
            high,
            _name(across),
            _name(up),
            _ticks(found.across),
            _ticks(found.up),
            (row, column),
        )
        return [
            heat,
            _curves(across, found.along_row(row), tau, high, found.across[column]),
            _curves(up, found.along_column(column), tau, high, found.up[row]),
        ]

    def surface(self, across: int, up: int) -> Surface:
        """Responses of both tasks over two features, the others at their mean.

        Args:
            across: number of the feature in the columns.
            up: number of the feature in the rows.
        """
        columns = self._mean[across] + self._spread[across] * _OFFSETS
        rows = self._mean[up] + self._spread[up] * _OFFSETS[::-1]
        x = np.tile(self._mean, (_STEPS, _STEPS, 1))
        x[:, :, across] = columns
        x[:, :, up] = rows[:, None]
        source, target = (of(x) - of(self._mean) for of in (source_response, target_response))
        return Surface(columns, rows, source, target)


def source_response(x: np.ndarray) -> np.ndarray:
    """sum_{i=0..29} sin x_i + x_i of (..., 50) features in raw units."""
    used = x[..., :_SHARED]
    return np.asarray((np.sin(used) + used).sum(-1))


def target_response(x: np.ndarray) -> np.ndarray:
    """sum_{i=20..49} cos x_i - x_i of (..., 50) features in raw units."""
    used = x[..., SPURIOUS:]
    return np.asarray((np.cos(used) - used).sum(-1))


def _curves(feature: int, section: Section, tau: float, high: float, place: float) -> Curves:
    x, source, target = section
    lines = [
        Line("source", x, source, _SOURCE, dashed=True),
        Line("target", x, target, _TARGET, dashed=True),
        Line(f"tau = {tau:.2f}", x, (1 - tau) * source + tau * target, _MIXED),
    ]
    title = f"cross section: {_name(feature)}"
    labels = ("feature, raw units", "response")
    ends = (float(x.min()), float(x.max()))
    return Curves(title, lines, *labels, ends, (-high, high), cursor=float(place))


def _nearest(offset: float) -> int:
    """Place on the axis of a number of standard deviations."""
    return int(np.abs(_OFFSETS - offset).argmin())


def _name(feature: int) -> str:
    if feature < SPURIOUS:
        return f"feature {feature} (spurious)"
    return f"feature {feature} ({'shared' if feature < _SHARED else 'target only'})"


def _ticks(values: np.ndarray) -> list[Tick]:
    """The ends and the middle of an axis."""
    return [(k, f"{values[k]:.1f}") for k in (0, len(values) // 2, len(values) - 1)]
