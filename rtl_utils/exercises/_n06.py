"""Exercises of notebook 06: the distance between tasks."""

from collections.abc import Callable
from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np

from rtl_utils.couplings import transport
from rtl_utils.distances import KINDS
from rtl_utils.exercises._answers import by_case, compare, function, number, table, value, values
from rtl_utils.exercises._records import Exercise, Wrong
from rtl_utils.exercises._trained import final, shown
from rtl_utils.settings import Settings

MEASURED = ("fine-tuning", "riemannian")  # distances of the experiment: one training gives both
SLOWER = 4  # the experiment's learning rate is the usual one over this
_ANGLE = 1e-6  # arccos near 1 turns an error of 1e-16 into one of 1e-8
_DIGITS = 1e-3  # a ratio may be rounded to three decimals


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


def _slower(answer: Any, *, settings: Settings) -> str:
    found = table(answer, MEASURED, "a ratio of distances")
    size = settings.n_train[0]
    usual = settings.sgd_at(settings.shown_pair[1], size)
    fields: dict[str, Any] = {"n_train": size, "partitions": settings.coupled.partitions}
    before, after = (
        final(settings, shown(settings, settings.runs("ft", sgd=sgd, **fields))).mean()
        for sgd in (usual, replace(usual, lr=usual.lr / SLOWER))
    )
    metrics = [KINDS[kind].metric for kind in MEASURED]
    right = [float(after[metric] / before[metric]) for metric in metrics]

    def otherwise(k: int) -> str:
        return (
            f"for {MEASURED[k]!r} this is not the mean {metrics[k]} of ft at a learning rate of "
            f"{usual.lr / SLOWER:g} over that at {usual.lr:g}, from {settings.shown_pair[0]} to "
            f"{settings.shown_pair[1]}"
        )

    mistakes = _ratio_mistakes(before[metrics].tolist(), after[metrics].tolist())
    compare(found, right, mistakes, otherwise, _DIGITS)
    listed = " and ".join(f"{r:.2f} ({k})" for k, r in zip(MEASURED, right, strict=True))
    return (
        f"at a quarter of the learning rate and equal steps the distances are {listed} of what "
        "they were; distances can be compared only where the trainings are alike"
    )


def _ratio_mistakes(before: list[float], after: list[float]) -> dict[str, list[float]]:
    """What is wrong -> what then stands at the two distances."""
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    return {
        "the ratio is the wrong way round: divide by the distance at the usual learning rate": [
            1 / ratio for ratio in ratios
        ],
        "these are distances; divide them by those at the usual learning rate": after,
        "these are the distances at the usual learning rate": before,
        "the two distances are exchanged": ratios[::-1],
        "these are differences; give ratios": [b - a for a, b in zip(before, after, strict=True)],
        "the learning rate is the same in both trainings: change `lr` of the sgd": [1.0, 1.0],
    }


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
            '`settings.runs("ft", n_train=size, sgd=..., partitions=...)` describes the runs of '
            "one learning rate; `distances.KINDS[kind].metric` names the metric of a distance.",
            "`replace(sgd, lr=sgd.lr / 4)` is the slower training. Take both metrics at the epoch "
            "`experiments.FINAL`, the mean over seeds of each, and divide.",
        ),
        _slower,
    ),
)
