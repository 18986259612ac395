"""LIME's weights of the synthetic task that come with the package; `make recording` writes them."""

import io
import json
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from rtl_utils import experiments
from rtl_utils.data import DATASETS
from rtl_utils.probing import lime_weights
from rtl_utils.runs import BACKBONE, Run
from rtl_utils.store import Store
from rtl_utils.training import Sgd

_FILE = "lime.npz"
_METHODS = ("ft", "ut", "scratch")
_POINTS = 100  # explained per model


def stored_weights() -> dict[str, np.ndarray]:
    """Model -> (points, features) weights of seed 0 that come with the package."""
    with files(__package__).joinpath("stored", _FILE).open("rb") as file:
        arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
        return {name: arrays[name].astype(np.float32) for name in (BACKBONE, *_METHODS)}


def stored_runs() -> dict[str, Run]:
    """Model -> its training: seed 0 with the defaults of the synthetic task."""
    record = DATASETS["synthetic"]
    sgd = Sgd(epochs=record.epochs, batch_size=64, **record.sgd)
    source_sgd = Sgd(epochs=record.source_epochs or record.epochs, **record.source_sgd)
    source, target = record.pairs[0]
    first = Run(
        "synthetic",
        source,
        target,
        _METHODS[0],
        seed=0,
        width=record.width,
        sgd=sgd,
        source_sgd=source_sgd,
    )
    transfers = {name: replace(first, method=name) for name in _METHODS}
    return {BACKBONE: first.backbone()} | transfers


def write_stored() -> None:
    """Train the models whose weights come with the package anew, and write their file."""
    runs = stored_runs()
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        experiments.run(list(runs.values()), store)
        for name, run in runs.items():
            _, task = experiments.tasks(run)
            net = experiments.network(run, store)
            weights, _ = lime_weights(net, task, range(_POINTS), run.seed)
            arrays[name] = weights.astype(np.float16)
    header = json.dumps({"keys": {name: run.key for name, run in runs.items()}})
    place = files(__package__).joinpath("stored", _FILE)
    np.savez_compressed(Path(str(place)), header=np.array(header), **arrays)  # type: ignore[arg-type]
