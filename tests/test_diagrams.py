"""The concept diagrams: committed, linked with a text for those who cannot see, and legible."""

import importlib
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from matplotlib.text import Text

from rtl_utils import plotting

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "notebooks" / "images"
PHONE = 390  # pixels that a phone is wide
NAMES = ("course", "path", "methods", "two-tests", "lime")


@pytest.fixture
def diagrams(monkeypatch):
    """The script that draws them."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("diagrams")


def links():
    """(picture's name, its text, where) of every link to a diagram in the README and notebooks."""
    pages = {"README.md": (ROOT / "README.md").read_text()}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        pages[path.name] = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    return [
        (name, alt, where)
        for where, text in pages.items()
        for alt, name in re.findall(r"!\[([^\]]*)\]\([^)]*images/([\w-]+)\.png\)", text)
    ]


def test_diagrams_are_committed_and_shown_on_their_page(diagrams):
    assert tuple(diagrams.diagrams()) == NAMES
    assert sorted(path.stem for path in IMAGES.glob("*.png")) == sorted(NAMES)
    says = "run docs/diagrams.py"
    assert (IMAGES / "README.md").read_text() == diagrams.page(), says


def test_whoever_shows_a_diagram_says_what_it_shows(diagrams):
    assert {("course", "README.md"), ("path", "00_the_idea.ipynb")} <= {
        (name, where) for name, _, where in links()
    }
    for name, alt, where in links():
        assert alt == diagrams.diagrams()[name].alt, f"{name} in {where}"


@pytest.mark.parametrize("name", NAMES)
def test_diagram_can_be_read_on_a_phone(name, diagrams):
    plotting.use_style()
    figure = diagrams.diagrams()[name].draw()
    figure.canvas.draw()
    sheet = figure.bbox
    for text in figure.findobj(Text):
        if not text.get_text().strip() or not text.get_visible():
            continue
        pixels = text.get_fontsize() / 72 / figure.get_figwidth() * PHONE
        assert pixels > 9.5, f"{text.get_text()!r} is {pixels:.1f} pixels high"
        box = text.get_window_extent()
        inside = sheet.x0 <= box.x0 and box.x1 <= sheet.x1
        inside = inside and sheet.y0 <= box.y0 and box.y1 <= sheet.y1
        assert inside, f"{text.get_text()!r} leaves the sheet"
    plt.close(figure)
