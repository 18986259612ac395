"""What the paper reports, to put beside our numbers.

Accuracies are fractions; losses are cross-entropies, or squared errors in the paper's units.
"""

# (source, target) -> numbers of tables 1 to 3. The paper's fine-tuning losses lie below what its
# accuracies allow, see notebook 03.
TABLES: dict[tuple[str, str], dict[str, float]] = {
    ("vehicles-1", "vehicles-2"): {
        "ft_distance": 26,
        "ft_loss": 0.016,
        "ft_accuracy": 0.906,
        "fixed_loss": 1.220,
        "fixed_accuracy": 0.508,
        "ut_distance": 0.30,
        "ut_loss": 0.360,
        "ut_accuracy": 0.936,
        "ball_ft_accuracy": 0.875,
        "ball_ut_accuracy": 0.902,
    },
    ("herbivores", "flowers"): {
        "ft_distance": 68,
        "ft_loss": 0.111,
        "ft_accuracy": 0.736,
        "fixed_loss": 1.419,
        "fixed_accuracy": 0.392,
        "ut_distance": 0.28,
        "ut_loss": 1.336,
        "ut_accuracy": 0.654,
        "ball_ft_accuracy": 0.573,
        "ball_ut_accuracy": 0.702,
    },
    ("carnivores", "flowers"): {
        "ft_distance": 110,
        "ft_loss": 0.088,
        "ft_accuracy": 0.672,
        "fixed_loss": 1.401,
        "fixed_accuracy": 0.414,
        "ut_distance": 0.32,
        "ut_loss": 1.53,
        "ut_accuracy": 0.702,
        "ball_ft_accuracy": 0.200,
        "ball_ut_accuracy": 0.491,
    },
}

# Trainings behind each accuracy: table 3 has averages of three, tables 1 and 2 name none.
TRIALS = {"1 and 2": 1, "3": 3}

# Of the backbones on CIFAR-100; the paper says "about".
BACKBONE = {"train_accuracy": 0.95, "val_accuracy": 0.80}

# Validation losses on the synthetic task.
SYNTHETIC = {"backbone": 0.027, "ft": 0.075, "ut": 0.072, "scratch": 0.099}

# Gao & Chaudhari (2021), read off their figures: sources in rows, targets in columns. Their
# uncoupled path is the mixture of tasks, their fine-tuning distance a Riemannian length cut at 95 %
# of the final validation accuracy, their network a WRN-16-4: compare orders, not values.
GAO_TASKS = ("herbivores", "carnivores", "vehicles-1", "vehicles-2", "flowers")
GAO_DISTANCES: dict[str, tuple[tuple[float, ...], ...]] = {
    "fine-tuning": (
        (0, 87, 87, 29, 68),
        (82, 0, 52, 40, 110),
        (120, 78, 0, 26, 67),
        (72, 44, 57, 0, 60),
        (99, 41, 34, 32, 0),
    ),
    "uncoupled": (
        (0, 0.29, 0.18, 0.18, 0.28),
        (0.37, 0, 0.20, 0.20, 0.32),
        (0.22, 0.22, 0, 0.30, 0.24),
        (0.24, 0.24, 0.27, 0, 0.31),
        (0.25, 0.33, 0.19, 0.21, 0),
    ),
    "coupled": (
        (0, 0.23, 0.18, 0.17, 0.20),
        (0.23, 0, 0.18, 0.17, 0.20),
        (0.20, 0.21, 0, 0.18, 0.20),
        (0.21, 0.19, 0.20, 0, 0.19),
        (0.20, 0.19, 0.17, 0.16, 0),
    ),
}


def value(source: str, target: str, name: str) -> float | None:
    """A number of the paper's tables 1 to 3; None where the paper has no such pair or number.

    Args:
        source: the pair's source.
        target: the pair's target.
        name: such as "ft_accuracy" or "ball_ut_accuracy".
    """
    return TABLES.get((source, target), {}).get(name)
