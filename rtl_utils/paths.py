"""Paths of tasks p_tau from a source (tau = 0) to a target (tau = 1): a coupling and a blend.

    (i, j) ~ coupling,   x_tau = (1 - w) x_i + w x_j,   y_tau = (1 - w) y_i + w y_j

i: source example, j: target example, labels one-hot. The blend says what the weight w is: w = tau
for mixup, w ~ Bernoulli(tau) for the mixture, w ~ Beta(tau, 1 - tau) in between. The paper's
formulas (section 2.2) run the other way round, tau = 1 being the source; the direction here is the
one of its prose and of Gao & Chaudhari (2021).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtl_utils.couplings import Coupling, independent
from rtl_utils.data import Task, as_float, soft_labels
from rtl_utils.randomness import generator


def mixup(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of the target: tau for every example (the paper's 'works identically to CT')."""
    return np.full(n, tau)


def mixture(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of the target: 1 with probability tau, else 0 (Gao & Chaudhari's uncoupled transfer).

    So p_tau = (1 - tau) p_s + tau p_t.
    """
    return (rng.random(n) < tau).astype(float)


def annealed(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of the target: Beta(tau, 1 - tau), of mean tau and mostly near 0 or 1.

    Source: Gao & Chaudhari (2021), section 4.
    """
    return np.full(n, tau) if tau in (0, 1) else rng.beta(tau, 1 - tau, n)


def symmetric(tau: float, rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Weights of one of two partners: Beta(alpha, alpha), whatever tau (mixup within a task).

    Source: Zhang et al. (2018).
    """
    return rng.beta(alpha, alpha, n)


@dataclass(frozen=True)
class Blend:
    """How source and target examples are mixed.

    Args:
        weights: (tau, generator, n, alpha) -> (n,) weights of the target, each 0 ... 1.
        version: raised when the weights change, so that stored runs are not mistaken for new ones.
    """

    weights: Callable[[float, np.random.Generator, int, float], np.ndarray]
    version: int = 1


BLENDS = {
    "mixup": Blend(mixup),
    "mixture": Blend(mixture),
    "annealed": Blend(annealed),
    "symmetric": Blend(symmetric),
}


class Draw(NamedTuple):
    """One epoch's randomness.

    Args:
        target: (n,) indices into the target.
        source: (n,) partners in the source; None where tau is 1.
        weight: (n,) weights of the target; None where tau is 1.
        other: (n,) whether the partner is taken from the path's `other_source`; None without one.
    """

    target: Tensor
    source: Tensor | None = None
    weight: Tensor | None = None
    other: Tensor | None = None


@dataclass(frozen=True)
class Path:
    """A path of tasks. Without a source it is the target alone.

    Args:
        target: the task at tau = 1.
        source: the task at tau = 0.
        coupling: of their training examples; None for the product coupling.
        blend: a name of BLENDS; "symmetric" mixes one task with itself (source is target).
        alpha: of the symmetric blend, above 0.
        fade: the source's label weighs (1 - w)^fade, so above 1 labels change over faster than
            images; above 0.
        other_source: the source's examples with another appearance, which takes over from the
            source's own with probability tau.
        held_out: the target with held-out training examples as its validation data, on which an
            adaptive schedule measures its loss (`data.hold_out`).

    Raises:
        ValueError: if source and target differ in input shape or outputs, if they are one task
            without "symmetric", for an unknown blend, a coupling of another shape, or a value out
            of range.
    """

    target: Task
    source: Task | None = None
    coupling: Coupling | None = None
    blend: str = "mixup"
    alpha: float = 1.0
    fade: float = 1.0
    other_source: Task | None = None
    held_out: Task | None = None

    def __post_init__(self) -> None:
        if self.blend not in BLENDS:
            raise ValueError(f"blend must be one of {', '.join(BLENDS)}; got {self.blend!r}")
        for name in ("alpha", "fade"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)!r}")
        if self.source is not None:
            _check_ends(self.source, self.target, within=self.blend == "symmetric")
        n_source = len(self.source.y_train) if self.source else 0
        sizes = (n_source, len(self.target.y_train))
        if self.coupling is not None and self.coupling.matrix.shape != sizes:
            raise ValueError(
                "a coupling must have one row per source and one column per target example, "
                f"{sizes}; got {self.coupling.matrix.shape}"
            )
        if self.other_source is not None and not self._holds_the_same(self.other_source):
            raise ValueError(
                "other_source must hold the source's examples in the source's order; "
                "its labels differ"
            )

    def with_tasks(self, change: Callable[[Task], Task]) -> "Path":
        """The same path over other copies of its tasks, such as those on a device."""
        return replace(
            self,
            target=change(self.target),
            source=self.source and change(self.source),
            other_source=self.other_source and change(self.other_source),
            held_out=self.held_out and change(self.held_out),
        )

    def __len__(self) -> int:
        """Examples per epoch: the target's, at every tau, so all methods take as many steps."""
        return len(self.target.y_train)

    def draw(self, tau: float, seed: int, epoch: int) -> Draw:
        """Order, partners and weights of one epoch.

        The target's order depends on (seed, epoch) alone, so the methods of one seed share it.
        """
        n = len(self)
        device = self.target.x_train.device
        order = generator(seed, "order", epoch).permutation(n)
        weight = self.weights(tau, generator(seed, "blend", epoch), n)
        if self.source is None or (weight == 1).all():
            return Draw(torch.from_numpy(order).to(device))
        rng = generator(seed, "pair", epoch)
        # stratified: where the sizes agree, each source example comes once per epoch
        uniform = (rng.permutation(n) + rng.random(n)) / n
        if self.coupling is None:
            partner = independent(order, uniform, len(self.source.y_train))
        else:
            partner = self.coupling.partners(order, uniform)
        drawn = [order, partner.astype(np.int64), weight.astype(np.float32)]
        if self.other_source is not None:
            drawn.append(generator(seed, "moved", epoch).random(n) < tau)
        return Draw(*(torch.from_numpy(a).to(device) for a in drawn))

    def weights(self, tau: float, rng: np.random.Generator, n: int) -> np.ndarray:
        """(n,) weights of the target at tau; ones on a path that is the target alone."""
        if self.source is None:
            return np.ones(n)
        return BLENDS[self.blend].weights(tau, rng, n, self.alpha)

    def batch(
        self, draw: Draw, rows: slice, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """The drawn rows as a mini-batch.

        Args:
            draw: of the epoch.
            rows: which of its rows.
            dtype: of what comes back.

        Returns:
            (n, ...) network inputs and (n, k) soft labels, or (n, 1) responses.
        """
        x, y = _examples(self.target, draw.target[rows], dtype)
        if self.source is None or draw.source is None or draw.weight is None:
            return x, y
        x_source, y_source = _examples(self.source, draw.source[rows], dtype)
        if self.other_source is not None and draw.other is not None:
            other = draw.other[rows].reshape(-1, *[1] * (x.ndim - 1))
            x_other = as_float(self.other_source.x_train[draw.source[rows]], dtype)
            x_source = torch.where(other, x_other, x_source)  # to pick rows would wait for a GPU
        weight = draw.weight[rows].to(dtype)
        kept = (1 - weight[:, None]) ** self.fade
        weight = weight.reshape(-1, *[1] * (x.ndim - 1))
        return (1 - weight) * x_source + weight * x, kept * y_source + (1 - kept) * y

    def sample(self, tau: float, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """A mini-batch of n examples of p_tau, as `batch` gives it.

        Raises:
            ValueError: if the target has fewer.
        """
        if not 1 <= n <= len(self):
            raise ValueError(
                f"n must lie between 1 and {len(self)}, the target's training examples; got {n}"
            )
        return self.batch(self.draw(tau, seed, epoch=0), slice(0, n))

    def _holds_the_same(self, other: Task) -> bool:
        return self.source is not None and torch.equal(other.y_train, self.source.y_train)


def _examples(task: Task, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return as_float(task.x_train[rows], dtype), soft_labels(task, task.y_train[rows], dtype)


def _check_ends(source: Task, target: Task, within: bool) -> None:
    names = [(task.dataset, task.name) for task in (source, target)]
    same = source is target or names[0] == names[1]
    if within and not same:
        raise ValueError(
            "the blend 'symmetric' mixes a task with itself; "
            f"got {source.name!r} and {target.name!r}"
        )
    if same and not within:
        raise ValueError(f"source and target must differ; both are {target.name!r}")
    ends = [(tuple(task.x_train.shape[1:]), task.outputs) for task in (source, target)]
    if ends[0] != ends[1]:
        raise ValueError(
            f"source {source.name!r} and target {target.name!r} must share input shape and number "
            f"of outputs; got {ends[0]} and {ends[1]}"
        )
