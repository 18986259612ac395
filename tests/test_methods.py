import copy
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from rtl_utils.coupled import Coupled
from rtl_utils.data import Shortcut, as_float, plant
from rtl_utils.heads import converge_head
from rtl_utils.lengths import PATH_EXAMPLES, PathLength
from rtl_utils.methods import METHODS, Knowledge, Setup, plan, pretrain, train, transfer
from rtl_utils.models import build, estimate_statistics, predict
from rtl_utils.paths import Path
from rtl_utils.schedules import CONSTANT
from rtl_utils.training import History, Replica, Sgd, TrainingDiverged, fit

WIDTH = (4, 4, 4, 4)
SETUP = Setup(
    sgd=Sgd(epochs=5, batch_size=8),
    width=WIDTH,
    coupled=Coupled(iterations=2, block=5, partitions=2),
)
STEPPING = [name for name, record in METHODS.items() if record.takes_steps]
FROM_A_GRID = [name for name, record in METHODS.items() if record.schedule == "grid"]


@pytest.fixture
def ends(pictures):
    return pictures("source", 1), pictures("target", 2)


@pytest.fixture
def backbone(ends):
    net = build(ends[0], WIDTH, seed=5)
    net(as_float(ends[0].x_train))  # BatchNorm statistics other than 0 and 1
    return net.eval()


@pytest.fixture
def knowledge(ends):
    source, target = ends
    spread = Shortcut(classes=tuple("abcde"), probability=0.2)
    few = Shortcut(classes=tuple("abcd"), probability=0.5)
    return Knowledge(
        plant(source, spread, seed=0, splits=("train",)),
        plant(target, few, seed=0, splits=("train",)),
    )


def prepared(method, backbone, ends, **changes):
    """The plan of a method in the setup of these tests, with changes."""
    return plan(method, backbone, *ends, seed=0, setup=replace(SETUP, **changes))


def transferred(method, backbone, ends, **changes):
    """Network and history of a method in the setup of these tests, with changes."""
    return transfer(method, backbone, *ends, seed=0, setup=replace(SETUP, **changes))


def numbers(history):
    """The history without its wall time."""
    return replace(history, seconds=0.0)


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(net, other):
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_transfer_leaves_the_backbone_as_it_is(backbone, ends, knowledge, method):
    before = copied(backbone)
    transferred(method, backbone, ends, knowledge=knowledge)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("method", STEPPING)
def test_transfer_takes_every_epoch(backbone, ends, knowledge, method):
    net, history = transferred(method, backbone, ends, knowledge=knowledge)
    lengths = {name: len(values) for name, values in history.series().items()}
    steered = {lengths.pop(name) for name in ("source_loss", "target_loss")}
    assert steered == {5 if method == "iso" else 0}
    assert set(lengths.values()) == {5}
    assert history.weight_length == sorted(history.weight_length)
    assert history.weight_length[0] > 0
    assert not torch.equal(net.head.weight, backbone.head.weight)


@pytest.mark.parametrize(
    "method", [name for name in STEPPING if METHODS[name].statistics == "updated"]
)
def test_batchnorm_sees_three_mini_batches_per_epoch(backbone, ends, knowledge, method):
    planned = prepared(method, backbone, ends, knowledge=knowledge)
    start = int(planned.net.body[0][1].num_batches_tracked)
    train([planned])
    seen = int(planned.net.body[0][1].num_batches_tracked) - start
    if method == "wise-ft":  # its statistics are estimated anew, in one pass
        assert seen == 1 - start
    else:
        assert seen == 5 * (2 if method == "iso" else 3)


@pytest.mark.parametrize("method", METHODS)
def test_plans_have_equal_numbers_of_steps(backbone, ends, knowledge, method):
    planned = prepared(method, backbone, ends, knowledge=knowledge, taus=(0, 1))
    assert len(planned.first.path) == (15 if method == "iso" else 20)  # it holds a fifth out
    assert replace(planned.first.sgd, l2_sp=0.0) == SETUP.sgd


def test_no_two_methods_are_one(backbone, ends, knowledge):
    heads = {
        method: transferred(method, backbone, ends, knowledge=knowledge)[0].head.weight
        for method in METHODS
    }
    for a, b in combinations(METHODS, 2):
        assert not torch.equal(heads[a], heads[b]), (a, b)


@pytest.mark.parametrize("method", METHODS)
def test_tau_goes_the_way_of_the_methods_schedule(backbone, ends, knowledge, method):
    _, history = transferred(method, backbone, ends, knowledge=knowledge, taus=(0, 0.4, 1))
    constant = {"before": [], "fixed": [1]}
    taus = {
        "constant": constant.get(method, [1] * 5),
        "grid": [0, 0, 0.4, 0.4, 1],
        "even": [0, 0.25, 0.5, 0.75, 1],
        "iso": sorted(history.tau),
    }
    assert history.tau == taus[METHODS[method].schedule]
    assert history.tau[-1:] in ([1], [])
    assert (history.start_loss is not None) == (method == "iso") == (len(history.source_loss) == 5)


def test_before_transfer_is_the_backbone_itself(backbone, ends):
    planned = prepared("before", backbone, ends)
    assert train([planned]) == [History()]
    assert planned.net is not backbone
    assert_same(planned.net, backbone)
    x = ends[1].x_val
    assert torch.equal(predict(planned.net, x), predict(backbone, x))


def test_nothing_to_train_is_done_at_once_beside_other_plans(backbone, ends):
    """Also where it comes first, last and in between."""
    names = ("before", "ft", "fixed", "scratch", "before")
    plans, done = [prepared(name, backbone, ends) for name in names], []
    histories = train(plans, on_done=lambda k, history: done.append(k))
    assert done[:3] == [0, 2, 4]
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert [len(history.tau) for history in histories] == [0, 5, 1, 5, 0]


def test_fixed_feature_changes_the_head_alone(backbone, ends):
    before = copied(backbone)
    net, _ = transferred("fixed", backbone, ends)
    for name, value in net.state_dict().items():  # weights and BatchNorm statistics
        assert torch.equal(value, before[name]) != name.startswith("head."), name


def test_fixed_feature_with_updated_statistics_keeps_the_bodys_weights(backbone, ends):
    net, _ = transferred("fixed-updated", backbone, ends)
    weights = dict(backbone.named_parameters())
    for name, value in net.named_parameters():
        assert torch.equal(value, weights[name]) != name.startswith("head."), name
    assert not torch.equal(net.body[0][1].running_mean, backbone.body[0][1].running_mean)


def test_a_lasso_on_a_first_layer_that_is_frozen_is_refused(backbone, ends):
    """It would fall on the head, the first of the weights that are trained."""
    with pytest.raises(ValueError, match="first layer, which 'fixed-updated' does not train"):
        transferred("fixed-updated", backbone, ends, sgd=replace(SETUP.sgd, l1=0.1))


@pytest.mark.parametrize("method", ["ft-frozen", "ut-frozen"])
def test_frozen_statistics_let_every_weight_move_and_no_statistic(backbone, ends, method):
    net, _ = transferred(method, backbone, ends)
    before, weights = copied(backbone), dict(backbone.named_parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) != (name in weights), name


def test_fixed_feature_is_the_converged_head_of_the_backbone(backbone, ends):
    _, target = ends
    net, history = transferred("fixed", backbone, ends)
    expected = copy.deepcopy(backbone)
    assert numbers(converge_head(expected, target)) == numbers(history)
    assert_same(net, expected)
    # five epochs of SGD do not come as far
    _, stepped = transferred("fixed-updated", backbone, ends)
    assert history.train_loss[-1] < stepped.train_loss[-1]


def test_numbers_that_sgd_reads_change_no_converged_head(backbone, ends):
    net, _ = transferred("fixed", backbone, ends)
    other, _ = transferred("fixed", backbone, ends, sgd=Sgd(lr=0.5, epochs=1, batch_size=4))
    assert_same(net, other)


def test_from_scratch_depends_on_the_seed_and_not_on_the_backbone(backbone, ends):
    a, _ = transferred("scratch", backbone, ends)
    b, _ = transferred("scratch", None, ends)
    assert_same(a, b)


@pytest.mark.parametrize("method", [name for name in FROM_A_GRID if name != "ct-iterated"])
def test_path_at_tau_one_is_fine_tuning(backbone, ends, knowledge, method):
    at_end, history = transferred(method, backbone, ends, knowledge=knowledge, taus=(1,))
    end = "ft-frozen" if METHODS[method].statistics == "frozen" else "ft"
    ft, ft_history = transferred(end, backbone, ends)
    assert_same(at_end, ft)
    assert numbers(history) == numbers(ft_history)


# --- what each of the known baselines is ---


def test_lp_ft_is_the_whole_fine_tuning_after_a_converged_head(backbone, ends):
    net, history = transferred("lp-ft", backbone, ends)
    start, _ = transferred("fixed", backbone, ends)
    start.frozen_statistics = False
    again = Replica(start, Path(ends[1]), CONSTANT, 0, SETUP.sgd)
    (expected,) = fit([again])
    assert_same(net, again.net)
    assert numbers(history) == numbers(expected)
    assert len(history.tau) == 5
    weights = dict(backbone.named_parameters())
    for name, value in net.named_parameters():
        assert not torch.equal(value, weights[name]), name


def averaged(backbone, ends, share):
    """The average of backbone and fine-tuned weights, with statistics of the target's images."""
    ft, _ = transferred("ft", backbone, ends)
    start = dict(backbone.named_parameters())
    with torch.no_grad():
        for name, p in ft.named_parameters():
            p.copy_((1 - share) * p + share * start[name])
    estimate_statistics(ft, ends[1].x_train)
    return ft


@pytest.mark.parametrize("share", [None, 0.0, 0.25, 1.0])
def test_wise_ft_is_the_average_of_backbone_and_fine_tuned(backbone, ends, share):
    wise, history = transferred("wise-ft", backbone, ends, backbone_share=share)
    ft, ft_history = transferred("ft", backbone, ends)
    expected = averaged(backbone, ends, 0.5 if share is None else share)
    torch.testing.assert_close(wise.state_dict(), expected.state_dict())
    assert numbers(history) == numbers(ft_history)
    ends_of = {0.0: ft, 1.0: backbone}
    if share in ends_of:
        for name, p in ends_of[share].named_parameters():
            assert torch.equal(p, dict(wise.named_parameters())[name]), name


def test_statistics_of_wise_ft_are_those_of_its_own_weights_on_the_target(backbone, ends):
    """An average of two networks' statistics fits the features of neither, nor of the average."""
    wise, _ = transferred("wise-ft", backbone, ends)
    ft, _ = transferred("ft", backbone, ends)
    first = wise.body[0][0]
    features = first(as_float(ends[1].x_train)).detach()
    norm = wise.body[0][1]
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, features.var((0, 2, 3)))
    means = [net.body[0][1].running_mean for net in (backbone, ft)]
    assert not torch.allclose(norm.running_mean, sum(means) / 2)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_share_of_the_backbone_lies_between_0_and_1(share):
    with pytest.raises(ValueError, match=f"backbone_share must lie between 0 .*got {share}"):
        Setup(backbone_share=share)


@pytest.mark.parametrize("method", ["scratch", "ft", "l2-sp"])
def test_share_of_the_backbone_changes_no_other_method(backbone, ends, knowledge, method):
    nets = [
        transferred(method, backbone, ends, knowledge=knowledge, backbone_share=share)[0]
        for share in (None, 0.9)
    ]
    assert_same(*nets)


def test_iso_holds_out_a_fifth_of_the_training_images_and_does_not_train_on_them(backbone, ends):
    path = prepared("iso", backbone, ends).first.path
    whole = [x.numpy().tobytes() for x in ends[1].x_train]
    trained = [x.numpy().tobytes() for x in path.target.x_train]
    held = [x.numpy().tobytes() for x in path.held_out.x_val]
    assert sorted(trained + held) == sorted(whole)
    assert not set(trained) & set(held)
    assert path.held_out.y_val.bincount().tolist() == [1] * 5
    assert torch.equal(path.target.x_val, ends[1].x_val)
    batch, _ = path.sample(1.0, len(path), seed=3)
    seen = {x.numpy().tobytes() for x in batch}
    assert not seen & {x.numpy().tobytes() for x in as_float(path.held_out.x_val)}


def test_only_an_adaptive_schedule_holds_images_out():
    for record in METHODS.values():
        assert (record.held_out > 0) == (record.schedule == "iso")


def test_l2_sp_is_fine_tuning_with_a_pull(backbone, ends):
    l2_sp, _ = transferred("l2-sp", backbone, ends)
    pulled = replace(SETUP.sgd, l2_sp=METHODS["l2-sp"].l2_sp)
    ft, _ = transferred("ft", backbone, ends, sgd=pulled)
    assert_same(l2_sp, ft)


def test_mixup_mixes_the_target_with_itself_and_never_sees_the_source(backbone, ends, pictures):
    source, target = ends
    (net, _), (other, _) = (
        transferred("mixup", backbone, (start, target)) for start in (source, pictures("source", 9))
    )
    assert_same(net, other)
    path = prepared("mixup", backbone, ends).first.path
    assert path.source is path.target is target
    assert path.blend == "symmetric"


def test_counter_examples_are_fine_tuning_on_the_target_that_carries_them(
    backbone, ends, knowledge
):
    source, _ = ends
    counter, _ = transferred("counter", backbone, ends, knowledge=knowledge)
    ft, _ = transferred("ft", backbone, (source, knowledge.countered))
    assert_same(counter, ft)


def test_decorrelated_source_takes_over_with_tau(backbone, ends, knowledge):
    path = prepared("ut-decorrelated", backbone, ends, knowledge=knowledge).first.path
    ut = prepared("ut", backbone, ends).first.path
    assert path == replace(ut, other_source=knowledge.spread)


def test_labels_fade_before_images(backbone, ends):
    (x, y), (x_fade, y_fade) = (
        prepared(m, backbone, ends).first.path.sample(0.5, 20, seed=0) for m in ("ut", "ut-fade")
    )
    assert torch.equal(x, x_fade)
    apart = y.max(1).values == 0.5  # pairs of two classes
    torch.testing.assert_close(
        y_fade[apart].sort(1).values[:, -2:],
        torch.tensor([0.125, 0.875]).expand(int(apart.sum()), 2),
    )


def test_iterated_coupling_hands_back_its_iterations(backbone, ends):
    planned = prepared("ct-iterated", backbone, ends)
    (history,) = train([planned])
    assert len(planned.iterations) == 2
    assert all(iteration.distance > 0 for iteration in planned.iterations)
    again = Replica(
        copy.deepcopy(backbone), planned.first.path, planned.first.schedule, 0, SETUP.sgd
    )
    # the last training, along the last coupling, from the backbone
    (once_more,) = fit([again])
    assert numbers(once_more) == numbers(history)
    assert_same(planned.net, again.net)


# --- training many plans ---


@pytest.mark.slow
def test_plans_trained_together_are_what_each_is_alone(backbone, ends):
    names, done = ("ft", "lp-ft", "ct-iterated", "fixed", "wise-ft"), []
    plans = [prepared(name, backbone, ends) for name in names]
    histories = train(plans, on_done=lambda k, history: done.append((k, history)))
    assert sorted(k for k, _ in done) == [0, 1, 2, 3, 4]
    assert all(histories[k] is history for k, history in done)
    for name, planned, history in zip(names, plans, histories, strict=True):
        net, alone = transferred(name, backbone, ends)
        torch.testing.assert_close(planned.net.state_dict(), net.state_dict())
        assert history.val_loss == pytest.approx(alone.val_loss, rel=1e-5)
        assert history.weight_length == pytest.approx(alone.weight_length, rel=1e-5)


@pytest.mark.parametrize("method", ["lp-ft", "ct-iterated"])
def test_stages_end_where_their_training_diverges(backbone, ends, method):
    wild = Sgd(lr=1e30, epochs=5, batch_size=8)
    plans = [prepared(method, backbone, ends, sgd=wild), prepared("ft", backbone, ends)]
    histories = train(plans)
    assert "learning rate 1e+30" in histories[0].diverged
    assert histories[1].diverged is None
    assert plans[0].iterations == []
    assert len(histories[1].tau) == 5
    with pytest.raises(TrainingDiverged, match="learning rate 1e\\+30"):
        transferred(method, backbone, ends, sgd=wild)


# --- how far predictions move ---


@pytest.mark.parametrize(
    "method",
    [name for name in STEPPING if name != "ct-iterated"],  # which measures its own pairs
)
def test_information_length_of_every_method_is_measured_where_asked(
    backbone, ends, knowledge, method
):
    planned = prepared(method, backbone, ends, knowledge=knowledge, partitions=5)
    train([planned])
    lengths = planned.lengths.mean
    assert lengths.shape == (500,)
    assert (lengths > 0).all()
    on_the_target = METHODS[method].blend in (None, "symmetric")
    assert (planned.path_length is not None) == on_the_target
    if on_the_target:
        assert planned.path_length > 0


def test_path_length_is_that_of_its_callback_over_the_first_random_examples(backbone, ends):
    planned = prepared("ft", backbone, ends, partitions=5)
    train([planned])
    alone = prepared("ft", backbone, ends)
    alone.first.callback = PathLength(planned.lengths.target[:PATH_EXAMPLES])
    fit([alone.first])
    assert planned.path_length == alone.first.callback.total > 0
    assert prepared("ft", backbone, ends).path_length is None
    # what is looked at changes nothing
    assert_same(planned.net, transferred("ft", backbone, ends)[0])


def test_no_information_length_where_none_is_asked_for(backbone, ends):
    assert prepared("ut", backbone, ends).lengths is None
    iterated = prepared("ct-iterated", backbone, ends)
    train([iterated])
    assert iterated.lengths is None


@pytest.mark.parametrize("method", ["ft", "ft-frozen"])
def test_length_of_one_partition_is_from_the_backbone_to_the_end(backbone, ends, method):
    planned = prepared(method, backbone, ends, partitions=1)
    train([planned])
    x = ends[1].x_train[planned.lengths.target]
    p, q = (predict(net, x).double().log_softmax(1) for net in (backbone, planned.net))
    expected = (p.exp() * (p - q)).sum(1).sqrt()
    mean = torch.tensor(planned.lengths.mean).double()
    torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-3)


# --- what is refused ---


def test_ut_at_tau_zero_first_is_not_fine_tuning(backbone, ends):
    (ut, _), (ft, _) = (
        transferred(method, copy.deepcopy(backbone), ends) for method in ("ut", "ft")
    )
    assert not torch.equal(ut.head.weight, ft.head.weight)


def test_unknown_method_is_refused(backbone, ends):
    with pytest.raises(ValueError, match=r"method must be one of before, scratch, ft.*got 'lora'"):
        transferred("lora", backbone, ends)


@pytest.mark.parametrize(
    "method", [name for name, record in METHODS.items() if record.start == "backbone"]
)
def test_transfer_without_a_backbone_is_refused(ends, method):
    with pytest.raises(ValueError, match="backbone"):
        transferred(method, None, ends)


@pytest.mark.parametrize("taus", [(0, 0.5), (1, 0), (0, 2), ()])
@pytest.mark.parametrize("method", FROM_A_GRID)
def test_bad_taus_are_refused(backbone, ends, knowledge, method, taus):
    with pytest.raises(ValueError, match="taus must rise"):
        transferred(method, backbone, ends, knowledge=knowledge, taus=taus)


@pytest.mark.parametrize(
    "method", [name for name, record in METHODS.items() if record.knows != "nothing"]
)
def test_method_that_must_know_the_shortcut_is_refused_without(backbone, ends, method):
    with pytest.raises(ValueError, match=f"method '{method}' must know where the shortcut is"):
        transferred(method, backbone, ends)


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("before", {"partitions": 2}, "'before' takes no steps of SGD.*leave partitions out"),
        ("fixed", {"partitions": 2}, "'fixed' takes no steps of SGD.*leave partitions out"),
        ("ft", {"partitions": 0}, "partitions must lie between 1 and the 5 epochs.*got 0"),
        ("ut", {"partitions": 6}, "partitions must lie between 1 and the 5 epochs.*got 6"),
        (
            "ct-iterated",
            {"coupled": Coupled(partitions=6)},
            "partitions must lie between 1 and the 5 epochs.*got 6",
        ),
        (
            "ct-iterated",
            {"coupled": Coupled(block=6, partitions=2)},
            "block must divide the 20 .*got 6",
        ),
        (
            "ct-iterated",
            {"coupled": Coupled(block=5, blocks=5, partitions=2)},
            "blocks must lie between 1 and 4.*got 5",
        ),
    ],
)
def test_plan_that_cannot_be_trained_is_refused(backbone, ends, method, change, says):
    with pytest.raises(ValueError, match=says):
        prepared(method, backbone, ends, **change)


@pytest.mark.parametrize(("method", "partitions"), [("ft", 2), ("ct-iterated", None)])
def test_regression_is_refused_an_information_length_when_planned(table, method, partitions):
    net = build(table(), "plain", 0)
    ends = table("source", 1), table("target", 2)
    with pytest.raises(ValueError, match="is a regression"):
        prepared(method, net, ends, width="plain", partitions=partitions)


# --- the table of methods ---


def test_every_method_has_a_label_a_colour_and_a_marker_of_its_own():
    for looks in ("label", "colour", "marker"):
        assert len({getattr(record, looks) for record in METHODS.values()}) == len(METHODS)


def test_method_that_needs_knowledge_says_what_its_user_must_know():
    for record in METHODS.values():
        assert record.needs_knowledge == (record.knows != "nothing")


def test_looks_of_a_method_are_no_part_of_its_choices():
    record = METHODS["ut"]
    renamed = replace(
        record, label="x", colour="#000000", marker=".", reference="y", knows="everything"
    )
    assert renamed.choices == record.choices
    assert replace(record, fade=2.0).choices != record.choices


def test_choices_of_a_method_leave_out_what_is_off():
    assert METHODS["ft"].choices.keys() == {
        "start",
        "coupling",
        "schedule",
        "trainable",
        "statistics",
        "fade",
        "version",
    }


# --- backbones ---


def test_pretrained_network_is_a_fresh_one_trained_on_its_task(pictures):
    task, sgd = pictures("source", 1), SETUP.sgd
    net, history = pretrain(task, seed=3, sgd=sgd, width=WIDTH)
    again = Replica(build(task, WIDTH, 3), Path(task), CONSTANT, 3, sgd)
    (expected,) = fit([again])
    assert numbers(history) == numbers(expected)
    assert_same(net, again.net)


def test_backbone_that_does_not_fit_the_target_is_refused(backbone, ends):
    source, target = ends
    grey = replace(target, x_train=target.x_train[:, :1], x_val=target.x_val[:, :1])
    with pytest.raises(ValueError, match=r"images of 3 channels.*images of 1 channel"):
        plan("ft", backbone, source, grey, seed=0, setup=SETUP)
    more = replace(target, class_names=(*target.class_names, "another"))
    with pytest.raises(ValueError, match=r"has 5 outputs.*needs 6 outputs"):
        plan("ft", backbone, source, more, seed=0, setup=SETUP)


def test_images_of_one_per_class_leave_nothing_to_hold_out(backbone, pictures):
    ends = pictures("source", 1), pictures("target", 2, per_class=1)
    with pytest.raises(ValueError, match="needs two or more; raise n_train"):
        prepared("iso", backbone, ends, sgd=Sgd(epochs=5, batch_size=4))
