"""`Run`: one training, fully described; its tasks, and the key under which it is stored.

The key is a hash of what the run reads and of the version numbers of the numerics that it uses. A
field that its method does not read, a new method, a rename or a moved file changes no key. A field
that is off (None, 0, False, empty) is left out, and so is a version that was never raised; so a new
field that is off by default, or a new room with a version, keeps every key. Data that are not what
their data set promises are read by their digest, so their runs have keys of their own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

from rtl_utils import couplings, heads, lengths, probing, refits, training
from rtl_utils.coupled import Coupled
from rtl_utils.data import (
    DATASETS,
    PATCHES,
    DataSet,
    Patch,
    Shortcut,
    Task,
    check_task,
    disjoint,
    load,
    plant,
    subset,
)
from rtl_utils.messages import shown
from rtl_utils.methods import METHODS, Knowledge, Method, Setup
from rtl_utils.models import NETWORKS
from rtl_utils.paths import BLENDS
from rtl_utils.schedules import SCHEDULES
from rtl_utils.training import Sgd

BACKBONE = "backbone"  # the method of a run that trains on the source
HEADS = ("shared", "disjoint")
_COUNTER_EXAMPLES = 0.1  # share of the images of every other class that carry the shortcut


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        dataset: a name of DATASETS.
        source: task to transfer from.
        target: task to transfer to; None for a backbone, which trains on the source.
        method: "backbone" or a name of METHODS.
        seed: of everything that is drawn.
        source_shortcut: on the source's images; None for a clean source.
        target_shortcut: on the target's images; None for a clean target.
        n_train: target images per class; None for all.
        head: "shared", class k of source and target is one output (the paper); or "disjoint", every
            class has its own.
        width: of the network, see `models.build`.
        taus: the grid of tau.
        sgd: how the transfer is trained.
        source_sgd: how the backbone was trained; None for the same as this run.
        coupled: for an iterated coupling.
        partitions: as in `methods.Setup`, for the information lengths.
        backbone_share: as in `methods.Setup`, of a method that averages with the backbone.
        tested: the shortcut whose effect on the trained network is measured; None for the source's
            own or, where the source is clean, the usual ball of the source's last class.
    """

    dataset: str
    source: str
    target: str | None
    method: str
    seed: int
    source_shortcut: Shortcut | None = None
    target_shortcut: Shortcut | None = None
    n_train: int | None = None
    head: str = "shared"
    width: str | tuple[int, ...] = "small"
    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    sgd: Sgd = Sgd()
    source_sgd: Sgd | None = None
    coupled: Coupled = Coupled()
    partitions: int | None = None
    backbone_share: float | None = None
    tested: Shortcut | None = None

    def __post_init__(self) -> None:
        for name in ("taus", "width"):  # a list has no hash
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)

    @property
    def key(self) -> str:
        """The run's name in the store: 16 hexadecimal digits."""
        return _key(self)

    @property
    def setup(self) -> Setup:
        """How its transfer is trained."""
        return Setup(
            self.sgd,
            self.taus,
            self.width,
            self.coupled,
            knowledge(self),
            self.partitions,
            self.backbone_share,
        )

    @property
    def needs_backbone(self) -> bool:
        """Whether it starts from the weights of another run."""
        return self.method in METHODS and METHODS[self.method].start == "backbone"

    @property
    def shortcut_label(self) -> int | None:
        """Label of the source class that carries the shortcut; None for a clean source."""
        return self._label(self.source_shortcut)

    @property
    def test(self) -> tuple[Shortcut, int] | None:
        """The shortcut whose effect is measured, and the label of its class in the source.

        A clean source has one too: what the network does there is the reference for what a biased
        source adds. None for a regression, and for a shortcut that belongs to no class.
        """
        names = class_names(self.dataset, self.source)
        usual = Shortcut(classes=names[-1:]) if names else None
        shortcut = self.tested or self.source_shortcut or usual
        label = self._label(shortcut)
        return None if shortcut is None or label is None else (shortcut, label)

    def _label(self, shortcut: Shortcut | None) -> int | None:
        if shortcut is None or shortcut.classes is None:
            return None
        return class_names(self.dataset, self.source).index(shortcut.classes[0])

    def backbone(self) -> "Run":
        """The run that trains this run's backbone: the same source, seed and settings."""
        return Run(
            self.dataset,
            self.source,
            None,
            BACKBONE,
            self.seed,
            source_shortcut=self.source_shortcut,
            head=self.head,
            width=self.width,
            taus=(1.0,),
            sgd=self.source_sgd or self.sgd,
            tested=self.tested,
        )

    @property
    def in_words(self) -> str:
        """As messages name it, such as "ft on flowers, seed 0"."""
        return f"{self.method} on {self.target or self.source}, seed {self.seed}"

    def columns(self) -> dict[str, Any]:
        """The run as one flat row of a table."""
        flat = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("sgd", "source_sgd", "coupled"):
            del flat[name]
        for name in ("source_shortcut", "target_shortcut", "tested"):
            flat[name] = None if flat[name] is None else str(flat[name])
        flat["width"] = self.width if isinstance(self.width, str) else _spaced(self.width)
        flat["taus"] = _spaced(self.taus)
        source_epochs = (self.source_sgd or self.sgd).epochs
        coupled = {f"coupled_{name}": value for name, value in asdict(self.coupled).items()}
        return flat | asdict(self.sgd) | {"source_epochs": source_epochs} | coupled

    @staticmethod
    def of(spec: Mapping[str, Any]) -> "Run":
        """The run that `dataclasses.asdict` turned into nested dictionaries and JSON into lists."""
        values = dict(spec)
        for name, record in _NESTED.items():
            if values.get(name) is not None:
                made = {k: _tuple(v) for k, v in values[name].items()}
                values[name] = record(**made)
        return Run(**{name: _tuple(value) for name, value in values.items()})


_NESTED: dict[str, type] = {
    "source_shortcut": Shortcut,
    "target_shortcut": Shortcut,
    "tested": Shortcut,
    "sgd": Sgd,
    "source_sgd": Sgd,
    "coupled": Coupled,
}


def reads(run: Run) -> dict[str, Any]:
    """What decides a run's numbers: the fields that its method reads, and the versions it uses.

    Returns:
        Nested dictionaries of JSON values; its hash is the run's key. "data" holds the digest of
        each task that is not what its data set promises, see `DataSet.digest`.
    """
    contents = _other_contents(run)
    return _reads_of(run) | ({"data": contents} if contents else {})


def tasks(run: Run) -> tuple[Task, Task]:
    """Source and target of a run, planted and standardised as it trains on them.

    For a backbone both are the source.
    """
    shortcuts = (run.source_shortcut, run.target_shortcut)
    return _tasks(
        (DATASETS[run.dataset], *(PATCHES[s.patch] for s in shortcuts if s is not None)),
        run.dataset,
        run.source,
        run.target,
        run.seed,
        run.source_shortcut,
        run.target_shortcut,
        run.n_train,
        run.head,
        tuple(map(DATASETS[run.dataset].digest, filter(None, (run.source, run.target)))),
    )


def clean_tasks(run: Run) -> tuple[Task, Task]:
    """Source and target of a run without any shortcut."""
    return tasks(replace(run, source_shortcut=None, target_shortcut=None))


def target_views(run: Run) -> dict[str, Task]:
    """Further views of the target on which the network is measured; empty for most data sets."""
    views = DATASETS[run.dataset].views
    if views is None or run.target is None:
        return {}
    _, *others = views(run.seed).items()
    return dict(others)


def knowledge(run: Run) -> Knowledge | None:
    """What there is to know about the run's shortcut; None if there is none.

    The spread source carries about as many shortcuts as the source did; where the target carries it
    anyway, there are no counter-examples to add.
    """
    shortcut, label = run.source_shortcut, run.shortcut_label
    if shortcut is None or label is None:
        return None
    source, target = tasks(replace(run, source_shortcut=None))
    classes = source.y_train.unique().tolist()
    names = tuple(source.class_names[k] for k in classes)
    everywhere = replace(shortcut, classes=names, probability=1 / len(classes))
    spread = plant(source, everywhere, run.seed, splits=("train",))
    if run.target_shortcut is not None:
        return Knowledge(spread, target)
    others = tuple(target.class_names[k] for k in target.y_train.unique().tolist() if k != label)
    few = replace(shortcut, classes=others, probability=_COUNTER_EXAMPLES)
    return Knowledge(spread, plant(target, few, run.seed, splits=("train",)))


def check_fields(run: Run) -> None:
    """Raises ValueError for a name that does not exist, before any data are loaded."""
    if run.method not in (BACKBONE, *METHODS):
        names = ", ".join((BACKBONE, *METHODS))
        raise ValueError(f"method must be one of {names}; got {run.method!r}")
    if type(run.seed) is not int or run.seed < 0:
        raise ValueError(f"seed must be a whole number, 0 or more; got {shown(run.seed)}")
    if run.head not in HEADS:
        raise ValueError(f"head must be 'shared' or 'disjoint'; got {run.head!r}")
    for name in (run.source, run.target):
        if name is not None:
            check_task(run.dataset, name)
    if (run.method == BACKBONE) != (run.target is None):
        raise ValueError(
            "target must be None for a backbone, which trains on the source, and a task for every "
            f"other method; got {run.target!r} for {run.method!r}"
        )
    pair = (run.source, run.target)
    dataset = DATASETS[run.dataset]
    if dataset.views is not None and run.target is not None and pair not in dataset.pairs:
        pairs = ", ".join(f"{a!r} to {b!r}" for a, b in dataset.pairs)
        raise ValueError(f"{run.dataset} is transferred from {pairs} only; got {pair}")
    _network_version(run.width)
    planted = (
        (run.source, run.source_shortcut),
        (run.target, run.target_shortcut),
        (run.source, run.tested),
    )
    for end, shortcut in planted:
        known = class_names(run.dataset, end) if end is not None else ()
        for name in (shortcut.classes if shortcut is not None else None) or ():
            if name not in known:
                names = ", ".join(known) or "no classes"
                raise ValueError(f"class {name!r} is not in task {end!r}; it has {names}")
    informed = run.method != BACKBONE and METHODS[run.method].needs_knowledge
    if informed and run.shortcut_label is None:
        raise ValueError(
            f"method {run.method!r} must know where the shortcut is, so source_shortcut must name "
            f"its classes; got {run.source_shortcut}"
        )


def class_names(dataset: str, task: str) -> tuple[str, ...]:
    """Names of a task's classes, without loading it; empty for a regression."""
    check_task(dataset, task)
    return tuple(DATASETS[dataset].tasks[task])


def _key(run: Run) -> str:
    check_fields(run)
    text = json.dumps(reads(run), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reads_of(run: Run) -> dict[str, Any]:
    """As `reads`, without the data: those of a backbone are among those of its transfers."""
    head = None if run.head == "shared" else [run.head, run.source, run.target]
    what: dict[str, Any] = {
        "dataset": run.dataset,
        "seed": run.seed,
        "head": head,
        "width": run.width,
        "sgd": _on(run.sgd),
    }
    versions = {
        "dataset": DATASETS[run.dataset].version,
        "network": _network_version(run.width),
        "training": training.VERSION,
        "probing": probing.VERSION,
    }
    pulled = run.sgd.l2_sp or (run.method != BACKBONE and METHODS[run.method].l2_sp)
    if pulled:
        versions["pull"] = training.PULL_VERSION
    if run.method == BACKBONE:
        what |= {"method": BACKBONE, "task": run.source, "shortcut": _shortcut(run.source_shortcut)}
        versions["schedule"] = SCHEDULES["constant"].version
    else:
        what |= _transfer_reads(run, METHODS[run.method], versions)
    if DATASETS[run.dataset].features is not None:
        versions["lime"] = probing.LIME_VERSION
    if run.test is not None:
        shortcut, label = run.test
        what["measured"] = [_shortcut(shortcut.everywhere), label]
    raised = {name: version for name, version in versions.items() if version > 1}
    what["versions"] = raised or None
    return {name: value for name, value in what.items() if value is not None}


def _transfer_reads(run: Run, method: Method, versions: dict[str, int]) -> dict[str, Any]:
    """What a transfer reads beside what every run does; adds the versions that it uses."""
    schedule = SCHEDULES[method.schedule]
    versions |= {"method": method.version, "schedule": schedule.version}
    what: dict[str, Any] = {
        "method": {name: v for name, v in method.choices.items() if name != "version"},
        "task": run.target,
        "shortcut": _shortcut(run.target_shortcut),
        "n_train": run.n_train,
        "taus": [float(tau) for tau in run.taus] if schedule.reads_taus else None,
    }
    used = {
        "heads": (method.fits_head, heads.VERSION),
        "refits": (method.refit, refits.VERSION),
        "windows": (method.windows, training.WINDOW_VERSION),
    }
    versions |= {name: version for name, (is_used, version) in used.items() if is_used}
    if not method.takes_steps:
        what["sgd"] = None
    if method.backbone_share and run.backbone_share is not None:
        what["method"] |= {"backbone_share": float(run.backbone_share)}
    if method.start == "backbone":
        what["backbone"] = _reads_of(run.backbone())
    elif method.mixes:  # no backbone, but a path from the source
        what["source"] = [run.source, _shortcut(run.source_shortcut)]
    if method.blend is not None:  # partners are drawn, by the product coupling or another
        versions["blend"] = BLENDS[method.blend].version
        versions["couplings"] = couplings.VERSION
    iterated = method.coupling == "iterated"  # it measures the pairs of its own blocks
    if iterated:
        what["coupled"] = _on(run.coupled)
    elif run.partitions is not None:
        what["partitions"] = [run.partitions, run.source]
        if not method.mixes:
            versions["path_length"] = lengths.PATH_VERSION
    if iterated or run.partitions is not None:
        versions["lengths"] = lengths.VERSION
    return what


def _other_contents(run: Run) -> dict[str, str]:
    """Digest of each task whose data the run reads, if they are not what the data set promises."""
    method = None if run.method == BACKBONE else METHODS[run.method]
    trained_on = method is None or method.start == "backbone" or method.mixes
    source = run.source if trained_on or run.partitions is not None else None
    target = None if method is None else run.target
    digest = DATASETS[run.dataset].digest
    found = {name: digest(name) for name in (source, target) if name is not None}
    return {name: contents for name, contents in found.items() if contents is not None}


def _on(record: Any) -> dict[str, Any]:
    """The fields of a record that are on; 1 and 1.0 are the same learning rate."""
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    real = {f.name for f in fields(record) if f.type is float}
    on: dict[str, Any] = {}
    on |= {name: float(v) if name in real else v for name, v in values.items() if v}
    if "place" in on:
        on["place"] = [float(part) for part in on["place"]]
    return on


def _shortcut(shortcut: Shortcut | None) -> dict[str, Any] | None:
    if shortcut is None:
        return None
    version = PATCHES[shortcut.patch].version
    return _on(shortcut) | ({"version": version} if version > 1 else {})


def _network_version(width: str | tuple[int, ...]) -> int:
    name = width if isinstance(width, str) else "small"  # four stage widths are its layout
    if name not in NETWORKS:
        raise ValueError(
            f"width must be one of {', '.join(NETWORKS)}, or four numbers of channels; "
            f"got {width!r}"
        )
    return NETWORKS[name].version


@lru_cache(maxsize=64)  # runs on the same data share its tensors
def _tasks(
    records: tuple[DataSet | Patch, ...],  # so that a replaced record is not served from the cache
    dataset: str,
    source: str,
    target: str | None,
    seed: int,
    source_shortcut: Shortcut | None,
    target_shortcut: Shortcut | None,
    n_train: int | None,
    head: str,
    contents: tuple[str | None, ...],  # so that other data are not served from the cache
) -> tuple[Task, Task]:
    start = load(dataset, source, seed)
    if source_shortcut is not None:
        start = plant(start, source_shortcut, seed)
    if target is None:
        end = start
    else:
        end = _target(dataset, target, seed, n_train)
        if target_shortcut is not None:
            end = plant(end, target_shortcut, seed)
    if head == "disjoint":
        start, end = disjoint(start, end)
    return start, start if target is None else end


def _target(dataset: str, name: str, seed: int, n_train: int | None) -> Task:
    views = DATASETS[dataset].views
    if views is None:
        return load(dataset, name, seed, n_train)
    first, *_ = views(seed).values()
    return first if n_train is None else subset(first, n_train, seed)


def _spaced(values: tuple[Any, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
