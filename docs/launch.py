"""Buttons that open the notebooks in Colab and Binder, once CITATION.cff names a public address."""

from pathlib import Path

import yaml

from rtl_utils import headless

CHECKOUT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"
GITHUB = "https://github.com/"
WITHOUT = """CITATION.cff names no public address yet, so there are no buttons. Written there as
`repository-code: https://github.com/OWNER/NAME`, `make results` puts them here, and `make site`
into the pages of the notebooks. Binder builds `binder/` as it is."""
WITH = """Neither service was tried. Binder builds `binder/` as it is."""


def address() -> str | None:
    """The public address of the course, as CITATION.cff names it; None if it does not."""
    named = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text()).get("repository-code")
    return str(named).rstrip("/") if named else None


def buttons(public: str | None) -> str:
    """Markdown with one button per notebook and service, or where to write the address.

    Args:
        public: `address`.

    Raises:
        ValueError: for an address that is not on GitHub, which the two services read here.
    """
    if public is None:
        return WITHOUT
    if not public.startswith(GITHUB):
        raise ValueError(f"repository-code in CITATION.cff must begin with {GITHUB}; got {public}")
    name = public.removeprefix(GITHUB)
    places = {
        "Colab": f"{COLAB}/github/{name}/blob/main/notebooks/{{}}.ipynb",
        "Binder": f"{BINDER}/v2/gh/{name}/main?labpath=notebooks/{{}}.ipynb",
    }
    lines = []
    for service, place in places.items():
        links = [f"[{path.stem[:2]}]({place.format(path.stem)})" for path in headless.find()]
        lines.append(f"- {service}: {' '.join(links)}")
    return "\n".join(lines) + f"\n\n{WITH}"


def site_options(public: str | None) -> dict[str, object]:
    """The same as options of the site's theme; none without an address.

    Args:
        public: `address`.
    """
    if public is None:
        return {}
    services = {"colab_url": COLAB, "binderhub_url": BINDER, "notebook_interface": "jupyterlab"}
    return {"repository_url": public, "repository_branch": "main", "launch_buttons": services}
