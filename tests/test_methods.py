import copy
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from rtl_utils.coupled import Coupled
from rtl_utils.methods import METHODS, Shortcut, plan, train, transfer
from rtl_utils.models import build, predict
from rtl_utils.spurious import plant_share
from rtl_utils.tasks import as_float
from rtl_utils.training import Replica, Sgd, TrainingDiverged, fit

SETTINGS = {"seed": 0, "sgd": Sgd(epochs=5, batch_size=8), "width": (4, 4, 4, 4), "coupled": Coupled(iterations=2, block=5, partitions=2)}
GRID = (0, 0.25, 0.5, 0.75, 1)
FROM_A_GRID = [name for name, record in METHODS.items() if record.schedule == "grid"]


@pytest.fixture
def ends(pictures):
    return pictures("source", 1), pictures("target", 2)


@pytest.fixture
def backbone(ends):
    net = build(ends[0], SETTINGS["width"], seed=5)
    net(as_float(ends[0].x_train))  # BatchNorm statistics other than 0 and 1
    return net.eval()


@pytest.fixture
def shortcut(ends):
    source, target = ends
    return Shortcut(plant_share(source, tuple("abcde"), 0.2, seed=0), plant_share(target, tuple("abcd"), 0.5, seed=0))


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(net, other):
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_transfer_leaves_the_backbone_and_takes_equal_steps(backbone, ends, shortcut, method):
    before = copied(backbone)
    net, history = transfer(method, backbone, *ends, **SETTINGS, shortcut=shortcut)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    for name in ("tau", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "length"):
        assert len(getattr(history, name)) == 5
    assert history.length == sorted(history.length) and history.length[0] > 0
    assert not torch.equal(net.head.weight, before["head.weight"])
    if METHODS[method].statistics == "moving":  # BatchNorm counts the mini-batches: 3 an epoch for every method
        start = 0 if METHODS[method].start == "fresh" else int(before["body.0.1.num_batches_tracked"])
        epochs = 3 if METHODS[method].trainable == "head, then all" else 5  # the others are the head's, in which the body stands still
        assert int(net.body[0][1].num_batches_tracked) - start == 3 * epochs


@pytest.mark.parametrize("method", METHODS)
def test_plans_have_equal_numbers_of_steps(backbone, ends, shortcut, method):
    planned = plan(method, backbone, *ends, **SETTINGS, shortcut=shortcut, taus=(0, 1))
    assert len(planned.first.path) == 20 and replace(planned.first.sgd, l2_sp=0.0) == SETTINGS["sgd"]


def test_no_two_methods_are_one(backbone, ends, shortcut):
    heads = {method: transfer(method, backbone, *ends, **SETTINGS, shortcut=shortcut)[0].head.weight for method in METHODS}
    for a, b in combinations(METHODS, 2):
        assert not torch.equal(heads[a], heads[b]), (a, b)


@pytest.mark.parametrize("method", METHODS)
def test_tau_goes_the_way_of_the_methods_schedule(backbone, ends, shortcut, method):
    _, history = transfer(method, backbone, *ends, **SETTINGS, shortcut=shortcut, taus=(0, 0.4, 1))
    taus = {"constant": [1] * 5, "grid": [0, 0, 0.4, 0.4, 1], "even": [0, 0.25, 0.5, 0.75, 1], "iso": sorted(history.tau)}
    assert history.tau == taus[METHODS[method].schedule] and history.tau[-1] == 1
    assert (history.start_loss is not None) == (method == "iso") == (len(history.source_loss) == 5)


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
    assert_same(a, b)


@pytest.mark.parametrize("method", [name for name in FROM_A_GRID if name != "ct-iterated"])
def test_path_at_tau_one_is_fine_tuning(backbone, ends, shortcut, method):
    at_end, history = transfer(method, backbone, *ends, **SETTINGS, shortcut=shortcut, taus=(1,))
    ft, ft_history = transfer("ft", backbone, *ends, **SETTINGS)
    assert_same(at_end, ft)
    assert history == ft_history


# --- what each of the known rivals is ---------------------------------------------------------------------------------------------------


def test_lp_ft_trains_the_head_alone_then_everything(backbone, ends):
    planned = plan("lp-ft", backbone, *ends, **SETTINGS, taus=GRID)
    before, probe = copied(backbone), next(planned.program)
    (first,) = fit([probe])
    for name, value in planned.net.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("head."), name
    fixed, _ = transfer("fixed", backbone, *ends, **(SETTINGS | {"sgd": replace(SETTINGS["sgd"], epochs=2)}))
    torch.testing.assert_close(planned.net.head.weight, fixed.head.weight)
    rest = planned.program.send(first)
    (second,) = fit([rest])
    assert len(first.tau) + len(second.tau) == 5
    weights = dict(backbone.named_parameters())
    assert all(not torch.equal(value, weights[name]) for name, value in planned.net.named_parameters())
    steps = first.length + [first.length[-1] + length for length in second.length]
    with pytest.raises(StopIteration) as end:
        planned.program.send(second)
    history = end.value.value
    assert history.length == pytest.approx(steps) and history.val_loss == first.val_loss + second.val_loss


def test_wise_ft_is_the_average_of_backbone_and_fine_tuned(backbone, ends):
    (wise, history), (ft, ft_history) = (transfer(method, backbone, *ends, **SETTINGS) for method in ("wise-ft", "ft"))
    start, end = backbone.state_dict(), ft.state_dict()
    for name, value in wise.state_dict().items():
        torch.testing.assert_close(value, (start[name] + end[name]) / 2 if value.is_floating_point() else end[name])
    assert history == ft_history


def test_l2_sp_is_fine_tuning_with_a_pull(backbone, ends):
    l2_sp, _ = transfer("l2-sp", backbone, *ends, **SETTINGS)
    pulled = replace(SETTINGS["sgd"], l2_sp=METHODS["l2-sp"].l2_sp)
    ft, _ = transfer("ft", backbone, *ends, **(SETTINGS | {"sgd": pulled}))
    assert_same(l2_sp, ft)


def test_mixup_mixes_the_target_with_itself_and_never_sees_the_source(backbone, ends, pictures):
    source, target = ends
    (net, _), (other, _) = (transfer("mixup", backbone, start, target, **SETTINGS) for start in (source, pictures("source", 9)))
    assert_same(net, other)
    path = plan("mixup", backbone, *ends, **SETTINGS, taus=GRID).first.path
    assert path.source is path.target is target and path.blend == "symmetric"


def test_counter_examples_are_fine_tuning_on_the_target_that_carries_them(backbone, ends, shortcut):
    source, target = ends
    counter, _ = transfer("counter", backbone, source, target, **SETTINGS, shortcut=shortcut)
    ft, _ = transfer("ft", backbone, source, shortcut.countered, **SETTINGS)
    assert_same(counter, ft)


def test_decorrelated_source_takes_over_with_tau(backbone, ends, shortcut):
    path = plan("ut-decorrelated", backbone, *ends, **SETTINGS, shortcut=shortcut, taus=GRID).first.path
    assert path == replace(plan("ut", backbone, *ends, **SETTINGS, taus=GRID).first.path, moved=shortcut.spread)


def test_labels_fade_before_images(backbone, ends):
    (x, y), (x_fade, y_fade) = (plan(m, backbone, *ends, **SETTINGS, taus=GRID).first.path.sample(0.5, 20, seed=0) for m in ("ut", "ut-fade"))
    assert torch.equal(x, x_fade)
    apart = y.max(1).values == 0.5  # pairs of two classes
    torch.testing.assert_close(y_fade[apart].sort(1).values[:, -2:], torch.tensor([0.125, 0.875]).expand(int(apart.sum()), 2))


def test_iterated_coupling_hands_back_its_iterations(backbone, ends):
    planned = plan("ct-iterated", backbone, *ends, **SETTINGS, taus=GRID)
    (history,) = train([planned])
    assert len(planned.iterations) == 2 and all(iteration.distance > 0 for iteration in planned.iterations)
    again = Replica(copy.deepcopy(backbone), planned.first.path, planned.first.schedule, 0, SETTINGS["sgd"])
    assert fit([again]) == [history]  # the last training, along the last coupling, from the backbone
    assert_same(planned.net, again.net)


# --- training many plans ----------------------------------------------------------------------------------------------------------------


def test_plans_trained_together_are_what_each_is_alone(backbone, ends):
    names, done = ("ft", "lp-ft", "ct-iterated", "fixed", "wise-ft"), []
    plans = [plan(name, backbone, *ends, **SETTINGS, taus=GRID) for name in names]
    histories = train(plans, on_done=lambda k, history: done.append((k, history)))
    assert sorted(k for k, _ in done) == [0, 1, 2, 3, 4] and all(histories[k] is history for k, history in done)
    for name, planned, history in zip(names, plans, histories, strict=True):
        net, alone = transfer(name, backbone, *ends, **SETTINGS)
        torch.testing.assert_close(planned.net.state_dict(), net.state_dict())
        assert history.val_loss == pytest.approx(alone.val_loss, rel=1e-5) and history.length == pytest.approx(alone.length, rel=1e-5)


@pytest.mark.parametrize("method", ["lp-ft", "ct-iterated"])
def test_program_ends_where_its_training_diverges(backbone, ends, method):
    wild = SETTINGS | {"sgd": Sgd(lr=1e30, epochs=5, batch_size=8)}
    plans = [plan(name, backbone, *ends, **settings, taus=GRID) for name, settings in ((method, wild), ("ft", SETTINGS))]
    histories = train(plans)
    assert "learning rate 1e+30" in histories[0].diverged and histories[1].diverged is None
    assert plans[0].iterations == [] and len(histories[1].tau) == 5
    with pytest.raises(TrainingDiverged, match="learning rate 1e\\+30"):
        transfer(method, backbone, *ends, **wild)


# --- how far predictions move -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("ct-iterated", "lp-ft")])  # the one watches its coupling's pairs
def test_information_length_of_every_method_is_measured_where_asked(backbone, ends, shortcut, method):
    planned = plan(method, backbone, *ends, **SETTINGS, taus=GRID, shortcut=shortcut, partitions=5)
    train([planned])
    lengths = planned.first.watch.mean
    assert lengths.shape == (500,) and (lengths > 0).all()


@pytest.mark.parametrize("method", ["ft", "fixed"])
def test_length_of_one_partition_is_from_the_backbone_to_the_end(backbone, ends, method):
    planned = plan(method, backbone, *ends, **SETTINGS, taus=GRID, partitions=1)
    train([planned])
    p, q = (predict(net, ends[1].x_train[planned.first.watch.target]).double().log_softmax(1) for net in (backbone, planned.net))
    torch.testing.assert_close(torch.tensor(planned.first.watch.mean).double(), (p.exp() * (p - q)).sum(1).sqrt(), rtol=1e-3, atol=1e-3)


# --- what is refused --------------------------------------------------------------------------------------------------------------------


def test_ut_at_tau_zero_first_is_not_fine_tuning(backbone, ends):
    (ut, _), (ft, _) = (transfer(method, copy.deepcopy(backbone), *ends, **SETTINGS) for method in ("ut", "ft"))
    assert not torch.equal(ut.head.weight, ft.head.weight)


def test_unknown_method_is_refused(backbone, ends):
    with pytest.raises(ValueError, match=r"method must be one of scratch, ft.*got 'lora'"):
        transfer("lora", backbone, *ends, **SETTINGS)


@pytest.mark.parametrize("method", [name for name, record in METHODS.items() if record.start == "backbone"])
def test_transfer_without_a_backbone_is_refused(ends, method):
    with pytest.raises(ValueError, match="backbone"):
        transfer(method, None, *ends, **SETTINGS)


@pytest.mark.parametrize("taus", [(0, 0.5), (1, 0), (0, 2), ()])
@pytest.mark.parametrize("method", FROM_A_GRID)
def test_bad_taus_are_refused(backbone, ends, shortcut, method, taus):
    with pytest.raises(ValueError, match="taus must rise"):
        transfer(method, backbone, *ends, **SETTINGS, shortcut=shortcut, taus=taus)


@pytest.mark.parametrize("method", [name for name, record in METHODS.items() if record.knows != "nothing"])
def test_method_that_must_know_the_shortcut_is_refused_without(backbone, ends, method):
    with pytest.raises(ValueError, match=f"method '{method}' must know where the shortcut is"):
        transfer(method, backbone, *ends, **SETTINGS)


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("lp-ft", {"partitions": 2}, "'lp-ft' is two trainings"),
        ("lp-ft", {"sgd": Sgd(epochs=1, batch_size=8)}, "'lp-ft' splits its epochs .*2 or more; got 1"),
        ("ft", {"partitions": 0}, "partitions must lie between 1 and the 5 epochs.*got 0"),
        ("ut", {"partitions": 6}, "partitions must lie between 1 and the 5 epochs.*got 6"),
        ("ct-iterated", {"coupled": Coupled(partitions=6)}, "partitions must lie between 1 and the 5 epochs.*got 6"),
        ("ct-iterated", {"coupled": Coupled(block=6, partitions=2)}, "block must divide the 20 .*got 6"),
        ("ct-iterated", {"coupled": Coupled(block=5, blocks=5, partitions=2)}, "blocks must lie between 1 and 4.*got 5"),
    ],
)
def test_plan_that_cannot_be_trained_is_refused(backbone, ends, method, change, says):
    with pytest.raises(ValueError, match=says):
        plan(method, backbone, *ends, **(SETTINGS | change), taus=GRID)


def test_regression_is_refused_an_information_length_when_it_is_planned(table):
    for method, partitions in (("ft", 2), ("ct-iterated", None)):
        with pytest.raises(ValueError, match="is a regression"):
            plan(
                method,
                build(table(), "plain", 0),
                table("source", 1),
                table("target", 2),
                **(SETTINGS | {"width": "plain"}),
                taus=GRID,
                partitions=partitions,
            )


def test_every_method_has_a_colour_and_a_marker_of_its_own():
    from rtl_utils.plotting import COLOURS, MARKERS

    assert set(METHODS) <= set(COLOURS) and set(METHODS) <= set(MARKERS)
    assert len(set(COLOURS.values())) == len(COLOURS) and len(set(MARKERS.values())) == len(MARKERS)
