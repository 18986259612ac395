"""One self-contained HTML page of executed notebooks: their headings, prose, figures and tables, without the code."""

import html
from collections.abc import Sequence
from pathlib import Path

import nbformat

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1c1c1c; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-top: 3rem; border-bottom: 2px solid #0072B2; padding-bottom: .3rem; }
nav a { margin-right: 1.2rem; } a { color: #0072B2; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #999; } caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .6rem .8rem; }
.scroll { overflow-x: auto; }
"""


def write_page(notebooks: Sequence[Path], path: Path, title: str) -> Path:
    """Write the page and return where it lies. It asks for nothing from outside: pictures are embedded, there is no script."""
    parts = [(notebook, _body(notebook)) for notebook in notebooks]
    links = "".join(f'<a href="#{notebook.stem}">{html.escape(notebook.stem)}</a>' for notebook, _ in parts)
    body = "".join(f'<section id="{notebook.stem}">{text}</section>' for notebook, text in parts)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    page += f"<style>{_STYLE}</style><p><strong>{html.escape(title)}</strong></p><nav>{links}</nav>{body}</html>"
    temporary = path.with_suffix(".partial")
    temporary.write_text(page, encoding="utf-8")
    return temporary.replace(path)


def _body(notebook: Path) -> str:
    """Headings of the notebook and what its code cells show, each under its heading."""
    import mistune

    parts = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts += [mistune.html(line) for line in cell.source.splitlines() if line.startswith("#")]
        else:
            parts += [_output(output) for output in cell.get("outputs", [])]
    return "".join(parts)


def _output(output: nbformat.NotebookNode) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<p><img alt="figure" src="data:image/png;base64,{data["image/png"].strip()}"></p>'
    if "text/html" in data:
        return f'<div class="scroll">{data["text/html"]}</div>'
    if "text/markdown" in data:
        import mistune

        return mistune.html(data["text/markdown"])
    text = data.get("text/plain") or (output.text if output.output_type == "stream" and output.name == "stdout" else "")
    return f"<pre>{html.escape(text)}</pre>" if text else ""
