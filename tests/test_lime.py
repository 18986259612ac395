import numpy as np
import pytest
import torch
from lime.lime_tabular import LimeTabularExplainer
from torch import nn

from rtl_utils.explaining import as_function, lime_weights, partial_dependence_effect
from rtl_utils.models import Net, build
from rtl_utils.tasks import load


@pytest.fixture(scope="module")
def task():
    return load("synthetic", "target", seed=0)


def linear(weights):
    net = Net([nn.Identity()], (0.0,), nn.Linear(len(weights), 1))
    net.head.weight.data = torch.as_tensor(np.array([weights]), dtype=torch.float32)
    return net


def by_the_library(net, task, points, seed, samples):
    explainer = LimeTabularExplainer(
        task.x_train.numpy(), mode="regression", discretize_continuous=False, sample_around_instance=True, feature_selection="none", random_state=seed
    )
    weights, scores = np.zeros((len(points), 50)), []
    for row, point in enumerate(points):
        answer = explainer.explain_instance(task.x_val[point].numpy(), as_function(net), num_features=50, num_samples=samples)
        for feature, weight in answer.local_exp[1]:
            weights[row, feature] = weight
        scores.append(answer.score)
    return weights, scores


@pytest.mark.parametrize(("seed", "samples"), [(0, 300), (7, 51), (7, 2)])
def test_lime_weights_are_the_librarys(task, seed, samples):
    net, points = build(task, "plain", seed=seed), [3, 0, 3, *range(20, 40)]  # more than one batch, one point twice
    weights, scores = lime_weights(net, task, points, seed, samples)
    expected, expected_scores = by_the_library(net, task, points, seed, samples)
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)


def test_lime_finds_the_slopes_of_a_linear_model(task):
    slopes = np.linspace(-1, 1, 50)
    weights, scores = lime_weights(linear(slopes), task, [0, 1], seed=0, samples=5_000)
    scale = task.x_train.std(0, unbiased=False).numpy()
    np.testing.assert_allclose(weights, np.tile(slopes * scale, (2, 1)), atol=0.01)
    assert (scores > 0.999).all()


def test_partial_dependence_of_a_linear_model_is_its_slope_times_the_spread_of_the_quantiles(task):
    slopes = np.linspace(-1, 1, 50)
    effects = partial_dependence_effect(linear(slopes), task)
    spread = task.x_train.quantile(torch.linspace(0.02, 0.98, 15), dim=0).std(0).numpy()
    np.testing.assert_allclose(effects, np.abs(slopes) * spread, rtol=1e-3, atol=1e-4)


def test_one_sample_is_refused(task):
    with pytest.raises(ValueError, match="samples must be 2 or more; got 1"):
        lime_weights(linear([0.0] * 50), task, [0], seed=0, samples=1)
