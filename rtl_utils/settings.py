"""The parameters of a notebook: one table, and one call that checks them before any training."""

import ast
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path as FilePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pandas as pd

from rtl_utils import devices, experiments
from rtl_utils.coupled import Coupled
from rtl_utils.data import (
    DATASETS,
    PATCHES,
    DataSet,
    Shortcut,
    check_task,
    image_datasets,
    load,
    usual,
)
from rtl_utils.folders import root
from rtl_utils.lengths import check_partitions
from rtl_utils.messages import cut, shown
from rtl_utils.methods import METHODS
from rtl_utils.models import NETWORKS, build
from rtl_utils.paths import Path
from rtl_utils.runs import Run, class_names
from rtl_utils.schedules import CONSTANT, check_taus
from rtl_utils.store import Store
from rtl_utils.training import Replica, Sgd, epochs_of

_MOST_CHANNELS = 1_024
_MOST_PAIRS = 100
_LEAST_RATE = 1e-30
_PARTITIONS = 5  # checkpoints of a length, where a notebook does not say how many
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
        Parameter("epochs", "of a transfer; None: the data set's", _WHOLE, _optional(_whole)),
        Parameter(
            "steps",
            "of SGD of a transfer, in place of epochs, so that few and many images are compared at "
            "equal steps; None: as many as its epochs take",
            _WHOLE,
            _optional(_whole),
        ),
        Parameter("source_epochs", "of a backbone; None: likewise", _WHOLE, _optional(_whole)),
        Parameter(
            "taus",
            "values of tau: 0 is the source task, 1 the target",
            "a list of numbers in [0, 1], rising to 1",
            _taus,
            needed=True,
        ),
        Parameter("batch_size", "examples per step", _WHOLE, _whole, needed=True),
        Parameter("lr", "learning rate of SGD", "a number, positive", _rate, needed=True),
        Parameter("momentum", "of SGD", "a number, in [0, 1)", _number, needed=True),
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
        Parameter("block", "target examples per block; None: up to 25", _WHOLE, _optional(_whole)),
        Parameter("blocks", "measured blocks; None: all", _WHOLE, _optional(_whole)),
        Parameter(
            "partitions",
            "checkpoints of a length; None: 5, or one per epoch where there are fewer",
            _WHOLE,
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


@dataclass(frozen=True)
class Settings:
    """Checked parameters of a notebook; PARAMETERS says what they mean.

    Args:
        dataset: a name of DATASETS.
        pairs: (source, target) names.
        seeds: of the runs.
        sgd: of a transfer.
        source_sgd: of a backbone.
        taus: the grid of tau.
        width: of the network.
        n_train: examples per class, one or more sizes; None is all.
        device: of all trainings, what "auto" takes in its place.
        ball_class: source class that carries the shortcut; None for the last one.
        points: explained points.
        methods: rows of the table of methods.
        steps: of a transfer, in place of the epochs of `sgd`; None for these.
        backbone_share: of a method that averages with the backbone; None for its own.
        source_ball: whether a class of the source carries the shortcut; see `trainings`.
        target_ball: whether every target image does; likewise.
        patch: what the shortcut looks like, a name of PATCHES.
        lengths: whether lengths are measured; likewise.
        coupled: how a coupling is iterated.
        store: where runs are looked for and kept; None while the settings are being checked.
    """

    dataset: str
    pairs: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    sgd: Sgd
    source_sgd: Sgd
    taus: tuple[float, ...]
    width: str | tuple[int, ...]
    n_train: tuple[int | None, ...]
    device: str
    ball_class: str | None
    points: int
    methods: tuple[str, ...]
    coupled: Coupled
    steps: int | None = None
    backbone_share: float | None = None
    source_ball: bool = True
    target_ball: bool = False
    patch: str = "ball"
    lengths: bool = False
    store: Store | None = None

    @property
    def title(self) -> str:
        """The data set's name as figures write it."""
        return DATASETS[self.dataset].title

    @property
    def shown_pair(self) -> tuple[str, str]:
        """The pair that figures show."""
        shown = DATASETS[self.dataset].shown
        return shown if shown in self.pairs else self.pairs[0]

    def shortcut(self, source: str) -> Shortcut:
        """The shortcut on the source's class that carries it (the paper's last one, a kangaroo)."""
        name = self.ball_class or class_names(self.dataset, source)[-1]
        return usual(self.patch, (name,))

    def sgd_at(self, target: str, n_train: int | None = None) -> Sgd:
        """How a transfer is trained: with as many epochs as come nearest to `steps`, if it is set.

        Args:
            target: of the transfer.
            n_train: its training examples per class; None for all.
        """
        if self.steps is None:
            return self.sgd
        examples = len(load(self.dataset, target, self.seeds[0], n_train).y_train)
        return replace(self.sgd, epochs=epochs_of(self.steps, examples, self.sgd.batch_size))

    def runs(self, *methods: str, biased: bool = False, **changes: Any) -> list[Run]:
        """One run for every pair, method and seed.

        Args:
            methods: names of METHODS.
            biased: whether the source carries the shortcut.
            changes: other fields of `Run`.
        """
        training = {
            "width": self.width,
            "taus": self.taus,
            "source_sgd": self.source_sgd,
            "coupled": self.coupled,
            "backbone_share": self.backbone_share,
        }
        n_train = changes.get("n_train")
        sgds = {target: self.sgd_at(target, n_train) for _, target in self.pairs}
        return [
            Run(
                self.dataset,
                source,
                target,
                method,
                seed,
                source_shortcut=self.shortcut(source) if biased else None,
                **({"sgd": sgds[target], "tested": self._tested(source)} | training | changes),
            )
            for source, target in self.pairs
            for method in methods
            for seed in self.seeds
        ]

    @property
    def known_methods(self) -> tuple[str, ...]:
        """The methods, from a clean source without those that must know the shortcut."""
        return tuple(
            name for name in self.methods if self.source_ball or not METHODS[name].needs_knowledge
        )

    def trainings(self) -> list[Run]:
        """The runs that the parameters describe by themselves: every pair, size, method and seed.

        `sweeps/trainings.ipynb` trains them. Where the source is clean, methods that must know the
        shortcut are left out.
        """
        changes: dict[str, Any] = {
            "target_shortcut": usual(self.patch) if self.target_ball else None,
            "partitions": self.coupled.partitions if self.lengths else None,
        }
        return [
            run
            for size in self.n_train
            for run in self.runs(
                *self.known_methods, biased=self.source_ball, n_train=size, **changes
            )
        ]

    def _tested(self, source: str) -> Shortcut | None:
        """What is tested where the source is clean too; None for the ball on the last class."""
        usual_one = self.ball_class is None and self.patch == "ball"
        return None if usual_one else self.shortcut(source)

    def run(self, runs: Sequence[Run], keep_diverged: bool = False) -> pd.DataFrame:
        """Tidy rows of the runs; see `experiments.run`."""
        if self.store is None:
            raise ValueError("these settings have no store: take them from check(globals())")
        return experiments.run(runs, self.store, self.device, keep_diverged=keep_diverged)


class Tried:
    """What validation found so far; one for all sets of parameters of a sweep.

    passed: settings and runs that passed, without their seeds, rates and momenta, which decide
        nothing there.
    """

    def __init__(self) -> None:
        self.passed: set[Settings | Run] = set()
        self.load = lru_cache(maxsize=32)(load)  # `data.load`, whose tasks are asked for again
        self.most = cache(self._most)

    def _most(self, dataset: str, name: str, seed: int) -> int:
        """What n_train may be at most for a task."""
        task = self.load(dataset, name, seed)
        return len(task.y_train) if task.is_regression else int(task.y_train.bincount().min())

    def check(self, runs: Sequence[Run]) -> None:
        """`experiments.check` of the runs that are not like one that passed."""
        for run in runs:
            key = replace(
                run,
                seed=0,
                sgd=_at_any_rate(run.sgd),
                source_sgd=None if run.source_sgd is None else _at_any_rate(run.source_sgd),
            )
            if key not in self.passed:
                experiments.check([run])
                self.passed.add(key)


def _at_any_rate(sgd: Sgd) -> Sgd:
    return replace(sgd, lr=1.0, momentum=0.0)


def check(
    namespace: Mapping[str, Any],
    datasets: Sequence[str] | None = None,
    *,
    several_sizes: bool = False,
) -> Settings:
    """The settings of a notebook, with the store that its environment names.

    Prints one line that says which device is taken.

    Everything is checked by the code that will use it, on the real data, so that what is accepted
    here runs to the end.

    Args:
        namespace: `globals()`, right after the parameters cell and the imports.
        datasets: those that the notebook can run on; None for all data sets of images.
        several_sizes: whether `n_train` may list several sizes; None then stands for the data
            set's.

    Raises:
        ValueError: in one sentence that names the value and the rule, for a wrong value or a name
            that is not a parameter.
    """
    try:
        given = _given(namespace)
    except ValueError as error:
        raise ValueError(cut(str(error))) from error
    settings = validate(given, datasets, several_sizes=several_sizes)
    print(devices.said(given["device"]))
    out = PARAMETERS["out"].value(given)
    # last, so that a refused notebook leaves no folder behind
    return replace(settings, store=_store(root() / out))


def validate(
    given: Mapping[str, Any],
    datasets: Sequence[str] | None = None,
    *,
    several_sizes: bool = False,
    here: bool = True,
    tried: Tried | None = None,
) -> Settings:
    """The settings that some parameters make, without a store; nothing is written.

    Args:
        given: name -> value of every parameter that a notebook sets.
        datasets: as in `check`.
        several_sizes: as in `check`.
        here: whether this machine trains, so that it must have the device; else another one does,
            and the device is left as it is asked for.
        tried: what earlier calls found, so that thousands of sets take seconds.

    Raises:
        ValueError: as `check`.
    """
    try:
        settings = read(given, datasets, several_sizes=several_sizes)
        if here:
            settings = replace(settings, device=devices.resolve(settings.device))
        _try_out(settings, Tried() if tried is None else tried)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(cut(str(error))) from error
    return settings


def read(
    given: Mapping[str, Any],
    datasets: Sequence[str] | None = None,
    *,
    several_sizes: bool = False,
) -> Settings:
    """The settings that parameters describe, whose values are right one by one.

    Nothing is tried out on the data, which need not be there.

    Args:
        given: the parameters.
        datasets: as in `check`.
        several_sizes: as in `check`.

    Raises:
        ValueError: in one sentence that names the value and the rule.
    """
    _check_known(given)
    return _settings(given, datasets or image_datasets(), several_sizes)


def _store(folder: FilePath) -> Store:
    """The store in a folder, as a batch run's kernel is told: its database, and the task's key."""
    try:
        return Store(
            folder, os.environ.get("RTL_STORE") or None, os.environ.get("RTL_TASK") or None
        )
    except ValueError as error:
        raise ValueError(cut(str(error))) from error


def _settings(given: Mapping[str, Any], datasets: Sequence[str], several_sizes: bool) -> Settings:
    """Settings whose values are right one by one."""
    value = {name: parameter.value(given) for name, parameter in PARAMETERS.items()}
    name = value["dataset"]
    if name not in datasets:
        raise ValueError(f"dataset must be one of {', '.join(datasets)} here; got {shown(name)}")
    dataset = DATASETS[name]
    epochs = value["epochs"] or dataset.epochs
    source_epochs = value["source_epochs"] or dataset.source_epochs or epochs
    partitions = value["partitions"] or min(_PARTITIONS, epochs)
    sgd = Sgd(value["lr"], epochs, value["batch_size"], value["momentum"])
    of_transfer = dict(dataset.sgd) | {"averaged": value["averaged"]}
    of_source = {"epochs": source_epochs}
    of_source |= {
        name: value[f"source_{name}"]
        for name in ("lr", "momentum")
        if value[f"source_{name}"] is not None
    }
    return Settings(
        dataset=name,
        pairs=_pairs(name, value["source"], value["target"]),
        seeds=value["seeds"],
        sgd=replace(sgd, **of_transfer),
        source_sgd=replace(sgd, **(dict(dataset.source_sgd) | of_source)),
        taus=value["taus"],
        width=_width_of(dataset, value["width"]),
        n_train=_sizes_of(dataset, given.get("n_train"), value["n_train"], several_sizes),
        device=value["device"],
        ball_class=value["ball_class"],
        points=value["points"],
        methods=value["methods"],
        coupled=Coupled(value["iterations"], value["block"], value["blocks"], partitions),
        steps=value["steps"],
        backbone_share=value["backbone_share"],
        source_ball=value["source_ball"],
        target_ball=value["target_ball"],
        patch=value["patch"],
        lengths=value["lengths"],
    )


def _pairs(
    dataset: str, source: list[str] | None, target: list[str] | None
) -> tuple[tuple[str, str], ...]:
    if source is None and target is None:
        return DATASETS[dataset].pairs
    if source is None or target is None or len(source) != len(target):
        raise ValueError(
            "source and target must be two names, two lists of one length, or both None; "
            f"got {shown(source)} and {shown(target)}"
        )
    for name in (*source, *target):
        check_task(dataset, name)
    pairs = tuple(zip(source, target, strict=True))
    for a, b in pairs:
        if a == b:
            raise ValueError(f"source and target must differ; both are {a!r}")
    if len(set(pairs)) != len(pairs):
        raise ValueError(f"every pair of source and target must come once; got {shown(pairs)}")
    return pairs


def _width_of(dataset: DataSet, width: str | tuple[int, ...] | None) -> str | tuple[int, ...]:
    if width is None:
        return dataset.width
    images = NETWORKS[dataset.width].images
    known = [name for name, network in NETWORKS.items() if network.images == images]
    if width not in known and (isinstance(width, str) or not images):
        four = ", or four whole numbers of channels" if images else ""
        raise ValueError(
            f"width must be one of {', '.join(known)}{four} for {dataset.title}; got {shown(width)}"
        )
    return width


def _sizes_of(
    dataset: DataSet, given: Any, sizes: tuple[int | None, ...], several: bool
) -> tuple[int | None, ...]:
    if given is None:
        return dataset.n_train if several else (None,)
    if len(sizes) > 1 and not several:
        raise ValueError(
            "n_train must be one number of examples, or None (all), in this notebook; "
            f"got {shown(given)}"
        )
    return sizes


def _given(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a namespace sets.

    In a live kernel every name of the notebook is there from the second run on. The kernel's
    history says which of them stand in the parameters cell.
    """
    cells = namespace.get("In")
    if isinstance(cells, list) and "get_ipython" in namespace:
        names = _assigned_in_parameters_cells(cells)
        if names:
            return {name: namespace[name] for name in names if name in namespace}
    return {name: value for name, value in namespace.items() if _is_parameter(name, value)}


def _assigned_in_parameters_cells(cells: Sequence[str]) -> list[str]:
    """Names that the latest parameters cell sets, and those that papermill injects after it.

    Raises:
        ValueError: for an injected name that the parameters cell does not have.
    """
    own: list[str] = []
    injected: list[str] = []
    for cell in cells:
        assigned = _assigned(cell)
        if cell.lstrip().startswith("# Parameters"):  # what papermill injects
            injected = assigned
        elif {"dataset", "seeds", "out"} <= set(assigned):
            own = assigned
            injected = []
    unknown = sorted(set(injected) - set(own))
    if own and unknown:
        names = ", ".join(unknown)
        raise ValueError(f"{names} is not a parameter of this notebook; it has {', '.join(own)}")
    return own


def _assigned(cell: str) -> list[str]:
    """Names that a cell of nothing but `name = value` sets; none for another cell."""
    try:
        statements = ast.parse(cell).body
    except (SyntaxError, ValueError):
        return []
    names = []
    for statement in statements:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            return []
        if not isinstance(target, ast.Name):
            return []
        names.append(target.id)
    return names


def _is_parameter(name: str, value: object) -> bool:
    of_python = (ModuleType, FunctionType, BuiltinFunctionType, type)
    of_kernel = name.startswith("_") or name in ("In", "Out")
    return not (of_kernel or isinstance(value, of_python) or callable(value))


def _check_known(given: Mapping[str, Any]) -> None:
    lacking = [name for name, p in PARAMETERS.items() if p.needed and name not in given]
    if lacking:
        has = ", ".join(given) or "nothing"
        raise ValueError(f"the parameters cell must set {', '.join(lacking)}; it sets {has}")
    unknown = sorted(set(given) - set(PARAMETERS))
    if unknown:
        has = ", ".join(name for name in PARAMETERS if name in given)
        raise ValueError(f"{', '.join(unknown)} is not a parameter of this notebook; it has {has}")


def _try_out(settings: Settings, tried: Tried) -> None:
    """Validate the settings on the real data: raise here what training would raise later.

    A rate and a momentum were checked one by one, and how many examples a task has does not depend
    on the seed, so settings that differ in these alone are tried once.
    """
    key = replace(
        settings,
        seeds=(),
        sgd=_at_any_rate(settings.sgd),
        source_sgd=_at_any_rate(settings.source_sgd),
    )
    if key not in tried.passed:
        _try_epochs(settings)
        _try_pairs(settings, tried)
        _try_sizes(settings, tried)
        tried.passed.add(key)
    _try_seeds(settings, tried)


def _try_seeds(settings: Settings, tried: Tried) -> None:
    """Validate n_train with every seed: a split that it draws may have another smallest class."""
    for _, target in settings.pairs:
        for size in settings.n_train:
            if size is None:
                continue
            for seed in settings.seeds:
                if size > tried.most(settings.dataset, target, seed):
                    load(settings.dataset, target, seed, size)  # says so


def _try_epochs(settings: Settings) -> None:
    """Validate tau, partitions and steps against the epochs of every transfer."""
    for _, target in settings.pairs:
        for size in settings.n_train:
            epochs = settings.sgd_at(target, size).epochs
            needed = max(len(settings.taus), settings.coupled.partitions)
            if settings.steps is not None and epochs < needed:
                raise ValueError(
                    f"steps must make {needed} epochs or more, one for each value of tau and for "
                    f"each partition; got {settings.steps}, which makes {epochs} on {target!r}"
                )
            check_taus(settings.taus, epochs)
            check_partitions(settings.coupled.partitions, epochs)


def _try_pairs(settings: Settings, tried: Tried) -> None:
    """Validate the backbones, the number of points and the shortcut's class."""
    seed = settings.seeds[0]
    for source, target in settings.pairs:
        task = tried.load(settings.dataset, source, seed)
        net = build(task, settings.width, seed=0)
        Replica(net, Path(task), CONSTANT, 0, settings.source_sgd)
        most = min(len(task.y_val), len(tried.load(settings.dataset, target, seed).y_val))
        if settings.points > most:
            raise ValueError(
                f"points must be at most the {most:,} validation examples; got {settings.points}"
            )
        if settings.ball_class is not None:
            task.class_index(settings.ball_class)


def _try_sizes(settings: Settings, tried: Tried) -> None:
    """Validate every number of target examples, and every method at it."""
    first = settings.seeds[0]
    for _, target in settings.pairs:
        for size in settings.n_train:
            task = tried.load(settings.dataset, target, first, size)
            if settings.sgd.batch_size > len(task.y_train):
                have = f"{len(task.y_train)} training examples of {target!r} at n_train = {size}"
                raise ValueError(
                    f"batch_size must be at most the {have}; got {settings.sgd.batch_size}"
                )
            settings.coupled.block_of(len(task.y_train))
    one = replace(settings, seeds=(first,))
    images = bool(class_names(settings.dataset, settings.pairs[0][0]))
    chosen = dict.fromkeys(["scratch", "ft", "ut", *settings.known_methods])
    for size in settings.n_train:
        tried.check(one.runs(*chosen, biased=images and settings.source_ball, n_train=size))
    if settings.lengths:  # not every method has a path to be measured
        tried.check(one.trainings())
