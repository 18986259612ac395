"""How messages write the values that a user gave, and times."""

_LONGEST_VALUE = 60
_LONGEST_MESSAGE = 1_000


def shown(value: object) -> str:
    """The value as a message shows it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out a whole number of thousands of digits
        text = "a number of thousands of digits"
    return cut(text, _LONGEST_VALUE)


def cut(text: str, longest: int = _LONGEST_MESSAGE) -> str:
    """The text with its middle left out where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    head = (longest - 5) * 2 // 3
    tail = longest - 5 - head
    return f"{text[:head]} ... {text[len(text) - tail :]}"


def duration(seconds: float) -> str:
    """A time as a reader says it: "40 s", "13 min", "5 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 run", "2 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
