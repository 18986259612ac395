"""Files of weights: whole or not there, and never those of another run."""

import hashlib
import io
import os
import re
import socket
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from rtl_utils.store._records import StoreError, full, is_full, is_refused, read_only

_PARTIAL = re.compile(r"\.(?P<host>[^.]*)\.(?P<process>\d+)\.partial$")
# seconds after which another machine's partial file is one of a dead process
_FORGOTTEN = 24 * 3600


def save(path: Path, key: str, state: dict[str, Any]) -> str:
    """SHA-256 of the file into which a run's weights were written; it appears whole or not at all.

    Args:
        path: of the file.
        key: of the run.
        state: of its network.

    Raises:
        StoreError: if the disk is full or the folder can be read only; nothing is left behind.
    """
    packed = io.BytesIO()
    torch.save({"run": key, "state": state}, packed)
    content = packed.getbuffer()
    temporary = path.with_name(f"{path.stem}.{_host()}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise _sentence(path.parent, error) from error
    finally:
        _remove(temporary)
    return hashlib.sha256(content).hexdigest()


def load(path: Path, key: str, digest: str | None) -> dict[str, Any] | None:
    """A run's weights as they were saved, or None if they are not there or damaged.

    Args:
        path: of the file.
        key: of the run.
        digest: SHA-256 of the file; None where an earlier version stored none.
    """
    try:
        content = path.read_bytes()
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            return None
        if digest is None:
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                if file.testzip() is not None:  # torch does not check the sums that it writes
                    return None
        found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        state = found["state"] if set(found) == {"run", "state"} else found
        named = key if state is found else found["run"]
        finite = all(bool(torch.isfinite(value).all()) for value in state.values())
    except Exception:  # a damaged file can raise anything, from OSError to TypeError
        return None
    return dict(state) if named == key and finite else None


def fits(state: dict[str, Any], net: torch.nn.Module) -> bool:
    """Whether the weights have the names, shapes and types of the network's own."""
    own = net.state_dict()
    return state.keys() == own.keys() and all(
        state[name].shape == value.shape and state[name].dtype == value.dtype
        for name, value in own.items()
    )


def rename(path: Path, old: str, new: str) -> str | None:
    """Give a file of weights to another run.

    Args:
        path: of the file.
        old: key of the run that it belongs to.
        new: that of the run that it becomes; its file lies beside.

    Returns:
        The new file's SHA-256; None for a file of an earlier version, which names no run, and
        where there is none.
    """
    there = path.with_name(f"{new}.pt")
    state = load(path, old, None)
    if state is None or _names_no_run(path):
        if path.exists():
            path.replace(there)
        return _digest_of_named(there, new)
    digest = save(there, new, state)
    path.unlink(missing_ok=True)
    return digest


def tidy(folder: Path) -> None:
    """Remove the partial files of processes that are gone."""
    with os.scandir(folder) as entries:
        partial = [entry.name for entry in entries if entry.name.endswith(".partial")]
    for name in partial:
        path = folder / name
        if _is_left_over(path):
            _remove(path)


def _is_left_over(path: Path) -> bool:
    found = _PARTIAL.search(path.name)
    if found and found["host"] == _host():
        return not _runs(int(found["process"]))
    try:
        return time.time() - path.stat().st_mtime > _FORGOTTEN
    except OSError:
        return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, OSError):  # of another user
        return True
    return True


def _names_no_run(path: Path) -> bool:
    found = torch.load(path, weights_only=True, map_location="cpu")
    return set(found) != {"run", "state"}


def _digest_of_named(path: Path, key: str) -> str | None:
    """SHA-256 of a file that another process has given to this run."""
    if load(path, key, None) is None or _names_no_run(path):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder that can be read only
        return


def _sentence(folder: Path, error: OSError) -> StoreError:
    if is_full(error):
        return full(folder.parent)
    if is_refused(error):
        return read_only(folder.parent)
    return StoreError(f"weights cannot be written into {folder} ({error.strerror})")
