"""Transparent movies in a real browser: the object over a checkerboard, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

import fakes
from brightness import predict

SIZE = (240, 400)
SQUARE = 20
PAGE = f"""<style>body {{ margin: 0; background: repeating-conic-gradient(#444 0 25%, #bbb 0 50%) 0 0 / {2 * SQUARE}px
{2 * SQUARE}px }} video {{ display: block }}</style><video src="cutout.webm" muted></video>"""
SEEK = """async time => {
  const video = document.querySelector("video");
  video.currentTime = time;
  await new Promise(done => video.addEventListener("seeked", done, { once: true }));
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


def test_a_webm_is_transparent_in_the_browser(browser: Any, tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", 6, SIZE, ".png")
    predict(tmp_path / "a", tmp_path / "out", kinds=["cutout", "webm"], frame_rate=25)
    out = tmp_path / "out" / "a"
    (out / "page.html").write_text(PAGE)
    page = browser.new_page(viewport={"width": SIZE[1], "height": SIZE[0]})
    page.goto((out / "page.html").as_uri())
    page.wait_for_function("document.querySelector('video').readyState >= 2")
    page.evaluate(SEEK, 4.5 / 25)
    picture = page.screenshot(path=tmp_path / "page.png")
    page.close()
    shown = np.array(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    alpha = cv2.imread(str(out / "cutout" / "00004.png"), cv2.IMREAD_UNCHANGED)[..., 3]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] // SQUARE
    checks = np.where((rows + columns) % 2, 0x44, 0xBB)
    apart = cv2.morphologyEx(checks.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) == 0
    outside = (cv2.dilate(alpha, np.ones((15, 15))) == 0) & apart
    assert np.abs(shown[outside] - checks[outside, None]).max() <= 3
    inside = cv2.erode(alpha, np.ones((5, 5))) == 255
    assert inside.any()
    assert np.abs(shown[inside] - fakes.frame(4, SIZE)[inside]).mean() < 8
