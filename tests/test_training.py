import copy
import gc
import math
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_notebooks import workers
from torch import nn

from rtl_utils.data import Task, as_float, hold_out
from rtl_utils.models import Net, build, estimate_statistics, mlp
from rtl_utils.paths import Path
from rtl_utils.schedules import CONSTANT, Grid, IsoClassification
from rtl_utils.training import (
    Replica,
    Sgd,
    TrainingDiverged,
    epochs_of,
    example_loss,
    fit,
    loop,
    one_thread,
)
from rtl_utils.training._programs import Single, Stacked
from rtl_utils.training.loop import _train

FAST = Sgd(lr=0.05, epochs=2, batch_size=8)


def between(source, target, schedule):
    """A path for a schedule, which may look at a quarter of the target's training examples."""
    held = None
    if schedule.adaptive:
        target, held = hold_out(target, 0.25, seed=0)
    return Path(target, source, held_out=held)


@pytest.fixture
def cnn(pictures):
    """Makes a replica with a tiny ten-layer CNN on small pictures, from source to target."""

    def make(
        seed: int = 0, sgd: Sgd = FAST, grid: Grid = Grid((0.5, 1.0)), double: bool = False
    ) -> Replica:
        net = build(pictures(), (4, 4, 4, 4), seed)
        return Replica(
            net.double() if double else net,
            between(pictures("source", 1), pictures("target", 2), grid),
            grid,
            seed,
            sgd,
        )

    return make


@pytest.fixture
def perceptron(table):
    """Makes a replica with the paper's MLP in float64: only the order of sums can differ."""

    def make(
        seed: int = 0, sgd: Sgd = FAST, width: str = "plain", grid: Grid = Grid((0.5, 1.0))
    ) -> Replica:
        net = build(table(), width, seed).double()
        path = between(table("source", seed + 50), table("target", seed), grid)
        return Replica(net, path, grid, seed, sgd)

    return make


def state(replica):
    return {name: value.clone() for name, value in replica.net.state_dict().items()}


def weights(net):
    """All trainable weights as one vector."""
    return nn.utils.parameters_to_vector(net.parameters())


def flat(net):
    """A copy of all trainable weights as one vector, in whatever order they lie in memory."""
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def assert_close(a, b, tolerance=1e-9):
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def assert_alike(history, other, tolerance=1e-9):
    theirs = other.series()
    for name, values in history.series().items():
        torch.testing.assert_close(
            values, theirs[name], rtol=tolerance, atol=tolerance, equal_nan=True
        )


# --- what a training is ---


@pytest.mark.parametrize("kind", ["cnn", "perceptron"])
def test_ut_at_tau_one_is_fine_tuning(kind, request):
    ut = request.getfixturevalue(kind)(grid=Grid((1.0,)))
    ft = Replica(copy.deepcopy(ut.net), Path(ut.path.target), CONSTANT, ut.seed, ut.sgd)
    (ut_history,), (ft_history,) = fit([ut]), fit([ft])
    assert_close(state(ut), state(ft), tolerance=0)
    assert_alike(ut_history, ft_history, tolerance=0)


@pytest.mark.parametrize("kind", ["cnn", "perceptron"])
def test_same_seed_same_bits_other_seed_other_weights(kind, request):
    make = request.getfixturevalue(kind)
    a, b, other = make(), make(), make()
    other.seed = 1  # same first weights and data, another order
    histories = [fit([replica])[0] for replica in (a, b, other)]
    assert_close(state(a), state(b), tolerance=0)
    assert_alike(histories[0], histories[1], tolerance=0)
    assert not torch.equal(a.net.head.weight, other.net.head.weight)


def test_global_random_state_and_mode_are_left_alone(cnn):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    replica = cnn()
    fit([replica])
    assert torch.equal(torch.get_rng_state(), before)
    assert not replica.net.training


def test_history_has_one_value_per_epoch(cnn):
    (history,) = fit([cnn(sgd=Sgd(epochs=4, batch_size=8))])
    names = {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "weight_length"}
    assert set(history.series()) == names | {"tau", "source_loss", "target_loss"}
    assert history.tau == [0.5, 0.5, 1, 1]
    for name in names:
        values = history.series()[name]
        assert len(values) == 4
        assert all(math.isfinite(v) for v in values)
    assert all(0 <= v <= 1 for v in history.train_accuracy + history.val_accuracy)
    assert history.weight_length == sorted(history.weight_length)
    assert history.weight_length[0] > 0
    assert history.diverged is None
    assert history.source_loss == history.target_loss == []
    assert history.start_loss is None
    assert history.seconds > 0


def test_a_training_in_a_process_of_its_own_reports_every_epoch(cnn, monkeypatch):
    replica = cnn()
    reported = []
    monkeypatch.setattr(loop, "report", reported.append)
    loop._trained([replica], Single)
    epochs = replica.sgd.epochs
    assert reported == [(epoch + 1) / epochs for epoch in range(epochs)]


def test_validation_is_on_the_target_in_evaluation_mode(cnn):
    replica = cnn()
    (history,) = fit([replica])
    task = replica.path.target
    with torch.no_grad():
        output = replica.net(as_float(task.x_val))
    assert history.val_accuracy[-1] == pytest.approx(
        float((output.argmax(1) == task.y_val).float().mean())
    )
    assert history.val_loss[-1] == pytest.approx(
        float(nn.functional.cross_entropy(output, task.y_val)), rel=1e-5
    )


def test_regression_has_no_accuracy(perceptron):
    (history,) = fit([perceptron()])
    assert all(math.isnan(v) for v in history.train_accuracy + history.val_accuracy)


def test_example_loss_is_pytorchs():
    draw = torch.Generator().manual_seed(0)
    output, y = torch.randn(6, 5, generator=draw), torch.rand(6, 5, generator=draw).softmax(1)
    torch.testing.assert_close(
        example_loss(output, y), nn.functional.cross_entropy(output, y, reduction="none")
    )
    torch.testing.assert_close(
        example_loss(output[:, :1], y[:, :1]),
        nn.functional.mse_loss(output[:, 0], y[:, 0], reduction="none"),
    )


def test_weight_length_of_one_step_is_learning_rate_times_gradient(perceptron):
    replica = perceptron(sgd=Sgd(lr=0.1, epochs=1, batch_size=24), grid=Grid((1.0,)))
    task, net = replica.path.target, copy.deepcopy(replica.net)
    nn.functional.mse_loss(net(task.x_train.double()), task.y_train.double()).backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
    (history,) = fit([replica])
    assert history.weight_length == pytest.approx([0.1 * float(gradient.norm())], rel=1e-6)
    moved = (weights(replica.net) - weights(net)).detach()
    assert history.weight_length == pytest.approx([float(moved.norm())], rel=1e-6)


# cosine is compared without momentum: PyTorch multiplies the velocity by the rate and `Sgd` the
# gradient, which is the same only where the rate is constant
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"cosine": True, "momentum": 0.0},
        {"l1": 0.01},
        {"l2_sp": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["perceptron", "cnn"])
def test_training_is_torchs_sgd(kind, settings, request):
    # 7: the last mini-batch is smaller
    sgd = Sgd(**{"lr": 0.02, "epochs": 4, "batch_size": 7, "momentum": 0.9, **settings})
    double = {"double": True} if kind == "cnn" else {}
    replica = request.getfixturevalue(kind)(sgd=sgd, **double)
    replica.net.dropout = (0.0,) * len(replica.net.dropout)  # dropout has draws of its own
    net, path = copy.deepcopy(replica.net), replica.path
    steps = sgd.epochs * math.ceil(len(path) / sgd.batch_size)
    optimiser = torch.optim.SGD(
        net.parameters(), sgd.lr, sgd.momentum, weight_decay=sgd.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: (1 + math.cos(math.pi * step / steps)) / 2 if sgd.cosine else 1.0
    )
    length = 0.0
    losses = []
    start = copy.deepcopy(net)
    net.train()
    for epoch in range(sgd.epochs):
        draw, total = path.draw(replica.schedule.tau(epoch, sgd.epochs), replica.seed, epoch), 0.0
        for a in range(0, len(path), sgd.batch_size):
            x, y = path.batch(draw, slice(a, a + sgd.batch_size), torch.float64)
            output = net(x)
            loss = (
                nn.functional.mse_loss(output, y)
                if y.shape[1] == 1
                else nn.functional.cross_entropy(output, y)
            )
            total += float(loss.detach()) * len(x)
            before = weights(net).detach().clone()
            optimiser.zero_grad()
            pull = sgd.l2_sp / 2 * squared_distance(net, start)
            (loss + sgd.l1 * next(net.parameters()).abs().sum() + pull).backward()
            optimiser.step()
            schedule.step()
            length += float((weights(net).detach() - before).norm())
        losses.append(total / len(path))
    (history,) = fit([replica])
    assert_close(state(replica), net.state_dict(), tolerance=1e-8)
    assert history.train_loss == pytest.approx(losses, rel=1e-8)
    assert history.weight_length[-1] == pytest.approx(length, rel=1e-8)


@dataclass
class Gathered:
    """The trained weights after every step."""

    seen: list = field(default_factory=list)

    def __call__(self, net, path, tau, done, epochs):
        pass

    def after_step(self, net):
        self.seen.append(flat(net))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_averaged_weights_are_the_mean_of_those_after_the_last_steps(cnn, share):
    usual, averaged = (cnn(sgd=replace(FAST, averaged=part)) for part in (0.0, share))
    usual.callback = Gathered()
    fit([usual])
    fit([averaged])
    last = usual.callback.seen[-math.ceil(share * usual.steps) :]
    torch.testing.assert_close(flat(averaged.net), torch.stack(last).mean(0))
    here = copy.deepcopy(averaged.net)
    estimate_statistics(here, averaged.path.target.x_train)
    for one, other in zip(averaged.net.buffers(), here.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_stack_with_averaged_weights_equals_each_alone(perceptron):
    sgd = replace(FAST, averaged=0.5)
    together = [perceptron(seed=seed, sgd=sgd) for seed in range(3)]
    alone = [perceptron(seed=seed, sgd=sgd) for seed in range(3)]
    fit(together, on_epoch=lambda replicas, histories: None)  # one program
    for one, other in zip(together, alone, strict=True):
        fit([other])
        assert_close(state(one), state(other))


def test_a_run_that_diverged_is_not_averaged(perceptron):
    sgd = replace(FAST, averaged=0.5)
    wild, calm = perceptron(sgd=replace(sgd, lr=1e20)), perceptron(sgd=sgd)
    histories = fit([wild, calm], on_epoch=lambda replicas, histories: None)
    assert [history.diverged is None for history in histories] == [False, True]
    for replica in (wild, calm):
        assert all(torch.isfinite(values).all() for values in replica.net.state_dict().values())


def squared_distance(net, start):
    """That of L2-SP: of the body from the start, of the head from 0; BatchNorm's weights are free.

    |w - w_0|^2 + |h|^2, Li et al. (2018), equation 2.
    """
    layers = [m for m in net.body.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    anchors = [m for m in start.body.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    moved = [
        (p - anchor.detach()).square().sum()
        for layer, other in zip(layers, anchors, strict=True)
        for p, anchor in zip(layer.parameters(), other.parameters(), strict=True)
    ]
    return sum(moved) + sum(p.square().sum() for p in net.head.parameters())


@pytest.mark.parametrize("kind", ["cnn", "perceptron"])
def test_strong_pull_keeps_the_body_at_the_start_and_takes_the_head_to_0(kind, request):
    went = {}
    for l2_sp in (0.0, 500.0):
        replica = request.getfixturevalue(kind)(
            sgd=Sgd(lr=1e-3, epochs=8, batch_size=8, l2_sp=l2_sp, momentum=0.0)
        )
        start = copy.deepcopy(replica.net)
        fit([replica])
        head = replica.net.head.weight.detach().norm()
        body = squared_distance(replica.net, start).detach() - head**2
        went[l2_sp] = (float(body), float(head))
    assert 0 < went[500.0][0] < 0.1 * went[0.0][0]
    assert 0 < went[500.0][1] < 0.1 * went[0.0][1]


def test_pull_of_a_head_alone_is_weight_decay(cnn):
    """With a frozen body the pulled weights are only the head's."""
    pulled, decayed = (
        cnn(sgd=replace(FAST, **{name: 0.5}), grid=Grid((1.0,)))
        for name in ("l2_sp", "weight_decay")
    )
    for replica in (pulled, decayed):
        replica.net.body.requires_grad_(False)
        fit([replica])
    assert_close(state(pulled), state(decayed), tolerance=0)


def test_stack_with_a_pull_equals_each_alone(perceptron):
    sgd = replace(FAST, l2_sp=0.3)
    alone, stacked = (
        [perceptron(seed, sgd, width="batchnorm") for seed in range(3)] for _ in range(2)
    )
    together = _train(stacked, Stacked, "cpu")
    for a, b, history in zip(alone, stacked, together, strict=True):
        assert_alike(_train([a], Single, "cpu")[0], history)
        assert_close(state(a), state(b))


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    """On inputs and weights of 1 the first loss is the mean square of what dropout leaves."""
    x, y = torch.ones(4_000, 5), torch.zeros(4_000, 1)
    ones = Task("ones", "random", x, y, x, y)
    net = Net([nn.Identity()], (0.2,), nn.Linear(5, 1, bias=False))
    nn.init.constant_(net.head.weight, 1.0)
    (history,) = fit(
        [Replica(net, Path(ones), CONSTANT, 0, Sgd(lr=1e-12, epochs=1, batch_size=4_000))]
    )
    expected = 25 + 5 * 0.25  # mean 5 kept; each of five masks adds p / (1 - p) = 0.25 of variance
    assert history.train_loss[0] == pytest.approx(expected, abs=1.2)  # five standard errors
    assert history.val_loss[0] == pytest.approx(25)  # none in evaluation


def test_all_replicas_of_one_seed_learn_the_same_examples_in_the_same_order(perceptron):
    slow, fast = (perceptron(sgd=Sgd(lr=lr, epochs=1, batch_size=24)) for lr in (1e-9, 0.1))
    (a,), (b,) = fit([slow]), fit([fast])
    # one step: both saw the data before any change
    assert a.train_loss == pytest.approx(b.train_loss, rel=1e-6)


# --- adaptive schedules ---


def cross_entropy(net, task):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(as_float(task.x_val)), task.y_val))


def test_adaptive_schedule_is_shown_the_losses_of_source_and_held_out_examples(cnn):
    shown = []

    class Recording(IsoClassification):
        def tau(self, epoch, epochs, history=None):
            done = (history.tau, history.source_loss, history.target_loss)
            shown.append((epoch, epochs, *map(len, done)))
            return super().tau(epoch, epochs, history)

    replica = cnn(sgd=Sgd(lr=0.01, epochs=5, batch_size=8), grid=Recording(steps=8))
    path = replica.path
    start = cross_entropy(replica.net.eval(), path.source)
    (history,) = fit([replica])
    assert history.start_loss == pytest.approx(start, rel=1e-5)
    last = (history.source_loss[-1], history.target_loss[-1], history.val_loss[-1])
    tasks = (path.source, path.held_out, path.target)
    assert last == pytest.approx([cross_entropy(replica.net, task) for task in tasks], rel=1e-5)
    assert len(set(last)) == 3
    assert shown == [(epoch, 5, epoch, epoch, epoch) for epoch in range(5)]
    assert len(history.tau) == len(history.source_loss) == len(history.target_loss) == 5
    assert history.tau == sorted(history.tau)
    assert history.tau[-1] == 1


def test_images_on_which_a_run_is_scored_decide_no_tau(cnn):
    """Neither its steps nor its weights change where the target's validation data are another."""
    sgd = Sgd(lr=0.02, epochs=12, batch_size=8)
    wide = IsoClassification(steps=6, tolerance=1.05)
    usual, other = cnn(sgd=sgd, grid=wide), cnn(sgd=sgd, grid=wide)
    target = other.path.target
    garbage = replace(target, x_val=255 - target.x_val, y_val=target.y_val.roll(1))
    other.path = replace(other.path, target=garbage)
    (history,), (with_garbage,) = fit([usual]), fit([other])
    assert history.val_loss != with_garbage.val_loss
    assert history.tau == with_garbage.tau
    assert history.target_loss == with_garbage.target_loss
    assert_close(state(usual), state(other), tolerance=0)


def test_adaptive_schedule_moves_by_the_loss_and_not_by_the_epoch(cnn):
    """It is not stuck at its first tau where the level allows it to go on."""
    taus = {}
    for tolerance in (0.01, 100.0):
        schedule = IsoClassification(steps=4, tolerance=tolerance)
        (history,) = fit([cnn(sgd=Sgd(lr=0.01, epochs=12, batch_size=8), grid=schedule)])
        taus[tolerance] = history.tau
    assert taus[0.01] == [tau for tau in (0.25, 0.5, 0.75, 1.0) for _ in range(3)]
    assert taus[100.0] == [0.25, 0.5, 0.75, *[1.0] * 9]


def test_adaptive_schedule_without_held_out_examples_is_refused(pictures):
    net, path = build(pictures(), (4, 4, 4, 4), 0), Path(pictures("target"), pictures("source"))
    with pytest.raises(ValueError, match=r"needs held_out \(data\.hold_out\); got None"):
        Replica(net, path, IsoClassification(), 0, FAST)


def test_adaptive_population_equals_each_alone_beside_others(perceptron):
    def group():
        return [
            perceptron(seed, grid=IsoClassification(steps=5) if seed % 2 else Grid((0.5, 1.0)))
            for seed in range(6)
        ]

    alone, together = group(), group()
    histories = fit(together)
    for a, b, history in zip(alone, together, histories, strict=True):
        (lone,) = fit([a])
        assert_alike(lone, history)
        assert_close(state(a), state(b))
        assert (history.start_loss is None) != b.schedule.adaptive
        assert history.start_loss == (
            None if lone.start_loss is None else pytest.approx(lone.start_loss)
        )


def test_stack_with_an_adaptive_schedule_equals_each_alone(perceptron):
    schedule = IsoClassification(steps=3, tolerance=1.5)
    sgd = replace(FAST, epochs=6, lr=0.02)
    alone, stacked = ([perceptron(seed, sgd, grid=schedule) for seed in range(3)] for _ in range(2))
    together = _train(stacked, Stacked, "cpu")
    for a, b, history in zip(alone, stacked, together, strict=True):
        (lone,) = _train([a], Single, "cpu")
        assert_alike(lone, history)
        assert history.start_loss == pytest.approx(lone.start_loss)
        assert_close(state(a), state(b))
    assert len({tuple(history.tau) for history in together}) > 1  # each goes at its own pace


# --- populations ---


def test_networks_of_one_seed_share_their_masks_in_a_stack(cnn):
    seeds = (0, 1, 0)
    stacked, alone = ([cnn(seed, double=True) for seed in seeds] for _ in range(2))
    for group in (stacked, alone):
        group[2].net = build(group[2].path.target, (4, 4, 4, 4), 5).double()  # of its own
    together = _train(stacked, Stacked, "cpu")
    for replica, history in zip(alone, together, strict=True):
        assert_alike(_train([replica], Single, "cpu")[0], history)


def test_nothing_holds_a_training_that_is_over(cnn, monkeypatch):
    made = []

    class Watched(loop._Training):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(loop, "_Training", Watched)
    gc.disable()  # a circle of references would hold a GPU's memory until it is collected
    try:
        fit([cnn(0)])
    finally:
        gc.enable()
    assert [training() for training in made] == [None]


def test_stack_of_cnns_equals_each_alone_dropout_included(cnn):
    alone, stacked = ([cnn(seed, double=True) for seed in range(3)] for _ in range(2))
    lone = [_train([replica], Single, "cpu")[0] for replica in alone]
    together = _train(stacked, Stacked, "cpu")
    for a, b, h, k in zip(alone, stacked, lone, together, strict=True):
        assert_close(state(a), state(b), tolerance=1e-4)
        assert_alike(h, k, tolerance=1e-4)


@pytest.mark.parametrize("width", ["plain", "batchnorm"])
def test_population_of_mlps_equals_each_alone(perceptron, width):
    rates = (0.01, 0.05, 0.002)  # replicas may differ in learning rate
    alone, together = (
        [
            perceptron(seed, Sgd(lr=lr, epochs=3, batch_size=7), width)
            for seed, lr in enumerate(rates)
        ]
        for _ in range(2)
    )
    lone, histories = [fit([replica])[0] for replica in alone], fit(together)
    for a, b, h, k in zip(alone, together, lone, histories, strict=True):
        assert_close(state(a), state(b))
        assert_alike(h, k)
    assert len({history.weight_length[-1] for history in histories}) == 3


def test_replicas_of_different_kinds_train_together(perceptron, cnn):
    def group():
        return [
            perceptron(0),
            cnn(1),
            perceptron(2, sgd=Sgd(lr=0.01, epochs=3, batch_size=5)),
            perceptron(3, width="batchnorm"),
        ]

    seen, together, alone = [], group(), group()
    histories = fit(together, on_done=lambda row, history: seen.append(row))
    assert sorted(seen) == [0, 1, 2, 3]
    for a, b, history in zip(alone, together, histories, strict=True):
        assert_alike(fit([a])[0], history)
        assert_close(state(a), state(b))


def test_population_with_updated_and_frozen_statistics_equals_each_alone(perceptron):
    def group():
        replicas = [perceptron(seed, width="batchnorm") for seed in range(4)]
        for replica in replicas[1:3]:
            replica.net.frozen_statistics = True
        return replicas

    alone, together = group(), group()
    histories = fit(together)
    for a, b, history in zip(alone, together, histories, strict=True):
        assert_alike(fit([a])[0], history)
        assert_close(state(a), state(b))


def test_frozen_statistics_do_not_change_and_the_weights_do(cnn):
    replica = cnn()
    replica.net.frozen_statistics = True
    before = state(replica)
    fit([replica])
    for name, value in state(replica).items():
        statistic = any(part in name for part in ("running", "tracked"))
        assert torch.equal(value, before[name]) == statistic, name


def test_no_replicas_no_work():
    assert fit([]) == []


# --- divergence ---

EXPLODING = Sgd(lr=100, epochs=5, batch_size=8)


@pytest.mark.parametrize("width", ["plain", "batchnorm"])
@pytest.mark.parametrize("batch_size", [8, 24], ids=["three steps per epoch", "one step per epoch"])
def test_diverging_replica_is_frozen_and_the_others_go_on(perceptron, width, batch_size):
    rates = (0.01, 1e30, 0.02)
    alone, together = (
        [
            perceptron(seed, Sgd(lr=lr, epochs=4, batch_size=batch_size), width)
            for seed, lr in enumerate(rates)
        ]
        for _ in range(2)
    )
    histories = fit(together)
    assert "learning rate 1e+30" in histories[1].diverged
    assert "seed 1" in histories[1].diverged
    assert all(value.isfinite().all() for value in state(together[1]).values())
    assert all(
        math.isfinite(v)
        for v in histories[1].train_loss + histories[1].val_loss + histories[1].weight_length
    )
    for row in (0, 2):
        assert_alike(fit([alone[row]])[0], histories[row])
        assert_close(state(alone[row]), state(together[row]))


def test_lone_divergence_raises_and_says_where(perceptron):
    replica = perceptron(seed=7, sgd=EXPLODING, grid=Grid((0.5, 1.0)))
    with pytest.raises(TrainingDiverged) as error:
        fit([replica])
    history = error.value.history
    assert f"epoch {len(history.train_loss)}" in str(error.value)
    for part in ("step", "tau = 0.5", "learning rate 100", "seed 7"):
        assert part in str(error.value)
    assert all(value.isfinite().all() for value in state(replica).values())


def test_explosion_in_the_very_last_step_is_a_divergence(perceptron):
    replica = perceptron(sgd=Sgd(lr=3e38, epochs=1, batch_size=24))
    before = state(replica)
    with pytest.raises(TrainingDiverged, match="epoch 0"):
        fit([replica])
    assert_close(state(replica), before, tolerance=0)


def test_epochs_before_a_divergence_are_kept(perceptron):
    calm, wild = (
        perceptron(sgd=Sgd(lr=0.01, epochs=1, batch_size=8)),
        perceptron(sgd=Sgd(lr=0.01, epochs=3, batch_size=8)),
    )
    (first,) = fit([calm])

    def explode(replicas, histories):
        with torch.no_grad():
            replicas[0].path.target.x_train.fill_(float("inf"))

    with pytest.raises(TrainingDiverged) as error:
        fit([wild], on_epoch=explode)
    history = error.value.history
    assert "epoch 1, step 0" in str(error.value)
    assert history.weight_length == pytest.approx(first.weight_length)
    assert len(history.train_loss) == 1
    assert_close(state(wild), state(calm))


# --- processes ---


def test_training_here_and_in_a_worker_gives_the_same_bits(two_threads, pictures):
    """With two threads here, sums over a mini-batch would be split otherwise than in a worker."""

    def group():
        path = Path(pictures("target", 2, 20), pictures("source", 1, 20))
        sgd = Sgd(lr=0.05, epochs=3, batch_size=16)
        grid = Grid((0.5, 1.0))
        nets = [build(path.target, "small", seed) for seed in range(2)]
        return [Replica(net, path, grid, seed, sgd) for seed, net in enumerate(nets)]

    alone, together = group(), group()
    histories = fit(together)
    for a, b, history in zip(alone, together, histories, strict=True):
        assert_alike(fit([a])[0], history, tolerance=0)
        assert_close(state(a), state(b), tolerance=0)


def test_one_thread_lasts_for_a_training_alone(two_threads, cnn):
    seen = []
    fit([cnn()], on_epoch=lambda replicas, histories: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError), one_thread():
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_cnns_in_processes_equal_each_alone(cnn):
    alone, together = ([cnn(seed) for seed in range(3)] for _ in range(2))
    lone, histories = [fit([replica])[0] for replica in alone], fit(together)
    for a, b, h, k in zip(alone, together, lone, histories, strict=True):
        assert_close(state(a), state(b), tolerance=0)
        assert_alike(h, k, tolerance=0)
        assert not b.net.training


@pytest.mark.slow
def test_killed_worker_is_survived(cnn):
    sgd = Sgd(lr=0.05, epochs=30, batch_size=4)
    alone, together = ([cnn(seed, sgd) for seed in range(5)] for _ in range(2))
    killed, done = [], []

    def kill_once(row, history):
        done.append(row)
        if not killed:
            time.sleep(0.2)  # the other trainings are in flight: none sends its result just now
            killed.extend(p.pid for p in workers(os.getpid()))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    histories = fit(together, on_done=kill_once)
    assert killed
    assert sorted(done) == [0, 1, 2, 3, 4]
    for a, b, history in zip(alone, together, histories, strict=True):
        assert_alike(fit([a])[0], history, tolerance=0)
        assert_close(state(a), state(b), tolerance=0)


DIES_WHILE_SENDING = """
import os, select, signal, sys
from multiprocessing.connection import Connection
from rtl_utils.training._workers import spread

def result(marker):
    if not os.path.exists(marker):
        open(marker, "w").close()
        send = Connection._send

        def send_half(connection, message, *more):
            if len(message) <= select.PIPE_BUF:  # which the system writes whole or not at all
                return send(connection, message, *more)
            os.write(connection.fileno(), bytes(message)[: len(message) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        Connection._send = send_half
    return bytes(50_000)

sizes = []
spread(result, [(sys.argv[1],)], lambda k, found: sizes.append(len(found)), [1], "result")
print(sizes, flush=True)
"""


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.skipif(os.name != "posix", reason="kills a process by a signal")
def test_worker_that_dies_while_it_sends_its_result_is_survived(tmp_path):
    """Half a message must not leave the parent waiting for the other half for ever."""
    process = subprocess.Popen(
        [sys.executable, "-c", DIES_WHILE_SENDING, str(tmp_path / "died once")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail("the parent waits for ever for a worker that is dead")
    assert out.splitlines()[-1] == "[50000]"


# --- callbacks, stopping, refusing ---


class Notes:
    """A callback that notes what it is shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, net, path, tau, done, epochs):
        self.seen.append((net.head.weight.detach().clone(), len(path), tau, done, epochs))


@pytest.mark.parametrize("kind", ["cnn", "perceptron"])
def test_callback_sees_the_network_before_training_and_after_each_epoch(kind, request):
    replica = request.getfixturevalue(kind)(sgd=Sgd(epochs=4, batch_size=8))
    before, replica.callback = state(replica)["head.weight"], Notes()
    fit([replica])
    seen = replica.callback.seen
    assert [note[1:] for note in seen] == [
        (len(replica.path), tau, done, 4) for done, tau in enumerate((0.5, 0.5, 0.5, 1, 1))
    ]
    assert torch.equal(seen[0][0], before)
    assert torch.equal(seen[-1][0], replica.net.head.weight)
    assert all(not torch.equal(a[0], b[0]) for a, b in pairwise(seen))


class Steps(Notes):
    """A callback that also looks after every step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def after_step(self, net):
        self.steps.append((net.training, net.head.weight.detach().clone()))


@pytest.mark.parametrize("kind", ["cnn", "perceptron"])
def test_callback_that_has_after_step_sees_the_network_after_every_step(kind, request):
    make = request.getfixturevalue(kind)
    sgd = Sgd(epochs=3, batch_size=7)
    watched, plain, beside = (make(seed, sgd) for seed in (0, 0, 1))
    watched.callback, beside.callback = Steps(), Steps()
    histories = fit([watched, beside])
    steps = watched.callback.steps
    assert len(steps) == watched.steps == 3 * math.ceil(len(watched.path) / 7)
    assert all(training for training, _ in steps)
    assert all(not torch.equal(a[1], b[1]) for a, b in pairwise(steps))
    assert torch.equal(steps[-1][1], watched.net.head.weight)
    assert len(watched.callback.seen) == 4
    assert not torch.equal(steps[-1][1], beside.callback.steps[-1][1])
    assert_alike(fit([plain])[0], histories[0], tolerance=0)  # to look changes nothing
    assert_close(state(plain), state(watched), tolerance=0)


@pytest.mark.parametrize("kind", ["cnn", "perceptron"])
def test_on_epoch_sees_the_history_and_may_stop(kind, request):
    seen = []

    def stop_at_two(replicas, histories):
        seen.append((len(histories[0].train_loss), replicas[0].net.head.weight.detach().clone()))
        return len(seen) == 2

    replica = request.getfixturevalue(kind)(sgd=Sgd(epochs=5, batch_size=8))
    (history,) = fit([replica], on_epoch=stop_at_two)
    assert [epochs for epochs, _ in seen] == [1, 2]
    assert len(history.train_loss) == 2
    assert not torch.equal(seen[0][1], seen[1][1])  # it sees the weights of that epoch
    assert torch.equal(seen[1][1], replica.net.head.weight)


def test_on_epoch_with_nets_in_other_processes_is_refused_before_training(cnn, perceptron):
    replicas = [perceptron(), cnn(0), cnn(1)]
    before = [state(replica) for replica in replicas]
    with pytest.raises(ValueError, match="on_epoch"):
        fit(replicas, on_epoch=lambda replicas, histories: None)
    for replica, old in zip(replicas, before, strict=True):
        assert_close(state(replica), old, tolerance=0)


def test_batch_larger_than_the_data_is_refused(pictures):
    with pytest.raises(
        ValueError, match="batch_size must be at most the 20 training examples of 'target'; got 21"
    ):
        Replica(mlp(), Path(pictures()), CONSTANT, 0, Sgd(batch_size=21))


@pytest.mark.parametrize("batch_size", [1, 23])
def test_last_mini_batch_of_one_is_refused_where_batchnorm_needs_two(table, batch_size):
    net, path = build(table(), "batchnorm", 0), Path(table())
    with pytest.raises(
        ValueError, match=f"last mini-batch of one of the 24 training examples.*got {batch_size}"
    ):
        Replica(net, path, CONSTANT, 0, Sgd(epochs=1, batch_size=batch_size))


@pytest.mark.parametrize("batch_size", [1, 23])
@pytest.mark.parametrize("kind", ["no BatchNorm", "frozen statistics"])
def test_last_mini_batch_of_one_trains_where_no_batchnorm_averages_over_it(table, kind, batch_size):
    net = build(table(), "plain" if kind == "no BatchNorm" else "batchnorm", 0)
    net.frozen_statistics = kind == "frozen statistics"
    replica = Replica(
        net, Path(table()), CONSTANT, 0, Sgd(lr=1e-4, epochs=1, batch_size=batch_size)
    )
    (history,) = fit([replica])
    assert math.isfinite(history.train_loss[0])


def test_last_mini_batch_of_one_image_trains(pictures):
    task = pictures()
    net = build(task, (4, 4, 4, 4), 0)
    (history,) = fit([Replica(net, Path(task), CONSTANT, 0, Sgd(epochs=1, batch_size=19))])
    assert math.isfinite(history.train_loss[0])


def test_tau_below_one_without_a_source_is_refused(pictures):
    for schedule, says in (
        (Grid((0.5, 1.0)), r"0\.5, 1\.0"),
        (IsoClassification(), "IsoClassification"),
    ):
        with pytest.raises(ValueError, match=rf"without a source.*got .*{says}"):
            Replica(mlp(), Path(pictures()), schedule, 0)


@pytest.mark.parametrize("device", ["tpu", "", "cpu:x", "cuda:99"])
def test_device_that_is_not_there_is_refused_before_training(perceptron, device):
    replica = perceptron()
    before = state(replica)
    with pytest.raises(ValueError, match=f"^device.*'{device}'"):
        fit([replica], device=device)
    assert_close(state(replica), before, tolerance=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", v) for v in (0, -1, 1.5, "3", True, None)]
    + [("batch_size", v) for v in (0, -16, 2.0)]
    + [("lr", v) for v in (0, -0.1, math.nan, math.inf, "0.1", None)]
    + [("momentum", v) for v in (1, 1.5, -0.1, math.nan)]
    + [("weight_decay", v) for v in (-1, math.nan, math.inf)]
    + [("l1", v) for v in (-1e-9, math.nan)]
    + [("l2_sp", v) for v in (-0.1, math.inf, "1")]
    + [("averaged", v) for v in (-0.1, 1.1, "1")],
)
def test_sgd_value_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be") as error:
        Sgd(**{name: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 10**400),
        ("lr", 10**5_000),
        ("epochs", 10**30),
        ("epochs", 10**5_000),
        ("batch_size", 10**30),
        ("l1", 10**400),
        ("weight_decay", 10**400),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.bit_length()} bits",
)
def test_huge_whole_number_is_refused_in_one_short_sentence(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be") as error:
        Sgd(**{name: value})
    assert len(str(error.value)) < 160


def test_paper_settings_are_the_default():
    assert Sgd() == Sgd(
        lr=1e-2,
        epochs=50,
        batch_size=16,
        momentum=0.9,
        weight_decay=0.0,
        l1=0.0,
        l2_sp=0.0,
        cosine=False,
    )


@given(steps=st.integers(1, 5_000), examples=st.integers(1, 3_000), batch_size=st.integers(1, 64))
def test_no_number_of_epochs_comes_nearer_to_a_number_of_steps(steps, examples, batch_size):
    epochs = epochs_of(steps, examples, batch_size)
    per_epoch = math.ceil(examples / batch_size)
    assert epochs >= 1
    assert all(
        abs(epochs * per_epoch - steps) <= abs(other * per_epoch - steps)
        for other in (epochs - 1, epochs + 1)
        if other
    )


def test_800_steps_are_20_epochs_of_all_digits_and_50_of_fifty_images_per_class():
    sizes = {627: 20, 5 * 50: 50, 5 * 20: 114}
    assert {n: epochs_of(800, n, batch_size=16) for n in sizes} == sizes


def test_perceptron_gives_the_same_bits_alone_and_among_others(table):
    """A stack of another size rounds differently, so perceptrons are not stacked on a CPU."""

    def replica(seed):
        task = table(seed=seed)
        net = build(task, "plain", seed)
        return Replica(net, Path(task), CONSTANT, seed, Sgd(lr=0.05, epochs=30, batch_size=8))

    alone = replica(0)
    (history,) = fit([alone])
    beside = [replica(seed) for seed in range(3)]
    histories = fit(beside)
    assert history.val_loss == histories[0].val_loss
    assert_close(state(alone), state(beside[0]), tolerance=0)
