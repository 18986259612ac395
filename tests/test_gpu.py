"""Trainings and notebooks on a real GPU, as a user runs them; `test_devices.py` needs none."""

import pytest
from small_course import NOTEBOOKS, STORES_NOTHING, printed, smoke

from rtl_utils import devices, headless
from rtl_utils.models import build
from rtl_utils.paths import Path
from rtl_utils.schedules import CONSTANT, Grid
from rtl_utils.store import Store
from rtl_utils.training import Replica, Sgd, fit

pytestmark = pytest.mark.gpu


def trained(tasks, windows):
    """Histories of a stack whose networks differ in data, seed, path and windows."""
    source, target = tasks("source", 1, 24), tasks("target", 2, 24)
    paths = [(Path(target), CONSTANT), (Path(target, source), Grid((0.5, 1.0)))]
    replicas = []
    for seed, (path, schedule) in enumerate(paths):
        net = build(target, (4, 4, 4, 4), seed)
        sgd = Sgd(epochs=2, batch_size=10)  # the last mini-batch is smaller
        replica = Replica(
            net, path, schedule, seed, sgd, windows=windows, steady=seed * len(windows)
        )
        replicas.append(replica)
    histories = fit(replicas, device="cuda")
    return [value for history in histories for s in history.series().values() for value in s]


@pytest.mark.parametrize("windows", [(), (0.125, 0.25)])
def test_recorded_steps_give_what_steps_one_by_one_give(pictures, windows, monkeypatch):
    recorded = trained(pictures, windows)
    monkeypatch.setattr(devices, "records", lambda device: False)
    assert trained(pictures, windows) == recorded


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
