"""The segmenter: frames in, foreground masks out, from a movie, a folder, an array or a camera."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maskvos.data.datasets.folder import folder
from maskvos.data.streams import FRAME_RATE, FrameStream, FrameTimes, StreamFrame, single_video, times_of
from maskvos.environment import cores
from maskvos.errors import UserError
from maskvos.flow.base import resize_flow
from maskvos.flow.store import FlowStore, paired_flow
from maskvos.inference.engines import Engine
from maskvos.inference.postprocess import resize_logits, sigmoid
from maskvos.inference.temporal import GAP, fill_gaps
from maskvos.inference.tta import TTA
from maskvos.media.alpha import HALF, foreground, soft_alpha
from maskvos.media.images import resize_image
from maskvos.media.video import Reading
from maskvos.settings.table import check_settings
from maskvos.types import Video

T = TypeVar("T")
R = TypeVar("R")

_SURE = math.log(0.9 / 0.1)
_REFINED = 4  # frames whose edges are refined at the same time: faster than they are decoded
_BATCH_BYTES = 64 << 20  # of the frames of a batch: 2 in 4K, 10 in 1080p; twice as many are read ahead


@dataclass(frozen=True)
class SegmentedFrame:
    """One frame with its mask.

    Attributes:
        image: (H, W, 3) uint8 RGB, the frame.
        logits: (H, W) float32, the network's output at the frame's size.
        mask: (H, W) bool, the object: the probability thresholded, and with ``refine`` edges that follow the picture.
        index: Number of the frame, from 0.
        time: Seconds after the first frame.
        name: Name of the frame: of its file, or its number with five digits.
        flow: (h, w, 2) float32, the optical flow at the network's input size, pixels, x then y.
        coarse: (h, w) float32, the network's output at its own size.
        probability: (H, W) float32 in [0, 1], the probability that a pixel belongs to the object.
        confidence: 0 to 1, how far the network is sure of the mask.
        alpha: (H, W) uint8, 0 background to 255 object: the mask with a soft edge that follows the picture.
        foreground: (H, W, 3) uint8 RGB, the frame without the background's colours where ``alpha`` is partial.
    """

    image: np.ndarray
    logits: np.ndarray
    mask: np.ndarray
    index: int
    time: float
    name: str
    flow: np.ndarray
    coarse: np.ndarray | None = None

    @cached_property
    def probability(self) -> np.ndarray:
        """See the class; computed when it is first asked for."""
        return sigmoid(self.logits)

    @cached_property
    def alpha(self) -> np.ndarray:
        """See the class, and `maskvos.media.alpha.soft_alpha`."""
        return soft_alpha(self.image, self.mask)

    def refined(self) -> SegmentedFrame:
        """The frame with a mask that follows the edges of the picture: where ``alpha`` is above one half."""
        frame = replace(self, mask=self.alpha > HALF)
        frame.__dict__["alpha"] = self.alpha  # cached: it would be computed again, of the new mask
        return frame

    @cached_property
    def foreground(self) -> np.ndarray:
        """See the class, and `maskvos.media.alpha.foreground`."""
        return foreground(self.image, self.alpha)

    @cached_property
    def confidence(self) -> float:
        """The area of probability above 0.9, divided by that above 0.1; 0 if there is none.

        It is the intersection over union of a cautious and a generous mask, whatever the threshold, as the stability
        score of "Segment Anything", Kirillov et al., ICCV 2023.
        """
        possible = np.count_nonzero(self.logits > -_SURE)
        return np.count_nonzero(self.logits > _SURE) / possible if possible else 0.0


class Segmenter:
    """Segments the main moving object of videos.

    Made by `maskvos.load`. May be used from one thread at a time.

    Args:
        engine: Runs the network.
        size: Height and width of the network's input, pixels.
        flow: Source of optical flow.
        tta: Test-time augmentation; none by default.
        motion_as_option: As in training: a number makes the motion encoder read the RGB frame of single images.
        batch_size: Frames per call of an engine that runs one call at a time, for videos on disk.
        threshold: Probability above which a pixel belongs to the object.
        settings: What else results depend on, in plain values; weights and threshold are added.
        refine: Masks follow the edges of the picture, see `maskvos.media.alpha.soft_alpha`.
        fill_gaps: Parts of the object that vanish for up to so many frames are filled, see `temporal.fill_gaps`; frames
            come that much later. 0: they stay as they are. None: `temporal.GAP`, but 0 in `stream` of arrays.
    """

    def __init__(
        self,
        engine: Engine,
        size: Sequence[int],
        flow: FlowStore,
        tta: TTA | None = None,
        motion_as_option: float | None = None,
        batch_size: int = 8,
        threshold: float = 0.5,
        settings: dict[str, Any] | None = None,
        refine: bool = False,
        fill_gaps: int | None = 0,
    ) -> None:
        check_settings(
            {"threshold": threshold, "fill_gaps": fill_gaps, "data": {"size": size, "eval_batch_size": batch_size}}
        )
        self.engine = engine
        self.size = (int(size[0]), int(size[1]))
        self.tta = tta or TTA()
        tta_flow = None if self.tta.flow is None else paired_flow(flow, self.tta.flow, "tta.flow")
        self.frames = FrameStream(flow, motion_as_option, tta_flow)
        self.batch_size = batch_size
        self.threshold = threshold
        self._logit = math.log(threshold / (1 - threshold)) if threshold else -math.inf
        self.refine = refine
        self.fill_gaps = fill_gaps
        self._longest = GAP if fill_gaps is None else fill_gaps
        self.settings = {**(settings or {}), "threshold": threshold, "weights": engine.digest}
        if refine:  # here and below: results of versions without are resumed
            self.settings["refine"] = refine
        if self._longest:
            self.settings["fill_gaps"] = self._longest

    def stream(
        self, source: str | Path | Video | Iterable[np.ndarray], frame_rate: float = FRAME_RATE
    ) -> Iterator[SegmentedFrame]:
        """Segment a video frame by frame, in constant memory whatever its length.

        The frames of a movie or folder are decoded in order and then processed on all cores at the same time. Arrays (a
        camera's frames) are taken one at a time and no earlier than needed: a frame is yielded as soon as its flow is
        known, which is one frame later for forward flow (the default of the bundled weights) and at once for backward
        flow.

        Args:
            source: A movie, a folder of frames, or an iterable of (H, W, 3) uint8 RGB arrays of one size, such as a
                `maskvos.media.live.LiveSource`, which drops frames rather than delay them.
            frame_rate: Frames per second of a source without a rate of its own, for `SegmentedFrame.time`.

        Yields:
            One `SegmentedFrame` per frame, in order.

        Raises:
            UserError: The source cannot be read, holds several videos, or has frames of several sizes.
        """
        if isinstance(source, str | Path):
            source = single_video(folder(source), source)
        if isinstance(source, Video):
            times = times_of(source, frame_rate)
            yield from self.stream_video(source, times)
        else:
            yield from self._stream_arrays(source, frame_rate, self.fill_gaps or 0)

    def stream_video(self, video: Video, times: FrameTimes, reading: Reading | None = None) -> Iterator[SegmentedFrame]:
        """`stream` for a video on disk whose frame times are known; keeps ``reading`` up to date."""
        frames = self.frames.of_video(video, times, reading)
        parallel = self.engine.workers > 1
        threads = self.engine.workers if parallel else cores()
        with _pool(threads) as pool:
            segmented = _map(pool, self._process, frames, threads + 2) if parallel else self._in_batches(pool, frames)
            filled = self._filled(segmented, self._longest)
            yield from _map(pool, SegmentedFrame.refined, filled, min(threads, _REFINED)) if self.refine else filled

    def _stream_arrays(self, arrays: Iterable[np.ndarray], rate: float, longest: int) -> Iterator[SegmentedFrame]:
        frames, engine = self.frames.of_arrays(arrays, rate), self.engine.alone()
        segmented = (done for frame in frames for done in self._segment([self._prepare(frame)], engine))
        filled = self._filled(segmented, longest)
        return (frame.refined() for frame in filled) if self.refine else filled

    def _filled(
        self, frames: Generator[SegmentedFrame, None, None], longest: int
    ) -> Generator[SegmentedFrame, None, None]:
        if not longest:
            return frames
        flow = self.frames.flow
        velocity = (1 if flow.direction == "forward" else -1) / flow.gap
        return fill_gaps(frames, longest, velocity, self._logit)

    def _in_batches(
        self, pool: ThreadPoolExecutor, frames: Iterator[StreamFrame]
    ) -> Generator[SegmentedFrame, None, None]:
        size, frames = self._batch_size(frames)
        for batch in _batches(_map(pool, self._prepare, frames, 2 * size), size):
            yield from self._segment(batch, self.engine)

    def _batch_size(self, frames: Iterator[StreamFrame]) -> tuple[int, Iterator[StreamFrame]]:
        """Frames per call, fewer than asked for where a batch of them would fill the memory; and all frames."""
        first = next(frames, None)
        if first is None:
            return self.batch_size, frames
        return min(self.batch_size, max(1, _BATCH_BYTES // first.image.nbytes)), chain([first], frames)

    def __call__(self, frames: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Segment a clip in memory.

        Args:
            frames: (T, H, W, 3) uint8 RGB.

        Returns:
            (T, H, W) float32 in [0, 1]: the probability that a pixel belongs to the object.

        Raises:
            UserError: Another shape or dtype, or no frame.
        """
        found = [frame.probability for frame in self._stream_arrays(iter(frames), FRAME_RATE, self._longest)]
        if not found:
            raise UserError("frames: there are none; expected a uint8 array (T, H, W, 3), RGB")
        return np.stack(found)

    def _process(self, frame: StreamFrame) -> SegmentedFrame:
        (segmented,) = self._segment([self._prepare(frame)], self.engine)
        return segmented

    def _prepare(self, frame: StreamFrame) -> _Prepared:
        rgb = resize_image(frame.image, self.size).transpose(2, 0, 1)
        inputs = {"rgb": np.multiply(rgb, np.float32(1 / 255), dtype=np.float32, order="C")}
        inputs["flow"] = self._of_flow(frame.flow())
        if frame.tta_flow is not None:
            inputs["tta_flow"] = self._of_flow(frame.tta_flow())
        if self.frames.motion_as_option is not None:
            inputs["motion"] = np.array(not frame.still)
        return _Prepared(frame, inputs)

    def _of_flow(self, flow: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(resize_flow(flow, self.size).transpose(2, 0, 1), np.float32)

    def _segment(self, batch: list[_Prepared], engine: Engine) -> Iterator[SegmentedFrame]:
        inputs = {name: np.stack([sample.inputs[name] for sample in batch]) for name in batch[0].inputs}
        for sample, (logits,) in zip(batch, self.tta(engine, inputs), strict=True):
            frame = sample.frame
            if not np.isfinite(logits).all():
                raise UserError(
                    f"frame {frame.name}: the network's output is not finite; use trainer.precision=32-true, or "
                    "another checkpoint"
                )
            full = resize_logits(logits, (frame.image.shape[0], frame.image.shape[1]))
            yield SegmentedFrame(
                image=frame.image,
                logits=full,
                mask=full > self._logit,
                index=frame.index,
                time=frame.time,
                name=frame.name,
                flow=sample.inputs["flow"].transpose(1, 2, 0),
                coarse=logits,
            )


@dataclass(frozen=True)
class _Prepared:
    """A frame and its inputs: ``rgb`` (3, H, W), ``flow`` (2, H, W), and possibly ``tta_flow`` and ``motion`` ()."""

    frame: StreamFrame
    inputs: dict[str, np.ndarray]


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that ends with the block, without starting what still waits."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="segment")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _map(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Generator[R, None, None]:
    """Apply a function in a pool, up to ``ahead`` items ahead of the caller; results and errors keep the order."""
    pending: deque[Future[R]] = deque()
    iterator, error = iter(items), None
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            break
        except Exception as raised:  # raised again after the results of earlier items
            error = raised
            break
        pending.append(pool.submit(function, item))
        del item
        while len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
    if error is not None:
        raise error


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
