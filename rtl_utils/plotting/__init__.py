"""Every figure of the course: functions that take data and an `Axes` and return the `Axes`.

One style for all; each method has one colour and one marker everywhere (`methods.METHODS`).
"""

from rtl_utils.plotting.features import agreement, feature_profile, feature_ranges, feature_weights
from rtl_utils.plotting.maps import by_target, couplings, distances, places, trajectories
from rtl_utils.plotting.samples import confusion, flips, image_rows, images, predictions
from rtl_utils.plotting.style import (
    BACKBONE_COLOUR,
    BACKBONE_MARKER,
    chance,
    colour,
    legend_below,
    marker,
    use_style,
)
from rtl_utils.plotting.trainings import (
    against_baseline,
    bars,
    by_size,
    cells,
    curves,
    forest,
    runs,
    slopes,
    trade_off,
)

__all__ = [
    "BACKBONE_COLOUR",
    "BACKBONE_MARKER",
    "against_baseline",
    "agreement",
    "bars",
    "by_size",
    "by_target",
    "cells",
    "chance",
    "colour",
    "confusion",
    "couplings",
    "curves",
    "distances",
    "feature_profile",
    "feature_ranges",
    "feature_weights",
    "flips",
    "forest",
    "image_rows",
    "images",
    "legend_below",
    "marker",
    "places",
    "predictions",
    "runs",
    "slopes",
    "trade_off",
    "trajectories",
    "use_style",
]
