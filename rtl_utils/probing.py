"""What a model relies on: the test with and without the planted feature."""

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
