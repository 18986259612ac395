"""The prose of the notebooks: questions before results, the glossary, alt texts, verdicts."""

import re
import string
from itertools import pairwise

import pandas as pd
import pytest
from small_course import NOTEBOOKS, SOLUTIONS, cells

from rtl_utils.folders import checkout, notebooks
from rtl_utils.statistics import FEWEST

QUESTION, ANSWER = "**Predict.**", "**What you see.**"
GLOSSARY = "../docs/glossary.md#"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
# headings, code, formulas and pictures are not read as prose
SILENT = re.compile(r"^#+ .*$|`[^`]*`|\$\$[^$]*\$\$|\$[^$]*\$|!\[[^\]]*\]\([^)]*\)", re.M)
DECIDED = re.compile(r"\breproduced\b|\bundecided\b(?! \()")  # "undecided (2 seeds)" is no verdict
CELL = re.compile(r'<td[^>]*class="data row(\d+) col(\d+)"[^>]*>(.*?)</td>', re.S)
OF_SEEDS = re.compile(r'<th[^>]*class="col_heading level0 col(\d+)"[^>]*>\s*seeds\s*</th>')


def steps(name):
    """What comes after what: questions and answers with their texts, and code."""
    marks = re.compile(f"({re.escape(QUESTION)}|{re.escape(ANSWER)})")
    for cell in cells(NOTEBOOKS[name]):
        if cell.cell_type == "code":
            yield "code", cell.source
        else:
            _, *parts = marks.split(cell.source)
            yield from zip(parts[::2], parts[1::2], strict=True)


def anchors():
    """Where a link into the glossary can lead, named as GitHub and the site name headings."""
    headings = re.findall(r"^#+ (.+)$", (checkout() / "docs" / "glossary.md").read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def seeds_named(text):
    """How many seeds each part of a text says that it has: seeds 0 to 19; seeds 0, 2; 20 seeds."""
    spans = re.findall(r"\bseeds (\d+) to (\d+)", text)
    counts = [int(last) - int(first) + 1 for first, last in spans]
    counts += [listed.count(",") + 1 for listed in re.findall(r"\bseeds (\d+(?:, \d+)+)", text)]
    counts += [int(count) for count in re.findall(r"\b(\d+) seeds?\b", text)]
    return counts + [1] * len(re.findall(r"\bseed \d+ only", text))


def seeds_of_verdicts(outputs):
    """The least number of seeds behind each output with verdicts; 0 where none is named."""
    texts = [str(o.get("text", "")) + o.get("data", {}).get("text/html", "") for o in outputs]
    texts = [re.sub(r"<style.*?</style>", "", text, flags=re.S) for text in texts]
    for text in texts:
        table = {(int(row), int(column)): cell for row, column, cell in CELL.findall(text)}
        column = OF_SEEDS.search(text)
        if not DECIDED.search(text):
            continue
        if column and table:
            rows = {row for (row, _), cell in table.items() if DECIDED.search(cell)}
            counted = [table[row, int(column[1])] for row in rows]
            yield min((int(n) for cell in counted for n in re.findall(r"\d+", cell)), default=0)
        else:
            yield min(seeds_named(text) or seeds_named(" ".join(texts)), default=0)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_questions_with_choices_stand_before_results_and_answers_after_them(name):
    found = list(steps(name))
    marks = [mark for mark, _ in found if mark != "code"]
    assert 2 <= marks.count(QUESTION) <= 4
    for mark, then in pairwise([*marks, QUESTION]):
        assert mark == ANSWER or then == ANSWER, f"a question without an answer: {marks}"
    for (mark, text), (then, _) in pairwise(found):
        if mark == QUESTION:
            choices = re.findall(r"^- \((\w)\) \S", text, re.M)
            assert len(choices) >= 2, f"{text[:60]} has the choices {choices}"
            assert choices == list(string.ascii_lowercase[: len(choices)])
            assert then == "code", f"{text[:60]}: no result stands between question and answer"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_terms_are_linked_to_the_glossary_where_they_are_first_used(name):
    _, *rest = cells(NOTEBOOKS[name], "markdown")  # what comes after title, aims and needs
    prose = SILENT.sub("", "\n\n".join(cell.source for cell in rest))
    links = [link for link in LINK.finditer(prose) if link[2].startswith(GLOSSARY)]
    assert len(links) >= 5
    to = [link[2].removeprefix(GLOSSARY) for link in links]
    assert set(to) <= anchors(), set(to) - anchors()
    assert len(to) == len(set(to)), f"linked twice: {sorted(a for a in to if to.count(a) > 1)}"
    for link in links:
        before = LINK.sub(r"\1", prose[: link.start()])
        used = re.search(rf"(?<!\w){re.escape(link[1])}", before, re.I)
        assert not used, f"{link[1]!r} was used before: …{before[used.start() - 60 : used.end()]}"


@pytest.mark.parametrize("path", [*NOTEBOOKS.values(), *SOLUTIONS], ids=lambda path: path.stem)
def test_every_picture_says_what_it_shows(path):
    for cell in cells(path, "markdown"):
        assert "<img" not in cell.source
        for text, picture in IMAGE.findall(cell.source):
            assert (notebooks() / picture).exists()
            assert len(text.split()) >= 10, f"{picture}: {text!r} does not say what is to be seen"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_verdict_comes_from_fewer_than_five_seeds(name):
    found = [n for cell in cells(NOTEBOOKS[name], "code") for n in seeds_of_verdicts(cell.outputs)]
    assert min(found, default=FEWEST) >= FEWEST, found


def test_a_verdict_without_its_seeds_or_from_few_is_found():
    table = pd.DataFrame({"seeds": ["20", "3"], "verdict": ["reproduced", "undecided"]})
    few, enough = [{"data": {"text/html": t.style.to_html()}} for t in (table, table[:1])]
    nameless = {"data": {"text/html": table[["verdict"]].style.to_html()}}
    untested = {"text": "undecided (2 seeds)"}
    assert list(seeds_of_verdicts([few])) == [3]
    assert list(seeds_of_verdicts([enough, untested])) == [20]
    assert list(seeds_of_verdicts([nameless])) == [0]
    assert list(seeds_of_verdicts([nameless, {"text": "seeds 0 to 1"}])) == [2]
    assert list(seeds_of_verdicts([{"text": "not reproduced: seeds 0, 2, 4; 7 seeds"}])) == [3]
