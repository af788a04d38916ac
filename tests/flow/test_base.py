"""Choice of frame pairs, streaming, and estimators on frames of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.conftest import Difference, numbered_frame
from maskvos.errors import UserError
from maskvos.flow.base import FlowEstimator, check_direction, pair_flow, partner, stream_flow

directions = st.sampled_from(("forward", "backward"))


def test_partner_of_each_frame() -> None:
    assert [partner(i, 4) for i in range(4)] == [(1, 1), (2, 1), (3, 1), (2, -1)]
    assert [partner(i, 4, "backward") for i in range(4)] == [(1, -1), (0, 1), (1, 1), (2, 1)]
    assert [partner(i, 5, gap=2) for i in range(5)] == [(2, 1), (3, 1), (4, 1), (1, -1), (2, -1)]
    assert partner(0, 1) == (0, 1)


@given(count=st.integers(2, 12), gap=st.integers(1, 15), direction=directions, data=st.data())
def test_partner_is_at_the_gap_or_as_far_away_as_possible(
    count: int, gap: int, direction: str, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, count - 1))
    other, sign = partner(index, count, direction, gap)
    assert 0 <= other < count
    assert other != index
    distance = abs(other - index)
    assert distance == gap if max(index, count - 1 - index) >= gap else distance == max(index, count - 1 - index)
    assert sign == (1 if (other > index) == (direction == "forward") else -1)


@given(count=st.integers(1, 12), gap=st.integers(1, 15), data=st.data())
def test_backward_equals_forward_on_the_reversed_video(count: int, gap: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    other, sign = partner(index, count, "backward", gap)
    assert (count - 1 - other, sign) == partner(count - 1 - index, count, "forward", gap)


@given(count=st.integers(0, 14), gap=st.integers(1, 9), direction=directions)
def test_stream_uses_the_pairs_of_partner(count: int, gap: int, direction: str) -> None:
    frames = [numbered_frame(i) for i in range(count)]
    streamed = list(stream_flow(iter(frames), Difference(), direction, gap))
    assert len(streamed) == count
    for index, (frame, flow_of) in enumerate(streamed):
        assert frame is frames[index]
        flow = flow_of()
        assert flow.shape == (*frame.shape[:2], 2)
        assert flow.dtype == np.float32
        other, sign = partner(index, count, direction, gap)
        expected = (10 * (other - index) * sign, (100 + other) * sign) if other != index else (0, 0)
        assert (flow == np.array(expected, np.float32)).all()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_stream_reads_ahead_no_more_than_the_gap(direction: str) -> None:
    read: list[int] = []

    def frames() -> object:
        for i in range(20):
            read.append(i)
            yield numbered_frame(i)

    for index, _ in enumerate(stream_flow(frames(), Difference(), direction, gap=2)):
        assert read[-1] <= min(19, index + 2)


def test_stream_buffers_few_frames() -> None:
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            if self.base is None or not isinstance(self.base, Counted):
                alive[0] -= 1

    alive.append(0)

    def frames() -> object:
        for i in range(60):
            alive[0] += 1
            yield numbered_frame(i).view(Counted)

    most = 0
    for _ in stream_flow(frames(), Difference(), gap=3):
        most = max(most, alive[0])
    assert most <= 3 * 3 + 3


def test_settings_are_validated() -> None:
    with pytest.raises(UserError, match="did you mean 'backward'"):
        check_direction("backwards", 1)
    for gap in (0, -1, 1.5, True, "2"):
        with pytest.raises(UserError, match="gap"):
            check_direction("forward", gap)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="max_size=0"):
        Difference(max_size=0)


@pytest.mark.parametrize(
    "frame", [np.zeros((8, 8, 3), np.float32), np.zeros((3, 8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_estimators_reject_invalid_inputs(frame: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"flow: expected frames \(H, W, 3\) uint8"):
        Difference()([frame], [frame])
    with pytest.raises(UserError, match=r"flow: expected frames \(H, W, 3\) uint8"):
        list(stream_flow([frame], Difference()))


def test_frames_of_different_size_are_rejected() -> None:
    with pytest.raises(UserError, match="8x6 and 9x6 pixels in one video"):
        pair_flow(numbered_frame(0), numbered_frame(1, width=9), Difference())
    with pytest.raises(UserError, match="8x6 and 9x6 pixels in one video"):
        list(stream_flow([numbered_frame(0), numbered_frame(1, width=9)], Difference()))


class Ramp(FlowEstimator):
    """Flow of a zoom by two about the corner, at any size: u grows from 0 to the width."""

    min_size = 16

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        return {"name": "ramp"}

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        self.seen = tuple(first.shape[1:3])
        y, x = np.meshgrid(*(np.arange(side, dtype=np.float32) + 0.5 for side in self.seen), indexing="ij")
        return np.stack([x, y], -1)[None].repeat(len(first), 0)


@pytest.mark.parametrize(
    ("size", "max_size", "working"),
    [
        ((120, 200), None, (120, 200)),
        ((120, 200), 100, (60, 100)),
        ((201, 99), 64, (64, 32)),
        ((9, 40), None, (16, 40)),
        ((1, 1), None, (16, 16)),
        ((10, 2000), 100, (16, 100)),
    ],
)
def test_flow_is_rescaled_from_the_working_size(
    size: tuple[int, int], max_size: int | None, working: tuple[int, int]
) -> None:
    estimator = Ramp(max_size)
    frame = np.zeros((*size, 3), np.uint8)
    flow = pair_flow(frame, frame, estimator)
    assert estimator.seen == working
    assert estimator([frame], [frame]).shape == (1, *working, 2)
    assert flow.shape == (*size, 2)
    for axis, side in ((0, size[1]), (1, size[0])):
        line = flow[..., axis].mean(axis)
        margin = max(1, side // 10)  # interpolation is less accurate at the border
        expected = np.arange(side) + 0.5
        np.testing.assert_allclose(line[margin:-margin], expected[margin:-margin], rtol=0.02, atol=0.5)
