"""Canaries: tiny trainings in float64 whose numbers are committed in canaries.json.

A change of numbers in a data set, network, blend, schedule, method, coupling, length or in the
training itself turns the canaries red that use it. Raise the `version` of what changed (so that no
stored run is mistaken for a new one), write a line into CHANGELOG.md, and record the new numbers:

    .venv/bin/python tests/canaries.py
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rtl_utils import data, lengths, methods, models, probing, schedules, training
from rtl_utils.coupled import Coupled
from rtl_utils.data import Shortcut, Task
from rtl_utils.methods import METHODS, Knowledge, Setup
from rtl_utils.paths import BLENDS
from rtl_utils.paths import Path as TaskPath
from rtl_utils.training import History, Replica, Sgd

FILE = Path(__file__).with_name("canaries.json")
SEED = 3
CLASSES = ("a", "b", "c", "d", "e")
SGD = Sgd(lr=0.05, epochs=4, batch_size=5, momentum=0.9)
PRETRAINING = replace(SGD, epochs=12)  # so that an adaptive schedule has a level to hold
SETUP = Setup(sgd=SGD, taus=(0.0, 0.5, 1.0), coupled=Coupled(2, 5, 2, 2), partitions=None)
WIDTH = (3, 4, 4, 5)


def canaries() -> dict[str, Callable[[], list[float]]]:
    """Name -> what computes its numbers."""
    found: dict[str, Callable[[], list[float]]] = {}
    for name in data.DATASETS:
        found[f"data/{name}"] = partial(_dataset, name)
    for name in data.PATCHES:
        found[f"patch/{name}"] = partial(_patch, name)
    for name in models.NETWORKS:
        found[f"network/{name}"] = partial(_network, name)
    for name in BLENDS:
        found[f"blend/{name}"] = partial(_blend, name)
    for name in schedules.SCHEDULES:
        found[f"schedule/{name}"] = partial(_schedule, name)
    for name in METHODS:
        found[f"method/{name}"] = partial(_method, name)
    found["program/single"] = partial(_program, 1)
    found["program/stacked"] = partial(_program, 3)
    found["sgd/penalties"] = _penalties
    found["sgd/averaged"] = _averaged
    found["lengths/pairs"] = _lengths
    found["probing/flips"] = _flips
    found["probing/lime"] = _lime
    return found


@contextmanager
def float64() -> Iterator[None]:
    """New tensors are float64 inside; one thread, as in every training."""
    torch.set_default_dtype(torch.float64)
    try:
        with training.one_thread():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def compute(name: str) -> list[float]:
    """A canary's numbers as they are now."""
    with float64():
        return canaries()[name]()


def images(name: str, stream: int, n: int = 20) -> Task:
    """A small task of 16 x 16 images that no data set has."""
    rng = np.random.Generator(np.random.Philox(key=[SEED, stream]))
    x = torch.from_numpy(rng.integers(0, 128, (2 * n, 3, 16, 16), dtype=np.uint8))
    y = torch.arange(2 * n) % 5
    for k in range(5):  # a class is a bright band, so that there is something to learn
        band = torch.zeros(16, dtype=torch.uint8)
        band[3 * k : 3 * k + 3] = 127
        x[y == k] += band if stream % 2 else band[:, None]
    return Task(name, "canary", x[:n], y[:n], x[n:], y[n:], CLASSES)


def table(name: str, stream: int, n: int = 20) -> Task:
    """A small regression of 6 features."""
    rng = np.random.Generator(np.random.Philox(key=[SEED, stream]))
    x = torch.from_numpy(rng.normal(size=(2 * n, 6)))
    y = x.sin().sum(1, keepdim=True)
    return Task(name, "canary", x[:n], y[:n], x[n:], y[n:])


def numbers(net: models.Net, history: History) -> list[float]:
    """What a canary compares of a training."""
    weights = torch.cat([tensor.double().flatten() for tensor in net.state_dict().values()])
    losses = [*history.val_loss, *history.train_loss, *history.target_loss]
    # nothing is trained before a transfer, so its history is empty
    return [*losses, *history.weight_length[-1:], _mean(weights)]


def _mean(values: torch.Tensor) -> float:
    return float(values.double().abs().mean())


def _fitted(task: TaskPath, schedule: schedules.Schedule, net: models.Net) -> list[float]:
    (history,) = training.fit([Replica(net, task, schedule, SEED, SGD)])
    return numbers(net, history)


def _alone(task: Task, width: str | tuple[int, ...] = WIDTH) -> list[float]:
    net = models.build(task, width, SEED)
    return _fitted(TaskPath(task), schedules.CONSTANT, net)


def _dataset(name: str) -> list[float]:
    if name == "synthetic":  # in float64, as its own standardisation in float32 rounds
        raw = data.permute_features(data.synthetic("target", SEED), SEED)
        double = replace(
            raw,
            x_train=raw.x_train[:30].double(),
            y_train=raw.y_train[:30].double(),
            x_val=raw.x_val[:30].double(),
            y_val=raw.y_val[:30].double(),
        )
        source = data.synthetic("source", SEED)
        means = [_mean(source.x_val), _mean(source.y_train)]
        return [*means, *_alone(data.standardise(double, by=double), "plain")]
    whole = [data.load(name, task, SEED) for task in data.DATASETS[name].pairs[-1]]
    pixels = [value for task in whole for value in (_mean(task.x_train), _mean(task.x_val))]
    task = data.subset(whole[-1], 4, SEED)
    return [*pixels, *_alone(replace(task, x_val=task.x_val[:20], y_val=task.y_val[:20]))]


def _patch(name: str) -> list[float]:
    shortcut = Shortcut(name, classes=("b", "c"))
    few = replace(shortcut, probability=0.5, place=(0.5, 0.25))
    planted = data.plant(images("target", 1), shortcut, SEED)
    sparse = data.plant(images("target", 1), few, SEED)
    return [_mean(data.PATCHES[name].draw(4)), _mean(sparse.x_train), *_alone(planted)]


def _network(name: str) -> list[float]:
    of_images = models.NETWORKS[name].images
    return _alone(images("target", 1) if of_images else table("target", 1), name)


def _blend(name: str) -> list[float]:
    target = images("target", 1)
    source = target if name == "symmetric" else images("source", 2)
    path = TaskPath(target, source, blend=name, alpha=0.7, fade=2.0)
    return _fitted(path, schedules.Grid((0.0, 0.5, 1.0)), models.build(target, WIDTH, SEED))


def _schedule(name: str) -> list[float]:
    target, source = images("target", 1), images("source", 2)
    net, _ = methods.pretrain(source, seed=SEED, sgd=PRETRAINING, width=WIDTH)
    schedule = schedules.schedule(name, (0.25, 0.75, 1.0), SGD.epochs)
    held = None
    if schedule.adaptive:
        target, held = data.hold_out(target, 0.2, SEED)
    path = TaskPath(target, None if name == "constant" else source, blend="mixup", held_out=held)
    return _fitted(path, schedule, net)


def _method(name: str) -> list[float]:
    source, target = images("source", 2), images("target", 1)
    other = replace(source, x_train=source.x_train.flip(-1))
    countered = replace(target, x_train=target.x_train.flip(-2))
    setup = replace(SETUP, width=WIDTH, knowledge=Knowledge(other, countered))
    backbone = None
    if METHODS[name].start == "backbone":
        backbone, _ = methods.pretrain(source, seed=SEED, sgd=PRETRAINING, width=WIDTH)
    net, history = methods.transfer(name, backbone, source, target, seed=SEED, setup=setup)
    return numbers(net, history)


def _program(replicas: int) -> list[float]:
    tasks = [table("target", stream) for stream in range(replicas)]
    group = [
        Replica(models.build(task, "batchnorm", k), TaskPath(task), schedules.CONSTANT, k, SGD)
        for k, task in enumerate(tasks)
    ]
    # in this process, whatever the number of cores
    histories = training.fit(group, on_epoch=lambda replicas, histories: None)
    trained = zip(group, histories, strict=True)
    return [value for replica, history in trained for value in numbers(replica.net, history)]


def _penalties() -> list[float]:
    task = table("target", 1)
    sgd = replace(SGD, weight_decay=0.1, l1=0.01, l2_sp=0.1, cosine=True)
    net = models.build(task, "plain", SEED)
    (history,) = training.fit([Replica(net, TaskPath(task), schedules.CONSTANT, SEED, sgd)])
    return numbers(net, history)


def _averaged() -> list[float]:
    task = images("target", 1)
    net = models.build(task, WIDTH, SEED)
    sgd = replace(SGD, averaged=0.4)
    (history,) = training.fit([Replica(net, TaskPath(task), schedules.CONSTANT, SEED, sgd)])
    return numbers(net, history)


def _lengths() -> list[float]:
    target, source = images("target", 1), images("source", 2)
    pairs = np.arange(6)
    path = TaskPath(target, source, blend="annealed")
    callback = lengths.Lengths(
        lengths.PairLength(pairs, pairs[::-1].copy(), 2, SEED), lengths.PathLength(pairs)
    )
    net = models.build(target, WIDTH, SEED)
    grid = schedules.Grid((0.0, 0.5, 1.0))
    training.fit([Replica(net, path, grid, SEED, SGD, callback)])
    return [*map(float, callback.pairs.mean), callback.path.total]


def _flips() -> list[float]:
    task = images("target", 1)
    net, _ = methods.pretrain(task, seed=SEED, sgd=SGD, width=WIDTH)
    planted = data.plant(task, Shortcut(), SEED)
    values = probing.shortcut_test(net, task, planted, 2)
    confusion = probing.confusion(models.predict(net, task.x_val), task.y_val)
    return [*values.values(), float(confusion.diag().sum())]


def _lime() -> list[float]:
    task = table("target", 1)
    net = models.build(task, "plain", SEED)
    weights, fits = probing.lime_weights(net, task, [0, 3], SEED, samples=30)
    effect = probing.partial_dependence_effect(net, task, points=5, grid=4)
    return [*np.abs(weights).mean(1).tolist(), *fits.tolist(), *effect.tolist()]


def record() -> None:
    """Write today's numbers into canaries.json; those of data that are not here stay."""
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    numbers = {}
    for name in canaries():
        try:
            numbers[name] = compute(name)
        except FileNotFoundError as error:
            print(f"{name} stays as it was: {error}")
            numbers[name] = before[name]
    FILE.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    record()
