"""Exercises of notebook 06: coupled transfer."""

from collections.abc import Callable
from math import isnan
from typing import Any

import numpy as np

from rtl_utils.couplings import transport
from rtl_utils.exercises._answers import by_case, compare, function, number, table, value, values
from rtl_utils.exercises._records import Exercise, Wrong
from rtl_utils.exercises._trained import final, shown
from rtl_utils.settings import Settings

_ANGLE = 1e-5  # arccos near 1 turns an error of 1e-16 into one of 1e-8, or 1e-6 in degrees
_DIGITS = 1e-3  # a sum may be rounded to three decimals


def _best(costs: np.ndarray) -> float:
    return float((transport(costs).matrix * costs).sum())


def _greedy(costs: np.ndarray) -> float:
    """The cheapest pair, and the one that is then left."""
    i, j = np.unravel_index(costs.argmin(), costs.shape)
    return float(costs[i, j] + costs[1 - i, 1 - j]) / 2


_MATCH_MISTAKES: dict[str, Callable[[np.ndarray], Any]] = {
    "each pair of a match has mass ½, so its cost counts half": lambda c: 2 * _best(c),
    "this lets two sources share a target: a column must sum to ½ too": lambda c: c.min(1).mean(),
    "this lets two targets share a source: a row must sum to ½ too": lambda c: c.min(0).mean(),
    "this is the cheapest pair alone; all of the mass must go somewhere": lambda c: c.min(),
    "this is the product coupling, which pairs everything with everything": lambda c: c.mean(),
    "this is the dearer of the two matches": lambda c: max(c.trace(), c[::-1].trace()) / 2,
    "this matches straight in any case; the crossed match may be cheaper": lambda c: c.trace() / 2,
    "this matches crossed in any case; the straight match may be cheaper": lambda c: (
        c[::-1].trace() / 2
    ),
    "taking the cheapest pair first can force a dear second one; compare whole matches": _greedy,
}


def _cheapest(answer: Any) -> str:
    answer = function(answer, "cheapest(costs), on an array of 2 x 2 costs")
    random = np.random.default_rng(0)
    costs = [np.array([[0.0, 3.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 9.0]])]
    costs += [random.random((2, 2)) for _ in range(6)]
    costs += [np.array([[5.0, 1.0], [2.0, 7.0]]), np.ones((2, 2))]
    cases = [(c,) for c in costs]
    found = values(answer, cases, "one cost")
    right = [_best(c) for c in costs]

    def otherwise(k: int) -> str:
        return (
            f"for the costs {costs[k].round(3).tolist()} the cheapest coupling costs "
            f"{right[k]:.4g}, and your function returns {found[k]:.4g}"
        )

    compare(found, right, by_case(_MATCH_MISTAKES, cases), otherwise)
    return (
        "every coupling of two with two mixes the straight and the crossed match, so one of these "
        f"is the cheapest; on the example it costs {right[0]:g}, and `couplings.transport` agrees"
    )


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two vectors whose inner product rounding may lift above 1."""
    return float(np.arccos(min((a * b).sum(), 1)))


def _one_step(p: np.ndarray, q: np.ndarray) -> float:
    p, q = np.maximum(p, 1e-300), np.maximum(q, 1e-300)
    return float(np.sqrt(2 * max((p * np.log(p / q)).sum(), 0)))


_LENGTH_MISTAKES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "this is the angle between √p and √q; Fisher's length is twice as long": lambda p, q: _angle(
        np.sqrt(p), np.sqrt(q)
    ),
    "this is the straight line through the sphere; the path stays on it": lambda p, q: (
        2 * np.linalg.norm(np.sqrt(p) - np.sqrt(q))
    ),
    "the points of the sphere are √p and √q, not p and q": lambda p, q: 2 * _angle(p, q),
    "one step of √(2 KL) is the length only where q is near to p": _one_step,
    "this formula is that of a coin, of the first class alone; all classes count": lambda p, q: (
        2 * abs(np.arcsin(np.sqrt(p[0])) - np.arcsin(np.sqrt(q[0])))
    ),
    "this is the length in degrees; angles are in radians": lambda p, q: np.degrees(
        2 * _angle(np.sqrt(p), np.sqrt(q))
    ),
}


def _length(answer: Any) -> str:
    answer = function(answer, "fisher_length(p, q), on two arrays of k probabilities")
    cases = _distributions()
    returned = [value(answer, *case) for case in cases]
    if any(isinstance(one, float) and isnan(one) for one in returned):
        raise Wrong(
            "your function returns nan where p and q are the same: rounding lifts their sum above "
            "1, where there is no arccosine; clip it"
        )
    found = [number(one, "one length") for one in returned]
    right = [2 * _angle(np.sqrt(p), np.sqrt(q)) for p, q in cases]

    def otherwise(k: int) -> str:
        p, q = (one.round(3).tolist() for one in cases[k])
        return (
            f"from {p} to {q} the length is {right[k]:.4f}, "
            f"and your function returns {found[k]:.4f}"
        )

    compare(found, right, by_case(_LENGTH_MISTAKES, cases), otherwise, _ANGLE)
    return (
        f"a coin from 0.5 to 0.9 goes {right[0]:.4f} √nats, no two distributions are farther apart "
        "than π, and many small steps of √(2 KL) add up to the same"
    )


def _distributions() -> list[tuple[np.ndarray, np.ndarray]]:
    """A coin, random distributions, nearly equal ones, and ones that share no class."""
    random = np.random.default_rng(0)
    cases = [(np.array([0.5, 0.5]), np.array([0.9, 0.1]))]
    cases += [(random.dirichlet(np.ones(k)), random.dirichlet(np.ones(k))) for k in (3, 5, 5, 10)]
    cases.append((np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.4, 0.6])))
    for _ in range(20):  # rounding lifts the overlap of some of them above 1
        p = random.dirichlet(np.ones(5))
        cases.append((p, p.copy()))
    return cases


def _coast(answer: Any, *, settings: Settings) -> str:
    size = settings.n_train[0]
    cuts = list(dict.fromkeys((1, settings.sgd_at(settings.shown_pair[1], size).epochs)))
    found = table(answer, cuts, "a sum of √KL")
    by_seed = [
        final(settings, shown(settings, settings.runs("ut", n_train=size, partitions=cut)))
        for cut in cuts
    ]
    means = [float(one.information_length.mean()) for one in by_seed]
    right = [cut * mean for cut, mean in zip(cuts, means, strict=True)]
    first = [cut * one.information_length.iloc[0] for cut, one in zip(cuts, by_seed, strict=True)]
    mistakes: dict[str, list[float]] = {
        "these are means over the partitions; multiply each by the number of its partitions": means,
        "these are means divided by the number of partitions; multiply instead": [
            mean / cut for cut, mean in zip(cuts, means, strict=True)
        ],
        "the two sums are exchanged": right[::-1],
        "the same number stands at every key; `partitions` of `settings.runs` changes the cut": (
            right[:1] * len(cuts)
        ),
        f"this is seed {settings.seeds[0]} alone; take the mean over all your seeds": first,
        "these are accuracies; the metric is information_length": [
            float(one.val_accuracy.mean()) for one in by_seed
        ],
    }

    def otherwise(k: int) -> str:
        return (
            f"for {cuts[k]} partition{'s' if cuts[k] > 1 else ''} this is not the sum of √KL of "
            f"uncoupled transfer from {settings.shown_pair[0]} to {settings.shown_pair[1]}, "
            "averaged over your seeds"
        )

    compare(found, right, mistakes, otherwise, _DIGITS)
    return (
        f"measured at every epoch the path is {right[-1] / right[0]:.1f} times as long as between "
        "its two ends; a length says little without the steps with which it was measured"
    )


EXERCISES = (
    Exercise(
        "06.1",
        10,
        (
            "There are two ways to match two with two. Each pair of a match has mass ½.",
            "Every other coupling is a mixture of the straight and the crossed match, so its cost "
            "lies between theirs.",
        ),
        _cheapest,
    ),
    Exercise(
        "06.2",
        20,
        (
            "√p and √q are points of a sphere of radius 1, as their squares sum to 1. The shortest "
            "path between two points of a sphere is an arc.",
            "The angle between two unit vectors is the arccosine of their inner product. Mind "
            "rounding where p and q are the same: `np.clip`.",
        ),
        _length,
    ),
    Exercise(
        "06.3",
        45,
        (
            '`settings.runs("ut", n_train=size, partitions=...)` describes the runs of one cut; '
            "`settings.run` returns their rows, trained where the store lacks them.",
            'Keep the rows of `pair`, of the metric "information_length" and of the epoch '
            "`experiments.FINAL`. Average over seeds, then undo the mean over the partitions.",
        ),
        _coast,
    ),
)
