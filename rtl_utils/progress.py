"""Progress of long work: a bar in a terminal or notebook, for `rtl run` a line in a file."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rtl_utils.messages import counted

T = TypeVar("T")

FILE = "RTL_PROGRESS"  # environment variable: the file into which a headless kernel's bars write
_EVERY = 0.2  # seconds between two writes into it
_LINES = (5.0, 60.0)  # seconds between two plain lines: at first, and at most
_REFRESH = 1.0  # seconds between two refreshes of a bar that does not move
_BELOW = 16  # runs that are shown below the bar of a batch


class Bar:
    """Progress over `total` pieces of work; a context manager.

    In a terminal it is a text bar and in a live Jupyter a widget. In a kernel that `rtl` started it
    writes into a file that `rtl` reads, so that no bar ends up in an executed notebook. With
    TQDM_DISABLE set it shows nothing.

    Args:
        total: how many pieces there are.
        desc: what is being done.
        unit: name of one piece.
        leave: whether the bar stays when it is done.
    """

    def __init__(self, total: int, desc: str, unit: str = "it", leave: bool = True) -> None:
        self.total = total
        self.desc = desc
        self.unit = unit
        self.done = 0
        self._begun = 0.0
        self._started = time.monotonic()
        self._file = os.environ.get(FILE)
        self._written = 0.0
        self._tqdm = None if self._file else _tqdm(total, desc, unit, leave)

    def __enter__(self) -> "Bar":
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
        elif self._file:
            _put(self._file, "")

    def update(self, pieces: int = 1) -> None:
        """Say that some more pieces are done."""
        self.done += pieces
        self._begun = max(0.0, self._begun - pieces)  # they were begun before
        if self._tqdm is not None:
            self._tqdm.update(pieces)
        else:
            self._write()

    def begun(self, pieces: float) -> None:
        """Say how much of the unfinished pieces is done, counted in pieces."""
        self._begun = pieces
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(f"{self._share():.0%}")
        else:
            self._write()

    def message(self, text: str) -> None:
        """A line on stderr, above the bar."""
        if self._tqdm is not None:
            self._tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)

    def _write(self) -> None:
        now = time.monotonic()
        if self._file and (now - self._written > _EVERY or self.done == self.total):
            self._written = now
            _put(self._file, f"{self.desc} {self.done}/{self.total} {self.unit}{self._left(now)}")

    def _share(self) -> float:
        return min(1.0, (self.done + self._begun) / self.total) if self.total else 1.0

    def _left(self, now: float) -> str:
        """Which share is done and how long the rest takes, once something is done."""
        share = self._share()
        if not 0 < share < 1:
            return ""
        return f", {share:.0%}, about {_clock((now - self._started) * (1 - share) / share)} left"


def track(items: Sequence[T], desc: str, unit: str = "it") -> Iterator[T]:
    """The items one by one, with a bar that goes away at the end."""
    with Bar(len(items), desc, unit, leave=False) as bar:
        for item in items:
            yield item
            bar.update()


def read(file: Path) -> str:
    """What the bars of a headless kernel say now; empty where none is open."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


class Cells:
    """How far `rtl` is with a notebook, on stderr: a bar in a terminal, else a line now and then.

    Args:
        name: of the notebook.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._started = time.monotonic()
        self._next = self._started + _LINES[0]
        self._bar: Any = None
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = _in_terminal(
                desc=f"{name:22}",
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} cells [{elapsed}{postfix}]",
            )
        else:
            self._line("starts")

    def show(self, done: int, total: int, now: str) -> None:
        """Say where it is.

        Args:
            done: cells that are finished.
            total: cells that there are.
            now: what the bars of the running cell say.
        """
        if self._bar is not None:
            self._bar.total = total
            self._bar.n = done
            self._bar.set_postfix_str(now)
        elif time.monotonic() >= self._next:
            seconds = time.monotonic() - self._started
            self._next += _pause(seconds)
            inside = f", {now}" if now else ""
            cell = f"cell {min(done + 1, total)} of {total}"
            self._line(f"{cell}{inside} ({_clock(seconds)})")

    def close(self, how: str = "") -> None:
        """Take the bar away; `how` it ended, such as "done", is the last line instead of it."""
        if self._bar is not None:
            if how:
                self._bar.n = self._bar.total
                self._bar.set_postfix_str("")
            self._bar.close()
        elif how:
            self._line(f"{how} ({_clock(time.monotonic() - self._started)})")

    def _line(self, text: str) -> None:
        if sys.stderr is not None:
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)


class Board:
    """How far a batch is, on stderr: in a terminal a bar, and below it what is running; else lines.

    Args:
        name: of the batch.
        total: how many runs there are.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self._started = time.monotonic()
        self._next = self._started + _LINES[0]  # when the next plain line, or refresh, is due
        self._bar: Any = None
        self._below: list[Any] = []
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = _in_terminal(total=total, desc=name, unit="run")

    def show(self, running: Sequence[str]) -> None:
        """Say what is running, one text per run: its name, where it runs and how far it is."""
        if self._bar is not None:
            self._show_below(running[:_BELOW])
            if time.monotonic() >= self._next:  # the time goes on, also while nothing ends
                self._next = time.monotonic() + _REFRESH
                self._bar.refresh()
        elif time.monotonic() >= self._next:
            seconds = time.monotonic() - self._started
            self._next = time.monotonic() + _pause(seconds)
            left = ""
            if self.done:
                left = f", about {_clock(seconds / self.done * (self.total - self.done))} left"
            done = f"{self.done} of {counted(self.total, 'run')}"
            self.message(
                f"{self.name}: {done} ({_clock(seconds)}{left})"
                + "".join(f"\n  {text}" for text in running)
            )

    def finished(self) -> None:
        """Say that one more run has ended."""
        self.done += 1
        if self._bar is not None:
            self._bar.update()

    def message(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the lines below the bar away."""
        for line in self._below:
            line.close()
        if self._bar is not None:
            self._bar.close()

    def _show_below(self, texts: Sequence[str]) -> None:
        while len(self._below) < len(texts):
            position = len(self._below) + 1
            self._below.append(_in_terminal(bar_format="  {desc}", position=position, leave=False))
        for k, line in enumerate(self._below):
            text = texts[k] if k < len(texts) else ""
            if line.desc != text:
                line.set_description_str(text)


def _pause(seconds: float) -> float:
    """Seconds until the next plain line of work that has taken so long."""
    return min(max(_LINES[0], seconds / 4), _LINES[1])


def _in_terminal(**options: Any) -> Any:
    """A tqdm bar on stderr, which is a terminal."""
    from tqdm import tqdm

    known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    columns, rows = (None, None) if known else (80, 24)  # of 0 columns tqdm shows nothing
    return tqdm(file=sys.stderr, ncols=columns, nrows=rows, **options)


def _tqdm(total: int, desc: str, unit: str, leave: bool) -> Any:
    # tqdm's widget does not look at TQDM_DISABLE itself
    if os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        return None
    from tqdm.auto import tqdm

    delay = 0.0 if leave else 0.5  # a bar that goes away again is not worth a flicker
    return tqdm(total=total, desc=desc, unit=unit, leave=leave, delay=delay)


def _put(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError:  # its reader is gone, or its disk is full: no reason to stop a training
        return


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
