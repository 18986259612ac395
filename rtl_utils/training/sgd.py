"""Stochastic gradient descent: its settings, and its step on the flat weights of a program."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from rtl_utils.messages import shown
from rtl_utils.models import Net
from rtl_utils.training._programs import Program

# raised when the pull of `l2_sp` changes; version 1 pulled the head and BatchNorm's weights too
PULL_VERSION = 2
MOST_EPOCHS = 1_000_000
_LARGEST = 3e38  # of float32, in which the weights live


@dataclass(frozen=True)
class Sgd:
    """Settings of SGD; the defaults are the paper's, and momentum 0.9 is the project's reading.

    v <- momentum v + lr_t (grad + weight_decay w),  w <- w - v

    Args:
        lr: learning rate.
        epochs: passes over the target's training examples.
        batch_size: examples per step.
        momentum: in [0, 1).
        weight_decay: of all trainable weights.
        l1: lasso penalty l1 sum |w| over the first layer's weights, which asks each unit to read
            few inputs (notebook 01 needs it).
        l2_sp: penalty l2_sp / 2 (|w - w_0|^2 + |h|^2), a pull of the body's weights w towards
            those that training starts from, and of the head's h towards 0; BatchNorm's own weights
            are left free (Li et al. 2018, equation 2).
        cosine: lr_t falls from lr to 0 along half a cosine; else it stays.
        averaged: share of the last steps after which the weights are averaged: the network ends
            with (1 / n) sum_t w_t over the last n = ceil(averaged x steps) steps t, and with
            BatchNorm statistics that are estimated anew on the target (Izmailov et al. 2018).
            0 for the last weights.

    Raises:
        ValueError: for a value outside its range.

    Source: the paper, section 5.2.
    """

    lr: float = 1e-2
    epochs: int = 50
    batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 0.0
    l1: float = 0.0
    l2_sp: float = 0.0
    cosine: bool = False
    averaged: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST_EPOCHS:
                raise ValueError(
                    f"{name} must be a whole number between 1 and {MOST_EPOCHS:,}; "
                    f"got {shown(value)}"
                )
        _check_number("lr", self.lr, "positive", lambda lr: 0 < lr <= _LARGEST)
        _check_number("momentum", self.momentum, "in [0, 1)", lambda momentum: 0 <= momentum < 1)
        for name in ("weight_decay", "l1", "l2_sp"):
            value = getattr(self, name)
            _check_number(name, value, "0 or more", lambda value: 0 <= value <= _LARGEST)
        _check_number("averaged", self.averaged, "0 to 1", lambda share: 0 <= share <= 1)

    def rate(self, step: int, steps: int) -> float:
        """lr_t / lr at a step of the whole training."""
        return (1 + math.cos(math.pi * step / steps)) / 2 if self.cosine else 1.0


class Momentum:
    """SGD with momentum on the weights of a program.

    Args:
        program: whose (r, P) weights are updated.
        sgds: one per replica; they may differ in the learning rate only.
        steps: of the whole training.
        net: one of the networks, which says what its weights are.

    length: (r,) of the path that the weights have taken.
    mean: (r, P) of the weights after the last steps; None where they are not averaged.
    """

    def __init__(self, program: Program, sgds: Sequence[Sgd], steps: int, net: Net) -> None:
        weights = program.weights
        self.program = program
        self.sgd = sgds[0]
        self.steps = steps
        self.steps_done = 0
        rates = [[sgd.lr] for sgd in sgds]
        self.lr = torch.tensor(rates, dtype=weights.dtype, device=weights.device)
        self.velocity = torch.zeros_like(weights)
        self.length = self.velocity.sum(1)
        self.pull = _Pull(net, weights) if self.sgd.l2_sp else None
        self.first_layer = program.leaves[0].numel() // len(weights)  # it lies first in the weights
        self.single = steps - math.ceil(self.sgd.averaged * steps)  # steps that are not averaged
        self.mean = weights.detach().clone() if self.sgd.averaged else None

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradient that the program holds."""
        weights = self.program.weights
        gradient = self.program.gradient
        sgd = self.sgd
        if sgd.weight_decay:
            gradient.add_(weights, alpha=sgd.weight_decay)
        if self.pull is not None:
            gradient.add_(self.pull(weights), alpha=sgd.l2_sp)
        if sgd.l1:
            first = weights[:, : self.first_layer]
            gradient[:, : self.first_layer] += sgd.l1 * first.sign()
        rate = self.lr * sgd.rate(self.steps_done, self.steps)
        self.velocity.mul_(sgd.momentum).addcmul_(gradient, rate)
        weights.sub_(self.velocity)
        self.length += self.velocity.norm(dim=1)
        self.steps_done += 1
        if self.mean is not None and self.steps_done > self.single:
            self.mean.lerp_(weights, 1 / (self.steps_done - self.single))


class _Pull:
    """The gradient of L2-SP's penalty, without its factor.

    Args:
        net: one of the networks; tells body, head and BatchNorm apart.
        weights: (r, P) those that training starts from.
    """

    def __init__(self, net: Net, weights: Tensor) -> None:
        self.anchor = weights.clone()
        self.pulled = torch.ones_like(weights[0])
        offset = 0
        for module in net.modules():
            for p in module.parameters(recurse=False):
                if not p.requires_grad:
                    continue
                part = slice(offset, offset + p.numel())
                if isinstance(module, _BatchNorm):
                    self.pulled[part] = 0
                elif module is net.head:
                    self.anchor[:, part] = 0
                offset += p.numel()

    def __call__(self, weights: Tensor) -> Tensor:
        """(r, P) gradient at (r, P) weights."""
        return (weights - self.anchor) * self.pulled


def epochs_of(steps: int, examples: int, batch_size: int) -> int:
    """The whole number of epochs that comes nearest to a number of steps, 1 or more.

    With it, few and many images are compared at equal steps.

    Args:
        steps: of SGD.
        examples: of one epoch.
        batch_size: examples per step.
    """
    return max(1, round(steps / math.ceil(examples / batch_size)))


def _check_number(name: str, value: float, rule: str, holds: Callable[[float], bool]) -> None:
    if type(value) not in (int, float) or not holds(value):
        raise ValueError(f"{name} must be a number, {rule}; got {shown(value)}")
