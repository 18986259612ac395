"""The explorer: its page in a real browser, opened from the disk."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Watched, chromium, visit
from playwright.sync_api import Locator, Page

from rtl_utils import tables
from rtl_utils.claims import course_cases
from rtl_utils.data.shortcuts import blend_patch
from rtl_utils.paths import Path as TaskPath
from rtl_utils.statistics import FEWEST, decided, evidence, untested
from rtl_utils.widgets import explorer
from rtl_utils.widgets.recordings import TAUS, answers, stored
from rtl_utils.widgets.rows import stored as stored_rows

FILE = Path(__file__).parents[1] / "docs" / "explorer.html"
SECTIONS = ("path", "map", "ball", "race", "seeds")
PICTURES = "canvases => canvases.map(canvas => canvas.toDataURL())"


@pytest.fixture(scope="module")
def recording():
    return stored()


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser):
    """The page as a new visitor sees it; nothing may have gone wrong when the test ends."""
    with visit(browser, FILE.as_uri()) as watched:
        watched.page.wait_for_load_state("load")
        yield watched
        assert watched.errors == []
        assert watched.foreign == []


@pytest.fixture
def page(opened: Watched) -> Page:
    return opened.page


def embedded() -> dict:
    """What the committed page holds."""
    (data,) = re.findall(r'<script [^>]*id="data">(.*?)</script>', FILE.read_text(), re.S)
    return json.loads(data)


def put(page: Page, section: str, **values: int | str | bool) -> None:
    """Give controls of a section these values, as a hand would."""
    form = page.locator(f"#{section}")
    for name, value in values.items():
        control = form.locator(f"[name={name}]")
        if isinstance(value, bool):
            control.set_checked(value)
        elif control.count() > 1:
            form.locator(f"[name={name}][value={value}]").check()
        elif control.evaluate("control => control.tagName") == "SELECT":
            control.select_option(str(value))
        else:
            control.fill(str(value))


def said(page: Page, section: str) -> list[str]:
    """The labels of a section's charts."""
    charts = page.locator(f"#{section} canvas").all()
    return [chart.get_attribute("aria-label") or "" for chart in charts]


def shares(label: str) -> np.ndarray:
    """The percentages that the label of a chart of bars names, as fractions."""
    return np.array([int(found) for found in re.findall(r"(\d+) %", label)]) / 100


def numbers(label: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", label)]


def press(control: Locator) -> None:
    """Move a control by one key."""
    kind = control.evaluate("control => control.type")
    at_end = control.evaluate("control => control.value === control.max")
    keys = {"range": "ArrowLeft" if at_end else "ArrowRight", "checkbox": "Space"}
    control.press(keys.get(kind, "ArrowDown"))


# --- the file -------------------------------------------------------------------------------------


def test_the_committed_page_is_current(recording):
    found = embedded()
    assert found["made_of"] == explorer.made_of(recording), "run make explorer"
    assert FILE.read_text() == explorer.page(found), "run make explorer"


def test_the_page_is_half_a_megabyte_and_names_nothing_outside():
    text = FILE.read_text()
    assert len(text.encode()) < 800_000
    assert not re.search(r"https?://|@import|\bsrc=|\bimport\(", text)


def test_the_page_says_what_it_shows(recording):
    text = re.sub(r"\s+", " ", FILE.read_text())
    (heading,) = re.findall(r"<header>(.*?)</header>", text)
    assert "cluttered digits, digits-0-4 to digits-5-9, network (8, 8, 16, 16), seed 0" in heading
    assert "not the course's results" in heading
    assert recording.run.width == (8, 8, 16, 16)


def test_every_verdict_is_that_of_the_package():
    rows = stored_rows("digits")
    found = {claim["name"]: claim for claim in embedded()["seeds"]["claims"]}
    cases = {case.claim: case for case in course_cases(rows) if case.rows.seed.nunique() == 20}
    assert found.keys() == cases.keys()
    for name, case in cases.items():
        claim = found[name]
        differences = np.subtract(*tables.paired(case.rows, case.metric, case.a, case.b))
        assert claim["differences"] == pytest.approx(100 * differences, abs=1e-3)
        for first, n in ((0, 2), (0, 20), (7, 4), (19, 6)):
            values = np.concatenate([differences[first:], differences[:first]])[:n].tolist()
            one = evidence(values, case.direction, case.margin)
            shown = {key: array(claim[key])[first, n - 2] for key in ("mean", "low", "high", "p")}
            wanted = [100 * one.interval.mean, 100 * one.interval.low, 100 * one.interval.high]
            assert list(shown.values()) == pytest.approx([*wanted, one.p], rel=1e-4, nan_ok=True)
            verdict = claim["verdicts"][array(claim["verdict"])[first, n - 2]]
            assert verdict == (untested(n) or decided(one.p, one.opposite))


def array(found: dict) -> np.ndarray:
    kind = "uint8" if "uint8" in found else "float32"
    return np.frombuffer(base64.b64decode(found[kind]), kind).reshape(found["shape"])


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.kernel
@pytest.mark.parametrize("section", SECTIONS)
def test_every_control_is_moved_by_keyboard_and_moves_its_charts(page, section):
    form = page.locator(f"#{section}")
    others = page.locator(f"form:not(#{section}) canvas")
    names = form.evaluate("f => [...new Set([...f.elements].map(e => e.name).filter(Boolean))]")
    before_others = others.evaluate_all(PICTURES)
    assert names
    for name in names:
        control = form.locator(f"[name={name}]").and_(form.locator(":not([type=radio]), :checked"))
        before = form.locator("canvas").evaluate_all(PICTURES)
        press(control)
        page.wait_for_function(
            "([id, before]) => [...document.querySelectorAll(`#${id} canvas`)]"
            ".some((canvas, k) => canvas.toDataURL() !== before[k])",
            arg=[section, before],
        )
        if name == "planted":
            press(control)  # where the ball is taken away, nothing places it
    assert others.evaluate_all(PICTURES) == before_others


@pytest.mark.kernel
def test_every_control_has_a_label_and_every_slider_says_its_value(page):
    for control in page.locator("form [name]").all():
        label = control.evaluate("e => e.labels[0].innerText.trim()")
        assert label, control.get_attribute("name")
    for slider in page.get_by_role("slider").all():
        shown = slider.evaluate("e => e.nextElementSibling.innerText")
        assert slider.get_attribute("aria-valuetext") == shown != ""
    put(page, "path", tau=3, epoch=1)
    texts = [
        page.locator(f"#path [name={n}]").get_attribute("aria-valuetext") for n in ("tau", "epoch")
    ]
    assert texts == ["0.15", "2 epochs"]


@pytest.mark.kernel
def test_the_path_shows_the_answers_of_the_checkpoints(page, recording):
    source, target = recording.tasks
    path = TaskPath(target, source)
    seed = recording.run.seed
    for pair, tau, epoch in ((0, 0, 0), (5, 7, 4), (11, 20, 10)):
        put(page, "path", pair=pair, tau=tau, epoch=epoch)
        draw = path.draw(TAUS[tau], seed, epoch=0)
        x, y = path.batch(draw, slice(pair, pair + 1))
        nets = recording.at(recording.epochs[epoch])
        labels = said(page, "path")[3:]
        assert [label.split(":")[0] for label in labels[1:]] == [tables.label(m) for m in nets]
        wanted = [y.numpy()[0], *(answers(net, x)[0] for net in nets.values())]
        for label, probabilities in zip(labels, wanted, strict=True):
            assert shares(label) == pytest.approx(probabilities, abs=0.008), label
        assert pixels(page, "path", 1) == pytest.approx(raw(x[0]), abs=1)


@pytest.mark.kernel
def test_the_map_shows_what_was_measured(page, recording):
    for method, measure, epoch, tau in (("ft", "loss", 10, 20), ("ut", "accuracy", 4, 9)):
        put(page, "map", method=method, measure=measure, epoch=epoch, tau=tau)
        table = getattr(recording.maps[method], measure)
        (heat, over_tau, over_epochs) = said(page, "map")
        assert f"{measure}, {tables.label(method)}: {table[epoch, tau]:.2f} in the frame" in heat
        assert f"at row {epoch + 1}, column {tau + 1}" in heat
        both = [getattr(recording.maps[m], measure)[epoch, tau] for m in ("ft", "ut")]
        for label in (over_tau, over_epochs):
            assert numbers(label)[-2:] == pytest.approx(both, rel=0.05), label


@pytest.mark.kernel
def test_the_ball_is_where_the_sliders_say_and_the_map_is_of_the_chosen_model(page, recording):
    shortcut, ball_class = recording.shortcut
    images = recording.clean_tasks[1].x_val
    epoch, place = 6, (3, 12)
    nets = recording.at(recording.epochs[epoch])
    put(page, "ball", image=4, down=place[0], across=place[1], epoch=epoch)
    planted = blend_patch(images[4:5], torch.tensor([0]), torch.tensor([place]), shortcut)
    assert np.array_equal(pixels(page, "ball", 0), planted[0].permute(1, 2, 0).numpy())
    bars = said(page, "ball")[1:4]
    for label, net in zip(bars, nets.values(), strict=True):
        assert shares(label) == pytest.approx(answers(net, planted)[0], abs=0.008)
    maps = set()
    for name, net in nets.items():
        put(page, "ball", model=name)
        label = said(page, "ball")[4]
        assert label.startswith(f"{tables.label(name)}: probability of 4 / 9")
        assert label.endswith("at row 4, column 13")
        (value,) = re.findall(r": ([\d.]+) at row", label)
        assert float(value) == pytest.approx(answers(net, planted)[0, ball_class], abs=0.008)
        maps.add(page.locator("#ball canvas").last.evaluate("canvas => canvas.toDataURL()"))
    assert len(maps) == 3


@pytest.mark.kernel
def test_the_ball_can_be_taken_away(page, recording):
    put(page, "ball", planted=False)
    image = recording.clean_tasks[1].x_val[:1]
    assert np.array_equal(pixels(page, "ball", 0), image[0].permute(1, 2, 0).numpy())
    nets = recording.at(recording.epochs[-1])
    for label, net in zip(said(page, "ball")[1:4], nets.values(), strict=True):
        assert shares(label) == pytest.approx(answers(net, image)[0], abs=0.008)
    assert page.locator("#ball [name=down]").is_disabled()
    put(page, "ball", planted=True)
    assert page.locator("#ball [name=down]").is_enabled()


@pytest.mark.kernel
def test_the_race_shows_what_was_measured_until_its_epoch(page, recording):
    measures = ("accuracy", "loss", None, "share", "length", None)
    for epoch in (0, 3, 10):
        put(page, "race", epoch=epoch)
        moments = [recording.moments[m][epoch] for m in ("ft", "ut")]
        labels = said(page, "race")
        for label, measure in zip(labels, measures, strict=True):
            if measure is not None:
                wanted = [getattr(moment, measure) for moment in moments]
                assert f"epoch {recording.epochs[epoch]}: " in label
                assert numbers(label)[-2:] == pytest.approx(wanted, rel=0.05), label
        for label, moment in zip(labels[2::3], moments, strict=True):
            rows = re.findall(r"row \d: ([\d ]+)", label)
            assert [list(map(int, row.split())) for row in rows] == moment.confusion.tolist()
            assert f"tau = {moment.tau:.2f}" in label


@pytest.mark.kernel
def test_the_race_plays_and_pauses(page):
    page.clock.install(time=0)
    page.reload()
    page.clock.pause_at(60_000)
    button, slider = page.locator("#race button"), page.locator("#race [name=epoch]")
    last = int(slider.input_value())
    button.press("Enter")
    assert (button.inner_text(), slider.input_value()) == ("Pause", "0")
    page.clock.run_for(1500)
    assert slider.input_value() == "2"
    button.click()
    page.clock.run_for(5000)
    assert (button.inner_text(), slider.input_value()) == ("Play", "2")
    button.click()
    page.clock.run_for(20_000)
    assert (button.inner_text(), slider.input_value()) == ("Play", str(last))


@pytest.mark.kernel
def test_a_verdict_appears_and_vanishes_with_the_seeds(page):
    status = page.locator("#seeds").get_by_role("status")
    steps = set()
    for claim, first in ((0, 0), (0, 5), (1, 16)):
        before = ""
        for seeds in range(2, 21):
            put(page, "seeds", claim=claim, first=first, seeds=seeds)
            sentence = status.inner_text()
            (verdict,) = re.findall(r"The claim is (.*)\.$", sentence)
            steps.add((before, verdict))
            before = verdict
            dots = said(page, "seeds")[0]
            assert f", {seeds} values; " in dots or f": {seeds} values; " in dots
            assert dots.endswith(f"not used: {20 - seeds} values")
            if seeds >= FEWEST:
                drawn = re.findall(r"mean (\S+), interval (\S+) to (\S+),", dots)[0]
                written = re.findall(r"Mean (\S+) \[(\S+), (\S+)\] points", sentence)[0]
                assert list(map(float, drawn)) == pytest.approx(
                    list(map(float, written)), rel=0.01, abs=0.06
                )
    # one seed more decides, another one takes the verdict back
    moved = {("undecided", "not reproduced"), ("not reproduced", "undecided")}
    assert {*moved, ("reproduced", "undecided")} <= steps


@pytest.mark.kernel
def test_the_page_asks_for_itself_alone(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    assert asked == [FILE.as_uri()]


@pytest.mark.kernel
def test_the_browser_refuses_what_comes_from_outside(browser):
    with visit(browser, FILE.as_uri()) as watched:
        watched.page.wait_for_load_state("load")
        refused = watched.page.evaluate(
            """() => new Promise((done) => {
              document.addEventListener("securitypolicyviolation", (e) => done(e.blockedURI));
              new Image().src = "http://127.0.0.1:9/a.png";
            })"""
        )
    assert refused == "http://127.0.0.1:9/a.png"


@pytest.mark.kernel
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_the_page_fits_a_projector_and_a_phone(browser, tmp_path, width, height):
    with visit(browser, FILE.as_uri(), width, height) as watched:
        page = watched.page
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for section in SECTIONS:
            form = page.locator(f"#{section}")
            form.screenshot(path=tmp_path / f"{section}.png")
            box = form.bounding_box()
            assert box is not None
            if width == 1280:
                assert box["height"] <= height, section
        assert watched.errors == []


# --- pixels ---------------------------------------------------------------------------------------


def pixels(page: Page, section: str, chart: int) -> np.ndarray:
    """(16, 16, 3) colours in the middle of the fields of an image's canvas."""
    found = (
        page.locator(f"#{section} canvas")
        .nth(chart)
        .evaluate(
            """canvas => {
          const size = canvas.width;
          const data = canvas.getContext("2d").getImageData(0, 0, size, size).data;
          const at = (k) => Math.floor((k + 0.5) * size / 16);
          const starts = Array.from({ length: 256 }, (_, k) => at(k >> 4) * size + at(k & 15));
          return starts.map((start) => [...data.slice(4 * start, 4 * start + 3)]);
        }"""
        )
    )
    return np.array(found).reshape(16, 16, 3)


def raw(x: torch.Tensor) -> np.ndarray:
    """Network inputs as pixels."""
    return ((x * 0.25 + 0.5) * 255).permute(1, 2, 0).numpy()
