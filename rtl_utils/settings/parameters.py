"""The table of parameters: what each means, how it is read, its default."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtl_utils import devices
from rtl_utils.data import PATCHES
from rtl_utils.messages import shown
from rtl_utils.methods import METHODS
from rtl_utils.models import NETWORKS

_MOST_CHANNELS = 1_024
_MOST_PAIRS = 100
_LEAST_RATE = 1e-30
_MOST_SEEDS = 1_000


class _Refused(ValueError):
    """A value that breaks its parameter's rule; the message is the rule."""


@dataclass(frozen=True)
class Parameter:
    """One parameter that a notebook's parameters cell may set.

    Args:
        name: in the cell.
        meaning: with its unit.
        rule: what a value must be, as a message says it.
        read: value -> the value as settings keep it; raises _Refused where it breaks the rule.
        default: where the cell does not set it.
        needed: whether every cell must set it.
    """

    name: str
    meaning: str
    rule: str
    read: Callable[[Any], Any]
    default: Any = None
    needed: bool = False

    def value(self, given: Mapping[str, Any]) -> Any:
        """The checked value. Raises ValueError in one sentence."""
        raw = given.get(self.name, self.default)
        try:
            return self.read(raw)
        except _Refused:
            raise ValueError(f"{self.name} must be {self.rule}; got {shown(raw)}") from None


def _whole(value: Any, least: int = 1, most: float = float("inf")) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _Refused
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise _Refused
    try:
        return float(value)
    except OverflowError:
        raise _Refused from None


def _text(value: Any) -> str:
    if type(value) is not str or not value or "\0" in value:
        raise _Refused
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise _Refused from None
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _Refused
    return value


def _rate(value: Any) -> float:
    """A learning rate; a tenth of it must still be a number."""
    rate = _number(value)
    if not rate >= _LEAST_RATE:
        raise _Refused
    return rate


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _Refused
    return value


def _momentum(value: Any) -> float:
    momentum = _number(value)
    if not 0 <= momentum < 1:
        raise _Refused
    return momentum


def _share(value: Any) -> float:
    share = _number(value)
    if not 0 <= share <= 1:
        raise _Refused
    return share


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = tuple(_whole(seed, 0, 2**63 - 1) for seed in _list(value))
    if not 1 <= len(seeds) <= _MOST_SEEDS or len(set(seeds)) != len(seeds):
        raise _Refused
    return seeds


def _taus(value: Any) -> tuple[float, ...]:
    taus = tuple(_number(tau) for tau in _list(value))
    if not all(0 <= tau <= 1 for tau in taus):
        raise _Refused
    return taus


def _names(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else list(_list(value))
    if not 1 <= len(names) <= _MOST_PAIRS or not all(type(name) is str for name in names):
        raise _Refused
    return names


def _methods(value: Any) -> tuple[str, ...]:
    if value is None:
        return tuple(METHODS)
    names = _list(value)
    if not all(type(name) is str and name in METHODS for name in names):
        raise _Refused
    return tuple(dict.fromkeys(names))


def _device(value: Any) -> str:
    try:
        return devices.check_name(value)
    except ValueError:
        raise _Refused from None


def _class(value: Any) -> str:
    """A class by its name; the digits' names may be given as numbers."""
    return str(value) if type(value) is int and abs(value) < 1_000 else _text(value)


def _patch(value: Any) -> str:
    if value not in tuple(PATCHES):
        raise _Refused
    return str(value)


def _sizes(value: Any) -> tuple[int | None, ...]:
    sizes = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(sizes) <= _MOST_PAIRS or len(set(map(str, sizes))) != len(sizes):
        raise _Refused
    return tuple(None if size is None else _whole(size) for size in sizes)


def _width(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return _text(value)
    channels = tuple(_whole(channel, 1, _MOST_CHANNELS) for channel in _list(value))
    if len(channels) != 4:
        raise _Refused
    return channels


_WHOLE = "a whole number, 1 or more"
_WHOLE_OR_NONE = f"None, or {_WHOLE}"
_NAMES = "the name of a task, a list of names, or None for the data set's own"
PARAMETERS: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter("dataset", "data set", "the name of a data set", _text, needed=True),
        Parameter("source", "tasks to transfer from", _NAMES, _optional(_names)),
        Parameter("target", "tasks to transfer to, in their order", _NAMES, _optional(_names)),
        Parameter(
            "ball_class",
            "source class whose images carry the shortcut; None: the last one",
            "the name of a class, or None for the last one",
            _optional(_class),
        ),
        Parameter(
            "patch",
            "what the shortcut looks like",
            f"one of {', '.join(PATCHES)}",
            _patch,
            default="ball",
        ),
        Parameter(
            "methods",
            "rows of the table of methods; None: all",
            f"None (all) or a list of names among {', '.join(METHODS)}",
            _methods,
            default=(),
        ),
        Parameter(
            "seeds",
            "one backbone and one transfer of each kind per seed",
            f"a list of 1 to {_MOST_SEEDS:,} different whole numbers in [0, 2^63)",
            _seeds,
            needed=True,
        ),
        Parameter(
            "epochs", "of a transfer; None: the data set's", _WHOLE_OR_NONE, _optional(_whole)
        ),
        Parameter(
            "steps",
            "of SGD of a transfer, in place of epochs, so that few and many images are compared at "
            "equal steps; None: as many as its epochs take",
            _WHOLE_OR_NONE,
            _optional(_whole),
        ),
        Parameter(
            "source_epochs", "of a backbone; None: likewise", _WHOLE_OR_NONE, _optional(_whole)
        ),
        Parameter(
            "taus",
            "values of tau: 0 is the source task, 1 the target",
            "a list of numbers in [0, 1], rising to 1",
            _taus,
            needed=True,
        ),
        Parameter("batch_size", "examples per step", _WHOLE, _whole, needed=True),
        Parameter("lr", "learning rate of SGD", "a number, positive", _rate, needed=True),
        Parameter("momentum", "of SGD", "a number, in [0, 1)", _momentum, needed=True),
        Parameter(
            "source_lr",
            "learning rate of a backbone; None: as of a transfer",
            "None, or a number, positive",
            _optional(_rate),
        ),
        Parameter(
            "source_momentum",
            "of a backbone; None: as of a transfer",
            "None, or a number, in [0, 1)",
            _optional(_momentum),
        ),
        Parameter(
            "source_ball",
            "whether a class of the source carries the shortcut; where none does, the methods that "
            "must know it are left out",
            "True or False",
            _flag,
            default=True,
        ),
        Parameter(
            "target_ball",
            "whether every target image carries the shortcut",
            "True or False",
            _flag,
            default=False,
        ),
        Parameter(
            "width",
            "of the network; None: the data set's",
            f"one of {', '.join(NETWORKS)}, or four whole numbers of channels, 1 to "
            f"{_MOST_CHANNELS:,}",
            _optional(_width),
        ),
        Parameter(
            "n_train",
            "target examples per class, of all for a regression; None: all",
            "None (all), a whole number of images per class, or a list of them",
            _sizes,
            default=None,
        ),
        Parameter(
            "backbone_share",
            "of the average of backbone and fine-tuned weights; None: the method's own",
            "None, or a number between 0 (the fine-tuned weights) and 1 (the backbone)",
            _optional(_share),
        ),
        Parameter(
            "averaged",
            "share of a transfer's last steps after which its weights are averaged; 0: the last",
            "a number between 0 and 1",
            _share,
            default=0.0,
        ),
        Parameter("points", "explained points", _WHOLE, _whole, default=100),
        Parameter("iterations", "of a coupling", _WHOLE, _whole, default=4),
        Parameter(
            "block", "target examples per block; None: up to 25", _WHOLE_OR_NONE, _optional(_whole)
        ),
        Parameter("blocks", "measured blocks; None: all", _WHOLE_OR_NONE, _optional(_whole)),
        Parameter(
            "partitions",
            "checkpoints of a length; None: 5, or one per epoch where there are fewer",
            _WHOLE_OR_NONE,
            _optional(_whole),
        ),
        Parameter(
            "lengths",
            "whether the length of each transfer's path is measured, at `partitions` checkpoints",
            "True or False",
            _flag,
            default=False,
        ),
        Parameter(
            "device",
            'where networks are trained; "auto": on the GPU if there is one',
            devices.RULE,
            _device,
            needed=True,
        ),
        Parameter("out", "folder of the results", "the name of a folder", _text, needed=True),
    )
}
