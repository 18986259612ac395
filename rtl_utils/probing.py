"""What a model relies on: the test with and without the planted feature, LIME, and the exact partial-dependence effect."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rtl_utils.models import Net, predict
from rtl_utils.tasks import Task


def flip_rate(clean: Tensor, planted: Tensor) -> float:
    """Share of predictions that change when the spurious feature is planted.

    flip = mean_i 1[argmax f(x_i) != argmax f(x_i + ball)]    (counterfactual test after Salman et al. 2022, sec. 2)

    clean, planted: (n, k) logits of the same n inputs without and with the feature.
    Returns a fraction in [0, 1].
    Raises ValueError if the shapes differ or n = 0.
    """
    if clean.shape != planted.shape or len(clean) == 0:
        raise ValueError(f"flip_rate needs logits of the same inputs, at least one; got shapes {tuple(clean.shape)} and {tuple(planted.shape)}")
    return float((clean.argmax(1) != planted.argmax(1)).float().mean())


def class_share(logits: Tensor, label: int) -> float:
    """Share of the (n, k) logits' predictions that are the class `label`: a fraction in [0, 1]."""
    return float((logits.argmax(1) == label).float().mean())


def confusion(logits: Tensor, y: Tensor) -> Tensor:
    """(k, k) counts: rows are true classes, columns predictions, from (n, k) logits and (n,) labels."""
    k = logits.shape[1]
    return torch.bincount(y * k + logits.argmax(1), minlength=k * k).reshape(k, k)


def ball_test(net: Net, clean: Task, planted: Task, label: int) -> dict[str, float]:
    """Validation accuracies and predictions without and with the ball (Salman et al. 2022: the trigger on 0 % and on 100 % of the images).

    clean, planted: one task without and with the ball on every validation image; label: the class that carried the ball in the source.
    Returns fractions: clean_accuracy, ball_accuracy, clean_share and ball_share (predictions that are `label`), flip_rate.
    """
    without, with_ball = predict(net, clean.x_val), predict(net, planted.x_val)
    y = clean.y_val
    return {
        "clean_accuracy": float((without.argmax(1) == y).float().mean()),
        "ball_accuracy": float((with_ball.argmax(1) == y).float().mean()),
        "clean_share": class_share(without, label),
        "ball_share": class_share(with_ball, label),
        "flip_rate": flip_rate(without, with_ball),
    }


def as_function(net: Net) -> Callable[[np.ndarray], np.ndarray]:
    """The network as (n, d) array -> (n,) array, the form that LIME asks for."""
    return lambda x: predict(net, torch.as_tensor(x, dtype=torch.float32), size=10_000)[:, 0].numpy()


def lime_weights(net: Net, task: Task, points: Sequence[int], seed: int, samples: int = 1_000) -> tuple[np.ndarray, np.ndarray]:
    """LIME's linear weights around validation points (Ribeiro et al. 2016), of all features, and the fit of each explanation.

    points: (n,) rows of task.x_val; samples: perturbations a point, drawn around it with the training data's spread; kernel width 0.75 sqrt(d).
    Returns (n, d) weights, outputs a standard deviation of the feature, and (n,) R^2 of the local linear fits.
    """
    from lime.lime_tabular import LimeTabularExplainer

    explainer = LimeTabularExplainer(
        task.x_train.numpy(), mode="regression", discretize_continuous=False, sample_around_instance=True, feature_selection="none", random_state=seed
    )
    features = task.x_val.shape[1]
    weights, scores = np.zeros((len(points), features)), np.zeros(len(points))
    for row, point in enumerate(points):
        explanation = explainer.explain_instance(task.x_val[point].numpy(), as_function(net), num_features=features, num_samples=samples)
        for feature, weight in explanation.local_exp[1]:
            weights[row, feature] = weight
        scores[row] = explanation.score
    return weights, scores


def partial_dependence_effect(net: Net, task: Task, points: int = 200, grid: int = 15) -> np.ndarray:
    """(d,) spread of each feature's partial-dependence curve: the standard deviation of PD_f over the feature's own quantiles.

    PD_f(v) = mean_i f(x_i with feature f set to v)    (Friedman 2001), exact for a function that is additive in f.
    points: validation rows averaged over; grid: quantiles of the feature.
    """
    x = task.x_val[:points]
    effects = []
    for feature in range(x.shape[1]):
        values = task.x_train[:, feature].quantile(torch.linspace(0.02, 0.98, grid))
        grown = x.repeat(grid, 1)
        grown[:, feature] = values.repeat_interleave(len(x))
        effects.append(float(predict(net, grown, size=10_000)[:, 0].reshape(grid, len(x)).mean(1).std()))
    return np.array(effects)
