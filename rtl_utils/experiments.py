"""Experiments: a run is a record of one training; running a list of them trains what the store lacks and returns tidy rows."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import pandas as pd

from rtl_utils import methods
from rtl_utils.coupled import Coupled
from rtl_utils.methods import Plan
from rtl_utils.models import Net, build, predict
from rtl_utils.paths import CONSTANT, soft_labels
from rtl_utils.paths import Path as TaskPath
from rtl_utils.probing import ball_test
from rtl_utils.provenance import provenance
from rtl_utils.results import FINAL, Store, run_key
from rtl_utils.spurious import permute_features, plant_ball, plant_share
from rtl_utils.tasks import Task, disjoint, load, standardise, synthetic
from rtl_utils.training import History, Replica, Sgd, TrainingDiverged, example_loss

_MODULES = (
    "randomness", "tasks", "spurious", "models", "couplings", "paths", "lengths", "populations", "workers", "training", "coupled", "methods",
    "probing", "experiments",
)  # fmt: skip
_COUNTER_EXAMPLES = 0.1  # share of the images of every other class that carry a ball


@dataclass(frozen=True)
class Run:
    """One training, fully described. The field `target` is None for a backbone, which trains on the source.

    method: "backbone" or a name of METHODS; source_ball: the source class whose images carry a ball, None for a clean source;
    target_ball: every training image of the target carries one; n_train: target images a class, None for all; head: "shared", class k
    of source and target is one output (the paper), or "disjoint", every class has its own; source_sgd: how the backbone was trained, None
    for the same as this run; coupled: for an iterated coupling; partitions: as in `methods.plan`, for the information lengths.
    """

    dataset: str
    source: str
    target: str | None
    method: str
    seed: int
    source_ball: str | None = None
    target_ball: bool = False
    n_train: int | None = None
    head: str = "shared"
    width: str | tuple[int, ...] = "small"
    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    sgd: Sgd = Sgd()
    source_sgd: Sgd | None = None
    coupled: Coupled = Coupled()
    partitions: int | None = None

    @property
    def key(self) -> str:
        """The run's name in the store: a hash of this record and of the code."""
        return _key(self)

    def backbone(self) -> "Run":
        """The run that trains this run's backbone: the same source, seed and settings, whatever the target."""
        return replace(
            self,
            method="backbone",
            target=None,
            target_ball=False,
            n_train=None,
            taus=CONSTANT.taus,
            sgd=self.source_sgd or self.sgd,
            source_sgd=None,
            coupled=Coupled(),
            partitions=None,
        )


def run(runs: Sequence[Run], store: Store, device: str = "cpu") -> pd.DataFrame:
    """Tidy rows of the runs, training those that the store lacks: first their backbones, then all together as one population.

    Each run is stored as soon as it is done, so that stopping loses at most the trainings in flight.
    Raises ValueError for a run that cannot be, before any training, and if a backbone diverged.
    """
    wanted = list(dict.fromkeys(runs))
    for r in _missing(wanted, store):
        _check(r)
    backbones = list(dict.fromkeys(r.backbone() for r in wanted if _needs_backbone(r)))
    _execute(_missing(backbones, store), store, device, "backbones")
    for key, (status, message) in store.status(b.key for b in backbones).items():
        if status == "diverged":
            raise ValueError(f"backbone {key} diverged, so nothing can be transferred from it: {message}")
    _execute([r for r in _missing(wanted, store) if r not in backbones], store, device, "transfers")
    return store.frame(r.key for r in wanted)


def network(run: Run, store: Store) -> Net:
    """The trained network of a run that is in the store. Raises ValueError if it is not."""
    _, target = tasks(run)
    net = build(target, run.width, run.seed)
    if not store.load_weights(run.key, net):
        raise ValueError(f"the store has no weights of {run}; call experiments.run on it first")
    return net


def tasks(run: Run) -> tuple[Task, Task]:
    """Source and target of a run, planted and standardised as it trains on them; for a backbone both are the source."""
    return _tasks(run.dataset, run.source, run.target, run.seed, run.source_ball, run.target_ball, run.n_train, run.head)


def code() -> list[Path]:
    """The modules that decide a run's numbers; a change in one of them makes its runs new ones."""
    return [Path(__file__).with_name(f"{name}.py") for name in _MODULES]


def synthetic_views(seed: int) -> dict[str, Task]:
    """The synthetic target in the units of the permuted target, on which all models train (paper, section 5.1).

    "permuted": as trained on; "restored": the original first 20 features are back; "rows": the rows of those features are permuted
    within their columns, the control that changes nothing against "permuted".
    """
    raw = synthetic("target", seed)
    permuted = permute_features(raw, seed)
    views = {"permuted": permuted, "restored": raw, "rows": permute_features(permuted, seed, by="rows")}
    return {name: standardise(view, by=permuted) for name, view in views.items()}


def _check(run: Run) -> None:
    """Meet every rule that this run's training would meet, before any training."""
    if run.method not in ("backbone", *methods.METHODS):
        raise ValueError(f"method must be one of backbone, {', '.join(methods.METHODS)}; got {run.method!r}")
    if run.head not in ("shared", "disjoint"):
        raise ValueError(f"head must be 'shared' or 'disjoint'; got {run.head!r}")
    if run.method != "backbone" and methods.needs_shortcut(run.method) and run.source_ball is None:
        raise ValueError(f"method {run.method!r} must know where the shortcut is, so source_ball must name a class; got None")
    source, target = tasks(run)
    net = build(source, run.width, run.seed)
    if run.method == "backbone":
        Replica(net, TaskPath(source), CONSTANT, run.seed, run.sgd)
    else:
        TaskPath(target, source)
        _transfer(run, net)


def _needs_backbone(run: Run) -> bool:
    return run.method == "backbone" or (run.method in methods.METHODS and methods.METHODS[run.method].start == "backbone")


def _missing(runs: Sequence[Run], store: Store) -> list[Run]:
    done = store.status(run.key for run in runs)
    nets_lost = [
        r
        for r in runs
        if r.method == "backbone"
        and r.key in done
        and done[r.key][0] == "done"
        and not store.load_weights(r.key, build(tasks(r)[1], r.width, r.seed))
    ]
    return [r for r in runs if r.key not in done or r in nets_lost]


def _execute(runs: Sequence[Run], store: Store, device: str, label: str) -> None:
    plans = [_plan(r, store) for r in runs]

    def done(row: int, history: History) -> None:
        r, planned = runs[row], plans[row]
        store.save_weights(r.key, planned.net.cpu())
        made = provenance(device, threads=1, seconds=history.seconds)
        store.save(r.key, asdict(r), _rows(r, planned, history), history.diverged, made)

    with suppress(TrainingDiverged):  # stored as diverged by `done`
        methods.train(plans, device=device, on_done=done, label=label)


def _plan(run: Run, store: Store) -> Plan:
    if run.method == "backbone":
        source, _ = tasks(run)
        net = build(source, run.width, run.seed)
        return methods.alone(Replica(net, TaskPath(source), CONSTANT, run.seed, run.sgd))
    return _transfer(run, network(run.backbone(), store) if _needs_backbone(run) else None)


def _transfer(run: Run, backbone: Net | None) -> Plan:
    source, target = tasks(run)
    return methods.plan(
        run.method, backbone, source, target, seed=run.seed, sgd=run.sgd, taus=run.taus, width=run.width, coupled=run.coupled,
        shortcut=_shortcut(run), partitions=run.partitions,
    )  # fmt: skip


def _shortcut(run: Run) -> methods.Shortcut | None:
    """What there is to know about the run's ball; None if there is none."""
    if run.source_ball is None:
        return None
    source, target = tasks(replace(run, source_ball=None))
    classes, others = source.y_train.unique().tolist(), target.y_train.unique().tolist()
    ball = source.class_index(run.source_ball)
    spread = plant_share(source, tuple(source.class_names[k] for k in classes), 1 / len(classes), run.seed)  # about as many balls
    if run.target_ball:
        return methods.Shortcut(spread, target)
    return methods.Shortcut(spread, plant_share(target, tuple(target.class_names[k] for k in others if k != ball), _COUNTER_EXAMPLES, run.seed))


@cache
def _key(run: Run) -> str:
    iterated = run.method in methods.METHODS and methods.METHODS[run.method].coupling == "iterated"
    return run_key(asdict(run if iterated else replace(run, coupled=Coupled())), code())  # other methods do not look at it


@lru_cache(maxsize=64)  # runs on the same data share its tensors
def _tasks(
    dataset: str, source: str, target: str | None, seed: int, source_ball: str | None, target_ball: bool, n_train: int | None, head: str
) -> tuple[Task, Task]:
    start = load(dataset, source, seed)
    if source_ball is not None:
        start = plant_ball(start, (source_ball,), seed)
    if dataset == "synthetic" and target is not None:
        return start, synthetic_views(seed)["permuted"]
    end = start if target is None else load(dataset, target, seed, n_train)
    if target_ball:
        end = plant_ball(end, "all", seed)
    if head == "disjoint":
        start, end = disjoint(start, end)
    return start, start if target is None else end


def _rows(run: Run, planned: Plan, history: History) -> list[tuple[str, int, float]]:
    """Every epoch's history, then what is measured after training; a run that diverged has nothing to measure."""
    series = ("tau", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "length", "source_loss")
    rows = [(metric, epoch, value) for metric in series for epoch, value in enumerate(getattr(history, metric))]
    if history.diverged:
        return rows
    rows += [("coupled_distance", k, iteration.distance) for k, iteration in enumerate(planned.iterations)]
    return rows + [(metric, FINAL, value) for metric, value in (measure(run, planned.net) | _distances(planned, history)).items()]


def _distances(planned: Plan, history: History) -> dict[str, float]:
    """Distances from source to target as this training measures them: weight_length, and what was asked for of information_length,
    riemannian_length (means over pairs) and coupled_distance, each of these with its standard error."""
    values, watch = {"weight_length": history.length[-1]}, planned.first.watch
    if planned.iterations:
        last = planned.iterations[-1]
        return values | {"coupled_distance": last.distance, "coupled_distance_error": last.standard_error}
    for name, lengths in (("information_length", watch.mean), ("riemannian_length", watch.riemannian)) if watch else ():
        values |= {name: float(lengths.mean()), f"{name}_error": float(lengths.std(ddof=1) / len(lengths) ** 0.5)}
    return values


def measure(run: Run, net: Net) -> dict[str, float]:
    """What a run's network does after training: losses and accuracies of its own task, and the tests with the spurious feature.

    train_loss, val_loss, for classes also *_accuracy, in evaluation mode; with a ball in play the five numbers of `ball_test`; on the
    synthetic target restored_loss and rows_loss (see `synthetic_views`).
    """
    _, target = tasks(run)
    values = {}
    for split in ("train", "val"):
        x, y = getattr(target, f"x_{split}"), getattr(target, f"y_{split}")
        output = predict(net, x)
        values[f"{split}_loss"] = float(example_loss(output, soft_labels(target, y)).mean())
        if not target.is_regression:
            values[f"{split}_accuracy"] = float((output.argmax(1) == y).float().mean())
    if run.dataset == "synthetic" and run.target is not None:
        for view in ("restored", "rows"):
            task = synthetic_views(run.seed)[view]
            values[f"{view}_loss"] = float(example_loss(predict(net, task.x_val), task.y_val).mean())
    if run.source_ball is not None:
        source, clean = tasks(replace(run, source_ball=None, target_ball=False))
        values |= ball_test(net, clean, plant_ball(clean, "all", run.seed, splits=("val",)), source.class_index(run.source_ball))
    return values
