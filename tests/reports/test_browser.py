"""Reports in a real browser: no requests, no errors, a sound layout; wide and narrow, light and dark.

Needs the package ``playwright`` and a Chromium: from ``playwright install chromium``, or of the system (Debian:
``apt-get install chromium-headless-shell``).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import SIZES, opened
from inference.test_writer import frames_video, predict
from maskvos.reports.comparison import compare, read_runs
from maskvos.reports.examples import Example
from maskvos.reports.report import about_run, write_report
from reports.test_report import scores


def picture(video: str, frame: str) -> Example:
    """A disk on a green field, and a prediction of it shifted to the right."""
    rows, columns = np.mgrid[:240, :426]
    truth = (rows - 120) ** 2 + (columns - 180) ** 2 < 70**2
    image = np.full((240, 426, 3), (70, 110, 60), np.uint8)
    image[truth] = (200, 190, 170)
    return Example(image, truth, np.roll(truth, 5 * int(frame), axis=1))


LONG = "a-sequence-whose-name-says-where-it-is-from-youtube-objects-aeroplane-0001-shot-002"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of a report and of a comparison."""
    root = tmp_path_factory.mktemp("pages")
    found = {}
    for index, name in enumerate(
        ("swin_t", "efficientnetv2_s", "a-very-long-name-of-an-experiment-that-somebody-chose")
    ):
        videos = {f"{animal}-{index}": 40 for animal in ("bear", "cow", LONG) for index in range(5)}
        about = about_run(
            "test", {"name": name, "optim": {"lr": 0.1 * index}}, [], 600, 20.0 + index, "best.ckpt", "cpu"
        )
        found[name] = write_report(dataclasses.replace(scores(videos, seed=index), run=about), root / name, picture)
    return {
        "report": found["swin_t"],
        "comparison": compare(read_runs([path.parent for path in found.values()]), root / "out"),
    }


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_no_text_is_clipped_and_tables_that_scroll_say_so(browser: Any, pages: dict[str, Path], name: str) -> None:
    for size in SIZES:
        page, _, _ = opened(browser, pages[name], SIZES[size])
        clipped = page.evaluate(
            """() => [...document.querySelectorAll("main *")]
              .filter(e => e.children.length === 0 && e.textContent.trim() && e.scrollWidth > e.clientWidth + 1)
              .filter(e => getComputedStyle(e).overflowX !== "visible").map(e => e.textContent)"""
        )
        assert not clipped
        boxes = page.evaluate(
            """() => [...document.querySelectorAll(".scroll")].map(e => [e.scrollWidth > e.clientWidth + 1,
              getComputedStyle(e.previousElementSibling).display !== "none", e.tabIndex])"""
        )
        assert boxes
        assert all(said == scrolls and (index == 0) == scrolls for scrolls, said, index in boxes)
        assert any(scrolls for scrolls, _, _ in boxes) is (size == "phone")
        page.close()


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_has_a_sound_layout_and_requests_nothing(
    browser: Any, pages: dict[str, Path], tmp_path: Path, name: str, size: str, scheme: str
) -> None:
    page, requests, errors = opened(browser, pages[name], SIZES[size], scheme)
    assert not requests
    assert not errors
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], "the page scrolls sideways"
    seen = "main img, main svg[role=img], main .plot svg, main table, main .card, main h1, main .fill"
    boxes = page.eval_on_selector_all(
        seen, "all => all.map(e => [e.tagName, e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
    )
    assert len(boxes) > 5
    assert all(width > 2 and height > 2 for _, width, height in boxes), boxes
    assert page.eval_on_selector_all("img", "all => all.every(e => e.complete && e.naturalWidth > 0)")
    small = page.evaluate(
        """() => {
          const scale = e => { const m = e.getScreenCTM?.(); return m ? Math.hypot(m.a, m.b) : 1; };
          return [...document.querySelectorAll("main *")]
            .filter(e => e.children.length === 0 && e.textContent.trim())
            .filter(e => parseFloat(getComputedStyle(e).fontSize) * scale(e) < 8).map(e => e.textContent);
        }"""
    )
    assert not small, "text too small to read"
    assert contrast(page) >= 4.5
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.close()


def contrast(page: Any) -> float:
    """Lowest contrast ratio between text and background (WCAG 2), over a selection of elements."""
    colours = page.evaluate(
        """() => {
          const ground = e => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor; if (!c.includes("0, 0, 0, 0")) return c; } };
          return ["h1", ".muted", ".note", "th", "td", ".best", ".more", ".value", "figcaption", "dt", "dd", "output"]
            .flatMap(s => [...document.querySelectorAll(s)].slice(0, 3))
            .map(e => [getComputedStyle(e).color, ground(e)]);
        }"""
    )

    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    pairs = [sorted(map(luminance, pair)) for pair in colours]
    return min((high + 0.05) / (low + 0.05) for low, high in pairs)


def test_headings_sort_and_curves_show_values_under_the_pointer(browser: Any, pages: dict[str, Path]) -> None:
    page, _, errors = opened(browser, pages["report"], SIZES["desktop"])

    def column(place: int) -> list[str]:
        return page.eval_on_selector_all(f"tbody tr td:nth-child({place})", "all => all.map(e => e.textContent.trim())")

    first = column(2)
    assert first == sorted(first, reverse=True)
    page.click("th:nth-child(3) button")
    assert column(3) == sorted(column(3), reverse=True)
    page.keyboard.press("Enter")  # the button has focus: works with the keyboard too
    assert column(3) == sorted(column(3))
    assert page.get_attribute("th:nth-child(3)", "aria-sort") == "ascending"
    usual = page.text_content(".curve output")
    page.hover(".curve svg", position={"x": 60, "y": 20})
    shown = page.text_content(".curve output")
    assert shown != usual
    assert shown.startswith("no. ")
    page.mouse.move(0, 0)
    assert page.text_content(".curve output") == usual
    assert not errors
    page.close()


def test_movies_play_in_the_browser(browser: Any, tmp_path: Path) -> None:
    predict(tmp_path / "out", [frames_video(tmp_path, "a", 8)], kinds=["overlay", "side_by_side"])
    for name, width in (("overlay.mp4", 52), ("side_by_side.mp4", 3 * 52 + 8)):
        place = tmp_path / "out" / "a" / "player.html"
        place.write_text(f'<video src="{name}" muted autoplay></video>')
        page = browser.new_page()
        page.goto(place.as_uri())
        page.wait_for_function(
            "document.querySelector('video').ended || document.querySelector('video').error", timeout=20_000
        )
        state = page.evaluate(
            "(v => [v.error && v.error.message, v.videoWidth, v.currentTime])(document.querySelector('video'))"
        )
        assert state[0] is None, state
        assert state[1] == width
        assert state[2] == pytest.approx(8 / 24, abs=0.1)
        page.close()
