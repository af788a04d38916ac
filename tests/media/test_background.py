"""Backgrounds: colours by name, pictures that cover the frame, blur without the object, a key that fits it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.errors import UserError
from maskvos.media.background import (
    Blur,
    Film,
    Picture,
    Plain,
    cover,
    open_background,
    parse_background,
    parse_colour,
)
from maskvos.media.draw import draw_background
from maskvos.media.images import write_image
from maskvos.media.video import VideoWriter


@pytest.mark.parametrize(
    ("value", "colour"),
    [("green", (0, 255, 0)), ("Blue", (0, 0, 255)), ("magenta", (255, 0, 255)), ("#0a0B0c", (10, 11, 12)),
     ([1, 2, 3], (1, 2, 3)), ("rgb(4, 5, 6)", (4, 5, 6)), ("#ff00ff80", (255, 0, 255))],
)  # fmt: skip
def test_colours(value, colour: tuple[int, int, int]) -> None:
    assert parse_colour(value, "x") == colour


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("maganta", "did you mean 'magenta'"),
        ("#12", "a name or #RRGGBB"),
        ([0, 0, 999], r"x is \[0, 0, 999\]"),
        ([1, 2], "red, green and blue"),
        ("beach.jpg", "file not found"),
        ("bluur", "auto, blur, a picture or a movie; did you mean 'blur'"),
        ("xyzzy", "a picture or a movie$"),
    ],
)
def test_what_is_no_background_is_refused(value, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_background(value, "x")


def test_a_file_is_a_picture_or_a_movie_by_its_content(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "a.png").rename(tmp_path / "picture")
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "text.txt").write_text("no picture")
    assert isinstance(open_background(parse_background(tmp_path / "picture", "x")), Picture)
    assert isinstance(open_background(parse_background(str(tmp_path / "a.mp4"), "x")), Film)
    with pytest.raises(UserError, match="cannot be read"):
        open_background(parse_background(tmp_path / "text.txt", "x"))


@given(*[st.integers(1, 60)] * 4)
@settings(max_examples=60, deadline=None)
def test_covering_fills_the_frame_and_keeps_proportions(high: int, wide: int, height: int, width: int) -> None:
    ramp = np.zeros((high, wide, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, high)[:, None]
    ramp[..., 1] = np.linspace(0, 255, wide)[None]
    covering = cover(ramp, (height, width))
    assert covering.shape == (height, width, 3)
    # The middle stays in the middle.
    middle = covering.astype(float).mean(axis=(0, 1))
    assert abs(middle[0] - ramp[..., 0].mean()) <= 255 / high + 2
    assert abs(middle[1] - ramp[..., 1].mean()) <= 255 / wide + 2


def test_nothing_of_the_object_is_in_the_blur() -> None:
    image, alpha = np.full((120, 160, 3), (20, 60, 20), np.uint8), np.zeros((120, 160), np.uint8)
    cv2.circle(image, (80, 60), 30, (250, 30, 30), -1)
    cv2.circle(alpha, (80, 60), 32, 255, -1)
    image[:, :40] = (60, 60, 200)
    blurred = Blur().at(image, alpha, 0.0)
    assert blurred.shape == image.shape
    assert blurred[alpha < 255, 0].max() <= 65  # no red
    assert 60 < blurred[60, 40, 2] < 180  # and the border at x = 40 is blurred


def test_auto_chooses_a_key_that_the_object_does_not_have() -> None:
    random = np.random.default_rng(0)
    alpha = np.zeros((100, 100), np.uint8)
    alpha[20:80, 20:80] = 255
    for colour, bad in (((30, 220, 40), (0, 255, 0)), ((40, 40, 230), (0, 0, 255)), ((240, 20, 230), (255, 0, 255))):
        image = random.integers(0, 30, (100, 100, 3)).astype(np.uint8)
        image[alpha > 0] = colour
        fixed, chosen = Plain(bad), Plain(None)
        np.testing.assert_array_equal(fixed.at(image, alpha, 0.0)[0, 0], bad)
        background = chosen.at(image, alpha, 0.0)
        assert fixed.similar > 0.9
        assert chosen.similar == 0
        np.testing.assert_array_equal(chosen.at(255 - image, alpha, 1.0), background)  # it stays


def test_partial_opacity_mixes(tmp_path: Path) -> None:
    image, background = np.full((4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 100, np.uint8)
    alpha = np.array([[0, 51, 128, 255]] * 4, np.uint8)
    drawn = draw_background(image, alpha, background)
    np.testing.assert_allclose(drawn[0, :, 0], [100, 120, 150, 200], atol=1)
