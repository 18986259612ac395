"""The race: fine-tuning and uncoupled transfer train side by side, live, and can be replayed."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ipywidgets as ipw
import numpy as np

from rtl_utils import plotting, tables
from rtl_utils.data import DATASETS, image_datasets
from rtl_utils.messages import counted, duration, shown
from rtl_utils.runs import BACKBONE, Run, class_names
from rtl_utils.widgets.panels import Panel, choice, row, slider, text
from rtl_utils.widgets.races import (
    RACERS,
    Diverged,
    End,
    Entered,
    Glance,
    Measured,
    Race,
    Report,
    Step,
)
from rtl_utils.widgets.recordings import Moment, Recording, stored
from rtl_utils.widgets.scenes import Bars, Chart, Curves, Heat, Line, Scene

_racing: list[Race] = []  # that run in this process: one at a time, whichever panel began it
_TICK = 0.1  # seconds between two looks at the reports
_HIGHEST_LOSS = 10.0  # of the chart, in nats; guessing among five classes costs 1.6
_SIZES = {"all": None, "10": 10, "20": 20, "50": 50, "100": 100}  # images per class
_LONGEST_TICK = 6  # letters of a class below a column
_GRID = "repeat(auto-fit, minmax(min(24em, 100%), 1fr))"  # as many columns as there is room for


class RacePanel(Panel):
    """Entries of a race, buttons that start, pause and stop it, live charts, and a replay.

    Before the first race it replays the stored recording. The race trains in threads of its own;
    the kernel's event loop looks ten times per second at what they report, and draws. A race that
    another panel of this process has begun is stopped, as that panel may not be shown any more.

    Args:
        dataset: whose tasks can be chosen, a name of DATASETS.

    Raises:
        ValueError: for data without images.
    """

    _race: Race | None = None  # that runs
    _log: "_Log"  # that the charts show
    _next: "_Log"  # of the race that runs: they will show it

    def __init__(self, dataset: str = "digits") -> None:
        if dataset not in image_datasets():
            names = ", ".join(image_datasets())
            raise ValueError(
                f"a race runs on images, so dataset must be one of {names}; got {shown(dataset)}"
            )
        super().__init__(
            "The race",
            "Press Train: fine-tuning and uncoupled transfer start from one backbone and train in "
            "step. Afterwards, move the epoch to replay the race.",
        )
        self.entries = _Entries(dataset)
        self.train = _button("Train", self._train)
        self.pause = _button("Pause", self._pause)
        self.stop = _button("Stop", self._stop)
        self.reset = _button("Reset", self._reset)
        self.bar = ipw.FloatProgress(max=1)
        self.left = ipw.HTML()
        self.epoch = slider("epoch shown", 0, 1)
        self._resetting = False
        self._following: asyncio.Task[None] | None = None
        self._set_running(False)
        self._show_stored()
        pressed = row(
            ipw.HBox([self.train, self.pause, self.stop, self.reset]), self.bar, self.left
        )
        self.build([self.entries, pressed, self.epoch], [self.epoch])

    def scene(self) -> Scene:
        """Curves of accuracy and loss, and what is known of both networks at the epoch shown."""
        return self._log.scene(self.epoch.value)

    def follow(self) -> None:
        """Draw the race as far as it is, and say what is shown."""
        if self.tried(lambda: self.canvas.show(self.scene())):
            self.say(self._sentence)

    def close(self) -> None:
        """Stop the race, and take the panel away."""
        if self._race is not None:
            self._race.stop()
        super().close()

    def _train(self) -> None:
        if self._race is not None:  # a second click that came before the button was grey
            return
        try:
            self._race = Race(self.entries.given())
        except ValueError as error:
            self._tell(str(error))
            return
        self._tell("The backbone is trained first; until then the charts show the race before.")
        self._set_running(True)
        for other in _racing:
            other.stop()
        _racing.append(self._race)
        self._race.start()
        following = self._follow_race(self._race)
        try:
            self._following = asyncio.get_running_loop().create_task(following)
        except RuntimeError:  # a script without an event loop waits for the end
            asyncio.run(following)

    def _pause(self) -> None:
        if self._race is None:
            return
        if self._race.paused:
            self._race.resume()
        else:
            self._race.pause()
        self.pause.description = "Resume" if self._race.paused else "Pause"

    def _stop(self) -> None:
        if self._race is not None:
            self._race.stop()

    def _reset(self) -> None:
        """Entries as at first, and the stored race; a race that runs is stopped before."""
        self.entries.reset()
        if self._race is None:
            self._show_stored()
        else:
            self._resetting = True
            self._race.stop()

    async def _follow_race(self, race: Race) -> None:
        """Draw what the race reports, until it has ended."""
        end = End("failed", "The race could not be drawn, so it was stopped.")
        try:
            end = await self._drawn(race)
        finally:
            race.stop()
            _racing.remove(race)
            self._race = None
            self._set_running(False)
            self._ended(end)

    async def _drawn(self, race: Race) -> End:
        """How the race ended; what it reported until then was drawn."""
        progress = _Progress(race)
        while True:
            await asyncio.sleep(_TICK)
            reports = _waiting(race)
            for report in reports:
                if isinstance(report, Step):
                    progress.step = report
                elif not isinstance(report, End):
                    self._take(report)
            self.bar.value, self.bar.description, self.left.value = progress.tick()
            if reports and isinstance(reports[-1], End):
                return reports[-1]
            if any(not isinstance(report, Step) for report in reports):
                self._show_latest()

    def _take(self, report: Report) -> None:
        """Note a report; the race before stays in the charts until there is something to see."""
        if isinstance(report, Entered):
            self._next = _Log(report.runs[0])
        else:
            if self._log is not self._next:
                self._log = self._next
                self._tell("Both train in step, and are measured within epochs and after each.")
            self._log.take(report)

    def _show_latest(self) -> None:
        """Move the epoch shown to the last one that every training has done, and draw."""
        self.epoch.step = self._log.every
        self.epoch.max = self._log.epochs if self._race else max(self._log.every, self._log.last)
        self.epoch.value = self._log.last
        self.follow()

    def _ended(self, end: End) -> None:
        if self._resetting:
            self._resetting = False
            self._show_stored()
            return
        if end.message:
            self._sentence = end.message
        elif self._log is not self._next:
            self._sentence = "Stopped while the backbone was trained; Train starts it anew."
        else:
            epochs = counted(self._log.last, "epoch")
            how = "Finished" if end.how == "finished" else "Stopped"
            said = [*self._log.problems(), f"{how} after {epochs}."]
            if self._log.last:
                said.append("Move the epoch shown to replay the race.")
            self._sentence = " ".join(said)
        self._show_latest()

    def _show_stored(self) -> None:
        self._log = self._next = _Log.of_recording(stored())
        self._sentence = (
            "Shown is a stored race on the digits, with a narrow network and the ball on class "
            f"{self._log.ball[0]} of the source. Press Train for one of your own."
        )
        self.bar.value = 0.0
        self.bar.description = "progress"
        self._show_latest()

    def _tell(self, sentence: str) -> None:
        """Say what stays until something else is told."""
        self._sentence = sentence
        self.say(sentence)

    def _set_running(self, running: bool) -> None:
        self.train.disabled = self.epoch.disabled = running
        self.pause.disabled = self.stop.disabled = not running
        self.pause.description = "Pause"
        if not running:
            self.left.value = ""


class _Entries(ipw.GridBox):
    """What a race can be asked for.

    Args:
        dataset: whose tasks can be chosen.
    """

    def __init__(self, dataset: str) -> None:
        record = DATASETS[dataset]
        pairs = [*record.pairs, *((target, source) for source, target in record.pairs)]
        self.dataset = dataset
        self.pair = choice("pair", [(f"{a} to {b}", (a, b)) for a, b in pairs], record.pairs[0])
        self.n_train = choice("images per class", [(size, size) for size in _SIZES], "all")
        self.epochs = slider("epochs", record.epochs, 4 * record.epochs, lowest=1)
        self.taus = text("taus", "0, 0.25, 0.5, 0.75, 1")
        self.lr = text("learning rate (lr)", "0.01")
        self.seed = slider("seed", 0, 9)
        self.source_ball = _tick_box("ball on one class of the source", True)
        self.target_ball = _tick_box("ball on all images of the target", False)
        columns = ipw.Layout(grid_template_columns=_GRID, grid_gap="0 24px", width="100%")
        controls = [self.pair, self.n_train, self.epochs, self.taus, self.lr, self.seed]
        controls += [self.source_ball, self.target_ball]
        for control in controls:
            control.layout.width = "auto"  # of its column
        super().__init__(controls, layout=columns)
        self._at_first = [control.value for control in controls]

    def given(self) -> dict[str, Any]:
        """The entries as parameters of a notebook.

        Raises:
            ValueError: for a text that is not made of numbers.
        """
        source, target = self.pair.value
        return {
            "dataset": self.dataset,
            "source": source,
            "target": target,
            "source_ball": self.source_ball.value,
            "target_ball": self.target_ball.value,
            "n_train": _SIZES[self.n_train.value],
            "epochs": self.epochs.value,
            "taus": _numbers(self.taus.value),
            "lr": _number(self.lr.value),
            "seeds": [self.seed.value],
        }

    def reset(self) -> None:
        """Put every entry back to what it was at first."""
        for control, value in zip(self.children, self._at_first, strict=True):
            control.value = value


class _Point(NamedTuple):
    """Of a curve."""

    epoch: float
    loss: float
    accuracy: float


class _Log:
    """What the charts show: what a race reported so far, or a recording.

    Args:
        run: one of its trainings.
    """

    def __init__(self, run: Run) -> None:
        assert run.target is not None
        self.epochs = run.sgd.epochs
        self.classes = class_names(run.dataset, run.target)
        _, label = run.test or (None, 0)
        # a class of the source and one of the target share an output
        self.ball = (class_names(run.dataset, run.source)[label], self.classes[label])
        self.moments: dict[str, list[Moment]] = {method: [] for method in RACERS}
        self.points: dict[str, list[_Point]] = {method: [] for method in RACERS}
        self.diverged: dict[str, str] = {}

    @staticmethod
    def of_recording(recording: Recording) -> "_Log":
        """The log of a race that was stored."""
        log = _Log(recording.run)
        for method in RACERS:
            for found in recording.moments[method]:
                log.take(Measured(method, found))
        return log

    def take(self, report: Report) -> None:
        """Add what a report says."""
        match report:
            case Measured(method, found):
                self.moments[method].append(found)
                self.points[method].append(_Point(found.epoch, found.loss, found.accuracy))
            case Glance(method, epoch, loss, accuracy):
                self.points[method].append(_Point(epoch, loss, accuracy))
            case Diverged(method, message):
                self.diverged[method] = message

    @property
    def last(self) -> int:
        """The last epoch that was measured."""
        return int(max(found[-1].epoch for found in self.moments.values() if found))

    @property
    def every(self) -> int:
        """Epochs between two that were measured."""
        found = max(self.moments.values(), key=len)
        return int(found[1].epoch - found[0].epoch) if len(found) > 1 else 1

    def problems(self) -> list[str]:
        """A sentence for each training that diverged, and one for losses that left the chart."""
        found = [f"{message}." for message in self.diverged.values()]
        highest = {
            method: max((p.loss for p in points if math.isfinite(p.loss)), default=0.0)
            for method, points in self.points.items()
            if method not in self.diverged
        }
        beyond = {method: loss for method, loss in highest.items() if loss > _HIGHEST_LOSS}
        if beyond:
            names = tables.listed(tables.label(method) for method in beyond)
            found.append(
                f"The loss of {names} rose above the chart, to {max(beyond.values()):.2g}; lower "
                "the learning rate."
            )
        return found

    def scene(self, epoch: float) -> Scene:
        """The charts, with all that is known at one epoch."""
        accuracies = {m: [p.accuracy for p in points] for m, points in self.points.items()}
        losses = {m: [p.loss for p in points] for m, points in self.points.items()}
        finite = [loss for values in losses.values() for loss in values if math.isfinite(loss)]
        highest = min(_HIGHEST_LOSS, max(finite, default=1.0))
        chance = (1 / len(self.classes), "chance")
        now = {m: _at(found, epoch) for m, found in self.moments.items() if found}
        answers = f"{'/'.join(self.ball)} with the ball"
        longest = max(found[-1].length for found in self.moments.values() if found)
        return [
            self._curves("Accuracy without the ball", "accuracy", accuracies, epoch, 1.0, chance),
            self._curves("Loss without the ball", "loss, nats", losses, epoch, highest, None),
            _bars(answers, "share", {m: found.share for m, found in now.items()}, 1.0),
            _bars(
                "Weights' trajectory",
                "length",
                {m: found.length for m, found in now.items()},
                1.05 * max(longest, 1.0),
            ),
            *(self._confusion(method, found) for method, found in now.items()),
        ]

    def _curves(
        self,
        title: str,
        unit: str,
        values: dict[str, list[float]],
        epoch: float,
        highest: float,
        level: tuple[float, str] | None,
    ) -> Chart:
        lines = []
        for method, points in self.points.items():
            x = np.array([p.epoch for p in points])
            name, colour = tables.label(method), plotting.colour(method)
            lines.append(Line(name, x, np.array(values[method]), colour))
        limits = ((0.0, float(self.epochs)), (0.0, highest))
        return Curves(title, lines, "epoch", unit, *limits, cursor=epoch, level=level)

    def _confusion(self, method: str, found: Moment) -> Chart:
        counts = found.confusion
        ticks = [(k, name) for k, name in enumerate(self.classes)]
        return Heat(
            f"{tables.label(method)}, epoch {found.epoch:g}, tau = {found.tau:g}",
            counts / counts.sum(1, keepdims=True).clip(1),
            0.0,
            1.0,
            "predicted class",
            "true class",
            [(k, name[:_LONGEST_TICK]) for k, name in ticks],
            ticks,
            texts=[str(n) for n in counts.flatten()],
        )


def _at(found: Sequence[Moment], epoch: float) -> Moment:
    """The last moment up to an epoch: a training that stopped early stays where it was."""
    return [m for m in found if m.epoch <= epoch][-1]


def _bars(title: str, unit: str, values: dict[str, float], highest: float) -> Chart:
    colours = [plotting.colour(method) for method in values]
    heights = np.array(list(values.values()))
    return Bars(title, [m.upper() for m in values], heights, colours, 0.0, highest, unit)


class _Progress:
    """How far a race is, in words.

    Args:
        race: that runs.

    step: the last one that was reported.
    """

    def __init__(self, race: Race) -> None:
        self.race = race
        self.step: Step | None = None
        self._stage = ""
        self._seconds = 0.0  # of the stage, pauses left out
        self._seen = time.monotonic()

    def tick(self) -> tuple[float, str, str]:
        """Share of the stage that is done, the stage's name, and the time that is left."""
        now = time.monotonic()
        passed = now - self._seen
        self._seen = now
        if self.step is None:
            return 0.0, "progress", "checking the entries"
        stage = BACKBONE if self.step.method == BACKBONE else "race"
        if stage != self._stage:
            self._stage = stage
            self._seconds = 0.0
        share = self.step.done / self.step.steps
        if self.race.paused:
            return share, stage, "paused"
        self._seconds += passed
        left = self._seconds * (1 / share - 1)
        return share, stage, f"about {duration(left)} left" if left >= 1 else "almost done"


def _waiting(race: Race) -> list[Report]:
    """What was reported and not yet read."""
    found = []
    while not race.reports.empty():
        found.append(race.reports.get())
    return found


def _button(name: str, pressed: Callable[[], None]) -> ipw.Button:
    made = ipw.Button(description=name, layout=ipw.Layout(width="6em"))
    made.on_click(lambda _: pressed())
    return made


def _tick_box(name: str, value: bool) -> ipw.Checkbox:
    return ipw.Checkbox(value=value, description=name, indent=False)


def _numbers(entry: str) -> list[float]:
    try:
        return [float(part) for part in entry.split(",")]
    except ValueError:
        raise ValueError(
            f"taus must be numbers with commas between them, such as 0, 0.5, 1; got {shown(entry)}"
        ) from None


def _number(entry: str) -> float:
    try:
        return float(entry)
    except ValueError:
        raise ValueError(f"lr must be a number, such as 0.01; got {shown(entry)}") from None
