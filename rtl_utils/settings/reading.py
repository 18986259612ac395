"""From a notebook's names to its settings, in one call."""

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from rtl_utils import devices
from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS, DataSet, check_task, image_datasets
from rtl_utils.folders import root
from rtl_utils.messages import cut, shown
from rtl_utils.models import NETWORKS
from rtl_utils.settings.parameters import PARAMETERS
from rtl_utils.settings.records import Settings
from rtl_utils.settings.trials import Tried, try_out
from rtl_utils.store import Store
from rtl_utils.training import Sgd

_PARTITIONS = 5  # checkpoints of a length, where a notebook does not say how many


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
        try_out(settings, Tried() if tried is None else tried)
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
