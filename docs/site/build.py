"""Build the course's site: `make site`, or `.venv/bin/python docs/site/build.py [FOLDER]`.

The pages are gathered in a temporary folder where they keep their places, so their links to each
other hold. Sphinx makes the site from there, with `conf.py`; a warning is an error. The pages of
the API are written from the groups of modules in `docs/architecture.py`. The editions of the
notebooks, slides among them, are put beside Sphinx's pages.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from papers import linked
from sphinx.cmd.build import build_main

from rtl_utils.methods import METHODS, Method

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
import editions  # noqa: E402
from architecture import GROUPS  # noqa: E402

PAGES = (
    "*.md",
    "data/README.md",
    "docs/*.md",
    "docs/*.png",
    "notebooks/**/*.ipynb",
    "notebooks/**/*.png",
)
MODULE = """## {name}

```{{eval-rst}}
.. automodule:: rtl_utils.{name}
   :members:
```
"""
METHODS_PAGE = """# Methods

Every row is a record of `rtl_utils.methods.METHODS` and runs by its name: `rtl run --notebook 05 -p
methods '["ct"]'`. [Training](training.md) describes the fields.

| name | in figures | path | trains | user must know | described by |
| --- | --- | --- | --- | --- | --- |
{lines}
"""
LINK = "[{name}]({address})"


def main() -> int:
    """Build the site into the folder that the command line names, or into `build/site`.

    Returns:
        Sphinx's exit status.
    """
    site = Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "build" / "site").resolve()
    with TemporaryDirectory() as work:
        pages = Path(work) / "pages"
        gather(pages)
        places = ["-c", HERE, "-d", Path(work) / "doctrees", pages, site]
        status = build_main(["-q", "-a", "-W", "--keep-going", *map(str, places)])
    if status == 0:
        editions.build(site / "editions")
        print(f"Open {site / 'index.html'}")
    return status


def gather(folder: Path) -> None:
    """Copy everything that the site shows to its place in the folder."""
    for pattern in PAGES:
        for path in CHECKOUT.glob(pattern):
            _copy(path, folder / path.relative_to(CHECKOUT))
    for path in HERE.glob("*.md"):
        _copy(path, folder / path.name)
    for name, text in api_pages().items():
        path = folder / "api" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def api_pages() -> dict[str, str]:
    """Name -> Markdown: the methods, and one page per group of modules without the private ones."""
    pages = {"methods": methods_page()}
    for group, names in GROUPS.items():
        public = [name for name in names if not name.startswith("_")]
        modules = "\n".join(MODULE.format(name=name) for name in public)
        pages[group.replace(" ", "-")] = f"# {group.capitalize()}\n\n{modules}"
    return pages


def methods_page() -> str:
    """The table of methods, with links to those who described them."""
    lines = [
        f"| `{name}` | {method.label} | {path_of(method)} | {method.trainable} | {method.knows} "
        f"| {linked(method.reference, LINK)} |"
        for name, method in METHODS.items()
    ]
    return METHODS_PAGE.format(lines="\n".join(lines))


def path_of(method: Method) -> str:
    """How a method mixes source and target, and how it pairs them."""
    if not method.mixes:
        return "target alone"
    return f"{method.blend}, pairs {method.coupling}".replace("pairs features", "pairs by features")


if __name__ == "__main__":
    sys.exit(main())
