"""The segmenter: frames in, foreground masks out, from a movie, a folder, an array or a camera."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maskvos.data.dataset import collate
from maskvos.data.datasets.folder import folder
from maskvos.data.streams import FRAME_RATE, FrameTimes, SampleStream, single_video, times_of
from maskvos.data.transforms import Transform
from maskvos.errors import UserError
from maskvos.flow.store import FlowStore
from maskvos.inference.engines import Engine
from maskvos.inference.postprocess import probabilities
from maskvos.inference.tta import TTA
from maskvos.types import Batch, Sample, Video

T = TypeVar("T")
# Batches that decoding and flow may be ahead of the network.
_AHEAD = 2


@dataclass(frozen=True)
class SegmentedFrame:
    """One frame with its mask.

    Attributes:
        image: (H, W, 3) uint8 RGB, the frame.
        probability: (H, W) float32 in [0, 1], the probability that a pixel belongs to the object.
        mask: (H, W) bool, the probability thresholded.
        index: Number of the frame, from 0.
        time: Seconds after the first frame.
        name: Name of the frame: of its file, or its number with five digits.
        flow: (h, w, 2) float32, the optical flow at the network's input size, pixels, x then y.
    """

    image: np.ndarray
    probability: np.ndarray
    mask: np.ndarray
    index: int
    time: float
    name: str
    flow: np.ndarray


class Segmenter:
    """Segments the main moving object of videos.

    Made by `maskvos.load`. May be used from one thread at a time.

    Args:
        engine: Runs the network.
        size: Height and width of the network's input, pixels.
        flow: Source of optical flow.
        tta: Test-time augmentation; none by default.
        motion_as_option: As in training: a number makes the motion encoder read the RGB frame of single images.
        batch_size: Frames per call of the network for videos on disk.
        threshold: Probability above which a pixel belongs to the object.
        settings: What else results depend on, in plain values; weights and threshold are added.
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
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        if not 0 <= threshold < 1:
            raise UserError(f"threshold is {threshold}; it must be at least 0 and below 1")
        self.engine = engine
        self.tta = tta or TTA()
        tta_flow = None if self.tta.flow is None else flow.joining(**self.tta.flow)
        self.samples = SampleStream(flow, Transform(size), motion_as_option, tta_flow)
        self.batch_size = batch_size
        self.threshold = threshold
        self.settings = {**(settings or {}), "threshold": threshold, "weights": engine.digest}

    def stream(
        self, source: str | Path | Video | Iterable[np.ndarray], frame_rate: float = FRAME_RATE
    ) -> Iterator[SegmentedFrame]:
        """Segment a video frame by frame, in constant memory whatever its length.

        A movie or folder is decoded, and its flow computed, in a thread ahead of the network, in batches. Arrays (a
        camera's frames) are taken one at a time and no earlier than needed: a frame is yielded as soon as its flow is
        known, which is one frame later for forward flow (the default of the bundled weights) and at once for backward
        flow.

        Args:
            source: A movie, a folder of frames, or an iterable of (H, W, 3) uint8 RGB arrays of one size.
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
            for index, sample in enumerate(self.samples.of_arrays(source, frame_rate)):
                yield from self._segment([sample], index)

    def stream_video(self, video: Video, times: FrameTimes) -> Iterator[SegmentedFrame]:
        """`stream` for a video on disk whose frame times are known."""
        index = 0
        for samples in _ahead(_batches(self.samples.of_video(video, times), self.batch_size), _AHEAD):
            yield from self._segment(samples, index)
            index += len(samples)

    def __call__(self, frames: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Segment a clip in memory.

        Args:
            frames: (T, H, W, 3) uint8 RGB.

        Returns:
            (T, H, W) float32 in [0, 1]: the probability that a pixel belongs to the object.

        Raises:
            UserError: Another shape or dtype, or no frame.
        """
        found = [frame.probability for frame in self.stream(iter(frames))]
        if not found:
            raise UserError("frames: there are none; expected a uint8 array (T, H, W, 3), RGB")
        return np.stack(found)

    def _segment(self, samples: list[Sample], start: int) -> Iterator[SegmentedFrame]:
        batch: Batch = collate(samples)
        logits = self.tta(self.engine, batch)
        for offset, (probability, sample) in enumerate(zip(probabilities(logits, batch["size"]), samples, strict=True)):
            if not np.isfinite(probability).all():
                raise UserError(
                    f"frame {sample['frame']}: the network's output is not finite; use trainer.precision=32-true, or "
                    "another checkpoint"
                )
            yield SegmentedFrame(
                image=sample["image"],
                probability=probability,
                mask=probability > self.threshold,
                index=start + offset,
                time=sample["time"],
                name=sample["frame"],
                flow=sample["flow"].permute(1, 2, 0).numpy(),
            )


def _batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while batch := list(itertools.islice(samples, size)):
        yield batch


class _End:
    """What the reading thread sends last: the error that ended it, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Iterate in a background thread up to ``count`` items ahead; its errors are raised here, and it ends with this."""
    waiting: queue.Queue[T | _End] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: T | _End) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # raised again in the consuming thread
            put(_End(error))
        else:
            put(_End(None))

    thread = threading.Thread(target=read, name="read", daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()
