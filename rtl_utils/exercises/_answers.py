"""Reading an answer: whatever it is, what is wrong with it is said in a sentence."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rtl_utils.exercises._records import Wrong
from rtl_utils.messages import cut, shown

ROUNDING = 1e-9  # of a few operations in double precision, relative
_LONGEST_REASON = 200


def number(answer: Any, what: str) -> float:
    """The answer as a finite number.

    Args:
        answer: a number, or an array or tensor of one.
        what: a message says, such as "a number of epochs".
    """
    if isinstance(answer, bool | str | bytes) or callable(answer):
        raise Wrong(f"the answer must be {what}; got {shown(answer)}")
    try:
        values = np.asarray(_plain(answer), dtype=float)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise Wrong(f"the answer must be {what}; got {_named(answer)}") from None
    if values.size != 1:
        raise Wrong(f"the answer must be {what}; got {values.size} numbers")
    found = float(values.reshape(()))
    if not math.isfinite(found):
        raise Wrong(f"the answer must be {what}; got {found}, which is not a finite number")
    return found


def table(answer: Any, keys: Sequence[Any], what: str) -> list[float]:
    """The values of a dictionary, in the order of the keys that it must have.

    Args:
        answer: a dictionary, or a series of pandas.
        keys: that it must have.
        what: one value is, as a message says it.
    """
    to_dict = getattr(answer, "to_dict", None)
    entries = to_dict() if callable(to_dict) and not isinstance(answer, Mapping) else answer
    listed = ", ".join(map(repr, keys))
    if not isinstance(entries, Mapping):
        raise Wrong(
            f"the answer must be a dictionary with the keys {listed}, each with {what}; "
            f"got {_named(answer)}"
        )
    lacking = [key for key in keys if key not in entries]
    if lacking:
        raise Wrong(
            f"the answer must have the keys {listed}; it lacks {', '.join(map(repr, lacking))}"
        )
    return [number(entries[key], f"{what} at the key {key!r}") for key in keys]


def function(answer: Any, example: str) -> Callable[..., Any]:
    """The answer as a function.

    Args:
        answer: a function.
        example: how it is called, such as "kernel(distance, d)".
    """
    if not callable(answer) or isinstance(answer, type):
        raise Wrong(f"the answer must be a function, {example}; got {_named(answer)}")
    called: Callable[..., Any] = answer
    return called


def value(answer: Callable[..., Any], *inputs: Any) -> Any:
    """What the student's function returns; it gets copies, and must leave them as they are."""
    given = copy.deepcopy(inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a nan is said below, once
            found = answer(*given)
    except (Exception, SystemExit) as error:  # whatever a student's function raises
        reason = " ".join(cut(str(error), _LONGEST_REASON).split()).rstrip(".")
        kind = type(error).__name__
        raise Wrong(f"your function raised {kind} ({reason}) for {described(inputs)}") from None
    if found is None:
        raise Wrong("your function returns None; it must end with `return` and the result")
    if not all(_same(a, b) for a, b in zip(given, inputs, strict=True)):
        raise Wrong("your function changes what it is given; work on a copy")
    return found


def values(answer: Callable[..., Any], cases: Sequence[Sequence[Any]], what: str) -> list[float]:
    """The numbers that the student's function returns for some inputs.

    Args:
        answer: the function.
        cases: inputs of each call.
        what: it must return, as a message says it.
    """
    found = []
    for case in cases:
        returned = value(answer, *case)
        try:
            found.append(number(returned, what))
        except Wrong as wrong:
            says = str(wrong).replace("the answer must be", "your function must return", 1)
            raise Wrong(f"{says}, for {described(case)}") from None
    return found


def compare(
    found: Sequence[float],
    right: Sequence[float],
    mistakes: Mapping[str, Sequence[float]],
    otherwise: Callable[[int], str],
    tolerance: float = ROUNDING,
) -> None:
    """Raise Wrong unless the numbers agree.

    Args:
        found: the student's numbers.
        right: those that they must be.
        mistakes: what is wrong -> the numbers that this mistake gives.
        otherwise: place of the first wrong number -> what is said where no mistake is known.
        tolerance: absolute, and relative for numbers above 1.
    """
    if _agree(found, right, tolerance):
        return
    for says, numbers in mistakes.items():
        if _agree(found, numbers, tolerance):
            raise Wrong(says)
    first = next(
        k for k in range(len(right)) if not _agree(found[k : k + 1], right[k : k + 1], tolerance)
    )
    raise Wrong(otherwise(first))


def by_case(
    mistakes: Mapping[str, Callable[..., Any]], cases: Sequence[Sequence[Any]]
) -> dict[str, list[float]]:
    """What is wrong -> the numbers that this mistake gives for the inputs, for `compare`.

    Args:
        mistakes: what is wrong -> the function with this mistake.
        cases: inputs of each call.
    """
    return {says: [float(wrong(*case)) for case in cases] for says, wrong in mistakes.items()}


def described(inputs: Sequence[Any]) -> str:
    """Inputs of a call, as a message writes them."""
    return "(" + ", ".join(_described(one) for one in inputs) + ")"


def _agree(found: Sequence[float], wanted: Sequence[float], tolerance: float) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(abs(a - b) <= tolerance * max(1.0, abs(b)) for a, b in pairs)


def _plain(answer: Any) -> Any:
    return answer.detach().cpu().numpy() if isinstance(answer, torch.Tensor) else answer


def _named(answer: Any) -> str:
    """The answer by its type where its value says little."""
    if isinstance(answer, int | float | str | list | tuple | dict | set):
        return shown(answer)
    if callable(answer):
        return "a function"
    return f"an object of type {type(answer).__name__}"


def _described(one: Any) -> str:
    if isinstance(one, torch.Tensor | np.ndarray):
        kind = "a tensor" if isinstance(one, torch.Tensor) else "an array"
        return f"{kind} of shape {tuple(one.shape)}"
    if isinstance(one, int | float | list | tuple):
        return shown(one)
    return f"a {type(one).__name__}"


def _same(a: Any, b: Any) -> bool:
    """Whether an input is what it was; objects other than numbers, lists and arrays are trusted."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return not isinstance(a, int | float | list | tuple) or bool(a == b)
