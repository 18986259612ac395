"""How far a network's predictions move while it is trained along a path: information lengths, gathered by a watch on the training.

Between two checkpoints w and w' the distance of their predictions on an input x is sqrt(KL(p_w(. | x) || p_w'(. | x))); for a small step
sqrt(2 KL) is the length ds of Fisher's metric, ds^2 = sum_k p_k (d log p_k)^2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from rtl_utils.models import Net, folded, predict
from rtl_utils.paths import Path
from rtl_utils.randomness import generator
from rtl_utils.tasks import as_float


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(n,) KL(p || q) = sum_k p_k (log p_k - log q_k) in nats, of (n, k) log-probabilities; never below 0."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


@dataclass
class PairLength:
    """A watch that gathers, for given pairs of a source and a target example, how far predictions move on their blends along the path.

        length_ij = 1/M sum_{m=1}^{M} sqrt(KL(p_{w(m-1)}(. | x_tau) || p_{w(m)}(. | x_tau))),    x_tau: the blend of x_i and x_j at tau(m-1)

    (Gao & Chaudhari 2021, equation 7, in the unit of its authors' code: the mean over partitions, without Fisher's factor sqrt 2.) Training is
    cut into M partitions of whole epochs; tau(m-1) is the task that the m-th one begins with. Both outputs are taken at one x and one tau;
    the authors' code takes the second at the next tau.

    source: (p,) indices of source examples, None on a path that is the target alone; target: (p,) indices; partitions: M; seed: of the
    weights of a blend that draws them.
    total: (p,) sums of sqrt(KL) over the partitions so far.
    Raises ValueError, when training begins, for more partitions than epochs or fewer than 1.
    """

    source: np.ndarray | None
    target: np.ndarray
    partitions: int
    seed: int
    total: Tensor | None = None
    _before: Net | None = field(default=None, repr=False)
    _tau: float | None = None
    _log_p: Tensor | None = field(default=None, repr=False)  # of `_before` on the inputs at `_tau`, where known

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        check_partitions(self.partitions, epochs)
        ends = [(m + 1) * epochs // self.partitions for m in range(self.partitions)]
        if done == 0:
            if path.target.is_regression:
                raise ValueError(f"information lengths are of class probabilities; task {path.target.name!r} is a regression")
            self.total, self._before, self._log_p = torch.zeros(len(self.target)), folded(net), None
        elif done - 1 in (0, *ends):  # the epoch just done is the first of its partition
            self._log_p, self._tau = self._log_p if tau == self._tau else None, tau
        if done in ends:
            after = folded(net)
            moved = self._add(path, after)
            # what comes back from another process should be small
            self._before, self._log_p = (None, None) if done == epochs else (after, moved)

    @property
    def mean(self) -> np.ndarray:
        """(p,) lengths in the unit above: the mean of sqrt(KL) over the partitions, in sqrt(nats)."""
        return (self.total / self.partitions).numpy()

    @property
    def riemannian(self) -> np.ndarray:
        """(p,) lengths sum_m sqrt(2 KL): Fisher's, not divided by the number of partitions."""
        return (self.total * 2**0.5).numpy()

    def _add(self, path: Path, after: Net) -> Tensor:
        """Add one partition to the total. Returns the (p, k) log-probabilities after it."""
        weight = None if self.source is None else path.weights(self._tau, generator(self.seed, "length"), len(self.target))
        logs = []
        for rows in np.array_split(np.arange(len(self.target)), -(-len(self.target) // _AT_ONCE)):
            x = as_float(path.target.x_train[self.target[rows]])
            if weight is not None:
                w = torch.as_tensor(weight[rows], dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1))
                x = (1 - w) * as_float(path.source.x_train[self.source[rows]]) + w * x
            # in float64: in float32 the rounding of the logarithms alone would be a length of 1e-4
            log_p = predict(self._before, x).double().log_softmax(-1) if self._log_p is None else self._log_p[rows]
            logs.append(predict(after, x).double().log_softmax(-1))
            self.total[rows] += divergence(log_p, logs[-1]).sqrt().float().cpu()
        return torch.cat(logs)


@dataclass
class Trace:
    """A watch that keeps a network's predictions on given inputs before the first epoch and after each.

    x: (n, ...) inputs; steps: a list of (n, k) probabilities, one a look.
    """

    x: Tensor
    steps: list[Tensor] = field(default_factory=list)

    def __call__(self, net: Net, path: Path, tau: float, done: int, epochs: int) -> None:
        self.steps.append(predict(folded(net), self.x).softmax(-1).cpu())


def planar(traces: Mapping[str, Trace]) -> dict[str, np.ndarray]:
    """Walks of several networks through the space of predictions, in its best plane: name -> (t, 2) places.

    A prediction p is the point sqrt(p) on a sphere, where Fisher's length is twice the Euclidean one; over the n inputs distances are root
    mean squares, so a unit is half a root-mean-square Fisher length. The plane is that of the principal components of all points.
    """
    points = {name: np.stack([step.sqrt().numpy().ravel() / len(step) ** 0.5 for step in trace.steps]) for name, trace in traces.items()}
    plane = PCA(2).fit(np.concatenate(list(points.values())))
    return {name: plane.transform(walk) for name, walk in points.items()}


_AT_ONCE = 128  # pairs: more fall out of a core's cache


def check_partitions(partitions: int, epochs: int) -> None:
    """Raises ValueError unless 1 <= partitions <= epochs: a partition is one whole epoch or more."""
    if type(partitions) is not int or not 1 <= partitions <= epochs:
        raise ValueError(f"partitions must lie between 1 and the {epochs} epochs, as each is one epoch or more; got {partitions!r}")
