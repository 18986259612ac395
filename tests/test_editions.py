"""The editions as `make editions` makes them: slides in a real browser, notebooks in a real kernel.

Screenshots are written to `runs/screenshots`.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import browser
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pretend_device import NAME
from small_course import NOTEBOOKS, SOLUTIONS, STORES_NOTHING, cells, printed, short

from rtl_utils import exercises, folders, headless
from rtl_utils.kernels import Limits
from rtl_utils.store import Store

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = folders.root() / "runs" / "screenshots"
CHECK = re.compile(r'exercises\.check\("([\d.]+)"')


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of all editions."""
    folder = tmp_path_factory.mktemp("built") / "editions"
    make = [sys.executable, ROOT / "docs" / "editions.py", folder]
    done = subprocess.run(make, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Open {folder / 'index.html'}\n"
    return folder


@pytest.fixture
def editions(monkeypatch):
    """The script itself, for notebooks of a test's own."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import editions

    return editions


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as launched:
        yield launched


def of(built, edition, name):
    return built / edition / f"{name}.ipynb"


# --- notebooks ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_student_edition_has_no_outputs_and_no_answers(built, name):
    code = cells(of(built, "student", name), "code")
    assert [cell.source for cell in code] == [c.source for c in cells(NOTEBOOKS[name], "code")]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_filled_edition_has_every_answer_and_the_stored_outputs(built, name):
    source = cells(NOTEBOOKS[name], "code")
    code = cells(of(built, "filled", name), "code")
    asked = [number for cell in source for number in CHECK.findall(cell.source)]
    assert [number for cell in code for number in CHECK.findall(cell.source)] == asked
    assert not any("# your answer" in cell.source for cell in code)
    stored = [cell.outputs for cell in source if "exercises" not in cell.source]
    kept = [cell.outputs for cell in code]
    assert all(outputs in kept for outputs in stored)
    for solution in (path for path in SOLUTIONS if path.stem == name):
        answers = [cell for cell in cells(solution, "code") if CHECK.search(cell.source)]
        assert all(cell.outputs in kept for cell in answers)


@pytest.mark.slow
@pytest.mark.parametrize("edition", ["filled", "clean"])
def test_every_name_in_an_edition_is_defined(built, edition):
    rules = ["--isolated", "--select", "F821", "--config", 'builtins=["display"]']
    ruff = [Path(sys.executable).with_name("ruff"), "check", *rules, built / edition]
    done = subprocess.run(ruff, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_filled_edition_runs_on_a_gpu_and_its_answers_are_right(built, name, forks, tmp_path):
    notebook = nbformat.read(of(built, "filled", name), as_version=4)
    tests = str(Path(__file__).parent)
    enter = f"import sys; sys.path.insert(0, {tests!r}); import pretend_device"
    notebook.cells.insert(0, new_code_cell(f"{enter}\npretend_device.PretendDevice().__enter__()"))
    copied, out = tmp_path / f"{name}.ipynb", tmp_path / "runs"
    nbformat.write(notebook, copied)
    values, limits = short(name, out=str(out)), Limits(cores=1)
    done = headless.execute(copied, values, tmp_path / "done", limits=limits, forks=forks)
    said = printed(done)
    assert said.count("Right: ") == len([n for n in exercises.EXERCISES if n[:2] == name[:2]])
    assert "Not yet" not in said
    assert "All checks passed." in said
    assert re.search(rf'device: cuda \({NAME}\), which "auto" takes', said)
    if name not in STORES_NOTHING:
        assert set(Store(out).values(Store(out).specs()).device) == {"cuda"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_clean_edition_is_code_under_headings(built, name):
    path = of(built, "clean", name)
    assert all(re.fullmatch(r"#{1,3} .+", cell.source) for cell in cells(path, "markdown"))
    code = [cell.source for cell in cells(path, "code")]
    kept = [c.source for c in cells(NOTEBOOKS[name], "code") if c.source in code]
    assert code == kept
    left = [c.source for c in cells(NOTEBOOKS[name], "code") if c.source not in code]
    assert all("exercises" in source or "# your answer" in source for source in left)


@pytest.mark.kernel
@pytest.mark.slow
def test_clean_edition_runs(built, forks, tmp_path):
    name = next(iter(NOTEBOOKS))
    values = short(name, out=str(tmp_path / "runs"))
    limits = Limits(cores=1)
    done = headless.execute(of(built, "clean", name), values, tmp_path, limits=limits, forks=forks)
    assert "All checks passed." in printed(done)


def test_an_exercise_without_a_solution_is_named(editions):
    cell = new_code_cell('exercises.check("99.1", answer)')
    notebook = new_notebook(cells=[new_markdown_cell("# 99 · None"), cell])
    with pytest.raises(ValueError, match=r"exercise 99\.1 has no solution"):
        editions.filled(notebook)


@pytest.mark.slow
def test_pictures_and_links_of_an_edition_are_there(built):
    for path in built.glob("*/*.ipynb"):
        for cell in cells(path, "markdown"):
            for target in re.findall(r"\]\(([^)\s]+)\)", cell.source):
                assert target.startswith("http") or (path.parent / target).exists(), target


# --- slides ---------------------------------------------------------------------------------------

SLIDES = """() => {
  const seen = [];
  for (let k = 0; k < Reveal.getTotalSlides(); k += 1) {
    const slide = Reveal.getCurrentSlide();
    const text = slide.cloneNode(true);
    text.querySelectorAll("aside, pre, mjx-container").forEach((part) => part.remove());
    // formulas have a hidden copy for screen readers, which is clipped
    const unseen = "aside, svg, mjx-assistive-mml";
    const shown = [...slide.querySelectorAll("*")].filter((part) => !part.closest(unseen));
    const size = (part) => parseFloat(getComputedStyle(part).fontSize);
    seen.push({
      heading: slide.querySelector("h1, h2, h3")?.textContent,
      text: text.textContent,
      bottom: Math.max(slide.scrollHeight, slide.getBoundingClientRect().bottom),
      right: Math.max(...shown.map((part) => part.getBoundingClientRect().right)),
      code: Math.min(99, ...[...slide.querySelectorAll("pre")].map(size)),
      letters: Math.min(99, ...[...slide.querySelectorAll("p, li, td")].map(size)),
      cells: [...slide.querySelectorAll("td")].map((cell) => cell.textContent),
      pictures: [...slide.querySelectorAll("img")].map((one) => [one.alt, one.offsetHeight]),
      notes: [...slide.querySelectorAll("aside")].map((notes) => notes.textContent).join(""),
    });
    Reveal.next();
  }
  return seen;
}"""


class Deck(NamedTuple):
    """What a browser shows of a deck.

    Args:
        slides: in the order of the arrow keys, what `SLIDES` says of each.
        code: texts of all boxes of code and printed text.
        wrong: errors, requests to other machines, and formulas that MathJax cannot read.
    """

    slides: list[dict]
    code: list[str]
    wrong: list[str]


def deck(chromium, path, picture=None):
    """Open a deck at a projector's size and page through it."""
    with browser.visit(chromium, path.as_uri()) as seen:
        seen.page.wait_for_function("window.Reveal?.isReady()")
        if picture:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            seen.page.screenshot(path=SCREENSHOTS / picture)
        formulas = seen.page.locator("[data-mjx-error], mjx-merror").all_text_contents()
        code = seen.page.locator(".slides pre").all_text_contents()
        slides = seen.page.evaluate(SLIDES)
        return Deck(slides, code, [*seen.foreign, *seen.errors, *formulas])


@pytest.fixture(scope="module")
def decks(built, chromium):
    """The decks of the course by the name of their notebook, each opened once."""
    opened = {}

    def get(name):
        if name not in opened:
            path = built / "slides" / f"{name}.html"
            opened[name] = deck(chromium, path, f"slides-{name}.png")
        return opened[name]

    return get


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_slide_fits_a_projector_and_asks_no_other_machine(decks, name):
    slides = decks(name).slides
    assert not decks(name).wrong
    assert len(slides) > 10
    for slide in slides:
        where = slide["heading"]
        assert slide["bottom"] <= 720, where
        assert slide["right"] <= 1280, where
        assert slide["code"] >= 16, where
        assert slide["letters"] >= 12, where
        assert not re.search(r"\$[^$]+\$|\$\$", slide["text"]), where
        assert all(alt and height > 100 for alt, height in slide["pictures"]), where


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_slides_show_every_section_and_figure_but_no_set_up_and_no_exercise(decks, name):
    source = "\n".join(cell.source for cell in cells(NOTEBOOKS[name], "markdown"))
    sections = re.findall(r"^#{1,3} ([^\n$]+)$", source, re.M)
    slides = decks(name).slides
    headings = list(dict.fromkeys(slide["heading"] for slide in slides))
    apart = ("Exercises", "Self-check")
    assert headings == [title.replace("`", "") for title in sections if title not in apart]
    assert not any(
        said in code for code in decks(name).code for said in ("globals()", "exercises.")
    )
    outputs = [output for cell in cells(NOTEBOOKS[name], "code") for output in cell.outputs]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert sum(len(slide["pictures"]) for slide in slides) == figures + source.count("![")


def table(rows):
    """An output with a table whose first column reaches over three rows each."""
    lines = [
        (f'<th rowspan="3">group {k // 3}</th>' if k % 3 == 0 else "") + f"<td>value {k}</td>"
        for k in range(rows)
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    data = {"text/html": f"<table><thead><tr><th>of</th><th>is</th></tr></thead>{body}</table>"}
    return new_output("display_data", data)


@pytest.fixture
def make(editions, built, chromium):
    """Makes a deck of a notebook with these cells below its first heading."""

    def of(*further):
        first = [new_markdown_cell("# 1 · Test\n\nWhy?"), new_code_cell("set_up = 1")]
        path = built / "slides" / "test.html"
        made = editions.slides(new_notebook(cells=[*first, *further]), ROOT / "notebooks")
        path.write_text(made)
        shown = deck(chromium, path)
        assert not shown.wrong
        return shown

    return of


@pytest.mark.kernel
@pytest.mark.slow
def test_a_long_table_goes_on_on_the_next_slide_and_loses_nothing(make):
    cell = new_code_cell("table", outputs=[table(100)])
    slides = make(new_markdown_cell("## Rows"), cell).slides
    assert len(slides) > 2
    assert [value for slide in slides for value in slide["cells"]] == [
        f"value {k}" for k in range(100)
    ]
    assert all(slide["bottom"] <= 720 for slide in slides)
    assert {slide["heading"] for slide in slides[1:]} == {"Rows"}


@pytest.mark.kernel
@pytest.mark.slow
def test_long_code_text_and_wide_tables_fit(make):
    wide = "".join(f"<td>column {k}</td>" for k in range(40))
    data = {"text/html": f"<table><tbody><tr>{wide}</tr></tbody></table>"}
    further = [
        new_markdown_cell("## Much\n\n" + "A long text. " * 300),
        new_code_cell("\n".join(f"line_{k} = '{'x' * 70}'" for k in range(40))),
        new_code_cell("wide", outputs=[new_output("display_data", data)]),
        new_code_cell("print()", outputs=[new_output("stream", text="word " * 400)]),
    ]
    slides = make(*further).slides
    assert all(slide["bottom"] <= 720 and slide["right"] <= 1280 for slide in slides)


@pytest.mark.kernel
@pytest.mark.slow
def test_results_hide_their_code_and_tags_are_for_exceptions(make):
    def shows(source, *tags):
        return new_code_cell(source, outputs=[table(3)], metadata={"tags": list(tags)})

    further = [
        new_markdown_cell(
            "## Part\n\nFirst.\n\nSecond.\n\nThird:\n\n- a list\n\n**Predict.** What?"
        ),
        shows("hidden = 1"),
        shows("kept = 1", "slide-code"),
        shows("gone = 1", "no-slide"),
        new_code_cell("idea = 1"),
        new_code_cell("plumbing = 1", metadata={"tags": ["slide-result"]}),
        new_markdown_cell("Said aloud.", metadata={"slideshow": {"slide_type": "notes"}}),
    ]
    slides, code, _ = make(*further)
    assert "".join(code).split("\n")[:-1] == ["kept = 1", "idea = 1"]
    text = "".join(slide["text"] for slide in slides)
    assert all(shown in text for shown in ("First.", "Third:", "a list", "Predict."))
    notes = "".join(slide["notes"] for slide in slides)
    assert "Second." in notes and "Said aloud." in notes
    assert "Second." not in text and "Said aloud." not in text
    assert sum(len(slide["cells"]) for slide in slides) == 6


@pytest.mark.kernel
@pytest.mark.slow
def test_the_first_page_leads_to_everything_also_on_a_phone(built, chromium):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with browser.visit(chromium, (built / "index.html").as_uri(), 390, 844) as seen:
        seen.page.wait_for_load_state("load")
        seen.page.screenshot(path=SCREENSHOTS / "editions-phone.png")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
        links = seen.page.locator("a")
        targets = links.evaluate_all("all => all.map((link) => link.getAttribute('href'))")
        assert len(targets) == len(set(targets)) == 4 * len(NOTEBOOKS)
        assert all((built / target).is_file() for target in targets)
        assert not seen.foreign and not seen.errors
