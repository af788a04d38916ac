"""Gaps in time: what vanishes for a few frames is filled, where it moved to, and nothing else is."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maskvos
from brightness import Brightness
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.temporal import GAP, fill_gaps
from maskvos.media.images import write_image

SIZE, STEP = (40, 120), 4  # pixels; the object moves STEP to the right per frame
FLOW = np.broadcast_to(np.array([STEP / 2, 0], np.float32), (20, 60, 2))  # at half the resolution
SURE, POSSIBLE, IMPOSSIBLE = 5.0, -1.0, -4.0  # logits


def frames(missing: dict[int, float], count: int = 14) -> Generator[SegmentedFrame, None, None]:
    """A square that moves; its upper half has other logits in some frames."""
    for index in range(count):
        logits = np.full(SIZE, -9, np.float32)
        left = 10 + STEP * index
        logits[10:30, left : left + 20] = SURE
        logits[10:20, left : left + 20] = missing.get(index, SURE)
        yield SegmentedFrame(np.zeros((*SIZE, 3), np.uint8), logits, logits > 0, index, index / 25, str(index), FLOW)


@pytest.mark.parametrize("velocity", [1, -1])
def test_a_part_that_vanishes_for_three_frames_is_filled(velocity: int) -> None:
    missing = dict.fromkeys((5, 6, 7), POSSIBLE)
    whole = [frame.mask for frame in frames({})]
    source = (
        SegmentedFrame(f.image, f.logits, f.mask, f.index, f.time, f.name, velocity * f.flow) for f in frames(missing)
    )
    for frame, mask in zip(fill_gaps(source, 3, velocity, 0.0), whole, strict=True):
        np.testing.assert_array_equal(frame.mask, mask)
        np.testing.assert_array_equal(frame.mask, frame.logits > 0)


@pytest.mark.parametrize(
    ("missing", "longest"),
    [
        (dict.fromkeys((5, 6, 7), POSSIBLE), 2),  # too long
        (dict.fromkeys((5, 6), IMPOSSIBLE), 3),  # the network is sure
        (dict.fromkeys((0, 1), POSSIBLE), 3),  # not there before
        (dict.fromkeys((12, 13), POSSIBLE), 3),  # not there after
        ({}, 4),  # nothing is missing: motion leaves no trail
    ],
)
def test_what_is_no_gap_stays(missing: dict[int, float], longest: int) -> None:
    for frame, before in zip(fill_gaps(frames(missing), longest, 1, 0.0), frames(missing), strict=True):
        np.testing.assert_array_equal(frame.mask, before.mask)
        np.testing.assert_array_equal(frame.logits, before.logits)


@given(st.integers(0, 12), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_no_frame_is_lost_and_each_comes_so_much_later(count: int, longest: int) -> None:
    taken = []

    def counted() -> Generator[SegmentedFrame, None, None]:
        for frame in frames({3: POSSIBLE}, count):
            taken.append(frame.index)
            yield frame

    found = []
    for frame in fill_gaps(counted(), longest, 1, 0.0):
        assert taken[-1] == min(frame.index + longest, count - 1)
        found.append(frame.index)
    assert found == list(range(count))


def segmenter(longest: int | None, refine: bool = False) -> Segmenter:
    return Segmenter(Brightness(), (32, 48), FlowStore(DIS()), fill_gaps=longest, refine=refine)


def clip_with_a_gap() -> np.ndarray:
    clip = np.zeros((7, 64, 96, 3), np.uint8)
    clip[:, 16:48, 24:72] = 200
    clip[3, 16:48, 48:72] = 115  # a logit of -1
    return clip


def test_the_segmenter_fills_gaps_of_videos_and_of_arrays() -> None:
    clip = clip_with_a_gap()
    plain, filled = (np.stack([f.mask for f in segmenter(longest).stream(iter(clip))]) for longest in (0, 1))
    assert not plain[3, 20:44, 52:68].any()
    assert filled[3, 20:44, 52:68].all()
    others = np.arange(7) != 3
    assert (plain[others] != filled[others]).mean() < 0.001  # flow is not exact where the object pales
    assert segmenter(1).settings != segmenter(0).settings
    with pytest.raises(UserError, match="fill_gaps=11"):
        segmenter(11)


def test_filled_masks_follow_the_picture_as_the_others_do() -> None:
    filled, refined = (list(segmenter(1, refine).stream(iter(clip_with_a_gap()))) for refine in (False, True))
    for seen, frame in zip(filled, refined, strict=True):
        np.testing.assert_array_equal(frame.mask, seen.refined().mask)
    assert (filled[3].mask != refined[3].mask).any()


def test_by_default_videos_are_filled_and_arrays_come_without_delay(tmp_path: Path) -> None:
    clip = clip_with_a_gap()
    for index, image in enumerate(clip):
        write_image(tmp_path / "clip" / f"{index:05d}.png", image)
    for source, longest in ((tmp_path / "clip", GAP), (list(clip), 0)):
        expected = [frame.mask for frame in segmenter(longest).stream(source)]
        np.testing.assert_array_equal([frame.mask for frame in segmenter(None).stream(source)], expected)
    np.testing.assert_array_equal(segmenter(None)(clip), segmenter(GAP)(clip))
    assert segmenter(None).settings == segmenter(GAP).settings
    assert maskvos.load(device="cpu").fill_gaps is None
    taken = []
    for frame in segmenter(None).stream(taken.append(index) or image for index, image in enumerate(clip)):
        assert taken[-1] == min(frame.index + 1, len(clip) - 1)  # forward flow takes the next frame
