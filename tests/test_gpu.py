"""Trainings and notebooks on a real GPU, as a user runs them; `test_devices.py` needs none."""

import pytest
import torch
from small_course import NOTEBOOKS, STORES_NOTHING, printed, smoke

from rtl_utils import devices, headless
from rtl_utils.methods import METHODS
from rtl_utils.models import build
from rtl_utils.paths import Path
from rtl_utils.schedules import CONSTANT, Grid
from rtl_utils.store import Store
from rtl_utils.training import Replica, Sgd, fit

pytestmark = pytest.mark.gpu


@pytest.fixture
def one_by_one(monkeypatch):
    """A function that calls another with recorded steps and then with steps that are started one
    by one: both results."""

    def call(function):
        recorded = function()
        with monkeypatch.context() as without:
            without.setattr(devices, "has_graphs", lambda device: False)
            return recorded, function()

    return call


@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_of_a_method_give_what_steps_one_by_one_give(method, trained, one_by_one):
    recorded, others = one_by_one(lambda: trained(method, "cuda"))
    assert recorded == others


def stack(tasks, width, windows=(), rate=1e-2):
    """Histories of networks that differ in data, seed, path, rate and cost, trained as a stack."""
    source, target = tasks("source", 1, 24), tasks("target", 2, 24)
    paths = [(Path(target), CONSTANT), (Path(target, source), Grid((0.5, 1.0)))]
    replicas = []
    for seed, (path, schedule) in enumerate(paths):
        net = build(target, width, seed)
        sgd = Sgd(lr=rate if seed else 1e-2, epochs=2, batch_size=10)  # the last one has fewer
        cost = float(seed * len(windows))
        replicas.append(Replica(net, path, schedule, seed, sgd, windows=windows, steady=cost))
    histories = fit(replicas, device="cuda")
    return [(history.series(), history.diverged) for history in histories]


@pytest.mark.parametrize("windows", [(), (0.125, 0.25)])
def test_a_recorded_stack_gives_what_steps_one_by_one_give(pictures, windows, one_by_one):
    recorded, others = one_by_one(lambda: stack(pictures, (4, 4, 4, 4), windows))
    assert recorded == others


def test_a_recorded_stack_of_perceptrons_gives_what_steps_one_by_one_give(table, one_by_one):
    recorded, others = one_by_one(lambda: stack(table, "batchnorm"))
    assert str(recorded) == str(others)  # a regression has no accuracy: NaN


def test_one_that_diverges_leaves_the_others_of_a_recorded_stack_alone(pictures):
    (sound, _), (_, diverged) = stack(pictures, (4, 4, 4, 4), rate=1e30)
    assert sound == stack(pictures, (4, 4, 4, 4))[0][0]
    assert "at epoch 0" in diverged


def test_nothing_is_left_on_the_gpu_after_a_training(pictures):
    stack(pictures, (4, 4, 4, 4), (0.25,))
    before = torch.cuda.memory_allocated()
    stack(pictures, (4, 4, 4, 4), (0.25,))
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_on_the_gpu(name, tmp_path):
    out = tmp_path / "runs"
    asked = smoke(name, out=str(out), device="cuda")
    done = headless.execute(NOTEBOOKS[name], asked, tmp_path / "done")
    said = printed(done)
    assert "All checks passed." in said
    assert f"device: cuda ({devices.card('cuda')})" in said
    if name in STORES_NOTHING:
        return
    store = Store(out)
    rows = store.values(store.specs())
    assert set(rows.device) == {"cuda"}
    assert set(rows.processor) == {devices.card("cuda")}
