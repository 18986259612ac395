"""Exercises of the notebooks: checks that say what is wrong, and hints in two steps.

A notebook holds the question and an empty answer. What is right stands here, one module per
notebook, and in `notebooks/solutions/`.
"""

from collections import Counter
from typing import Any

from rtl_utils.exercises import _n01, _n02, _n03, _n04, _n05, _n06, _n07, _n08, _n09
from rtl_utils.exercises._records import Exercise, Judgement, Wrong
from rtl_utils.messages import shown

__all__ = ["EXERCISES", "Exercise", "Judgement", "check", "hint", "judge"]

EXERCISES: dict[str, Exercise] = {
    exercise.number: exercise
    for room in (_n01, _n02, _n03, _n04, _n05, _n06, _n07, _n08, _n09)
    for exercise in room.EXERCISES
}
_asked: Counter[str] = Counter()  # how many hints of each exercise were shown


def check(number: str, answer: Any, **context: Any) -> None:
    """Print one sentence: that the answer is right and what it shows, or what is wrong and why.

    Args:
        number: of the exercise, such as "04.1".
        answer: None for no answer yet.
        context: the notebook's objects that the answer is about, so that the check holds for other
            parameters too.

    Raises:
        ValueError: for a number that no exercise has.
    """
    print(judge(number, answer, **context).says)


def judge(number: str, answer: Any, **context: Any) -> Judgement:
    """What `check` prints, and whether the answer is right.

    Raises:
        ValueError: for a number that no exercise has.
    """
    exercise = _exercise(number)
    if answer is None:
        return Judgement(False, "Not answered yet.")
    try:
        shows = exercise.check(answer, **context)
    except Wrong as wrong:
        return Judgement(False, f"Not yet: {wrong}.")
    return Judgement(True, f"Right: {shows}.")


def hint(number: str, step: int | None = None) -> None:
    """Print a hint: the first one, and the second one when it is called again.

    Args:
        number: of the exercise, such as "04.1".
        step: 1 or 2; None for the next one.

    Raises:
        ValueError: for a number that no exercise has, or another step.
    """
    hints = _exercise(number).hints
    if step is None:
        _asked[number] += 1
        step = min(_asked[number], len(hints))
    if type(step) is not int or not 1 <= step <= len(hints):
        raise ValueError(f"step must be 1 or {len(hints)}, or None for the next; got {shown(step)}")
    print(f"Hint {step} of {len(hints)}: {hints[step - 1]}")


def _exercise(number: str) -> Exercise:
    if not isinstance(number, str) or number not in EXERCISES:
        known = ", ".join(EXERCISES)
        raise ValueError(f"number must be one of {known}; got {shown(number)}")
    return EXERCISES[number]
