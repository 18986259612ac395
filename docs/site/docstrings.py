"""Docstrings as Sphinx reads them: equations and examples as code, nothing else as markup."""

import re
from textwrap import dedent, indent

from papers import linked

EXAMPLE = re.compile(r"    ")
EQUATION = re.compile(r"[^:]*\s(=|~|<=)\s", re.S)  # and no full stop at its end
SECTION = re.compile(r"\w+:(\n|$)")  # Args, Returns, Raises
LINK = "`{name} <{address}>`__"


def rewritten(text: str) -> str:
    """A docstring in reStructuredText, with its sections as they were."""
    return "\n\n".join(_paragraph(part) for part in text.strip("\n").split("\n\n"))


def _paragraph(text: str) -> str:
    alone = EQUATION.match(text) and not text.endswith(".") and not SECTION.match(text)
    if EXAMPLE.match(text) or alone:
        return "::\n\n" + indent(dedent(text), "    ")
    pieces = re.split(r"(`[^`]+`)", text)  # prose and code in turns
    prose = [linked(re.sub(r"[*|\\_]", r"\\\g<0>", piece), LINK) for piece in pieces[::2]]
    code = [f"`{piece}`" for piece in pieces[1::2]]
    return "".join(a + b for a, b in zip(prose, [*code, ""], strict=True))
