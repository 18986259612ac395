import copy

import pytest
import torch

from rtl_utils.methods import METHODS, plan, transfer
from rtl_utils.models import build, predict
from rtl_utils.tasks import as_float
from rtl_utils.training import Sgd

SETTINGS = {"seed": 0, "sgd": Sgd(epochs=5, batch_size=8), "width": (4, 4, 4, 4)}


@pytest.fixture
def ends(pictures):
    return pictures("source", 1), pictures("target", 2)


@pytest.fixture
def backbone(ends):
    net = build(ends[0], SETTINGS["width"], seed=5)
    net(as_float(ends[0].x_train))  # BatchNorm statistics other than 0 and 1
    return net.eval()


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_transfer_leaves_the_backbone_and_takes_equal_steps(backbone, ends, method):
    before = copied(backbone)
    net, history = transfer(method, backbone, *ends, **SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert len(history.train_loss) == 5
    assert not torch.equal(net.head.weight, before["head.weight"])
    if METHODS[method].statistics == "moving":  # BatchNorm counts the mini-batches: 3 an epoch for every method
        start = 0 if METHODS[method].start == "fresh" else int(before["body.0.1.num_batches_tracked"])
        assert int(net.body[0][1].num_batches_tracked) - start == 15


@pytest.mark.parametrize("method", METHODS)
def test_plans_have_equal_numbers_of_steps(backbone, ends, method):
    _, replica = plan(method, backbone, *ends, **SETTINGS, taus=(0, 1))
    assert len(replica.path) == 20 and replica.sgd == SETTINGS["sgd"]


def test_fixed_feature_changes_the_head_alone(backbone, ends):
    before = copied(backbone)
    net, _ = transfer("fixed", backbone, *ends, **SETTINGS)
    for name, value in net.state_dict().items():  # weights and BatchNorm statistics
        assert torch.equal(value, before[name]) != name.startswith("head."), name


def test_fixed_feature_with_moving_statistics_keeps_the_bodys_weights(backbone, ends):
    net, _ = transfer("fixed-moving", backbone, *ends, **SETTINGS)
    weights = dict(backbone.named_parameters())
    for name, value in net.named_parameters():
        assert torch.equal(value, weights[name]) != name.startswith("head."), name
    assert not torch.equal(net.body[0][1].running_mean, backbone.body[0][1].running_mean)


def test_fine_tuning_with_still_statistics_moves_every_weight_and_no_statistic(backbone, ends):
    net, _ = transfer("ft-still", backbone, *ends, **SETTINGS)
    before, weights = copied(backbone), dict(backbone.named_parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) != (name in weights), name


def test_fixed_feature_is_the_training_of_a_linear_layer_on_the_features(backbone, ends):
    _, target = ends
    net, history = transfer("fixed", backbone, *ends, **SETTINGS)
    output = predict(net, target.x_val)
    assert history.val_accuracy[-1] == pytest.approx(float((output.argmax(1) == target.y_val).float().mean()))


def test_from_scratch_depends_on_the_seed_and_not_on_the_backbone(backbone, ends):
    a, _ = transfer("scratch", backbone, *ends, **SETTINGS)
    b, _ = transfer("scratch", None, *ends, **SETTINGS)
    assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("method", ["ut", "ut-mixture"])
def test_ut_follows_the_grid_from_source_to_target(backbone, ends, method):
    _, history = transfer(method, backbone, *ends, **SETTINGS)
    assert history.tau == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("method", ["ut", "ut-mixture"])
def test_ut_at_tau_one_is_fine_tuning(backbone, ends, method):
    ut, ut_history = transfer(method, backbone, *ends, **SETTINGS, taus=(1,))
    ft, ft_history = transfer("ft", backbone, *ends, **SETTINGS)
    assert all(torch.equal(value, ft.state_dict()[name]) for name, value in ut.state_dict().items())
    assert ut_history == ft_history


def test_ut_at_tau_zero_first_is_not_fine_tuning(backbone, ends):
    (ut, _), (ft, _) = (transfer(method, copy.deepcopy(backbone), *ends, **SETTINGS) for method in ("ut", "ft"))
    assert not torch.equal(ut.head.weight, ft.head.weight)


def test_unknown_method_is_refused(backbone, ends):
    with pytest.raises(ValueError, match=r"method must be one of scratch, ft.*got 'lora'"):
        transfer("lora", backbone, *ends, **SETTINGS)


@pytest.mark.parametrize("method", ["ft", "fixed"])
def test_transfer_without_a_backbone_is_refused(ends, method):
    with pytest.raises(ValueError, match="backbone"):
        transfer(method, None, *ends, **SETTINGS)


@pytest.mark.parametrize("taus", [(0, 0.5), (1, 0), (0, 2), ()])
def test_bad_taus_are_refused(backbone, ends, taus):
    with pytest.raises(ValueError, match="taus must rise"):
        transfer("ut", backbone, *ends, **SETTINGS, taus=taus)


def test_every_method_has_a_colour_and_a_marker_of_its_own():
    from rtl_utils.plotting import COLOURS, MARKERS

    assert set(METHODS) <= set(COLOURS) and set(METHODS) <= set(MARKERS)
    assert len(set(COLOURS.values())) == len(COLOURS) and len(set(MARKERS.values())) == len(MARKERS)
