"""What a model relies on: predictions with and without a shortcut, LIME, partial dependence."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rtl_utils.data import Task
from rtl_utils.messages import shown
from rtl_utils.models import Net, predict
from rtl_utils.randomness import generator

VERSION = 1  # raised when a stored measure changes, so that stored runs are not taken for new ones
LIME_VERSION = 1  # the same for `lime_profile`
_PROFILED = 20  # points of a profile
_POINTS_AT_ONCE = 10  # at 1,000 samples of 50 features, 4 MB per array


def flip_rate(clean: Tensor, planted: Tensor) -> float:
    """Share of predictions that change when the shortcut is planted.

    flip = mean_i 1[argmax f(x_i) != argmax f(x_i + ball)]

    Args:
        clean: (n, k) logits of the inputs without the shortcut.
        planted: (n, k) logits of the same inputs with it.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: if the shapes differ or n = 0.

    Source: a counterfactual test after Salman et al. (2022), section 2.
    """
    if clean.shape != planted.shape or len(clean) == 0:
        raise ValueError(
            "flip_rate needs logits of the same inputs, at least one; got shapes "
            f"{tuple(clean.shape)} and {tuple(planted.shape)}"
        )
    return float((clean.argmax(1) != planted.argmax(1)).float().mean())


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of right predictions, in [0, 1]; logits: (n, k), labels: (n,)."""
    return float((logits.argmax(1) == y).float().mean())


def class_share(logits: Tensor, label: int) -> float:
    """Share of predictions that are the class `label`, in [0, 1]; logits: (n, k)."""
    return float((logits.argmax(1) == label).float().mean())


def confusion(logits: Tensor, y: Tensor) -> Tensor:
    """(k, k) counts of (n, k) logits and (n,) labels: true classes down, predictions across."""
    k = logits.shape[1]
    return torch.bincount(y * k + logits.argmax(1), minlength=k * k).reshape(k, k)


def shortcut_test(net: Net, clean: Task, planted: Task, label: int) -> dict[str, float]:
    """Validation accuracies and predictions without the shortcut and with it on every image.

    Args:
        net: the network.
        clean: a task without the shortcut.
        planted: the same task with it on every validation image.
        label: the class that carried the shortcut in the source.

    Returns:
        Fractions: clean_accuracy and ball_accuracy; clean_share and ball_share, the predictions
        that are `label`; flip_rate.

    Source: Salman et al. (2022): the trigger on 0 % and on 100 % of the images.
    """
    without, with_shortcut = (predict(net, task.x_val).cpu() for task in (clean, planted))
    y = clean.y_val.cpu()
    return {
        "clean_accuracy": accuracy(without, y),
        "ball_accuracy": accuracy(with_shortcut, y),
        "clean_share": class_share(without, label),
        "ball_share": class_share(with_shortcut, label),
        "flip_rate": flip_rate(without, with_shortcut),
    }


def as_function(net: Net) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function of (n, d) arrays to (n,) arrays, the form that LIME asks for."""

    def call(x: np.ndarray) -> np.ndarray:
        inputs = torch.as_tensor(x, dtype=torch.float32)
        return np.asarray(predict(net, inputs, size=1_000)[:, 0].cpu().numpy())

    return call


def lime_stream(seed: int, point: int) -> np.random.RandomState:
    """The random numbers of one explained point, in the generator that the lime library uses.

    One stream per point, so that an explanation does not depend on the points beside it.
    """
    return np.random.RandomState(int(generator(seed, "lime", point).integers(2**32)))


def lime_weights(
    net: Net, task: Task, points: Sequence[int], seed: int, samples: int = 1_000
) -> tuple[np.ndarray, np.ndarray]:
    """LIME's linear weights around validation points, of all features.

    z ~ N(0, 1)^d,   x' = x + scale z,   w = exp(-|z|^2 / (2 width^2));
    ridge regression of f(x') on z with weights w and penalty 1

    The same as lime 0.2's tabular explainer with `mode="regression"`,
    `discretize_continuous=False`, `sample_around_instance=True`, `feature_selection="none"` and
    `random_state=lime_stream(...)`; here all points are predicted and solved as one batch. Scale:
    the training data's standard deviations; width: 0.75 sqrt(d).

    Args:
        net: a regression.
        task: whose validation points are explained.
        points: (n,) rows of task.x_val.
        seed: of the samples.
        samples: perturbations per point, the first being the point itself.

    Returns:
        (n, d) weights, outputs per standard deviation of the feature, and (n,) R^2 of the local
        fits.

    Raises:
        ValueError: for fewer than two samples, no points, or one that the task does not have.

    Source: Ribeiro et al. (2016).
    """
    from sklearn.preprocessing import StandardScaler  # takes a second

    if samples < 2:
        raise ValueError(f"samples must be 2 or more; got {samples}")
    n = len(task.x_val)
    if not len(points) or not all(0 <= point < n for point in points):
        raise ValueError(
            f"points must be rows of the {n:,} validation examples, at least one; "
            f"got {shown(list(points))}"
        )
    scale = torch.from_numpy(StandardScaler(with_mean=False).fit(task.x_train.numpy()).scale_)
    d = task.x_val.shape[1]
    weights, fits = [], []
    for start in range(0, len(points), _POINTS_AT_ONCE):
        part = points[start : start + _POINTS_AT_ONCE]
        z = np.stack([lime_stream(seed, point).normal(size=(samples, d)) for point in part])
        found, fit = _explain(net, task.x_val[list(part)].double(), scale, torch.from_numpy(z))
        weights.append(found)
        fits.append(fit)
    return np.concatenate(weights), np.concatenate(fits)


def lime_profile(net: Net, task: Task, groups: Mapping[str, slice], seed: int) -> dict[str, float]:
    """Mean |LIME weight| of each group of features, over the first validation points.

    Args:
        net: a regression.
        task: whose validation points are explained.
        groups: name -> columns of the features.
        seed: of LIME's samples.
    """
    points = range(min(_PROFILED, len(task.x_val)))
    weights, _ = lime_weights(net, task, points, seed)
    return {name: float(np.abs(weights[:, part]).mean()) for name, part in groups.items()}


def partial_dependence_effect(
    net: Net, task: Task, points: int = 200, grid: int = 15
) -> np.ndarray:
    """(d,) spread of each feature's partial-dependence curve over the feature's own quantiles.

    PD_f(v) = mean_i f(x_i with feature f set to v), exact for a function that is additive in f; its
    spread is a standard deviation.

    Args:
        net: a regression.
        task: whose data it is.
        points: validation rows averaged over.
        grid: quantiles of the feature.

    Source: Friedman (2001).
    """
    x = task.x_val[:points]
    quantiles = torch.linspace(0.02, 0.98, grid)
    effects = []
    for feature in range(x.shape[1]):
        values = task.x_train[:, feature].quantile(quantiles)
        repeated = x.repeat(grid, 1)
        repeated[:, feature] = values.repeat_interleave(len(x))
        outputs = predict(net, repeated, size=1_000)[:, 0].cpu().reshape(grid, len(x))
        effects.append(float(outputs.mean(1).std()))
    return np.array(effects)


def _explain(net: Net, x: Tensor, scale: Tensor, z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) weights and (n,) R^2 around the (n, d) points, from (n, m, d) standard normal samples.

    All in torch: NumPy's threads and torch's would wait for each other's cores.
    """
    n, samples, d = z.shape
    z[:, 0] = 0  # the point itself
    weight = torch.exp(-z.square().sum(2, keepdim=True) / (2 * 0.75**2 * d))  # (n, m, 1)
    inputs = (x[:, None] + scale * z).float().flatten(0, 1)
    y = predict(net, inputs, size=1_000).cpu().double().reshape(n, samples, 1)
    z, y = _centred(z, weight), _centred(y, weight)  # so the intercept is not penalised
    weighted = (weight * z).transpose(1, 2)
    penalised = weighted @ z + torch.eye(d, dtype=z.dtype)
    found = torch.linalg.solve(penalised, weighted @ y)  # (n, d, 1)
    residual = (weight * (y - z @ found).square()).sum((1, 2))
    spread = (weight * y.square()).sum((1, 2))
    return found[:, :, 0].numpy(), (1 - residual / spread).numpy()


def _centred(values: Tensor, weight: Tensor) -> Tensor:
    return values - (weight * values).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
