"""Convolutions of a stack as products of matrices, one per network: what a GPU computes fast.

`vmap` turns the convolutions of r networks into one with r groups, for which cuDNN's deterministic
algorithms are slow: docs/tried.md has the times.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PATCH_BYTES = 1 << 30  # bytes of patches that an evaluation holds at once


def use_products(net: nn.Module) -> None:
    """Compute the convolutions of a network by products wherever it is called inside `vmap`.

    Those with a stride, or whose output is not as large as their input, are left as they are.

    Args:
        net: whose layers change their class; its weights stay.
    """
    for layer in net.modules():
        if type(layer) is nn.Conv2d and _keeps_size(layer):
            layer.__class__ = _Convolution


def _keeps_size(layer: nn.Conv2d) -> bool:
    simple = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    same = layer.padding == tuple(k // 2 for k in layer.kernel_size)
    odd = all(k % 2 for k in layer.kernel_size)
    return simple and same and odd and layer.padding_mode == "zeros"


class _Convolution(nn.Conv2d):
    """A convolution that a stack computes by products."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output: Tensor = _NetworkConvolution.apply(input, weight)  # type: ignore[no-untyped-call]
        return output if bias is None else output + bias[:, None, None]


class _NetworkConvolution(torch.autograd.Function):
    """One network's convolution, which inside `vmap` becomes that of the stack."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        """Raises NotImplementedError: a network by itself uses torch's own convolution."""
        raise NotImplementedError("a convolution by products is one of a stack, inside vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is kept: only the stack's has a gradient."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], x: Tensor, weight: Tensor
    ) -> tuple[Tensor, int]:
        """The outputs of all networks, stacked in front."""
        x, weight = (
            value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip((x, weight), in_dims, strict=True)
        )
        if torch.is_grad_enabled():
            return _StackConvolution.apply(x, weight), 0  # type: ignore[no-untyped-call]
        patch = weight[0, 0].numel()
        at_once = max(1, _PATCH_BYTES // (patch * x[0, :, 0].numel() * x.element_size()))
        parts = zip(x.split(at_once), weight.split(at_once), strict=True)
        return torch.cat([_product(_columns(*part), part[1], part[0]) for part in parts]), 0


class _StackConvolution(torch.autograd.Function):
    """(r, n, o, h, w) outputs of (r, n, c, h, w) inputs under (r, o, c, k, l) weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Keeps the columns, as making them again costs as much as the product."""
        columns = _columns(x, weight)
        ctx.save_for_backward(columns if ctx.needs_input_grad[1] else None, weight)
        return _product(columns, weight, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The input's gradient is the convolution of the output's with the weights turned over."""
        columns, weight = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[1]:
            rows = gradient.transpose(1, 2).flatten(2)
            weight_gradient = torch.bmm(rows, columns.mT).reshape(weight.shape)
        if ctx.needs_input_grad[0]:
            turned = weight.flip(3, 4).transpose(1, 2)
            x_gradient = _product(_columns(gradient, turned), turned, gradient)
        return x_gradient, weight_gradient


def _columns(x: Tensor, weight: Tensor) -> Tensor:
    """(r, c k l, n h w): the patch of (r, n, c, h, w) inputs that each output sees, as a column."""
    r, n, c, h, w = x.shape
    down, across = weight.shape[3:]
    edges = (across // 2, across // 2, down // 2, down // 2)
    padded = functional.pad(x.transpose(1, 2), edges)
    columns = x.new_empty(r, c, down, across, n, h, w)
    for k in range(down):  # copies of few dimensions are much faster than one of seven
        for j in range(across):
            columns[:, :, k, j].copy_(padded[..., k : k + h, j : j + w])
    return columns.flatten(4).flatten(1, 3)


def _product(columns: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """(r, n, o, h, w) outputs of columns; `like` has their (r, n, ..., h, w)."""
    r, n, _, h, w = like.shape
    outputs = torch.bmm(weight.flatten(2), columns)
    return outputs.reshape(r, -1, n, h, w).transpose(1, 2)
