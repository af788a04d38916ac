"""Headless Chromium, for tests of pages; ``python tests/browser.py`` says whether it can be had."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1280, 800), "phone": (375, 667)}
MISSING = "no browser: playwright install chromium, or apt-get install chromium"


@contextmanager
def chromium() -> Iterator[Any | None]:
    """The browser of playwright, or else of the system; None where there is none."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if Path(own).is_file() else next(filter(None, map(shutil.which, CHROMIUMS)), None)
        if path is None:
            yield None
            return
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, path: Path, size: tuple[int, int], scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """Open a page; returns it with the URLs that it requested beside files of its own, and its errors."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    return page, [url for url in requests if url != path.as_uri() and not url.startswith("data:")], errors


if __name__ == "__main__":
    with chromium() as found:
        sys.exit(None if found else f"error: {MISSING}")
