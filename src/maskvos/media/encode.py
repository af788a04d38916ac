"""Encode video files frame by frame, with atomic writes: H.264 for browsers, formats with transparency, sound."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from maskvos.errors import UserError
from maskvos.media.files import cannot_write, create, ensure_writable, partial
from maskvos.media.sound import Sound

log = logging.getLogger(__name__)

# Timestamp ticks per second of a video with a variable frame rate.
_CLOCK = 90_000
_LIMITED = 1  # FFmpeg's code for limited range: luma from 16 to 235


class Display(NamedTuple):
    """How pixels are to be shown; codes are those of ITU-T H.273, which FFmpeg uses.

    Attributes:
        primaries: Colour primaries; 1 is BT.709.
        transfer: Transfer characteristics.
        matrix: From RGB to luma and chroma.
        aspect: Width of a pixel divided by its height.
    """

    primaries: int = 1
    transfer: int = 1
    matrix: int = 1
    aspect: Fraction = Fraction(1)


@dataclass(frozen=True)
class Codec:
    """How a video is encoded, in FFmpeg's names.

    Attributes:
        encoder: The encoder.
        container: The file format.
        pixels: The pixel format.
        options: Of the encoder.
        container_options: Of the file format.
        even: The sides must be even.
        sounds: Formats of sound that players expect in such a file; the first is that of sound that is re-encoded.
        palette: Each frame has a palette of its own, of 255 colours and full transparency.
    """

    encoder: str
    container: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    sounds: tuple[str, ...] = ()
    palette: bool = False


# A fixed number of threads, since encodings depend on it: equal frames give equal files on every machine.
# The processor's instructions choose among encodings, too; mbtree does so by the timing of its threads.
_X264 = {"threads": "4", "x264-params": "mbtree=0:cpu-independent=1", "preset": "superfast", "crf": "18"}
# Transparency excludes frames that are not shown (auto-alt-ref).
_VP9 = {"threads": "4", "deadline": "realtime", "cpu-used": "6", "crf": "24", "b": "0", "auto-alt-ref": "0"}
_PRORES = {"threads": "4", "profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
_MP4_SOUNDS = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
_MOV_SOUNDS = ("aac", "mp3", "ac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le")
_NO_RANDOM_ID = {"fflags": "+bitexact"}

H264 = Codec("libx264", "mp4", "yuv420p", _X264, {"movflags": "+faststart"}, True, _MP4_SOUNDS)
VP9_ALPHA = Codec("libvpx-vp9", "webm", "yuva420p", _VP9, _NO_RANDOM_ID, sounds=("opus", "vorbis"))
PRORES_4444 = Codec("prores_ks", "mov", "yuva444p10le", _PRORES, sounds=_MOV_SOUNDS)
FFV1_GREY = Codec("ffv1", "matroska", "gray", {"level": "3", "slicecrc": "1", "threads": "4"}, _NO_RANDOM_ID)
WEBP = Codec("libwebp_anim", "webp", "bgra", {"quality": "75", "compression_level": "2"}, {"loop": "0"})
GIF = Codec("gif", "gif", "pal8", {}, {"loop": "0"}, palette=True)


class VideoWriter:
    """Writes a video, by default H.264 (yuv420p, fast start) that plays in browsers.

    The file is written under a temporary name in the same folder and renamed on `close`, or on leaving the ``with``
    block without an error; otherwise it is removed. H.264 in 4:2:0 needs even sides: an odd width or height is padded
    by repeating the last column or row.

    Args:
        path: Destination; its suffix is that of the codec's file format.
        fps: Frames per second.
        crf: Constant rate factor of H.264, 0 (lossless) to 51; by default 18, visually close to lossless.
        codec: How it is encoded.
        sound: A movie whose sound is copied, see `Sound`, where the file format has any.
        display: How pixels are to be shown; by default BT.709 and square.

    Raises:
        UserError: The folder is not writable, or the frame rate is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        crf: int | None = None,
        codec: Codec = H264,
        sound: Path | None = None,
        display: Display | None = None,
    ) -> None:
        self.path = Path(path)
        self.partial = partial(self.path.absolute())
        self.fps = Fraction(fps).limit_denominator(100_000)
        if not 0 < self.fps <= 1000:
            raise UserError(f"{path}: {fps} frames per second; choose a rate above 0 and up to 1000")
        self.codec, self.display = codec, display or Display()
        self.options = {**codec.options, **({} if crf is None else {"crf": str(crf)})}
        self.count = 0
        self._size: tuple[int, ...] = ()
        self._last = -1
        self._tick = 1 / self.fps
        ensure_writable(self.path.parent)
        try:
            create(self.partial)
            self._container = self._open()
        except (av.error.FFmpegError, OSError) as error:
            raise cannot_write(self.path, error) from error
        self._source = sound
        self._sound: Sound | None = None
        self._stream: VideoStream | None = None
        self._palettes: av.filter.Graph | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey, uint8, the same shape for all frames.
            time: Timestamp in seconds after the first frame, for a variable frame rate; for all frames or for none.

        Raises:
            UserError: Writing failed, for example because the disk is full.
            ValueError: The size differs from the first frame's.
        """
        if self._stream is None:
            self._start(image, time is not None)
        if image.shape != self._size:
            raise ValueError(f"{self.path}: a frame of shape {image.shape} after frames of {self._size}")
        # Damaged files repeat timestamps; the encoder needs increasing ones.
        pts = self.count if time is None else max(round(time / self._tick), self._last + 1)
        height, width = image.shape[:2]
        if self.codec.even and (height % 2 or width % 2):
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        layout = {3: "rgb24", 4: "rgba"}[image.shape[2]] if image.ndim == 3 else "gray"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=layout)
        picture.pts, picture.time_base = pts, self._tick
        if self.codec.palette:
            self._palettes = self._palettes or _palettes(picture)
            self._palettes.push(picture)
            picture = cast(av.VideoFrame, self._palettes.pull())
        elif layout != self.codec.pixels:
            # In several threads, FFmpeg 8.0 loses lines of the transparency of ProRes.
            picture = picture.reformat(format=self.codec.pixels, dst_colorspace=self.display.matrix, threads=1)
        if self.codec.pixels.startswith("yuv"):  # ProRes takes them from the frames
            picture.color_primaries, picture.color_trc, picture.colorspace, _ = self.display
        self._mux(picture, pts * self._tick)
        self._last = pts
        self.count += 1

    def close(self) -> None:
        """Finish the file and rename it to its final name; without frames, no file is written.

        Raises:
            UserError: Writing failed, for example because the disk is full.
        """
        if self._stream is None:
            self.abort()
            return
        self._mux(None, None)
        try:
            self._container.close()
            os.replace(self.partial, self.path)
        except (av.error.FFmpegError, OSError) as error:
            self.partial.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error

    def abort(self) -> None:
        """Discard the video and remove the temporary file."""
        if self._sound is not None:
            self._sound.close()
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            log.debug("%s: closing the discarded file failed: %s", self.partial, error)
        self.partial.unlink(missing_ok=True)

    def _open(self) -> OutputContainer:
        options = dict(self.codec.container_options)
        return av.open(str(self.partial), "w", format=self.codec.container, options=options)

    def _start(self, image: np.ndarray, timed: bool) -> None:
        self._size = image.shape
        self._tick = Fraction(1, _CLOCK) if timed else 1 / self.fps
        stream = cast(VideoStream, self._container.add_stream(self.codec.encoder, rate=self.fps))
        height, width = image.shape[:2]
        stream.height, stream.width = height + height % 2 * self.codec.even, width + width % 2 * self.codec.even
        stream.pix_fmt = self.codec.pixels
        stream.time_base = self._tick
        stream.codec_context.time_base = self._tick
        stream.options = dict(self.options)
        if self.codec.pixels.startswith("yuv"):
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, _ = self.display
            context.color_range = _LIMITED
            context.sample_aspect_ratio = self.display.aspect
        self._stream = stream
        if self._source is not None:
            try:
                self._sound = Sound(self._source, self._container, self.codec.sounds)
                self._container.start_encoding()
            except (av.error.FFmpegError, OSError) as error:
                log.warning("%s: its sound is left out of %s (%s)", self._source, self.path.name, error.strerror)
                self._container, self._source, self._sound = self._open(), None, None
                self._start(image, timed)

    def _mux(self, picture: av.VideoFrame | None, time: Fraction | None) -> None:
        """Append a frame and the sound up to it; None: what remains of both."""
        if self._stream is None:
            return
        try:
            packets = self._stream.encode(picture)
            if self._sound is not None:
                self._sound.copy(time)
            self._container.mux(packets)
        except (av.error.FFmpegError, OSError) as error:
            self.abort()
            raise cannot_write(self.path, error) from error


def _palettes(picture: av.VideoFrame) -> av.filter.Graph:
    """FFmpeg's filters that give each frame like this one its best palette."""
    graph = av.filter.Graph()
    frames = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
    )
    split, use = graph.add("split"), graph.add("paletteuse", "new=1:alpha_threshold=128:dither=sierra2_4a")
    generate, sink = graph.add("palettegen", "stats_mode=single:reserve_transparent=1"), graph.add("buffersink")
    frames.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(generate, 1, 0)
    generate.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph
