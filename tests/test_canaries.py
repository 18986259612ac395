"""The numbers of every room are what they were; what changes one turns exactly its canaries red."""

import json
from dataclasses import replace
from importlib import import_module

import canaries
import numpy as np
import pytest
import torch

from rtl_utils import coupled, couplings, lengths, methods, models, paths, training

COMMITTED = json.loads(canaries.FILE.read_text())
COUPLED = {f"method/{name}" for name in ("ct", "ct-annealed", "ct-iterated")}
# no training of a network behind them, or none that the training's own numbers decide
UNTRAINED = {"probing/lime"}
TABLES = {"data/synthetic", "network/plain", "network/batchnorm", "program/single"}
TABLES |= {"program/stacked", "sgd/penalties", "probing/lime"}


def same(now, committed):
    return len(now) == len(committed) and np.allclose(now, committed, rtol=1e-9, atol=1e-9)


def test_every_canary_has_committed_numbers():
    assert set(COMMITTED) == set(canaries.canaries())


@pytest.mark.parametrize("name", COMMITTED)
def test_numbers_are_what_they_were(name, request):
    if name == "data/cifar100":
        request.getfixturevalue("real_cifar100")
    assert same(canaries.compute(name), COMMITTED[name]), (
        f"{name} gives other numbers: raise the version of what you changed, note it in "
        "CHANGELOG.md, and run tests/canaries.py"
    )


def test_float32_trains_as_float64_does(monkeypatch):
    """The precision that every run has, beside the one that canaries have."""
    task = canaries.images("target", 1)

    def losses():
        net = models.build(task, canaries.WIDTH, 0)
        replica = training.Replica(
            net, paths.Path(task), methods.CONSTANT, 0, replace(canaries.SGD, epochs=2)
        )
        return training.fit([replica])[0].val_loss

    single, built = losses(), models.build
    monkeypatch.setattr(models, "build", lambda *arguments: built(*arguments).double())
    double = losses()
    assert np.allclose(single, double, rtol=1e-3)
    assert single != double


def red():
    return {name for name in COMMITTED if not same(canaries.compute(name), COMMITTED[name])}


def shifted(function, by=1e-3):
    return lambda *arguments: function(*arguments) + by


@pytest.mark.slow
def test_a_change_in_paths_turns_its_blend_red(monkeypatch, real_cifar100):
    def weights(tau, rng, n, alpha):
        return (rng.random(n) < tau + 0.2 * (1 - tau)).astype(float)

    monkeypatch.setitem(paths.BLENDS, "mixture", replace(paths.BLENDS["mixture"], weights=weights))
    assert red() == {"blend/mixture", "method/ut-mixture", "method/iso"}


@pytest.mark.slow
def test_a_change_in_training_turns_every_training_red(monkeypatch, real_cifar100):
    monkeypatch.setattr(training.loop, "example_loss", shifted(training.example_loss))
    constant = {"probing/flips", "lengths/pairs"}  # what adds to a loss moves no weight
    without_steps = {"method/before", "method/fixed"}
    assert red() == set(COMMITTED) - UNTRAINED - constant - without_steps


@pytest.mark.slow
def test_a_change_in_a_data_set_turns_it_alone_red(monkeypatch, real_cifar100):
    digits = import_module("rtl_utils.data.digits")
    monkeypatch.setattr(digits, "_clutter", clutter_that_is_brighter(digits._clutter))
    assert red() == {"data/digits"}


def clutter_that_is_brighter(clutter):
    return lambda *arguments: np.maximum(clutter(*arguments), 20)


@pytest.mark.slow
def test_a_change_in_couplings_turns_coupled_methods_red(monkeypatch, real_cifar100):
    def other(source, target):
        return couplings.cosine_cost(source, target)[::-1]

    monkeypatch.setattr(coupled, "cosine_cost", other)
    assert red() == COUPLED


@pytest.mark.slow
def test_a_change_in_lengths_turns_what_they_steer_red(monkeypatch, real_cifar100):
    monkeypatch.setattr(lengths, "divergence", lambda log_p, log_q: (log_p - log_q).abs().sum(-1))
    assert red() == {"lengths/pairs", "method/ct-iterated"}


@pytest.mark.slow
def test_a_change_in_models_turns_the_networks_with_convolutions_red(monkeypatch, real_cifar100):
    def leaky(*arguments):
        *layers, _ = convolution_of(*arguments)
        return [*layers, torch.nn.LeakyReLU(0.1)]

    convolution_of = models._convolution
    monkeypatch.setattr(models, "_convolution", leaky)
    assert red() == set(COMMITTED) - TABLES
