"""Flow of the frames of a video: precomputed, cached on disk, or computed on demand."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from maskvos import __version__
from maskvos.errors import UserError
from maskvos.flow.base import FlowEstimator, FlowOf, check_direction, partner, stream_flow, zero_flow
from maskvos.flow.codec import decode_kitti, encode_flow, encode_kitti, is_whole, read_flow, write_flow
from maskvos.media.files import write_bytes
from maskvos.media.images import read_image
from maskvos.settings.table import check_settings
from maskvos.types import Frame, Video

log = logging.getLogger(__name__)

FORMATS = ("png", "flo")
"""File formats of the cache: 16-bit KITTI PNG (resolution 1/64 pixel), or lossless Middlebury ``.flo``."""

# Bytes from the middle of an image file that are hashed to identify it.
_SAMPLE = 16384
_WHEEL = ".wheel.png"


class FlowStore:
    """Provides the flow of any frame of any video.

    With an estimator, flow is read from the cache, or computed (and cached, if there is a cache). Without one, flow is
    read from the precomputed files in `Frame.flow`.

    The cache has one folder per configuration, ``<estimator>-<hash of settings and weights>/<direction>-gap<n>``, with
    a ``flow.json`` that describes it. File names contain the frame name and a hash of both images (file names, sizes,
    and a sample of their content, but not their location). A changed setting or image therefore never yields stale
    flow, and datasets and caches can be moved. Writes are atomic; any number of processes may fill one cache.

    Can be pickled and used in data loader workers.

    Args:
        estimator: The flow estimator, or None to read `Frame.flow`.
        cache: Folder of the cache, or None.
        direction: ``forward`` (the last frame gets its negated backward flow) or ``backward`` (the first frame gets its
            negated forward flow).
        gap: Distance between the two frames, in frames.
        both_directions: Precomputing a dataset computes both directions.
        format: File format of new files in the cache, see `FORMATS`; those that exist in the other one are used.
        save_images: Also save each cached flow map as an image with Middlebury colour coding (``.wheel.png``).
        max_flow: For precomputed colour-coded flow: magnitude in pixels of a fully saturated colour, which such an
            image does not store.

    Raises:
        UserError: Invalid setting.
    """

    def __init__(
        self,
        estimator: FlowEstimator | None = None,
        cache: Path | str | None = None,
        direction: str = "forward",
        gap: int = 1,
        both_directions: bool = False,
        format: str = "png",
        save_images: bool = False,
        max_flow: float = 1.0,
    ) -> None:
        check_settings({"direction": direction, "gap": gap, "format": format, "max_flow": max_flow}, "flow")
        if not isinstance(estimator, FlowEstimator | None):
            raise UserError(
                f"flow.estimator={estimator}: settings without an estimator; with precomputed flow leave them out "
                "(flow.estimator=null), or choose an estimator (flow=dis)"
            )
        if estimator is None and cache is not None:
            raise UserError(
                f"flow.cache={cache}: precomputed flow is not cached; leave flow.cache out, or choose an estimator "
                "(flow=dis)"
            )
        self.estimator = estimator
        self.cache = None if cache is None else Path(cache).expanduser()
        self.direction = direction
        self.gap = gap
        self.both_directions = both_directions
        self.format = format
        self.save_images = save_images
        self.max_flow = max_flow

    def joining(self, direction: str, gap: int = 1) -> FlowStore:
        """A store with the same estimator and cache, for another direction and gap.

        Args:
            direction: ``forward`` or ``backward``.
            gap: Distance between the two frames, in frames.

        Raises:
            UserError: Invalid direction or gap, or the store has precomputed flow only.
        """
        check_direction(direction, gap)
        if self.estimator is None:
            raise UserError(
                f"flow: precomputed flow has one direction and gap; for {direction} flow over {gap} frame(s) choose "
                "an estimator (flow=dis)"
            )
        other = copy.copy(self)
        other.direction, other.gap = direction, gap
        return other

    def load(
        self, video: Video, index: int, direction: str | None = None, read: Callable[[Path], np.ndarray] = read_image
    ) -> np.ndarray:
        """Flow of one frame.

        Args:
            video: A video with frames.
            index: Index of the frame.
            direction: Overrides the direction of the store, e.g. to play the video backwards.
            read: Image reader; a caller that has decoded frames can pass one that returns them.

        Returns:
            (h, w, 2) float32, pixels of this grid, x then y, at the size at which it was estimated or stored.

        Raises:
            UserError: A file is missing or corrupt, the cache is not writable, or the video is a movie file.
        """
        if self.estimator is None:
            return self._read_precomputed(video, self._frame(video, index), direction)
        return self.fill(video, [index], direction, read)[0]

    def fill(
        self,
        video: Video,
        indices: Sequence[int],
        direction: str | None = None,
        read: Callable[[Path], np.ndarray] = read_image,
    ) -> list[np.ndarray]:
        """Flow of several frames; those missing from the cache, or damaged there, are computed in one call and cached.

        Args:
            video: A video with frames.
            indices: Indices of the frames.
            direction: Overrides the direction of the store.
            read: As for `load`.

        Returns:
            One flow map per index, as from `load`.

        Raises:
            UserError: As `load`, or the store has no estimator.
        """
        direction = self._direction(direction)
        flows: dict[int, np.ndarray] = {}
        missing: dict[int, Path | None] = {}
        for index in indices:
            self._frame(video, index)
            path = self.path(video, index, direction) if self.cache else None
            found = None if path is None else _read_cached(_existing(path))
            if found is None:
                missing[index] = path
            else:
                flows[index] = found
        for index, flow in zip(missing, self._compute(video, list(missing), direction, read), strict=True):
            flows[index] = self._save(missing[index], flow, direction)
        if self.save_images and self.cache:
            from maskvos.flow.colours import write_flow_image  # needs torch

            for index in indices:
                image = _image_path(self.path(video, index, direction))
                if not image.exists():
                    write_flow_image(image, flows[index])
        return [flows[index] for index in indices]

    def is_cached(self, video: Video, index: int, direction: str | None = None) -> bool:
        """Whether the cache holds the flow of a frame (and its image, with ``save_images``).

        Raises:
            UserError: There is no cache, or an image cannot be read.
        """
        path = self.path(video, index, direction)
        return is_whole(_existing(path)) and (not self.save_images or _image_path(path).exists())

    def stream(
        self, video: Video, frames: Iterable[np.ndarray], direction: str | None = None
    ) -> Iterator[tuple[np.ndarray, FlowOf]]:
        """Stream the frames of a video with their flow, in temporal order; each frame is read once.

        Args:
            video: The video.
            frames: Its frames in temporal order, each (H, W, 3) uint8 RGB.
            direction: Overrides the direction of the store.

        Yields:
            Each frame, and a function that gives its flow: precomputed, or cached (which fills the cache), or computed.

        Raises:
            UserError: As `load`.
        """
        if video.frames and (self.estimator is None or self.cache is not None):
            for index, frame in enumerate(frames):
                yield frame, partial(self.load, video, index, direction)
        elif self.estimator is None:
            raise UserError(f"video {video.file}: a movie file has no precomputed flow; choose flow=dis")
        else:
            yield from stream_flow(frames, self.estimator, self._direction(direction), self.gap)

    def path(self, video: Video, index: int, direction: str | None = None) -> Path:
        """Cache file for the flow of a frame, whether it exists or not.

        Raises:
            UserError: There is no cache, or an image cannot be read.
        """
        other, _ = partner(index, len(video.frames), self._direction(direction), self.gap)
        content = "|".join(_identity(video.frames[i].image) for i in (index, other))
        name = (
            f"{_filename(video.frames[index].name)}-{hashlib.sha256(content.encode()).hexdigest()[:10]}.{self.format}"
        )
        return self._folder_of(video, direction) / name

    def folder(self, direction: str | None = None) -> Path:
        """Cache folder for these settings.

        Raises:
            UserError: There is no cache or no estimator.
        """
        if self.cache is None or self.estimator is None:
            raise UserError("flow.cache: not set; give a folder for computed flow (flow.cache=<folder>)")
        return self.cache / self.estimator.fingerprint / f"{self._direction(direction)}-gap{self.gap}"

    def count(self, video: Video, direction: str | None = None) -> int:
        """Number of maps of a video in the cache, whether whole or outdated; reads no file."""
        names = (path.name for path in self._folder_of(video, direction).glob("[!.]*"))
        return sum(1 for name in names if name.endswith((".png", ".flo")) and not name.endswith(_WHEEL))

    def bytes_of(self, flow: np.ndarray) -> int:
        """Size of a flow map's file in the format of the cache."""
        return len(encode_flow(flow, f".{self.format}"))

    @property
    def directions(self) -> tuple[str, ...]:
        """Directions that precomputing a dataset computes."""
        other = "backward" if self.direction == "forward" else "forward"
        return (self.direction, other) if self.both_directions else (self.direction,)

    def _folder_of(self, video: Video, direction: str | None) -> Path:
        return self.folder(direction) / _filename(video.dataset or "videos") / _filename(video.name)

    def _direction(self, direction: str | None) -> str:
        if direction is None:
            return self.direction
        check_direction(direction, self.gap)
        return direction

    def _frame(self, video: Video, index: int) -> Frame:
        if not video.frames:
            raise UserError(
                f"video {video.file}: a movie file is read as a stream, so its flow has no index and no cache; extract "
                "its frames to a folder of images"
            )
        if not 0 <= index < len(video.frames):
            raise IndexError(f"video '{video.name}' has {len(video.frames)} frames; index {index} is out of range")
        return video.frames[index]

    def _read_precomputed(self, video: Video, frame: Frame, direction: str | None) -> np.ndarray:
        if self._direction(direction) != self.direction:
            raise UserError(
                f"video '{video.name}': precomputed flow has one direction only; the other needs an estimator "
                "(flow=dis)"
            )
        if frame.flow is None:
            raise UserError(
                f"video '{video.name}', frame {frame.name!r}: no precomputed flow; add a flow file of this "
                "name, or compute flow (flow=dis)"
            )
        return read_flow(frame.flow, self.max_flow)

    def _compute(
        self, video: Video, indices: list[int], direction: str, read: Callable[[Path], np.ndarray]
    ) -> list[np.ndarray]:
        if not indices:
            return []
        if self.estimator is None:
            raise UserError("flow: precomputed flow cannot be computed; choose an estimator (flow=dis)")
        pairs = {index: partner(index, len(video.frames), direction, self.gap) for index in indices}
        needed = sorted({*pairs, *(other for other, _ in pairs.values())})
        images = {i: read(video.frames[i].image) for i in needed}
        moving = [index for index in indices if pairs[index][0] != index]
        flows = {i: zero_flow(self.estimator.preprocess(images[i])) for i in indices if i not in moving}
        if moving:
            try:
                made = self.estimator([images[i] for i in moving], [images[pairs[i][0]] for i in moving])
            except UserError as error:
                first = video.frames[moving[0]].name
                raise UserError(f"video '{video.name}', from frame {first!r}: {error}") from error
            flows |= {i: flow * np.float32(pairs[i][1]) for i, flow in zip(moving, made, strict=True)}
        return [flows[index] for index in indices]

    def _save(self, path: Path | None, flow: np.ndarray, direction: str) -> np.ndarray:
        """Write a flow map to the cache; return it as it will be read back, so that all epochs see the same values."""
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
            "what": "optical flow of video frames, pixels of the map's own grid, x then y",
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
    """Identify an image file by name, size and a sample of its content, without reading all of it."""
    try:
        if image.exists() and not image.is_file():
            raise OSError(errno.EINVAL, "not a file")
        with image.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, (length - _SAMPLE) // 2))
            sample = hashlib.sha256(file.read(_SAMPLE)).hexdigest()
    except OSError as error:
        raise UserError(f"image {image}: cannot be read ({error.strerror}); check the dataset's folder") from error
    return f"{image.name}:{length}:{sample}"


def _read_cached(path: Path) -> np.ndarray | None:
    """Flow in the cache; None if it is not there or damaged."""
    if not path.exists():
        return None
    try:
        return read_flow(path)
    except UserError as error:
        log.warning("%s; computing it again", error)
        return None


def _existing(path: Path) -> Path:
    """The file of a map, in the other format if it is only there in that."""
    other = path.with_suffix(".flo" if path.suffix == ".png" else ".png")
    return other if not path.exists() and other.exists() else path


def paired_flow(flow: FlowStore, pair: Any, setting: str) -> FlowStore:
    """The flow of another frame pair.

    Args:
        flow: The usual source.
        pair: A mapping of ``direction`` and, by default 1, ``gap``; see `FlowStore`.
        setting: Name of the setting, for messages.

    Raises:
        UserError: It is no pair, or the flow is precomputed.
    """
    if not isinstance(pair, Mapping) or "direction" not in pair or pair.keys() - {"direction", "gap"}:
        raise UserError(f"{setting}: {pair}; give direction (forward or backward) and gap only")
    if flow.estimator is None:
        raise UserError(
            f"{setting}: {pair}, but precomputed flow exists for one frame pair only; remove it "
            f"({setting}=null), or compute flow (flow=dis)"
        )
    return flow.joining(**pair)


def _image_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}{_WHEEL}")


def _filename(name: str) -> str:
    """Escape a name for use as a file name; distinct names stay distinct."""
    return quote(name, safe=" ()[]+,=@") if name.strip(".") else f"%2E{len(name)}"
