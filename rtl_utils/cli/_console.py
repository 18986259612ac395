"""What the commands share: values that they read, lines that they print, signals that end them."""

import argparse
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from rtl_utils import folders
from rtl_utils.messages import cut, shown

_DIGITS = 300  # of a number; no finite float is longer


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (`{self.prog} --help` says what is possible)")
        sys.exit(2)


def named_folder(given: str | None, default: str = "") -> Path:
    """The folder that --out names, or the one of that name in `runs`."""
    if given is None:
        return folders.root() / "runs" / default
    if not given:
        raise ValueError("--out must name a folder; got ''")
    if Path(given).exists() and not Path(given).is_dir():
        raise ValueError(f"--out must name a folder; {shown(given)} is a file")
    return Path(given).absolute()


def named_values(pairs: Sequence[Sequence[str]], option: str = "-p") -> dict[str, Any]:
    """Names and values of an option that may be given several times.

    Args:
        pairs: name and text of each value.
        option: as the command line writes it.

    Raises:
        ValueError: for a name that is given twice, and what `read_value` raises.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise ValueError(f"{option} {shown(name)} is given twice; give it once")
        values[name] = read_value(f"{option} {shown(name)}", text)
    return values


def read_value(what: str, text: str) -> Any:
    """What the text means as JSON, or the text.

    Args:
        what: is read, for an error.
        text: of the command line.

    Raises:
        ValueError: if it is a number that is not finite, or nested deeper than Python reads.
    """

    def number(kind: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(digits: str) -> Any:
            if len(digits) > _DIGITS or abs(float(digits)) == float("inf"):
                raise OverflowError
            return kind(digits)

        return read

    def constant(word: str) -> NoReturn:
        raise OverflowError(word)

    try:
        return json.loads(
            text, parse_int=number(int), parse_float=number(float), parse_constant=constant
        )
    except json.JSONDecodeError:
        return text
    except OverflowError:
        message = f"numbers must be finite, of {_DIGITS} digits at most"
        raise ValueError(f"{what}: {message}; got {shown(text)}") from None
    except RecursionError:
        raise ValueError(f"{what}: the value is nested too deeply") from None


def sentence(error: Exception) -> str:
    """What went wrong, as a sentence."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename
        if not name and not _is_somewhere():
            return "the current folder does not exist any more; change to another"
        return f"{error.strerror}: {name}" if name else error.strerror
    return str(error) or type(error).__name__


def _is_somewhere() -> bool:
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def complain(text: str) -> None:
    """One line on stderr."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.replace("\n", " "))
    say(cut(f"rtl: {encodable(line, sys.stderr)}", 950), sys.stderr)


def say(text: str, file: TextIO | None = None) -> None:
    """Print, also what the terminal cannot show: the name of a folder may be any bytes."""
    file = sys.stdout if file is None else file
    if file is not None:
        print(encodable(text, file), file=file)


def encodable(text: str, file: TextIO | None) -> str:
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def give_up_stdout() -> None:
    """Send to nowhere what cannot be printed, else Python complains when it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines of libraries: they are not for the one who types a command.

    The package's own warnings, such as of damaged runs, are lines on stderr.
    """
    loggers = [logging.getLogger(name) for name in ("asyncio", "papermill", "traitlets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]  # a value that tqdm cannot read would stop its import
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = _show_warning
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _show_warning(
    message: Warning | str, category: type[Warning], *_: object, **__: object
) -> None:
    if category.__module__.startswith("rtl_utils"):
        complain(str(message))


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does; a second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        for again in before:
            signal.signal(again, lambda number, frame: os._exit(128 + number))
        raise Interrupted(number)

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # a signal that is ignored stays so: nohup, or a job in the background
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
