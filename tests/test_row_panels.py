"""The panels over stored rows, over LIME's weights, and over the synthetic task's responses."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from rtl_utils import claims, experiments, folders, statistics, tables
from rtl_utils.claims import course_cases
from rtl_utils.data import synthetic
from rtl_utils.plotting import colour
from rtl_utils.probing import lime_weights
from rtl_utils.store import Store
from rtl_utils.widgets import explanations
from rtl_utils.widgets._lime import LimePanel
from rtl_utils.widgets._seeds import POINTS, SeedsPanel
from rtl_utils.widgets._sizes import SizesPanel
from rtl_utils.widgets._surface import SurfacePanel, source_response, target_response
from rtl_utils.widgets.rows import stored

ROOT = Path(__file__).resolve().parent.parent
FEW = 20  # images per class, of the fewest that were run


@pytest.fixture
def seeds_panel():
    return SeedsPanel()


@pytest.fixture(scope="module")
def lime_panel():
    return LimePanel()


def one_named(options, part):
    """The value of the one option whose text holds a part."""
    (value,) = [value for text, value in options if part in text]
    return value


# --- how many seeds -------------------------------------------------------------------------------


def judged_by_table(case, first, n):
    """The verdict table of n seeds from one on, as its only row."""
    seeds = np.array(sorted(set(case.rows.seed)))
    seeds = np.roll(seeds, -first)
    few = case._replace(rows=case.rows[case.rows.seed.isin(seeds[:n])])
    (line,) = claims.verdict_table([few]).to_dict("records")
    return line


@pytest.mark.parametrize(("k", "first", "n"), [(0, 0, 20), (1, 0, 9), (1, 4, 12)])
def test_verdict_and_interval_are_those_of_the_verdict_table(seeds_panel, k, first, n):
    seeds_panel.claim.value = k
    seeds_panel.first.value = first
    seeds_panel.seeds.value = n
    line = judged_by_table(course_cases(stored("digits"))[k], first, n)
    assert f"so it is {line['verdict']}." in seeds_panel.verdict.value
    assert f" {n} of 20 seeds: mean {line['UT - FT, points']} points" in seeds_panel.verdict.value
    assert seeds_panel.scene()[1].title == f"verdict with {n} seeds: {line['verdict']}"


def test_seeds_that_count_are_drawn_in_colour_with_the_interval_of_their_mean(seeds_panel):
    case = course_cases(stored("digits"))[seeds_panel.claim.value]
    values = POINTS * np.subtract(*tables.paired(case.rows, case.metric, "ut", "ft"))
    seeds_panel.seeds.value = 7
    used, unused = seeds_panel.scene()[0].groups
    np.testing.assert_allclose(used.values, values[:7])
    np.testing.assert_allclose(unused.values, values[7:])
    assert used.colour == colour("ut") != unused.colour
    wanted = statistics.mean_interval(values[:7].tolist())
    assert used.interval == pytest.approx((wanted.low, wanted.mean, wanted.high))
    assert unused.interval is None
    mean, low, high = seeds_panel.scene()[1].lines
    for line, end in ((mean, wanted.mean), (low, wanted.low), (high, wanted.high)):
        assert line.y[list(line.x).index(7)] == pytest.approx(end)


def test_verdict_appears_and_vanishes_as_seeds_are_added(seeds_panel):
    seeds_panel.claim.value = one_named(seeds_panel.claim.options, "3: UT beats FT")

    def verdict(n):
        seeds_panel.seeds.value = n
        return seeds_panel.scene()[1].title.split(": ")[1]

    for first in range(seeds_panel.first.max + 1):
        seeds_panel.first.value = first
        decided = [verdict(n) != "undecided" for n in range(3, 21)]
        if np.diff(decided).sum() > 1:  # there, gone, and there again
            return
    pytest.fail("no first seed takes a verdict back")


def test_another_first_seed_has_the_same_seeds_and_the_same_last_verdict(seeds_panel):
    seeds_panel.seeds.value = 20
    before, sentence = seeds_panel.scene()[0].groups[0].values, seeds_panel.sentence()
    seeds_panel.first.value = 1
    after = seeds_panel.scene()[0].groups[0].values
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(np.sort(before), np.sort(after))
    assert seeds_panel.sentence() == sentence


def test_four_seeds_have_no_verdict(seeds_panel):
    seeds_panel.seeds.value = 4
    assert "no verdict, which needs 5 seeds at least" in seeds_panel.verdict.value
    assert np.isnan(seeds_panel.scene()[0].groups[0].interval[0])


def test_claim_with_fewer_seeds_ends_the_slider_earlier(seeds_panel):
    seeds_panel.seeds.value = 20
    cases = course_cases(stored("digits"))
    k = int(np.argmin([case.rows.seed.nunique() for case in cases]))
    fewest = cases[k].rows.seed.nunique()
    seeds_panel.claim.value = k
    assert fewest < 20
    assert seeds_panel.seeds.value == seeds_panel.seeds.max == fewest
    assert f"{fewest} of {fewest} seeds" in seeds_panel.verdict.value


def test_equivalence_is_shown_with_its_margin(seeds_panel):
    seeds_panel.claim.value = one_named(seeds_panel.claim.options, "alike")
    margin = seeds_panel.scene()[1].lines[-1]
    assert set(np.abs(margin.y)) == {POINTS * claims.ALIKE}


def test_picture_names_the_claim(seeds_panel):
    first = seeds_panel.picture()
    seeds_panel.claim.value = one_named(
        seeds_panel.claim.options, "UT flips less than FT, all images"
    )
    assert first != seeds_panel.picture()


# --- images per class -----------------------------------------------------------------------------


def test_dots_are_the_stored_values_one_per_seed():
    panel = SizesPanel()
    rows = tables.shortcut_at_test(tables.stored("digits"))
    few = rows[(rows.n_train == FEW) & (rows.epochs == 20)]
    panel.size.value = one_named(panel.size.options, f"{FEW}, 20 epochs")
    for chart, metric in zip(panel.scene(), ("flip_rate", "clean_accuracy"), strict=True):
        for group, method in zip(chart.groups, ("scratch", "ft", "ut"), strict=True):
            values = POINTS * few.value[(few.method == method) & (few.metric == metric)]
            np.testing.assert_allclose(np.sort(group.values), np.sort(values))
            wanted = statistics.mean_interval(values.tolist())
            assert group.interval == pytest.approx((wanted.low, wanted.mean, wanted.high))
            assert group.colour == colour(method)


def test_runs_of_both_sweeps_are_counted_once():
    panel = SizesPanel()
    panel.size.value = "all"
    counts = [len(group.values) for group in panel.scene()[0].groups]
    assert counts == [tables.shortcut_at_test(stored("digits")).seed.nunique()] * 3


def test_one_more_method_stands_beside_the_others_or_is_said_to_be_missing():
    panel = SizesPanel()
    panel.other.value = one_named(panel.other.options, "(iso)")
    assert len(panel.scene()[0].groups[3].values) == 10
    panel.size.value = one_named(panel.size.options, f"{FEW}, 20 epochs")
    for chart in panel.scene():
        assert chart.title.endswith("; no runs of iso")
        assert chart.groups[3].interval is None
    panel.other.value = ""
    assert len(panel.scene()[0].groups) == 3
    assert panel.picture().startswith(b"\x89PNG")


@pytest.mark.parametrize("panel", [SeedsPanel, SizesPanel])
def test_outside_the_checkout_the_panel_says_where_its_rows_are(panel, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_PACKAGE", tmp_path / "rtl_utils")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="results/digits are part of the course's checkout"):
        panel()


# --- LIME -----------------------------------------------------------------------------------------


def test_stored_weights_are_of_runs_that_would_be_trained_today():
    path = files("rtl_utils.widgets").joinpath("stored", "lime.npz")
    with path.open("rb") as file, np.load(file) as arrays:
        keys = json.loads(str(arrays["header"]))["keys"]
    assert keys == {name: run.key for name, run in explanations.stored_runs().items()}
    assert len(path.read_bytes()) < 60_000


def test_stored_weights_are_what_lime_says_of_the_trained_network(tmp_path):
    run = explanations.stored_runs()["scratch"]
    store = Store(tmp_path)
    experiments.run([run], store)
    _, task = experiments.tasks(run)
    found, _ = lime_weights(experiments.network(run, store), task, [0, 99], run.seed)
    np.testing.assert_allclose(explanations.stored_weights()["scratch"][[0, 99]], found, atol=1e-3)


def test_stored_backbone_relies_on_spurious_features_and_the_others_less(lime_panel):
    lime_panel.shown.value = "mean"
    means = {bars.title: bars.values[:20].mean() for bars in lime_panel.scene()}
    backbone = means.pop("backbone")
    assert all(value < backbone / 2 for value in means.values())


def test_bars_are_the_weights_of_the_chosen_point_on_one_axis(lime_panel):
    lime_panel.shown.value = "point"
    lime_panel.point.value = 42
    scene = lime_panel.scene()
    for bars, (name, weights) in zip(scene, explanations.stored_weights().items(), strict=True):
        np.testing.assert_array_equal(bars.values, weights[42])
        assert bars.title == tables.label(name)
        assert set(bars.colours[:20]) == {colour(name)}
        assert colour(name) not in bars.colours[20:]
    assert {bars.high for bars in scene} == {-bars.low for bars in scene}
    assert len({bars.high for bars in scene}) == 1
    assert lime_panel.picture().startswith(b"\x89PNG")


def test_weights_of_a_notebook_are_shown():
    panel = LimePanel({"ft": np.arange(90.0).reshape(3, 30), "ut": np.ones((3, 30))})
    assert panel.point.max == 2
    assert not panel.point.disabled
    panel.shown.value = "mean"
    assert panel.point.disabled
    np.testing.assert_array_equal(panel.scene()[0].values, np.arange(30.0, 60.0))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "got the shapes {}"),
        ({"ft": np.ones((3, 50)), "ut": np.ones((2, 50))}, r"'ut': \(2, 50\)"),
        ({"ft": np.ones((0, 50))}, r"'ft': \(0, 50\)"),
        ({"ft": np.ones((3, 20))}, "more than 20 features"),
        ({"ft": np.ones(50)}, r"'ft': \(50,\)"),
        ({"ft": np.full((1, 50), np.nan)}, "must be finite; those of 'ft' are not"),
        ({"lora": np.ones((1, 50))}, "lora"),
    ],
)
def test_weights_that_cannot_be_shown_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        LimePanel(weights)


# --- the response surface -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "response"), [("source", source_response), ("target", target_response)]
)
def test_responses_are_those_of_the_task(name, response):
    task = synthetic(name, seed=3, n_train=50)
    found = response(task.x_train.double().numpy())
    np.testing.assert_allclose(found, task.y_train[:, 0], atol=1e-3)


def test_surface_is_the_mixed_response_less_that_at_the_mean():
    x = synthetic("source", seed=3).x_train.double().numpy()
    mean, spread = x.mean(0), x.std(0)
    found = SurfacePanel(seed=3).surface(5, 25)
    a = found.across - mean[5]
    np.testing.assert_allclose(a[[0, -1]], [-2 * spread[5], 2 * spread[5]])
    np.testing.assert_allclose(found.up[[0, -1]], mean[25] + [2 * spread[25], -2 * spread[25]])

    def rise(wave, sign, values, feature):
        return wave(values) + sign * values - wave(mean[feature]) - sign * mean[feature]

    source = rise(np.sin, 1, found.across, 5) + rise(np.sin, 1, found.up, 25)[:, None]
    target = np.broadcast_to(rise(np.cos, -1, found.up, 25)[:, None], source.shape)
    np.testing.assert_allclose(found.mixed(0.0), source, atol=1e-9)
    np.testing.assert_allclose(found.mixed(1.0), target, atol=1e-9)
    np.testing.assert_allclose(found.mixed(0.25), 0.75 * source + 0.25 * target, atol=1e-9)


def test_cross_sections_go_through_the_framed_cell():
    panel = SurfacePanel()
    panel.tau.value, panel.place_across.value, panel.place_up.value = 0.3, 1.0, -2.0
    heat, across, up = panel.scene()
    row, column = heat.cursor
    assert (row, column) == (16, 12)
    np.testing.assert_array_equal(across.lines[2].y, heat.values[row])
    np.testing.assert_array_equal(up.lines[2].y, heat.values[:, column])
    assert across.cursor == across.lines[2].x[column]
    assert up.cursor == up.lines[2].x[row]
    assert [line.dashed for line in across.lines] == [True, True, False]
    assert panel.picture().startswith(b"\x89PNG")


def test_scale_stays_while_tau_moves():
    panel = SurfacePanel()
    limits = set()
    for tau in (0.0, 0.5, 1.0):
        panel.tau.value = tau
        limits.add((panel.scene()[0].low, panel.scene()[0].high, panel.scene()[1].ylim))
    assert len(limits) == 1


def test_one_feature_twice_is_refused_in_the_panel():
    panel = SurfacePanel()
    before = panel.canvas.scene
    panel.up.value = panel.across.value
    assert "choose two different features" in panel._message.value
    assert panel.canvas.scene == before
    panel.up.value += 1
    assert panel._message.value == ""


def test_bad_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be a whole number"):
        SurfacePanel(seed=-1)
