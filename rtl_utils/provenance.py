"""Where a number comes from: the code, versions and machine of this process, as one record."""

import os
import platform
import subprocess
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from rtl_utils import __version__

FIELDS = (
    "commit",
    "clean",
    "package",
    "python",
    "torch",
    "device",
    "processor",
    "threads",
    "date",
    "seconds",
)


MIXING = ("device", "processor", "torch", "threads", "package")  # what an average must not mix
Record = dict[str, str | bool | int | float | None]


def provenance(device: str, threads: int, seconds: float) -> Record:
    """The record that is stored beside a run's rows.

    Args:
        device: where the training ran, such as "cpu" or "cuda:1".
        threads: processor threads of the training.
        seconds: wall time of the training; of a stack, an equal share of the stack's.

    Returns:
        One value for each name of FIELDS: `commit` and `clean` (no uncommitted change) are None
        outside a git checkout; `device` is its kind, such as "cuda", as GPUs of one name are alike;
        `processor` names the GPU where the device is one; `date` is UTC to the second.
    """
    commit, clean = revision()
    return {
        "commit": commit,
        "clean": clean,
        "package": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "device": device.partition(":")[0],
        "processor": processor(device),
        "threads": threads,
        "date": now(),
        "seconds": round(seconds, 3),
    }


def now() -> str:
    """The time in UTC to the second, as rows and tables write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def host() -> str:
    """Name of this machine in its network."""
    return platform.node() or "this machine"


def described(record: Mapping[str, Any]) -> str:
    """A provenance as one line of a page; what is not known is left out."""
    commit = record.get("commit")
    changed = "" if record.get("clean") in (True, None) else " with changes"
    parts = [
        f"rtl-utils {record['package']}" if record.get("package") else "",
        f"commit {str(commit)[:7]}{changed}" if commit else "",
        f"torch {record['torch']}" if record.get("torch") else "",
        f"Python {record['python']}" if record.get("python") else "",
        str(record.get("processor") or ""),
        str(record.get("date") or ""),
    ]
    return ", ".join(part for part in parts if part)


class MixedRowsWarning(UserWarning):
    """A table or figure averages rows of different versions, devices or machines."""


def mixed(rows: pd.DataFrame) -> str | None:
    """One sentence naming the versions, devices and machines that the rows mix; None if none do.

    Columns that are not there, and values that were not recorded, are left out.

    Args:
        rows: tidy rows.
    """
    found = {column: recorded(rows, column) for column in MIXING}
    several = {column: values for column, values in found.items() if len(values) > 1}
    if not several:
        return None
    named = "; ".join(f"{column}: {', '.join(values)}" for column, values in several.items())
    return f"the rows that are averaged here differ in what made them ({named})"


def warn_if_mixed(rows: pd.DataFrame) -> None:
    """Warn where rows of different versions, devices or machines are averaged."""
    message = mixed(rows)
    if message is not None:
        warnings.warn(message, MixedRowsWarning, stacklevel=3)


def recorded(rows: pd.DataFrame, column: str) -> list[str]:
    """The different values of a column as sorted texts, without those that are missing."""
    if column not in rows:
        return []
    values = rows[column].dropna().unique()
    return sorted({f"{v:g}" if isinstance(v, float) else str(v) for v in values})


@cache
def revision() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package lies in, and whether the package is unchanged since.

    Asked once per process, so that a run is named after the code that was loaded. (None, None)
    outside a checkout.
    """
    package = Path(__file__).resolve().parent
    try:
        # an installed package may lie in the user's own checkout, which is not the one asked for
        _git(package, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(package, "rev-parse", "HEAD")
        return commit, not _git(package, "status", "--porcelain", "--", str(package))
    except (OSError, subprocess.CalledProcessError):
        return None, None


@cache
def processor(device: str) -> str:
    """Name of the processor, or of the GPU, that a device stands for."""
    if device != "cpu":
        from rtl_utils import devices  # torch takes a second

        return devices.card(device) or device
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str:
    # a hook's variables would name another checkout
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()
