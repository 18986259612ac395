"""The notebooks on a real GPU, as a user runs them headless; `test_devices.py` needs none."""

import pytest
from small_course import NOTEBOOKS, STORES_NOTHING, printed, smoke

from rtl_utils import devices, headless
from rtl_utils.store import Store

pytestmark = [pytest.mark.gpu, pytest.mark.kernel, pytest.mark.slow]


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
