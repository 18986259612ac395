"""Where networks are trained: the devices of this machine, what "auto" takes, their arithmetic."""

import gc
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from rtl_utils.messages import shown

AUTO = "auto"
RULE = '"auto", "cpu", "cuda", "cuda:1" or another number, or "mps"'
_NAME = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_WORKSPACE = ":4096:8"  # of cuBLAS, which adds up in one order only in memory of a fixed size


def there() -> list[str]:
    """The devices of this machine, the one that "auto" takes first."""
    found = []
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def check_name(device: object) -> str:
    """The value, if it is the name of a device, whether this machine has it or not.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(device, str) or not _NAME.fullmatch(device):
        raise ValueError(f"device must be {RULE}; got {shown(device)}")
    return device


def resolve(device: str) -> str:
    """The device that the name stands for: itself, or the one that "auto" takes.

    Args:
        device: "auto" takes the GPU if there is one; or the name of a device.

    Raises:
        ValueError: for what is no name of a device, or one that this machine does not have.
    """
    check_name(device)
    has = there()
    if device == AUTO:
        return has[0]
    if device not in has:
        raise ValueError(
            f"device {shown(device)} is not there; this machine has {', '.join(has)}; "
            f'"auto" takes {has[0]}'
        )
    return device


def said(device: str) -> str:
    """What networks are trained on, as a line for the reader.

    Args:
        device: as it was asked for.

    Raises:
        ValueError: as `resolve`.
    """
    taken = resolve(device)
    name = card(taken)
    where = taken if name is None else f"{taken} ({name})"
    if device != AUTO:
        return f"device: {where}"
    why = "torch finds no GPU here" if name is None else "the GPU of this machine"
    return f'device: {where}, which "auto" takes: {why}'


def card(device: str) -> str | None:
    """Name of the GPU that a device is; None for the processor."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.backends.mps.get_name()) if kind == "mps" else None


def has_graphs(device: torch.device) -> bool:
    """Whether kernels of the device can be recorded and played back, as CUDA graphs."""
    return device.type == "cuda" and torch.version.cuda is not None


def of_float64(device: torch.device) -> torch.device:
    """Where float64 is computed for tensors of a device: there, or on the CPU for Apple's GPU."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def reference(device: str) -> Iterator[None]:
    """Arithmetic for results inside; as it was afterwards. On the CPU nothing changes.

    On a GPU float32 has all of its bits (no TF32), and an algorithm is deterministic where there is
    such a one; where there is none, nothing is refused.
    """
    if device == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACE)
    cudnn: Any = torch.backends.cudnn
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    memory: Any = torch.utils.deterministic
    precisions = [kind.fp32_precision for kind in kinds]
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = memory.fill_uninitialized_memory
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False  # only finds faults, and costs
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
            yield
    finally:
        for kind, precision in zip(kinds, precisions, strict=True):
            kind.fp32_precision = precision
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
        memory.fill_uninitialized_memory = fills


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory is full; not every backend has a type for it."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def release(device: str) -> None:
    """Give back what torch keeps of a device's memory, once nothing uses it any more."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    else:
        torch.mps.empty_cache()
