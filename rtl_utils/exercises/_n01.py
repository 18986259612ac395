"""Exercises of notebook 01: the synthetic task."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import comb
from operator import mul
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LinearRegression

from rtl_utils.data import Task
from rtl_utils.exercises._answers import by_case, compare, function, table, values
from rtl_utils.exercises._records import Exercise
from rtl_utils.exercises._trained import final
from rtl_utils.settings import Settings
from rtl_utils.training import Sgd

STRENGTHS = (0.0, 0.002, 0.02)  # of the lasso in the experiment
_FLOAT32 = 1e-4  # of a ratio of two losses that a fit in single precision gives
_DIGITS = 1e-3  # an answer may be rounded to three decimals


_PRODUCT_MISTAKES: dict[str, Callable[[int, int], int]] = {
    "an input may be chosen more than once: x0³ is a product too": comb,
    "the order does not count: x0·x1·x2 and x2·x1·x0 are one product": pow,
    "these are the products up to this degree; count those of exactly this degree": lambda n, k: (
        comb(n + k, k)
    ),
    "these are the powers of single inputs; a product of different inputs counts too": mul,
}


def _products(answer: Any, *, task: Task) -> str:
    cases = [(50, 3), (2, 3), (1, 5), (7, 1), (4, 2), (3, 4), (3, 0)]
    answer = function(answer, "products(inputs, degree), such as products(50, 3)")
    found = values(answer, cases, "a whole number of products")
    right = [comb(n + k - 1, k) for n, k in cases]

    def otherwise(k: int) -> str:
        n, degree = cases[k]
        return (
            f"with {n} inputs and degree {degree} there are {right[k]:,} products, "
            f"and your function returns {found[k]:,g}"
        )

    compare(found, right, by_case(_PRODUCT_MISTAKES, cases), otherwise)
    per_sample = right[0] / len(task.x_train)
    return (
        f"50 inputs have {right[0]:,} products of degree 3, {per_sample:.1f} coefficients per "
        "training sample of the source, and an additive cubic has 150 in all"
    )


def _extra_loss(answer: Any, *, task: Task) -> str:
    answer = function(answer, "extra_loss(task, useless)")
    cases = [(_random_task(k), useless) for k, useless in enumerate(([0, 1], [4], [1, 3, 5]))]
    found = values(answer, cases, "one number")

    def otherwise(k: int) -> str:
        return (
            f"on a random task whose columns {cases[k][1]} are useless your function returns "
            f"{found[k]:.4g}; fit on x_train with an intercept, measure on x_val, with all columns "
            "and without those"
        )

    right = [_extra(*case) for case in cases]
    compare(found, right, by_case(_EXTRA_MISTAKES, cases), otherwise, _FLOAT32)
    samples = len(task.x_train)
    return (
        f"on the permuted target the 20 useless features make the loss "
        f"{_extra(task, range(20)):.1%} larger, and 20 features / {samples:,} samples is "
        f"{20 / samples:.1%}"
    )


def _extra(task: Task, useless: Sequence[int]) -> float:
    return _loss(task) / _loss(_without(task, useless)) - 1


_EXTRA_MISTAKES: dict[str, Callable[[Task, Sequence[int]], float]] = {
    "this is a difference of losses; divide it by the loss without the useless columns": (
        lambda task, useless: _loss(task) - _loss(_without(task, useless))
    ),
    "this is the ratio of the two losses; a ratio of 1.1 means 0.1 more": (
        lambda task, useless: _extra(task, useless) + 1
    ),
    "this is a percentage; return 0.1 for 10 % more": (
        lambda task, useless: 100 * _extra(task, useless)
    ),
    "this compares the other way round: how much larger is the loss *with* all columns": (
        lambda task, useless: _loss(_without(task, useless)) / _loss(task) - 1
    ),
    "divide by the loss without the useless columns, not by the loss with all": (
        lambda task, useless: 1 - _loss(_without(task, useless)) / _loss(task)
    ),
    "leave the useless columns out; you have kept only them": (
        lambda task, useless: _loss(task) / _loss(_only(task, useless)) - 1
    ),
    "measure on the validation data, not on those that were fitted": (
        lambda task, useless: _fitted(task) / _fitted(_without(task, useless)) - 1
    ),
    "leave out the columns that `useless` lists, not the first ones": (
        lambda task, useless: _extra(task, range(len(useless)))
    ),
}


def _penalty(answer: Any, *, settings: Settings, sgd: Sgd) -> str:
    found = table(answer, STRENGTHS, "a mean rise")
    tables = []
    for strength in STRENGTHS:
        changed = replace(sgd, l1=strength)
        runs = settings.runs("ft", n_train=settings.n_train[0], sgd=changed)
        tables.append(final(settings, runs))
    permuted = [float(t.val_loss.mean()) for t in tables]
    restored = [float(t.restored_loss.mean()) for t in tables]
    first = [float(t.restored_loss[0] - t.val_loss[0]) for t in tables]
    rise = [r - p for r, p in zip(restored, permuted, strict=True)]
    mistakes: dict[str, list[float]] = {
        "these are the restored losses; subtract the permuted ones": restored,
        "these are the permuted losses; the rise is the restored loss minus this": permuted,
        "the sign is reversed: the rise is the restored loss minus the permuted one": [
            -r for r in rise
        ],
        f"this is the rise of seed {settings.seeds[0]} alone; take the mean over seeds": first,
        "the penalty is the same at every key: put each strength into `l1`": [rise[1]] * len(rise),
    }

    def otherwise(k: int) -> str:
        return (
            f"at λ = {STRENGTHS[k]:g} this is not the mean over seeds of the rise of fine-tuning, "
            f"whose runs have sgd=replace(careful, l1={STRENGTHS[k]:g})"
        )

    compare(found, rise, mistakes, otherwise, _DIGITS)
    listed = ", ".join(f"{r:.2f} at λ = {s:g}" for s, r in zip(STRENGTHS, rise, strict=True))
    best = STRENGTHS[int(np.argmin(permuted))]
    return f"the mean rise is {listed}, and the loss on the permuted target is lowest at {best:g}"


def _random_task(seed: int) -> Task:
    """A small regression on six features."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(100, 6))
    y = x @ random.normal(size=6) + 3 + random.normal(size=100)
    inputs = torch.tensor(x, dtype=torch.float32)
    responses = torch.tensor(y[:, None], dtype=torch.float32)
    parts = (inputs[:30], responses[:30], inputs[30:], responses[30:])
    return Task(f"random {seed}", "random", *parts)


def _only(task: Task, columns: Sequence[int]) -> Task:
    kept = list(columns)
    return replace(task, x_train=task.x_train[:, kept], x_val=task.x_val[:, kept])


def _without(task: Task, columns: Sequence[int]) -> Task:
    return _only(task, [k for k in range(task.side) if k not in columns])


def _loss(task: Task) -> float:
    """Validation loss of linear regression."""
    return _line(task)(task.x_val, task.y_val)


def _fitted(task: Task) -> float:
    return _line(task)(task.x_train, task.y_train)


def _line(task: Task) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Mean squared error of linear regression, fitted to the task's training data."""
    model = LinearRegression().fit(task.x_train.numpy(), task.y_train.numpy().ravel())

    def loss(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(np.square(model.predict(x.numpy()) - y.numpy().ravel()).mean())

    return loss


EXERCISES = (
    Exercise(
        "01.1",
        10,
        (
            "A product of degree 3 is a choice of three inputs, with repetition and without order.",
            "Think of `degree` stars and of `inputs` − 1 bars between them: each arrangement is "
            "one product. `math.comb` counts choices of places.",
        ),
        _products,
    ),
    Exercise(
        "01.2",
        20,
        (
            "`baseline_loss` shows how to fit and to measure. A task with other columns is "
            "`replace(task, x_train=..., x_val=...)`.",
            "The columns to keep are those of `range(task.side)` that are not in `useless`. "
            "Compare the two validation losses as a share of the second one.",
        ),
        _extra_loss,
    ),
    Exercise(
        "01.3",
        45,
        (
            '`settings.runs("ft", n_train=size, sgd=...)` describes the runs of one penalty, '
            '`settings.run` trains them, and `tables.with_rise` adds the metric "rise".',
            "Loop over the three strengths, change `careful` with `replace`, and of each table "
            'take the rows whose metric is "rise"; there is one per seed.',
        ),
        _penalty,
    ),
)
