"""Which features a model of a table relies on: LIME, and the exact partial-dependence effect."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from rtl_utils.models import Net, predict
from rtl_utils.tasks import Task

_POINTS_AT_ONCE = 10  # at 1,000 samples of 50 features, 4 MB an array


def as_function(net: Net) -> Callable[[np.ndarray], np.ndarray]:
    """The network as (n, d) array -> (n,) array, the form that LIME asks for."""
    return lambda x: predict(net, torch.as_tensor(x, dtype=torch.float32), size=1_000)[:, 0].numpy()


def lime_weights(net: Net, task: Task, points: Sequence[int], seed: int, samples: int = 1_000) -> tuple[np.ndarray, np.ndarray]:
    """LIME's linear weights around validation points (Ribeiro et al. 2016), of all features, and the fit of each explanation.

        z ~ N(0, 1)^d,   x' = x + scale z,   w = exp(-|z|^2 / (2 width^2)),   ridge regression of f(x') on z with weights w and penalty 1

    The same as lime 0.2's tabular explainer with `mode="regression"`, `discretize_continuous=False`, `sample_around_instance=True`,
    `feature_selection="none"` and `random_state=seed`, called for one point after the other; here all points are drawn, predicted and solved
    as one batch.

    points: (n,) rows of task.x_val; samples: perturbations a point, the first being the point itself; scale: the training data's standard
    deviations; width: 0.75 sqrt(d).
    Returns (n, d) weights, outputs a standard deviation of the feature, and (n,) R^2 of the local linear fits.
    Raises ValueError for fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"samples must be 2 or more; got {samples}")
    scale = StandardScaler(with_mean=False).fit(task.x_train.numpy()).scale_
    random, x = np.random.RandomState(seed), task.x_val[list(points)].double()  # the generator that the library uses
    explained = [_explain(net, part, torch.from_numpy(scale), random, samples) for part in x.split(_POINTS_AT_ONCE)]
    return tuple(np.concatenate(parts) for parts in zip(*explained, strict=True))


def _explain(net: Net, x: Tensor, scale: Tensor, random: np.random.RandomState, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) weights and (n,) R^2 around the (n, d) points. All in torch: NumPy's threads and torch's would wait for each other's cores."""
    n, d = x.shape
    z = torch.from_numpy(random.normal(size=(n, samples, d)))
    z[:, 0] = 0
    weight = torch.exp(-z.square().sum(2, keepdim=True) / (2 * 0.75**2 * d))  # (n, m, 1)
    y = predict(net, (x[:, None] + scale * z).float().flatten(0, 1), size=1_000).double().reshape(n, samples, 1)
    z, y = (values - (weight * values).sum(1, keepdim=True) / weight.sum(1, keepdim=True) for values in (z, y))  # the intercept is not penalised
    weighted = (weight * z).transpose(1, 2)
    found = torch.linalg.solve(weighted @ z + torch.eye(d, dtype=z.dtype), weighted @ y)  # (n, d, 1)
    residual, spread = ((weight * values.square()).sum((1, 2)) for values in (y - z @ found, y))
    return found[:, :, 0].numpy(), (1 - residual / spread).numpy()


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
        effects.append(float(predict(net, grown, size=1_000)[:, 0].reshape(grid, len(x)).mean(1).std()))
    return np.array(effects)
