import copy
import math
import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from rtl_utils import lengths
from rtl_utils.data import Task, as_float
from rtl_utils.lengths import Lengths, PairLength, PathLength, Trace, divergence, planar
from rtl_utils.models import Net, build
from rtl_utils.paths import Path
from rtl_utils.randomness import generator
from rtl_utils.schedules import CONSTANT, Grid
from rtl_utils.training import Replica, Sgd, fit

PAIRS = np.array([0, 3, 3, 7, 19, 11]), np.array([0, 5, 6, 7, 2, 2])
EXAMPLES = np.array([0, 3, 3, 19, 11])


@pytest.fixture
def cnn(pictures):
    """Makes a replica with a tiny CNN and a callback on a few pairs, from source to target."""

    def make(
        seed: int = 0,
        epochs: int = 4,
        partitions: int = 2,
        grid: Grid = Grid((0.5, 1.0)),
        blend: str = "mixup",
        double: bool = False,
    ) -> Replica:
        net = build(pictures(), (4, 4, 4, 4), seed)
        path = Path(pictures("target", 2), pictures("source", 1), blend=blend)
        callback = PairLength(*PAIRS, partitions=partitions, seed=seed)
        return Replica(
            net.double() if double else net,
            path,
            grid,
            seed,
            Sgd(lr=0.05, epochs=epochs, batch_size=8),
            callback,
        )

    return make


def test_divergence_by_hand():
    p, q = torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[0.25, 0.75], [0.25, 0.75]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(divergence(p.log(), q.log()), torch.tensor([expected, 0.0]))


# --- a model whose length is known ---


def walked(weights, dtype, xs=(1.0, 2.0)) -> Lengths:
    """Both lengths after a two-class net of one weight went from weight to weight.

    Its p(first class | x) is sigmoid(w x). An epoch is one step.
    """
    x, labels = torch.tensor(xs)[:, None], torch.zeros(len(xs), dtype=torch.long)
    task = Task("t", "made", x, labels, x, labels, ("a", "b"))
    net = Net([nn.Identity()], (0.0,), nn.Linear(1, 2, bias=False)).to(dtype)
    steps = len(weights) - 1
    all_of_them = np.arange(len(xs))
    callback = Lengths(
        PairLength(None, all_of_them, partitions=steps, seed=0), PathLength(all_of_them)
    )
    for done, w in enumerate(weights):
        with torch.no_grad():
            net.head.weight.copy_(torch.tensor([[w], [0.0]]))
        if done:
            callback.after_step(net)
        callback(net, Path(task), 1.0, done, steps)
    return callback


def riemannian(w0, w1, xs=(1.0, 2.0)):
    """Length from w0 to w1 over all inputs: the integral of sqrt(mean x^2 p (1 - p)) dw."""

    def speed(w):
        p = [1 / (1 + math.exp(-w * x)) for x in xs]
        return math.sqrt(np.mean([x * x * q * (1 - q) for x, q in zip(xs, p, strict=True)]))

    return abs(quad(speed, w0, w1)[0])


def fisher(w0, w1, x):
    """Length from w0 to w1: the integral of x sqrt(p (1 - p)) dw."""
    angle = [math.asin((1 / (1 + math.exp(-w * x))) ** 0.5) for w in (w0, w1)]
    return 2 * abs(angle[1] - angle[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_small_steps_have_fishers_length(dtype):
    callback = walked(np.linspace(-2, 1, 401), dtype)
    each = callback.pairs.mean * 400 * 2**0.5
    assert each == pytest.approx([fisher(-2, 1, 1), fisher(-2, 1, 2)], rel=1e-2)
    assert callback.path.total == pytest.approx(riemannian(-2, 1), rel=1e-3)


def test_way_there_and_back_is_twice_as_long():
    there = np.linspace(-1, 1, 101)
    both = walked([*there, *there[-2::-1]], torch.float64)
    each = both.pairs.mean * 200 * 2**0.5
    assert each == pytest.approx([2 * fisher(-1, 1, 1), 2 * fisher(-1, 1, 2)], rel=1e-2)
    assert both.path.total == pytest.approx(2 * riemannian(-1, 1), rel=1e-3)


def test_length_of_the_path_grows_to_a_limit_with_its_steps():
    limit = riemannian(-3, 3)
    missing = [
        abs(limit - walked(np.linspace(-3, 3, steps + 1), torch.float64).path.total)
        for steps in (25, 50, 100, 200)
    ]
    for coarse, fine in pairwise(missing):
        assert fine < 0.6 * coarse
    assert missing[-1] < 1e-3 * limit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_net_that_does_not_change_has_no_length(dtype):
    callback = walked([0.7] * 5, dtype)
    assert callback.pairs.mean.tolist() == [0, 0]
    assert callback.path.total == 0


# --- on real trainings ---


class Snapshots:
    """A callback that keeps tau and copies of the network, and calls another callback too."""

    def __init__(self, other):
        self.other, self.taus, self.nets = other, [], []

    def __call__(self, net, path, tau, done, epochs):
        self.taus.append(tau)
        self.nets.append(copy.deepcopy(net).eval())
        self.other(net, path, tau, done, epochs)


@pytest.mark.parametrize("at_once", [4, 128])
@pytest.mark.parametrize(
    ("epochs", "partitions", "taus", "blend"),
    [
        (3, 3, (0, 0.5, 1), "mixup"),
        (6, 6, (0, 0.5, 1), "mixup"),  # tau stays from one partition to the next
        # partitions of two and three epochs, across changes of tau
        (7, 3, (0, 0.25, 0.5, 1), "mixup"),
        (4, 1, (0, 1), "mixup"),
        (6, 4, (0.2, 0.8, 1), "mixture"),
        (6, 6, (0.5, 1), "annealed"),
    ],
)
def test_length_is_that_of_a_plain_loop_over_pairs(
    cnn, monkeypatch, at_once, epochs, partitions, taus, blend
):
    monkeypatch.setattr(lengths, "_AT_ONCE", at_once)
    replica = cnn(epochs=epochs, partitions=partitions, grid=Grid(taus), blend=blend, double=True)
    callback, path = replica.callback, replica.path
    seen = replica.callback = Snapshots(callback)
    fit([replica])
    expected = np.zeros(len(PAIRS[0]))
    ends = [m * epochs // partitions for m in range(partitions + 1)]
    for begin, end in pairwise(ends):
        tau = seen.taus[begin + 1]  # of the partition's first epoch
        assert tau == replica.schedule.tau(begin, epochs)
        weights = path.weights(tau, generator(replica.seed, "length"), len(expected))
        for pair, (i, j, w) in enumerate(zip(*PAIRS, weights, strict=True)):
            ends_of_pair = as_float(path.source.x_train[i]), as_float(path.target.x_train[j])
            x = ((1 - w) * ends_of_pair[0] + w * ends_of_pair[1]).double()[None]
            with torch.no_grad():
                p, q = (seen.nets[checkpoint](x)[0].softmax(0) for checkpoint in (begin, end))
            expected[pair] += math.sqrt(float((p * (p / q).log()).sum()))
    assert (expected > 0).all()
    assert callback.mean == pytest.approx(expected / partitions, rel=1e-4)


def test_path_of_the_target_alone_is_measured_on_its_examples(cnn):
    along, alone = cnn(grid=Grid((1.0,))), cnn()
    alone.path, alone.schedule = Path(alone.path.target), CONSTANT
    alone.callback = replace(alone.callback, source=None)
    fit([along])
    fit([alone])
    assert along.callback.mean.tolist() == alone.callback.mean.tolist()


@pytest.mark.parametrize("frozen", [False, True])
def test_measuring_changes_nothing(cnn, frozen):
    measured, unmeasured = cnn(partitions=4), cnn()
    measured.callback = Lengths(measured.callback, PathLength(EXAMPLES))
    unmeasured.callback = None
    for replica in (measured, unmeasured):
        replica.net.frozen_statistics = frozen
    (history,), (expected,) = fit([measured]), fit([unmeasured])
    assert replace(history, seconds=0) == replace(expected, seconds=0)
    weights = unmeasured.net.state_dict()
    for name, value in measured.net.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_callback_may_be_used_again(cnn):
    first, second, fresh = cnn(0), cnn(1), cnn(1)
    # stopped half way
    fit([first], on_epoch=lambda replicas, histories: len(histories[0].tau) == 2)
    second.callback, second.callback.seed = first.callback, 1
    fit([second])
    fit([fresh])
    assert second.callback.mean.tolist() == fresh.callback.mean.tolist()


@pytest.mark.slow
def test_lengths_come_back_from_other_processes(cnn):
    alone, together = ([cnn(seed) for seed in range(2)] for _ in range(2))
    for replica in (*alone, *together):
        replica.callback = Lengths(replica.callback, PathLength(EXAMPLES))
    for replica in alone:
        fit([replica])
    fit(together)
    for a, b in zip(alone, together, strict=True):
        assert b.callback.pairs.mean.tolist() == a.callback.pairs.mean.tolist()
        assert (b.callback.pairs.mean > 0).all()
        assert b.callback.path.total == a.callback.path.total > 0


def test_stacked_networks_are_measured_each_for_itself(pictures):
    def flat(task):
        x_train, x_val = (as_float(x).flatten(1) for x in (task.x_train, task.x_val))
        return replace(task, x_train=x_train, x_val=x_val)

    def linear(seed):
        path = Path(flat(pictures("target", 2)), flat(pictures("source", seed)))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = Net([nn.Identity()], (0.0,), nn.Linear(768, 5)).double()
        return Replica(
            net,
            path,
            Grid((0.5, 1.0)),
            seed,
            Sgd(lr=1e-3, epochs=4, batch_size=8),
            PairLength(*PAIRS, partitions=2, seed=seed),
        )

    alone, together = ([linear(seed) for seed in (1, 5, 6, 7)] for _ in range(2))
    for replica in alone:
        fit([replica])
    fit(together)
    for a, b in zip(alone, together, strict=True):
        assert b.callback.mean == pytest.approx(a.callback.mean, rel=1e-5)
    assert len({float(replica.callback.mean[0]) for replica in together}) == 4


# --- the length of the weights' path, on real trainings ---


class Steps:
    """A callback that keeps the network after each step, and calls another callback too."""

    def __init__(self, other):
        self.other, self.nets = other, []

    def __call__(self, net, path, tau, done, epochs):
        if done == 0:
            self.nets.append(copy.deepcopy(net).eval())
        self.other(net, path, tau, done, epochs)

    def after_step(self, net):
        self.nets.append(copy.deepcopy(net).eval())
        self.other.after_step(net)


def over(nets, x):
    """The length of the path through these networks, by a plain loop."""
    total = 0.0
    for before, after in pairwise(nets):
        with torch.no_grad():
            p, q = (net(x).double().softmax(1) for net in (before, after))
        total += math.sqrt(2 * float((p * (p / q).log()).sum(1).mean()))
    return total


@pytest.mark.parametrize("grid", [Grid((1.0,)), Grid((0.0, 0.5, 1.0))])
def test_length_of_the_path_is_that_of_a_plain_loop_over_every_step(cnn, grid):
    replica = cnn(grid=grid, double=True)
    callback = PathLength(EXAMPLES)
    replica.callback = seen = Steps(callback)
    fit([replica])
    assert len(seen.nets) == replica.steps + 1
    x = as_float(replica.path.target.x_train[EXAMPLES], torch.float64)
    assert callback.total == pytest.approx(over(seen.nets, x), rel=1e-9)


def test_fewer_checkpoints_give_shorter_paths_and_more_a_limit(cnn):
    replica = cnn(grid=Grid((1.0,)), double=True)
    # the smooth path of steps over all examples at once, without dropout or moving statistics
    replica.net.dropout = (0.0,) * 4
    replica.net.frozen_statistics = True
    replica.sgd = Sgd(lr=0.02, epochs=32, batch_size=20, momentum=0)
    callback = PathLength(EXAMPLES)
    replica.callback = seen = Steps(callback)
    fit([replica])
    x = as_float(replica.path.target.x_train[EXAMPLES], torch.float64)
    lengths = [over(seen.nets[::apart], x) for apart in (32, 16, 8, 4, 2, 1)]
    assert lengths[-1] == pytest.approx(callback.total)
    growth = np.diff(lengths)
    assert (growth > 0).all()
    assert growth[-1] < growth[0] / 4
    assert growth[-1] < 0.05 * callback.total


def test_both_lengths_are_those_measured_alone(cnn):
    alone, both = cnn(partitions=4), cnn(partitions=4)
    pairs = alone.callback
    fit([alone])
    path = PathLength(EXAMPLES)
    alone = cnn()
    alone.callback = path
    fit([alone])
    both.callback = Lengths(both.callback, PathLength(EXAMPLES))
    fit([both])
    assert both.callback.pairs.mean.tolist() == pairs.mean.tolist()
    assert both.callback.path.total == path.total > 0


def test_length_of_the_path_may_be_measured_again(cnn):
    first, second, fresh = cnn(0), cnn(1), cnn(1)
    first.callback, fresh.callback = PathLength(EXAMPLES), PathLength(EXAMPLES)
    # stopped half way
    fit([first], on_epoch=lambda replicas, histories: len(histories[0].tau) == 2)
    second.callback = first.callback
    fit([second])
    fit([fresh])
    assert second.callback.total == fresh.callback.total


def test_length_of_the_path_comes_back_without_its_tensors(cnn):
    replica = cnn()
    replica.callback = PathLength(EXAMPLES)
    small = len(pickle.dumps(replica.callback))
    fit([replica])
    assert len(pickle.dumps(replica.callback)) < small + 500  # a number, and no image


def test_step_outside_a_training_is_refused(cnn):
    with pytest.raises(ValueError, match="call with done = 0 first"):
        PathLength(EXAMPLES).after_step(cnn().net)


# --- traces of predictions ---


def test_trace_keeps_the_predictions_before_training_and_after_each_epoch(cnn):
    replica = cnn(epochs=3)
    x = replica.path.target.x_val[:6]
    with torch.no_grad():
        before = replica.net.eval()(as_float(x)).softmax(1)
    replica.callback = Trace(x)
    fit([replica])
    assert [step.shape for step in replica.callback.steps] == [(6, 5)] * 4
    torch.testing.assert_close(replica.callback.steps[0], before)
    with torch.no_grad():
        torch.testing.assert_close(replica.callback.steps[-1], replica.net(as_float(x)).softmax(1))


def test_plane_keeps_the_distances_of_walks_that_lie_in_it():
    first_class = {"a": [0.1, 0.3, 0.5], "b": [0.9, 0.5]}
    walks = {name: torch.tensor(steps)[:, None] for name, steps in first_class.items()}
    traces = {
        name: Trace(torch.zeros(1, 1), [torch.stack([p, 1 - p], 1) for p in walk])
        for name, walk in walks.items()
    }
    points = np.concatenate(list(planar(traces).values()))
    p = torch.cat(list(walks.values())).numpy()
    # with one input and two classes a prediction is a point on a circle
    roots = np.sqrt(np.hstack([p, 1 - p]))
    for places in (points, roots):
        places -= places.mean(0)
    np.testing.assert_allclose(points @ points.T, roots @ roots.T, atol=1e-6)


# --- what is refused ---


@pytest.mark.parametrize("partitions", [0, -1, 5, 2.0, True, "2"])
def test_partitions_that_do_not_fit_are_refused_before_training(cnn, partitions):
    replica = cnn(partitions=partitions)
    before = copy.deepcopy(replica.net.state_dict())
    with pytest.raises(
        ValueError, match=f"partitions must lie between 1 and the 4 epochs.*got {partitions!r}"
    ):
        fit([replica])
    assert all(torch.equal(value, before[name]) for name, value in replica.net.state_dict().items())


@pytest.mark.parametrize(
    "callback",
    [PairLength(None, np.arange(3), 1, 0), PathLength(np.arange(3))],
    ids=["pairs", "path"],
)
def test_regression_has_no_information_length(table, callback):
    path = Path(table())
    net = build(path.target, "plain", 0)
    replica = Replica(net, path, CONSTANT, 0, Sgd(epochs=1), callback)
    with pytest.raises(ValueError, match="task 'target' is a regression"):
        fit([replica])
