"""The explorer: one HTML file with sliders over stored checkpoints, which needs nothing installed.

It holds the arrays that its sliders show, and the drawing code of the notebooks' panels. It opens
by double click and on any static host, and asks for nothing from outside. `make explorer` writes
it.
"""

import base64
import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch

from rtl_utils import folders, plotting, tables
from rtl_utils.claims import Case, Judged, course_cases, differences, judge
from rtl_utils.data import DATASETS
from rtl_utils.data.shortcuts import PATCHES, blend_patch
from rtl_utils.paths import Path as TaskPath
from rtl_utils.runs import BACKBONE
from rtl_utils.widgets.canvas import script
from rtl_utils.widgets.recordings import TAUS, Moment, Recording, answers, stored
from rtl_utils.widgets.rows import stored as stored_rows

_EXAMPLES = 12  # pairs on the path, and images for the ball: what fits into half a megabyte
_FEWEST_SEEDS = 2
_POINTS = 100  # percentage points in a fraction of 1
_LEVELS = 255  # of a stored probability
_Values = dict[str, Any]  # what JSON holds


def write(path: Path | None = None) -> Path:
    """Write the page, and return where it is.

    Args:
        path: of the file; None for docs/explorer.html of the course's checkout.

    Raises:
        FileNotFoundError: outside the course's checkout, which holds the rows of many seeds.
    """
    text = page(contents(stored()))
    place = path or folders.root() / "docs" / "explorer.html"
    with folders.whole_file(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return place


def page(found: Mapping[str, Any]) -> str:
    """The HTML file.

    Args:
        found: of `contents`.
    """
    models = [(model["name"], model["label"]) for model in found["models"]]
    seeds = found["seeds"]
    claim_names = [html.escape(claim["name"]) for claim in seeds["claims"]]
    fields = {
        "style": script("charts.css") + script("explorer.css"),
        "script": script("charts.js") + script("explorer.js"),
        "data": json.dumps(found, separators=(",", ":")).replace("<", "\\u003c"),
        "training": html.escape(found["training"]),
        "results": html.escape(seeds["results"]),
        "runs": html.escape(", ".join(found["made_of"]["runs"])),
        "patch": html.escape(found["ball"]["name"]),
        "last_epoch": len(found["epochs"]) - 1,
        "last_tau": len(TAUS) - 1,
        "middle_tau": len(TAUS) // 2,
        "last_pair": len(found["path"]["labels"]) - 1,
        "last_image": len(found["ball"]["truths"]) - 1,
        "last_place": found["ball"]["places"] - 1,
        "middle_place": found["ball"]["places"] // 2,
        "methods": _radios("method", models[1:]),
        "models": _radios("model", models),
        "claims": "".join(f'<option value="{k}">{n}</option>' for k, n in enumerate(claim_names)),
        "fewest_seeds": _FEWEST_SEEDS,
        "most_seeds": len(seeds["names"]),
        "last_seed": len(seeds["names"]) - 1,
    }
    return Template(script("explorer.html")).substitute(fields)


def contents(recording: Recording) -> _Values:
    """Everything that the page shows, ready for JSON.

    Args:
        recording: whose checkpoints are shown, with moments and maps.

    Returns:
        Arrays are dictionaries of their shape and their bytes, see `_array`; probabilities are
        stored in 255 levels.
    """
    source, target = recording.tasks
    classes = zip(source.class_names, target.class_names, strict=True)
    run = recording.run
    methods = recording.methods
    return {
        "made_of": made_of(recording),
        "training": f"{DATASETS[run.dataset].title}, {source.name} to {target.name}, "
        f"network {run.width}, seed {run.seed}",
        "epochs": recording.epochs,
        "taus": TAUS.round(2).tolist(),
        "classes": [f"{a} / {b}" for a, b in classes],
        "targets": list(target.class_names),
        "models": [
            {"name": name, "label": tables.label(name), "colour": plotting.colour(name)}
            for name in (BACKBONE, *methods)
        ],
        "path": _path(recording),
        "map": _map(recording),
        "ball": _ball(recording),
        "race": {method: _race(recording.moments[method]) for method in methods},
        "seeds": _seeds(),
    }


def made_of(recording: Recording) -> _Values:
    """What a page of this recording was made of: the keys of its runs, and a digest of all weights.

    Args:
        recording: whose checkpoints are shown.
    """
    digest = hashlib.sha256()
    for nets in recording.nets.values():
        for _, net in sorted(nets.items()):
            for weights in net.parameters():
                digest.update(weights.detach().numpy().tobytes())
    return {
        "runs": [replace(recording.run, method=method).key for method in recording.methods],
        "weights": digest.hexdigest(),
    }


# --- the sections of the page ---------------------------------------------------------------------


def _path(recording: Recording) -> _Values:
    """Pairs as the first epoch of a training draws them, and each checkpoint's answers along them.

    The page mixes the images itself: mixing pixels and mixing network inputs is the same thing.
    """
    source, target = recording.tasks
    path = TaskPath(target, source)
    seed = recording.run.seed
    rows = slice(0, _EXAMPLES)
    mixed = [path.batch(path.draw(tau, seed, epoch=0), rows)[0] for tau in TAUS]
    x = torch.stack(mixed, dim=1)  # (pairs, taus, ...)
    start = path.draw(0.0, seed, epoch=0)
    assert start.source is not None
    i, j = start.source[rows], start.target[rows]
    return {
        "source": _pixels(source.x_train[i]),
        "target": _pixels(target.x_train[j]),
        "labels": torch.stack([source.y_train[i], target.y_train[j]], dim=1).tolist(),
        "answers": _answers(recording, x),
    }


def _map(recording: Recording) -> _Values:
    """Loss and accuracy of every checkpoint on every task of the path."""
    return {
        measure: {
            method: _array(getattr(found, measure)) for method, found in recording.maps.items()
        }
        for measure in ("loss", "accuracy")
    }


def _ball(recording: Recording) -> _Values:
    """Target images, and each checkpoint's answers with the shortcut at every place of them."""
    shortcut, label = recording.shortcut
    _, target = recording.clean_tasks
    images = target.x_val[:_EXAMPLES]
    size = shortcut.pixels(target.side)
    places = target.side - size + 1
    rows = torch.arange(len(images))
    planted = [
        blend_patch(images, rows, torch.tensor(place).expand(len(images), 2), shortcut)
        for place in product(range(places), repeat=2)
    ]
    x = torch.stack([*planted, images], dim=1)  # (images, places x places + 1, ...)
    patch = PATCHES[shortcut.patch].draw(size)
    return {
        "name": shortcut.patch,
        "label": label,
        "places": places,
        "images": _pixels(images),
        "truths": [target.class_names[y] for y in target.y_val[:_EXAMPLES].tolist()],
        "patch": _array(patch.permute(1, 2, 0).numpy()),
        "answers": _answers(recording, x),
    }


def _race(moments: Iterable[Moment]) -> _Values:
    """What was measured of one method at its checkpoints: name -> values."""
    columns = zip(*moments, strict=True)
    return {
        name: np.array(values).round(4).tolist()
        for name, values in zip(Moment._fields, columns, strict=True)
    }


def _seeds() -> _Values:
    """The course's claims that all stored seeds measured, judged by two of them to all."""
    rows = stored_rows("digits")
    names = sorted(rows.seed.unique().tolist())
    cases = [case for case in course_cases(rows) if case.rows.seed.nunique() == len(names)]
    (dataset,) = rows.dataset.unique()
    (width,) = rows.width.unique()
    return {
        "results": f"{DATASETS[dataset].title}, network {width}, {len(names)} seeds",
        "names": names,
        "fewest": _FEWEST_SEEDS,
        "claims": [_claim(case) for case in cases],
    }


def _claim(case: Case) -> _Values:
    """One claim, judged on its own by every number of seeds, beginning at each seed in turn."""
    values = differences(case)
    counts = range(_FEWEST_SEEDS, len(values) + 1)
    found = [
        [judge(case, order[:n].tolist()) for n in counts]
        for order in (np.roll(values, -first) for first in range(len(values)))
    ]
    says = [[one.says for one in line] for line in found]
    verdicts, index = np.unique(says, return_inverse=True)
    return {
        "name": case.claim,
        "of": [tables.label(case.a), tables.label(case.b)],
        "colour": plotting.colour(case.a),
        "margin": _POINTS * case.margin,
        "differences": (_POINTS * values).round(3).tolist(),
        "mean": _table(found, lambda one: _POINTS * one.interval.mean),
        "low": _table(found, lambda one: _POINTS * one.interval.low),
        "high": _table(found, lambda one: _POINTS * one.interval.high),
        "p": _table(found, lambda one: one.p),
        "opposite": _table(found, lambda one: one.opposite),
        "verdicts": verdicts.tolist(),
        "verdict": _array(index.reshape(len(found), -1).astype(np.uint8)),
    }


# --- helpers --------------------------------------------------------------------------------------


def _answers(recording: Recording, x: torch.Tensor) -> _Values:
    """Method -> (epochs, n, m, k) probabilities for (n, m, ...) inputs, in whole levels."""
    flat = x.flatten(0, 1)
    found = {}
    for method, nets in recording.nets.items():
        shares = np.stack([answers(nets[epoch], flat) for epoch in recording.epochs])
        levels = (_LEVELS * shares).round().astype(np.uint8)
        found[method] = _array(levels.reshape(len(shares), *x.shape[:2], -1))
    return found


def _pixels(images: torch.Tensor) -> _Values:
    """(n, height, width, 3) of raw images."""
    return _array(images.permute(0, 2, 3, 1).numpy())


def _table(found: list[list[Judged]], value: Callable[[Judged], float]) -> _Values:
    """(first seeds, numbers of seeds) values."""
    return _array(np.array([[value(one) for one in line] for line in found]))


def _array(values: np.ndarray) -> _Values:
    """An array as JSON: its shape and its bytes, uint8 as they are and all others as float32."""
    kind = "uint8" if values.dtype == np.uint8 else "float32"
    content = np.ascontiguousarray(values, dtype=kind).tobytes()
    return {"shape": list(values.shape), kind: base64.b64encode(content).decode()}


def _radios(name: str, options: Iterable[tuple[str, str]]) -> str:
    """Radio buttons, (value, label) of each; the last one is chosen."""
    *others, last = options
    lines = [(value, text, "") for value, text in others] + [(*last, " checked")]
    return "\n".join(
        f'<label><input type="radio" name="{name}" value="{value}"{checked}>'
        f"{html.escape(text)}</label>"
        for value, text, checked in lines
    )
