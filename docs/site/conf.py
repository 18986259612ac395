"""Sphinx's settings for the course's site; `build.py` gathers its pages and calls Sphinx."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

import rtl_utils

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from docstrings import rewritten  # noqa: E402
from editions import MATHJAX  # noqa: E402
from launch import address, site_options  # noqa: E402

CHECKOUT = HERE.parents[1]
AS_THEY_ARE = [CHECKOUT / "docs" / "explorer.html"]  # pages that need nothing of Sphinx
EDITIONS = "editions/index.html"  # what build.py adds afterwards

project = "Do shortcuts survive transfer?"
author = "The rtl_utils developers"
release = rtl_utils.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
suppress_warnings = [
    "toc.empty_glob",  # a folder of notebooks may be empty
    "ref.python",  # two modules may have classes of one name
]

# notebooks: as they are stored
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # sliders need a kernel; their pictures stand in for them
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
mathjax_path = MATHJAX.name

# the API: docstrings as they are written, in Google's form with Markdown's code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["style.css", str(MATHJAX)]
html_css_files = ["style.css"]
html_extra_path = [str(path) for path in AS_THEY_ARE]
html_context = {"default_mode": "light"}  # as the figures are
html_show_search_summary = False  # from a folder a page may not read another
html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],  # the search stands in the sidebar
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    **site_options(address()),
}


def setup(app: Sphinx) -> None:
    """Sphinx calls it once."""
    app.connect("doctree-read", keep_links)
    app.connect("doctree-read", name_pictures)
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", without_factories)
    app.connect("viewcode-follow-imported", not_followed)


def keep_links(app: Sphinx, page: nodes.document) -> None:
    """A link to a file that is no page: kept where the site has the file, else its text alone."""
    place = (CHECKOUT / app.env.docname).parent
    up = "../" * app.env.docname.count("/")
    for link in list(page.findall(pending_xref)):
        if link["reftype"] != "myst" or link["refdomain"] is not None:
            continue
        path = (place / link["reftarget"]).resolve()
        if path in AS_THEY_ARE:
            link.replace_self(nodes.reference("", "", *link.children, refuri=up + path.name))
        elif link["reftarget"] == EDITIONS:
            link.replace_self(nodes.reference("", "", *link.children, refuri=up + EDITIONS))
        elif path.exists():
            link.replace_self(link.children)


def name_pictures(app: Sphinx, page: nodes.document) -> None:
    """A picture that nobody has described bears the title of its section, not its file's name."""
    for picture in page.findall(nodes.image):
        place = picture.parent
        while not isinstance(place, nodes.section | nodes.document):
            place = place.parent
        picture.setdefault("alt", f"Figure: {place.next_node(nodes.title).astext()}")


def as_written(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """A docstring, before napoleon reads its sections."""
    lines[:] = rewritten("\n".join(lines)).split("\n")


def without_factories(
    app: Sphinx,
    what: str,
    name: str,
    thing: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """The signature of a dataclass without `<factory>`, which Sphinx cannot read."""
    return signature and signature.replace("<factory>", "..."), returned


def not_followed(app: Sphinx, module: str, name: str) -> str | None:
    """The module itself for a name that it passes on: a source has one page to go back to.

    Sphinx follows a name only from a package to the package's own modules.
    """
    value = getattr(sys.modules[module], name.partition(".")[0], None)
    home = getattr(value, "__module__", module)
    return None if home == module or home.startswith(f"{module}.") else module
