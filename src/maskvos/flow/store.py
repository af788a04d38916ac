"""Flow of the frames of a video: read, or computed once and kept on disk."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np

from maskvos import __version__
from maskvos.errors import UserError, nearest
from maskvos.flow.base import FlowEstimator, batch_flow, check_direction, partner, stream_flow
from maskvos.flow.codec import decode_kitti, encode_kitti, read_flow, write_flow, write_flow_picture
from maskvos.media.files import read_image, write_bytes
from maskvos.types import Frame, Video

FORMATS = ("png", "flo")
"""How the cache is written: 16-bit KITTI PNG, in steps of 1/64 pixel, or exact Middlebury ``.flo``."""

# How much of an image tells it from another of the same name and length.
_SAMPLE = 16384


class FlowStore:
    """The flow of any frame of any video, from whichever place it comes.

    With an estimator: from the cache, else computed (and put into the cache, if there is one). Without: from the
    files that the videos name themselves, made by somebody else.

    A cache holds one folder per way of making flow, ``<estimator>-<hash of settings and weights>/<direction>-gap<n>``,
    with a ``flow.json`` that says how it was made. A file in it is named by its frame and by a hash of the two images
    that it joins (names, lengths, and a sample of their content, not where they lie), so that neither another
    setting nor another image under an old name can read a stale flow, and a cache can be moved. Files appear whole or
    not at all; any number of processes may fill one cache.

    The store can be pickled, and used in workers.

    Args:
        estimator: What computes flow, or None to read `Frame.flow`.
        cache: Folder to keep computed flow in, or None.
        direction: ``forward`` (the last frame gets its backward flow negated) or ``backward`` (the first frame gets
            its forward flow negated).
        gap: Steps between the two frames.
        both_ways: Computing a whole dataset makes both directions.
        format: How the cache is written, see `FORMATS`.
        pictures: Keep a picture of each cached flow in the colours of the Middlebury wheel beside it (``.wheel.png``),
            for people and for projects that train on pictures.
        max_flow: For precomputed flow that is a colour picture: pixels of its longest vector, which the picture does
            not say.

    Raises:
        UserError: A setting does not fit.
    """

    def __init__(
        self,
        estimator: FlowEstimator | None = None,
        cache: Path | str | None = None,
        direction: str = "forward",
        gap: int = 1,
        both_ways: bool = False,
        format: str = "flo",
        pictures: bool = False,
        max_flow: float = 1.0,
    ) -> None:
        check_direction(direction, gap)
        if format not in FORMATS:
            raise UserError(f"flow.format={format!r}: not known; {nearest(str(format), FORMATS)}")
        if isinstance(estimator, Mapping):
            raise UserError(
                f"flow.estimator={dict(estimator)}: settings of no estimator; with flow that was made beforehand leave "
                "them out (flow.estimator=null), or choose an estimator (flow=dis)"
            )
        if estimator is None and cache is not None:
            raise UserError(
                f"flow.cache={cache}: precomputed flow is read from where it lies and is not cached; leave flow.cache "
                "out, or choose an estimator (flow=dis)"
            )
        self.estimator = estimator
        self.cache = None if cache is None else Path(cache).expanduser()
        self.direction = direction
        self.gap = gap
        self.both_ways = both_ways
        self.format = format
        self.pictures = pictures
        self.max_flow = max_flow

    def joining(self, direction: str, gap: int = 1) -> FlowStore:
        """The same place, for the flow of other pairs of frames.

        Args:
            direction: As of the store.
            gap: As of the store.

        Returns:
            Another store, with the same estimator and cache.

        Raises:
            UserError: The direction or the gap is none, or the flow was made beforehand and there is no other.
        """
        check_direction(direction, gap)
        if self.estimator is None:
            raise UserError(
                f"flow: it was made beforehand, and there is none that goes {direction} over {gap} frame(s); "
                "compute it (flow=dis)"
            )
        other = copy.copy(self)
        other.direction, other.gap = direction, gap
        return other

    def load(self, video: Video, index: int, direction: str | None = None) -> np.ndarray:
        """The flow of one frame.

        Args:
            video: The video; it must have frames.
            index: Which of them, from 0.
            direction: Another direction than the store's own, e.g. to play the video backwards.

        Returns:
            (H, W, 2) float32, pixels, x then y; on the frame's own grid, except that precomputed flow comes in the size
            in which it was made.

        Raises:
            UserError: A file is missing, damaged, or cannot be written to the cache, or the video is a movie file.
        """
        if self.estimator is None:
            return self._read_given(video, self._frame(video, index), direction)
        return self.fill(video, [index], direction)[0]

    def fill(self, video: Video, indices: Sequence[int], direction: str | None = None) -> list[np.ndarray]:
        """The flow of several frames: what the cache lacks is computed in one call of the estimator and kept.

        Args:
            video: The video; it must have frames.
            indices: Which of them, from 0.
            direction: Another direction than the store's own.

        Returns:
            Per index as `load` says.

        Raises:
            UserError: As `load`; or there is no estimator.
        """
        direction = self._direction(direction)
        flows: dict[int, np.ndarray] = {}
        missing: dict[int, Path | None] = {}
        for index in indices:
            self._frame(video, index)
            path = self.path(video, index, direction) if self.cache else None
            if path is not None and path.exists():
                flows[index] = read_flow(path)
            else:
                missing[index] = path
        for index, flow in zip(missing, self._compute(video, list(missing), direction), strict=True):
            flows[index] = self._keep(missing[index], flow, direction)
        if self.pictures and self.cache:
            for index in indices:
                picture = _picture(self.path(video, index, direction))
                if not picture.exists():
                    write_flow_picture(picture, flows[index])
        return [flows[index] for index in indices]

    def kept(self, video: Video, index: int, direction: str | None = None) -> bool:
        """Whether the cache holds everything that it is to keep of a frame's flow.

        Raises:
            UserError: There is no cache, or an image cannot be read.
        """
        path = self.path(video, index, direction)
        return path.exists() and (not self.pictures or _picture(path).exists())

    def stream(
        self, video: Video, frames: Iterable[np.ndarray], direction: str | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every frame of a video with its flow, in order of time, reading the frames once.

        Args:
            video: The video that the frames belong to.
            frames: Its frames in order, each (H, W, 3) uint8 RGB.
            direction: Another direction than the store's own.

        Yields:
            Frame and flow (H, W, 2) float32, pixels, x then y: precomputed or cached where there is such a place
            (filling the cache), else computed from the frames as they pass.

        Raises:
            UserError: As `load`.
        """
        if video.frames and (self.estimator is None or self.cache is not None):
            for index, frame in enumerate(frames):
                yield frame, self.load(video, index, direction)
        elif self.estimator is None:
            raise UserError(f"video {video.file}: a movie file has no precomputed flow; choose flow=dis")
        else:
            yield from stream_flow(frames, self.estimator, self._direction(direction), self.gap)

    def path(self, video: Video, index: int, direction: str | None = None) -> Path:
        """Where the cache keeps (or will keep) the flow of a frame.

        Raises:
            UserError: There is no cache, or an image cannot be read.
        """
        other, _ = partner(index, len(video.frames), self._direction(direction), self.gap)
        content = "|".join(_identity(video.frames[i].image) for i in (index, other))
        name = (
            f"{_filename(video.frames[index].name)}-{hashlib.sha256(content.encode()).hexdigest()[:10]}.{self.format}"
        )
        return self.folder(direction) / _filename(video.dataset or "videos") / _filename(video.name) / name

    def folder(self, direction: str | None = None) -> Path:
        """The cache's folder for these settings.

        Raises:
            UserError: There is no cache or no estimator.
        """
        if self.cache is None or self.estimator is None:
            raise UserError("flow.cache: not set; say where to keep computed flow (flow.cache=<folder>)")
        return self.cache / self.estimator.fingerprint / f"{self._direction(direction)}-gap{self.gap}"

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that computing a whole dataset makes."""
        other = "backward" if self.direction == "forward" else "forward"
        return (self.direction, other) if self.both_ways else (self.direction,)

    def _direction(self, direction: str | None) -> str:
        if direction is None:
            return self.direction
        check_direction(direction, self.gap)
        return direction

    def _frame(self, video: Video, index: int) -> Frame:
        if not video.frames:
            raise UserError(
                f"video {video.file}: a movie file is read as a stream and has no flow by index; extract its frames "
                "to a folder of images to keep its flow"
            )
        if not 0 <= index < len(video.frames):
            raise IndexError(f"video '{video.name}' has {len(video.frames)} frames, there is none at {index}")
        return video.frames[index]

    def _read_given(self, video: Video, frame: Frame, direction: str | None) -> np.ndarray:
        if self._direction(direction) != self.direction:
            raise UserError(
                f"video '{video.name}': its flow was made beforehand in one direction; the other one needs an "
                "estimator (flow=dis)"
            )
        if frame.flow is None:
            raise UserError(
                f"video '{video.name}', frame {frame.name!r}: it has no precomputed flow; put a flow file of this name "
                "beside the others, or compute flow (flow=dis)"
            )
        return read_flow(frame.flow, self.max_flow)

    def _compute(self, video: Video, indices: list[int], direction: str) -> list[np.ndarray]:
        if not indices:
            return []
        if self.estimator is None:
            raise UserError("flow: precomputed flow cannot be computed; choose an estimator (flow=dis)")
        pairs = {index: partner(index, len(video.frames), direction, self.gap) for index in indices}
        needed = sorted({*pairs, *(other for other, _ in pairs.values())})
        images = {i: read_image(video.frames[i].image) for i in needed}
        moving = [index for index in indices if pairs[index][0] != index]
        flows = {index: np.zeros((*images[index].shape[:2], 2), np.float32) for index in indices if index not in moving}
        if moving:
            try:
                made = batch_flow([images[i] for i in moving], [images[pairs[i][0]] for i in moving], self.estimator)
            except UserError as error:
                raise UserError(f"video '{video.name}', frame {video.frames[moving[0]].name!r} on: {error}") from error
            flows |= {i: flow * np.float32(pairs[i][1]) for i, flow in zip(moving, made, strict=True)}
        return [flows[index] for index in indices]

    def _keep(self, path: Path | None, flow: np.ndarray, direction: str) -> np.ndarray:
        """Put a flow into the cache; returns it as it will be read from there, so that every epoch sees the same."""
        if path is None:
            return flow
        self._describe(direction)
        write_flow(path, flow)
        return decode_kitti(encode_kitti(flow)) if self.format == "png" else flow

    def _describe(self, direction: str) -> None:
        note = self.folder(direction) / "flow.json"
        if self.estimator is None or note.exists():
            return
        text = {
            "what": "optical flow of video frames, pixels of the frame's own grid, x then y",
            "estimator": self.estimator.settings,
            "fingerprint": self.estimator.fingerprint,
            "direction": direction,
            "gap": self.gap,
            "ends": "where the video ends, the flow the other way, negated",
            "files": "16-bit KITTI PNG: (value - 32768) / 64 pixels, third channel valid; or Middlebury .flo",
            "made_by": {"maskvos": __version__, "opencv": cv2.__version__},
        }
        write_bytes(note, (json.dumps(text, indent=2) + "\n").encode())


def _identity(image: Path) -> str:
    """Name, length and a sample from the middle: tells images apart without reading them whole."""
    try:
        with image.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, (length - _SAMPLE) // 2))
            sample = hashlib.sha256(file.read(_SAMPLE)).hexdigest()
    except OSError as error:
        raise UserError(f"image {image}: it cannot be read ({error.strerror}); check the dataset's folder") from error
    return f"{image.name}:{length}:{sample}"


def _picture(path: Path) -> Path:
    return path.with_name(f"{path.stem}.wheel.png")


def _filename(name: str) -> str:
    """A name as one component of a path, whatever signs it has; different names stay different."""
    return quote(name, safe=" ()[]+,=@") if name.strip(".") else f"%2E{len(name)}"
