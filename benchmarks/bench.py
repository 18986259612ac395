"""Every speed claim, both sides measured in one run: `make bench`. Writes benchmarks/results.json, docs/performance.md and its picture.

The two sides of a row are timed in turn (ours, rival, ours, rival, ...) after one warm-up of each, and compared by the median of their ratios. A
long training is timed over fewer epochs where that changes no ratio, epochs being alike; the row says so.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import report
import rivals
import torch

from rtl_utils import coupled, couplings, explaining, lengths, methods, models, paths, tasks, training
from rtl_utils.populations import Single, Stacked
from rtl_utils.training import Replica, Sgd, fit
from rtl_utils.workers import usable_cores

HERE = Path(__file__).resolve().parent
SMALL, WIDE = models.CONVNET_WIDTHS["small"], (32, 64, 128, 256)
SYNTHETIC = Sgd(epochs=8, batch_size=64, cosine=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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


def machine() -> dict:
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    versions = {"torch": torch.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return {"processor": model or platform.processor(), "cores": usable_cores(), **versions}


# --- the rows: ours against a rival -----------------------------------------------------------------------------------------------------


def one_run() -> dict:
    task, epochs = tasks.load("cifar100", "flowers", seed=0), 2
    net, plain = models.build(task, "small", seed=0), rivals.network(SMALL)
    both = in_turn(lambda: fit([_alone(net, task, epochs)]), lambda: rivals.tutorial(plain, task, epochs))
    return {"what": f"one FT run with its evaluations, CIFAR-100, `small` ({epochs} epochs)", "against": "tutorial loop", "target": 1.3, **both}


def ten_runs() -> dict:
    task = tasks.load("cifar100", "flowers", seed=0)

    def ours():
        fit([_alone(models.build(task, "small", seed), task, 2, seed) for seed in range(10)])

    def rival():
        for _ in range(10):
            rivals.tutorial(rivals.network(SMALL), task, 2)

    return {"what": "ten FT runs (2 epochs each)", "against": "tutorial loop ten times", "target": 1.7, **in_turn(ours, rival, repeats=1)}


def fixed_feature() -> dict:
    source, task = (tasks.load("cifar100", name, seed=0) for name in ("herbivores", "flowers"))
    backbone, plain = models.build(source, "small", seed=0), rivals.network(SMALL)

    def ours():
        methods.transfer("fixed", backbone, source, task, seed=0, sgd=Sgd(epochs=50))

    both = in_turn(ours, lambda: rivals.tutorial(plain, task, 2, frozen=True), repeats=2, scale=25)
    return {"what": "fixed feature, one run of 50 epochs", "against": "tutorial loop with a frozen body (2 epochs, times 25)", "target": 20, **both}


def arithmetic_rate() -> dict:
    """Share of this machine's float32 matrix-product rate that a training step reaches, one thread, by multiply-adds of its convolutions."""
    torch.set_num_threads(1)
    peak, rates, profiles = _matmul_rate(), {}, {}
    for name, widths in (("32-64-128-256", WIDE), ("small", SMALL)):
        step = _step(widths, torch.channels_last)
        rates[name] = _operations(widths) / _median_seconds(step)
        profiles[f"A training step, {name}, one thread"] = profile(step, times=20)
    torch.set_num_threads(usable_cores())
    return {
        "what": "arithmetic rate of a training step, widths 32-64-128-256",
        "against": f"float32 matrix product, {peak / 1e9:.0f} GFLOP/s a core; `small` reaches {rates['small'] / peak:.0%} of it",
        "target": 0.65, "ratio": rates["32-64-128-256"] / peak, "small": rates["small"] / peak, "peak_gflops": peak / 1e9, "profiles": profiles,
    }  # fmt: skip


def synthetic_seeds() -> dict:
    def one_by_one():
        for replica in replicas:
            fit([replica])

    replicas = _synthetic_replicas()
    both = in_turn(lambda: fit(replicas), one_by_one, repeats=1)
    stack, steps = replicas[::3][:10], 60 * SYNTHETIC.epochs * -(-2_000 // SYNTHETIC.batch_size)
    return {
        "what": f"synthetic notebook's three methods, 20 seeds ({SYNTHETIC.epochs} epochs)", "against": "`fit` one by one", "target": 4, **both,
        "floor_s": 6 * 92_001 * SYNTHETIC.batch_size * steps / (usable_cores() * _matmul_rate_of_one()),
        "profiles": {"A stack of ten MLPs, one thread": profile(lambda: _in_one_thread(stack, Stacked))},
    }  # fmt: skip


def lime() -> dict:
    """Both sides with the libraries' own threads, and the ratio with one thread: NumPy's threads and torch's hinder each other in the rival."""
    ours, rival = lime_sides()
    difference = float(np.abs(ours() - rival()).max() / np.abs(rival()).max())
    one_thread = float(_python("import bench; print(bench.in_turn(*bench.lime_sides())['ratio'])", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"))
    return {
        "what": f"100 LIME explanations of a tabular model (largest difference: {difference:.0e} of the largest weight)",
        "against": f"lime as its manual shows (with one thread on both sides the ratio is {one_thread:.2f})", "target": 2,
        "largest_difference": difference, "ratio_of_one_thread": one_thread, **in_turn(ours, rival),
    }  # fmt: skip


def lime_sides() -> tuple[Callable, Callable]:
    """The two calls that `lime` times; each returns (100, 50) weights."""
    task = tasks.load("synthetic", "source", seed=0)
    net = models.build(task, "plain", seed=0)

    def rival():
        return rivals.lime_by_the_manual(explaining.as_function(net), task.x_train.numpy(), task.x_val[:100].numpy(), seed=0, samples=1_000)

    return lambda: explaining.lime_weights(net, task, range(100), seed=0)[0], rival


def ct_iteration() -> dict:
    """One iteration of coupled transfer after its training: every pair's cost, and the next coupling."""
    ends = [tasks.subset(tasks.load("digits", name, seed=0), 10, seed=0) for name in ("digits-0-4", "digits-5-9")]
    path, taus = paths.Path(ends[1], ends[0]), (0.0, 0.25, 0.5, 0.75, 1.0)
    checkpoints = _checkpoints(path, taus)
    blocks = couplings.block_transport(coupled.feature_cost(path, checkpoints[0]), 25, 0, smoothing=0.05)
    sides = [lambda move=move: move(path, checkpoints, taus, blocks) for move in (_move, rivals.move)]
    difference = max(np.abs(a.mass - b.mass).max() for a, b in zip(*(side() for side in sides), strict=True))
    both = in_turn(*sides, repeats=1)
    what = f"one CT iteration, 2 blocks of 25 x 25, 5 partitions (largest difference of the couplings: {difference:.0e})"
    return {"what": what, "against": "its definition, pair by pair", "target": 10, "largest_difference": float(difference), **both}


def memory() -> dict:
    """How peak memory grows with the replicas of a stack, each size in a process of its own, beside one that trains nothing (0)."""
    sizes = (0, 1, 8, 32, 64, 128)
    peaks = {r: int(_python(f"import bench; print(bench.peak_of_stack({r}))")) for r in sizes}
    added = {r: peaks[r] - peaks[0] for r in sizes[1:]}
    slope, intercept = np.polyfit(list(added), list(added.values()), 1)
    off = max(abs(slope * r + intercept - bytes_) for r, bytes_ in added.items()) / added[128]
    return {
        "what": f"memory of a stack of 128 MLPs: {added[128] / 2**20:.0f} MiB, {slope / 2**20:.1f} a replica more, at most {off:.1%} off a line",
        "against": f"128 times what the first replica adds to a process, {added[1] / 2**20:.0f} MiB", "target": 1.2, "smaller_is_better": True,
        "ratio": added[128] / (128 * added[1]), "departure": off, "peaks": peaks,
    }  # fmt: skip


# --- what each optimisation buys, and how cost grows -------------------------------------------------------------------------------------


def optimisations() -> dict:
    """The loop with each kept optimisation beside the loop without it, the rest as it is."""
    images = tasks.subset(tasks.load("cifar100", "flowers", seed=0), 100, seed=0)
    stack, cnns = [_mlp(seed) for seed in range(20)], [_alone(models.build(images, "small", seed), images, 2, seed) for seed in range(4)]
    net = models.build(images, "small", seed=0)
    steps = [_repeated(_step(SMALL, form), 50) for form in (torch.channels_last, torch.contiguous_format)]

    pairs = {
        "stacked MLPs, 20 replicas": (lambda: _in_one_thread(stack, Stacked), lambda: [_in_one_thread([r], Single) for r in stack]),
        "processes of one thread, 4 CNNs": (lambda: fit(cnns), lambda: [fit([r]) for r in cnns]),
        "channels-last, 50 steps of `small`": steps,
        "features of a frozen body computed once, 20 epochs": (lambda: _frozen(net, images, once=True), lambda: _frozen(net, images, once=False)),
        "BatchNorm folded, 500 images": (lambda: models.predict(models.folded(net), images.x_val), lambda: models.predict(net, images.x_val)),
    }
    return {name: in_turn(*sides, repeats=3) for name, sides in pairs.items()}


def evaluation() -> dict:
    """Share of a training's time that its evaluations after each epoch take, one thread."""
    digits, cifar = tasks.load("digits", "digits-5-9", seed=0), tasks.load("cifar100", "flowers", seed=0)
    return {f"{name}, `small`": _evaluation_share(task) for name, task in (("CIFAR-100", cifar), ("cluttered digits", digits))}


def curves() -> dict:
    """Training steps a second over replicas, widths and images; `rate` is of the float32 matrix-product rate of all cores."""
    images, peak = tasks.subset(tasks.load("cifar100", "flowers", seed=0), 100, seed=0), usable_cores() * _matmul_rate_of_one()
    fit([_mlp(0), _mlp(1)])  # the worker processes are started before anything is timed
    mlps = {r: _rate([_mlp(seed) for seed in range(r)]) for r in (1, 2, 4, 8, 16, 32, 64)}
    cnns = {r: _rate([_alone(models.build(images, "small", seed), images, 1, seed) for seed in range(r)]) for r in (1, 2, 4, 8, 16, 32, 64)}
    widths, rates = {}, {}
    for factor in (0.5, 1, 2, 3, 4):
        width = tuple(int(factor * w) for w in SMALL)
        seconds = _one_thread_seconds(width)
        widths["-".join(map(str, width))], rates["-".join(map(str, width))] = 1 / seconds, usable_cores() * _operations(width) / seconds / peak
    counts = {}
    for n in (20, 40, 100, 200, 500):
        task = tasks.subset(tasks.load("cifar100", "flowers", seed=0), n, seed=0)
        counts[5 * n] = _rate([_alone(models.build(task, "small", 0), task, max(1, 200 // n))])
    return {"MLPs in two stacks": mlps, "CNNs, `small`": cnns, "widths, one thread": widths, "training images, one CNN": counts, "rates": rates}


ROWS = {
    f.__name__: f
    for f in (one_run, ten_runs, fixed_feature, arithmetic_rate, synthetic_seeds, lime, ct_iteration, memory, optimisations, evaluation, curves)
}


# --- how they are measured ---------------------------------------------------------------------------------------------------------------


def in_turn(ours: Callable, rival: Callable, repeats: int = 3, scale: float = 1) -> dict:
    """Seconds of both sides, medians over repeats in turn after a warm-up of each, and the median of the ratios pair by pair.

    scale: how many times the rival's call makes the work that ours does.
    """
    times: dict[str, list[float]] = {"ours": [], "rival": []}
    for repeat in range(repeats + 1):
        for side, call in (("ours", ours), ("rival", rival)):
            seconds = _timed(call) * (scale if side == "rival" else 1)
            if repeat:
                times[side].append(seconds)
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["rival"], strict=True))
    return {"ours_s": statistics.median(times["ours"]), "rival_s": statistics.median(times["rival"]), "ratio": ratio, "all": times}


def profile(call: Callable, times: int = 1, top: int = 8) -> dict[str, float]:
    """Where the time of a call goes: the operations that take most of it, with their shares."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            call()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    whole = sum(spent.values())
    return {name: spent[name] / whole for name in sorted(spent, key=spent.get, reverse=True)[:top]}


def peak_of_stack(r: int) -> int:
    """Peak memory in bytes of a process that trains r MLPs as one stack; `memory` calls it in a process of its own, on Linux.

    The kernel's high-water mark, since `getrusage` reports the parent's where that was larger.
    """
    if r:
        _in_one_thread([_mlp(seed) for seed in range(r)], Stacked)
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _timed(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _median_seconds(call: Callable, times: int = 60) -> float:
    for _ in range(5):
        call()
    return statistics.median(_timed(call) for _ in range(times))


def _rate(replicas: Sequence[Replica]) -> float:
    """Training steps a second, of all replicas together, evaluations included."""
    steps = sum(r.sgd.epochs * -(-len(r.path) // r.sgd.batch_size) for r in replicas)
    return steps / _timed(lambda: fit(replicas))


def _matmul_rate(n: int = 2048) -> float:
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / min(_timed(lambda: a @ b) for _ in range(10))


def _matmul_rate_of_one() -> float:
    torch.set_num_threads(1)
    rate = _matmul_rate()
    torch.set_num_threads(usable_cores())
    return rate


def _one_thread_seconds(widths: Sequence[int]) -> float:
    torch.set_num_threads(1)
    seconds = _median_seconds(_step(widths, torch.channels_last), times=20)
    torch.set_num_threads(usable_cores())
    return seconds


def _operations(widths: Sequence[int]) -> float:
    """Operations of a training step at mini-batch 16: two a multiply-add, forward and twice backward, the first layer's input gradient left out."""
    side, channels, forward, first = 32, 3, 0, None
    for width, count in zip(widths, (2, 2, 2, 3), strict=True):
        for _ in range(count):
            layer = 9 * channels * width * side**2
            first = first or layer
            forward, channels = forward + layer, width
        side //= 2
    return 2 * 16 * (3 * forward - first)


def _python(code: str, **environment: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=HERE, env=os.environ | environment)
    return run.stdout


# --- what they train ---------------------------------------------------------------------------------------------------------------------


def _alone(net: models.Net, task: tasks.Task, epochs: int, seed: int = 0) -> Replica:
    return Replica(net, paths.Path(task), paths.CONSTANT, seed, Sgd(epochs=epochs))


def _mlp(seed: int) -> Replica:
    raw = tasks.synthetic("target", seed)
    task = tasks.standardise(replace(raw, x_val=raw.x_val[:500], y_val=raw.y_val[:500]), by=raw)
    return Replica(models.build(task, "plain", seed), paths.Path(task), paths.CONSTANT, seed, Sgd(epochs=2, batch_size=64))


def _synthetic_replicas() -> list[Replica]:
    made = []
    for seed in range(20):
        ends = [tasks.load("synthetic", name, seed) for name in ("source", "target")]
        backbone = models.build(ends[0], "plain", seed)
        for method in ("scratch", "ft", "ut"):
            made.append(methods.plan(method, backbone, *ends, seed=seed, sgd=SYNTHETIC, taus=(0, 0.5, 0.75, 1), width="plain").first)
    return made


def _step(widths: Sequence[int], form: torch.memory_format) -> Callable:
    """One training step of the loop's program and optimiser, at mini-batch 16."""
    task = tasks.subset(tasks.load("cifar100", "flowers", seed=0), 4, seed=0)
    replica = _alone(models.build(task, widths, seed=0).to(memory_format=form), task, 1)
    program = Single([replica.net])
    optimiser = training._Momentum(program, [replica])
    x, y = torch.randn(16, 3, 32, 32).contiguous(memory_format=form)[None], torch.eye(5)[torch.arange(16) % 5][None]
    program.train(True)

    def step():
        program.backward(training.example_loss(program(x), y).mean(1))
        optimiser.step()

    return step


def _repeated(call: Callable, times: int) -> Callable:
    return lambda: [call() for _ in range(times)]


def _in_one_thread(replicas: Sequence[Replica], program: type) -> None:
    torch.set_num_threads(1)
    training._train(replicas, program, "cpu")
    torch.set_num_threads(usable_cores())


def _frozen(net: models.Net, task: tasks.Task, once: bool) -> None:
    """Fixed feature for 20 epochs, or the same training with the body run at every step."""
    if once:
        methods.transfer("fixed", net, task, task, seed=0, sgd=Sgd(epochs=20))
        return
    net.still_statistics = True
    net.body.requires_grad_(False)
    fit([_alone(net, task, 20)])
    net.still_statistics = False
    net.body.requires_grad_(True)


def _evaluation_share(task: tasks.Task) -> float:
    torch.set_num_threads(1)
    program = Single([models.build(task, "small", seed=0)])
    evaluation = _median_seconds(lambda: training._validate(program, [task]), times=5)
    whole = _timed(lambda: training._train([_alone(models.build(task, "small", seed=0), task, 3)], Single, "cpu")) / 3
    torch.set_num_threads(usable_cores())
    return evaluation / whole


def _checkpoints(path: paths.Path, taus: Sequence[float]) -> list[models.Net]:
    """A network before and after an epoch at each tau."""
    net = models.build(path.source, "small", seed=0)
    fit([_alone(net, path.source, 5)])
    found = [copy.deepcopy(net)]
    fit(
        [Replica(net, path, paths.Grid(tuple(taus)), 0, Sgd(epochs=len(taus)))],
        on_epoch=lambda replicas, _: found.append(copy.deepcopy(replicas[0].net).eval()),
    )
    return found


def _move(path: paths.Path, checkpoints: Sequence[models.Net], taus: Sequence[float], blocks: Sequence[couplings.Block]) -> list[couplings.Block]:
    source = np.concatenate([np.repeat(b.source, len(b.target)) for b in blocks])
    target = np.concatenate([np.tile(b.target, len(b.source)) for b in blocks])
    watch = lengths.PairLength(source, target, len(taus), seed=0)
    for done, net in enumerate(checkpoints):
        watch(net, path, taus[max(done - 1, 0)], done, len(taus))
    costs = np.split(watch.mean.astype(float), np.cumsum([b.mass.size for b in blocks])[:-1])
    return [couplings.proximal(b, cost.reshape(b.mass.shape), 0.05) for b, cost in zip(blocks, costs, strict=True)]


if __name__ == "__main__":
    main()
