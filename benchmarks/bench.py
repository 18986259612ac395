"""Every speed claim, both sides measured in one run: `make bench`. Writes benchmarks/results.json, docs/performance.md and its pictures.

Each pair is timed in turn (ours, rival, ours, rival, ...) after one warm-up of each, and compared by medians; a long run is timed over
fewer epochs, which changes no ratio since epochs are alike.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import rivals
import torch

from rtl_utils import methods, models, paths, probing, tasks, training
from rtl_utils.populations import Single, Stacked
from rtl_utils.training import Replica, Sgd, fit
from rtl_utils.workers import usable_cores

HERE = Path(__file__).resolve().parent
WIDE = (32, 64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ROWS)}; default: all")
    names = parser.parse_args().names or list(ROWS)
    path = HERE / "results.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        print(f"{name} ...", flush=True)
        stored[name] = {"machine": machine(), **ROWS[name]()}
        print(json.dumps({k: v for k, v in stored[name].items() if k != "machine"}, indent=1), flush=True)
        path.write_text(json.dumps(stored, indent=1) + "\n")
    subprocess.run([sys.executable, HERE / "report.py"], check=True)


def machine() -> dict:
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "processor": model,
        "cores": usable_cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def in_turn(ours: Callable, rival: Callable, repeats: int = 3) -> dict:
    """Seconds of both sides, medians over repeats in turn after a warm-up of each, and the median of the ratios pair by pair."""
    times: dict[str, list[float]] = {"ours": [], "rival": []}
    for repeat in range(repeats + 1):
        for side, call in (("ours", ours), ("rival", rival)):
            start = time.perf_counter()
            call()
            if repeat:
                times[side].append(time.perf_counter() - start)
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["rival"], strict=True))
    return {"ours_s": statistics.median(times["ours"]), "rival_s": statistics.median(times["rival"]), "ratio": ratio, "all": times}


# --- the rows -----------------------------------------------------------------------------------------------------------------------------


def one_run() -> dict:
    task, epochs = tasks.load("cifar100", "flowers", seed=0), 2
    net = models.build(task, "small", seed=0)
    plain = rivals.network(models.CONVNET_WIDTHS["small"])
    ours = in_turn(lambda: fit([Replica(net, paths.Path(task), paths.CONSTANT, 0, Sgd(epochs=epochs))]), lambda: rivals.tutorial(plain, task, epochs))
    return {"what": "one FT run with its evaluations, CIFAR-100, `small`", "against": "tutorial loop", "target": 1.3, **ours}


def ten_runs() -> dict:
    task, epochs = tasks.load("cifar100", "flowers", seed=0), 1

    def ours():
        fit([Replica(models.build(task, "small", seed), paths.Path(task), paths.CONSTANT, seed, Sgd(epochs=epochs)) for seed in range(10)])

    def rival():
        for _ in range(10):
            rivals.tutorial(rivals.network(models.CONVNET_WIDTHS["small"]), task, epochs)

    return {"what": "ten FT runs", "against": "tutorial loop ten times", "target": 1.7, **in_turn(ours, rival, repeats=2)}


def fixed_feature() -> dict:
    task, source, epochs = tasks.load("cifar100", "flowers", seed=0), tasks.load("cifar100", "herbivores", seed=0), 10
    backbone, plain = models.build(source, "small", seed=0), rivals.network(models.CONVNET_WIDTHS["small"])
    both = in_turn(
        lambda: methods.transfer("fixed", backbone, source, task, seed=0, sgd=Sgd(epochs=epochs)),
        lambda: rivals.tutorial(plain, task, epochs, frozen=True),
        repeats=2,
    )
    return {"what": f"fixed feature, one run of {epochs} epochs (50 gain more)", "against": "tutorial loop with a frozen body", "target": 20, **both}


def arithmetic_rate() -> dict:
    """Share of this machine's float32 matrix-product rate that a training step reaches, one thread, by multiply-adds of its convolutions."""
    torch.set_num_threads(1)
    peak = _matmul_rate()
    shares = {name: _step_rate(widths) / peak for name, widths in (("small", models.CONVNET_WIDTHS["small"]), ("32-64-128-256", WIDE))}
    torch.set_num_threads(usable_cores())
    return {
        "what": "arithmetic rate of a training step, widths 32-64-128-256", "against": f"matrix product, {peak / 1e9:.0f} GFLOP/s a core",
        "target": 0.65, "ratio": shares["32-64-128-256"], "small": shares["small"], "peak_gflops": peak / 1e9,
    }  # fmt: skip


def synthetic_seeds() -> dict:
    def replicas():
        made = []
        for seed in range(20):
            source_task, raw = (tasks.synthetic(name, seed) for name in ("source", "target"))
            source_task, task = tasks.standardise(source_task, source_task), tasks.standardise(raw, raw)
            backbone = models.build(source_task, "plain", seed)
            for method in ("scratch", "ft", "ut"):
                made.append(
                    methods.plan(
                        method,
                        backbone,
                        source_task,
                        task,
                        seed=seed,
                        sgd=Sgd(epochs=5, batch_size=64, cosine=True),
                        taus=paths.Grid().taus,
                        width="plain",
                    )[1]
                )
        return made

    together, alone = replicas(), replicas()
    both = in_turn(lambda: fit(together), lambda: [fit([replica]) for replica in alone], repeats=2)
    return {"what": "synthetic notebook's three methods, 20 seeds", "against": "`fit` one by one", "target": 4, **both}


def lime() -> dict:
    raw = tasks.synthetic("source", 0)
    task = tasks.standardise(raw, raw)
    net, points = models.build(task, "plain", 0), range(100)

    def by_the_manual():
        return rivals.lime_by_the_manual(probing.as_function(net), task.x_train.numpy(), task.x_val[:100].numpy(), seed=0, samples=1_000)

    difference = np.abs(probing.lime_weights(net, task, points, seed=0, samples=1_000)[0] - by_the_manual()).max()
    both = in_turn(lambda: probing.lime_weights(net, task, points, seed=0, samples=1_000), by_the_manual)
    return {
        "what": "100 LIME explanations of a tabular model",
        "against": "lime as its manual shows",
        "target": 2,
        "largest_difference": float(difference),
        **both,
    }


def memory() -> dict:
    """How peak memory grows with the replicas of a stack, each size in a process of its own, beside what one replica needs alone."""
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    peaks = {}
    for r in sizes:
        code = f"import bench; bench.train_stack({r}, steps=20); import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        peaks[r] = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=HERE).stdout) * 1024
    slope, intercept = np.polyfit(sizes, list(peaks.values()), 1)
    straight = np.abs(np.polyval([slope, intercept], sizes) - list(peaks.values())).max() / (peaks[128] - peaks[1])
    return {
        "what": "memory of a stack, by replica",
        "against": "memory of one replica: weights, gradient, momentum, copy, data, mini-batches",
        "target": 1.2,
        "smaller_is_better": True,
        "ratio": slope / _replica_bytes(),
        "bytes_a_replica": slope,
        "peaks": peaks,
        "largest_departure_from_a_line": straight,
    }


def optimisations() -> dict:
    """What each kept optimisation buys alone, the rest as it is: the loop with it beside the loop without it."""
    images = tasks.subset(tasks.load("cifar100", "flowers", seed=0), 100, seed=0)
    stack = [_mlp_replica(seed) for seed in range(20)]
    cnns = [Replica(models.build(images, "small", seed), paths.Path(images), paths.CONSTANT, seed, Sgd(epochs=2)) for seed in range(4)]
    one = cnns[0]
    return {
        "stacked MLPs, 20 replicas": in_turn(lambda: _quietly(stack, Stacked), lambda: [_quietly([r], Single) for r in stack]),
        "processes of one thread, 4 CNNs": in_turn(
            lambda: fit(cnns), lambda: [_quietly([r], Single, threads=usable_cores()) for r in cnns], repeats=2
        ),
        "channels-last": in_turn(
            lambda: _step_seconds(models.CONVNET_WIDTHS["small"], torch.channels_last),
            lambda: _step_seconds(models.CONVNET_WIDTHS["small"], torch.contiguous_format),
        ),
        "gathering 32 mini-batches at once": in_turn(lambda: _quietly(stack, Stacked), lambda: _gathering_each(stack)),
        "features computed once": in_turn(lambda: _fixed(one, "fixed"), lambda: _fixed(one, "fixed-moving"), repeats=1),
    }


def curves() -> dict:
    """Steps a second over replicas, widths and images, to the point where the machine is full."""
    sizes = (1, 2, 4, 8, 16, 32, 64)
    images = tasks.subset(tasks.load("cifar100", "flowers", seed=0), 40, seed=0)
    mlps, cnns, widths, counts = {}, {}, {}, {}
    for r in sizes:
        replicas = [_mlp_replica(seed) for seed in range(r)]
        mlps[r] = _rate(replicas)
        if r <= 16:
            cnns[r] = _rate(
                [Replica(models.build(images, "small", seed), paths.Path(images), paths.CONSTANT, seed, Sgd(epochs=3)) for seed in range(r)]
            )
    for factor in (0.5, 1, 2, 3):
        width = tuple(int(factor * w) for w in models.CONVNET_WIDTHS["small"])
        widths["-".join(map(str, width))] = 1 / _step_seconds(width, torch.channels_last, repeats=5)
    for n in (20, 40, 100, 200):
        task = tasks.subset(tasks.load("cifar100", "flowers", seed=0), n, seed=0)
        counts[5 * n] = _rate([Replica(models.build(task, "small", 0), paths.Path(task), paths.CONSTANT, 0, Sgd(epochs=2))])
    return {"MLP, replicas": mlps, "CNN, replicas": cnns, "CNN, widths (one thread)": widths, "CNN, training images": counts}


ROWS = {f.__name__: f for f in (one_run, ten_runs, fixed_feature, arithmetic_rate, synthetic_seeds, lime, memory, optimisations, curves)}


# --- what they share ------------------------------------------------------------------------------------------------------------------------


def train_stack(r: int, steps: int) -> None:
    """Train r MLPs as one stack; `memory` calls it in a process of its own."""
    torch.set_num_threads(1)
    _quietly([_mlp_replica(seed, n=64 * steps) for seed in range(r)], Stacked)


def _mlp_replica(seed: int, n: int = 2_000) -> Replica:
    raw = tasks.synthetic("target", seed, n_train=n)
    raw = replace(raw, x_val=raw.x_val[:500], y_val=raw.y_val[:500])
    task = tasks.standardise(raw, raw)
    return Replica(models.build(task, "plain", seed), paths.Path(task), paths.CONSTANT, seed, Sgd(epochs=2, batch_size=64))


def _quietly(replicas, program, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    training._train(replicas, program, "cpu")
    torch.set_num_threads(usable_cores())


def _gathering_each(replicas) -> None:
    usual, training._STEPS_AT_ONCE = training._STEPS_AT_ONCE, 1
    _quietly(replicas, Stacked)
    training._STEPS_AT_ONCE = usual


def _fixed(replica: Replica, method: str) -> None:
    methods.transfer(method, replica.net, None, replica.path.target, seed=0, sgd=Sgd(epochs=10))


def _rate(replicas) -> float:
    start = time.perf_counter()
    fit(replicas)
    return sum(r.sgd.epochs * -(-len(r.path) // r.sgd.batch_size) for r in replicas) / (time.perf_counter() - start)


def _matmul_rate(n: int = 2048) -> float:
    a, b = torch.randn(n, n), torch.randn(n, n)
    best = min(_timed(lambda: a @ b) for _ in range(10))
    return 2 * n**3 / best


def _step_rate(widths) -> float:
    """Operations a second of a training step at mini-batch 16: two a multiply-add, forward and twice backward, the input's gradient left out."""
    side, channels, forward, first = 32, 3, 0, None
    for width, count in zip(widths, (2, 2, 2, 3), strict=True):
        for _ in range(count):
            layer = 9 * channels * width * side**2
            first = first or layer
            forward, channels = forward + layer, width
        side //= 2
    return 2 * 16 * (3 * forward - first) / _step_seconds(widths, torch.channels_last, repeats=5)


def _step_seconds(widths, memory_format, repeats: int = 1) -> float:
    """Median seconds of one training step of our loop's program at mini-batch 16, one thread."""
    torch.set_num_threads(1)
    net = models.convnet(widths).to(memory_format=memory_format)
    program = Single([net])
    velocity, x, y = (
        torch.zeros_like(program.weights),
        torch.randn(16, 3, 32, 32).to(memory_format=memory_format)[None],
        torch.eye(5)[torch.arange(16) % 5][None],
    )
    program.train(True)

    def step():
        program.gradient.zero_()
        training.example_loss(program(x), y).mean().backward()
        with torch.no_grad():
            velocity.mul_(0.9).add_(0.01 * program.gradient)
            program.weights.sub_(velocity)

    seconds = statistics.median(_timed(step) for _ in range(20 * repeats + 5))
    torch.set_num_threads(usable_cores())
    return seconds


def _timed(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _replica_bytes() -> float:
    """What one replica of `train_stack` needs: weights, gradient, momentum and the epoch's copy, its data, and a chunk of mini-batches."""
    replica = _mlp_replica(0, n=64 * 20)
    task, parameters = replica.path.target, models.parameter_count(replica.net)
    data = sum(t.numel() * t.element_size() for t in (task.x_train, task.y_train, task.x_val, task.y_val))
    return 5 * 4 * parameters + data + 2 * 4 * 64 * training._STEPS_AT_ONCE * 51


if __name__ == "__main__":
    main()
