"""A linear head, fitted to convergence on what a frozen body makes of a task."""

import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from rtl_utils.data import Task, soft_labels
from rtl_utils.models import Net, predict_features
from rtl_utils.training import History, example_loss, one_thread

VERSION = 1  # raised when a fitted head changes, so that stored runs are not taken for new ones
PENALTY = 1e-3  # of |w|^2 / 2 beside the mean loss: without it separable classes have no optimum
_ITERATIONS = 10_000
_TOLERANCE = 1e-8
_NEVER = -20.0  # bias of a class without training examples


def converge_head(net: Net, task: Task) -> History:
    """Fit the network's head to the task, its body being left as it is.

    mean loss + 1e-3 / 2 |w|^2, minimised to convergence: the features are computed once, and the
    loss is convex. The bias is not penalised.

    Args:
        net: whose head is changed in place; left in evaluation mode.
        task: whose training data it is fitted to.

    Returns:
        One epoch: losses and accuracies after the fit, and the 2-norm of the head's change.

    Source: scikit-learn's logistic and ridge regression; as the probe of Kumar et al. (2022).
    """
    started = time.perf_counter()
    # the bits depend on the number of threads
    with torch.no_grad(), one_thread(), threadpool_limits(1):
        features = {split: _features(net, task, split) for split in ("train", "val")}
        weight, bias = _fitted(features["train"].numpy(), task)
        moved = _replace(net, weight, bias)
        history = History(tau=[1.0], weight_length=[moved])
        for split, x in features.items():
            y = getattr(task, f"y_{split}").cpu()
            output = net.head(_like(net.head.weight, x)).cpu()
            loss = example_loss(output, soft_labels(task, y, output.dtype)).mean()
            right = (output.argmax(1) == y).float().mean() if not task.is_regression else torch.nan
            getattr(history, f"{split}_loss").append(float(loss))
            getattr(history, f"{split}_accuracy").append(float(right))
    history.seconds = time.perf_counter() - started
    return history


def _features(net: Net, task: Task, split: str) -> Tensor:
    return predict_features(net, getattr(task, f"x_{split}")).cpu().double()


def _like(parameter: Tensor, values: Tensor) -> Tensor:
    """Values of a parameter's type on its device, which may have no float64."""
    return values.to(parameter.dtype).to(parameter.device)


def _fitted(features: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """(k, d) weights and (k,) biases."""
    from sklearn.linear_model import LogisticRegression, Ridge  # takes a second

    y = task.y_train.cpu().numpy()
    strength = PENALTY * len(y)  # scikit-learn adds losses up
    if task.is_regression:
        ridge = Ridge(alpha=strength / 2).fit(features, y)
        return ridge.coef_.reshape(1, -1), ridge.intercept_.reshape(1)
    weight = np.zeros((task.outputs, features.shape[1]))
    bias = np.full(task.outputs, _NEVER)
    present = np.unique(y)
    if len(present) == 1:
        bias[present] = 0
        return weight, bias
    # of two classes scikit-learn fits one row w, the second's score minus the first's: it becomes
    # -w/2 and w/2, whose |.|^2 is half of w's
    weight_of_loss = (2 if len(present) == 2 else 1) / strength
    # L-BFGS, the default solver, stops so early that the processor decides the fourth digit
    fit = LogisticRegression(
        C=weight_of_loss, tol=_TOLERANCE, max_iter=_ITERATIONS, solver="newton-cholesky"
    )
    fit.fit(features, y)
    rows = fit.coef_ if len(present) > 2 else np.concatenate([-fit.coef_, fit.coef_]) / 2
    biases = fit.intercept_ if len(present) > 2 else np.outer([-0.5, 0.5], fit.intercept_)[:, 0]
    weight[present] = rows
    bias[present] = biases
    return weight, bias


@torch.no_grad()
def _replace(net: Net, weight: np.ndarray, bias: np.ndarray) -> float:
    """Put the head in place. Returns the 2-norm of its change."""
    moved = 0.0
    for p, value in ((net.head.weight, weight), (net.head.bias, bias)):
        new = _like(p, torch.from_numpy(value))
        moved += float((new - p).square().sum())
        p.copy_(new)
    net.eval()
    return float(moved**0.5)
