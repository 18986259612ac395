import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csc_array
from sklearn.metrics.pairwise import cosine_distances

from rtl_utils import coupled
from rtl_utils.coupled import Coupled, feature_cost, iterated, transported
from rtl_utils.couplings import Coupling, joined, proximal, proximal_quadratic
from rtl_utils.data import as_float
from rtl_utils.models import build, predict_features
from rtl_utils.paths import Path
from rtl_utils.schedules import Grid
from rtl_utils.training import History, Replica, Sgd, fit

SMALL = Coupled(iterations=3, block=5, blocks=2, partitions=2, smoothing=0.05)


@pytest.fixture
def backbone(pictures):
    net = build(pictures(), (4, 4, 4, 4), seed=5)
    net(as_float(pictures("source", 1).x_train))  # BatchNorm statistics other than 0 and 1
    return net.eval()


@pytest.fixture
def replica(pictures):
    """Makes a replica from 30 source to 20 target images; its network is not the backbone."""

    def make(per_class: int = 6, coupling: Coupling | None = None) -> Replica:
        path = Path(pictures("target", 2), pictures("source", 1, per_class), coupling=coupling)
        return Replica(
            build(path.target, (4, 4, 4, 4), 0),
            path,
            Grid((0.25, 0.5, 1.0)),
            0,
            Sgd(lr=0.05, epochs=3, batch_size=8),
        )

    return make


def state(replica):
    return {name: value.clone() for name, value in replica.net.state_dict().items()}


@pytest.mark.parametrize("per_class", [4, 6])
def test_ct_with_the_product_coupling_is_ut_to_the_bit(replica, per_class):
    product = Coupling(csc_array(np.full((5 * per_class, 20), 1 / (100 * per_class))))
    ct, ut = replica(per_class, product), replica(per_class)
    (history,), (expected,) = fit([ct]), fit([ut])
    assert replace(history, seconds=0) == replace(expected, seconds=0)
    assert all(torch.equal(value, state(ut)[name]) for name, value in state(ct).items())


def test_ct_with_another_coupling_is_not_ut(replica, backbone):
    ct, ut = replica(), replica()
    next(transported(ct, backbone))
    fit([ct])
    fit([ut])
    assert not torch.equal(ct.net.head.weight, ut.net.head.weight)


@pytest.mark.parametrize("per_class", [4, 6])
def test_transported_pairs_images_whose_features_are_alike(replica, backbone, per_class):
    planned = replica(per_class)
    ends = planned.path.source, planned.path.target
    cost = cosine_distances(*(predict_features(backbone, task.x_train) for task in ends))
    np.testing.assert_allclose(feature_cost(planned.path, backbone), cost, atol=1e-5)
    assert next(transported(planned, backbone)) is planned
    spent = float((planned.path.coupling.matrix.toarray() * cost).sum())
    # as many copies of each image as give both tasks 60
    copies = np.kron(cost, np.ones((60 // len(cost), 3)))
    assert spent == pytest.approx(copies[linear_sum_assignment(copies)].mean(), abs=1e-6)


# --- iterations, driven with made-up lengths instead of trainings ---


class Seen(NamedTuple):
    """What one training was given."""

    coupling: Coupling
    source: np.ndarray
    target: np.ndarray

    @property
    def pairs(self):
        return {*zip(self.source.tolist(), self.target.tolist(), strict=True)}


def driven(replica, backbone, settings=SMALL, cost=None):
    """What each training was given, and the iterations, where `cost` (30, 20) are the lengths."""
    cost = np.random.default_rng(0).random((30, 20)) if cost is None else cost
    iterations, seen = [], []
    stages = iterated(replica, backbone, settings, iterations)
    start = backbone.state_dict()
    history = None
    while True:
        try:
            training = stages.send(history)
        except StopIteration as end:
            assert end.value is history  # the last training's
            return seen, iterations
        assert all(torch.equal(value, start[name]) for name, value in state(training).items())
        lengths = training.callback
        seen.append(Seen(training.path.coupling, lengths.source, lengths.target))
        # what a training would have gathered
        lengths.total = torch.tensor(cost[lengths.source, lengths.target] * settings.partitions)
        with torch.no_grad():
            training.net.head.weight.add_(1.0)
        history = History(tau=[float(len(seen))])


def test_every_training_starts_at_the_backbone_and_the_last_ends_it(replica, backbone):
    planned = replica()
    seen, iterations = driven(planned, backbone)
    assert len(seen) == len(iterations) == 3
    assert torch.equal(planned.net.head.weight, backbone.head.weight + 1)


def test_distances_are_the_couplings_mean_of_the_lengths_with_an_error_over_blocks(
    replica, backbone
):
    cost = np.random.default_rng(1).random((30, 20))
    for given, iteration in zip(*driven(replica(), backbone, cost=cost), strict=True):
        each = []
        for block in iteration.blocks[:2]:
            inside = cost[np.ix_(block.source, block.target)]
            each.append((block.mass * inside).sum() / block.mass.sum())
        # the last one leaves out 0.1 % of the mass
        assert iteration.distance == pytest.approx(sum(each) / 2, abs=1e-3)
        assert iteration.standard_error == pytest.approx(abs(each[0] - each[1]) / 2, abs=1e-3)
        trained = given.coupling.matrix.toarray()
        np.testing.assert_allclose(trained, joined(iteration.blocks, (30, 20)).matrix.toarray())


def test_one_block_has_no_standard_error(replica, backbone):
    _, iterations = driven(replica(), backbone, replace(SMALL, blocks=1))
    for iteration in iterations:
        assert math.isnan(iteration.standard_error)
        assert iteration.distance > 0


@pytest.mark.parametrize(("quadratic", "step"), [(False, proximal), (True, proximal_quadratic)])
def test_coupling_moves_towards_the_cheap_pairs_in_measured_blocks_alone(
    replica, backbone, quadratic, step
):
    cost = np.random.default_rng(2).random((30, 20))
    _, iterations = driven(replica(), backbone, replace(SMALL, quadratic=quadratic), cost)
    for before, after, weight in zip(iterations[:-1], iterations[1:], (0.05, 0.25), strict=True):
        for k, (old, new) in enumerate(zip(before.blocks, after.blocks, strict=True)):
            inside = cost[np.ix_(old.source, old.target)]
            if k < 2:
                # the first quadratic step may find the cheapest block, which the second keeps
                assert (new.mass * inside).sum() < (old.mass * inside).sum() + 1e-9 * quadratic
                # fivefold the weight each time
                np.testing.assert_allclose(new.mass, step(old, inside, weight).mass)
            else:
                assert np.array_equal(new.mass, old.mass)
        matrix = joined(after.blocks, (30, 20)).matrix.toarray()
        for axis, n in enumerate(matrix.shape):
            np.testing.assert_allclose(matrix.sum(1 - axis), 1 / n, atol=1e-9)


def test_every_pair_is_measured_until_the_last_iteration_which_drops_a_thousandth_of_the_mass(
    replica, backbone
):
    # some pairs lose nearly all of their mass
    cost = np.where(np.random.default_rng(3).random((30, 20)) < 0.5, 0.0, 0.4)
    seen, iterations = driven(replica(), backbone, cost=cost)
    every = {
        (i, j)
        for b in iterations[0].blocks[:2]
        for i in b.source.tolist()
        for j in b.target.tolist()
    }
    assert seen[0].pairs == seen[1].pairs == every
    assert seen[2].pairs < every
    matrix = seen[2].coupling.matrix.toarray()
    held = sum(matrix[pair] for pair in seen[2].pairs) / sum(matrix[pair] for pair in every)
    assert 0.999 <= held < 1 - 1e-9


def test_pair_that_a_quadratic_step_emptied_is_measured_and_gains_mass_again(replica, backbone):
    settings = replace(SMALL, quadratic=True)
    planned, iterations = replica(), []
    stages = iterated(planned, backbone, settings, iterations)
    first, costs = np.random.default_rng(5).random((30, 20)), []
    training = next(stages)
    for cost in (first, 1 - first):  # what was dear is cheap next time
        lengths = training.callback
        costs.append(len(lengths.source))
        lengths.total = torch.tensor(cost[lengths.source, lengths.target] * settings.partitions)
        training = stages.send(History(tau=[1.0]))
    assert costs[0] == costs[1] == sum(b.mass.size for b in iterations[0].blocks[:2])
    emptied = [b.mass < 1e-6 * b.mass.mean() for b in iterations[1].blocks[:2]]
    matrix = training.path.coupling.matrix.toarray()
    gained = [
        matrix[np.ix_(b.source, b.target)][empty] > 0.1 * b.mass.mean()
        for b, empty in zip(iterations[1].blocks[:2], emptied, strict=True)
    ]
    assert all(empty.any() for empty in emptied)
    assert all(gain.any() for gain in gained)


@pytest.mark.parametrize("smoothing", [1e-3, 1e-6])
def test_no_pair_loses_its_mass_however_little_is_smoothed(
    replica, backbone, smoothing, monkeypatch
):
    """Warnings are errors here, so no logarithm of 0 is taken either."""
    far_apart = np.random.default_rng(4).random((30, 20))
    monkeypatch.setattr(coupled, "feature_cost", lambda path, backbone: far_apart)
    little = replace(SMALL, smoothing=smoothing, block=20, blocks=None)
    seen, iterations = driven(replica(), backbone, little)
    assert len(seen) == 3
    for iteration in iterations:
        assert all((block.mass > 0).all() for block in iteration.blocks)


def test_iterations_of_real_trainings_measure_real_lengths(replica, backbone):
    planned, iterations = replica(), []
    stages = iterated(planned, backbone, replace(SMALL, iterations=2), iterations)
    (history,) = fit([next(stages)])
    stages.send(history)
    assert iterations[0].distance > 0
    assert math.isfinite(iterations[0].standard_error)
    first = joined(iterations[0].blocks, (30, 20)).matrix.toarray()
    assert not np.array_equal(planned.path.coupling.matrix.toarray(), first)


# --- settings ---


@pytest.mark.parametrize(
    ("n_target", "block"), [(20, 20), (627, 19), (2500, 25), (26, 13), (31, 1), (24, 24)]
)
def test_blocks_left_open_are_the_largest_that_divide(n_target, block):
    assert Coupled().block_of(n_target) == block


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"block": 3}, "block must divide the 20 .*got 3"),
        ({"block": 0}, "block must divide the 20 .*got 0"),
        ({"block": "5"}, "block must divide the 20 .*got '5'"),
        ({"block": 5, "blocks": 5}, "blocks must lie between 1 and 4.*got 5"),
        ({"block": 5, "blocks": 0}, "blocks must lie between 1 and 4.*got 0"),
        ({"block": 5, "blocks": 1.5}, "blocks must lie between 1 and 4.*got 1.5"),
        ({"iterations": 0}, "iterations must be a whole number, 1 or more; got 0"),
        ({"iterations": 1.5}, "iterations .*got 1.5"),
        ({"smoothing": 0}, "smoothing must be above 0; got 0"),
        ({"smoothing": -0.1}, "smoothing must be above 0; got -0.1"),
        ({"smoothing": math.nan}, "smoothing must be above 0; got nan"),
        ({"partitions": 0}, "partitions .*got 0"),
        ({"quadratic": "false"}, "quadratic must be True or False; got 'false'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(choice, says):
    with pytest.raises(ValueError, match=says):
        Coupled(**choice).block_of(20)
