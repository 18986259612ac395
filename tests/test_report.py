"""The page of executed notebooks."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small_notebooks import write

from rtl_utils.report import write_page

PIXEL = "iVBORw0KGgo="


def executed(path, *outputs):
    """A notebook of one code cell that has these outputs."""
    cells = [
        new_markdown_cell("# A title\nprose\n## Below"),
        new_code_cell("x", outputs=[*outputs]),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def display(**data):
    return new_output("display_data", data={kind.replace("_", "/"): v for kind, v in data.items()})


def test_a_page_holds_headings_and_outputs_and_counts_them(tmp_path):
    picture = display(image_png=PIXEL, text_plain="<Figure>")
    table = display(text_html="<table><tr><td>1</td></tr></table>", text_plain="a frame")
    printed = new_output("stream", name="stdout", text="1 < 2")
    warned = new_output("stream", name="stderr", text="never shown")
    words = display(text_markdown="**bold**")
    notebook = executed(tmp_path / "01_a.ipynb", picture, table, printed, warned, words)
    page = write_page([notebook, notebook], tmp_path / "index.html", "Digits & more")
    text = page.path.read_text()
    assert (page.figures, page.tables) == (2, 2)
    assert text.count(f'<img alt="figure" src="data:image/png;base64,{PIXEL}">') == 2
    assert "<h1>A title</h1>" in text
    assert "<h2>Below</h2>" in text
    assert "<title>Digits &amp; more</title>" in text
    assert "<pre>1 &lt; 2</pre>" in text
    assert "<strong>bold</strong>" in text
    assert "prose" not in text
    assert "never shown" not in text
    assert "a frame" not in text


def test_names_of_notebooks_are_text(tmp_path):
    notebook = write(tmp_path / '01 "a" <b>.ipynb')
    page = write_page([notebook], tmp_path / "index.html", "T")
    assert 'href="#01 &quot;a&quot; &lt;b&gt;"' in page.path.read_text()
    assert (page.figures, page.tables) == (0, 0)


def test_a_page_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path):
    notebook = write(tmp_path / "01_a.ipynb")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "index.html").write_text("old")
    write_page([notebook], folder / "index.html", "T")
    assert [p.name for p in folder.iterdir()] == ["index.html"]
    assert "old" not in (folder / "index.html").read_text()
