"""What the paper reports, to put beside our numbers. Accuracies are fractions, losses cross-entropies or squared errors in its units."""

# (source, target): tables 1 to 3. Its fine-tuning losses lie below what the accuracies allow, see notebook 03.
TABLES = {
    ("vehicles-1", "vehicles-2"): {
        "ft_distance": 26, "ft_loss": 0.016, "ft_accuracy": 0.906, "fixed_loss": 1.220, "fixed_accuracy": 0.508,
        "ut_distance": 0.30, "ut_loss": 0.360, "ut_accuracy": 0.936, "ball_ft_accuracy": 0.875, "ball_ut_accuracy": 0.902,
    },
    ("herbivores", "flowers"): {
        "ft_distance": 68, "ft_loss": 0.111, "ft_accuracy": 0.736, "fixed_loss": 1.419, "fixed_accuracy": 0.392,
        "ut_distance": 0.28, "ut_loss": 1.336, "ut_accuracy": 0.654, "ball_ft_accuracy": 0.573, "ball_ut_accuracy": 0.702,
    },
    ("carnivores", "flowers"): {
        "ft_distance": 110, "ft_loss": 0.088, "ft_accuracy": 0.672, "fixed_loss": 1.401, "fixed_accuracy": 0.414,
        "ut_distance": 0.32, "ut_loss": 1.53, "ut_accuracy": 0.702, "ball_ft_accuracy": 0.200, "ball_ut_accuracy": 0.491,
    },
}  # fmt: skip
BACKBONE = {"train_accuracy": 0.95, "val_accuracy": 0.80}  # "about"
SYNTHETIC = {"backbone": 0.027, "ft": 0.075, "ut": 0.072, "scratch": 0.099}  # validation losses


def value(source: str, target: str, name: str) -> float | None:
    """A number of the paper's tables, or None where the paper has no such pair."""
    return TABLES.get((source, target), {}).get(name)
