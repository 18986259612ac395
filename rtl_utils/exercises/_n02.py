"""Exercises of notebook 02: LIME."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from rtl_utils.data import Task
from rtl_utils.exercises._answers import ROUNDING, by_case, compare, function, values
from rtl_utils.exercises._records import Exercise, Wrong
from rtl_utils.models import Net
from rtl_utils.probing import lime_weights

_WIDTH = 0.75  # of the kernel, in roots of the number of features
_FREQUENCIES = (0.1, 0.5, 1.0, 2.0, 3.0)
_POINTS = 5
_SEEDS = 5
_SIZES = (250, 1_000, 4_000)
_SOLVED = 1e-6  # of a linear system in double precision whose inputs went through single precision

Explain = Callable[..., np.ndarray]


def _weight(distance: float, width: float) -> float:
    return float(np.exp(-(distance**2) / (2 * width**2)))


_KERNEL_MISTAKES: dict[str, Callable[[float, int], float]] = {
    "this is the textbook's kernel; the library takes its square root": lambda r, d: (
        _weight(r, _WIDTH * d**0.5) ** 2
    ),
    "the width must grow with the number of features: it is 0.75 √d": lambda r, d: _weight(
        r, _WIDTH * 50**0.5
    ),
    "the distance enters as its square": lambda r, d: _weight(r**0.5, _WIDTH * d**0.5),
    "the width enters as its square": lambda r, d: _weight(r, (_WIDTH * d**0.5) ** 0.5),
    "the width is 0.75 √d, not 0.75 d": lambda r, d: _weight(r, _WIDTH * d),
    "a perturbation that is farther away must count less: mind the sign": lambda r, d: (
        1 / _weight(r, _WIDTH * d**0.5)
    ),
}


def _kernel(answer: Any) -> str:
    answer = function(answer, "kernel(distance, d)")
    cases = [(0.0, 50), (50**0.5, 50), (2**0.5, 2), (1.0, 50), (7.0, 50), (10.0, 100), (3.0, 5)]
    found = values(answer, cases, "one weight")
    right = [_weight(r, _WIDTH * d**0.5) for r, d in cases]

    def otherwise(k: int) -> str:
        r, d = cases[k]
        return (
            f"at distance {r:.3g} in {d} dimensions the weight is {right[k]:.4f}, "
            f"and your function returns {found[k]:.4g}"
        )

    compare(found, right, by_case(_KERNEL_MISTAKES, cases), otherwise)
    return (
        f"a perturbation at the typical distance √d has the weight {right[1]:.3f} for any d, "
        "as the width grows with √d too"
    )


def _wave(answer: Any, *, explain: Explain) -> str:
    answer = function(answer, "wave_weight(frequency), such as wave_weight(3.0)")
    cases = [(frequency,) for frequency in _FREQUENCIES]
    found = values(answer, cases, "one weight")
    if values(answer, cases, "one weight") != found:
        raise Wrong(
            "two calls with one frequency differ: make a new RandomState(0) inside the function"
        )

    weights = partial(_weights_of_wave, explain)
    mistakes: dict[str, Callable[[float], float]] = {
        "this is the slope at the point; use `explain`": lambda f: f,
        "this is the weight of another feature: feature 0 has the place [0]": lambda f: weights(f)[
            1
        ],
        "this is the weight of a cosine": lambda f: weights(f, phase=np.pi / 2)[0],
        "take the weight of feature 0, not the sum of all weights": lambda f: weights(f).sum(),
        "take the random numbers of `np.random.RandomState(0)`": lambda f: weights(f, seed=1)[0],
        "explain the point 0, `np.zeros(50)`": lambda f: weights(f, point=1.0)[0],
        "the frequency must be inside the sine": lambda f: f * weights(1.0)[0],
    }

    def otherwise(k: int) -> str:
        return (
            f"for the frequency {_FREQUENCIES[k]:g} your function returns {found[k]:.4f}, which is "
            "not LIME's weight of feature 0 of sin(frequency · x0) in 50 dimensions at the point "
            "0, with scale 1"
        )

    right = [float(weights(f)[0]) for f in _FREQUENCIES]
    compare(found, right, by_case(mistakes, cases), otherwise, _SOLVED)
    most = _FREQUENCIES[int(np.argmax(right))]
    return (
        f"where the slope at the point is 3, LIME gives {right[-1]:.2f}, and of these frequencies "
        f"{most:g} has the largest weight; so a small weight does not prove that a feature is "
        "unused"
    )


def _weights_of_wave(
    explain: Explain, frequency: float, seed: int = 0, point: float = 0.0, phase: float = 0.0
) -> np.ndarray:
    """(50,) weights of sin(frequency x0 + phase) at a point whose features are all the same."""

    def wave(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(frequency * x[:, 0] + phase))

    return explain(wave, np.full(50, point), 1.0, np.random.RandomState(seed))


_ERROR_MISTAKES: dict[str, Callable[[np.ndarray], float]] = {
    "take the standard deviation with ddof=1: five values are a sample": lambda w: w.std(0).mean(),
    "this is the spread over features; take it over the five seeds": lambda w: w.std(
        2, ddof=1
    ).mean(),
    "this is the spread over points; take it over the five seeds": lambda w: w.std(
        1, ddof=1
    ).mean(),
    "this is the spread of all weights together; take it over the five seeds": lambda w: w.std(
        ddof=1
    ),
    "this is the mean |weight|; take the standard deviation over the seeds": lambda w: np.abs(
        w
    ).mean(),
    "this is the mean of variances; take their square roots before the mean": lambda w: w.var(
        0, ddof=1
    ).mean(),
    "all five explanations have one seed, so they do not differ": lambda w: 0.0,
    "average the standard deviations, not the weights over points": lambda w: (
        w.mean(1).std(0, ddof=1).mean()
    ),
    "five points are asked for; this is the first one alone": lambda w: (
        w[:, 0].std(0, ddof=1).mean()
    ),
}


def _error(answer: Any, *, net: Net, task: Task) -> str:
    answer = function(answer, "lime_error(net, task, samples)")
    turned = replace(task, x_val=task.x_val.flip(0), y_val=task.y_val.flip(0))
    cases = [(net, task, 200), (net, task, 400), (net, turned, 200)]
    found = values(answer, cases, "one number")
    drawn = [_explained(*case) for case in cases]  # (seeds, points, features) each
    right = [_spread(weights) for weights in drawn]
    if found[0] == found[2] > ROUNDING:
        raise Wrong("your function does not explain the points of the task that it is given")
    if found[0] == found[1] > ROUNDING:
        raise Wrong("your function does not take as many perturbations as `samples` says")

    def otherwise(k: int) -> str:
        return (
            f"with {cases[k][2]} perturbations your function returns {found[k]:.5f}, which is not "
            "the mean over points and features of the standard deviation over the seeds 0 to 4"
        )

    mistakes = by_case(_ERROR_MISTAKES, [(weights,) for weights in drawn])
    compare(found, right, mistakes, otherwise)
    errors = [_spread(_explained(net, task, size)) for size in _SIZES]
    listed = ", ".join(f"{e:.4f} with {n:,}" for n, e in zip(_SIZES, errors, strict=True))
    factors = " and ".join(f"{a / b:.1f}" for a, b in pairwise(errors))
    return (
        f"the error of one weight is {listed} perturbations, so four times as many divide it by "
        f"{factors}"
    )


def _spread(weights: np.ndarray) -> float:
    """Mean over points and features of the standard deviation over seeds."""
    return float(weights.std(0, ddof=1).mean())


def _explained(net: Net, task: Task, samples: int) -> np.ndarray:
    """(seeds, points, features) weights."""
    points = range(_POINTS)
    return np.stack([lime_weights(net, task, points, s, samples)[0] for s in range(_SEEDS)])


EXERCISES = (
    Exercise(
        "02.1",
        10,
        (
            "The kernel stands below the table of symbols' equation: π(z) as a function of ‖z‖² "
            "and ω. `distance` is ‖z‖.",
            "Insert ω = 0.75 √d; in ω² the root is gone. At ‖z‖² = d something cancels.",
        ),
        _kernel,
    ),
    Exercise(
        "02.2",
        20,
        (
            "`explain` takes a function of an array with one row per perturbation; `x[:, 0]` is "
            "its first feature.",
            "Define the wave inside your function, and make the random state there too. `explain` "
            "returns one weight per feature.",
        ),
        _wave,
    ),
    Exercise(
        "02.3",
        45,
        (
            "`probing.lime_weights(net, task, range(5), seed, samples)` returns the weights, one "
            "row per point, and R². Put the weights of the five seeds into one array.",
            "`np.stack` makes an array of shape (seeds, points, features); the spread is taken "
            "along its first axis, as of a sample.",
        ),
        _error,
    ),
)
