"""Drawing: what is marked is the object, what is not stays as it was."""

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


def test_an_overlay_tints_the_object_only() -> None:
    image, mask = scene()
    before = image.copy()
    drawn = draw_overlay(image, mask, colour=(255, 0, 0), opacity=0.5, outline=0)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    expected = 0.5 * image[mask] + 0.5 * np.array([255, 0, 0])
    assert np.abs(drawn[mask] - expected).max() <= 0.51


def test_the_outline_runs_along_the_border() -> None:
    image, mask = scene()
    drawn = draw_overlay(image, mask, colour=(1, 2, 3), opacity=0, outline=1)
    # Drawn smoothly: some of the ground shines through.
    assert np.abs(drawn[10, 20:50].astype(int) - (1, 2, 3)).max() < 60
    np.testing.assert_array_equal(drawn[15:25, 25:45], image[15:25, 25:45])
    np.testing.assert_array_equal(drawn[:8], image[:8])


def test_the_outline_may_have_a_colour_of_its_own() -> None:
    image, mask = scene()
    drawn = draw_overlay(image, mask, colour=(255, 0, 0), opacity=1.0, outline=3, outline_colour=(0, 255, 0))
    np.testing.assert_array_equal(drawn[20, 35], (255, 0, 0))
    np.testing.assert_array_equal(drawn[10, 35], (0, 255, 0))


def test_errors_are_coloured_by_kind_and_the_rest_is_left() -> None:
    image = np.full((300, 300, 3), 120, np.uint8)
    truth, prediction = np.zeros((2, 300, 300), bool)
    truth[50:250, 50:150], prediction[50:250, 100:200] = True, True
    drawn = draw_errors(image, truth, prediction).astype(int)
    for place, colour in (((150, 175), FALSE_POSITIVE), ((150, 75), FALSE_NEGATIVE)):
        assert np.abs(drawn[place] - (0.35 * 120 + 0.65 * np.array(colour))).max() <= 1
    for untouched in ((150, 125), (20, 20), (150, 280)):
        np.testing.assert_array_equal(drawn[untouched], 120)
    assert np.abs(drawn[150, 50] - TRUTH).max() < 60
    # The line's rim is dark, so that it shows on white ground.
    assert draw_errors(image + 135, truth, truth)[150, 45:56].min() < 140


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 4), st.integers(40, 300))
@settings(max_examples=30, deadline=None)
def test_pictures_side_by_side_keep_their_size_unless_too_wide(high: int, wide: int, count: int, widest: int) -> None:
    pictures = [np.full((high, wide, 3), 50 * index + 50, np.uint8) for index in range(count)]
    row = side_by_side(pictures, widest)
    whole = count * wide + (count - 1) * 4
    assert row.shape[1] <= widest
    if whole <= widest:
        assert row.shape == (high, whole, 3)
        for index, picture in enumerate(pictures):
            np.testing.assert_array_equal(row[:, index * (wide + 4) :][:, :wide], picture)


@pytest.mark.parametrize("fill", [False, True])
def test_nothing_and_everything_can_be_marked(fill: bool) -> None:
    image, _ = scene()
    drawn = draw_overlay(image, np.full((40, 60), fill), opacity=1.0, colour=(9, 8, 7), outline=0)
    np.testing.assert_array_equal(drawn, np.broadcast_to((9, 8, 7), image.shape) if fill else image)


def test_sizes_must_agree() -> None:
    image, mask = scene()
    with pytest.raises(ValueError, match="mask of"):
        draw_overlay(image, mask[:-1])


def test_a_cutout_holds_the_object_and_nothing_else() -> None:
    image, mask = scene()
    cut = draw_cutout(image, mask)
    np.testing.assert_array_equal(cut[mask][:, :3], image[mask])
    np.testing.assert_array_equal(cut[..., 3], mask * np.uint8(255))
    assert not cut[~mask].any()


def test_a_label_leaves_most_of_the_picture() -> None:
    image, _ = scene()
    drawn = draw_label(np.full((200, 300, 3), 100, np.uint8), "prediction")
    changed = (drawn != 100).any(axis=-1)
    assert 0.001 < changed.mean() < 0.15
    assert draw_label(image, "x" * 80).shape == image.shape


def test_a_sheet_is_a_grid_of_all_columns() -> None:
    image, mask = scene()
    rows = [
        {"frame": image, "flow": image, "prediction": mask, "truth": None},
        {"frame": image, "prediction": mask.astype(np.float32), "truth": mask, "more": image},
    ]
    sheet = contact_sheet(rows)
    assert sheet.shape == (2 * 42 - 2, 5 * 62 - 2, 3)
    assert sheet.dtype == np.uint8
    # The lower part of the first tile is free of the label.
    np.testing.assert_array_equal(sheet[25:40, :60], image[25:])
    np.testing.assert_array_equal(sheet[15 + 42 : 29 + 42, 124 + 25 : 124 + 45], 255)


@given(st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=4), st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_pictures_of_any_size_fit_a_sheet(sizes: list[tuple[int, int]], height: int) -> None:
    rows = [{"a": np.zeros((*size, 3), np.uint8), "b": np.ones(size, bool)} for size in sizes]
    sheet = contact_sheet(rows, height=height)
    assert sheet.shape[0] == len(rows) * (height + 2) - 2


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([{"a": None}])
