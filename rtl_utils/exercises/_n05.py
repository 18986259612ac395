"""Exercises of notebook 05: uncoupled transfer against fine-tuning."""

from collections.abc import Callable
from math import ceil, log2
from typing import Any

import numpy as np
import pandas as pd
import torch

from rtl_utils.data import Shortcut
from rtl_utils.exercises._answers import by_case, compare, function, table, values
from rtl_utils.exercises._records import Exercise
from rtl_utils.exercises._trained import final, shown, target_step
from rtl_utils.settings import Settings

_IMAGES = (500, 269, 1_000, 40)
_DIVISOR = 0.02  # n and n - 1 are both right; on 40 images they differ by 1.3 %


def _needed(answer: Any) -> str:
    answer = function(answer, "needed(level), such as needed(0.05)")
    levels = (0.05, 0.01, 0.25, 0.5, 0.001, 0.1)
    cases = [(level,) for level in levels]
    found = values(answer, cases, "a whole number of seeds")
    right = [_fewest(level) for level in levels]
    mistakes: dict[str, list[float]] = {
        "this is one seed too many; take the first n whose smallest p lies below the level": [
            n + 1 for n in right
        ],
        "this is one seed too few; p must lie below the level, and it is 2 · 2⁻ⁿ, not 2⁻ⁿ": [
            n - 1 for n in right
        ],
        "below means below: with n = 3 the smallest p is 0.25, which is not below 0.25": [
            ceil(1 - log2(level)) for level in levels
        ],
        "a number of seeds is a whole number": [1 - log2(level) for level in levels],
        "your function returns 6 for every level": [6 for _ in levels],
    }

    def otherwise(k: int) -> str:
        return (
            f"for the level {levels[k]:g} your function returns {found[k]:g}; the first n whose "
            f"smallest p lies below it is {right[k]}, with {2 * 0.5 ** right[k]:.3g}"
        )

    compare(found, right, mistakes, otherwise)
    return (
        f"{right[0]} seeds can give p = {2 * 0.5 ** right[0]:.3f}, and three {2 * 0.5**3:.2f} "
        "at best, so a sign test of three trials decides nothing"
    )


def _fewest(level: float) -> int:
    return next(n for n in range(1, 99) if 2 * 0.5**n < level)


def _paired_error(answer: Any) -> str:
    answer = function(answer, "paired_error(a, b)")
    cases = [_verdicts(n, k) for k, n in enumerate(_IMAGES)]
    cases.append((torch.arange(500) < 350, torch.arange(500) >= 0))  # 70 % against 100 %
    found = values(answer, cases, "one number of points")
    same = cases[0][0]
    (zero,) = values(answer, [(same, same)], "one number of points")

    def otherwise(k: int) -> str:
        a, b = (100 * _accuracy(one) for one in cases[k])
        return (
            f"for accuracies of {a:.0f} % and {b:.0f} % on the same {len(cases[k][0])} images your "
            f"function returns {found[k]:.3f} points; take the standard deviation over images of "
            "the difference, and divide it by √n"
        )

    right = [_of_difference(*case) for case in cases]
    compare(found, right, by_case(_ERROR_MISTAKES, cases), otherwise, _DIVISOR)
    compare([zero], [0], {}, lambda k: "a method minus itself has no error; yours has one")
    a, b = (100 * _accuracy(one) for one in cases[0])
    return (
        f"two methods with {a:.0f} % and {b:.0f} % that often err on the same of {_IMAGES[0]} "
        f"images have a difference that is uncertain by {right[0]:.1f} points; as if measured on "
        f"different images it would be {_as_if_apart(*cases[0]):.1f}"
    )


def _accuracy(right: torch.Tensor) -> float:
    return float(right.double().mean())


def _of_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Standard error of the difference of two accuracies on the same images, in points."""
    difference = a.double() - b.double()
    return 100 * float(difference.std(correction=0)) / float(np.sqrt(len(a)))


def _as_if_apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The same for two accuracies on different images."""
    return float(np.hypot(_binomial(_accuracy(a), len(a)), _binomial(_accuracy(b), len(b))))


def _binomial(share: float, n: int) -> float:
    return 100 * float(np.sqrt(share * (1 - share) / n))


_ERROR_MISTAKES: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "this is a fraction; the answer is in points": lambda a, b: _of_difference(a, b) / 100,
    "this is the spread of one image; divide by √n": lambda a, b: (
        _of_difference(a, b) * len(a) ** 0.5
    ),
    "divide by √n, not by n": lambda a, b: _of_difference(a, b) / len(a) ** 0.5,
    "this takes the two methods as measured on different images; take the difference image by "
    "image": _as_if_apart,
    "this is the error of the first accuracy alone, not of the difference": lambda a, b: _binomial(
        _accuracy(a), len(a)
    ),
    "this is the difference itself; the question is its standard error": lambda a, b: (
        100 * (_accuracy(a) - _accuracy(b))
    ),
    "the mean of the squares is not yet a variance; subtract the square of the mean difference": (
        lambda a, b: 100 * float(np.sqrt(_accuracy(a != b) / len(a)))
    ),
    "this takes every image on which the methods differ as one kind; +1 and −1 are two values": (
        lambda a, b: _binomial(_accuracy(a != b), len(a))
    ),
}


def _verdicts(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each of n images is right for two methods that often err on the same images."""
    random = torch.Generator().manual_seed(seed)
    hard = torch.rand(n, generator=random)
    noise = 0.25 * torch.randn(2, n, generator=random)
    return hard + noise[0] < 0.7, hard + noise[1] < 0.75


def _clean_start(answer: Any, *, settings: Settings) -> str:
    found = table(answer, settings.seeds, "a difference of accuracies")
    size = settings.n_train[0]
    ends: dict[str, Any] = {"target_shortcut": Shortcut(), "n_train": size}
    clean, biased, tuned = (
        final(settings, shown(settings, settings.runs(method, biased=ball, **ends)))
        for method, ball in (("ut", False), ("ut", True), ("ft", False))
    )
    right = (clean.val_accuracy - biased.val_accuracy).tolist()

    def otherwise(k: int) -> str:
        return (
            f"for seed {settings.seeds[k]} this is not the validation accuracy of UT from the "
            f"clean {settings.shown_pair[0]} minus that from the biased one, to "
            f"{settings.shown_pair[1]} with the ball on all"
        )

    mistakes = _start_mistakes(clean, biased, tuned)
    compare(found, right, mistakes, otherwise, target_step(settings))
    listed = ", ".join(
        f"{100 * d:+.1f} points for seed {s}" for s, d in zip(settings.seeds, right, strict=True)
    )
    return f"a clean start changes UT by {listed}; compare this with UT minus FT in claim 3"


def _start_mistakes(
    clean: pd.DataFrame, biased: pd.DataFrame, tuned: pd.DataFrame
) -> dict[str, list[float]]:
    """What is wrong -> what then stands at the seeds; tuned: fine-tuning from a clean backbone."""
    by_seed = clean - biased
    right = by_seed.val_accuracy
    return {
        "the sign is reversed: take the clean start minus the biased one": (-right).tolist(),
        "these are points; give fractions, 0.1 for 10 points": (100 * right).tolist(),
        "these are accuracies of UT from a clean source; subtract those from the biased source": (
            clean.val_accuracy.tolist()
        ),
        "these are the accuracies without a ball; take `val_accuracy`, with the ball on all": (
            by_seed.clean_accuracy.tolist()
        ),
        "this is the accuracy on training images; take `val_accuracy`": (
            by_seed.train_accuracy.tolist()
        ),
        "this is fine-tuning from a clean backbone; the control is UT": (
            (tuned.val_accuracy - biased.val_accuracy).tolist()
        ),
        "every seed has a difference of its own; this is their mean": (
            [float(right.mean())] * len(right)
        ),
    }


EXERCISES = (
    Exercise(
        "05.1",
        10,
        (
            "Try n = 1, 2, 3, ... and stop at the first n for which the formula lies below the "
            "level.",
            "A `while` loop that counts n up as long as the smallest p is not below the level "
            "needs no logarithm and no rounding.",
        ),
        _needed,
    ),
    Exercise(
        "05.2",
        20,
        (
            "Subtract image by image: each image gives +1, 0 or −1. The difference of the "
            "accuracies is the mean of these n values.",
            "The standard error of a mean of n values is their standard deviation / √n. Turn the "
            "booleans into floats before you subtract. One point is 0.01.",
        ),
        _paired_error,
    ),
    Exercise(
        "05.3",
        45,
        (
            '`settings.runs("ut", **everywhere)` starts from the clean source, and with '
            "`biased=True` from the one with the ball. `settings.run` returns their rows.",
            'Keep the rows of `pair`, of the metric "val_accuracy" and of the epoch '
            "`experiments.FINAL`; there is one per seed, in both tables.",
        ),
        _clean_start,
    ),
)
