"""What settings describe, tried out on the data before anything is trained."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache

from rtl_utils import experiments
from rtl_utils.data import load
from rtl_utils.lengths import check_partitions
from rtl_utils.models import build
from rtl_utils.paths import Path
from rtl_utils.runs import Run, class_names
from rtl_utils.schedules import CONSTANT, check_taus
from rtl_utils.settings.records import Settings
from rtl_utils.training import Replica, Sgd


class Tried:
    """What validation found so far; one for all sets of parameters of a sweep.

    passed: settings and runs that passed, without their seeds, rates and momenta, which decide
        nothing there.
    """

    def __init__(self) -> None:
        self.passed: set[Settings | Run] = set()
        self.load = lru_cache(maxsize=32)(load)  # `data.load`, whose tasks are asked for again
        self.most = cache(self._most)

    def _most(self, dataset: str, name: str, seed: int) -> int:
        """What n_train may be at most for a task."""
        task = self.load(dataset, name, seed)
        return len(task.y_train) if task.is_regression else int(task.y_train.bincount().min())

    def check(self, runs: Sequence[Run]) -> None:
        """`experiments.check` of the runs that are not like one that passed."""
        for run in runs:
            key = replace(
                run,
                seed=0,
                sgd=_at_any_rate(run.sgd),
                source_sgd=None if run.source_sgd is None else _at_any_rate(run.source_sgd),
            )
            if key not in self.passed:
                experiments.check([run])
                self.passed.add(key)


def _at_any_rate(sgd: Sgd) -> Sgd:
    return replace(sgd, lr=1.0, momentum=0.0)


def try_out(settings: Settings, tried: Tried) -> None:
    """Validate the settings on the real data: raise here what training would raise later.

    A rate and a momentum were checked one by one, and how many examples a task has does not depend
    on the seed, so settings that differ in these alone are tried once.
    """
    key = replace(
        settings,
        seeds=(),
        sgd=_at_any_rate(settings.sgd),
        source_sgd=_at_any_rate(settings.source_sgd),
    )
    if key not in tried.passed:
        _try_epochs(settings)
        _try_pairs(settings, tried)
        _try_sizes(settings, tried)
        tried.passed.add(key)
    _try_seeds(settings, tried)


def _try_seeds(settings: Settings, tried: Tried) -> None:
    """Validate n_train with every seed: a split that it draws may have another smallest class."""
    for _, target in settings.pairs:
        for size in settings.n_train:
            if size is None:
                continue
            for seed in settings.seeds:
                if size > tried.most(settings.dataset, target, seed):
                    load(settings.dataset, target, seed, size)  # says so


def _try_epochs(settings: Settings) -> None:
    """Validate tau, partitions and steps against the epochs of every transfer."""
    for _, target in settings.pairs:
        for size in settings.n_train:
            epochs = settings.sgd_at(target, size).epochs
            needed = max(len(settings.taus), settings.coupled.partitions)
            if settings.steps is not None and epochs < needed:
                raise ValueError(
                    f"steps must make {needed} epochs or more, one for each value of tau and for "
                    f"each partition; got {settings.steps}, which makes {epochs} on {target!r}"
                )
            check_taus(settings.taus, epochs)
            check_partitions(settings.coupled.partitions, epochs)


def _try_pairs(settings: Settings, tried: Tried) -> None:
    """Validate the backbones, the number of points and the shortcut's class."""
    seed = settings.seeds[0]
    for source, target in settings.pairs:
        task = tried.load(settings.dataset, source, seed)
        net = build(task, settings.width, seed=0)
        Replica(net, Path(task), CONSTANT, 0, settings.source_sgd)
        most = min(len(task.y_val), len(tried.load(settings.dataset, target, seed).y_val))
        if settings.points > most:
            raise ValueError(
                f"points must be at most the {most:,} validation examples; got {settings.points}"
            )
        if settings.ball_class is not None:
            task.class_index(settings.ball_class)


def _try_sizes(settings: Settings, tried: Tried) -> None:
    """Validate every number of target examples, and every method at it."""
    first = settings.seeds[0]
    for _, target in settings.pairs:
        for size in settings.n_train:
            task = tried.load(settings.dataset, target, first, size)
            if settings.sgd.batch_size > len(task.y_train):
                have = f"{len(task.y_train)} training examples of {target!r} at n_train = {size}"
                raise ValueError(
                    f"batch_size must be at most the {have}; got {settings.sgd.batch_size}"
                )
            settings.coupled.block_of(len(task.y_train))
    one = replace(settings, seeds=(first,))
    images = bool(class_names(settings.dataset, settings.pairs[0][0]))
    chosen = dict.fromkeys(["scratch", "ft", "ut", *settings.known_methods])
    for size in settings.n_train:
        tried.check(one.runs(*chosen, biased=images and settings.source_ball, n_train=size))
    if settings.lengths:  # not every method has a path to be measured
        tried.check(one.trainings())
