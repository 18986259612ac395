"""Networks of one architecture as one program: weights and gradients are flat (r, P) tensors that the training loop updates.

`Single` runs the module itself; `Stacked` runs r modules at once with `vmap`. Both answer the same calls, so there is one training loop.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class Single:
    """One network (r = 1). Its trainable parameters become views into `weights`, so that an update of `weights` is an update of the network."""

    def __init__(self, nets: Sequence[nn.Module]):
        (self.net,) = nets
        trainable = [p for p in self.net.parameters() if p.requires_grad]
        self.weights, self.gradient = _flatten([trainable], trainable)

    def __call__(self, x: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """(1, n, ...) inputs to (1, n, k) outputs."""
        return self.net(x[0], [mask[0] for mask in masks])[None]

    def backward(self, loss: Tensor) -> None:
        """Put the gradient of the (1,) loss into `gradient`."""
        self.gradient.zero_()
        loss.sum().backward()

    def train(self, mode: bool) -> None:
        self.net.train(mode)

    def snapshot(self) -> list[Tensor]:
        """Copies of weights and buffers, for `restore`."""
        return [self.weights.clone(), *(buffer.clone() for buffer in self.net.buffers())]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor], replica: int) -> None:
        """Put one replica back to where it was."""
        for now, then in zip([self.weights, *self.net.buffers()], snapshot, strict=True):
            now.copy_(then)

    def write_back(self) -> None:
        """The networks get the trained weights; here they already have them."""


class Stacked:
    """r networks, all of whose parameters are trained, as one batched program: one call of `vmap` over stacked weights and buffers."""

    def __init__(self, nets: Sequence[nn.Module]):
        self.nets = nets
        for net in nets:
            net.train()  # stacking asks for one mode
        _, self.buffers = stack_module_state(list(nets))
        self.base = copy.deepcopy(nets[0])
        names = [name for name, _ in nets[0].named_parameters()]
        stacked = [torch.stack([dict(net.named_parameters())[name].detach() for net in nets]).requires_grad_() for name in names]
        self.weights, self.gradient = _flatten([list(net.parameters()) for net in nets], stacked)
        self.parameters = dict(zip(names, stacked, strict=True))

    def __call__(self, x: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """(r, n, ...) inputs to (r, n, k) outputs; masks: (r, n, ...) each."""

        def one(parameters, buffers, x, masks):
            return functional_call(self.base, (parameters, buffers), (x, masks))

        return torch.vmap(one)(self.parameters, self.buffers, x, list(masks))

    def backward(self, loss: Tensor) -> None:
        """Put the gradient of each of the (r,) losses into its row of `gradient`; replicas share no weight, so their sum serves all."""
        gradients = torch.autograd.grad(loss.sum(), list(self.parameters.values()))
        torch._foreach_copy_([leaf.grad for leaf in self.parameters.values()], gradients)

    def train(self, mode: bool) -> None:
        self.base.train(mode)

    def snapshot(self) -> list[Tensor]:
        """Copies of weights and buffers, for `restore`."""
        return [self.weights.clone(), *(buffer.clone() for buffer in self.buffers.values())]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor], replica: int) -> None:
        """Put one replica back to where it was."""
        for now, then in zip([self.weights, *self.buffers.values()], snapshot, strict=True):
            now[replica] = then[replica]

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy each replica's weights and buffers into its network."""
        for r, net in enumerate(self.nets):
            for name, parameter in net.named_parameters():
                parameter.copy_(self.parameters[name][r])
            for name, buffer in net.named_buffers():
                buffer.copy_(self.buffers[name][r])


@torch.no_grad()
def _flatten(replicas: Sequence[Sequence[Tensor]], leaves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(r, P) weights and gradients, and `leaves` turned into views of them: (r, ...) each, or (...) where the leaves are one network's own."""
    first, r = replicas[0], len(replicas)
    total = sum(p.numel() for p in first)
    weights = torch.empty(r, total, dtype=first[0].dtype, device=first[0].device)
    gradient, offset = torch.zeros_like(weights), 0
    for leaf, p in zip(leaves, first, strict=True):
        # the parameter's own strides, so that channels-last kernels stay channels-last
        stride = p.stride() if leaf.ndim == p.ndim else (total, *p.stride())
        view = weights.as_strided(leaf.shape, stride, offset)
        leaf.data = view.copy_(leaf)
        leaf.grad = gradient.as_strided(leaf.shape, stride, offset)
        offset += p.numel()
    return weights, gradient
