"""The panels over checkpoints, their scenes, and the recordings that they show."""

import base64
import io
import json
from dataclasses import replace
from importlib.resources import files

import matplotlib.image
import numpy as np
import pytest
import torch

from rtl_utils import experiments, methods, progress
from rtl_utils.data import Shortcut, at_most
from rtl_utils.data.shortcuts import usual
from rtl_utils.models import predict
from rtl_utils.paths import Path
from rtl_utils.refits import refit
from rtl_utils.runs import Run, tasks
from rtl_utils.store import Store
from rtl_utils.training import Sgd
from rtl_utils.widgets import recordings, scenes
from rtl_utils.widgets._ball import BallPanel
from rtl_utils.widgets._epochs import EpochsPanel
from rtl_utils.widgets._path import PathPanel
from rtl_utils.widgets._refit import RefitPanel
from rtl_utils.widgets.panels import Panel, slider

SMALL = Run(
    "digits",
    "digits-0-4",
    "digits-5-9",
    "ft",
    seed=3,
    source_shortcut=Shortcut(classes=("4",)),
    n_train=20,
    width=(8, 8, 8, 8),
    taus=(0.0, 0.5, 1.0),
    sgd=Sgd(epochs=3),
)


@pytest.fixture(scope="module")
def stored():
    return recordings.stored()


@pytest.fixture(scope="module")
def recorded():
    return recordings.record(SMALL, ("ft", "ut"), every=2)


def kinds(scene):
    return [type(chart).__name__ for chart in scene]


def bars(scene):
    return {chart.title: chart.values for chart in scene if isinstance(chart, scenes.Bars)}


def first(scene, kind):
    return next(chart for chart in scene if isinstance(chart, kind))


# --- recordings --------------------------------------------------------------------------------


def test_the_stored_recording_is_of_todays_runs():
    file = files("rtl_utils.widgets").joinpath("stored", "digits.npz")
    with file.open("rb") as opened, np.load(opened) as arrays:
        header = json.loads(str(arrays["header"]))
    run = Run.of(header["run"])
    current = [replace(run, method=name).key for name in header["methods"]]
    assert header["keys"] == current, "its numbers have changed since: call `make recording`"
    with file.open("rb") as opened:
        assert len(opened.read()) < 600_000


def test_stored_networks_do_what_was_measured_of_them(stored):
    _, target = stored.clean_tasks
    for method, nets in stored.nets.items():
        for moment in stored.moments[method]:
            logits = predict(nets[int(moment.epoch)], target.x_val)
            accuracy = float((logits.argmax(1) == target.y_val).float().mean())
            # half precision moves an image or two over the border between two classes
            assert accuracy == pytest.approx(moment.accuracy, abs=0.01)


def test_recording_trains_what_the_package_trains(recorded):
    source, target = tasks(SMALL)
    backbone, _ = methods.pretrain(source, seed=3, sgd=SMALL.sgd, width=SMALL.width)
    for name in ("ft", "ut"):
        net, history = methods.transfer(name, backbone, source, target, seed=3, setup=SMALL.setup)
        ours = predict(recorded.nets[name][3], target.x_val)
        assert torch.allclose(ours, predict(net, target.x_val), atol=1e-4)
        last = recorded.moments[name][-1]
        assert last.length == pytest.approx(history.weight_length[-1])
        assert last.accuracy == pytest.approx(history.val_accuracy[-1])
    assert recorded.epochs == [0, 2, 3]
    assert [m.epoch for m in recorded.moments["ut"]] == [0, 2, 3]


def test_a_recording_survives_its_file(recorded):
    again = recordings._read(io.BytesIO(recordings._written(recorded)))
    _, target = recorded.tasks
    for method, nets in recorded.nets.items():
        for epoch, net in nets.items():
            ours = predict(again.nets[method][epoch], target.x_val).softmax(1)
            assert torch.allclose(ours, predict(net, target.x_val).softmax(1), atol=0.02)
        np.testing.assert_array_equal(
            again.moments[method][-1].confusion, recorded.moments[method][-1].confusion
        )
        np.testing.assert_allclose(again.maps[method].loss, recorded.maps[method].loss)
    assert again.run == recorded.run


def test_maps_end_in_the_target(recorded):
    """At tau = 1 the map measures the target's own validation images."""
    _, target = recorded.tasks
    held_out = replace(target, x_train=target.x_val, y_train=target.y_val)
    x, y = Path(held_out).sample(1.0, recordings._ALONG, SMALL.seed)
    for method, found in recorded.maps.items():
        right = (predict(recorded.nets[method][3], x).argmax(1) == y.argmax(1)).float()
        assert found.accuracy[-1, -1] == pytest.approx(float(right.mean()))


def test_recording_of_stored_runs_has_their_networks(tmp_path):
    store = Store(tmp_path)
    runs = [replace(SMALL, method=name) for name in ("ft", "ut")]
    experiments.run(runs, store)
    found = recordings.of_runs(runs, store)
    _, target = tasks(SMALL)
    for run in runs:
        expected = predict(experiments.network(run, store), target.x_val)
        ours = predict(found.nets[run.method][3], target.x_val)
        assert torch.allclose(ours, expected, atol=1e-4)
    assert found.epochs == [0, 3]
    with pytest.raises(ValueError, match="one backbone; the 2 runs start from 2"):
        recordings.of_runs([SMALL, replace(SMALL, seed=4)], store)


# --- panels ------------------------------------------------------------------------------------


def test_path_panel_goes_from_source_to_target(stored):
    panel = PathPanel(stored)
    source_image, _, target_image = panel.scene()[:3]
    panel.tau.value = 0.0
    at_source = panel.scene()
    np.testing.assert_array_equal(at_source[1].pixels, source_image.pixels)
    panel.tau.value = 1.0
    at_target = panel.scene()
    np.testing.assert_array_equal(at_target[1].pixels, target_image.pixels)
    panel.tau.value = 0.25
    label = bars(panel.scene())["soft label"]
    ends = [bars(scene)["soft label"] for scene in (at_source, at_target)]
    np.testing.assert_allclose(label, 0.75 * ends[0] + 0.25 * ends[1], atol=1e-6)


def test_path_panel_shows_a_training_example_and_the_answers_to_it(stored):
    panel = PathPanel(stored)
    panel.tau.value, panel.pair.value = 0.5, 7
    source, target = stored.tasks
    path = Path(target, source)
    x, y = path.batch(path.draw(0.5, stored.run.seed, epoch=0), slice(6, 7))
    found = bars(panel.scene())
    np.testing.assert_allclose(found["soft label"], y[0])
    for name, net in stored.at(20).items():
        title = {"ft": "fine-tuning", "ut": "uncoupled transfer"}.get(name, name)
        expected = predict(net, x).softmax(1)[0]
        np.testing.assert_allclose(found[title], expected, atol=1e-5)


def test_a_mixture_is_one_task_or_the_other_and_a_coupling_changes_the_partner(stored):
    panel = PathPanel(stored)
    panel.blend.value = "mixture"
    seen = set()
    for tau in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        panel.tau.value = tau
        source, mixed, target = panel.scene()[:3]
        ends = [np.array_equal(mixed.pixels, end.pixels) for end in (source, target)]
        assert sum(ends) == 1
        seen.add(ends.index(True))
    assert seen == {0, 1}
    independent = panel.scene()[0].pixels
    panel.coupling.value = "transport"
    assert not np.array_equal(panel.scene()[0].pixels, independent)


def test_epochs_panel_frames_what_its_curves_show(stored):
    panel = EpochsPanel(stored)
    panel.method.value, panel.epoch.value, panel.tau.value = "ut", 6, 0.5
    chart, over_tau, over_epochs = panel.scene()
    value = stored.maps["ut"].loss[3, 10]
    assert chart.cursor == (3, 10)
    assert chart.values[3, 10] == value
    ut_over_tau = next(line for line in over_tau.lines if line.name == "uncoupled transfer")
    ut_over_epochs = next(line for line in over_epochs.lines if line.name == "uncoupled transfer")
    assert ut_over_tau.y[10] == ut_over_epochs.y[3] == value
    panel.measure.value = "accuracy"
    assert panel.scene()[0].values[3, 10] == stored.maps["ut"].accuracy[3, 10]


def test_epochs_panel_needs_maps(tmp_path, stored):
    with pytest.raises(ValueError, match="this recording has no maps"):
        EpochsPanel(replace(stored, maps={}))


def test_the_map_of_the_ball_is_what_the_bars_show_for_every_place(stored):
    panel = BallPanel(stored)
    for model, title in (("ft", "fine-tuning"), ("ut", "uncoupled transfer")):
        panel.model.value = model
        for place in ((0, 0), (5, 11), (13, 13)):
            panel.down.value, panel.across.value = place
            scene = panel.scene()
            chart = first(scene, scenes.Heat)
            assert chart.cursor == place
            assert chart.values[place] == pytest.approx(bars(scene)[title][4])


def test_the_ball_lies_where_the_sliders_say_and_can_be_taken_away(stored):
    panel = BallPanel(stored)
    _, target = stored.clean_tasks
    clean = target.x_val[0].permute(1, 2, 0).numpy()
    panel.down.value, panel.across.value = 2, 9
    changed = (first(panel.scene(), scenes.Image).pixels != clean).any(-1)
    down, across = np.nonzero(changed)
    assert (down.min(), down.max(), across.min(), across.max()) == (2, 4, 9, 11)
    panel.ball.value = False
    scene = panel.scene()
    np.testing.assert_array_equal(first(scene, scenes.Image).pixels, clean)
    assert first(scene, scenes.Heat).cursor is None
    expected = predict(stored.at(20)["ut"], target.x_val[:1]).softmax(1)[0]
    np.testing.assert_allclose(bars(scene)["uncoupled transfer"], expected, atol=1e-5)


def test_a_patch_as_large_as_the_image_has_one_place(recorded):
    tinted = replace(recorded.run, source_shortcut=usual("tint", recorded.shortcut[0].classes))
    panel = BallPanel(replace(recorded, run=tinted))
    assert first(panel.scene(), scenes.Heat).values.shape == (1, 1)


def test_panels_take_networks_of_a_notebook(recorded):
    without_maps = replace(recorded, maps={}, moments={})
    assert kinds(PathPanel(without_maps).scene()) == ["Image"] * 3 + ["Bars"] * 4
    assert kinds(BallPanel(without_maps).scene()) == ["Image"] + ["Bars"] * 3 + ["Heat"]


def test_the_bars_of_the_refit_are_answers_of_the_refitted_backbone(tmp_path):
    store = Store(tmp_path)
    experiments.run([SMALL], store)
    panel = RefitPanel(SMALL, store)
    source, target = tasks(SMALL)
    source = at_most(source, SMALL.n_train, SMALL.seed)
    shortcut, label = SMALL.test
    planted = experiments.everywhere(target, shortcut, SMALL.seed)
    panel.image.value, panel.smoothing.value = 3, 0.3
    for tau in (0.0, 0.9, 1.0):
        panel.tau.value = tau
        net = experiments.network(SMALL.backbone(), store)
        refit(net, target, source, tau=tau, smoothing=0.3)
        clean, with_it = (predict(net, task.x_val).softmax(1) for task in (target, planted))
        found = bars(panel.scene())
        np.testing.assert_allclose(found["answer without it"], clean[2], atol=1e-5)
        np.testing.assert_allclose(found["answer with it"], with_it[2], atol=1e-5)
        shares = [(answer.argmax(1) == label).float().mean() for answer in (clean, with_it)]
        np.testing.assert_allclose(found["share of all images in 4/9"], shares, atol=1e-6)
    image, marked = [chart.pixels for chart in panel.scene()[:2]]
    assert 0 < (image != marked).any(-1).sum() <= 9  # the ball alone


def test_the_refit_needs_a_backbone_and_a_shortcut(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="the store has no weights"):
        RefitPanel(SMALL, store)
    table = replace(SMALL, dataset="synthetic", source="source", target="target", width="batchnorm")
    with pytest.raises(ValueError, match="synthetic has no shortcut; take a data set of images"):
        RefitPanel(replace(table, source_shortcut=None, n_train=None), store)


# --- how panels behave -------------------------------------------------------------------------


class Square(Panel):
    """Draws a bar of the slider's height, up to 3."""

    def __init__(self):
        super().__init__("Square", "Move it.")
        self.height = slider("height", 1, 5)
        self.build([self.height], [self.height])

    def scene(self):
        if self.height.value > 3:
            raise ValueError(f"height must be at most 3 <b>; got {self.height.value}")
        return [scenes.Bars("a bar", ["x"], np.array([self.height.value]), ["black"], high=3)]


def test_a_bad_entry_is_said_in_words_and_leaves_the_picture():
    panel = Square()
    before = panel.canvas.scene
    panel.height.value = 5
    assert "height must be at most 3 &lt;b&gt;; got 5" in panel._message.value
    assert panel.canvas.scene == before
    panel.height.value = 2
    assert panel._message.value == ""
    assert panel.canvas.scene != before


def test_a_panel_is_a_widget_with_a_picture_and_headless_a_picture_alone(monkeypatch):
    panel = Square()
    data, _ = panel._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(data)
    image = matplotlib.image.imread(io.BytesIO(base64.b64decode(data["image/png"])), format="png")
    assert image.std() > 0.05
    monkeypatch.setenv(progress.FILE, "somewhere")
    assert set(panel._repr_mimebundle_()) == {"image/png", "text/plain"}


def test_every_chart_reaches_the_browser_as_bytes_and_plain_values():
    line = scenes.Line("a", np.array([0.0, 1.0]), np.array([0.5, np.nan]), "#000000")
    group = scenes.Group("g", np.array([1.0]), "#000000", (0.0, 1.0, 2.0))
    charts = [
        scenes.Image("i", np.zeros((2, 3, 3), np.uint8)),
        scenes.Heat("h", np.ones((2, 2)), 0, 1, cursor=(np.int64(1), 0), texts=["1"] * 4),
        scenes.Curves("c", [line], "x", "y", (0, 1)),
        scenes.Dots("d", [group], "y", (0, 1), level=(0.5, "half")),
    ]
    states = [chart.state() for chart in charts]
    json.dumps(states, default=lambda value: f"{len(value)} bytes")  # what is left is plain
    assert [state["kind"] for state in states] == ["image", "heat", "curves", "dots"]
    assert states[0]["pixels"] == bytes(18)
    assert np.frombuffer(states[2]["lines"][0]["y"]["float32"], np.float32)[0] == 0.5
    assert states[3]["groups"][0]["interval"] == [0.0, 1.0, 2.0]
