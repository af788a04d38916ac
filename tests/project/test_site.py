"""The built site: links lead somewhere, every public name has an entry, pages are sound in a browser."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import maskvos
from browser import SIZES, opened
from pages import ROOT, blocks, code_blocks

SITE = ROOT / "site" / "html"
REFERENCE = (ROOT / "docs" / "reference.rst").read_text()
PAGES = ("index", "docs/architecture", "docs/reference", "docs/performance", "docs/training", "notebooks/quickstart")


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the site; skips if it has not been built."""
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: make docs")
    return SITE


class Anchors(HTMLParser):
    """Collects the links and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        self.links += [link for name in ("href", "src") if (link := given.get(name))]


@cache
def anchors(path: Path) -> Anchors:
    found = Anchors()
    found.feed(path.read_text())
    return found


def test_internal_links_lead_somewhere(site: Path) -> None:
    broken = []
    for page in site.rglob("*.html"):
        for link in anchors(page).links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            if not target.exists() or (
                url.fragment and target.suffix == ".html" and unquote(url.fragment) not in anchors(target).ids
            ):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def defined(name: str) -> str:
    """The dotted name of a class or function where it is defined."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    return f"{found.__module__}.{found.__qualname__}" if hasattr(found, "__qualname__") else name


def test_the_reference_has_the_public_names() -> None:
    listed = set(re.findall(r"^\.\. (?:auto\w+|py:\w+):: ([\w.]+)", REFERENCE, flags=re.MULTILINE))
    assert {f"maskvos.{name}" for name in maskvos.__all__} <= listed
    # What the guides name or import.
    for page in ("api", "extending"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        named = set(re.findall(r"`(maskvos\.[\w.]+\.[A-Z]\w+)`", text))
        for block in blocks(text, "python"):
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maskvos"):
                    named |= {f"{node.module}.{alias.name}" for alias in node.names}
        assert {name for name in named if not {name, defined(name)} & listed} == set(), page


def test_every_public_name_has_an_example_that_runs() -> None:
    guides = [(ROOT / "docs" / f"{page}.md").read_text() for page in ("api", "evaluation", "extending")]
    examples = code_blocks(REFERENCE) + [block.text for text in guides for block in blocks(text, "python")]
    listed = re.findall(
        r"^\.\. (?:auto|py:)(?:function|class|exception|data):: ([\w.]+)", REFERENCE, flags=re.MULTILINE
    )
    assert len(listed) > 40
    assert [name for name in listed if not re.search(rf"\b{name.rpartition('.')[2]}\b", "".join(examples))] == []


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_pages_are_sound(browser: Any, site: Path, size: str, scheme: str) -> None:
    for name in PAGES:
        page, requests, errors = opened(browser, site / f"{name}.html", SIZES[size], scheme)
        assert not errors, name
        assert not [url for url in requests if not url.startswith("file:")], f"{name}: the site is self-contained"
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], f"{name} scrolls sideways"
        assert page.eval_on_selector_all("main img", "all => all.every(e => e.complete && e.naturalWidth > 0)"), name
        assert not page.locator(".system-message, .error").count(), f"{name}: the theme or Sphinx complains"
        page.close()
