"""Overlays, error maps, cutouts, labels and contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.media.draw import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    TRUTH,
    contact_sheet,
    draw_cutout,
    draw_errors,
    draw_label,
    draw_overlay,
    side_by_side,
)


def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    return image, mask


def test_the_overlay_tints_only_the_object() -> None:
    image, mask = scene()
    before = image.copy()
    drawn = draw_overlay(image, mask, colour=(255, 0, 0), opacity=0.5, outline=0)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    expected = 0.5 * image[mask] + 0.5 * np.array([255, 0, 0])
    assert np.abs(drawn[mask] - expected).max() <= 0.51


def test_the_outline_follows_the_mask_border() -> None:
    image, mask = scene()
    drawn = draw_overlay(image, mask, colour=(1, 2, 3), opacity=0, outline=1)
    # The line is anti-aliased and so blends with the image.
    assert np.abs(drawn[10, 20:50].astype(int) - (1, 2, 3)).max() < 60
    np.testing.assert_array_equal(drawn[15:25, 25:45], image[15:25, 25:45])
    np.testing.assert_array_equal(drawn[:8], image[:8])


def test_the_outline_colour_can_differ_from_the_tint() -> None:
    image, mask = scene()
    drawn = draw_overlay(image, mask, colour=(255, 0, 0), opacity=1.0, outline=3, outline_colour=(0, 255, 0))
    np.testing.assert_array_equal(drawn[20, 35], (255, 0, 0))
    np.testing.assert_array_equal(drawn[10, 35], (0, 255, 0))


def test_false_positives_and_negatives_are_tinted() -> None:
    image = np.full((300, 300, 3), 120, np.uint8)
    truth, prediction = np.zeros((2, 300, 300), bool)
    truth[50:250, 50:150], prediction[50:250, 100:200] = True, True
    drawn = draw_errors(image, truth, prediction).astype(int)
    for place, colour in (((150, 175), FALSE_POSITIVE), ((150, 75), FALSE_NEGATIVE)):
        assert np.abs(drawn[place] - (0.35 * 120 + 0.65 * np.array(colour))).max() <= 1
    for untouched in ((150, 125), (20, 20), (150, 280)):
        np.testing.assert_array_equal(drawn[untouched], 120)
    assert np.abs(drawn[150, 50] - TRUTH).max() < 60
    # The dark rim makes the line visible on a white background.
    assert draw_errors(image + 135, truth, truth)[150, 45:56].min() < 140


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 4), st.integers(40, 300))
@settings(max_examples=30, deadline=None)
def test_side_by_side_scales_down_only_to_the_maximum_width(high: int, wide: int, count: int, limit: int) -> None:
    images = [np.full((high, wide, 3), 50 * index + 50, np.uint8) for index in range(count)]
    row = side_by_side(images, limit)
    full = count * wide + (count - 1) * 4
    assert row.shape[1] <= limit
    if full <= limit:
        assert row.shape == (high, full, 3)
        for index, image in enumerate(images):
            np.testing.assert_array_equal(row[:, index * (wide + 4) :][:, :wide], image)


@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_masks(fill: bool) -> None:
    image, _ = scene()
    drawn = draw_overlay(image, np.full((40, 60), fill), opacity=1.0, colour=(9, 8, 7), outline=0)
    np.testing.assert_array_equal(drawn, np.broadcast_to((9, 8, 7), image.shape) if fill else image)


def test_different_sizes_are_rejected() -> None:
    image, mask = scene()
    with pytest.raises(ValueError, match="mask of"):
        draw_overlay(image, mask[:-1])


def test_the_cutout_contains_only_the_object() -> None:
    image, mask = scene()
    cut = draw_cutout(image, mask * np.uint8(255))
    np.testing.assert_array_equal(cut[mask][:, :3], image[mask])
    np.testing.assert_array_equal(cut[..., 3], mask * np.uint8(255))
    assert not cut[~mask].any()


def test_the_label_covers_a_small_part_of_the_image() -> None:
    image, _ = scene()
    drawn = draw_label(np.full((200, 300, 3), 100, np.uint8), "prediction")
    changed = (drawn != 100).any(axis=-1)
    assert 0.001 < changed.mean() < 0.15
    assert draw_label(image, "x" * 80).shape == image.shape


def test_the_contact_sheet_has_a_column_per_key() -> None:
    image, mask = scene()
    rows = [
        {"frame": image, "flow": image, "prediction": mask, "truth": None},
        {"frame": image, "prediction": mask.astype(np.float32), "truth": mask, "more": image},
    ]
    sheet = contact_sheet(rows)
    assert sheet.shape == (2 * 42 - 2, 5 * 62 - 2, 3)
    assert sheet.dtype == np.uint8
    # The label covers only the upper part of the first tile.
    np.testing.assert_array_equal(sheet[25:40, :60], image[25:])
    np.testing.assert_array_equal(sheet[15 + 42 : 29 + 42, 124 + 25 : 124 + 45], 255)


@given(st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=4), st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_images_of_different_sizes_fit_a_contact_sheet(sizes: list[tuple[int, int]], height: int) -> None:
    rows = [{"a": np.zeros((*size, 3), np.uint8), "b": np.ones(size, bool)} for size in sizes]
    sheet = contact_sheet(rows, height=height)
    assert sheet.shape[0] == len(rows) * (height + 2) - 2


def test_an_empty_contact_sheet_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([{"a": None}])
