"""Figures: every function draws on the axes that it is given, with titles and labels."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from rtl_utils import claims, plotting
from rtl_utils.distances import Matrix
from rtl_utils.methods import METHODS
from rtl_utils.statistics import Interval, mean_interval
from rtl_utils.store import FINAL


@pytest.fixture
def ax():
    """Axes that are closed again."""
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def rows():
    """Three methods and seeds: two metrics after training and over three epochs, two sizes."""
    lines = [
        {
            "method": method,
            "seed": seed,
            "metric": metric,
            "epoch": epoch,
            "n_train": n_train,
            "value": 0.3 + 0.1 * k + 0.01 * seed,
        }
        for k, method in enumerate(("scratch", "ft", "ut"))
        for seed in range(3)
        for metric in ("clean_accuracy", "flip_rate")
        for epoch in (FINAL, 0, 1, 2)
        for n_train in (20, None)
    ]
    return pd.DataFrame(lines)


@pytest.fixture
def matrix():
    """Distances between three tasks."""
    mean = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], dtype=float)
    return Matrix("coupled", ("a", "b", "c"), mean, mean - 0.5, mean + 0.5)


def legend(ax):
    """Labels of the entries of the axes' legend."""
    return ax.get_legend_handles_labels()[1]


def test_every_method_has_a_colour_and_marker_of_its_own():
    names = ["backbone", *METHODS]
    assert len({plotting.colour(name) for name in names}) == len(names)
    assert len({plotting.marker(name) for name in names}) == len(names)
    assert plotting.colour("ut") == METHODS["ut"].colour
    assert plotting.marker("ut") == METHODS["ut"].marker
    assert (plotting.colour("backbone"), plotting.marker("backbone")) == ("#222222", "P")


@pytest.mark.parametrize("look", [plotting.colour, plotting.marker])
def test_a_method_without_a_look_is_refused(look):
    with pytest.raises(ValueError, match=r"backbone, .*scratch, .*got 'cake'"):
        look("cake")


def test_style_is_set_for_all_figures():
    with mpl.rc_context():
        plotting.use_style()
        assert mpl.rcParams["figure.constrained_layout.use"]
        assert not mpl.rcParams["axes.spines.top"]


def test_curves_show_means_and_the_range_of_the_runs(ax, rows):
    part = rows[rows.n_train.isna()]
    assert plotting.curves(part, "flip_rate", ax, "flip rate", "title") is ax
    assert legend(ax) == ["from scratch", "fine-tuning", "uncoupled transfer"]
    line = ax.lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata() == pytest.approx([0.31] * 3)
    assert line.get_color() == METHODS["scratch"].colour
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.30, 0.32))


def test_bars_have_a_group_per_metric_and_a_bar_per_method(ax, rows):
    metrics = {"clean_accuracy": "clean", "flip_rate": "flips", "absent": "nothing"}
    part = rows[rows.n_train.isna()]
    assert plotting.bars(part, metrics, ax, "share", "title") is ax
    assert len(ax.patches) == 6
    assert [text.get_text() for text in ax.get_xticklabels()] == ["clean", "flips", "nothing"]
    assert legend(ax) == ["from scratch", "fine-tuning", "uncoupled transfer"]


def test_slopes_draw_every_run_and_the_median(ax, rows):
    metrics = {"clean_accuracy": "clean", "flip_rate": "flips"}
    part = rows[rows.n_train.isna()].copy()
    part.loc[part.seed == part.seed.max(), "value"] *= 100  # lifts a mean above all others
    assert plotting.slopes(part, metrics, ax, "share", "title") is ax
    assert len(ax.lines) == 3 * (3 + 1)
    *runs, thick = (line.get_ydata() for line in ax.lines[:4])
    np.testing.assert_allclose(thick, np.median(runs, axis=0))
    assert ax.get_yscale() == "log"


def test_every_run_is_a_dot_in_its_methods_line(ax, rows):
    part = rows[rows.n_train.isna()]
    methods = ["scratch", "fixed", "ut"]
    assert plotting.runs(part, "flip_rate", methods, ax, "flip rate", "title") is ax
    names = ["from scratch", "fixed feature", "uncoupled transfer"]
    assert [text.get_text() for text in ax.get_yticklabels()] == names
    first, last = ax.lines  # fixed feature has no rows, and keeps its place
    for line, method, place in ((first, "scratch", 0), (last, "ut", 2)):
        final = part[(part.method == method) & (part.metric == "flip_rate")]
        final = final[final.epoch == FINAL].sort_values("seed")
        assert line.get_xdata().tolist() == final.value.tolist()
        assert len({*line.get_ydata()}) == len(final), "runs hide each other"
        assert abs(line.get_ydata() - place).max() < 0.5
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first method stands at the top"


def test_sizes_stand_where_their_images_are(ax, rows):
    assert plotting.by_size(rows, "flip_rate", ax, "flip rate", "title", everything=126) is ax
    assert ax.get_xlabel() == "target images per class"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["20", "126"]
    lines = [line for line in ax.lines if line.get_linestyle() != "None"]
    middle = lines[1]  # of three methods side by side
    assert middle.get_xdata().tolist() == [20, 126]


def test_few_values_are_shown_as_points_in_place_of_an_interval(ax, rows):
    few = rows[rows.seed < 2]
    plotting.by_size(few, "flip_rate", ax, "flip rate", "title", everything=126)
    final = few[(few.metric == "flip_rate") & (few.epoch == FINAL)]
    dots = [line for line in ax.lines if line.get_linestyle() == "None"]
    drawn = sorted(value for line in dots for value in line.get_ydata())
    assert drawn == pytest.approx(sorted(final.value))
    ax.clear()
    plotting.forest({"one": mean_interval([0.2, 0.4])}, ax, "points", "title")
    assert sorted(ax.lines[2].get_xdata()) == [0.2, 0.4]


def test_forest_lists_from_top_to_bottom(ax):
    found = plotting.forest(
        {"first": Interval(1, 0, 2, 5), "second": Interval(0, -1, 1, 5)}, ax, "points", "title"
    )
    assert found is ax
    bottom, top = ax.get_ylim()
    assert bottom > top
    assert [text.get_text() for text in ax.get_yticklabels()] == ["first", "second"]


def test_the_shaded_corner_is_where_the_shortcut_is_kept_out(ax, rows):
    part = rows[rows.n_train.isna()]
    assert plotting.trade_off(part, ax, "title") is ax
    corner = ax.collections[0].get_paths()[0].vertices
    assert corner[:, 0].min() == pytest.approx(0.41 - claims.INFERIOR)  # accuracy of fine-tuning
    assert corner[:, 1].max() == pytest.approx(0.31 + claims.ALLOWED)  # flips of scratch
    assert legend(ax) == ["from scratch", "fine-tuning", "uncoupled transfer"]


def test_cells_are_written_in_percent_and_missing_ones_left_empty(ax):
    table = pd.DataFrame(
        [[0.2, 0.95], [np.nan, 0.5]],
        index=pd.Index(["frozen", "none"], name="statistics"),
        columns=pd.Index([0.01, 0.1], name="learning rate"),
    )
    assert plotting.cells(table, ax, "accuracy, %", (0, 1)) is ax
    assert {text.get_text(): text.get_color() for text in ax.texts} == {
        "20": "black",
        "95": "white",
        "50": "black",
    }
    assert ax.get_xlabel() == "learning rate"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["frozen", "none"]


def test_differences_are_dark_in_both_directions(ax):
    plotting.cells(pd.DataFrame([[-0.5, 0.0, 0.5]]), ax, "difference", (-0.5, 0.5), "PuOr")
    assert [text.get_color() for text in ax.texts] == ["white", "black", "white"]


def test_each_bar_has_its_own_baseline(ax):
    values = pd.Series({"x": 1.0, "y": 2.0})
    baseline = pd.Series({"y": 4.0, "x": 3.0})
    assert plotting.against_baseline(values, baseline, ax, "loss", "title") is ax
    strokes = ax.collections[0].get_segments()
    assert [stroke[0][0] for stroke in strokes] == [3, 4]


def test_images_are_sorted_by_class_and_named(ax, pictures):
    task = pictures()
    assert plotting.images(task, ax, per_class=2) is ax
    assert [text.get_text() for text in ax.get_yticklabels()] == list("abcde")
    assert ax.get_title() == "target (random)"
    assert ax.images[0].get_array().shape == (5 * 16, 2 * 16, 3)


def test_image_rows_have_names_on_both_sides(ax):
    images = np.zeros((2, 3, 4, 4, 3))
    assert plotting.image_rows(images, ["r", "s"], ["1", "2", "3"], ax, "title") is ax
    assert ax.images[0].get_array().shape == (10, 15, 3)


def test_confusion_writes_every_count(ax):
    counts = np.array([[8, 2], [1, 9]])
    assert plotting.confusion(counts, ["a", "b"], ["c_d", "e"], ax, "title") is ax
    assert [text.get_text() for text in ax.texts] == ["8", "2", "1", "9"]
    assert ax.get_xticklabels()[0].get_text() == "c d"


def test_predictions_write_what_flips_in_bold(ax):
    given = {"scratch": (["a", "b"], ["a", "b"]), "ut": (["a", "a_b"], ["a", "c"])}
    images = np.zeros((2, 2, 4, 4, 3))
    assert plotting.predictions(images, ["a", "b"], given, ax, "title") is ax
    texts = [text.get_text() for text in ax.texts]
    assert texts[:3] == ["truth", "a", "b"]
    assert texts[3:6] == ["from scratch", "a", "b"]
    assert texts[6:] == ["uncoupled transfer", "a", "a b → c"]
    assert [text.get_text() for text in ax.texts if text.get_weight() == "bold"] == ["a b → c"]


def test_flips_colours_the_images_that_flip(ax):
    assert plotting.flips([False, True, False, False, True], "ut", ax) is ax
    still, flipped = ax.collections
    assert len(still.get_offsets()) == 3
    # from left to right, then down: the second image, and the fifth
    assert flipped.get_offsets().tolist() == [[1, 0], [1, 1]]
    assert mpl.colors.to_hex(flipped.get_facecolor()[0]) == plotting.colour("ut").lower()
    assert ax.get_title() == "uncoupled transfer: 2 of 5"


def test_figures_of_features_name_every_model(ax):
    weights = {"ft": np.arange(8.0).reshape(2, 4), "backbone": np.ones((2, 4))}
    assert plotting.feature_weights(weights, ax, "title") is ax
    assert legend(ax) == ["fine-tuning", "backbone"]
    ax.clear()
    sizes = {name: np.abs(values).mean(0) for name, values in weights.items()}
    assert plotting.feature_profile(sizes, ax, "weight", "title") is ax
    assert legend(ax) == ["fine-tuning", "backbone"]
    ax.clear()
    colour = plotting.colour("ft")
    assert plotting.agreement(np.arange(4.0), np.ones(4), ax, "title", colour, spurious=2) is ax
    assert legend(ax) == ["2 to 3", "0 to 1 (spurious)", "equal"]
    ax.clear()
    assert plotting.feature_ranges(np.random.default_rng(0).normal(size=(9, 50)), ax, "title") is ax
    assert legend(ax) == ["spurious", "shared", "target only"]


def test_heat_map_has_means_and_half_intervals_but_no_diagonal(ax, matrix):
    assert plotting.distances(matrix, "nats", ax, "title", digits=1) is ax
    texts = [text.get_text() for text in ax.texts]
    assert texts == [f"{value:.1f}\n± 0.5" for value in (1, 2, 3, 4, 5, 6)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("target", "source")


def test_points_over_distance_belong_to_their_target(ax, matrix):
    assert plotting.by_target(matrix, np.arange(6.0), ax, "distance", "title") is ax
    assert legend(ax) == ["to a", "to b", "to c"]
    assert ax.lines[0].get_xdata().tolist() == [3, 5]
    assert ax.lines[0].get_ydata().tolist() == [2, 4]


def test_places_and_paths_lie_in_a_plane(ax):
    points = np.array([[0.0, 0], [1, 2]])
    assert plotting.places(points, ["a", "b"], "unit", ax, "title") is ax
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    ax.clear()
    paths = {"ft": np.arange(6.0).reshape(3, 2), "ut": np.zeros((3, 2))}
    assert plotting.trajectories(paths, ax, "title", "unit") is ax
    assert legend(ax) == ["fine-tuning", "uncoupled transfer", "backbone"]


def test_couplings_share_one_scale():
    figure, axes = plt.subplots(1, 2)
    masses = [np.ones((2, 2)) / 4, np.diag([0.5, 0.5])]
    assert plotting.couplings(masses, ["first", "second"], axes) is axes
    assert {ax.images[0].get_clim() for ax in axes} == {(0, 2)}
    assert [ax.get_title() for ax in axes] == ["first", "second"]
    plt.close(figure)


def test_one_legend_stands_below_the_figure(ax, rows):
    plotting.curves(rows[rows.n_train.isna()], "flip_rate", ax, "flip rate", "title")
    plotting.chance(ax, 0.2)
    plotting.legend_below(ax.figure, ax)
    (below,) = ax.figure.legends
    assert [text.get_text() for text in below.get_texts()][-1] == "chance"
