"""One self-contained HTML page of executed notebooks: headings, figures, tables, no code."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat

from rtl_utils.headless import put
from rtl_utils.provenance import described, provenance

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1c1c1c; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { margin-top: 3rem; border-bottom: 2px solid #0072B2; padding-bottom: .3rem; }
nav a { margin-right: 1.2rem; } a { color: #0072B2; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #999; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .6rem .8rem; }
.scroll { overflow-x: auto; }
footer { margin-top: 3rem; color: #666; font-size: .85rem; }
"""


class Page(NamedTuple):
    """A written page.

    Args:
        path: of the file.
        figures: how many it shows.
        tables: how many it shows.
    """

    path: Path
    figures: int
    tables: int


def write_page(notebooks: Sequence[Path], path: Path, title: str) -> Page:
    """Write the page; it appears whole or not at all.

    It asks for nothing from outside: pictures are embedded, and there is no script.

    Args:
        notebooks: executed.
        path: of the page.
        title: of the page.
    """
    parts = [(html.escape(notebook.stem), _body(notebook)) for notebook in notebooks]
    links = "".join(f'<a href="#{name}">{name}</a>' for name, _ in parts)
    body = "".join(f'<section id="{name}">{text}</section>' for name, text in parts)
    heading = html.escape(title)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{heading}</title>'
        f"<style>{_STYLE}</style><p><strong>{heading}</strong></p><nav>{links}</nav>{body}"
        f"<footer>{html.escape(_origin())}</footer></html>"
    )
    return Page(put(page, path), body.count(_FIGURE), body.count("<table"))


def _origin() -> str:
    """Where the page comes from, and where to find it for a run that was in the store already."""
    made = described(provenance("cpu", threads=1, seconds=0.0))
    return (
        f"Written by {made}. A run that the store had already was made before; "
        "`rtl results` writes every run's own code, versions, machine and date."
    )


def _body(notebook: Path) -> str:
    """Headings of the notebook and what its code cells show, each under its heading."""
    import mistune

    parts = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            parts += [str(mistune.html(line)) for line in headings]
        else:
            parts += [_output(output) for output in cell.get("outputs", [])]
    return "".join(parts)


_FIGURE = '<img alt="figure"'


def _output(output: nbformat.NotebookNode) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<p>{_FIGURE} src="data:image/png;base64,{data["image/png"].strip()}"></p>'
    if "text/html" in data:
        return f'<div class="scroll">{data["text/html"]}</div>'
    if "text/markdown" in data:
        import mistune

        return str(mistune.html(data["text/markdown"]))
    printed = output.output_type == "stream" and output.name == "stdout"
    text = data.get("text/plain") or (output.text if printed else "")
    return f"<pre>{html.escape(text)}</pre>" if text else ""
