import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from rtl_utils.data import as_float
from rtl_utils.models import (
    NETWORKS,
    Net,
    build,
    convnet,
    estimate_statistics,
    folded,
    mlp,
    parameter_count,
    predict,
    predict_features,
    rescale,
    stage_channels,
)


@pytest.mark.parametrize("width", ["plain", "batchnorm"])
def test_mlp_has_six_layers_and_92001_parameters(width):
    net = mlp(width)
    assert parameter_count(net) == 92_001
    assert sum(isinstance(m, nn.Linear) for m in net.modules()) == 6
    assert any(isinstance(m, nn.BatchNorm1d) for m in net.modules()) == (width == "batchnorm")


WITHOUT_BATCHNORM = ["small-plain", "wide-plain"]


@pytest.mark.parametrize("width", ["small", "wide", "paper", (4, 5, 6, 7), *WITHOUT_BATCHNORM])
@pytest.mark.parametrize("side", [16, 32])
def test_convnet_has_nine_convolutions_and_one_linear_layer(width, side):
    net = convnet(width)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * 9
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert norms == (0 if width in WITHOUT_BATCHNORM else 9)
    assert [m for m in net.modules() if isinstance(m, nn.Linear)] == [net.head]
    assert net(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_convnet_channels_are_the_widths():
    channels = {
        width: [m.out_channels for m in convnet(width).modules() if isinstance(m, nn.Conv2d)]
        for width in ("small", "small-plain", "wide", "wide-plain", "paper", (4, 5, 6, 7))
    }
    assert channels["small"] == [16, 16, 32, 32, 64, 64, 128, 128, 128]
    assert channels["wide"] == [2 * width for width in channels["small"]]
    assert channels["small-plain"] == channels["small"]
    assert channels["wide-plain"] == channels["wide"]
    assert channels["paper"] == [96, 96, 96, 192, 192, 192, 192, 192, 192]
    assert channels[4, 5, 6, 7] == [4, 4, 5, 5, 6, 6, 7, 7, 7]


@pytest.mark.parametrize("width", WITHOUT_BATCHNORM)
def test_signal_reaches_the_head_without_batchnorm(width, pictures):
    """With PyTorch's own first weights it would fade over ten layers to a hundredth."""
    net = build(pictures(), width, seed=0)
    assert float(predict_features(net, pictures().x_val).std()) > 0.1


def test_build_leaves_the_global_random_state_alone(pictures, table):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    build(pictures(), "small", seed=1)
    build(table(), "plain", seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_same_seed_same_weights_other_seed_other_weights(pictures):
    a, b, c = (build(pictures(), (4, 4, 4, 4), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


@pytest.mark.parametrize("width", ["large", "plain", (1, 2, 3), (0, 1, 1, 1), (1, 1, 1, 1.5), ()])
def test_unknown_cnn_width_is_refused(pictures, width):
    with pytest.raises(ValueError, match="width") as error:
        build(pictures(), width, seed=0)
    assert repr(width) in str(error.value)


@pytest.mark.parametrize("width", ["small", "", (4, 4, 4, 4)])
def test_unknown_mlp_width_is_refused(table, width):
    with pytest.raises(ValueError, match="width"):
        build(table(), width, seed=0)


def test_masks_stand_for_dropout():
    net = Net([nn.Identity(), nn.Identity()], (0.0, 0.5), nn.Linear(3, 1))
    x, mask = torch.ones(2, 3), torch.tensor([[0.0, 2, 0], [2, 2, 0]])
    assert torch.equal(net.features(x, [mask]), mask)
    assert torch.equal(net.features(x), x)
    assert net.mask_shapes(x) == [(0.5, torch.Size([3]))]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_predict_is_evaluation_mode_on_normalised_pixels_whatever_the_size(pictures, size):
    task, net = pictures(), convnet((4, 4, 4, 4))
    net(as_float(task.x_train))  # BatchNorm statistics other than 0 and 1
    statistics = {name: b.clone() for name, b in net.named_buffers()}
    output, features = predict(net, task.x_val, size), predict_features(net, task.x_val, size)
    torch.testing.assert_close(output, net.eval()(as_float(task.x_val)).detach())
    torch.testing.assert_close(output, net.head(features).detach())
    assert all(torch.equal(b, statistics[name]) for name, b in net.named_buffers())


def test_folded_network_is_the_same_function():
    net = convnet((4, 4, 8, 8)).double()
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net.train()
    net(x)  # moves the running statistics away from 0 and 1
    net.eval()
    flat = folded(net)
    torch.testing.assert_close(flat(x), net(x))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in flat.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


# --- the table of networks ---


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_table_can_be_built_for_its_kind_of_task(name, pictures, table):
    task = pictures() if NETWORKS[name].images else table()
    other = table() if NETWORKS[name].images else pictures()
    net = build(task, name, seed=0)
    assert predict(net, task.x_val).shape == (len(task.y_val), task.outputs)
    with pytest.raises(ValueError, match=f"width of a.* must be one of .*got '{name}'"):
        build(other, name, seed=0)


def test_named_width_is_its_four_stages():
    assert stage_channels("small") == NETWORKS["small"].channels == (16, 32, 64, 128)
    named, listed = convnet("small"), convnet((16, 32, 64, 128))
    assert [p.shape for p in named.parameters()] == [p.shape for p in listed.parameters()]


def test_new_network_of_one_record_can_be_built(monkeypatch, pictures):
    record = replace(NETWORKS["small"], channels=(4, 4, 4, 8))
    monkeypatch.setitem(NETWORKS, "tiny", record)
    assert build(pictures(), "tiny", seed=0).head.in_features == 8


# --- BatchNorm's statistics ---


def test_estimated_statistics_are_those_of_a_forward_pass_over_the_inputs(pictures):
    """Whatever they were before, and layer after layer."""
    task, net = pictures(per_class=20), convnet((4, 4, 4, 4))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.running_mean.fill_(7)
            norm.running_var.fill_(1e6)
    weights = copy.deepcopy(dict(net.named_parameters()))
    estimate_statistics(net, task.x_train)
    assert not net.training
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    shown = {}
    for norm in norms:
        norm.register_forward_hook(lambda norm, x, _: shown.update({norm: x[0]}))
    predict(net, task.x_train)
    for norm in norms:
        torch.testing.assert_close(
            norm.running_mean, shown[norm].mean((0, 2, 3)), rtol=0, atol=2e-2
        )
        torch.testing.assert_close(norm.running_var, shown[norm].var((0, 2, 3)), rtol=5e-2, atol=0)


def test_mini_batches_of_estimated_statistics_weigh_the_same(pictures):
    task, net = pictures(per_class=20), convnet((4, 4, 4, 4))
    x = as_float(task.x_train)
    first = net.body[0][0](x).mean((0, 2, 3)).detach()
    for size in (100, 25):
        estimate_statistics(net, task.x_train, size)
        torch.testing.assert_close(net.body[0][1].running_mean, first, rtol=1e-4, atol=1e-4)


def test_a_last_example_is_not_left_alone_with_batchnorm(table):
    """One example has no variance; 251 of them left one after the first 250."""
    net, task = build(table(), "batchnorm", 0), table(n=251)
    other = copy.deepcopy(net)
    estimate_statistics(net, task.x_train)
    estimate_statistics(other, task.x_train, size=251)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])


def filters(net):
    """Weights of the layers that a BatchNorm follows."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [layer.weight.detach().flatten(1) for layer in layers[:-1]]


@pytest.mark.parametrize("kind", ["images", "table"])
def test_rescaled_network_computes_the_same_from_filters_of_fresh_length(kind, pictures, table):
    task = pictures("a", 1) if kind == "images" else table()
    net = build(task, "small" if kind == "images" else "batchnorm", 0).double()
    fresh = [weight.norm(dim=1).mean().item() for weight in filters(net)]
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.mul_(3)
                if layer.bias is not None:
                    layer.bias.add_(1)
    estimate_statistics(net, task.x_train)
    net.body[0][0].weight.data[0] = 0  # a filter of no length stays
    before = predict(net, task.x_train)
    rescale(net)
    torch.testing.assert_close(predict(net, task.x_train), before, rtol=1e-3, atol=1e-3)
    lengths = [weight.norm(dim=1) for weight in filters(net)]
    assert lengths[0][0] == 0
    lengths[0] = lengths[0][1:]
    for length, usual in zip(lengths, fresh, strict=True):
        torch.testing.assert_close(length, torch.full_like(length, 3**-0.5))
        assert length[0].item() == pytest.approx(usual, rel=0.1)


def test_a_step_turns_a_filter_by_an_angle_that_falls_with_the_square_of_its_length(pictures):
    task = pictures("a", 1)
    turned = {}
    for scale in (1, 2):
        net = build(task, "small", 0).double()
        weight = net.body[1][0].weight
        with torch.no_grad():
            weight.mul_(scale)
        net.train()
        loss = nn.functional.cross_entropy(net(as_float(task.x_train, weight.dtype)), task.y_train)
        loss.backward()
        turned[scale] = (weight.grad.norm() / weight.detach().norm()).item()
    assert turned[1] / turned[2] == pytest.approx(4, rel=0.01)


def test_frozen_statistics_are_used_and_kept_in_training_mode(pictures):
    task, net = pictures(), convnet((4, 4, 4, 4))
    net(as_float(task.x_train))  # BatchNorm statistics other than 0 and 1
    evaluated = copy.deepcopy(net).eval()
    net.frozen_statistics = True
    net.train()
    x = as_float(task.x_val)
    torch.testing.assert_close(net(x), evaluated(x))
    before = dict(evaluated.named_buffers())
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())
    assert net.training
    assert net.head.training
