"""Convolutions of a stack as products: they must be the convolutions of each network."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from rtl_utils.models import build
from rtl_utils.training import _products
from rtl_utils.training._products import use_products
from rtl_utils.training._programs import Stacked

R, N, C, OUT, SIDE = 3, 2, 4, 5, 6


@pytest.fixture
def layer():
    """A function that convolves a stack by products: weights, inputs, biases -> outputs."""

    def make(kernel, bias):
        padding = tuple(k // 2 for k in kernel)
        base = nn.Conv2d(C, OUT, kernel, padding=padding, bias=bias).double()
        use_products(base)

        def call(x, weight, bias=None):
            def one(x, *parameters):
                names = ("weight", "bias")[: len(parameters)]
                given = dict(zip(names, parameters, strict=True))
                return torch.func.functional_call(base, given, (x,))

            return torch.vmap(one)(x, weight, *([] if bias is None else [bias]))

        return call

    return make


def stack(kernel, bias):
    """Random inputs and parameters of a stack, and what torch's convolutions make of them."""
    torch.manual_seed(0)
    shapes = [(R, N, C, SIDE, SIDE), (R, OUT, C, *kernel), *([(R, OUT)] if bias else [])]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    padding = tuple(k // 2 for k in kernel)
    each = [functional.conv2d(*parts, padding=padding) for parts in zip(*given, strict=True)]
    return given, torch.stack(each)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3)])
def test_outputs_and_gradients_are_those_of_each_network(layer, kernel, bias):
    given, expected = stack(kernel, bias)
    found = layer(kernel, bias)(*given)
    torch.testing.assert_close(found, expected)
    pull = torch.randn_like(expected)
    gradients = torch.autograd.grad((found * pull).sum(), given)
    for one, other in zip(
        gradients, torch.autograd.grad((expected * pull).sum(), given), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_an_evaluation_in_parts_gives_the_same(layer, monkeypatch):
    given, expected = stack((3, 3), True)
    monkeypatch.setattr(_products, "_PATCH_BYTES", 1)  # one network at a time
    with torch.no_grad():
        torch.testing.assert_close(layer((3, 3), True)(*given), expected)


def test_where_the_weights_are_held_no_patches_are_kept(layer):
    given, expected = stack((3, 3), False)
    x, weight = given[0], given[1].detach()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        found = layer((3, 3), False)(x, weight)
    assert max(kept) < 9 * x.numel()
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), given[0])[0])


def test_only_convolutions_that_keep_the_size_change(pictures):
    task = pictures("target", 0)
    changed = {}
    for width in ("small", "paper"):
        net = build(task, width, 0)
        use_products(net)
        convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
        changed[width] = [type(layer) is not nn.Conv2d for layer in convolutions]
        strides = [layer.stride == (1, 1) for layer in convolutions]
        assert changed[width] == strides
    assert all(changed["small"])
    assert not all(changed["paper"])


def test_held_weights_have_no_gradient_until_afterwards_even_after_an_error(pictures):
    program = Stacked([build(pictures("target", 0), (2, 2, 2, 2), 0)])
    seen = []

    def fails():
        with program.frozen_weights():
            seen.extend(leaf.requires_grad for leaf in program.leaves)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert seen
    assert not any(seen)
    assert all(leaf.requires_grad for leaf in program.leaves)
