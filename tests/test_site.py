"""The site: built as `make site` builds it, every link of it followed, and read in a real browser.

Screenshots are written to `runs/screenshots`.
"""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import browser
import pytest
from playwright.sync_api import Page, expect

import rtl_utils
from rtl_utils import folders

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = folders.root() / "runs" / "screenshots"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SIZES = {"projector": (1280, 720), "phone": (390, 844)}
LOOKED_AT = {
    "front": "index.html",
    "play": "play.html",
    "notebook": f"notebooks/{NOTEBOOKS[0].stem}.html",
    "results": "docs/results.html",
    "glossary": "docs/glossary.html",
    "teaching": "docs/teaching.html",
    "methods": "api/methods.html",
    "api": "api/training.html",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. A warning of Sphinx is an error."""
    folder = tmp_path_factory.mktemp("built") / "site"
    build = [sys.executable, ROOT / "docs" / "site" / "build.py", folder]
    done = subprocess.run(build, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert str(folder / "index.html") in done.stdout
    return folder


@pytest.fixture(scope="module")
def parsed(site):
    """What each page of the site holds, by its path in it."""
    paths = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    assert len(paths) > 40
    return {path.relative_to(site).as_posix(): Parsed.of(path) for path in paths}


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as launched:
        yield launched


class Parsed(NamedTuple):
    """Addresses and anchors of a page."""

    links: list[str]  # where a reader can go
    parts: list[str]  # what the page itself loads
    anchors: set[str]

    @classmethod
    def of(cls, path):
        reader = _Reader()
        reader.feed(path.read_text())
        return cls(reader.links, reader.parts, reader.anchors)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.parts, self.anchors = [], [], {""}

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes.get("id"), attributes.get("name")} - {None}
        if "href" in attributes:
            (self.links if tag == "a" else self.parts).append(attributes["href"])
        if tag != "a" and "src" in attributes:
            self.parts.append(attributes["src"])


def test_every_link_leads_to_a_page_and_an_anchor(site, parsed):
    for name, page in parsed.items():
        for address in page.links + page.parts:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            place = (site / name).parent / unquote(parts.path) if parts.path else site / name
            assert place.resolve().is_file(), f"{name}: {address}"
            if parts.fragment and place.suffix == ".html":
                there = place.resolve().relative_to(site).as_posix()
                assert unquote(parts.fragment) in parsed[there].anchors, f"{name}: {address}"


def test_no_page_has_a_part_on_another_machine(parsed):
    for name, page in parsed.items():
        assert not [part for part in page.parts if re.match(r"(https?:)?//", part)], name


def test_a_reader_who_opens_any_page_asks_no_other_machine(site, parsed, chromium):
    for name in parsed:
        if name.startswith("_modules/"):
            continue  # source code in the frame of the others
        with browser.visit(chromium, (site / name).as_uri()) as seen:
            complete(seen.page)
            assert not seen.foreign, name
            assert not seen.errors, name
            assert not seen.page.locator("[data-mjx-error], mjx-merror").count(), name
            assert not seen.page.locator(".math", has_text=re.compile(r"\\[(\[]")).count(), name
            assert seen.page.evaluate(EMPTY_OR_NAMELESS) == [], name


EMPTY_OR_NAMELESS = """() => [...document.images].filter(image => !(image.complete &&
    image.naturalWidth && image.alt && !image.alt.endsWith(".png"))).map(image => image.src)"""


def complete(page: Page) -> None:
    """Wait for everything that a page loads, and for its formulas."""
    page.wait_for_load_state("load")
    page.evaluate("() => window.MathJax?.startup?.promise")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_fits_the_screen(site, chromium, name, size):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    width, height = SIZES[size]
    with browser.visit(chromium, (site / LOOKED_AT[name]).as_uri(), width, height) as seen:
        complete(seen.page)
        seen.page.screenshot(path=SCREENSHOTS / f"site-{name}-{size}.png")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_shown_with_its_code_formulas_and_pictures(site, chromium, notebook):
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    code = sum(cell["cell_type"] == "code" for cell in cells)
    with browser.visit(chromium, (site / "notebooks" / f"{notebook.stem}.html").as_uri()) as seen:
        complete(seen.page)
        expect(seen.page.locator(".cell_input")).to_have_count(code)
        expect(seen.page.locator(".cell_output img")).to_have_count(pictures)
        displayed = seen.page.locator('mjx-container[display="true"]').count()
        assert displayed >= sum("$$" in "".join(cell["source"]) for cell in cells)
        boxes = seen.page.locator(".cell_input pre")
        wide = boxes.evaluate_all("all => all.map(box => box.scrollWidth - box.clientWidth)")
        assert max(wide) <= 0, "code must be scrolled sideways"


def test_the_search_finds_without_a_server(site, chromium):
    with browser.visit(chromium, (site / "search.html").as_uri() + "?q=transport") as seen:
        expect(seen.page.locator("ul.search li").first).to_be_visible()
        assert not seen.foreign and not seen.errors


def test_the_explorer_is_reached_from_the_front_page(site, chromium):
    with browser.visit(chromium, (site / "index.html").as_uri()) as seen:
        seen.page.get_by_role("link", name="the explorer").click()
        expect(seen.page.get_by_role("heading", level=1)).to_contain_text("Explorer")
        assert (site / "explorer.html").read_bytes() == (
            ROOT / "docs" / "explorer.html"
        ).read_bytes()


def test_the_front_page_names_every_notebook(parsed):
    links = {urlsplit(link).path for link in parsed["index.html"].links}
    assert {f"notebooks/{path.stem}.html" for path in NOTEBOOKS} <= links


def test_the_api_has_every_public_name_and_links_its_papers(site, parsed):
    anchors = set().union(*(page.anchors for name, page in parsed.items() if "api/" in name))
    for name in rtl_utils.__all__:
        if callable(getattr(rtl_utils, name)):
            assert any(re.fullmatch(rf"rtl_utils\.\w+\.{name}", found) for found in anchors), name
    text = (site / "api" / "training.html").read_text()
    assert re.search(r'href="https://arxiv.org/abs/2207.02842">Salman et al. \(2022\)</a>', text)
    assert "Args:" not in text


def test_a_docstring_keeps_its_equation_and_its_signs(site):
    text = (site / "api" / "training.html").read_text()
    code = [re.sub(r"<[^>]+>", "", part) for part in re.findall("<pre>.*?</pre>", text, re.S)]
    assert "flip = mean_i 1[argmax f(x_i) != argmax f(x_i + ball)]\n" in code
