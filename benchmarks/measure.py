"""How both sides of a benchmark are timed, and what one side spends its time on."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from loky import cpu_count

from rtl_utils.provenance import processor, revision

HERE = Path(__file__).resolve().parent
Call = Callable[[], Any]


def machine() -> dict[str, Any]:
    """What the figures were measured on, and which code they measure."""
    commit, _ = revision()
    return {
        "processor": processor("cpu"),
        "cores": cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "package": version("rtl-utils"),
        "commit": commit,
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return int(cpu_count())


def in_turn(ours: Call, baseline: Call, repeats: int = 3, scale: float = 1) -> dict[str, Any]:
    """Seconds of both sides, in turn after one warm-up of each.

    Args:
        ours: one side.
        baseline: the other side.
        repeats: of each side.
        scale: how many times the baseline's call makes the work of ours.

    Returns:
        ours_s and baseline_s, medians over the repeats; ratio, the median of the ratios pair by
        pair; all, the seconds of every repeat.
    """
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    for repeat in range(repeats + 1):
        mine = seconds(ours)
        theirs = seconds(baseline) * scale
        if repeat:  # the first is the warm-up
            times["ours"].append(mine)
            times["baseline"].append(theirs)
    pairs = zip(times["ours"], times["baseline"], strict=True)
    return {
        "ours_s": statistics.median(times["ours"]),
        "baseline_s": statistics.median(times["baseline"]),
        "ratio": statistics.median(theirs / mine for mine, theirs in pairs),
        "all": times,
    }


def seconds(call: Call) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_seconds(call: Call, times: int = 60) -> float:
    """Median wall time of a call, after five warm-ups."""
    for _ in range(5):
        call()
    return statistics.median(seconds(call) for _ in range(times))


def matmul_rate(n: int = 2048) -> float:
    """Float32 operations per second of a matrix product, with the threads that are set."""
    a = torch.randn(n, n)
    b = torch.randn(n, n)
    return 2 * n**3 / min(seconds(lambda: a @ b) for _ in range(10))


def profile(call: Call, times: int = 1, top: int = 8) -> dict[str, float]:
    """Where the time of a call goes.

    Args:
        call: that is profiled, after one warm-up.
        times: how often it is called.
        top: how many operations are named.

    Returns:
        Name of each operation that takes most of the time -> its share of the time.
    """
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            call()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    whole = sum(spent.values())
    longest = sorted(spent, key=lambda name: spent[name], reverse=True)
    return {name: spent[name] / whole for name in longest[:top]}


def peak_memory() -> int:
    """Bytes of this process's peak, on Linux: the kernel's high-water mark.

    `getrusage` would report the parent's peak where that was larger.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def in_new_process(code: str, **environment: str) -> str:
    """What a piece of Python prints in a process of its own, in this folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=HERE,
        env=os.environ | environment,
    )
    return done.stdout
