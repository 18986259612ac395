"""Tasks: everything that makes one (data sets) or marks one (shortcuts)."""

from rtl_utils.data.cifar100 import cifar100, cifar100_arrays, declare_missing_operators, pack
from rtl_utils.data.contents import OtherContentsWarning
from rtl_utils.data.datasets import DATASETS, DataSet, check_task, image_datasets, load
from rtl_utils.data.digits import digits
from rtl_utils.data.shortcuts import PATCHES, Patch, Shortcut, ball, plant, usual
from rtl_utils.data.synthetic import permute_features, synthetic, target_views
from rtl_utils.data.task import (
    Task,
    as_float,
    at_most,
    disjoint,
    hold_out,
    soft_labels,
    standardise,
    subset,
)

__all__ = [
    "DATASETS",
    "PATCHES",
    "DataSet",
    "OtherContentsWarning",
    "Patch",
    "Shortcut",
    "Task",
    "as_float",
    "at_most",
    "ball",
    "check_task",
    "cifar100",
    "cifar100_arrays",
    "declare_missing_operators",
    "digits",
    "disjoint",
    "hold_out",
    "image_datasets",
    "load",
    "pack",
    "permute_features",
    "plant",
    "soft_labels",
    "standardise",
    "subset",
    "synthetic",
    "target_views",
    "usual",
]
