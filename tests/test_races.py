"""Races on the real digits: the engine, the panel in an event loop, and one in a real kernel."""

import asyncio
import queue
import subprocess
import sys
import threading
import time

import ipywidgets as ipw
import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel

from rtl_utils import methods
from rtl_utils.runs import BACKBONE, tasks
from rtl_utils.widgets._race import RacePanel
from rtl_utils.widgets.races import Diverged, End, Entered, Glance, Measured, Race, Step, race_runs
from rtl_utils.widgets.recordings import answers, stored

SMALL = {
    "dataset": "digits",
    "source": "digits-0-4",
    "target": "digits-5-9",
    "seeds": [0],
    "taus": [0, 0.5, 1],
    "lr": 0.01,
    "epochs": 3,
    "source_epochs": 1,
    "n_train": 20,
    "width": [4, 4, 4, 4],
}
LONG = 60  # seconds in which a condition must come true


def reports(race):
    """All reports up to the end, one by one."""
    while True:
        report = race.reports.get(timeout=LONG)
        yield report
        if isinstance(report, End):
            return


def finished(**changes):
    """A race that ran to its end, and its reports."""
    race = Race(SMALL | changes)
    race.start()
    return race, list(reports(race))


def until_step(race, method, number):
    for report in reports(race):
        if isinstance(report, Step) and report.method == method and report.done >= number:
            return
    raise AssertionError(f"the race ended before step {number} of {method}")


def quiet(race):
    """Reports that come until none has come for half a second: trainings that wait are silent."""
    found = []
    try:
        while True:
            found.append(race.reports.get(timeout=0.5))
    except queue.Empty:
        return found


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("race"):
            thread.join(timeout=LONG)
            assert not thread.is_alive()


@pytest.fixture
def racing():
    """Makes a race that has started; it is closed in the end."""
    made = []

    def start(**changes):
        made.append(Race(SMALL | changes))
        made[-1].start()
        return made[-1]

    yield start
    for race in made:
        race.close()


@pytest.mark.slow
def test_the_numbers_are_those_of_transfer_while_sliders_answer(two_threads, racing):
    race = racing(seeds=[5])
    recording = stored()
    x = recording.clean_tasks[1].x_val[:40]
    measured = {"ft": [], "ut": []}
    while True:
        answers(recording.backbone, x)  # sets the number of threads, as a slider does
        try:
            report = race.reports.get_nowait()
        except queue.Empty:
            continue
        if isinstance(report, Measured):
            measured[report.method].append(report.moment)
        if isinstance(report, End):
            break
    runs = race_runs(SMALL | {"seeds": [5]})
    source, target = tasks(runs[0])
    start = runs[0].backbone()
    backbone, _ = methods.pretrain(source, seed=5, sgd=start.sgd, width=start.width)
    for run in runs:
        _, history = methods.transfer(run.method, backbone, source, target, seed=5, setup=run.setup)
        assert race.histories[run.method] == history
        moments = measured[run.method]
        assert [m.epoch for m in moments] == [0, 1, 2, 3]
        assert [m.length for m in moments[1:]] == history.weight_length
        assert [m.tau for m in moments[1:]] == history.tau
        np.testing.assert_allclose([m.loss for m in moments[1:]], history.val_loss, rtol=1e-5)
        assert all(m.confusion.sum() == len(target.y_val) for m in moments)


def test_trainings_keep_in_step_and_both_report():
    _, found = finished()
    assert isinstance(found[0], Entered)
    assert [run.method for run in found[0].runs] == ["ft", "ut"]
    done = {"ft": 0, "ut": 0}
    for report in found:
        if isinstance(report, Step) and report.method in done:
            assert report.done == done[report.method] + 1
            done[report.method] = report.done
            assert abs(done["ft"] - done["ut"]) <= 1
    steps = 3 * 7  # of 100 images, 16 at a time
    assert done == {"ft": steps, "ut": steps}
    assert found[-1] == End("finished")
    seen = {report.method for report in found if isinstance(report, Glance)}
    assert seen == {"ft", "ut"}


@pytest.mark.slow
def test_the_second_race_has_its_backbone_at_once():
    finished(seeds=[1])
    _, found = finished(seeds=[1], taus=[0, 1], lr=0.02)
    assert not [r for r in found if isinstance(r, Step) and r.method == BACKBONE]
    _, found = finished(seeds=[1], source_ball=False)
    assert [r for r in found if isinstance(r, Step) and r.method == BACKBONE]


@pytest.mark.slow
def test_a_pause_halts_every_step_and_changes_no_number(racing):
    reference, _ = finished(epochs=6)
    race = racing(epochs=6)
    until_step(race, "ut", 10)
    race.pause()
    before = quiet(race)
    assert race.running and race.paused
    assert not any(isinstance(report, End) for report in before)
    assert quiet(race) == []
    race.resume()
    assert list(reports(race))[-1] == End("finished")
    assert race.histories == reference.histories


@pytest.mark.parametrize("method", [BACKBONE, "ft"])
def test_a_stop_comes_before_the_next_step(racing, method):
    race = racing(seeds=[2 if method == BACKBONE else 0], epochs=100)
    until_step(race, method, 3)
    race.pause()
    quiet(race)
    race.stop()  # also while it is paused
    assert list(reports(race)) == [End("stopped")]
    race.close()
    assert not race.running


def test_closing_a_running_race_waits_for_its_threads(racing):
    race = racing(epochs=1000)
    until_step(race, "ut", 3)
    race.close()
    assert not race.running
    assert quiet(race)[-1] == End("stopped")


@pytest.mark.kernel
def test_python_ends_at_once_while_a_race_runs():
    script = (
        "from rtl_utils.widgets.races import Race, Step\n"
        f"race = Race({SMALL | {'epochs': 100_000}})\n"
        "race.start()\n"
        "while not isinstance(report := race.reports.get(), Step) or report.method != 'ut': pass\n"
        "assert race.running"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], check=False, timeout=LONG, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_stopped_backbone_is_not_kept(racing):
    race = racing(seeds=[3])
    until_step(race, BACKBONE, 1)
    race.close()
    _, found = finished(seeds=[3])
    first = next(report for report in found if isinstance(report, Step))
    assert (first.method, first.done) == (BACKBONE, 1)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"taus": [0, 0.7, 0.5, 1]}, r"taus must rise within \[0, 1\] and end at 1.*0.7, 0.5"),
        ({"taus": [0, 0.5]}, "taus must rise"),
        ({"epochs": 2}, "epochs"),  # fewer than values of tau
        ({"lr": -0.01}, "lr must be a number, positive; got -0.01"),
        ({"n_train": 5000}, "5000"),
        ({"dataset": "letters"}, "dataset must be one of .*; got 'letters'"),
        ({"target": "digits-0-4"}, "source and target must differ"),
    ],
)
def test_a_bad_entry_is_one_sentence_before_any_training(entry, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        race_runs(SMALL | entry)
    race, found = finished(**entry)
    assert found == [End("refused", str(caught.value))]
    assert race.histories == {}


def test_a_training_that_diverges_says_so_and_the_race_ends():
    race, found = finished(lr=1e30)
    sentences = [report.message for report in found if isinstance(report, Diverged)]
    assert len(sentences) == 2
    assert "fine-tuning diverged: the loss is not finite at epoch 0" in " ".join(sentences)
    assert found[-1] == End("finished")
    assert {m: h.diverged is None for m, h in race.histories.items()} == {"ft": False, "ut": False}


def test_a_failure_of_any_kind_ends_the_race_in_words(monkeypatch):
    def broken(net, *args, **of_training):
        raise ValueError("no room")  # not that of a bad entry

    monkeypatch.setattr("rtl_utils.widgets.races.moment", broken)
    _, found = finished()
    assert found[-1] == End("failed", "the race failed: ValueError: no room")


def test_a_race_leaves_the_number_of_threads_alone(two_threads):
    finished(epochs=6)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2] and torch.get_num_threads() == 2


# --- the panel -----------------------------------------------------------------------------------


def panel(**entries):
    """A panel with entries of a short race."""
    made = RacePanel()
    for name, value in ({"epochs": 3, "taus": "0, 0.5, 1", "n_train": "20"} | entries).items():
        getattr(made.entries, name).value = value
    return made


async def until(condition):
    """Wait for a condition, while the event loop goes on."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.01)


def said(made):
    return " ".join(part.value for part in made.children if isinstance(part, ipw.HTML))


def lines(made):
    """Name -> places of the points of each curve of accuracy."""
    accuracy = made.scene()[0]
    return {line.name: list(line.x) for line in accuracy.lines}


def at_rest(made):
    return made.stop.disabled and not made.train.disabled


def test_before_a_race_the_panel_replays_the_stored_one():
    made = RacePanel()
    assert "stored race" in said(made)
    assert made.picture().startswith(b"\x89PNG")
    assert made.epoch.max == 20 and made.epoch.value == 20
    *_, ft, ut = made.scene()
    assert ft.texts != ut.texts
    made.epoch.value = 0
    accuracy, loss, share, length, ft, ut = made.scene()
    assert accuracy.cursor == loss.cursor == 0
    assert ft.texts == ut.texts  # both start from the backbone
    assert list(length.values) == [0, 0]
    assert share.values[0] == share.values[1] == stored().moments["ft"][0].share


@pytest.mark.slow
def test_a_race_draws_live_and_can_be_replayed():
    async def scenario():
        made = panel(seed=8)
        drawn = []
        made.canvas.observe(lambda _: drawn.append(lines(made)), names="scene")
        made.train.click()
        assert made.train.disabled and made.epoch.disabled and not made.stop.disabled
        await until(lambda: made.bar.description == BACKBONE and made.bar.value > 0)
        await until(lambda: at_rest(made))
        return made, drawn

    made, drawn = asyncio.run(scenario())
    assert "Finished" in said(made)
    assert made.bar.value == 1 and made.bar.description == "race"
    assert made.epoch.max == 3 and made.epoch.value == 3
    longer = [len(names["fine-tuning"]) for names in drawn]
    assert len(set(longer)) > 2  # while it ran
    x = lines(made)["fine-tuning"]
    assert x == sorted(x) and {0, 1, 2, 3} <= set(x)
    made.epoch.value = 1
    *_, ut = made.scene()
    assert "epoch 1, tau = 0" in ut.title
    assert made.canvas.scene[-1]["title"] == ut.title
    assert "Finished" in said(made)


@pytest.mark.slow
def test_pause_resume_and_stop_leave_the_curves():
    async def scenario():
        made = panel(epochs=60)
        made.train.click()
        await until(lambda: made.epoch.value >= 1 and made.epoch.max == 60)
        made.pause.click()
        assert made.pause.description == "Resume"
        await until(lambda: made.left.value == "paused")
        made.train.click()  # a second press does nothing
        made.pause.click()
        assert made.pause.description == "Pause"
        made.entries.epochs.value = 5  # for the next race
        at = made.epoch.value
        await until(lambda: made.epoch.value > at)
        assert made.epoch.max == 60
        made.stop.click()
        await until(lambda: at_rest(made))
        return made

    made = asyncio.run(scenario())
    assert f"Stopped after {made.epoch.max} epochs" in said(made)
    assert all(len(x) > 2 for x in lines(made).values())
    assert made.scene()[0].xlim == (0, 60)


def test_reset_stops_the_race_and_brings_the_stored_one_back():
    async def scenario():
        made = panel(epochs=60, lr="0.02")
        made.train.click()
        await until(lambda: made.epoch.max == 60)
        made.reset.click()
        await until(lambda: at_rest(made))
        return made

    made = asyncio.run(scenario())
    fresh = RacePanel()
    assert "stored race" in said(made)
    assert made.entries.given() == fresh.entries.given()
    assert made.epoch.max == 20
    assert lines(made) == lines(fresh)


def test_a_stop_during_the_backbone_leaves_the_race_before():
    async def scenario():
        made = panel(seed=9)
        made.train.click()
        await until(lambda: made.bar.description == BACKBONE and made.bar.value > 0)
        made.stop.click()
        await until(lambda: at_rest(made))
        return made

    made = asyncio.run(scenario())
    assert "Stopped while the backbone" in said(made)
    assert lines(made) == lines(RacePanel())


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"taus": "0, 0.7, 0.5, 1"}, "taus must rise within [0, 1] and end at 1"),
        ({"taus": "0; 1"}, "taus must be numbers with commas between them"),
        ({"lr": "fast"}, "lr must be a number, such as 0.01"),
        ({"lr": "nan"}, "lr must be a number, positive"),
        ({"epochs": 1}, "epochs"),
    ],
)
def test_a_bad_entry_is_said_in_the_panel(entries, sentence):
    async def scenario():
        made = panel(**entries)
        made.train.click()
        await until(lambda: at_rest(made))
        return made

    made = asyncio.run(scenario())
    assert sentence in said(made)
    assert lines(made) == lines(RacePanel())


@pytest.mark.parametrize(
    ("lr", "sentence"),
    [
        ("1e30", "diverged: the loss is not finite"),
        ("100", "uncoupled transfer rose above the chart"),
    ],
)
def test_a_rate_that_is_too_high_is_said_and_the_curves_stay(lr, sentence):
    async def scenario():
        made = panel(lr=lr)
        made.train.click()
        await until(lambda: at_rest(made))
        return made

    made = asyncio.run(scenario())
    assert sentence in said(made)
    assert all(len(x) >= 1 for x in lines(made).values())
    assert np.isfinite(made.scene()[1].ylim).all()
    assert made.picture().startswith(b"\x89PNG")


def test_without_an_event_loop_train_waits_for_the_end():
    made = panel(epochs=3)
    made.train.click()
    assert "Finished" in said(made)
    assert made.epoch.max == 3


def test_closing_the_panel_stops_its_race():
    async def scenario():
        made = panel(epochs=60)
        made.train.click()
        await until(lambda: made.epoch.max == 60)
        made.close()
        await until(lambda: at_rest(made))

    asyncio.run(scenario())


def test_data_without_images_have_no_race():
    with pytest.raises(ValueError, match="must be one of digits, cifar100; got 'synthetic'"):
        RacePanel("synthetic")


def test_every_control_has_a_name():
    made = RacePanel()
    for control in (*made.entries.children, made.bar, made.epoch, made.train, made.reset):
        assert control.description


@pytest.mark.kernel
@pytest.mark.slow
def test_in_a_kernel_the_buttons_answer_while_it_trains(tmp_path):
    manager, client = start_new_kernel(kernel_name="python3", cwd=tmp_path)
    try:
        done = client.execute_interactive(
            "from rtl_utils.widgets._race import RacePanel\npanel = RacePanel()",
            timeout=LONG,
        )
        assert done["content"]["status"] == "ok"
        names = ["train", "pause", "stop", "bar"]
        found = client.execute_interactive(
            "pass",
            user_expressions={name: f"panel.{name}.model_id" for name in names},
            timeout=LONG,
        )["content"]["user_expressions"]
        ids = {name: found[name]["data"]["text/plain"].strip("'") for name in names}

        def click(name):
            content = {
                "comm_id": ids[name],
                "data": {"method": "custom", "content": {"event": "click"}},
            }
            client.shell_channel.send(client.session.msg("comm_msg", content))

        def until_state(holds):
            while True:
                message = client.get_iopub_msg(timeout=LONG)
                if message["msg_type"] != "comm_msg":
                    continue
                content = message["content"]
                if holds(content["comm_id"], content["data"].get("state", {})):
                    return

        click("train")
        until_state(lambda comm, state: comm == ids["bar"] and 0 < state.get("value", 0) < 1)
        click("pause")
        until_state(lambda comm, state: state.get("description") == "Resume")
        click("stop")
        until_state(
            lambda comm, state: (
                "Stopped while the backbone" in state.get("value", "")
                if isinstance(state.get("value"), str)
                else False
            )
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_panel_that_begins_a_race_stops_that_of_another():
    """The other panel's cell may have been run again: nobody could stop its race any more."""

    async def scenario():
        first, second = panel(epochs=60), panel()
        first.train.click()
        await until(lambda: first.epoch.max == 60)
        first.pause.click()
        second.train.click()
        await until(lambda: at_rest(first) and at_rest(second))
        return first, second

    first, second = asyncio.run(scenario())
    assert "Stopped after" in said(first)
    assert "Finished" in said(second)


def test_a_race_that_cannot_be_drawn_is_stopped_in_words(monkeypatch):
    async def scenario():
        made = panel(epochs=60)
        made.train.click()
        await until(lambda: made.epoch.max == 60)
        show = made.canvas.show
        monkeypatch.setattr(made.canvas, "show", failing)
        following = made._following
        await asyncio.wait([following])
        monkeypatch.setattr(made.canvas, "show", show)
        with pytest.raises(RuntimeError, match="no canvas"):
            following.result()
        assert "This failed: RuntimeError: no canvas" in said(made)
        made.reset.click()
        return made

    def failing(scene):
        raise RuntimeError("no canvas")

    made = asyncio.run(scenario())
    assert not made.train.disabled
    assert "stored race" in said(made)


def test_a_race_with_the_ball_on_the_target_is_measured_without_it():
    async def scenario():
        made = panel(target_ball=True)
        made.train.click()
        race = made._race
        await until(lambda: at_rest(made))
        return made, race

    made, race = asyncio.run(scenario())
    accuracy, loss = made.scene()[:2]
    assert accuracy.title == "Accuracy without the ball"
    assert loss.title == "Loss without the ball"
    for line, name in zip(accuracy.lines, ("ft", "ut"), strict=True):
        assert line.y[-1] != pytest.approx(race.histories[name].val_accuracy[-1], abs=1e-4)
