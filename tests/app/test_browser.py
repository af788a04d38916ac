"""The page in a real browser: by mouse and keyboard, wide and narrow, light and dark, with two users at once."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import fakes
import maskvos
from app.conftest import Serve
from app.test_server import movie
from brightness import Brightness, segmenter
from browser import SIZES
from maskvos.media.images import read_image
from maskvos.media.video import VideoWriter
from reports.test_browser import contrast

SIZE = (240, 400)


def opened(browser: Any, port: int, size: str = "desktop", scheme: str = "light") -> tuple[Any, list[str]]:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_function("() => document.querySelector('#limit').textContent.includes('up to')")
    return page, errors


def wait_for_result(page: Any) -> None:
    page.wait_for_selector("#controls:not([hidden])", timeout=60_000)
    page.wait_for_function(
        "() => document.querySelector('#after').readyState >= 2 || !document.querySelector('#still').hidden"
    )


def check_layout(page: Any, size: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], "the page scrolls sideways"
    small = page.eval_on_selector_all(
        "button:not(:disabled), select, a", "all => all.filter(e => e.offsetHeight && e.offsetHeight < 32).length"
    )
    assert not small, "too small to touch"
    assert contrast(page) >= 4.5


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_a_clip_is_segmented_compared_and_downloaded(
    browser: Any, serve: Serve, tmp_path: Path, size: str, scheme: str
) -> None:
    page, errors = opened(browser, serve(), size, scheme)
    check_layout(page, size)
    page.select_option("#kind", "webm")
    page.set_input_files("#file", movie(tmp_path / "my clip.mp4", 20, SIZE))
    wait_for_result(page)
    assert page.locator("#stage.both #before").is_visible()
    assert page.evaluate("[before.videoWidth, after.videoWidth]") == [SIZE[1]] * 2
    page.focus("#compare")
    page.keyboard.press("End")
    assert page.evaluate("getComputedStyle(before).clipPath") == "inset(0px 0% 0px 0px)"
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(before).clipPath") == "inset(0px 100% 0px 0px)"
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    assert page.get_attribute("#compare", "aria-valuetext") == "40% clip, 60% result"
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "my clip_cutout.webm"
    with av.open(str(download.value.path())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    check_layout(page, size)
    assert not errors
    page.close()


def test_all_is_reached_by_keyboard(browser: Any, serve: Serve, tmp_path: Path) -> None:
    page, errors = opened(browser, serve())
    page.set_input_files("#file", movie(tmp_path / "a.mp4", 5, SIZE))
    wait_for_result(page)
    page.focus("#file")
    reached = ["file"]
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:7] == ["file", "kind", "threshold", "apply", "play", "compare", "download"]
    first = page.get_attribute("#download", "href")
    page.focus("#threshold")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#level") == "0.55"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # apply
    page.wait_for_function("href => document.querySelector('#download').getAttribute('href') !== href", arg=first)
    page.focus("#play")
    page.keyboard.press("Space")
    assert page.text_content("#play") == "Pause"
    page.wait_for_function("() => after.currentTime > 0")
    assert not errors
    page.close()


def test_another_background_is_chosen(browser: Any, serve: Serve, tmp_path: Path) -> None:
    page, errors = opened(browser, serve())
    fakes.write_frame(tmp_path / "beach.png", 3)
    page.select_option("#kind", "background")
    page.select_option("#background", "file")
    page.set_input_files("#file", movie(tmp_path / "a.mp4", 3, SIZE))
    page.wait_for_selector("#problem:not([hidden])")
    assert "Choose a picture" in page.text_content("#problem")
    page.set_input_files("#picture", tmp_path / "beach.png")
    page.click("#apply")
    wait_for_result(page)
    first = page.get_attribute("#download", "href")
    page.select_option("#background", "color")
    page.fill("#color", "#2040c0")
    page.click("#apply")
    page.wait_for_function("href => document.querySelector('#download').getAttribute('href') !== href", arg=first)
    assert page.is_hidden("#problem")
    assert not errors
    page.close()


DROP = """([name, data]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
  document.querySelector("main").dispatchEvent(
    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def test_a_clip_is_dropped(browser: Any, serve: Serve, tmp_path: Path) -> None:
    page, errors = opened(browser, serve())
    page.evaluate(DROP, ["a.mp4", base64.b64encode(movie(tmp_path / "a.mp4", 3).read_bytes()).decode()])
    wait_for_result(page)
    assert page.text_content("#chosen") == "a.mp4"
    assert not errors
    page.close()


@pytest.mark.parametrize("kind", ["prores", "gif"])
def test_results_that_are_no_video_for_the_browser(browser: Any, serve: Serve, tmp_path: Path, kind: str) -> None:
    page, _ = opened(browser, serve())
    page.select_option("#kind", kind)
    page.set_input_files("#file", movie(tmp_path / "a.mp4", 3, SIZE))
    page.wait_for_selector("#controls:not([hidden])", timeout=60_000)
    if kind == "gif":
        page.wait_for_function("() => still.complete && still.naturalWidth == 400")
        assert page.is_hidden("#compare-label")
    else:
        page.wait_for_function("() => document.querySelector('#note').textContent.includes('cannot show the result')")
        assert page.is_hidden("#after")
    assert page.is_visible("#download")
    page.close()


def test_a_wrong_and_a_large_file_are_refused_in_words(browser: Any, serve: Serve, tmp_path: Path) -> None:
    page, _ = opened(browser, serve(limit=50_000))
    (tmp_path / "notes.mp4").write_text("no movie")
    page.set_input_files("#file", tmp_path / "notes.mp4")
    page.wait_for_selector("#problem:not([hidden])")
    assert "not a movie that can be decoded" in page.text_content("#problem")
    (tmp_path / "large.mp4").write_bytes(bytes(50_001))
    page.set_input_files("#file", tmp_path / "large.mp4")
    page.wait_for_function("() => document.querySelector('#problem').textContent.includes('large.mp4 has')")
    assert page.is_hidden("#progress")
    page.set_input_files("#file", movie(tmp_path / "a.mp4", 2))  # and then a good one
    wait_for_result(page)
    assert page.is_hidden("#problem")
    page.close()


def test_the_second_user_waits_and_may_leave(browser: Any, serve: Serve, tmp_path: Path) -> None:
    go = threading.Event()

    class Slow(Brightness):
        def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
            assert go.wait(60)
            return super().__call__(rgb, flow, motion)

    model = segmenter()
    model.engine = Slow()
    port = serve(model)
    clip = movie(tmp_path / "a.mp4", 4)
    pages = [opened(browser, port)[0] for _ in range(3)]
    for number, page in enumerate(pages):
        page.set_input_files("#file", clip)
        words = ["Starting", "Waiting: 1 clip comes first", "Waiting: 2 clips come first"][number]
        page.wait_for_function("text => document.querySelector('#status').textContent === text", arg=words)
    pages[1].click("#cancel")
    pages[2].wait_for_function("() => document.querySelector('#status').textContent.startsWith('Waiting')")
    go.set()
    for page in (pages[0], pages[2]):
        wait_for_result(page)
    assert pages[1].is_hidden("#progress")
    for page in pages:
        page.close()


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_clip_is_shown_as_it_is_segmented(browser: Any, serve: Serve, shared: Path, tmp_path: Path) -> None:
    images = sorted((shared / "data" / "DAVIS" / "JPEGImages" / "480p" / "dog").glob("*.jpg"))
    if not images:
        pytest.skip(f"no DAVIS under {shared / 'data'}")
    with VideoWriter(tmp_path / "dog.mp4", 24) as writer:
        for image in images:
            writer.write(read_image(image))
    page, errors = opened(browser, serve(maskvos.load(device="cpu")))
    page.set_input_files("#file", tmp_path / "dog.mp4")
    page.wait_for_function("() => still.complete && still.naturalWidth == 640 && !still.hidden", timeout=60_000)
    page.screenshot(path=tmp_path / "progress.png", full_page=True)
    assert f"of {len(images)}" in page.text_content("#status")
    wait_for_result(page)
    assert page.evaluate("[before.videoWidth, after.videoWidth]") == [854, 854]
    page.screenshot(path=tmp_path / "result.png", full_page=True)
    assert not errors
    page.close()
