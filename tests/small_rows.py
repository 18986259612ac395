"""Made-up rows with known means, for the tests of tables and claims."""

import numpy as np
import pandas as pd

from rtl_utils.store import FINAL

AROUND = np.array([-0.01, 0.0, 0.01, 0.005, -0.005])  # five seeds about a mean


def shortcut_rows(flips, clean):
    """Six seeds per method within one point of a mean; flips and clean: method -> mean."""
    lines = []
    for metric, means in (("flip_rate", flips), ("clean_accuracy", clean)):
        for k, (method, mean) in enumerate(means.items()):
            for seed in range(6):
                value = mean + 0.001 * (seed - 2.5) * k
                line = {"source": "s", "target": "t", "seed": seed, "epoch": FINAL}
                lines.append(line | {"method": method, "metric": metric, "value": value})
    return pd.DataFrame(lines)


def values_of(method, metric, values, **columns):
    """Final values of one method, one per seed, on digits from a biased source."""
    usual = {"source": "s", "target": "t", "n_train": None, "epochs": 20, "lr": 0.01}
    usual |= {"source_shortcut": "ball on k", "target_shortcut": None, "width": "small"}
    lines = [
        usual | {"method": method, "metric": metric, "seed": seed, "value": value, "epoch": FINAL}
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(lines).assign(**columns)
