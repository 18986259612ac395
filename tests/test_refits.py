"""A refit is what it says: the least weights that give what the layers gave, on a path of tasks."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from rtl_utils.data import Shortcut, Task, as_float, load, plant
from rtl_utils.methods import Setup, pretrain, transfer
from rtl_utils.models import build, network_inputs, predict
from rtl_utils.paths import Path
from rtl_utils.refits import _moments, imitated, refit
from rtl_utils.training import Sgd

WIDTH = (4, 4, 8, 8)
draw = torch.Generator().manual_seed(0)


@pytest.fixture
def source(pictures):
    return pictures("source", 1, per_class=8)


@pytest.fixture
def target(pictures):
    return pictures("target", 2, per_class=8)


@pytest.fixture
def backbone(source):
    net, _ = pretrain(source, seed=0, sgd=Sgd(epochs=2, batch_size=8), width=WIDTH)
    return net.double()


def grey(task: Task) -> Task:
    """The task with its images' colours taken away."""

    def without_colour(x):
        return x.float().mean(1, keepdim=True).round().to(x.dtype).expand_as(x).contiguous()

    return replace(task, x_train=without_colour(task.x_train), x_val=without_colour(task.x_val))


def as_trained_on(net, task):
    """The network whose BatchNorm keeps the statistics that it has."""
    net = copy.deepcopy(net)
    net.frozen_statistics = True
    return net, predict(net, task.x_train)


def colour(net):
    """The part of the first layer's weights that answers to colour: no grey image excites it."""
    weight = net.body[0][0].weight.detach()
    return weight - weight.mean(1, keepdim=True)


def test_at_the_source_it_is_the_backbone(backbone, source, target):
    net, before = as_trained_on(backbone, source)
    refit(net, target, source, tau=0.0, smoothing=0.0)
    torch.testing.assert_close(predict(net, source.x_train), before)


def test_at_the_target_it_gives_what_the_backbone_gave_there_from_less_weight(backbone, target):
    shown = grey(target)
    net, before = as_trained_on(backbone, shown)
    refit(net, shown, smoothing=0.0)
    torch.testing.assert_close(predict(net, shown.x_train), before)
    assert colour(backbone).norm() > 0.1
    assert colour(net).abs().max() < 1e-9


def test_statistics_are_those_of_the_target(backbone, target):
    refit(backbone, target)
    (convolution, norm, *_) = backbone.body[0]
    given = convolution(network_inputs(backbone, target.x_train))
    torch.testing.assert_close(norm.running_mean, given.mean((0, 2, 3)), rtol=1e-6, atol=1e-9)


def patches(layer, x):
    """(m, d) what each output of a layer sees, cut out place by place."""
    if isinstance(layer, nn.Linear):
        return x
    (side, _), (step, _), (edge, _) = layer.kernel_size, layer.stride, layer.padding
    padded = nn.functional.pad(x, (edge, edge, edge, edge))
    places = range(0, padded.shape[-1] - side + 1, step)
    cut = [padded[:, :, i : i + side, j : j + side].flatten(1) for i in places for j in places]
    return torch.cat(cut)


def of_mixture(layer, inputs, shares):
    """(d,) mean and (d, d) covariance of a layer's patches, counted one by one."""
    seen = [patches(layer, x) for x in inputs]
    mean = sum(share * part.mean(0) for share, part in zip(shares, seen, strict=True))
    second = sum(s * part.T @ part / len(part) for s, part in zip(shares, seen, strict=True))
    return mean, second - mean.outer(mean)


def layers(net):
    """What an input passes, one after the other."""
    return [*(layer for stage in net.body for layer in stage), net.head]


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_each_layer_is_the_ridge_solution_on_what_the_refitted_ones_before_it_give(
    backbone, source, target, tau
):
    """The normal equations are solved directly, for all convolutions and the head."""
    backbone.frozen_statistics = True
    refitted = copy.deepcopy(backbone)
    refit(refitted, target, source, tau=tau, smoothing=0.1)
    shares = 1 - tau, tau
    inputs = [network_inputs(backbone, task.x_train) for task in (source, target)]
    solved = 0
    for old, new in zip(layers(backbone), layers(refitted), strict=True):
        if isinstance(old, nn.Conv2d | nn.Linear):
            _, covariance = of_mixture(old, inputs, shares)
            eps = 0.1 * covariance.diagonal().mean() * torch.eye(len(covariance))
            weight = old.weight.detach().flatten(1)
            wanted = weight @ covariance @ torch.linalg.inv(covariance + eps)
            torch.testing.assert_close(new.weight.detach().flatten(1), wanted)
            solved += 1
        with torch.no_grad():
            inputs = [new(x) for x in inputs]
    assert solved == 10


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_moments_are_those_of_a_direct_count(backbone, source, target, tau):
    layer = backbone.body[0][0]
    inputs = [network_inputs(backbone, task.x_train) for task in (source, target)]
    wanted = of_mixture(layer, inputs, (1 - tau, tau))
    for found, moment in zip(_moments(layer, inputs, (1 - tau, tau)), wanted, strict=True):
        torch.testing.assert_close(found, moment)


def test_moments_are_those_of_many_draws_of_the_path_that_blends_by_mixture(source, target):
    """A refit's tasks in the terms of `paths`: any coupling, the mixture, a step to tau."""
    path, tau = Path(target, source, blend="mixture"), 0.3
    drawn = [path.sample(tau, len(path), seed)[0].double() for seed in range(300)]
    layer = nn.Conv2d(3, 1, 3, padding=1).double()
    ends = [as_float(task.x_train).double() for task in (source, target)]
    mean, covariance = _moments(layer, ends, (1 - tau, tau))
    of_draws, spread = of_mixture(layer, [torch.cat(drawn)], [1])
    assert (of_draws - mean).norm() < 0.02 * covariance.diagonal().sum().sqrt()
    assert (spread - covariance).norm() < 0.02 * covariance.norm()


def test_closed_form_is_where_gradient_descent_on_the_imitation_task_ends():
    x = torch.randn(40, 6, generator=draw).double() @ torch.diag(torch.arange(6.0)).double() / 3
    weight = torch.randn(3, 6, generator=draw).double()
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    eps = 0.2 * covariance.diagonal().mean()
    v = torch.zeros_like(weight, requires_grad=True)
    optimiser = torch.optim.SGD([v], lr=0.1)
    for _ in range(2000):
        optimiser.zero_grad()
        error = (centred @ (v - weight).T).square().sum(1).mean() + eps * v.square().sum()
        error.backward()
        optimiser.step()
    torch.testing.assert_close(imitated(weight, covariance, 0.2), v.detach(), rtol=1e-6, atol=1e-8)


def test_more_smoothing_leaves_less_weight_and_no_input_leaves_none():
    x = torch.randn(40, 6, generator=draw).double()
    weight, covariance = torch.randn(3, 6, generator=draw).double(), x.T @ x / 40
    norms = [imitated(weight, covariance, smoothing).norm() for smoothing in (0, 0.1, 1, 10)]
    assert norms == sorted(norms, reverse=True)
    torch.testing.assert_close(imitated(weight, covariance, 0.0), weight)
    assert not imitated(weight, 0 * covariance, 0.03).any()
    assert not imitated(weight, 0 * covariance, 0.0).any()


@pytest.mark.parametrize("width", ["plain", "batchnorm"])
def test_a_perceptron_can_be_refitted_too(table, width):
    task = table()
    net = build(task, width, 0).double()
    net.frozen_statistics = True
    before = predict(net, task.x_train)
    refit(net, task, smoothing=0.0)
    torch.testing.assert_close(predict(net, task.x_train), before)


def test_fine_tuning_cannot_forget_colour_on_grey_images_and_a_refit_does():
    """The method's reason, on the real digits: the gradient of the colour's weights is zero."""
    clean = load("digits", "digits-0-4", 0)
    source = plant(clean, Shortcut(classes=clean.class_names[-1:]), 0)
    target = load("digits", "digits-5-9", 0, 10)
    backbone, _ = pretrain(source, seed=0, sgd=Sgd(epochs=2), width=WIDTH)
    setup = Setup(sgd=Sgd(epochs=3), width=WIDTH)
    tuned, _ = transfer("ft", backbone, source, target, seed=0, setup=setup)
    refitted, _ = transfer("refit", backbone, source, target, seed=0, setup=setup)
    assert colour(backbone).norm() > 0.1
    assert (colour(tuned) - colour(backbone)).norm() < 1e-5 * colour(backbone).norm()
    assert colour(refitted).norm() < 1e-5 * colour(backbone).norm()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tau": 1.5}, "tau must lie between 0 .* 1 .*; got 1.5"),
        ({"tau": -0.1}, "tau must lie between .*; got -0.1"),
        ({"smoothing": -1.0}, "smoothing must be 0 or more; got -1.0"),
        ({"smoothing": float("nan")}, "smoothing must be 0 or more; got nan"),
        ({"tau": 0.5}, "a tau below 1 needs the source; got tau = 0.5"),
    ],
)
def test_wrong_values_are_refused_before_a_weight_moves(backbone, target, values, says):
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(ValueError, match=says):
        refit(backbone, target, **values)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_refit_and_steps_leave_the_product_of_both_profiles_of_a_linear_backbone():
    """The numbers of docs/method.md, where eps = 1 / (rate x steps)."""
    rate, steps, n = 0.01, 100, 50
    variance = torch.logspace(-3, 1, 9, dtype=torch.float64)
    axes, _ = torch.linalg.qr(torch.randn(n, len(variance), generator=draw, dtype=torch.float64))
    inputs = axes * (n * variance).sqrt()  # their second moments are diag(variance)
    smoothing = 1 / (rate * steps * variance.mean())
    refitted = imitated(torch.ones(1, len(variance)).double(), torch.diag(variance), smoothing)
    net = nn.Linear(len(variance), 1, bias=False).double()
    net.weight.data = refitted.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    for _ in range(steps):  # the new task is "answer 0", so what is left is the backbone's
        optimizer.zero_grad()
        (net(inputs).square().mean() / 2).backward()
        optimizer.step()
    replaced = 1 - torch.exp(-rate * steps * variance)
    assert torch.allclose(net.weight[0], refitted[0] * (1 - replaced), atol=5e-3)
    assert net.weight.max() <= 0.21
    assert (refitted[0] - replaced).abs().max() <= 0.21


def test_in_a_linear_network_fine_tuning_leaves_what_no_input_excites_and_a_refit_nothing():
    """The first of two layers, whatever the second one does."""
    inputs = torch.randn(30, 6, generator=draw).double()
    inputs[:, 4:] = 0  # the target excites four directions of six
    answers = torch.randn(30, 2, generator=draw).double()
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 2, bias=False)).double()
    before = net[0].weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        (net(inputs) - answers).square().mean().backward()
        optimizer.step()
    assert torch.equal(net[0].weight[:, 4:], before[:, 4:])
    assert not torch.allclose(net[0].weight[:, :4], before[:, :4], atol=1e-3)
    refitted = imitated(before, inputs.T @ inputs / len(inputs), 0.3)
    assert refitted[:, 4:].abs().max() < 1e-12
    assert refitted[:, :4].abs().min() > 0
