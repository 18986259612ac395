"""Every speed claim, both sides measured in one run: `make bench`.

Writes benchmarks/results.json, docs/performance.md and its picture. The two sides of a row are
timed in turn (ours, baseline, ours, baseline, ...) after one warm-up of each, and compared by the
median of their ratios. A long training is timed over fewer epochs where that changes no ratio, as
all epochs take the same time; the row says so.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import baselines
import batches
import numpy as np
import report
import sliders
import torch
from measure import (
    Call,
    cores,
    in_new_process,
    in_turn,
    machine,
    matmul_rate,
    median_seconds,
    peak_memory,
    profile,
    seconds,
)

from rtl_utils import coupled, couplings, lengths, methods, models, paths, probing, schedules
from rtl_utils.data import Task, load, standardise, subset, synthetic
from rtl_utils.methods import Setup
from rtl_utils.training import Replica, Sgd, example_loss, fit, one_thread
from rtl_utils.training._programs import Single  # a step is measured with its program
from rtl_utils.training.sgd import Momentum

HERE = Path(__file__).resolve().parent
SMALL = models.NETWORKS["small"].channels
WIDE = (32, 64, 128, 256)
MLP_PARAMETERS = 92_001
SYNTHETIC = Sgd(epochs=8, batch_size=64, cosine=True)
Row = dict[str, Any]


def main() -> None:
    """Measure the rows that the command line names, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; default: all")
    names = parser.parse_args().rows or list(ROWS)
    unknown = set(names) - set(ROWS)
    if unknown:
        parser.error(f"rows must be of {', '.join(ROWS)}; got {', '.join(sorted(unknown))}")
    path = HERE / "results.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        print(f"{name} ...", flush=True)
        try:
            stored[name] = {**ROWS[name](), "machine": machine()}
        except FileNotFoundError as error:  # CIFAR-100; what was measured is kept
            sys.exit(f"row {name}: {error}")
        print(json.dumps(stored[name], indent=1), flush=True)
        path.write_text(json.dumps(stored, indent=1) + "\n")
    report.write(stored)


# --- the rows: ours against a baseline ----------------------------------------------------------


def one_run() -> Row:
    """One fine-tuning run against the tutorial loop."""
    task = load("cifar100", "flowers", seed=0)
    epochs = 2
    net = models.build(task, "small", seed=0)
    plain = baselines.network(SMALL)
    both = in_turn(
        lambda: fit([_alone(net, task, epochs)]),
        lambda: baselines.tutorial(plain, task, epochs),
    )
    return {
        "what": f"one FT run with its evaluations, CIFAR-100, `small` ({epochs} epochs)",
        "against": "tutorial loop",
        "target": 1.3,
        **both,
    }


def ten_runs() -> Row:
    """Ten fine-tuning runs against ten tutorial loops."""
    task = load("cifar100", "flowers", seed=0)

    def ours() -> None:
        fit([_alone(models.build(task, "small", seed), task, 2, seed) for seed in range(10)])

    def baseline() -> None:
        for _ in range(10):
            baselines.tutorial(baselines.network(SMALL), task, 2)

    both = in_turn(ours, baseline, repeats=1)
    return {
        "what": "ten FT runs (2 epochs each)",
        "against": "tutorial loop ten times",
        "target": 1.7,
        **both,
    }


def fixed_feature() -> Row:
    """A run whose body is frozen against the tutorial loop with a frozen body."""
    source = load("cifar100", "herbivores", seed=0)
    task = load("cifar100", "flowers", seed=0)
    backbone = models.build(source, "small", seed=0)
    plain = baselines.network(SMALL)
    setup = Setup(Sgd(epochs=50))
    both = in_turn(
        lambda: methods.transfer("fixed", backbone, source, task, seed=0, setup=setup),
        lambda: baselines.tutorial(plain, task, 2, frozen=True),
        repeats=2,
        scale=25,
    )
    return {
        "what": "fixed feature, one run of 50 epochs",
        "against": "tutorial loop with a frozen body (2 epochs, times 25)",
        "target": 20,
        **both,
    }


def arithmetic_rate() -> Row:
    """Share of the float32 matrix-product rate that a training step reaches on one thread.

    Only the multiply-adds of its convolutions are counted.
    """
    rates = {}
    profiles = {}
    with one_thread():
        peak = matmul_rate()
        for name, widths in (("32-64-128-256", WIDE), ("small", SMALL)):
            step = _step(widths, torch.channels_last)
            rates[name] = _operations(widths) / median_seconds(step)
            profiles[f"A training step, {name}, one thread"] = profile(step, times=20)
    return {
        "what": "arithmetic rate of a training step, widths 32-64-128-256",
        "against": f"float32 matrix product, {peak / 1e9:.0f} GFLOP/s per core; "
        f"`small` reaches {rates['small'] / peak:.0%} of it",
        "target": 0.65,
        "ratio": rates["32-64-128-256"] / peak,
        "small": rates["small"] / peak,
        "peak_gflops": peak / 1e9,
        "profiles": profiles,
    }


def synthetic_seeds() -> Row:
    """Many MLPs as stacks against `fit` one by one."""
    replicas = _synthetic_replicas()
    both = in_turn(
        lambda: fit(replicas), lambda: [fit([replica]) for replica in replicas], repeats=1
    )
    stack = replicas[::3][:10]
    steps = len(replicas) * replicas[0].steps
    operations = 6 * MLP_PARAMETERS * SYNTHETIC.batch_size * steps
    with one_thread():
        rate = cores() * matmul_rate()
    return {
        "what": f"synthetic notebook's three methods, 20 seeds ({SYNTHETIC.epochs} epochs)",
        "against": "`fit` one by one",
        "target": 4,
        **both,
        "floor_s": operations / rate,
        "profiles": {"A stack of ten MLPs, one thread": profile(lambda: _here(stack))},
    }


def lime() -> Row:
    """LIME for many points at once against the library, with all threads and with one.

    NumPy's threads and torch's hinder each other in the baseline, so the ratio with one thread is
    measured too.
    """
    ours, baseline = lime_sides()
    largest = float(np.abs(baseline()).max())
    difference = float(np.abs(ours() - baseline()).max()) / largest
    code = "import bench; print(bench.in_turn(*bench.lime_sides())['ratio'])"
    one_thread = float(in_new_process(code, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"))
    both = in_turn(ours, baseline)
    return {
        "what": "100 LIME explanations of a tabular model "
        f"(largest difference: {difference:.0e} of the largest weight)",
        "against": "lime as its manual shows "
        f"(with one thread on both sides the ratio is {one_thread:.2f})",
        "target": 2,
        "largest_difference": difference,
        "ratio_of_one_thread": one_thread,
        **both,
    }


def lime_sides() -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """The two calls that `lime` times; each returns (100, 50) weights."""
    task = load("synthetic", "source", seed=0)
    net = models.build(task, "plain", seed=0)
    x_train = task.x_train.numpy()
    points = task.x_val[:100].numpy()

    def ours() -> np.ndarray:
        return probing.lime_weights(net, task, range(100), seed=0)[0]

    def baseline() -> np.ndarray:
        predict = probing.as_function(net)
        streams = [probing.lime_stream(0, point) for point in range(100)]
        return baselines.lime_by_the_manual(predict, x_train, points, streams, samples=1_000)

    return ours, baseline


def ct_iteration() -> Row:
    """One iteration of coupled transfer after its training: all costs, and the next coupling."""
    source = subset(load("digits", "digits-0-4", seed=0), 10, seed=0)
    target = subset(load("digits", "digits-5-9", seed=0), 10, seed=0)
    path = paths.Path(target, source)
    taus = (0.0, 0.25, 0.5, 0.75, 1.0)
    checkpoints = _checkpoints(path, source, taus)
    cost = coupled.feature_cost(path, checkpoints[0])
    blocks = couplings.block_transport(cost, 25, 0, smoothing=0.05)

    def ours() -> list[couplings.Block]:
        return _move(path, checkpoints, taus, blocks)

    def baseline() -> list[couplings.Block]:
        return baselines.move(path, checkpoints, taus, blocks)

    pairs = zip(ours(), baseline(), strict=True)
    difference = max(float(np.abs(a.mass - b.mass).max()) for a, b in pairs)
    return {
        "what": "one CT iteration, 2 blocks of 25 x 25, 5 partitions "
        f"(largest difference of the couplings: {difference:.0e})",
        "against": "its definition, pair by pair",
        "target": 10,
        "largest_difference": difference,
        **in_turn(ours, baseline, repeats=1),
    }


def memory() -> Row:
    """How peak memory grows with the replicas of a stack.

    Each size is measured in a process of its own, beside one that trains nothing (size 0).
    """
    sizes = (0, 1, 8, 32, 64, 128)
    code = "import bench; print(bench.peak_of_stack({}))"
    peaks = {r: int(in_new_process(code.format(r))) for r in sizes}
    added = {r: peaks[r] - peaks[0] for r in sizes[1:]}
    slope, intercept = np.polyfit(list(added), list(added.values()), 1)
    off = max(abs(slope * r + intercept - grown) for r, grown in added.items()) / added[128]
    mebibyte = 2**20
    return {
        "what": f"memory of a stack of 128 MLPs: {added[128] / mebibyte:.0f} MiB, "
        f"{slope / mebibyte:.1f} per additional replica, at most {off:.1%} off a line",
        "against": "128 times what the first replica adds to a process, "
        f"{added[1] / mebibyte:.0f} MiB",
        "target": 1.2,
        "smaller_is_better": True,
        "ratio": added[128] / (128 * added[1]),
        "departure": off,
        "peaks": peaks,
    }


def peak_of_stack(r: int) -> int:
    """Peak memory in bytes of a process that trains r MLPs as one stack."""
    if r:
        _here([_mlp(seed) for seed in range(r)])
    return peak_memory()


# --- what each optimisation brings, and how cost grows ------------------------------------------


def optimisations() -> Row:
    """The loop with each kept optimisation beside the loop without it, the rest as it is."""
    images = subset(load("cifar100", "flowers", seed=0), 100, seed=0)
    stack = [_mlp(seed) for seed in range(20)]
    cnns = [_alone(models.build(images, "small", seed), images, 2, seed) for seed in range(4)]
    net = models.build(images, "small", seed=0)
    fast = _step(SMALL, torch.channels_last)
    slow = _step(SMALL, torch.contiguous_format)
    pairs: dict[str, tuple[Call, Call]] = {
        "stacked MLPs, 20 replicas": (
            lambda: _here(stack),
            lambda: _one_by_one(stack),
        ),
        "processes of one thread, 4 CNNs": (
            lambda: fit(cnns),
            lambda: [fit([replica]) for replica in cnns],
        ),
        "channels-last, 50 steps of `small`": (
            lambda: [fast() for _ in range(50)],
            lambda: [slow() for _ in range(50)],
        ),
        "features of a frozen body computed once, 20 epochs": (
            lambda: _frozen(net, images, once=True),
            lambda: _frozen(net, images, once=False),
        ),
        "BatchNorm folded, 500 images": (
            lambda: models.predict(models.folded(net), images.x_val),
            lambda: models.predict(net, images.x_val),
        ),
    }
    return {name: in_turn(*sides, repeats=3) for name, sides in pairs.items()}


def evaluation() -> Row:
    """Share of a training's time that its evaluations after each epoch take, on one thread."""
    return {
        "CIFAR-100, `small`": _evaluation_share(load("cifar100", "flowers", seed=0)),
        "cluttered digits, `small`": _evaluation_share(load("digits", "digits-5-9", seed=0)),
    }


def curves() -> Row:
    """Training steps per second over replicas, widths and images.

    `rates` are shares of the float32 matrix-product rate of one core.
    """
    flowers = load("cifar100", "flowers", seed=0)
    images = subset(flowers, 100, seed=0)
    fit([_mlp(0), _mlp(1)])  # the worker processes are started before anything is timed
    mlps = {}
    cnns = {}
    for r in (1, 2, 4, 8, 16, 32, 64):
        mlps[r] = _rate([_mlp(seed) for seed in range(r)])
        nets = [models.build(images, "small", seed) for seed in range(r)]
        cnns[r] = _rate([_alone(net, images, 1, seed) for seed, net in enumerate(nets)])
    widths = {}
    rates = {}
    with one_thread():
        peak = matmul_rate()
        for factor in (0.5, 1, 2, 3, 4):
            width = tuple(int(factor * w) for w in SMALL)
            name = "-".join(map(str, width))
            each = median_seconds(_step(width, torch.channels_last), times=20)
            widths[name] = 1 / each
            rates[name] = _operations(width) / each / peak
    counts = {}
    for n in (20, 40, 100, 200, 500):
        task = subset(flowers, n, seed=0)
        replica = _alone(models.build(task, "small", 0), task, max(1, 200 // n))
        counts[5 * n] = _rate([replica])
    return {
        "MLPs in two stacks": mlps,
        "CNNs, `small`": cnns,
        "widths, one thread": widths,
        "training images, one CNN": counts,
        "rates": rates,
    }


ROWS: dict[str, Callable[[], Row]] = {
    "one_run": one_run,
    "ten_runs": ten_runs,
    "fixed_feature": fixed_feature,
    "arithmetic_rate": arithmetic_rate,
    "synthetic_seeds": synthetic_seeds,
    "lime": lime,
    "ct_iteration": ct_iteration,
    "memory": memory,
    "optimisations": optimisations,
    "evaluation": evaluation,
    "curves": curves,
    "batches": batches.measured,
    "sliders": sliders.measured,
}


# --- what they train ----------------------------------------------------------------------------


def _alone(net: models.Net, task: Task, epochs: int, seed: int = 0) -> Replica:
    """A training on one task."""
    return Replica(net, paths.Path(task), schedules.CONSTANT, seed, Sgd(epochs=epochs))


def _mlp(seed: int) -> Replica:
    """A short training of an MLP, with 500 validation examples."""
    raw = synthetic("target", seed)
    few = replace(raw, x_val=raw.x_val[:500], y_val=raw.y_val[:500])
    task = standardise(few, by=raw)
    net = models.build(task, "plain", seed)
    sgd = Sgd(epochs=2, batch_size=64)
    return Replica(net, paths.Path(task), schedules.CONSTANT, seed, sgd)


def _synthetic_replicas() -> list[Replica]:
    """The trainings of the synthetic notebook: three methods, 20 seeds."""
    setup = Setup(SYNTHETIC, taus=(0, 0.5, 0.75, 1), width="plain")
    made = []
    for seed in range(20):
        source = load("synthetic", "source", seed)
        target = load("synthetic", "target", seed)
        backbone = models.build(source, "plain", seed)
        for method in ("scratch", "ft", "ut"):
            planned = methods.plan(method, backbone, source, target, seed=seed, setup=setup)
            made.append(planned.first)
    return made


def _here(replicas: Sequence[Replica]) -> None:
    """Train the replicas in this process, MLPs as one stack."""
    fit(replicas, on_epoch=lambda *_: None)


def _one_by_one(replicas: Sequence[Replica]) -> None:
    """Train the replicas one after the other."""
    for replica in replicas:
        _here([replica])


def _rate(replicas: Sequence[Replica]) -> float:
    """Training steps per second, of all replicas together, evaluations included."""
    return sum(replica.steps for replica in replicas) / seconds(lambda: fit(replicas))


def _step(widths: Sequence[int], form: torch.memory_format) -> Call:
    """One step of the loop's program and optimiser for a CNN at mini-batch 16."""
    task = subset(load("cifar100", "flowers", seed=0), 4, seed=0)
    net = models.build(task, widths, seed=0)
    net.to(memory_format=form)  # type: ignore[call-overload]
    program = Single([net])
    optimiser = Momentum(program, [Sgd()], steps=1)
    x = torch.randn(16, 3, 32, 32).contiguous(memory_format=form)[None]
    y = torch.eye(5)[torch.arange(16) % 5][None]
    program.train(True)

    def step() -> None:
        program.backward(example_loss(program(x), y).mean(1))
        optimiser.step()

    return step


def _operations(widths: Sequence[int]) -> float:
    """Operations of a CNN's step at mini-batch 16.

    Two per multiply-add, once forward and twice backward, without the first layer's input gradient.
    """
    side = 32
    channels = 3
    layers = []
    for width, count in zip(widths, (2, 2, 2, 3), strict=True):
        for _ in range(count):
            layers.append(9 * channels * width * side**2)
            channels = width
        side //= 2
    return 2 * 16 * (3 * sum(layers) - layers[0])


def _frozen(net: models.Net, task: Task, once: bool) -> None:
    """Fixed feature for 20 epochs, or the same training with the body run at every step."""
    if once:
        methods.transfer("fixed", net, task, task, seed=0, setup=Setup(Sgd(epochs=20)))
        return
    net.frozen_statistics = True
    net.body.requires_grad_(False)
    fit([_alone(net, task, 20)])
    net.frozen_statistics = False
    net.body.requires_grad_(True)


def _evaluation_share(task: Task) -> float:
    """1 - (time of a training that validates on one image) / (time of the usual one)."""
    one = replace(task, x_val=task.x_val[:1], y_val=task.y_val[:1])
    net = models.build(task, "small", seed=0)
    both = in_turn(lambda: _here([_alone(net, one, 3)]), lambda: _here([_alone(net, task, 3)]))
    return 1 - 1 / float(both["ratio"])


def _checkpoints(path: paths.Path, source: Task, taus: Sequence[float]) -> list[models.Net]:
    """A network before and after an epoch at each tau."""
    net = models.build(source, "small", seed=0)
    fit([_alone(net, source, 5)])
    found = [copy.deepcopy(net)]

    def keep(replicas: list[Replica], _: object) -> None:
        found.append(copy.deepcopy(replicas[0].net).eval())

    sgd = Sgd(epochs=len(taus))
    fit([Replica(net, path, schedules.Grid(tuple(taus)), 0, sgd)], on_epoch=keep)
    return found


def _move(
    path: paths.Path,
    checkpoints: Sequence[models.Net],
    taus: Sequence[float],
    blocks: Sequence[couplings.Block],
) -> list[couplings.Block]:
    """The blocks after one iteration, as the package computes them: all pairs at once."""
    source = np.concatenate([np.repeat(b.source, len(b.target)) for b in blocks])
    target = np.concatenate([np.tile(b.target, len(b.source)) for b in blocks])
    length = lengths.PairLength(source, target, len(taus), seed=0)
    for done, net in enumerate(checkpoints):
        length(net, path, taus[max(done - 1, 0)], done, len(taus))
    ends = np.cumsum([b.mass.size for b in blocks])
    costs = np.split(length.mean.astype(float), ends[:-1])
    return [
        couplings.proximal(b, cost.reshape(b.mass.shape), 0.05)
        for b, cost in zip(blocks, costs, strict=True)
    ]


if __name__ == "__main__":
    main()
