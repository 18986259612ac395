"""Running experiments: train the runs that the store lacks, and return their tidy rows."""

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pandas as pd

from rtl_utils import devices, methods, probing
from rtl_utils.data import DATASETS, Shortcut, Task, plant, soft_labels
from rtl_utils.methods import Plan
from rtl_utils.migration import migrate
from rtl_utils.models import Net, build, predict
from rtl_utils.paths import Path as TaskPath
from rtl_utils.progress import Bar
from rtl_utils.provenance import provenance, revision
from rtl_utils.runs import BACKBONE, Run, check_fields, clean_tasks, reads, target_views, tasks
from rtl_utils.schedules import CONSTANT, IsoClassification
from rtl_utils.store import FINAL, DamagedRunsWarning, Row, Store
from rtl_utils.training import History, Replica, TrainingDiverged, example_loss, one_thread

__all__ = ["FINAL", "Run", "check", "frame", "measure", "network", "run", "tasks"]

_NAMED = 3  # damaged runs that a warning names
_POLL = 1.0  # seconds between two looks at what another process trains


def run(
    runs: Sequence[Run], store: Store, device: str = "cpu", *, keep_diverged: bool = False
) -> pd.DataFrame:
    """Tidy rows of the runs, training those that the store lacks.

    First their backbones are trained, then all transfers together. Each run is stored as soon as
    it is done, so stopping loses at most the trainings in flight. What another process trains at
    the same time is waited for, or trained here if that process dies. Runs whose rows or weights
    are damaged are named in a warning and trained again.

    Args:
        runs: what is wanted, in the order in which their rows come back.
        store: where trained runs are looked for and kept.
        device: where the others are trained, as `devices.resolve` takes it. No key depends on it;
            the rows say what it was.
        keep_diverged: whether the rows of runs that diverged are wanted too, as far as they got.

    Raises:
        ValueError: before any training, for a run that cannot be; after it, if a run diverged.
        StoreError: if a run is missing and the store cannot take it.
    """
    device = devices.resolve(device)
    wanted = list(dict.fromkeys(runs))
    for r in wanted:
        check_fields(r)
    say_what_is_old(store)
    backbones = list(dict.fromkeys(_backbone(r) for r in wanted if _starts_from_backbone(r)))
    missing = _missing([*wanted, *backbones], store)
    check(missing)
    store.use((r.key, asdict(r)) for r in [*backbones, *wanted])
    keys = {r.key for r in missing}
    _train([r for r in backbones if r.key in keys], store, device, "backbones")
    diverged = _diverged(backbones, store)
    if diverged:
        raise ValueError(
            f"a backbone diverged, so nothing can be transferred from it: {diverged[0]}"
        )
    _train([r for r in wanted if r.key in keys], store, device, "transfers")
    diverged = _diverged(wanted, store)
    if diverged and not keep_diverged:
        raise ValueError(
            f"{len(diverged)} of {len(wanted)} runs diverged; the first: {diverged[0]}"
        )
    return frame(wanted, store)


def check(runs: Sequence[Run]) -> None:
    """Validate the runs: raise here what training would raise later.

    Raises:
        ValueError: for the first run that cannot be trained.
    """
    for r in runs:
        check_fields(r)
        source, target = tasks(r)
        net = build(source, r.width, r.seed)
        if r.method == BACKBONE:
            Replica(net, TaskPath(source), CONSTANT, r.seed, r.sgd)
        else:
            TaskPath(target, source)
            methods.plan(r.method, net, source, target, seed=r.seed, setup=r.setup)


def frame(runs: Sequence[Run], store: Store) -> pd.DataFrame:
    """Tidy rows of the runs that are in the store, in the order of the runs.

    Returns:
        One row per run, metric and epoch (-1: after training): columns run, status, the run's own
        (`Run.columns`), metric, epoch, value, and those of the provenance.
    """
    wanted = list(dict.fromkeys(runs))
    values = store.values(r.key for r in wanted)
    described = pd.DataFrame([{"run": r.key, **r.columns()} for r in wanted])
    if described.empty:
        return values
    described["order"] = range(len(described))
    rows = described.merge(values, on="run")
    rows = rows.sort_values(["order", "metric", "epoch"], ignore_index=True, kind="stable")
    return rows.drop(columns="order")


def network(run: Run, store: Store) -> Net:
    """The trained network of a run that is in the store.

    Raises:
        ValueError: if it is not.
    """
    net = _fresh(run)
    if not store.load_weights(run.key, net):
        raise ValueError(
            f"the store has no weights of {run.in_words}; call experiments.run, which trains it"
        )
    return net


def measure(run: Run, net: Net) -> dict[str, float]:
    """What a run's network does after training, on its own task and with the shortcut.

    Returns:
        train_loss and val_loss in evaluation mode; for classes also train_accuracy and
        val_accuracy and the numbers of `probing.shortcut_test`, from a clean source too; a
        loss for each further view of the target, such as restored_loss on the synthetic one, and
        the mean |LIME weight| of each group of its features, such as lime_spurious.
    """
    _, target = tasks(run)
    values = {}
    for split in ("train", "val"):
        x, y = getattr(target, f"x_{split}"), getattr(target, f"y_{split}")
        output = predict(net, x).cpu()
        values[f"{split}_loss"] = float(example_loss(output, soft_labels(target, y)).mean())
        if not target.is_regression:
            values[f"{split}_accuracy"] = probing.accuracy(output, y)
    for name, view in target_views(run).items():
        output = predict(net, view.x_val).cpu()
        values[f"{name}_loss"] = float(example_loss(output, soft_labels(view, view.y_val)).mean())
    groups = DATASETS[run.dataset].features
    if groups is not None:
        profile = probing.lime_profile(net, target, groups, run.seed)
        values |= {f"lime_{name.replace(' ', '_')}": size for name, size in profile.items()}
    if run.test is not None:
        shortcut, label = run.test
        _, clean = clean_tasks(run)
        planted = everywhere(clean, shortcut, run.seed)
        values |= probing.shortcut_test(net, clean, planted, label)
    return values


def everywhere(task: Task, shortcut: Shortcut, seed: int) -> Task:
    """The task with the shortcut on every validation image."""
    return plant(task, shortcut.everywhere, seed, splits=("val",))


def say_what_is_old(store: Store) -> None:
    """Find the runs of earlier versions in the store again; warn once of those that are not."""
    if store.migrated or store.read_only:
        return
    found, old = migrate(store)
    store.migrated = True
    if found or old:
        warnings.warn(
            f"{store.folder} holds runs of an earlier version: {found} were given today's keys; "
            f"{old} were left alone, as their numbers are not today's or another run has their key",
            stacklevel=3,
        )


def _starts_from_backbone(run: Run) -> bool:
    return run.method == BACKBONE or run.needs_backbone


def _backbone(run: Run) -> Run:
    return run if run.method == BACKBONE else run.backbone()


def _missing(runs: Sequence[Run], store: Store) -> list[Run]:
    """Runs that are not in the store, one per key, or whose weights are lost; those are named."""
    by_key = {r.key: r for r in reversed(runs)}
    done = store.status(by_key)
    lost = [
        key
        for key, (status, _) in done.items()
        if status == "done" and not _whole(by_key[key], store)
    ]
    if lost:
        named = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        warnings.warn(
            f"{store.folder}: the weights of {len(lost)} of {len(done)} runs are not there or "
            f"damaged ({named}); they are trained again",
            DamagedRunsWarning,
            stacklevel=3,
        )
    return [r for key, r in reversed(by_key.items()) if key not in done or key in lost]


def _still_missing(runs: Sequence[Run], store: Store) -> list[Run]:
    """`_missing` of runs of which the damaged ones have been named."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*they are trained again$", DamagedRunsWarning)
        return _missing(runs, store)


def _train(runs: Sequence[Run], store: Store, device: str, label: str) -> None:
    """Train runs that are missing; wait for those that another process trains.

    No lease is held while waiting, so two processes cannot wait for each other.
    """
    missing = _still_missing(runs, store)
    while missing:
        with store.lease(r.key for r in missing) as held:
            # between the look and the lease another process may have finished one
            mine = _still_missing([r for r in missing if r.key in held], store)
            _execute(mine, store, device, label)
        others = [r for r in missing if r.key not in held]
        if others:
            _wait(others, store, label)
        missing = _still_missing(others, store)


def _wait(runs: Sequence[Run], store: Store, label: str) -> None:
    """Wait until each of the runs is in the store or held by nobody."""
    waiting = list(runs)
    said = False
    with Bar(len(runs), "waiting for another process", "runs") as bar:
        while True:
            holders = store.leased(r.key for r in waiting)
            missing = _still_missing([r for r in waiting if r.key in holders], store)
            bar.update(len(waiting) - len(missing))
            waiting = missing
            if not waiting:
                return
            if not said:
                said = True
                first = waiting[0]
                bar.message(
                    f"{len(waiting)} {label} are trained by another process "
                    f"({holders[first.key]}), the first: {first.in_words}; waiting for it"
                )
            time.sleep(_POLL)


def _whole(run: Run, store: Store) -> bool:
    """Whether a stored run's weights are there; those of a backbone are read to be sure."""
    if run.method == BACKBONE:
        return store.load_weights(run.key, _fresh(run))
    return store.has_weights(run.key)


def _fresh(run: Run) -> Net:
    _, target = tasks(run)
    return build(target, run.width, run.seed)


def _diverged(runs: Sequence[Run], store: Store) -> list[str]:
    """What the store says of the runs among these that diverged."""
    status = store.status(r.key for r in runs)
    return [
        f"{r.in_words}: {status[r.key][1]}"
        for r in runs
        if r.key in status and status[r.key][0] == "diverged"
    ]


def _execute(runs: Sequence[Run], store: Store, device: str, label: str) -> None:
    if not runs:
        return
    revision()  # before the training, so that it is the code that was loaded
    keys = [r.key for r in runs]  # and so are these: a file of data may be replaced meanwhile
    read = [reads(r) for r in runs]
    plans = [_plan(r, store) for r in runs]

    def done(row: int, history: History) -> None:
        r = runs[row]
        planned = plans[row]
        net = planned.net.to(device)
        with one_thread(), devices.reference(device):
            rows = _rows(r, planned, history)
        _check_data(r, read[row])
        weights = store.save_weights(keys[row], net.cpu())
        made = provenance(device, threads=1, seconds=history.seconds)
        store.save(
            keys[row],
            asdict(r),
            rows,
            message=history.diverged,
            provenance=made,
            reads=read[row],
            weights=weights,  # the row comes second: its digest decides which file counts
        )

    with suppress(TrainingDiverged):  # stored as diverged by `done`
        methods.train(plans, device=device, on_done=done, label=label)


def _check_data(run: Run, read: Mapping[str, Any]) -> None:
    """Raises ValueError if what the run reads is no longer what it read before its training."""
    if reads(run) != read:
        raise ValueError(
            f"the data of {run.dataset} were replaced while {run.in_words}, was trained, so "
            "nothing of it is kept; run the same command again"
        )


def _plan(run: Run, store: Store) -> Plan:
    source, target = tasks(run)
    if run.method == BACKBONE:
        net = build(source, run.width, run.seed)
        return methods.single(Replica(net, TaskPath(source), CONSTANT, run.seed, run.sgd))
    backbone = network(run.backbone(), store) if run.needs_backbone else None
    return methods.plan(run.method, backbone, source, target, seed=run.seed, setup=run.setup)


def _rows(run: Run, planned: Plan, history: History) -> list[Row]:
    """Every epoch's history, then what is measured after a training that did not diverge."""
    rows = [
        (metric, epoch, value)
        for metric, values in history.series().items()
        for epoch, value in enumerate(values)
    ]
    if history.diverged:
        return rows
    rows += [
        ("coupled_distance", k, iteration.distance)
        for k, iteration in enumerate(planned.iterations)
    ]
    final = measure(run, planned.net) | _distances(planned, history)
    schedule = planned.first.schedule
    if isinstance(schedule, IsoClassification):
        final["capped_share"] = schedule.capped_share(history)
    return rows + [(metric, FINAL, value) for metric, value in final.items()]


def _distances(planned: Plan, history: History) -> dict[str, float]:
    """Distances from source to target as this training measures them.

    weight_length, and what was asked for of information_length (a mean over pairs) and
    coupled_distance, both with their standard errors, and riemannian_length.
    """
    values = {"weight_length": history.weight_length[-1] if history.weight_length else 0.0}
    if planned.iterations:
        last = planned.iterations[-1]
        values["coupled_distance"] = last.distance
        if len(last.blocks) > 1:
            values["coupled_distance_error"] = last.standard_error
    if planned.lengths is not None:
        lengths = planned.lengths.mean
        values["information_length"] = float(lengths.mean())
        values["information_length_error"] = float(lengths.std(ddof=1) / len(lengths) ** 0.5)
    if planned.path_length is not None:
        values["riemannian_length"] = planned.path_length
    return values
