"""Transfer methods as records: a start, a path of tasks, a schedule of tau, and what is trained. A new method is a new record."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from rtl_utils.coupled import Coupled, Iteration, Program, iterated, transported
from rtl_utils.lengths import PairLength, check_partitions
from rtl_utils.models import Net, build, predict_features
from rtl_utils.paths import Path, schedule
from rtl_utils.randomness import generator
from rtl_utils.tasks import Task
from rtl_utils.training import History, Replica, Sgd, fit


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    label: its name in figures; start: "fresh" weights or the "backbone"; blend: how source and target mix along the path, None for the target
    alone, "symmetric" for the target with itself; coupling: how they are paired, "independent", by optimal transport of the backbone's
    "features", or "iterated" (`Coupled`); schedule: of tau, a name of SCHEDULES; trainable: "all", the "head", or "head, then all" (half the
    epochs each); statistics: whether the body's BatchNorm statistics are "moving" or stand "still"; fade: of the labels, see `Path`; l2_sp: pull
    towards the backbone, see `Sgd`; backbone_share: weight of the backbone in the average with the trained weights that is taken afterwards;
    decorrelated: the source's balls move to images of every class as tau grows; counter_examples: a few target images carry the ball; knows:
    what a user must know of the shortcut.
    """

    label: str
    start: str = "backbone"
    blend: str | None = None
    coupling: str = "independent"
    schedule: str = "constant"
    trainable: str = "all"
    statistics: str = "moving"
    fade: float = 1.0
    l2_sp: float = 0.0
    backbone_share: float = 0.0
    decorrelated: bool = False
    counter_examples: bool = False
    knows: str = "nothing"


METHODS = {
    "scratch": Method("from scratch", start="fresh"),
    "ft": Method("fine-tuning"),
    "ft-still": Method("fine-tuning, BatchNorm still", statistics="still"),
    "fixed": Method("fixed feature", trainable="head", statistics="still"),
    "fixed-moving": Method("fixed feature, BatchNorm moving", trainable="head"),  # as Salman et al. 2022 run it
    "lp-ft": Method("linear probe, then fine-tuning", trainable="head, then all"),  # Kumar et al. 2022
    "mixup": Method("mixup within the target", blend="symmetric"),  # Zhang et al. 2018
    "l2-sp": Method("fine-tuning, pulled to the backbone", l2_sp=0.01),  # Li et al. 2018
    "wise-ft": Method("average of backbone and fine-tuned", backbone_share=0.5),  # Wortsman et al. 2022
    "counter": Method("fine-tuning with counter-examples", counter_examples=True, knows="where it is"),  # Wang & Russakovsky 2023
    "ut": Method("uncoupled transfer", blend="mixup", schedule="grid"),
    "ut-mixture": Method("uncoupled transfer, mixture", blend="mixture", schedule="grid"),
    "ut-annealed": Method("uncoupled transfer, annealed Beta", blend="annealed", schedule="even"),
    "ut-fade": Method("uncoupled transfer, labels first", blend="mixup", schedule="grid", fade=3.0),
    "ut-decorrelated": Method("uncoupled transfer, decorrelated source", blend="mixup", schedule="grid", decorrelated=True, knows="where it is"),
    "ct": Method("coupled transfer", blend="mixup", coupling="features", schedule="grid"),
    "ct-annealed": Method("coupled transfer, annealed Beta", blend="annealed", coupling="features", schedule="even"),
    "ct-iterated": Method("coupled transfer, iterated", blend="mixup", coupling="iterated", schedule="grid"),
    "iso": Method("iso-classification", blend="mixture", schedule="iso"),  # Gao & Chaudhari 2020
}


class Shortcut(NamedTuple):
    """What a user can make who knows where the shortcut is: the source with the balls of one class spread over all of them, and the target with
    balls on a few images of the other classes."""

    spread: Task
    countered: Task


@dataclass
class Plan:
    """A transfer that is to be done: the network that it trains, and the trainings that `fit` must do for it, one after the other.

    first: the first training, for those that need only to look at it; iterations: of an iterated coupling, as they are done.
    """

    net: Net
    first: Replica
    program: Program
    iterations: list[Iteration] = field(default_factory=list)


def plan(
    method: str,
    backbone: Net | None,
    source: Task,
    target: Task,
    *,
    seed: int,
    sgd: Sgd,
    taus: Sequence[float],
    width: str | Sequence[int],
    coupled: Coupled = Coupled(),
    shortcut: Shortcut | None = None,
    partitions: int | None = None,
) -> Plan:
    """What a method will do; nothing is trained yet, and the backbone is left as it is.

    backbone: may be None for a method that starts fresh; taus: the grid of a path that starts at the source; width: of fresh weights, as in
    `models.build`; coupled: for an iterated coupling; shortcut: for a method that must know where it is; partitions: at how many checkpoints
    predictions are compared (`PairLength` on random pairs, found in the last replica's `watch`), None for not at all.
    Raises ValueError for an unknown method, one that lacks what it needs, and what `Path`, `schedule`, `Replica` and `Coupled` raise.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    record = METHODS[method]
    if record.start == "backbone" and backbone is None:
        raise ValueError(f"method {method!r} starts from a backbone; got None")
    if needs_shortcut(method) and shortcut is None:
        raise ValueError(f"method {method!r} must know where the shortcut is; pass shortcut=Shortcut(...)")
    if partitions is not None and record.trainable == "head, then all":
        raise ValueError(f"method {method!r} is two trainings, whose predictions make no one path; leave partitions out")
    if (partitions is not None or record.coupling == "iterated") and target.is_regression:
        raise ValueError(f"information lengths are of class probabilities; task {target.name!r} is a regression")
    if record.trainable == "head, then all" and sgd.epochs < 2:
        raise ValueError(f"method {method!r} splits its epochs between the head and all weights, so it needs 2 or more; got {sgd.epochs}")
    if record.counter_examples:
        target = shortcut.countered
    net = build(target, width, seed) if record.start == "fresh" else copy.deepcopy(backbone)
    net.still_statistics = record.statistics == "still"
    taken = schedule(record.schedule, taus, sgd.epochs)
    watch = None if partitions is None else _watch(record, source, target, partitions, sgd.epochs, seed)
    first = Replica(net, _path(record, source, target, shortcut), taken, seed, replace(sgd, l2_sp=sgd.l2_sp or record.l2_sp), watch)
    if record.trainable == "head" and net.still_statistics:  # the body is a fixed function: compute its features once
        first = _probe(first, sgd.epochs)
    elif record.trainable == "head":
        net.body.requires_grad_(False)
    planned = replace(alone(first), net=net)
    if record.trainable == "head, then all":
        planned.program = _probe_then_all(first)
    elif record.backbone_share:
        planned.program = _average(first, backbone, record.backbone_share)
    elif record.coupling == "features":
        planned.program = transported(first, backbone)
    elif record.coupling == "iterated":
        coupled.sizes(len(target.y_train))
        check_partitions(coupled.partitions, sgd.epochs)
        planned.program = iterated(first, backbone, coupled, planned.iterations)
    return planned


def needs_shortcut(method: str) -> bool:
    """Whether a method can run only where there is a shortcut and its user knows where it is."""
    return METHODS[method].decorrelated or METHODS[method].counter_examples


def alone(replica: Replica) -> Plan:
    """The plan of one training."""
    return Plan(replica.net, replica, _once(replica))


def train(
    plans: Sequence[Plan], *, device: str = "cpu", on_done: Callable[[int, History], None] | None = None, label: str = "transfer"
) -> list[History]:
    """Histories of the plans, all trained together, their first trainings, then their second, and so on.

    on_done: called with a plan's index and history as soon as it is done. Raises what `fit` raises.
    """
    histories: list[History | None] = [None] * len(plans)
    waiting = {k: next(p.program) for k, p in enumerate(plans)}
    while waiting:
        keys, following = list(waiting), {}

        def trained(row: int, history: History, keys=keys, following=following) -> None:
            k = keys[row]
            try:
                if history.diverged is None:
                    following[k] = plans[k].program.send(history)
                    return
            except StopIteration as end:
                history = end.value
            histories[k] = history
            if on_done:
                on_done(k, history)

        fit([waiting[k] for k in keys], device=device, on_done=trained, label=label)
        waiting = dict(sorted(following.items()))
    return histories


def transfer(
    method: str,
    backbone: Net | None,
    source: Task,
    target: Task,
    *,
    seed: int,
    sgd: Sgd = Sgd(),
    taus: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    width: str | Sequence[int] = "small",
    coupled: Coupled = Coupled(),
    shortcut: Shortcut | None = None,
    device: str = "cpu",
) -> tuple[Net, History]:
    """Network and history of one transfer from a backbone, trained on `source`, to `target`. Raises what `plan` and `fit` raise."""
    planned = plan(method, backbone, source, target, seed=seed, sgd=sgd, taus=taus, width=width, coupled=coupled, shortcut=shortcut)
    (history,) = train([planned], device=device, label=method)
    return planned.net.to(device), history


def _path(record: Method, source: Task, target: Task, shortcut: Shortcut | None) -> Path:
    if record.blend is None:
        return Path(target)
    if record.blend == "symmetric":
        return Path(target, target, blend="symmetric")
    return Path(target, source, blend=record.blend, fade=record.fade, moved=shortcut.spread if record.decorrelated else None)


def _watch(record: Method, source: Task, target: Task, partitions: int, epochs: int, seed: int, pairs: int = 500) -> PairLength:
    check_partitions(partitions, epochs)
    rng = generator(seed, "watched")
    ends = rng.integers(0, len(source.y_train), pairs), rng.integers(0, len(target.y_train), pairs)
    return PairLength(ends[0] if record.blend not in (None, "symmetric") else None, ends[1], partitions, seed)


def _once(replica: Replica) -> Program:
    return (yield replica)


def _probe(replica: Replica, epochs: int) -> Replica:
    """The training of the network's head on what its body makes of the target."""
    net, task = replica.net, replica.path.target
    seen = replace(task, x_train=predict_features(net, task.x_train), x_val=predict_features(net, task.x_val))
    net = Net([torch.nn.Identity()], (0.0,), net.head)
    return Replica(net, Path(seen), replica.schedule, replica.seed, replace(replica.sgd, epochs=epochs), replica.watch)


def _probe_then_all(replica: Replica) -> Program:
    half = replica.sgd.epochs // 2
    head = yield _probe(replica, half)
    replica.sgd = replace(replica.sgd, epochs=replica.sgd.epochs - half)
    everything = yield replica
    everything.length = [head.length[-1] + length for length in everything.length]
    series = ("tau", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "length")
    return replace(everything, **{name: getattr(head, name) + getattr(everything, name) for name in series})


def _average(replica: Replica, backbone: Net, share: float) -> Program:
    history = yield replica
    trained, start = replica.net.state_dict(), backbone.state_dict()
    replica.net.load_state_dict({k: torch.lerp(v, start[k].to(v.device), share) if v.is_floating_point() else v for k, v in trained.items()})
    return history
