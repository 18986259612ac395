"""Epoch x tau: how well the checkpoints of a training do on every task of the path."""

import numpy as np

from rtl_utils import plotting, tables
from rtl_utils.widgets.panels import Panel, buttons, row, slider
from rtl_utils.widgets.recordings import TAUS, Recording, stored
from rtl_utils.widgets.scenes import Curves, Heat, Line, Scene

_MEASURES = {"loss": "loss", "accuracy": "accuracy"}
_MARKED = (0, 5, 10, 15, 20)  # values of tau that are written at the map


class EpochsPanel(Panel):
    """A map of loss or accuracy over epochs and tau, with a slider for each.

    Args:
        recording: whose checkpoints are shown; None for the stored one.

    Raises:
        ValueError: for a recording without maps.
    """

    def __init__(self, recording: Recording | None = None) -> None:
        super().__init__(
            "Epochs and tau",
            "Each row of the map is a checkpoint, each column a task of the path, measured on "
            "held-out examples. Move the sliders: the curves are the framed row and column.",
        )
        self._recording = recording or stored()
        if not self._recording.maps:
            raise ValueError("this recording has no maps; take one of recordings.record")
        names = [(tables.label(method), method) for method in self._recording.methods]
        self.method = buttons("method", names, names[0][1])
        self.measure = buttons("measure", [(text, m) for m, text in _MEASURES.items()], "loss")
        epochs = self._recording.epochs
        self.epoch = slider("epoch", epochs[-1], epochs[-1], step=epochs[1])
        self.tau = slider("tau", 1, 1, step=0.05)
        moved = [self.method, self.measure, self.epoch, self.tau]
        self.build([self.epoch, self.tau, row(self.method, self.measure)], moved)

    def scene(self) -> Scene:
        """The map of the chosen method; over tau and over epochs, the curves of all methods."""
        epochs = np.array(self._recording.epochs, dtype=float)
        row = int(np.abs(epochs - self.epoch.value).argmin())
        column = int(np.abs(TAUS - self.tau.value).argmin())
        name = self.measure.value
        tables_of = {m: getattr(found, name) for m, found in self._recording.maps.items()}
        high = max(float(values.max()) for values in tables_of.values())
        limits = (0.0, 1.0) if name == "accuracy" else (0.0, high)
        over_tau, over_epochs = [], []
        for method, values in tables_of.items():
            style = (tables.label(method), plotting.colour(method))
            over_tau.append(Line(style[0], TAUS, values[row], style[1]))
            over_epochs.append(Line(style[0], epochs, values[:, column], style[1]))
        unit = "accuracy" if name == "accuracy" else "loss, nats"
        _, target = self._recording.tasks
        chance = (1 / target.outputs, "chance") if name == "accuracy" else None
        return [
            self._map(tables_of[self.method.value], limits, (row, column)),
            Curves(
                f"{name} over tau, epoch {epochs[row]:g}",
                over_tau,
                "tau",
                unit,
                (0, 1),
                limits,
                TAUS[column],
                chance,
            ),
            Curves(
                f"{name} over epochs, tau = {TAUS[column]:.2f}",
                over_epochs,
                "epoch",
                unit,
                (0, float(epochs[-1])),
                limits,
                float(epochs[row]),
                chance,
            ),
        ]

    def _map(
        self, values: np.ndarray, limits: tuple[float, float], cursor: tuple[int, int]
    ) -> Heat:
        high = f"0 (white) to {limits[1]:.2g}"
        return Heat(
            f"{self.measure.value} of {tables.label(self.method.value)}, {high}",
            values,
            *limits,
            xlabel="tau",
            ylabel="epoch",
            xticks=[(k, f"{TAUS[k]:g}") for k in _MARKED],
            yticks=[(k, str(epoch)) for k, epoch in enumerate(self._recording.epochs)],
            cursor=cursor,
        )
