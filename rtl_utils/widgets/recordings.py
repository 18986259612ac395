"""Recordings: checkpoints of trainings over their epochs, and what was measured at each.

One recording comes with the package, so that every slider moves something at once; a race makes
another. `make recording` trains the stored one anew.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rtl_utils import experiments, methods
from rtl_utils.data import Shortcut, Task, soft_labels
from rtl_utils.methods import METHODS
from rtl_utils.models import Net, build, folded, predict
from rtl_utils.paths import Path as TaskPath
from rtl_utils.probing import accuracy, class_share, confusion, flip_rate
from rtl_utils.runs import Run, clean_tasks, tasks
from rtl_utils.store import Store
from rtl_utils.training import Sgd, example_loss, fit, one_thread

TAUS = np.linspace(0, 1, 21)  # at which maps are measured
_FILE = "digits.npz"
_EPOCHS = 20
_EVERY = 2  # epochs between two stored checkpoints
_ALONG = 200  # held-out examples of each task of the path


class Moment(NamedTuple):
    """What is measured of a network at one time of its training.

    Args:
        epoch: epochs done.
        tau: of the epoch just done, or to come.
        loss: cross-entropy on the target's validation images, without the shortcut.
        accuracy: likewise.
        share: of its predictions in the shortcut's class, with the shortcut on every image.
        flips: share of the predictions that the shortcut changes.
        length: of the weights' path so far.
        confusion: (k, k) validation images without the shortcut, true classes in rows.
    """

    epoch: float
    tau: float
    loss: float
    accuracy: float
    share: float
    flips: float
    length: float
    confusion: np.ndarray


class TaskMap(NamedTuple):
    """A network over its epochs, measured on every task of the path.

    Args:
        loss: (epochs, taus) cross-entropy with the soft labels, on held-out examples.
        accuracy: (epochs, taus) share of examples whose largest label is predicted.
    """

    loss: np.ndarray
    accuracy: np.ndarray


@dataclass(frozen=True)
class Recording:
    """Networks of one transfer, by method and by epochs done.

    Args:
        run: one of the trainings; says which data they read.
        nets: method -> epochs done -> network; 0 is the backbone.
        moments: method -> what was measured, in the order of the epochs; empty if nothing was.
        maps: method -> on every task of the path; empty if it was not measured.
    """

    run: Run
    nets: Mapping[str, Mapping[int, Net]]
    moments: Mapping[str, Sequence[Moment]]
    maps: Mapping[str, TaskMap]

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return list(self.nets)

    @property
    def epochs(self) -> list[int]:
        """At which there are networks, from 0."""
        return sorted(next(iter(self.nets.values())))

    @property
    def backbone(self) -> Net:
        """The network that all methods start from."""
        return next(iter(self.nets.values()))[0]

    @property
    def tasks(self) -> tuple[Task, Task]:
        """Source and target as they were trained on, with their shortcuts."""
        return tasks(self.run)

    @property
    def clean_tasks(self) -> tuple[Task, Task]:
        """Source and target without any shortcut."""
        return clean_tasks(self.run)

    @property
    def shortcut(self) -> tuple[Shortcut, int]:
        """The shortcut whose effect is shown, and the label of its class in the source.

        Raises:
            ValueError: for data without a shortcut.
        """
        if self.run.test is None:
            raise ValueError(f"{self.run.dataset} has no shortcut; take a data set of images")
        return self.run.test

    def at(self, epoch: int) -> dict[str, Net]:
        """Network of the backbone and of each method after that many epochs."""
        return {"backbone": self.backbone} | {m: nets[epoch] for m, nets in self.nets.items()}


def stored() -> Recording:
    """The recording that comes with the package: digits, fine-tuning and uncoupled transfer.

    Its network is narrow, so that all checkpoints fit into half a megabyte; the course's results
    come from a wider one.
    """
    with files(__package__).joinpath("stored", _FILE).open("rb") as file:
        return _read(io.BytesIO(file.read()))


def of_runs(runs: Iterable[Run], store: Store) -> Recording:
    """The recording of runs in the store: each method's backbone and its trained network.

    Args:
        runs: transfers from one backbone, one per method; see `experiments.run`.
        store: that holds them.

    Raises:
        ValueError: if one of them is not in the store, or they differ in their backbone.
    """
    found = list(runs)
    backbones = {r.backbone().key for r in found}
    if len(backbones) != 1:
        raise ValueError(
            f"a recording has one backbone; the {len(found)} runs start from {len(backbones)}"
        )
    start = folded(experiments.network(found[0].backbone(), store))
    nets = {
        r.method: {0: start, r.sgd.epochs: folded(experiments.network(r, store))} for r in found
    }
    return Recording(found[0], nets, {}, {})


def answers(net: Net, x: torch.Tensor) -> np.ndarray:
    """(n, k) probabilities of the classes.

    Args:
        net: a classifier.
        x: (n, ...) raw images or network inputs.
    """
    with one_thread():  # a second thread costs more than it gives for so few images
        return np.asarray(predict(net, x, size=500).softmax(1).numpy())


def moment(net: Net, clean: Task, planted: Task, label: int, **of_training: float) -> Moment:
    """Measure a network on the target's validation images.

    Args:
        net: as it is now.
        clean: the target without the shortcut.
        planted: the target with the shortcut on every validation image.
        label: of the shortcut's class.
        of_training: epoch, tau and length, which the training knows.
    """
    with one_thread():
        fast = folded(net)
        outputs, with_shortcut = predict(fast, clean.x_val), predict(fast, planted.x_val)
        loss = example_loss(outputs, soft_labels(clean, clean.y_val)).mean()
    return Moment(
        loss=float(loss),
        accuracy=accuracy(outputs, clean.y_val),
        share=class_share(with_shortcut, label),
        flips=flip_rate(outputs, with_shortcut),
        confusion=confusion(outputs, clean.y_val).numpy(),
        **of_training,
    )


def task_map(nets: Mapping[int, Net], path: TaskPath, seed: int) -> TaskMap:
    """Loss and accuracy of networks on every task of a path, on the same held-out examples.

    Args:
        nets: epochs done -> network.
        path: of the tasks whose validation examples are mixed.
        seed: draws examples and partners.
    """
    source = path.source and _validation(path.source)
    held_out = replace(path, target=_validation(path.target), source=source)
    n = min(_ALONG, len(held_out))
    mixed = [held_out.sample(tau, n, seed) for tau in TAUS]
    x, y = (torch.cat(parts) for parts in zip(*mixed, strict=True))
    losses, accuracies = [], []
    with one_thread():
        for _, net in sorted(nets.items()):
            outputs = predict(net, x, size=500)
            right = (outputs.argmax(1) == y.argmax(1)).float()
            losses.append(example_loss(outputs, y).reshape(len(TAUS), n).mean(1).numpy())
            accuracies.append(right.reshape(len(TAUS), n).mean(1).numpy())
    return TaskMap(np.stack(losses), np.stack(accuracies))


def record(run: Run, names: Sequence[str], every: int = 1) -> Recording:
    """Train the methods from one backbone, keeping checkpoints.

    Args:
        run: says the data, the seed and the settings; its method is not looked at.
        names: methods, such as "ft" and "ut".
        every: epochs between two checkpoints.
    """
    source, target = tasks(run)
    start = run.backbone()
    backbone, _ = methods.pretrain(source, seed=run.seed, sgd=start.sgd, width=run.width)
    plans = [
        methods.plan(name, backbone, source, target, seed=run.seed, setup=run.setup)
        for name in names
    ]
    nets: dict[str, dict[int, Net]] = {}
    moments: dict[str, list[Moment]] = {}
    maps: dict[str, TaskMap] = {}
    for name, planned in zip(names, plans, strict=True):
        keeper = _Keeper(run, every)
        planned.first.callback = keeper
        (history,) = fit([planned.first], label=METHODS[name].label)
        lengths = [0.0, *history.weight_length]
        nets[name] = keeper.nets
        moments[name] = [m._replace(length=lengths[int(m.epoch)]) for m in keeper.moments]
        maps[name] = task_map(keeper.nets, TaskPath(target, source), run.seed)
    return Recording(run, nets, moments, maps)


def write_stored() -> None:
    """Train the recording that comes with the package anew, and write its file."""
    run = Run(
        "digits",
        "digits-0-4",
        "digits-5-9",
        "ft",
        seed=0,
        source_shortcut=Shortcut(classes=("4",)),
        width=(8, 8, 16, 16),
        sgd=Sgd(epochs=_EPOCHS),
    )
    place = files(__package__).joinpath("stored", _FILE)
    Path(str(place)).write_bytes(_written(record(run, ("ft", "ut"), _EVERY)))


class _Keeper:
    """A callback that keeps networks and measures them."""

    def __init__(self, run: Run, every: int) -> None:
        _, self.clean = clean_tasks(run)
        assert run.test is not None
        shortcut, self.label = run.test
        self.planted = experiments.everywhere(self.clean, shortcut, run.seed)
        self.every = every
        self.nets: dict[int, Net] = {}
        self.moments: list[Moment] = []

    def __call__(self, net: Net, path: TaskPath, tau: float, done: int, epochs: int) -> None:
        if done % self.every and done != epochs:
            return
        self.nets[done] = folded(net)
        of_training = {"epoch": float(done), "tau": tau, "length": 0.0}
        self.moments.append(moment(net, self.clean, self.planted, self.label, **of_training))


def _validation(task: Task) -> Task:
    """The task whose training examples are its validation examples."""
    return replace(task, x_train=task.x_val, y_train=task.y_val)


def _written(recording: Recording) -> bytes:
    """A file of arrays: the networks' weights in half precision, and what was measured."""
    arrays: dict[str, np.ndarray] = {}
    for method in recording.methods:
        nets = [net for _, net in sorted(recording.nets[method].items())]
        vectors = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
        arrays[f"weights_{method}"] = torch.stack(vectors).numpy().astype(np.float16)
        for name in Moment._fields:
            values = [getattr(moment, name) for moment in recording.moments[method]]
            arrays[f"{name}_{method}"] = np.array(values, dtype=np.float32)
        for name, values in recording.maps[method]._asdict().items():
            arrays[f"map_{name}_{method}"] = values.astype(np.float32)
    header = {
        "run": asdict(recording.run),
        "methods": recording.methods,
        "epochs": recording.epochs,
        "keys": [replace(recording.run, method=name).key for name in recording.methods],
    }
    file = io.BytesIO()
    np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _read(file: io.BytesIO) -> Recording:
    with np.load(file, allow_pickle=False) as arrays:
        header = json.loads(str(arrays["header"]))
        run = Run.of(header["run"])
        nets, moments, maps = {}, {}, {}
        for method in header["methods"]:
            weights = arrays[f"weights_{method}"].astype(np.float32)
            nets[method] = {
                epoch: _network(run, vector)
                for epoch, vector in zip(header["epochs"], weights, strict=True)
            }
            columns = [arrays[f"{name}_{method}"] for name in Moment._fields]
            moments[method] = [_moment(values) for values in zip(*columns, strict=True)]
            maps[method] = TaskMap(*(arrays[f"map_{n}_{method}"] for n in TaskMap._fields))
    return Recording(run, nets, moments, maps)


def _network(run: Run, weights: np.ndarray) -> Net:
    """The run's network, folded, with these weights."""
    _, target = tasks(run)
    net = folded(build(target, run.width, run.seed))
    parameters = list(net.parameters())
    parts = torch.from_numpy(weights).split([p.numel() for p in parameters])
    with torch.no_grad():
        for p, part in zip(parameters, parts, strict=True):
            p.copy_(part.reshape(p.shape))
    return net


def _moment(values: Sequence[np.ndarray]) -> Moment:
    *numbers, counts = values
    epoch, tau, loss, accuracy, share, flips, length = map(float, numbers)
    return Moment(epoch, tau, loss, accuracy, share, flips, length, counts.astype(int))
