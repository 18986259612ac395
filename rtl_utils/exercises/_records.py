"""What an exercise is, and what is said about an answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Wrong(Exception):
    """An answer is not right; the message says what is wrong, without a full stop."""


class Judgement(NamedTuple):
    """What is said about an answer.

    Args:
        right: whether it is right.
        says: the sentence that a student reads.
    """

    right: bool
    says: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook.

    Args:
        number: of the notebook and of the exercise, such as "04.1".
        minutes: that it takes: 10, 20 or 45.
        hints: two, the second one nearer to the answer than the first.
        check: (answer, the notebook's objects by name) -> what a right answer shows, without a full
            stop; raises Wrong.
    """

    number: str
    minutes: int
    hints: tuple[str, str]
    check: Callable[..., str]
