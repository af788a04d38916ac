"""Soft edges: opacity and colours of an object that was blended into a picture are found again."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.media.alpha import foreground, soft_alpha

INSIDE, OUTSIDE = np.array([200, 90, 40], np.float32), np.array([30, 80, 160], np.float32)


def blended(size: tuple[int, int] = (480, 640), blur: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """A star with soft edges on another colour, both slightly uneven, (H, W, 3) uint8, and its opacity in [0, 1]."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    down, right = rows - size[0] / 2, columns - size[1] / 2
    reach = min(size) * (0.25 + 0.08 * np.cos(7 * np.arctan2(down, right)))
    opacity = cv2.GaussianBlur((np.hypot(down, right) < reach).astype(np.float32), None, blur)
    noise = np.random.default_rng(0).normal(0, 2, (*size, 3)).astype(np.float32)
    image = opacity[..., None] * INSIDE + (1 - opacity[..., None]) * OUTSIDE + noise
    return image.clip(0, 255).round().astype(np.uint8), opacity


def coarse(opacity: np.ndarray, factor: int = 5) -> np.ndarray:
    """The mask as a network sees it that works at a lower resolution."""
    small = cv2.resize(opacity, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return cv2.resize((small > 0.5).astype(np.float32), opacity.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def test_the_edge_follows_the_picture() -> None:
    image, opacity = blended()
    mask = coarse(opacity)
    alpha = soft_alpha(image, mask)
    assert np.abs(alpha / 255 - opacity).mean() < 0.6 * np.abs(mask - opacity).mean()
    assert np.count_nonzero((alpha > 127) != (opacity > 0.5)) < 0.4 * np.count_nonzero(mask != (opacity > 0.5))


def test_a_wrong_edge_in_a_flat_picture_stays_where_it_is() -> None:
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:120] = True
    alpha = soft_alpha(np.full((120, 160, 3), 90, np.uint8), mask)
    inner = np.s_[40:80, 50:110]
    np.testing.assert_array_equal((alpha > 127)[inner], mask[inner])
    assert np.abs((alpha > 127).astype(int) - mask).sum() < 0.02 * mask.sum()


def test_away_from_the_edge_it_is_the_mask() -> None:
    image, opacity = blended()
    mask = coarse(opacity)
    alpha = soft_alpha(np.random.default_rng(1).integers(0, 256, image.shape, np.uint8), mask)
    radius = 2 * 7 + 3
    square = np.ones((radius, radius), np.uint8)
    sure = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, square) == 0
    np.testing.assert_array_equal(alpha[sure], mask[sure] * 255)


@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_masks(fill: bool) -> None:
    image, _ = blended((60, 80))
    alpha = soft_alpha(image, np.full((60, 80), fill))
    assert (alpha == 255 * fill).all()
    np.testing.assert_array_equal(foreground(image, alpha), image)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_size_and_mask(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    image, mask = random.integers(0, 256, (height, width, 3), np.uint8), random.random((height, width)) < 0.3
    alpha = soft_alpha(image, mask)
    colours = foreground(image, alpha)
    assert (alpha.shape, alpha.dtype) == (mask.shape, np.uint8)
    assert (colours.shape, colours.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(colours[alpha == 255], image[alpha == 255])


def test_an_object_that_moves_keeps_its_edge() -> None:
    image, opacity = blended((480, 856))
    mask = coarse(opacity)
    alpha = soft_alpha(image, mask)
    moved = soft_alpha(np.roll(image, 8, axis=1), np.roll(mask, 8, axis=1))  # by whole pixels of the lower resolution
    assert np.abs(np.roll(alpha, 8, axis=1).astype(int) - moved).max() <= 1


def test_the_background_does_not_shine_through() -> None:
    image, opacity = blended(blur=3)
    colours = foreground(image, (opacity * 255).round().astype(np.uint8))
    partial = (opacity > 0.1) & (opacity < 0.9)
    assert np.abs(colours[partial] - INSIDE).mean() < 0.25 * np.abs(image[partial] - INSIDE).mean()
    # Beyond the edge, where codecs mix pixels, there are colours of the object as well.
    beyond = (opacity < 0.002) & (cv2.dilate(opacity, np.ones((5, 5))) > 0.02)
    assert np.abs(colours[beyond] - INSIDE).mean() < 15
    far = cv2.dilate(opacity, np.ones((25, 25))) < 0.001
    np.testing.assert_array_equal(colours[far], image[far])


def test_different_sizes_are_rejected() -> None:
    image, opacity = blended()
    with pytest.raises(ValueError, match="mask of"):
        soft_alpha(image[:-1], opacity > 0.5)
