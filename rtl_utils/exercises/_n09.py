"""Exercises of notebook 09: what fine-tuning cannot forget, and what a refit leaves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rtl_utils.exercises._answers import by_case, compare, function, table, values
from rtl_utils.exercises._records import Exercise
from rtl_utils.exercises._trained import beyond_scratch, final, shown, target_step
from rtl_utils.settings import Settings

AVERAGED = (0, 0.25, 0.5)  # shares of the last steps
_PROJECTED = 1e-6  # of a projection by least squares, however it is solved


def _kept(variances: np.ndarray, eps: float) -> float:
    """Mean square of what each axis keeps."""
    return float(np.mean((variances / (variances + eps)) ** 2))


_KEPT_MISTAKES: dict[str, Callable[[np.ndarray, float], Any]] = {
    "this is the mean share of the weights; the squared norm adds up their squares": lambda v, s: (
        np.mean(v / (v + s * v.mean()))
    ),
    "this is the square of the mean share; square first, then average": lambda v, s: (
        np.mean(v / (v + s * v.mean())) ** 2
    ),
    "ε is the smoothing times the mean variance, not their sum": lambda v, s: _kept(v, s * v.sum()),
    "ε is the smoothing times the mean variance, not the smoothing alone": _kept,
    "ε is the smoothing times the mean variance, not the largest one": lambda v, s: _kept(
        v, s * v.max()
    ),
    "this is what the filter loses; give what it keeps": lambda v, s: 1 - _kept(v, s * v.mean()),
    "this is the share of the norm; give that of the squared norm": lambda v, s: (
        _kept(v, s * v.mean()) ** 0.5
    ),
    "this is a sum over the axes; divide by their number": lambda v, s: (
        len(v) * _kept(v, s * v.mean())
    ),
}


def _filter(answer: Any) -> str:
    answer = function(answer, "kept_share(variances, smoothing)")
    cases: list[tuple[np.ndarray, float]] = [
        (np.array([4.0, 1.0, 0.25, 0.0]), 0.3),
        (np.array([1.0, 1.0]), 1.0),
        (np.array([9.0, 3.0, 1.0]), 0.03),
        (np.random.default_rng(0).exponential(2, 27), 0.3),
    ]
    found = values(answer, cases, "one share")
    right = [_kept(variances, smoothing * variances.mean()) for variances, smoothing in cases]

    def otherwise(k: int) -> str:
        variances, smoothing = cases[k]
        return (
            f"for the variances {variances.round(2).tolist()} and a smoothing of {smoothing:g} the "
            f"filter keeps {right[k]:.4f}, and your function returns {found[k]:.4f}"
        )

    compare(found, right, by_case(_KEPT_MISTAKES, cases), otherwise)
    return (
        f"of variances 4, 1, 0.25 and 0, at a smoothing of 0.3, {right[0]:.0%} of the squared norm "
        "is left: an axis without variance loses all, and one of small variance most"
    )


def _outside(weight: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """The part of each row of the weights that is orthogonal to all inputs."""
    inside: np.ndarray = weight @ np.linalg.pinv(inputs) @ inputs
    outside: np.ndarray = weight - inside
    return outside


def _share_outside(weight: np.ndarray, inputs: np.ndarray) -> float:
    return float(np.square(_outside(weight, inputs)).sum() / np.square(weight).sum())


def _unused(weight: np.ndarray, inputs: np.ndarray) -> float:
    """The share of directions, as if the weights were the same along all."""
    rank = int(np.linalg.matrix_rank(inputs))
    return 1 - rank / float(weight.shape[1])


_OUTSIDE_MISTAKES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "this is the part that training can change; give the other one": lambda w, x: (
        1 - _share_outside(w, x)
    ),
    "this is a share of the norm; square it": lambda w, x: _share_outside(w, x) ** 0.5,
    "do not centre the inputs: without a bias their mean is a direction that has a gradient": (
        lambda w, x: _share_outside(w, x - x.mean(0))
    ),
    "this is the share of directions that no input excites; weigh them by the weights": _unused,
    "this is a sum of squares; divide by that of all weights": lambda w, x: np.square(
        _outside(w, x)
    ).sum(),
    "these are the inputs that are 0 throughout; a direction can be a mixture of several": (
        lambda w, x: np.square(w[:, ~x.any(0)]).sum() / np.square(w).sum()
    ),
}


def _span(answer: Any) -> str:
    answer = function(answer, "untouched(weight, inputs)")
    cases = _layers()
    found = values(answer, cases, "one share")
    right = [_share_outside(*case) for case in cases]

    def otherwise(k: int) -> str:
        weight, inputs = cases[k]
        return (
            f"for weights of shape {weight.shape} and inputs of shape {inputs.shape} the share is "
            f"{right[k]:.4f}, and your function returns {found[k]:.4f}; project each row of the "
            "weights onto the span of the inputs"
        )

    compare(found, right, by_case(_OUTSIDE_MISTAKES, cases), otherwise, _PROJECTED)
    return (
        f"with {len(cases[0][1])} inputs of {cases[0][1].shape[1]} numbers {right[0]:.0%} of the "
        "squared weights can never change; few images leave much of a layer untouched"
    )


def _layers() -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Weights and inputs: few inputs, grey ones (three equal channels), and many of full rank."""
    random = np.random.default_rng(0)
    few = random.normal(1, 1, (4, 10))
    grey = np.repeat(random.normal(1, 1, (30, 3)), 3, axis=1)
    many = random.normal(0, 1, (40, 6))
    padded = np.pad(random.normal(1, 1, (20, 4)), ((0, 0), (0, 3)))
    inputs = (few, grey, many, padded)
    return [(random.normal(0, 1, (5, x.shape[1])), x) for x in inputs]


def _averaging(answer: Any, *, settings: Settings) -> str:
    found = table(answer, AVERAGED, "a difference of flip rates")
    size = settings.n_train[0]

    def flips(method: str, share: float) -> pd.Series:
        runs = shown(settings, settings.runs(method, biased=True, n_train=size))
        averaged = [replace(run, sgd=replace(run.sgd, averaged=float(share))) for run in runs]
        return final(settings, averaged).flip_rate

    tuned = pd.DataFrame({share: flips("ft", share) for share in AVERAGED})
    scratch = pd.DataFrame({share: flips("scratch", share) for share in AVERAGED})
    right, usual = beyond_scratch(settings, tuned, scratch)
    mistakes = usual | {
        "the reference must be averaged too; here every difference is from last weights": (
            tuned.mean() - scratch[0].mean()
        ).tolist(),
    }

    def otherwise(k: int) -> str:
        return (
            f"at the share {AVERAGED[k]:g} this is not the flip rate of ft minus that of scratch, "
            f"both averaged alike, from the biased source {settings.shown_pair[0]} to "
            f"{settings.shown_pair[1]}, as a mean over your seeds"
        )

    compare(found, right, mistakes, otherwise, target_step(settings, len(settings.seeds)))
    listed = ", ".join(f"{100 * d:+.1f} at {s:g}" for s, d in zip(AVERAGED, right, strict=True))
    return f"beyond training from scratch fine-tuning flips, in points: {listed}"


EXERCISES = (
    Exercise(
        "09.1",
        10,
        (
            "Along an axis of variance λ a refit keeps λ / (λ + ε) of a weight.",
            "ε is the smoothing times the mean of all variances. The squared norm is a sum of "
            "squares: square each share, then take the mean.",
        ),
        _filter,
    ),
    Exercise(
        "09.2",
        20,
        (
            "Every gradient step adds to each row of the weights a mixture of the inputs.",
            "`numpy.linalg.pinv(inputs) @ inputs` projects onto the span of the inputs. What a "
            "row loses by it is never changed.",
        ),
        _span,
    ),
    Exercise(
        "09.3",
        45,
        (
            '`settings.runs("ft", biased=True, n_train=size, sgd=...)` describes the runs of one '
            "share; `settings.run` returns their rows.",
            'Keep the rows of `pair`, of the metric "flip_rate" and of the epoch '
            "`experiments.FINAL`, average over seeds, and subtract the same of scratch with the "
            "same share.",
        ),
        _averaging,
    ),
)
