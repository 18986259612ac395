"""Transfer methods as records: a start, a path of tasks, a schedule of tau, and what is trained.

A new method is a new record in METHODS, and nothing else.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch

from rtl_utils import devices
from rtl_utils.coupled import Coupled, Iteration, Stages, iterated, transported
from rtl_utils.data import Task, hold_out
from rtl_utils.heads import converge_head
from rtl_utils.lengths import PATH_EXAMPLES, Lengths, PairLength, PathLength, check_partitions
from rtl_utils.models import Net, build, estimate_statistics, rescale
from rtl_utils.paths import Path
from rtl_utils.randomness import generator
from rtl_utils.refits import refit
from rtl_utils.schedules import CONSTANT, schedule
from rtl_utils.training import History, Replica, Sgd, Window, fit, no_room, one_thread

_APPEARANCE = ("label", "colour", "marker", "reference", "knows")  # fields that decide no number
_MEASURED_PAIRS = 500  # random pairs over which an information length is averaged


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Args:
        label: its name in figures and tables.
        colour: in every figure; told apart by colour-blind readers where it can be.
        marker: in every figure, in matplotlib's notation.
        reference: who described it.
        start: "fresh" weights, or the "backbone".
        blend: how source and target mix along the path, a name of BLENDS; None for the target
            alone, "symmetric" for the target with itself.
        coupling: how they are paired: "independent", by optimal transport of the backbone's
            "features", or "iterated" (`Coupled`).
        schedule: of tau, a name of SCHEDULES.
        trainable: "all"; the "head", by SGD; the "converged head" (`heads.converge_head`), alone
            or "converged head, then all"; or "nothing".
        statistics: whether the body's BatchNorm statistics are "updated" or stay "frozen".
        fade: of the labels, see `Path`.
        l2_sp: pull towards the backbone, see `Sgd`.
        backbone_share: weight of the backbone in the average with the trained weights that is taken
            afterwards; 0 for none, and in place of it may stand `Setup.backbone_share`.
        refit: smoothing of `refits.refit` at tau = 1, which comes before the training; 0 for none.
        rescaled: whether each filter then gets the norm of a fresh one (`models.rescale`).
        windows: sizes of adversarial windows on copies of training images, see `Replica`.
        steady: weight of the change of the answer between both, likewise.
        held_out: share of the target's training examples that an adaptive schedule looks at; they
            are not trained on.
        decorrelated: the source's shortcut moves to images of every class as tau grows.
        counter_examples: a few target images carry the shortcut.
        knows: what a user must know of the shortcut.
        version: raised when the method's numbers change, so that stored runs are not mistaken for
            new ones.
    """

    label: str
    colour: str
    marker: str
    reference: str = ""
    start: str = "backbone"
    blend: str | None = None
    coupling: str = "independent"
    schedule: str = "constant"
    trainable: str = "all"
    statistics: str = "updated"
    fade: float = 1.0
    l2_sp: float = 0.0
    backbone_share: float = 0.0
    refit: float = 0.0
    rescaled: bool = False
    windows: tuple[Window, ...] = ()
    steady: float = 0.0
    held_out: float = 0.0
    decorrelated: bool = False
    counter_examples: bool = False
    knows: str = "nothing"
    version: int = 1

    @property
    def needs_knowledge(self) -> bool:
        """Whether it can run only where there is a shortcut and its user knows where it is."""
        return self.decorrelated or self.counter_examples

    @property
    def mixes(self) -> bool:
        """Whether its path begins at the source."""
        return self.blend not in (None, "symmetric")

    @property
    def fits_head(self) -> bool:
        """Whether its head is fitted to convergence."""
        return self.trainable.startswith("converged head")

    @property
    def prepares(self) -> bool:
        """Whether its network changes before the first training: a head, a refit, rescaling."""
        return self.fits_head or bool(self.refit) or self.rescaled

    @property
    def takes_steps(self) -> bool:
        """Whether SGD trains anything."""
        return self.trainable not in ("converged head", "nothing")

    @property
    def choices(self) -> dict[str, Any]:
        """What decides the method's numbers: its fields without appearance and what is off."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _APPEARANCE}
        return {name: value for name, value in values.items() if value}


METHODS: dict[str, Method] = {
    "before": Method("before transfer", "#BBBBBB", "_", trainable="nothing"),
    "scratch": Method("from scratch", "#7F7F7F", "s", start="fresh"),
    "ft": Method("fine-tuning", "#E69F00", "o"),
    "ft-frozen": Method("fine-tuning, frozen statistics", "#D55E00", "h", statistics="frozen"),
    "fixed": Method(
        "fixed feature",
        "#CC79A7",
        "D",
        trainable="converged head",
        statistics="frozen",
        version=2,  # version 1 took steps of SGD, and was far from converged
    ),
    "fixed-updated": Method(
        "fixed feature, updated statistics",
        "#8C4C73",
        "d",
        "Salman et al. (2022)",
        trainable="head",
    ),
    "lp-ft": Method(
        "linear probe, then fine-tuning",
        "#F0C75E",
        "H",
        "Kumar et al. (2022)",
        trainable="converged head, then all",
        version=2,  # version 1 gave half of the epochs to a head that did not converge
    ),
    "mixup": Method(
        "mixup within the target", "#B8860B", "*", "Zhang et al. (2018)", blend="symmetric"
    ),
    "l2-sp": Method(
        "fine-tuning, pulled to the backbone",
        "#A0522D",
        "p",
        "Li et al. (2018)",
        l2_sp=0.01,
    ),
    "wise-ft": Method(
        "average of backbone and fine-tuned",
        "#FF9F80",
        "8",
        "Wortsman et al. (2022)",
        backbone_share=0.5,
        version=2,  # version 1 averaged BatchNorm's statistics too
    ),
    "rescale": Method(
        "fine-tuning from rescaled filters",
        "#9A6324",
        "$\\oslash$",
        "this course; on the size of a step, Li & Arora (2020)",
        rescaled=True,
    ),
    "refit": Method(
        "refit, then fine-tuning",
        "#2B2B9B",
        "$\\boxplus$",
        "this course; layer by layer as in He et al. (2017)",
        refit=0.3,
    ),
    "window": Method(
        "fine-tuning with adversarial windows",
        "#7B3F00",
        "$\\boxdot$",
        "this course; patches after Brown et al. (2017)",
        windows=(0.125, 0.25),
    ),
    "window-steady": Method(
        "windows that must not change the answer",
        "#B05A00",
        "$\\boxminus$",
        "this course; stability training after Zheng et al. (2016)",
        windows=(0.125, 0.25),
        steady=1.0,
    ),
    "band": Method(
        "fine-tuning with adversarial bands",
        "#556B2F",
        "$\\equiv$",
        "this course; patches after Brown et al. (2017)",
        windows=((0.0625, 1.0), (1.0, 0.0625)),  # thin, across the whole image
    ),
    "refit-window": Method(
        "refit, then windows",
        "#4B0082",
        "$\\circledast$",
        "this course: `refit` and `window`",
        refit=0.3,
        windows=(0.125, 0.25),
    ),
    "counter": Method(
        "fine-tuning with counter-examples",
        "#C00000",
        "X",
        "Wang & Russakovsky (2023)",
        counter_examples=True,
        knows="where it is",
    ),
    "ut": Method(
        "uncoupled transfer",
        "#0072B2",
        "^",
        "the paper, section 2.3",
        blend="mixup",
        schedule="grid",
    ),
    "ut-frozen": Method(
        "uncoupled transfer, frozen statistics",
        "#003F6B",
        "$\\boxtimes$",
        blend="mixup",
        schedule="grid",
        statistics="frozen",
    ),
    "ut-mixture": Method(
        "uncoupled transfer, mixture",
        "#56B4E9",
        "v",
        "Gao & Chaudhari (2021)",
        blend="mixture",
        schedule="grid",
    ),
    "ut-annealed": Method(
        "uncoupled transfer, annealed Beta",
        "#1F3A93",
        "<",
        "Gao & Chaudhari (2021)",
        blend="annealed",
        schedule="even",
    ),
    "ut-fade": Method(
        "uncoupled transfer, labels first",
        "#6A5ACD",
        ">",
        blend="mixup",
        schedule="grid",
        fade=3.0,
    ),
    "ut-decorrelated": Method(
        "uncoupled transfer, decorrelated source",
        "#00B3B3",
        "$\\oplus$",
        blend="mixup",
        schedule="grid",
        decorrelated=True,
        knows="where it is",
    ),
    "ct": Method(
        "coupled transfer",
        "#009E73",
        "$\\otimes$",
        "Gao & Chaudhari (2021)",
        blend="mixup",
        coupling="features",
        schedule="grid",
    ),
    "ct-annealed": Method(
        "coupled transfer, annealed Beta",
        "#7FB800",
        "$\\ominus$",
        "Gao & Chaudhari (2021)",
        blend="annealed",
        coupling="features",
        schedule="even",
    ),
    "ct-iterated": Method(
        "coupled transfer, iterated",
        "#004D38",
        "$\\odot$",
        "Gao & Chaudhari (2021)",
        blend="mixup",
        coupling="iterated",
        schedule="grid",
    ),
    "iso": Method(
        "iso-classification",
        "#7A5195",
        "$\\star$",
        "Gao & Chaudhari (2020)",
        blend="mixture",
        schedule="iso",
        held_out=0.2,
    ),
}


class Knowledge(NamedTuple):
    """What a user can make who knows where the shortcut is.

    Args:
        spread: the source with its shortcuts moved from one class to images of all.
        countered: the target with the shortcut on a few images of the other classes.
    """

    spread: Task
    countered: Task


@dataclass(frozen=True)
class Setup:
    """How a transfer is trained, whatever its method and tasks.

    Args:
        sgd: how SGD runs.
        taus: the grid of a path that starts at the source.
        width: of fresh weights, as in `models.build`.
        coupled: for an iterated coupling.
        knowledge: for a method that must know where the shortcut is.
        partitions: at how many checkpoints predictions are compared, by `PairLength` on random
            pairs, found afterwards in `Plan.lengths`; None for not at all. On the target alone
            `PathLength` is then measured too, at every step.
        backbone_share: of a method that averages with the backbone, 0 ... 1; None for its own.

    Raises:
        ValueError: for a share out of range.
    """

    sgd: Sgd = Sgd()
    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    width: str | tuple[int, ...] = "small"
    coupled: Coupled = Coupled()
    knowledge: Knowledge | None = None
    partitions: int | None = None
    backbone_share: float | None = None

    def __post_init__(self) -> None:
        share = self.backbone_share
        if share is not None and not 0 <= share <= 1:
            raise ValueError(
                "backbone_share must lie between 0 (the fine-tuned weights) and 1 (the backbone); "
                f"got {share!r}"
            )


@dataclass
class Plan:
    """A transfer that is to be done.

    Args:
        net: the network that it trains.
        first: the first training, for those that only need to see it.
        stages: the trainings that `fit` must do, one after the other.
        iterations: of an iterated coupling, filled as they are done.
        prepares: whether the network changes before the first training, such as by a refit.
    """

    net: Net
    first: Replica
    stages: Stages
    iterations: list[Iteration] = field(default_factory=list)
    prepares: bool = False

    @property
    def lengths(self) -> PairLength | None:
        """The information lengths that the training measured, if it was asked to."""
        callback = self.first.callback
        if isinstance(callback, Lengths):
            return callback.pairs
        if isinstance(callback, PairLength) and not self.iterations:
            return callback
        return None

    @property
    def path_length(self) -> float | None:
        """The Riemannian length of the weights' path, if the training measured it."""
        callback = self.first.callback
        return callback.path.total if isinstance(callback, Lengths) else None


def plan(
    method: str,
    backbone: Net | None,
    source: Task,
    target: Task,
    *,
    seed: int,
    setup: Setup = Setup(),
) -> Plan:
    """What a method will do; nothing is trained yet, and the backbone is left as it is.

    Args:
        method: a name of METHODS.
        backbone: trained on the source; None will do for a method that starts fresh.
        source: where the path begins.
        target: where it ends.
        seed: of fresh weights and of everything that the training draws.
        setup: how it is trained.

    Raises:
        ValueError: for an unknown method, one that lacks what it needs, and what `Path`,
            `schedule`, `Replica` and `Coupled` raise.
    """
    record = _checked(method, backbone, target, setup)
    if setup.knowledge is not None and record.counter_examples:
        target = setup.knowledge.countered
    net = _start(record, backbone, target, setup.width, seed)
    sgd = replace(setup.sgd, l2_sp=setup.sgd.l2_sp or record.l2_sp)
    taken = schedule(record.schedule, setup.taus, sgd.epochs)
    path = _path(record, source, target, setup.knowledge, seed)
    callback = _callback(record, source, path, setup, seed)
    first = Replica(net, path, taken, seed, sgd, callback, record.windows, record.steady)
    if record.trainable == "head":
        net.body.requires_grad_(False)
    iterations: list[Iteration] = []
    stages = _stages(record, first, backbone, setup, iterations)
    return Plan(net, first, stages, iterations, record.prepares)


def single(replica: Replica) -> Plan:
    """The plan of one training."""
    return Plan(replica.net, replica, _once(replica))


def train(
    plans: Sequence[Plan],
    *,
    device: str = "cpu",
    on_done: Callable[[int, History], None] | None = None,
    label: str = "transfer",
) -> list[History]:
    """Histories of the plans: all first trainings together, then the second ones, and so on.

    Args:
        plans: trained side by side.
        device: of all of them.
        on_done: called with a plan's index and history as soon as it is done.
        label: of the progress bar.

    Raises:
        ValueError, TrainingDiverged: what `fit` raises.
    """
    histories: dict[int, History] = {}

    def done(k: int, history: History) -> None:
        histories[k] = history
        if on_done:
            on_done(k, history)

    device = devices.resolve(device)
    with devices.reference(device):
        waiting = _first_trainings(plans, device, done)
    while waiting:
        waiting = _following_trainings(plans, waiting, device, done, label)
    return [histories[k] for k in range(len(plans))]


def _following_trainings(
    plans: Sequence[Plan],
    waiting: Mapping[int, Replica],
    device: str,
    done: Callable[[int, History], None],
    label: str,
) -> dict[int, Replica]:
    """Train what waits: index of each plan that then leaves more to SGD -> its next training."""
    keys = list(waiting)
    following: dict[int, Replica] = {}

    def trained(row: int, history: History) -> None:
        k = keys[row]
        try:
            if history.diverged is None:
                following[k] = plans[k].stages.send(history)
                return
        except StopIteration as end:
            history = end.value
        done(k, history)

    fit(list(waiting.values()), device=device, on_done=trained, label=label)
    return dict(sorted(following.items()))


def _first_trainings(
    plans: Sequence[Plan], device: str, done: Callable[[int, History], None]
) -> dict[int, Replica]:
    """Index of each plan that leaves something to SGD -> its first training; others are done.

    What changes a network before its first training, such as a refit, is computed on the device.

    Raises:
        torch.OutOfMemoryError: if the device has no room for that.
    """
    waiting: dict[int, Replica] = {}
    for k, planned in enumerate(plans):
        if planned.prepares:
            planned.net.to(device)
        try:
            waiting[k] = next(planned.stages)
        except StopIteration as end:
            done(k, end.value)
        except RuntimeError as error:
            if device == "cpu" or not devices.is_out_of_memory(error):
                raise
            raise no_room(device, 1) from error
    return waiting


def pretrain(
    task: Task,
    *,
    seed: int,
    sgd: Sgd = Sgd(),
    width: str | tuple[int, ...] = "small",
    device: str = "cpu",
) -> tuple[Net, History]:
    """A backbone: a fresh network trained on one task.

    Args:
        task: the source, of a transfer to come.
        seed: of the weights and of everything that the training draws.
        sgd: how SGD runs.
        width: of the network, as in `models.build`.
        device: where it is trained, and where it stays.

    Raises:
        ValueError, TrainingDiverged: what `models.build` and `fit` raise.
    """
    net = build(task, width, seed)
    (history,) = fit(
        [Replica(net, Path(task), CONSTANT, seed, sgd)], device=device, label="backbone"
    )
    return net, history


def transfer(
    method: str,
    backbone: Net | None,
    source: Task,
    target: Task,
    *,
    seed: int,
    setup: Setup = Setup(),
    device: str = "cpu",
) -> tuple[Net, History]:
    """Network and history of one transfer; arguments and errors are those of `plan` and `fit`."""
    device = devices.resolve(device)
    planned = plan(method, backbone, source, target, seed=seed, setup=setup)
    (history,) = train([planned], device=device, label=method)
    return planned.net.to(device), history


def _checked(method: str, backbone: Net | None, target: Task, setup: Setup) -> Method:
    """The method's record. Raises ValueError if it lacks what it needs."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    record = METHODS[method]
    if record.start == "backbone" and backbone is None:
        raise ValueError(f"method {method!r} starts from a backbone; got None")
    if record.start == "backbone" and backbone is not None:
        _check_fit(backbone, target)
    if record.needs_knowledge and setup.knowledge is None:
        raise ValueError(
            f"method {method!r} must know where the shortcut is; pass knowledge=Knowledge(...)"
        )
    if setup.sgd.l1 and record.trainable == "head":
        raise ValueError(
            f"the lasso l1 is on the weights of the first layer, which {method!r} does not train; "
            f"set it to 0; got {setup.sgd.l1!r}"
        )
    if setup.partitions is not None and not record.takes_steps:
        raise ValueError(
            f"method {method!r} takes no steps of SGD, along which a length could be measured; "
            "leave partitions out"
        )
    if (setup.partitions is not None or record.coupling == "iterated") and target.is_regression:
        raise ValueError(
            f"information lengths are of class probabilities; task {target.name!r} is a regression"
        )
    if record.coupling == "iterated":
        setup.coupled.block_of(len(target.y_train))
        check_partitions(setup.coupled.partitions, setup.sgd.epochs)
    return record


def _check_fit(backbone: Net, target: Task) -> None:
    """Raises ValueError unless the backbone takes the target's inputs and has its outputs."""
    first = next(p for p in backbone.parameters() if p.ndim > 1)
    takes = (first.ndim == 4, first.shape[1], backbone.head.out_features)
    needed = (target.x_train.ndim == 4, target.x_train.shape[1], target.outputs)
    if takes != needed:
        kinds = ["images" if images else "features" for images in (takes[0], needed[0])]
        raise ValueError(
            f"the backbone takes {kinds[0]} of {takes[1]} channels and has {takes[2]} outputs; "
            f"task {target.name!r} has {kinds[1]} of {needed[1]} channels and needs "
            f"{needed[2]} outputs"
        )


def _start(
    record: Method,
    backbone: Net | None,
    target: Task,
    width: str | tuple[int, ...],
    seed: int,
) -> Net:
    if record.start == "fresh" or backbone is None:
        net = build(target, width, seed)
    else:
        net = copy.deepcopy(backbone)
    net.frozen_statistics = record.statistics == "frozen"
    return net


def _path(
    record: Method, source: Task, target: Task, knowledge: Knowledge | None, seed: int
) -> Path:
    if record.blend is None:
        return Path(target)
    if record.blend == "symmetric":
        return Path(target, target, blend="symmetric")
    other = knowledge.spread if knowledge is not None and record.decorrelated else None
    held = None
    if record.held_out:
        target, held = hold_out(target, record.held_out, seed)
    return Path(
        target, source, blend=record.blend, fade=record.fade, other_source=other, held_out=held
    )


def _callback(
    record: Method, source: Task, path: Path, setup: Setup, seed: int
) -> PairLength | Lengths | None:
    """The callback that measures lengths on random examples, if it is asked for."""
    if setup.partitions is None:
        return None
    check_partitions(setup.partitions, setup.sgd.epochs)
    rng = generator(seed, "watched")  # the name decides the numbers, so it stays
    pairs_source = rng.integers(0, len(source.y_train), _MEASURED_PAIRS)
    pairs_target = rng.integers(0, len(path), _MEASURED_PAIRS)
    if record.mixes:
        return PairLength(pairs_source, pairs_target, setup.partitions, seed)
    pairs = PairLength(None, pairs_target, setup.partitions, seed)
    return Lengths(pairs, PathLength(pairs_target[:PATH_EXAMPLES]))


def _stages(
    record: Method,
    first: Replica,
    backbone: Net | None,
    setup: Setup,
    iterations: list[Iteration],
) -> Stages:
    """The trainings of a method, one after the other."""
    if not record.takes_steps:
        return _without_steps(first, record.fits_head)
    if record.prepares:
        return _prepared(first, record)
    if backbone is not None and record.backbone_share:
        share = setup.backbone_share
        return _average(first, backbone, record.backbone_share if share is None else share)
    if backbone is not None and record.coupling == "features":
        return transported(first, backbone)
    if backbone is not None and record.coupling == "iterated":
        return iterated(first, backbone, setup.coupled, iterations)
    return _once(first)


def _once(replica: Replica) -> Stages:
    return (yield replica)


def _without_steps(replica: Replica, fits_head: bool) -> Stages:
    """Leave the network as it is, but for a head that is fitted: nothing is left to SGD."""
    yield from ()
    return converge_head(replica.net, replica.path.target) if fits_head else History()


def _prepared(replica: Replica, record: Method) -> Stages:
    """Train all weights, after those of the head or of every layer were set without SGD."""
    if record.fits_head:
        converge_head(replica.net, replica.path.target)
    if record.refit:
        refit(replica.net, replica.path.target, smoothing=record.refit)
    if record.rescaled:
        rescale(replica.net)
    return (yield replica)


def _average(replica: Replica, backbone: Net, share: float) -> Stages:
    """Train, then put the weights on the way back to the backbone: share 1 is the backbone.

    Averaged running statistics would fit neither network's features, so BatchNorm's are estimated
    anew on the target's training images.
    """
    history = yield replica
    start = dict(backbone.named_parameters())
    with torch.no_grad():
        for name, p in replica.net.named_parameters():
            p.lerp_(start[name].to(p.device), share)
    with one_thread():  # the bits depend on the number of threads
        estimate_statistics(replica.net, replica.path.target.x_train)
    return history
