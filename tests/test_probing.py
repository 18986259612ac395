import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lime.lime_tabular import LimeTabularExplainer
from torch import nn

from rtl_utils.data import Task, load
from rtl_utils.models import Net, build
from rtl_utils.probing import (
    as_function,
    class_share,
    confusion,
    flip_rate,
    lime_profile,
    lime_stream,
    lime_weights,
    partial_dependence_effect,
    shortcut_test,
)

logit_lists = st.lists(st.tuples(*[st.floats(-10, 10)] * 3), min_size=1, max_size=20)


def one_hot(*labels):
    """Logits that predict the labels, of four classes."""
    return nn.functional.one_hot(torch.tensor(labels), 4).float()


# --- predictions with and without a shortcut ---


def test_flip_rate_of_a_known_case():
    assert flip_rate(one_hot(0, 1, 2, 3), one_hot(0, 1, 3, 3)) == 0.25


@given(logits=logit_lists, shift=st.floats(-5, 5), scale=st.floats(0.5, 5))
def test_flip_rate_depends_on_predictions_alone(logits, shift, scale):
    logits = torch.tensor(logits)
    assert flip_rate(logits, logits) == 0
    powers = torch.tensor([0.0, 8, 16])  # so far apart that rounding makes no ties
    assert flip_rate(logits * 0 + powers, scale * powers.expand(len(logits), 3) + shift) == 0


@given(a=logit_lists, b=logit_lists)
def test_flip_rate_is_symmetric_and_a_fraction(a, b):
    n = min(len(a), len(b))
    a, b = torch.tensor(a[:n]), torch.tensor(b[:n])
    assert flip_rate(a, b) == flip_rate(b, a)
    assert 0 <= flip_rate(a, b) <= 1


@pytest.mark.parametrize(
    ("clean", "planted"),
    [
        (one_hot(0, 1), one_hot(0)),
        (torch.zeros(0, 4), torch.zeros(0, 4)),
        (torch.zeros(2, 3), torch.zeros(2, 4)),
    ],
    ids=["another number", "none", "other classes"],
)
def test_flip_rate_of_other_inputs_or_none_is_refused(clean, planted):
    with pytest.raises(ValueError, match="flip_rate needs logits of the same inputs"):
        flip_rate(clean, planted)


def test_class_share_of_a_known_case():
    shares = [class_share(one_hot(0, 1, 1, 3), label) for label in range(4)]
    assert shares == [0.25, 0.5, 0, 0.25]


def test_confusion_rows_are_true_classes():
    table = confusion(one_hot(0, 1, 1, 3, 3), torch.tensor([0, 1, 2, 3, 0]))
    assert table.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


@given(logits=logit_lists, seed=st.integers(0, 1000))
def test_confusion_counts_every_example_once(logits, seed):
    logits = torch.tensor(logits)
    y = torch.randint(0, 3, (len(logits),), generator=torch.Generator().manual_seed(seed))
    table = confusion(logits, y)
    assert table.sum(1).tolist() == y.bincount(minlength=3).tolist()
    assert table.sum(0).tolist() == logits.argmax(1).bincount(minlength=3).tolist()
    accuracy = float((logits.argmax(1) == y).float().mean())
    assert table.trace() / len(y) == pytest.approx(accuracy)


def test_shortcut_test_of_a_net_that_reads_one_pixel():
    """The net predicts the class that the pixels name; the shortcut names class 1 on three."""

    def task(*labels):
        x = (255 * one_hot(*labels)).to(torch.uint8).reshape(4, 1, 2, 2)
        y = torch.tensor([0, 1, 2, 3])
        return Task("t", "random", x, y, x, y, tuple("abcd"))

    net = Net([nn.Flatten()], (0.0,), nn.Linear(4, 4, bias=False))
    net.head.weight.data = torch.eye(4)
    assert shortcut_test(net, task(0, 1, 2, 3), task(1, 1, 1, 3), label=1) == {
        "clean_accuracy": 1.0,
        "ball_accuracy": 0.5,
        "clean_share": 0.25,
        "ball_share": 0.75,
        "flip_rate": 0.5,
    }


# --- LIME ---


@pytest.fixture(scope="module")
def task():
    return load("synthetic", "target", seed=0)


def linear(weights):
    net = Net([nn.Identity()], (0.0,), nn.Linear(len(weights), 1))
    net.head.weight.data = torch.as_tensor(np.array([weights]), dtype=torch.float32)
    return net


def by_the_library(net, task, point, seed, samples):
    """Weights and score of one point by the library, with the random numbers of the point."""
    explainer = LimeTabularExplainer(
        task.x_train.numpy(),
        mode="regression",
        discretize_continuous=False,
        sample_around_instance=True,
        feature_selection="none",
        random_state=lime_stream(seed, point),
    )
    answer = explainer.explain_instance(
        task.x_val[point].numpy(), as_function(net), num_features=50, num_samples=samples
    )
    weights = np.zeros(50)
    for feature, weight in answer.local_exp[1]:
        weights[feature] = weight
    return weights, answer.score


@pytest.mark.parametrize(("seed", "samples"), [(0, 300), (7, 51), (7, 2)])
def test_lime_weights_are_the_librarys(task, seed, samples):
    net = build(task, "plain", seed=seed)
    points = [3, 0, 3, *range(20, 40)]  # more than one batch, one point twice
    weights, scores = lime_weights(net, task, points, seed, samples)
    for row, point in enumerate(points):
        expected, score = by_the_library(net, task, point, seed, samples)
        np.testing.assert_allclose(weights[row], expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(scores[row], score, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", ["plain", "batchnorm"])
def test_explanation_of_a_point_is_the_same_alone_and_beside_others(task, width):
    net, points = build(task, width, seed=1), [5, 0, 17, *range(30, 42)]
    weights, scores = lime_weights(net, task, points, seed=2, samples=200)
    backwards, _ = lime_weights(net, task, points[::-1], seed=2, samples=200)
    np.testing.assert_allclose(backwards[::-1], weights, rtol=1e-6, atol=1e-6)
    for row, point in enumerate(points):
        alone, score = lime_weights(net, task, [point], seed=2, samples=200)
        np.testing.assert_allclose(alone[0], weights[row], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(score[0], scores[row], rtol=1e-6, atol=1e-6)


def test_every_point_and_seed_has_its_own_samples():
    drawn = {
        tuple(lime_stream(seed, point).normal(size=3)) for seed in range(10) for point in range(10)
    }
    assert len(drawn) == 100
    first, again = (lime_stream(3, 4).normal(size=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_lime_finds_the_slopes_of_a_linear_model(task):
    slopes = np.linspace(-1, 1, 50)
    weights, scores = lime_weights(linear(slopes), task, [0, 1], seed=0, samples=5_000)
    scale = task.x_train.std(0, unbiased=False).numpy()
    np.testing.assert_allclose(weights, np.tile(slopes * scale, (2, 1)), atol=0.01)
    assert (scores > 0.999).all()


def test_one_sample_is_refused(task):
    with pytest.raises(ValueError, match="samples must be 2 or more; got 1"):
        lime_weights(linear([0.0] * 50), task, [0], seed=0, samples=1)


@pytest.mark.parametrize("points", [[], [8_000], [-1], [0, 9_999]], ids=str)
def test_points_that_the_task_does_not_have_are_refused(task, points):
    with pytest.raises(ValueError, match="points must"):
        lime_weights(linear([0.0] * 50), task, points, seed=0, samples=10)


# --- partial dependence ---


def test_partial_dependence_of_a_linear_model_is_its_slope_times_the_quantiles_spread(task):
    slopes = np.linspace(-1, 1, 50)
    effects = partial_dependence_effect(linear(slopes), task)
    quantiles = task.x_train.quantile(torch.linspace(0.02, 0.98, 15), dim=0)
    spread = quantiles.std(0).numpy()
    np.testing.assert_allclose(effects, np.abs(slopes) * spread, rtol=1e-3, atol=1e-4)


def test_a_profile_is_the_mean_size_of_the_weights_of_each_group(table):
    task = table()
    net = build(task, "plain", 0)
    groups = {"first": slice(0, 2), "others": slice(2, 5)}
    weights, _ = lime_weights(net, task, range(20), seed=3)
    found = lime_profile(net, task, groups, seed=3)
    assert found == {name: np.abs(weights[:, part]).mean() for name, part in groups.items()}
