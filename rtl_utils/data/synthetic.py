"""The paper's synthetic regression: 50 features, 20 of which are spurious for the target."""

from dataclasses import replace

import numpy as np
import torch

from rtl_utils.data.task import Task, standardise
from rtl_utils.randomness import generator

SIZES = {"source": (8_000, 2_000), "target": (2_000, 8_000)}  # training and validation samples
SPURIOUS = 20  # features 0 to 19 belong to the source alone
# what a feature is for the target -> which features
FEATURES = {"spurious": slice(0, 20), "shared": slice(20, 30), "target only": slice(30, 50)}


def synthetic(name: str, seed: int, n_train: int | None = None, max_variance: float = 10.0) -> Task:
    """The paper's regression task in raw units.

    x_i ~ N(mu_i, v_i),  mu_i ~ U(-10, 10),  v_i ~ U(0, max_variance);
    source: y = sum_{i=0..29} sin x_i + x_i;  target: y = sum_{i=20..49} cos x_i - x_i.
    Means and variances are drawn once per seed and shared by both tasks.

    Args:
        name: "source" (8,000 training, 2,000 validation samples) or "target" (2,000, 8,000).
        seed: of means, variances and samples.
        n_train: number of training samples; None for those above.
        max_variance: largest variance of a feature.

    Raises:
        ValueError: for another name.

    Source: the paper, section 4.1.
    """
    if name not in SIZES:
        raise ValueError(f"synthetic has no task {name!r}; it has {', '.join(SIZES)}")
    world, rng = generator(seed, "synthetic"), generator(seed, f"synthetic-{name}")
    mean = world.uniform(-10, 10, 50)
    variance = world.uniform(0, max_variance, 50)
    train, validation = SIZES[name]
    train = train if n_train is None else n_train
    x = rng.normal(mean, np.sqrt(variance), (train + validation, 50))
    if name == "source":
        y = (np.sin(x[:, :30]) + x[:, :30]).sum(1)
    else:
        y = (np.cos(x[:, 20:]) - x[:, 20:]).sum(1)
    features = torch.tensor(x, dtype=torch.float32)
    responses = torch.tensor(y[:, None], dtype=torch.float32)
    return Task(
        name,
        "synthetic",
        features[:train],
        responses[:train],
        features[train:],
        responses[train:],
    )


def standardised(name: str, seed: int) -> Task:
    """The task in its own training split's units."""
    raw = synthetic(name, seed)
    return standardise(raw, by=raw)


def target_views(seed: int) -> dict[str, Task]:
    """The target as transfers see it, in the units of the permuted target.

    Returns:
        "permuted": the one that all models train on;
        "restored": the original first 20 features are back;
        "rows": the permuted task with the rows of those features shuffled within their columns, a
        control that changes nothing against "permuted".

    Source: the paper, section 5.1.
    """
    raw = synthetic("target", seed)
    permuted = permute_features(raw, seed)
    rows = permute_features(permuted, seed, by="rows")
    views = {"permuted": permuted, "restored": raw, "rows": rows}
    return {name: standardise(view, by=permuted) for name, view in views.items()}


def permute_features(task: Task, seed: int, by: str = "columns", features: int = SPURIOUS) -> Task:
    """The task with its first features permuted, in raw units.

    Args:
        task: a table.
        seed: draws the permutation.
        by: "columns" moves each feature to another's place by one fixed permutation without fixed
            points: means differ, so the inputs shift. "rows" shuffles each column over the
            examples: independent features keep their distribution, so nothing changes, which makes
            it a control.
        features: how many of the first features are permuted.

    Raises:
        ValueError: for another `by`, or images.

    Source: the paper, section 5.1.
    """
    if by not in ("columns", "rows"):
        raise ValueError(f"by must be 'columns' or 'rows'; got {by!r}")
    if task.x_train.ndim != 2:
        raise ValueError(
            f"features can be permuted in tables only; task {task.name!r} of {task.dataset} "
            "holds images"
        )
    rng = generator(seed, f"permute-{by}")
    cycle = rng.permutation(features)
    moved = np.arange(features)
    moved[cycle] = np.roll(cycle, 1)  # one cycle through all: no feature stays in its place
    permuted = {}
    for split in ("x_train", "x_val"):
        x = getattr(task, split).clone()
        if by == "columns":
            x[:, :features] = x[:, torch.from_numpy(moved)]
        else:
            for column in range(features):
                x[:, column] = x[torch.from_numpy(rng.permutation(len(x))), column]
        permuted[split] = x
    return replace(task, **permuted)
