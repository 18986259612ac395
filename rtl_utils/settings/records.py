"""Checked parameters, and the runs that they describe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from rtl_utils import experiments
from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS, Shortcut, load, usual
from rtl_utils.methods import METHODS
from rtl_utils.runs import Run, class_names
from rtl_utils.store import Store
from rtl_utils.training import Sgd, epochs_of


@dataclass(frozen=True)
class Settings:
    """Checked parameters of a notebook; PARAMETERS says what they mean.

    Args:
        dataset: a name of DATASETS.
        pairs: (source, target) names.
        seeds: of the runs.
        sgd: of a transfer.
        source_sgd: of a backbone.
        taus: the grid of tau.
        width: of the network.
        n_train: examples per class, one or more sizes; None is all.
        device: of all trainings, what "auto" takes in its place.
        ball_class: source class that carries the shortcut; None for the last one.
        points: explained points.
        methods: rows of the table of methods.
        steps: of a transfer, in place of the epochs of `sgd`; None for these.
        backbone_share: of a method that averages with the backbone; None for its own.
        source_ball: whether a class of the source carries the shortcut; see `trainings`.
        target_ball: whether every target image does; likewise.
        patch: what the shortcut looks like, a name of PATCHES.
        lengths: whether lengths are measured; likewise.
        coupled: how a coupling is iterated.
        store: where runs are looked for and kept; None while the settings are being checked.
    """

    dataset: str
    pairs: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    sgd: Sgd
    source_sgd: Sgd
    taus: tuple[float, ...]
    width: str | tuple[int, ...]
    n_train: tuple[int | None, ...]
    device: str
    ball_class: str | None
    points: int
    methods: tuple[str, ...]
    coupled: Coupled
    steps: int | None = None
    backbone_share: float | None = None
    source_ball: bool = True
    target_ball: bool = False
    patch: str = "ball"
    lengths: bool = False
    store: Store | None = None

    @property
    def title(self) -> str:
        """The data set's name as figures write it."""
        return DATASETS[self.dataset].title

    @property
    def shown_pair(self) -> tuple[str, str]:
        """The pair that figures show."""
        shown = DATASETS[self.dataset].shown
        return shown if shown in self.pairs else self.pairs[0]

    def shortcut(self, source: str) -> Shortcut:
        """The shortcut on the source's class that carries it (the paper's last one, a kangaroo)."""
        name = self.ball_class or class_names(self.dataset, source)[-1]
        return usual(self.patch, (name,))

    def sgd_at(self, target: str, n_train: int | None = None) -> Sgd:
        """How a transfer is trained: with as many epochs as come nearest to `steps`, if it is set.

        Args:
            target: of the transfer.
            n_train: its training examples per class; None for all.
        """
        if self.steps is None:
            return self.sgd
        examples = len(load(self.dataset, target, self.seeds[0], n_train).y_train)
        return replace(self.sgd, epochs=epochs_of(self.steps, examples, self.sgd.batch_size))

    def runs(self, *methods: str, biased: bool = False, **changes: Any) -> list[Run]:
        """One run for every pair, method and seed.

        Args:
            methods: names of METHODS.
            biased: whether the source carries the shortcut.
            changes: other fields of `Run`.
        """
        training = {
            "width": self.width,
            "taus": self.taus,
            "source_sgd": self.source_sgd,
            "coupled": self.coupled,
            "backbone_share": self.backbone_share,
        }
        n_train = changes.get("n_train")
        sgds = {target: self.sgd_at(target, n_train) for _, target in self.pairs}
        return [
            Run(
                self.dataset,
                source,
                target,
                method,
                seed,
                source_shortcut=self.shortcut(source) if biased else None,
                **({"sgd": sgds[target], "tested": self._tested(source)} | training | changes),
            )
            for source, target in self.pairs
            for method in methods
            for seed in self.seeds
        ]

    @property
    def known_methods(self) -> tuple[str, ...]:
        """The methods, from a clean source without those that must know the shortcut."""
        return tuple(
            name for name in self.methods if self.source_ball or not METHODS[name].needs_knowledge
        )

    def trainings(self) -> list[Run]:
        """The runs that the parameters describe by themselves: every pair, size, method and seed.

        `sweeps/trainings.ipynb` trains them. Where the source is clean, methods that must know the
        shortcut are left out.
        """
        changes: dict[str, Any] = {
            "target_shortcut": usual(self.patch) if self.target_ball else None,
            "partitions": self.coupled.partitions if self.lengths else None,
        }
        return [
            run
            for size in self.n_train
            for run in self.runs(
                *self.known_methods, biased=self.source_ball, n_train=size, **changes
            )
        ]

    def _tested(self, source: str) -> Shortcut | None:
        """What is tested where the source is clean too; None for the ball on the last class."""
        usual_one = self.ball_class is None and self.patch == "ball"
        return None if usual_one else self.shortcut(source)

    def run(self, runs: Sequence[Run], keep_diverged: bool = False) -> pd.DataFrame:
        """Tidy rows of the runs; see `experiments.run`."""
        if self.store is None:
            raise ValueError("these settings have no store: take them from check(globals())")
        return experiments.run(runs, self.store, self.device, keep_diverged=keep_diverged)
