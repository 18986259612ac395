"""SQLite's log of pages: whether it is damaged, and what it holds.

SQLite stops at the first frame whose checksum is wrong, without a word: what was committed after it
is gone. Here such a log is noticed, and the frames behind the damage are read too.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_HEADER = 32
_FRAME_HEADER = 24
_MAGIC = 0x377F0682  # with a 1 at its end the words are big-endian
_MASK = 0xFFFFFFFF

Sums = tuple[int, int]


class _Frame(NamedTuple):
    number: int  # of the page
    commit: int  # not 0 at the end of a transaction
    salt: bytes  # of the log's turn
    sums: Sums
    page: bytes


def of(path: Path) -> Path:
    """The log of a database, which has the name of the file that a link leads to."""
    real = path.resolve() if path.is_symlink() else path
    return real.with_name(f"{real.name}-wal")


def is_damaged(path: Path) -> bool:
    """Whether a database's log has transactions that SQLite would drop behind a damaged frame."""
    log = of(path)
    try:
        if log.stat().st_size <= _HEADER + _FRAME_HEADER:
            return False
        content = log.read_bytes()
    except FileNotFoundError:
        return False
    size = page_size(content)
    if not _is_size(size):
        return True
    if _sums(content[:24], (0, 0), _big(content)) != struct.unpack_from(">II", content, 24):
        return True
    salt = content[16:24]  # the header is sound, so frames with another are of an earlier turn
    frames = list(_frames(content, size))
    behind = frames[_sound(content, frames, size) + 1 :]
    return any(frame.commit for frame in behind if frame.salt == salt)


def page_size(content: bytes) -> int:
    """What a log's header says; 0 where it has none."""
    return int.from_bytes(content[8:12], "big") if len(content) >= _HEADER else 0


def pages(content: bytes, size: int) -> dict[int, bytes]:
    """Number of each page -> its newest content that was committed, behind damage too."""
    found: dict[int, bytes] = {}
    waiting: dict[int, bytes] = {}
    for frame in _turn(content, size):
        waiting[frame.number] = frame.page
        if frame.commit:
            found |= waiting
            waiting = {}
    return found


def _is_size(size: int) -> bool:
    return size in {2**k for k in range(9, 17)}


def _turn(content: bytes, size: int) -> Iterator[_Frame]:
    """The frames of the log's present turn; those of earlier ones lie behind, with other salts.

    Where a new turn has begun without a frame yet, they are those of the turn before, whose pages
    are in the database by then.
    """
    salts = {content[16:24], content[_HEADER + 8 : _HEADER + 16]}  # one of them may be damaged
    return (frame for frame in _frames(content, size) if frame.salt in salts)


def _frames(content: bytes, size: int) -> Iterator[_Frame]:
    """The frames of all turns, in their order in the file."""
    step = _FRAME_HEADER + size
    for start in range(_HEADER, len(content) - step + 1, step):
        number, commit = struct.unpack_from(">II", content, start)
        salt = content[start + 8 : start + 16]
        sums = struct.unpack_from(">II", content, start + 16)
        yield _Frame(number, commit, salt, sums, content[start + _FRAME_HEADER : start + step])


def _sound(content: bytes, frames: list[_Frame], size: int) -> int:
    """How many frames there are before the first whose checksum is wrong."""
    if not frames:
        return 0
    big = _big(content)
    words = np.frombuffer(
        b"".join(struct.pack(">II", f.number, f.commit) + f.page for f in frames),
        dtype=">u4" if big else "<u4",
    ).astype(np.uint32)
    power, weights = _weights((8 + size) // 8)
    own = (words.reshape(len(frames), -1) @ weights).tolist()
    sums: Sums = struct.unpack_from(">II", content, 24)
    for k, frame in enumerate(frames):
        a, b = sums
        sums = (
            (power[0] * a + power[1] * b + own[k][0]) & _MASK,
            (power[1] * a + power[2] * b + own[k][1]) & _MASK,
        )
        if sums != frame.sums or frame.salt != content[16:24]:
            return k
    return len(frames)


def _sums(data: bytes, sums: Sums, big: bool) -> Sums:
    """SQLite's checksum, word by word."""
    a, b = sums
    words = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        a = (a + first + b) & _MASK
        b = (b + second + a) & _MASK
    return a, b


@lru_cache(maxsize=4)
def _weights(steps: int) -> tuple[tuple[int, int, int], NDArray[np.uint32]]:
    """The checksum as one product: the sums before times a power, plus the words times weights.

    One step is s -> M s + N x with M = [[1, 1], [1, 2]] and N = [[1, 0], [1, 1]], modulo 2^32;
    every power of M is symmetric.
    """
    p, q, r = 1, 0, 1
    weights = np.empty((2 * steps, 2), dtype=np.uint32)
    for k in range(steps - 1, -1, -1):
        weights[2 * k] = (p + q) & _MASK, (q + r) & _MASK
        weights[2 * k + 1] = q, r
        p, q, r = (p + q) & _MASK, (q + r) & _MASK, (q + 2 * r) & _MASK
    return (p, q, r), weights


def _big(content: bytes) -> bool:
    return int.from_bytes(content[:4], "big") == _MAGIC | 1
