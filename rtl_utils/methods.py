"""Transfer methods as records: a start, a path of tasks, a schedule of tau, and what is trained. A new method is a new record."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rtl_utils.models import Net, build, predict_features
from rtl_utils.paths import CONSTANT, Path, check_taus
from rtl_utils.tasks import Task
from rtl_utils.training import History, Replica, Sgd, fit


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    label: its name in figures; start: "fresh" weights or the "backbone"; blend: how source and target mix along the path, None for the
    target alone; trainable: "all" or the "head"; statistics: whether the body's BatchNorm statistics are "moving" or stand "still".
    """

    label: str
    start: str = "backbone"
    blend: str | None = None
    trainable: str = "all"
    statistics: str = "moving"


METHODS = {
    "scratch": Method("from scratch", start="fresh"),
    "ft": Method("fine-tuning"),
    "ft-still": Method("fine-tuning, BatchNorm still", statistics="still"),
    "fixed": Method("fixed feature", trainable="head", statistics="still"),
    "fixed-moving": Method("fixed feature, BatchNorm moving", trainable="head"),  # as Salman et al. 2022 run it
    "ut": Method("uncoupled transfer", blend="mixup"),
    "ut-mixture": Method("uncoupled transfer, mixture", blend="mixture"),
}


def plan(
    method: str, backbone: Net | None, source: Task, target: Task, *, seed: int, sgd: Sgd, taus: Sequence[float], width: str | Sequence[int]
) -> tuple[Net, Replica]:
    """The network that a method will have trained, and the training that `fit` must do for it; the backbone is left as it is.

    backbone: may be None for a method that starts fresh; taus: the grid of a path that starts at the source; width: of fresh weights,
    as in `models.build`.
    Raises ValueError for an unknown method, and what `Path`, `Grid` and `Replica` raise.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    record = METHODS[method]
    if record.start == "backbone" and backbone is None:
        raise ValueError(f"method {method!r} starts from a backbone; got None")
    net = build(target, width, seed) if record.start == "fresh" else copy.deepcopy(backbone)
    net.still_statistics = record.statistics == "still"
    if record.trainable == "head" and net.still_statistics:  # the body is a fixed function: compute its features once
        return net, Replica(Net([torch.nn.Identity()], (0.0,), net.head), Path(_featurise(net, target)), CONSTANT, seed, sgd)
    if record.trainable == "head":
        net.body.requires_grad_(False)
    if record.blend is None:
        return net, Replica(net, Path(target), CONSTANT, seed, sgd)
    return net, Replica(net, Path(target, source, blend=record.blend), check_taus(taus, sgd.epochs), seed, sgd)


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
    device: str = "cpu",
) -> tuple[Net, History]:
    """Network and history of one transfer from a backbone, trained on `source`, to `target`. Raises what `plan` and `fit` raise."""
    net, replica = plan(method, backbone, source, target, seed=seed, sgd=sgd, taus=taus, width=width)
    (history,) = fit([replica], device=device, label=method)
    return net.to(device), history


def _featurise(net: Net, task: Task) -> Task:
    """The task seen through the network's body."""
    return replace(task, x_train=predict_features(net, task.x_train), x_val=predict_features(net, task.x_val))
