"""Make the course's editions: `make editions`, or `.venv/bin/python docs/editions.py [FOLDER]`.

All come from the notebooks and their solutions, as they are stored:

- student: exercises open, no outputs.
- filled: exercises answered by the solutions, with outputs.
- slides: for a projector, in any browser, without a network.
- clean: the code under its headings, no prose, no exercises.

What becomes a slide follows from headings and outputs, so no cell must be marked. A cell's *slide
type*, as JupyterLab sets it, and the tags of `TAGS` are for exceptions.
"""

import ast
import html
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path

import nbformat
from nbconvert.exporters import SlidesExporter
from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor
from nbformat import NotebookNode
from traitlets.config import Config

from rtl_utils import folders, headless

HERE = Path(__file__).resolve().parent
TAGS = {
    "no-slide": "on no slide",
    "slide-code": "code on a slide, though it shows a figure or a table",
    "slide-result": "a slide shows what comes out, and not the code",
}
APART = ("Exercises", "Self-check")  # sections that are neither on slides nor in the clean edition
EDITIONS = {
    "student": "exercises open, no outputs",
    "filled": "exercises answered, with outputs",
    "slides": "for a projector: arrow keys, S for notes, F for the full screen",
    "clean": "code without prose",
}
REVEAL = Path(str(files("sphinx_revealjs") / "_static/revealjs"))  # reveal.js itself, as files
REVEAL_FILES = (
    "LICENSE",
    "dist/reveal.css",
    "dist/reveal.js",
    "dist/theme/white.css",
    "dist/theme/fonts/source-sans-pro/*",
    "plugin/notes/*",
)
# as django-static-mathjax brings it; this file asks for no font and no other part
MATHJAX = Path(str(files("mathjax") / "static/mathjax/es5/tex-svg-full.js"))
STATIC = "reveal"  # folder of the parts that all slides share
HEADING = re.compile(r"(#{1,3}) (.+)")
CHECK = re.compile(r'exercises\.check\("([\d.]+)"')
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def main() -> int:
    """Make all editions in the folder that the command line names, or in `build/editions`.

    Returns:
        The exit status.
    """
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "build" / "editions")
    print(f"Open {build(folder.resolve())}")
    return 0


def build(folder: Path) -> Path:
    """Write all editions of all notebooks.

    Args:
        folder: of the editions; it is made anew.

    Returns:
        The page that leads to all of them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in EDITIONS:
        (folder / name).mkdir(parents=True)
    titles = {}
    for path in headless.find():
        notebook = nbformat.read(path, as_version=4)
        titles[path.stem] = _heading(notebook.cells[0].source)
        for name, made in (("student", student), ("filled", filled), ("clean", clean)):
            edition = _with_links(made(notebook), path.parent)
            nbformat.write(edition, folder / name / path.name)
        page = slides(_with_links(notebook, None), path.parent)
        (folder / "slides" / f"{path.stem}.html").write_text(page)
    for name in ("student", "filled"):
        shutil.copytree(folders.notebooks() / "images", folder / name / "images")
    _write_static(folder / "slides" / STATIC)
    index = folder / "index.html"
    index.write_text(index_page(titles))
    return index


# --- notebooks ------------------------------------------------------------------------------------


def student(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it is handed out: exercises open, no outputs."""
    cleared, _ = ClearOutputPreprocessor().preprocess(_copy(notebook), {})
    return cleared


def filled(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the solutions' answers in place of the open ones, and all outputs.

    Raises:
        ValueError: if an exercise has no solution.
    """
    answers = _answers(notebook)
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        found = CHECK.search(cell.source) if cell.cell_type == "code" else None
        if found is None:
            cells.append(cell)
            continue
        while cells[-1].cell_type == "code":  # the open answer
            cells.pop()
        if found[1] not in answers:
            raise ValueError(f"exercise {found[1]} has no solution")
        cells += [_with_check(answer, cell.source) for answer in answers[found[1]]]
    return _copy(notebook, cells)


def clean(notebook: NotebookNode) -> NotebookNode:
    """The code under its headings, without prose, outputs and exercises."""
    cells: list[NotebookNode] = []
    headings: list[NotebookNode] = []  # of the code that comes next
    for cell in sections(notebook):
        if cell.metadata.section == "Exercises":
            continue
        if cell.cell_type == "code":
            cells += [*headings, cell]
            headings = []
        elif title := HEADING.match(cell.source):
            level = len(title[1])
            headings = [above for above in headings if _level(above) < level]
            headings.append(_markdown(title[0], cell))
    for cell in cells:
        del cell.metadata["section"]
    return student(_copy(notebook, cells))


def sections(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells, cut where a heading begins; each knows the title of its section.

    Returns:
        Copies with `section` in their metadata: the last heading of level 1 or 2.
    """
    cells = []
    section = ""
    for cell in _copy(notebook).cells:
        parts = [cell]
        if cell.cell_type == "markdown":
            texts = re.split(r"\n(?=#{1,3} )", cell.source)
            parts = [_markdown(text, cell) for text in texts]
        for part in parts:
            if part.cell_type == "markdown" and 0 < _level(part) < 3:
                section = _heading(part.source)
            part.metadata.section = section
            cells.append(part)
    return cells


def _answers(notebook: NotebookNode) -> dict[str, list[NotebookNode]]:
    """Number of an exercise -> the cells of its solution; before the first, what they import."""
    number = _heading(notebook.cells[0].source).split(" ")[0].zfill(2)
    parts: list[list[NotebookNode]] = []  # a text and the code below it
    for path in headless.solutions(number):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                parts.append([])
            parts[-1].append(cell)
    answers = {}
    set_up = ""
    for part in parts:
        code = "\n".join(cell.source for cell in part if cell.cell_type == "code")
        if found := CHECK.search(code):
            answers[found[1]] = part
        else:
            set_up += f"{code}\n"
    if answers:
        cells = chain(*answers.values())
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        first = next(iter(answers))
        answers[first] = [nbformat.v4.new_code_cell(_imports(set_up, code)), *answers[first]]
    return answers


def _imports(set_up: str, code: str) -> str:
    """Those imports of a set-up whose names some code uses."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    lines = []
    for node in ast.parse(set_up).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [name for name in node.names if (name.asname or name.name) in used]
            lines += [ast.unparse(node)] if node.names else []
    return "\n".join(lines)


def _with_check(answer: NotebookNode, check: str) -> NotebookNode:
    """A cell of a solution that hands the notebook's own objects to the check."""
    made = nbformat.from_dict(answer)
    if made.cell_type == "code":
        lines = made.source.splitlines()
        for node in ast.parse(made.source).body:
            if CHECK.match("\n".join(lines[node.lineno - 1 : node.end_lineno])):
                lines[node.lineno - 1 : node.end_lineno] = [check]
                break
        made.source = "\n".join(lines)
    return made


# --- slides ---------------------------------------------------------------------------------------


def slides(notebook: NotebookNode, folder: Path) -> str:
    """The notebook as slides, an HTML page of reveal.js.

    Args:
        notebook: with outputs.
        folder: where the pictures of its text lie.
    """
    exporter = SlidesExporter(
        config=Config({"TagRemovePreprocessor": {"remove_input_tags": ["slide-result"]}}),
        template_name="slides",
        extra_template_basedirs=[str(HERE)],
        reveal_url_prefix=STATIC,
        reveal_theme="white",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    exporter.register_preprocessor(TagRemovePreprocessor(parent=exporter), enabled=True)
    marked = _copy(notebook, list(_slide_cells(notebook)))
    page, _ = exporter.from_notebook_node(
        marked,
        {"metadata": {"name": _heading(notebook.cells[0].source), "path": str(folder)}},
    )
    return str(page)


def _slide_cells(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """What slides show: not the set-up above the first section, and not what stands apart."""
    title = _heading(notebook.cells[0].source)
    for cell in sections(notebook):
        tags = cell.metadata.get("tags", [])
        set_up = cell.cell_type == "code" and cell.metadata.section == title
        if set_up or cell.metadata.section in APART or "no-slide" in tags:
            continue
        if cell.cell_type == "markdown":
            yield from _told(cell)
        else:
            if "slide-code" not in tags and _shows(cell):
                cell.metadata.tags = [*tags, "slide-result"]
            yield cell


def _shows(cell: NotebookNode) -> bool:
    """Whether a code cell shows a figure or a table."""
    kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
    return bool(kinds & {"image/png", "text/html"})


def _told(cell: NotebookNode) -> Iterator[NotebookNode]:
    """A text as a slide shows it, and the rest of its prose as notes for who speaks."""
    shown, notes = [], []
    blocks = _blocks(cell.source)
    for k, block in enumerate(blocks):
        first = not any(_is_prose(before) for before in blocks[:k])
        introduces = k + 1 < len(blocks) and not _is_prose(blocks[k + 1])
        keep = first or introduces or not _is_prose(block) or block.startswith("**")
        (shown if keep else notes).append(block)
    kind = {1: "slide", 2: "slide", 3: "subslide"}.get(_level(cell), "-")
    yield _slide(cell, shown, kind)
    if notes:
        yield _slide(cell, notes, "notes")


def _slide(cell: NotebookNode, blocks: list[str], kind: str) -> NotebookNode:
    made = _markdown("\n\n".join(blocks), cell)
    made.metadata.slideshow = {"slide_type": kind} | cell.metadata.get("slideshow", {})
    return made


def _blocks(text: str) -> list[str]:
    """Paragraphs, headings, lists, tables, formulas: what empty lines set apart."""
    return [block for block in re.split(r"\n\s*\n", text.strip()) if block]


def _is_prose(block: str) -> bool:
    """Whether a block is a paragraph, not something that a room looks at."""
    return not re.match(r"#|\||[-*] |\d+\. |!\[|\$\$|>|```|    ", block)


# --- pages and files ------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Editions of the course</title>
<style>
  body {{ font: 17px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 56em; padding: 0 1em }}
  h1, h2 {{ color: #12395b; line-height: 1.2 }}
  h2 {{ font-size: 1.1em; margin-bottom: 0.2em }}
  a {{ color: #12395b; display: inline-block; margin-right: 1.2em; padding: 0.3em 0 }}
  dt {{ font-weight: 600 }}
</style>
<h1>Editions of the course</h1>
<p>One source, four editions. Notebooks are downloaded and need the course's package; put them into
its folder <code>notebooks</code>. Slides open in any browser, without a network.</p>
<dl>
{editions}
</dl>
{notebooks}
</html>
"""


def index_page(titles: dict[str, str]) -> str:
    """The page that leads to every edition.

    Args:
        titles: file name of each notebook without its ending -> its title.
    """
    editions = [f"<dt>{name}</dt><dd>{what}</dd>" for name, what in EDITIONS.items()]
    notebooks = [
        f"<h2>{html.escape(title)}</h2>\n<p>{' '.join(_link(name, stem) for name in EDITIONS)}</p>"
        for stem, title in titles.items()
    ]
    return PAGE.format(editions="\n".join(editions), notebooks="\n".join(notebooks))


def _link(edition: str, stem: str) -> str:
    if edition == "slides":
        return f'<a href="slides/{stem}.html">slides</a>'
    return f'<a href="{edition}/{stem}.ipynb" download>{edition}</a>'


def _write_static(folder: Path) -> None:
    """The parts that all slides share: reveal.js with its fonts, MathJax, and how a slide looks."""
    for pattern in REVEAL_FILES:
        for path in REVEAL.glob(pattern):
            to = folder / path.relative_to(REVEAL)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
    shutil.copyfile(MATHJAX, folder / "mathjax.js")
    for name in ("slides.css", "slides.js"):
        shutil.copyfile(HERE / "slides" / name, folder / name)


def _with_links(notebook: NotebookNode, folder: Path | None) -> NotebookNode:
    """The notebook with those links alone that lead somewhere from an edition; texts stay.

    Args:
        notebook: whose links are read.
        folder: of the notebooks, where the edition has them too; None: links to the web alone.
    """

    def kept(link: re.Match[str]) -> str:
        name = link[2].partition("#")[0]
        beside = folder is not None and "/" not in name and (folder / name).exists()
        return link[0] if name.startswith("http") or beside else link[1]

    made = _copy(notebook)
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(kept, cell.source)
    return made


def _copy(notebook: NotebookNode, cells: list[NotebookNode] | None = None) -> NotebookNode:
    """A copy of a notebook, with these cells if any are given."""
    made = nbformat.from_dict(notebook)
    made.metadata.pop("rtl", None)  # it says from which code the outputs come
    if cells is not None:
        made.cells = [nbformat.from_dict(cell) for cell in cells]
        for k, cell in enumerate(made.cells):
            cell.id = f"cell-{k:02}"
    return made


def _markdown(text: str, cell: NotebookNode) -> NotebookNode:
    """A text cell with the metadata of another one."""
    return nbformat.v4.new_markdown_cell(text.strip(), metadata=dict(cell.metadata))


def _level(cell: NotebookNode) -> int:
    """Level of the heading with which a text cell begins; 0 for none."""
    found = HEADING.match(cell.source) if cell.cell_type == "markdown" else None
    return len(found[1]) if found else 0


def _heading(text: str) -> str:
    """The first heading of a text."""
    found = HEADING.match(text)
    return found[2].strip() if found else ""


if __name__ == "__main__":
    sys.exit(main())
