"""How far a network's predictions move while it is trained along a path: callbacks of the training.

Between two checkpoints w and w' the distance of their predictions on an input x is
sqrt(KL(p_w(. | x) || p_w'(. | x))), which `PairLength` averages over pairs of examples. For a small
step sqrt(2 E_x KL) is the length ds of Fisher's metric on weights,
ds^2 = E_x sum_k p_k (d log p_k)^2, which `PathLength` adds up.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rtl_utils import devices
from rtl_utils.data import Task, as_float
from rtl_utils.models import Net, folded, predict
from rtl_utils.paths import Path
from rtl_utils.randomness import generator

# each is raised when its length changes, so that stored runs are not mistaken for new ones
VERSION = 1  # of PairLength
PATH_VERSION = 2  # of PathLength; 1 was a sum over checkpoints of means over examples
PATH_EXAMPLES = 100  # over which a `PathLength` averages: more would dominate a step of SGD
_AT_ONCE = 128  # pairs: more do not fit into a core's cache


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(n,) KL(p || q) = sum_k p_k (log p_k - log q_k) in nats, never below 0.

    Args:
        log_p: (n, k) log-probabilities.
        log_q: the same of the other distribution.
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


@dataclass
class PairLength:
    """A callback that adds up, for given pairs, how far predictions move on their blends.

    length_ij = 1/M sum_{m=1}^{M} sqrt(KL(p_{w(m-1)}(. | x_tau) || p_{w(m)}(. | x_tau)))

    x_tau: the blend of x_i and x_j at tau(m-1). Training is cut into M partitions of whole epochs;
    tau(m-1) is the task that the m-th one begins with. Both outputs are taken at one x and one
    tau, the earlier one, as in the authors' code.

    Args:
        source: (p,) indices of source examples; None on a path that is the target alone.
        target: (p,) indices of target examples.
        partitions: M.
        seed: of the weights of a blend that draws them.
        total: (p,) sums of sqrt(KL) over the partitions so far, on the device of the training.

    Raises:
        ValueError: when training begins, for a regression, more partitions than epochs, or fewer
            than 1.

    Source: Gao & Chaudhari (2021), equation 7, in the unit of its authors' code: the mean over
    partitions, without Fisher's factor sqrt 2.
    """

    source: np.ndarray | None
    target: np.ndarray
    partitions: int
    seed: int
    total: Tensor | None = None
    _before: Net | None = field(default=None, repr=False)
    _tau: float | None = None
    _log_p: Tensor | None = field(default=None, repr=False)  # of `_before` at `_tau`, where known

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Measure the partition that ends with this epoch, if one does."""
        check_partitions(self.partitions, epochs)
        ends = [(m + 1) * epochs // self.partitions for m in range(self.partitions)]
        if done == 0:
            _check_classes(path)
            weight = net.head.weight
            home = devices.of_float64(weight.device)
            self.total = torch.zeros(len(self.target), dtype=weight.dtype, device=home)
            self._before = folded(net)
            self._log_p = None
        elif done - 1 in (0, *ends):  # the epoch just done is the first of its partition
            if tau != self._tau:
                self._log_p = None
            self._tau = tau
        if done in ends:
            after = folded(net)
            log_p = self._add(path, after)
            last = done == epochs  # what comes back from another process should be small
            self._before = None if last else after
            self._log_p = None if last else log_p

    @property
    def mean(self) -> np.ndarray:
        """(p,) means of sqrt(KL) over the partitions, the unit above, in sqrt(nats).

        To read it waits for the device.
        """
        if self.total is None:
            raise ValueError("this length has not been measured: its training has not begun")
        return np.asarray((self.total / self.partitions).cpu().numpy())

    def _add(self, path: Path, after: Net) -> Tensor:
        """Add one partition to the total. Returns the (p, k) log-probabilities after it."""
        if self._before is None or self._tau is None or self.total is None:
            raise ValueError("a partition ends that has not begun")
        logs = []
        lengths = []
        at = 0
        for x in self._inputs(path, self._tau, after.head.weight.dtype):
            if self._log_p is None:
                log_p = _log_probabilities(self._before, x)
            else:
                log_p = self._log_p[at : at + len(x)]
            logs.append(_log_probabilities(after, x))
            lengths.append(divergence(log_p, logs[-1]).sqrt())
            at += len(x)
        self.total += torch.cat(lengths).to(self.total.dtype)
        return torch.cat(logs)

    def _inputs(self, path: Path, tau: float, dtype: torch.dtype) -> Iterator[Tensor]:
        """(n, ...) blends of the pairs at tau, `_AT_ONCE` or fewer at a time.

        Indices and weights of all pairs go to the device at once.
        """
        parts = (len(self.target) + _AT_ONCE - 1) // _AT_ONCE  # rounded up
        targets = _rows(path.target, self.target).tensor_split(parts)
        if self.source is None or path.source is None:
            for target in targets:
                yield as_float(path.target.x_train[target], dtype)
            return
        weight = path.weights(tau, generator(self.seed, "length"), len(self.target))
        w = torch.from_numpy(weight).to(dtype).to(path.target.x_train.device)
        w = w.reshape(-1, *[1] * (path.target.x_train.ndim - 1))
        sources = _rows(path.source, self.source).tensor_split(parts)
        for source, target, share in zip(sources, targets, w.tensor_split(parts), strict=True):
            x = as_float(path.target.x_train[target], dtype)
            yield (1 - share) * as_float(path.source.x_train[source], dtype) + share * x


@dataclass
class PathLength:
    """A callback that adds up the Riemannian length of the path that the weights take.

    length = sum over steps of sqrt(2 E_x KL(p_w(. | x) || p_w'(. | x)))

    w and w' are the weights before and after a step of SGD, with BatchNorm's running statistics, in
    evaluation mode; E_x is the mean over target examples, wherever on its path the training is.
    Over every second step, or fewer, the sum is smaller, as chords are shorter than their arc.

    Args:
        target: (p,) indices of target examples, some `PATH_EXAMPLES`.

    Raises:
        ValueError: when training begins, for a regression.

    Source: Gao & Chaudhari (2021).
    """

    target: np.ndarray
    _x: Tensor | None = field(default=None, repr=False)
    _log_p: Tensor | None = field(default=None, repr=False)  # after the last step
    _sum: Tensor | None = field(default=None, repr=False)

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Begin at these weights, or read the length so far."""
        if done == 0:
            _check_classes(path)
            rows = _rows(path.target, self.target)
            x = as_float(path.target.x_train[rows], net.head.weight.dtype)
            # the format in which `predict` would put it at every step
            self._x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
            self._log_p = _log_probabilities(net, self._x)
            self._sum = torch.zeros((), dtype=torch.float64, device=self._log_p.device)
        if self._x is None:
            raise ValueError("an epoch ends that has not begun: call with done = 0 first")
        if done == epochs:  # what comes back from another process should be small
            self._x = self._log_p = None

    @property
    def total(self) -> float:
        """The length so far, in sqrt(nats); NaN before training. To read it waits for the device.

        It is the whole length once the training is done.
        """
        return math.nan if self._sum is None else float(self._sum)

    def after_step(self, net: Net) -> None:
        """Add one step of SGD."""
        if self._x is None or self._log_p is None or self._sum is None:
            raise ValueError("a step was taken outside a training: call with done = 0 first")
        log_p = _log_probabilities(net, self._x)
        self._sum += (2 * divergence(self._log_p, log_p).mean()).sqrt()
        self._log_p = log_p


@dataclass
class Lengths:
    """A callback that measures both lengths in one training.

    Args:
        pairs: of random pairs of examples.
        path: of the weights.
    """

    pairs: PairLength
    path: PathLength

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Forward to both."""
        self.pairs(net, path, tau, done, epochs)
        self.path(net, path, tau, done, epochs)

    def after_step(self, net: Net) -> None:
        """Forward to the length that is measured at every step."""
        self.path.after_step(net)


@dataclass
class Trace:
    """A callback that keeps a network's predictions before the first epoch and after each.

    Args:
        x: (n, ...) inputs.
        steps: filled with (n, k) probabilities, one per checkpoint.
    """

    x: Tensor
    steps: list[Tensor] = field(default_factory=list)

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        """Keep the predictions of this checkpoint."""
        self.steps.append(predict(folded(net), self.x).softmax(-1).cpu())


def planar(traces: Mapping[str, Trace]) -> dict[str, np.ndarray]:
    """Paths of several networks through the space of predictions, in its best plane.

    A prediction p is the point sqrt(p) on a sphere, where Fisher's length is twice the Euclidean
    one; over the n inputs distances are root mean squares, so a unit is half a root-mean-square
    Fisher length. The plane is that of the principal components of all points.

    Returns:
        Name -> (t, 2) places, one per checkpoint.
    """
    from sklearn.decomposition import PCA  # takes a second

    points = {
        name: np.stack([step.sqrt().numpy().ravel() / len(step) ** 0.5 for step in trace.steps])
        for name, trace in traces.items()
    }
    plane = PCA(2).fit(np.concatenate(list(points.values())))
    return {name: plane.transform(place) for name, place in points.items()}


def check_partitions(partitions: int, epochs: int) -> None:
    """Raises ValueError unless 1 <= partitions <= epochs: each is one whole epoch or more."""
    if type(partitions) is not int or not 1 <= partitions <= epochs:
        raise ValueError(
            f"partitions must lie between 1 and the {epochs} epochs, as each is one epoch or more; "
            f"got {partitions!r}"
        )


def _check_classes(path: Path) -> None:
    """Raises ValueError for a path of regressions."""
    if path.target.is_regression:
        raise ValueError(
            "information lengths are of class probabilities; "
            f"task {path.target.name!r} is a regression"
        )


def _rows(task: Task, rows: np.ndarray) -> Tensor:
    """Indices of examples, on the device of the task."""
    return torch.from_numpy(np.ascontiguousarray(rows)).to(task.x_train.device)


def _log_probabilities(net: Net, x: Tensor) -> Tensor:
    """(n, k) in evaluation mode, in float64, on the CPU where the device has none.

    In float32 the rounding of the logarithms alone would be a length of 1e-4, and that of steps
    that are small would add up.
    """
    was = net.training
    outputs = predict(net, x)
    net.train(was)
    return outputs.to(devices.of_float64(outputs.device)).double().log_softmax(-1)
