"""Write the pages of results and their pictures: `.venv/bin/python docs/make.py`.

Every number comes from the exported rows in results/; every section says what made its rows. The
overview of the paper stands in docs/items.py, the sections in docs/sections.py, docs/maps.py,
docs/synthetic.py, docs/passing.py and docs/distance_page.py, what the README says of them in
docs/front.py, the pictures in docs/figures.py.
"""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from distance_page import distances_page
from figures import pictures
from front import headline
from items import items_section
from launch import address, buttons
from maps import MAP_SWEEPS, map_section
from passing import (
    PASSING_SWEEPS,
    answer_tables,
    drawn_overview,
    inherited_table,
    passing_page,
)
from sections import (
    FROZEN_SWEEP,
    METHOD_SWEEPS,
    PAIRS_SWEEP,
    SIZES_SWEEP,
    course_section,
    frozen_section,
    introduction,
    method_section,
    pairs_section,
    sizes_section,
    steps_section,
)
from synthetic import SYNTHETIC_SWEEP, synthetic_section
from trials import counts, trials_section
from wording import ON_IMAGES, commands

from rtl_utils import plotting, tables

HERE = Path(__file__).resolve().parent
BEGIN = "<!-- begin: written by docs/make.py from the rows in results/ -->"
END = "<!-- end -->"
BEGIN_BUTTONS = "<!-- begin: written by docs/make.py from CITATION.cff -->"
END_BUTTONS = "<!-- end: buttons -->"
BEGIN_TRIALS = "<!-- begin: written by docs/make.py from docs/trials*.csv -->"
END_TRIALS = "<!-- end: trials -->"


def main() -> None:
    """Write all pages and all pictures."""
    for name, text in pages().items():
        (HERE.parent / name).write_text(text)
    plotting.use_style()
    plt.rcParams["figure.max_open_warning"] = 0  # all are open until they are saved
    for name, figure in pictures().items():
        figure.savefig(HERE / f"{name}.png")
        plt.close(figure)


def pages() -> dict[str, str]:
    """Path in the checkout -> Markdown."""
    with warnings.catch_warnings():  # each section says what made its rows
        warnings.simplefilter("ignore", tables.MixedRowsWarning)
        answers = answer_tables(PASSING_SWEEPS)
        inherited = inherited_table(PASSING_SWEEPS)
        return {
            "README.md": readme(answers),
            "docs/results.md": results_page(),
            "docs/distances.md": distances_page(),
            "docs/passing.md": passing_page(answers, inherited),
            "docs/method.md": method_page(answers),
            "docs/trials.md": trials_page(),
        }


def results_page() -> str:
    """Everything but the distances between tasks."""
    sections = [
        introduction(),
        items_section(),
        synthetic_section(SYNTHETIC_SWEEP),
        *[course_section(dataset) for dataset in ON_IMAGES],
        sizes_section(SIZES_SWEEP),
        steps_section(),
        frozen_section(FROZEN_SWEEP),
        *[map_section(name) for name in MAP_SWEEPS],
        *[method_section(name) for name in METHOD_SWEEPS],
        pairs_section(PAIRS_SWEEP),
        commands(
            [
                SYNTHETIC_SWEEP,
                *[name for dataset in ON_IMAGES for name in tables.COURSE[dataset]],
                SIZES_SWEEP,
                FROZEN_SWEEP,
                *MAP_SWEEPS,
                *METHOD_SWEEPS,
                PAIRS_SWEEP,
            ]
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def readme(answers: dict[str, pd.DataFrame]) -> str:
    """The README with its results and its buttons written anew between their marks.

    Args:
        answers: of the project's own methods, see `answer_tables`.
    """
    text = (HERE.parent / "README.md").read_text()
    text = between(text, BEGIN, END, headline(answers))
    return between(text, BEGIN_BUTTONS, END_BUTTONS, buttons(address()))


def method_page(answers: dict[str, pd.DataFrame]) -> str:
    """The page on the method with its results and the number of trials written anew.

    Args:
        answers: of the project's own methods, see `answer_tables`.
    """
    text = (HERE / "method.md").read_text()
    text = between(text, BEGIN, END, drawn_overview(answers))
    return between(text, BEGIN_TRIALS, END_TRIALS, counts())


def trials_page() -> str:
    """The page of trials with their tables written anew between their marks."""
    text = (HERE / "trials.md").read_text()
    return between(text, BEGIN_TRIALS, END_TRIALS, trials_section())


def between(text: str, begin: str, end: str, new: str) -> str:
    """The text with what stands between two marks replaced."""
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{new}\n\n{end}{after}"


if __name__ == "__main__":
    main()
