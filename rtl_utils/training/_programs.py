"""Networks of one architecture as one program, whose weights are one flat tensor.

`Single` runs the module itself; `Stacked` runs r modules at once with `vmap`. Both answer the same
calls, so there is one training loop.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from rtl_utils.models import Net, folded
from rtl_utils.training._products import use_products


class Program:
    """What both programs share.

    weights, gradient: (r, P), flat; the networks' parameters (`leaves`) are views into them.
    """

    weights: Tensor
    gradient: Tensor
    leaves: list[Tensor]
    _gradients: list[Tensor]

    def __init__(self, nets: Sequence[Net]) -> None:
        raise NotImplementedError

    def __call__(self, x: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """(r, n, ...) inputs to (r, n, k) outputs; masks: (r, n, ...) each."""
        raise NotImplementedError

    def train(self, mode: bool) -> None:
        """Training or evaluation mode."""
        raise NotImplementedError

    def statistics(self) -> list[Tensor]:
        """The buffers, which a call in training mode changes."""
        raise NotImplementedError

    def snapshot(self) -> list[Tensor]:
        """Copies of weights and buffers, for `restore`."""
        return [value.clone() for value in (self.weights, *self.statistics())]

    def restore(self, snapshot: list[Tensor], replica: int) -> None:
        """Put one replica back to where it was."""
        raise NotImplementedError

    def write_back(self) -> None:
        """Bring the trained weights into the networks."""
        raise NotImplementedError

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Weights are constants inside, where only the inputs' gradient is asked for.

        A stack on a GPU then keeps no patches of the inputs.
        """
        for leaf in self.leaves:
            leaf.requires_grad_(False)
        try:
            yield
        finally:
            for leaf in self.leaves:
                leaf.requires_grad_(True)

    def backward(self, loss: Tensor) -> None:
        """Put the gradient of each of the (r,) losses into its row of `gradient`.

        Replicas share no weight, so the gradient of their sum serves all.
        """
        gradients = torch.autograd.grad(loss.sum(), self.leaves)
        torch._foreach_copy_(self._gradients, gradients)


class Single(Program):
    """One network (r = 1). An update of `weights` is an update of the network itself."""

    def __init__(self, nets: Sequence[Net]) -> None:
        (self.net,) = nets
        self.called = self.net
        self.leaves = [p for p in self.net.parameters() if p.requires_grad]
        self.weights, self.gradient, self._gradients = _flatten([self.leaves], self.leaves)

    def __call__(self, x: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """(1, n, ...) inputs to (1, n, k) outputs."""
        outputs: Tensor = self.called(x[0], [mask[0] for mask in masks])
        return outputs[None]

    def train(self, mode: bool) -> None:
        """Training or evaluation mode; an evaluation runs a folded copy of the network."""
        self.net.train(mode)
        self.called = self.net if mode else folded(self.net)

    def statistics(self) -> list[Tensor]:
        """The buffers, which a call in training mode changes."""
        return list(self.net.buffers())

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor], replica: int) -> None:
        """Put the network back to where it was."""
        for now, then in zip([self.weights, *self.statistics()], snapshot, strict=True):
            now.copy_(then)

    def write_back(self) -> None:
        """The network has the trained weights already."""


class Stacked(Program):
    """r networks, all of whose parameters are trained: one call of `vmap` over stacked weights."""

    def __init__(self, nets: Sequence[Net]) -> None:
        self.nets = nets
        for net in nets:
            net.train()  # stacking asks for one mode
        _, self.buffers = stack_module_state(list(nets))
        self.base = copy.deepcopy(nets[0])
        if self.base.head.weight.device.type != "cpu":
            use_products(self.base)
        names = [name for name, _ in nets[0].named_parameters()]
        by_name = [dict(net.named_parameters()) for net in nets]
        self.leaves = [
            torch.stack([parameters[name].detach() for parameters in by_name]).requires_grad_()
            for name in names
        ]
        replicas = [list(net.parameters()) for net in nets]
        self.weights, self.gradient, self._gradients = _flatten(replicas, self.leaves)
        self.parameters = dict(zip(names, self.leaves, strict=True))

    def __call__(self, x: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """(r, n, ...) inputs to (r, n, k) outputs."""

        def one(
            parameters: dict[str, Tensor],
            buffers: dict[str, Tensor],
            x: Tensor,
            masks: Sequence[Tensor],
        ) -> Tensor:
            outputs: Tensor = functional_call(self.base, (parameters, buffers), (x, masks))
            return outputs

        return torch.vmap(one)(self.parameters, self.buffers, x, list(masks))

    def train(self, mode: bool) -> None:
        """Training or evaluation mode."""
        self.base.train(mode)

    def statistics(self) -> list[Tensor]:
        """The buffers, which a call in training mode changes."""
        return list(self.buffers.values())

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor], replica: int) -> None:
        """Put one replica back to where it was."""
        for now, then in zip([self.weights, *self.statistics()], snapshot, strict=True):
            now[replica] = then[replica]

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy each replica's weights and buffers into its network."""
        trained = self.parameters | self.buffers
        copies: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for r, net in enumerate(self.nets):
            for name, tensor in _tensors(net).items():
                there, parts = copies.setdefault(tensor.dtype, ([], []))
                there.append(tensor)
                parts.append(trained[name][r])
        for there, parts in copies.values():  # of one type, so that few kernels do it
            torch._foreach_copy_(there, parts)


def _tensors(net: Net) -> dict[str, Tensor]:
    """The network's parameters and buffers by their names."""
    return dict(net.named_parameters()) | dict(net.named_buffers())


@torch.no_grad()
def _flatten(
    replicas: Sequence[Sequence[Tensor]], leaves: Sequence[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(r, P) weights, (r, P) gradient, and the gradient's views, one per leaf.

    The leaves become views of the weights. A leaf is (r, ...), the replicas' parameters stacked, or
    (...), one network's own parameter.
    """
    first = replicas[0]
    total = sum(p.numel() for p in first)
    weights = torch.empty(len(replicas), total, dtype=first[0].dtype, device=first[0].device)
    gradient = torch.zeros_like(weights)
    gradients = []
    offset = 0
    for leaf, p in zip(leaves, first, strict=True):
        # the parameter's own strides, so that channels-last kernels stay channels-last
        stride = p.stride() if leaf.ndim == p.ndim else (total, *p.stride())
        view = weights.as_strided(leaf.shape, stride, offset)
        leaf.data = view.copy_(leaf)
        gradients.append(gradient.as_strided(leaf.shape, stride, offset))
        offset += p.numel()
    return weights, gradient, gradients
