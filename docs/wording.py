"""Rows and texts that the sections of the pages share."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd

from rtl_utils import tables
from rtl_utils.provenance import recorded
from rtl_utils.runs import BACKBONE
from rtl_utils.tables import BEFORE, listed

TRANSFERS = (BEFORE, "scratch", "ft", "fixed", "ut", "ut-mixture", "mixup")
CALLS = (
    "Seeds and device are those of the rows; a sweep may have been trained in several such calls."
)
# The data sets of images, as the pages list them.
ON_IMAGES = ("cifar100", "digits")


def of_sweep(section: Callable[[str, pd.DataFrame], str]) -> Callable[[str], str]:
    """The section of a sweep, by its name alone; empty where the sweep has no rows."""

    @wraps(section)
    def build(name: str) -> str:
        rows = tables.stored(name)
        return section(name, rows) if len(rows) else ""

    return build


def origins(dataset: str) -> list[str]:
    """Where the rows of `tables.course` come from, one paragraph per sweep that has rows."""
    stored = {name: tables.stored(name) for name in tables.COURSE[dataset]}
    return [tables.origin(name, rows) for name, rows in stored.items() if len(rows)]


def transfers(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the compared methods, trained as usual or longer: not those of the controls."""
    return tables.as_usual(rows[rows.method.isin(TRANSFERS)])


def training(rows: pd.DataFrame) -> str:
    """How the rows' networks were trained, in sentences."""
    backbones = rows[rows.method == BACKBONE]
    moved = rows[(rows.method != BACKBONE) & (rows.method != BEFORE)]
    usual = tables.as_usual(moved)
    lengths = {}
    for size, part in usual.groupby(usual.n_train.fillna(np.inf)):
        text = tables.images_text("all" if size == np.inf else f"{size:.0f}")
        lengths[text] = " or ".join(f"{n:.0f}" for n in sorted(part.epochs.unique()))
    if len(set(lengths.values())) == 1:
        transfer = f"{next(iter(lengths.values()))} epochs"
    else:
        each = [f"{epochs} epochs with {size}" for size, epochs in lengths.items()]
        transfer = listed(each)
    sentences = [
        f"Network `{rows.width.mode()[0]}`; SGD with learning rate {moved.lr.mode()[0]:g}, "
        f"momentum {rows.momentum.mode()[0]:g} and mini-batches of {rows.batch_size.mode()[0]}.",
        f"Backbones train for {backbones.epochs.mode()[0]} epochs, transfers for {transfer}.",
    ]
    iterated = rows[rows.method == "ct-iterated"]
    if len(iterated):
        times = int(iterated.coupled_iterations.iloc[0])
        sentences.append(f"An iterated coupling trains {times} times as long.")
    return " ".join(sentences)


def other_device_text(rows: pd.DataFrame) -> str:
    """That a seed is another training than the same seed of tables 1 to 3, where devices differ."""
    course = tables.course(rows.dataset.iloc[0])
    if course.empty:
        return ""
    names = {"cpu": "the CPU", "cuda": "a GPU"}
    here, there = (
        listed(names.get(device, device) for device in recorded(part, "device"))
        for part in (rows, course)
    )
    if here == there:
        return ""
    return f"""These rows were trained on {here}, those of tables 1 to 3 on {there}. Rounding
        differs, and the difference grows while a network trains: there the same seed is another
        training, and its numbers differ as those of another seed would."""


def commands(names: Iterable[str]) -> str:
    """The commands that made the rows, as their manifests name them, and the one for this page."""
    manifests = {name: tables.stored_manifest(name) for name in names}
    made = [f"- `results/{name}/`: {_command(said)}" for name, said in manifests.items() if said]
    page = "- this page and its pictures: `.venv/bin/python docs/make.py`"
    return "\n".join(["## How these were made", "", CALLS, "", *made, page])


def _command(said: Mapping[str, Any]) -> str:
    """A manifest's command; of `rtl train`, with the seeds and the device of the rows."""
    command = str(said["command"])
    if not command.startswith("rtl train"):
        return command
    first, *more = sorted(map(int, said["runs_per_seed"]))
    last = first + len(more)
    together = more and more[-1] == last
    seeds = f"{first}-{last}" if together else ",".join(map(str, [first, *more]))
    return f"`{command} --seeds {seeds} --device {','.join(said['device'])}`"


def method_table(table: pd.DataFrame) -> str:
    """A table with methods in its index as Markdown, with their labels."""
    return tables.markdown(table.rename(index=tables.label, level="method"))


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def uncapitalised(text: str) -> str:
    """The text with its first letter in lower case."""
    return text[:1].lower() + text[1:]


def paragraphs(*parts: str) -> str:
    """Parts of a page with empty lines between; prose is wrapped, the rest stays as it is."""
    return "\n\n".join(_wrapped(part) for part in parts if part)


def _wrapped(part: str) -> str:
    if part.startswith(("#", "|", "!")):
        return part
    return textwrap.fill(" ".join(part.split()), 100, break_on_hyphens=False)
