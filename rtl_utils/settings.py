"""The parameters of a notebook, checked by one call before anything is trained."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rtl_utils.coupled import Coupled
from rtl_utils.experiments import Run
from rtl_utils.lengths import check_partitions
from rtl_utils.methods import METHODS
from rtl_utils.models import CONVNET_WIDTHS, MLP_WIDTHS, build
from rtl_utils.paths import check_taus
from rtl_utils.plotting import TITLES
from rtl_utils.results import Store
from rtl_utils.tasks import NAMES, ROOT, load
from rtl_utils.training import Sgd, check_device

# How the synthetic backbone is trained: the lasso on its first layer is what takes it below a straight line (notebook 01).
SYNTHETIC_SOURCE = Sgd(lr=0.05, batch_size=256, l1=5e-4, cosine=True)

# What None stands for, a data set. The pairs are the paper's (tables 1-3); epochs of the images are the paper's on CIFAR-100.
DEFAULTS = {
    "synthetic": {"pairs": (("source", "target"),), "epochs": 40, "source_epochs": 120, "width": "plain", "n_train": (None,)},
    "digits": {"pairs": (("digits-0-4", "digits-5-9"),), "epochs": 15, "width": "small", "n_train": (20, None)},
    "cifar100": {
        "pairs": (("vehicles-1", "vehicles-2"), ("herbivores", "flowers"), ("carnivores", "flowers")),
        "epochs": 50,
        "width": "small",
        "n_train": (50, None),
    },
}


@dataclass(frozen=True)
class Settings:
    """Checked parameters; the fields are the names that a notebook's parameters cell may use, and what they mean stands there.

    pairs: (source, target) names, from `source` and `target`, each a name, a list of names, or None for the data set's own pairs.
    """

    dataset: str
    seeds: tuple[int, ...]
    sgd: Sgd
    source_sgd: Sgd | None
    taus: tuple[float, ...]
    width: str | tuple[int, ...]
    device: str
    pairs: tuple[tuple[str, str], ...]
    n_train: tuple[int | None, ...]
    ball_class: str | None
    points: int
    methods: tuple[str, ...] = ()
    coupled: Coupled = Coupled()
    store: Store | None = None

    @property
    def title(self) -> str:
        """The data set's name as figures write it."""
        return TITLES[self.dataset]

    def runs(self, *methods: str, ball: bool = False, **changes) -> list[Run]:
        """One run for every pair, seed and method; with `ball`, the source's ball class carries it. changes: other fields of Run."""
        return [
            Run(self.dataset, source, target, method, seed, source_ball=self.ball_of(source) if ball else None, **(self._training | changes))
            for source, target in self.pairs
            for method in methods
            for seed in self.seeds
        ]

    @property
    def _training(self) -> dict:
        return {"width": self.width, "taus": self.taus, "sgd": self.sgd, "source_sgd": self.source_sgd, "coupled": self.coupled}

    def ball_of(self, source: str) -> str:
        """The class of the source task that carries the ball: `ball_class`, or the last one (the paper's kangaroo)."""
        return self.ball_class or load(self.dataset, source, self.seeds[0]).class_names[-1]


_DEFAULT_VALUES = {
    "source": None,
    "target": None,
    "n_train": None,
    "ball_class": None,
    "points": 100,
    "width": None,
    "epochs": None,
    "source_epochs": None,
    "methods": (),
    "iterations": 4,
    "block": None,
    "blocks": None,
    "partitions": 5,
}
_PARAMETERS = ("dataset", "seeds", "taus", "batch_size", "lr", "momentum", "device", "out", *_DEFAULT_VALUES)
_OF_THE_KERNEL = {"In", "Out", "exit", "quit", "get_ipython", "open"}


def check(namespace: Mapping, datasets: Sequence[str] = ("digits", "cifar100")) -> Settings:
    """The settings of a notebook: pass `globals()` right after the parameters cell and the imports.

    datasets: those that the notebook can run on. Values are checked by the code that will use them, on the real data.
    Raises ValueError, in one sentence that names the value and the rule, for a wrong value or a name that is not a parameter.
    """
    given = {name: value for name, value in namespace.items() if _is_parameter(name, value)}
    lacking = [name for name in _PARAMETERS if name not in given and name not in _DEFAULT_VALUES]
    if lacking:
        raise ValueError(f"the parameters cell must set {', '.join(lacking)}; it sets {', '.join(given) or 'nothing'}")
    unknown = sorted(set(given) - set(_PARAMETERS))
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} is not a parameter of this notebook; it has {', '.join(name for name in _PARAMETERS if name in given)}"
        )
    dataset = given["dataset"]
    if dataset not in datasets:
        raise ValueError(f"dataset must be one of {', '.join(datasets)} here; got {dataset!r}")
    defaults, value = DEFAULTS[dataset], _DEFAULT_VALUES | given
    epochs = defaults["epochs"] if value["epochs"] is None else value["epochs"]
    source_epochs = defaults.get("source_epochs", epochs) if value["source_epochs"] is None else value["source_epochs"]
    if type(value["points"]) is not int or value["points"] < 1:
        raise ValueError(f"points must be a whole number, 1 or more; got {value['points']!r}")
    sgd = Sgd(value["lr"], epochs, value["batch_size"], value["momentum"])
    settings = Settings(
        dataset=dataset,
        seeds=_seeds(value["seeds"]),
        sgd=replace(sgd, cosine=dataset == "synthetic"),
        source_sgd=replace(SYNTHETIC_SOURCE if dataset == "synthetic" else sgd, epochs=source_epochs),
        taus=_taus(value["taus"]),
        width=defaults["width"] if value["width"] is None else _width(value["width"], dataset),
        device=value["device"],
        pairs=_pairs(dataset, value["source"], value["target"]),
        n_train=_sizes(value["n_train"], defaults["n_train"]),
        ball_class=value["ball_class"],
        points=value["points"],
        methods=_methods(value["methods"]),
        coupled=Coupled(value["iterations"], value["block"], value["blocks"], value["partitions"]),
    )
    _try_out(settings)
    if {"partitions", "iterations"} & set(given) or "ct-iterated" in settings.methods:
        check_partitions(value["partitions"], epochs)
    if type(value["out"]) is not str or not value["out"]:
        raise ValueError(f"out must be the name of a folder; got {value['out']!r}")
    return replace(settings, store=Store(ROOT / value["out"]))  # last: a refused notebook leaves no folder behind


def _is_parameter(name: str, value: object) -> bool:
    imported = isinstance(value, types.ModuleType | types.FunctionType | type | types.BuiltinFunctionType) or callable(value)
    return not (name.startswith("_") or name in _OF_THE_KERNEL or imported)


def _try_out(settings: Settings) -> None:
    """Meet every rule that training would meet, before training."""
    check_device(settings.device)
    check_taus(settings.taus, settings.sgd.epochs)
    for source, target in settings.pairs:
        for n_train in settings.n_train:
            task = load(settings.dataset, target, settings.seeds[0], n_train)
            if settings.sgd.batch_size > len(task.y_train):
                have = f"{len(task.y_train)} training examples of {target!r} at n_train = {n_train}"
                raise ValueError(f"batch_size must be at most the {have}; got {settings.sgd.batch_size}")
            settings.coupled.sizes(len(task.y_train))
        if settings.ball_class is not None:
            load(settings.dataset, source, settings.seeds[0]).class_index(settings.ball_class)
    build(task, settings.width, seed=0)


def _pairs(dataset: str, source, target) -> tuple[tuple[str, str], ...]:
    if source is None and target is None:
        return DEFAULTS[dataset]["pairs"]
    sources, targets = ([name] if isinstance(name, str) else name for name in (source, target))
    if not isinstance(sources, list | tuple) or not isinstance(targets, list | tuple) or len(sources) != len(targets) or not sources:
        raise ValueError(f"source and target must be two names, two lists of one length, or both None; got {source!r} and {target!r}")
    for name in (*sources, *targets):
        if name not in NAMES[dataset]:
            raise ValueError(f"{dataset} has no task {name!r}; it has {', '.join(NAMES[dataset])}")
    for a, b in zip(sources, targets, strict=True):
        if a == b:
            raise ValueError(f"source and target must differ; both are {a!r}")
    return tuple(zip(sources, targets, strict=True))


def _methods(names) -> tuple[str, ...]:
    if names is None:
        return tuple(METHODS)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name in METHODS for name in names):
        raise ValueError(f"methods must be None (all) or a list of names among {', '.join(METHODS)}; got {names!r}")
    return tuple(names)


def _seeds(seeds) -> tuple[int, ...]:
    if not isinstance(seeds, list | tuple) or not seeds or not all(type(s) is int and 0 <= s < 2**63 for s in seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be a list of different whole numbers in [0, 2^63); got {seeds!r}")
    return tuple(seeds)


def _taus(values) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or not all(type(v) in (int, float) and 0 <= v <= 1 for v in values):
        raise ValueError(f"taus must be a list of numbers in [0, 1], rising to 1; got {values!r}")
    return tuple(float(v) for v in values)


def _width(width, dataset: str) -> str | tuple[int, ...]:
    known = MLP_WIDTHS if dataset == "synthetic" else CONVNET_WIDTHS
    stages = dataset != "synthetic" and isinstance(width, list | tuple) and len(width) == 4 and all(type(w) is int and w > 0 for w in width)
    if not stages and not (isinstance(width, str) and width in known):
        four = "" if dataset == "synthetic" else ", or four positive numbers of channels"
        raise ValueError(f"width must be one of {', '.join(known)}{four} for {dataset}; got {width!r}")
    return tuple(width) if stages else width


def _sizes(n_train, default) -> tuple[int | None, ...]:
    sizes = default if n_train is None else tuple(n_train) if isinstance(n_train, list | tuple) else (n_train,)
    if not sizes or not all(n is None or (type(n) is int and n >= 1) for n in sizes):
        raise ValueError(f"n_train must be None (all), images a class, or a list of them; got {n_train!r}")
    return sizes
