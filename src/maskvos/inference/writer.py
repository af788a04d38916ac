"""Writes the masks of videos: masks, probabilities, movies, cut-outs, annotations, atomically and resumably.

Layout of an output folder; frames keep their names, and every image has its frame's size::

    <output>/videos.csv                    all videos, those first that should be looked at
    <output>/coco.json                     COCO annotations of all videos, if that kind is chosen
    <output>/<video>/manifest.json         input, weights and settings; whether the results are complete
    <output>/<video>/masks/<frame>.png     and other kinds, see `maskvos.inference.outputs`

An interrupted run is resumed by running it again with ``existing="resume"``: complete videos are skipped without being
decoded; the interrupted one restarts at its first frame, since a movie and its flow are read from the start.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.progress import Progress, TaskID

from maskvos.data.streams import FRAME_RATE, FrameTimes, times_of
from maskvos.errors import UserError, out_of_memory
from maskvos.inference.archive import write_table
from maskvos.inference.outputs import KINDS, TRANSPARENT, Look, coco
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.inference.video_folder import VideoFolder
from maskvos.media.background import BLUR
from maskvos.media.draw import RED
from maskvos.media.files import ensure_writable, locked, remove_partial, removed_if_unused
from maskvos.media.video import Reading, probe
from maskvos.settings.table import check_settings
from maskvos.text import progress_bar
from maskvos.types import Video

# Frames that may wait to be written; segmentation waits when writing is slower.
_WAITING = 8
# Number of videos that the summary lists one by one.
_LISTED = 5


class PredictionWriter:
    """Writes segmented videos into a folder, in a thread of its own.

    Args:
        output: The folder; created if missing.
        kinds: Names in `maskvos.inference.outputs.KINDS`.
        existing: Where results exist already: ``resume`` skips complete videos and segments the others, ``overwrite``
            replaces them, ``error`` refuses.
        on_error: Of several videos, one that cannot be segmented is left out (``skip``) or ends the run (``fail``).
        colour: Tint of the overlay: RGB from 0 to 255, a name or ``#RRGGBB``.
        opacity: Opacity of the tint, 0 to 1.
        outline: Width of the outline in pixels; 0: no outline.
        outline_colour: As ``colour``; None: that of the tint.
        background: Of the kind ``background``: ``blur``, a picture or movie, a colour as above, or ``auto``, a colour
            that the object does not have.
        soft_edges: Transparency follows the picture at the object's edge; otherwise it is the mask.
        frame_rate: Frames per second of movies made from folders of images; a movie keeps its own.
        settings: What else results depend on, in plain values; stored in the manifest and compared when resuming.

    Raises:
        UserError: A setting is out of range, or no output folder is given.
    """

    def __init__(
        self,
        output: str | Path | None,
        kinds: Sequence[str] = ("masks", "overlay"),
        existing: str = "resume",
        on_error: str = "skip",
        colour: str | Sequence[int] = RED,
        opacity: float = 0.45,
        outline: int = 2,
        outline_colour: str | Sequence[int] | None = None,
        background: str | Path | Sequence[int] = BLUR,
        soft_edges: bool = True,
        frame_rate: float = FRAME_RATE,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if output is None or not str(output):
            raise UserError("no output folder; give output=<folder>")
        given = {"kinds": kinds, "existing": existing, "on_error": on_error, "opacity": opacity, "outline": outline}
        given |= {"colour": colour, "outline_colour": outline_colour, "soft_edges": soft_edges}
        check_settings({**given, "frame_rate": frame_rate}, "writer")
        self.output = Path(output).expanduser()
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.existing = existing
        self.on_error = on_error
        self.frame_rate = frame_rate
        self.look = Look.of(colour, opacity, outline, outline_colour, background, soft_edges)
        self.settings = {**(settings or {}), "kinds": self.kinds, **self.look.settings(), "frame_rate": frame_rate}
        if "background" not in kinds:  # results of versions without this kind are resumed
            del self.settings["background"]
        if not TRANSPARENT.intersection(kinds):
            del self.settings["soft_edges"]
        self.frames = 0
        self.seconds = 0.0
        self.finished: list[tuple[str, int]] = []
        self.skipped = 0
        self.failed: dict[str, str] = {}
        self.notes: list[str] = []
        self._queue = _Queue()
        self._current: VideoFolder | None = None

    def pending(self, videos: Sequence[Video]) -> list[Video]:
        """The videos that are still to be segmented; looks at all results that exist before any work is done.

        Raises:
            UserError: The folder cannot be written to, or holds results that must not be mixed with the new ones.
        """
        ensure_writable(self.output)
        left = [video for video in videos if self._is_left(video)]
        self.skipped = len(videos) - len(left)
        return left

    def claim(self, videos: Sequence[Video]) -> Generator[Video, None, None]:
        """The videos one after the other, each locked against other processes until the next one.

        Those that another process holds come last; what it has completed meanwhile is skipped.

        Raises:
            UserError: As `pending`.
        """
        held: list[Video] = []
        for wait in (False, True):
            for video in held if wait else videos:
                if wait:
                    print(f"waiting for another process that is segmenting '{video.name}'")
                with locked(self.folder(video).path, wait) as mine:
                    if not mine:
                        held.append(video)
                    elif self._is_left(video):
                        yield video
                    else:
                        self.skipped += 1

    def _is_left(self, video: Video) -> bool:
        """Whether a video is still to be segmented; raises if there are results that must not be mixed with others."""
        folder = self.folder(video)
        if self.existing == "resume":
            return not folder.is_complete(self.kinds)
        if self.existing == "error" and not folder.is_empty():
            raise UserError(
                f"there are results in {folder.path} already; choose another output=<folder>, or "
                "writer.existing=resume or writer.existing=overwrite"
            )
        return True

    def write(self, video: Video, times: FrameTimes, frames: Iterator[SegmentedFrame], reading: Reading) -> None:
        """Write all frames of a video.

        Args:
            video: The video.
            times: When its frames are shown.
            frames: The segmented frames, in order.
            reading: How many frames were read, once ``frames`` has ended.

        Raises:
            UserError: Something could not be written; what ``frames`` raises.
            RuntimeError: Frames are missing.
        """
        begin = time.perf_counter()
        folder = self._current = self.folder(video)
        count = 0
        for frame in frames:
            if frame.index != count:
                raise RuntimeError(f"video '{video.name}': frame {frame.index} came instead of frame {count}")
            if count == 0:
                self._queue.put(folder.begin, self.kinds, frame.mask.shape, times, self.existing == "overwrite")
            self._queue.put(folder.add, frame)
            count += 1
        self._queue.put(folder.finish, reading)
        self._queue.flush()
        self._current = None
        self.frames += count
        self.finished.append((video.name, count))
        self.seconds += time.perf_counter() - begin

    def fail(self, video: Video, error: UserError, alone: bool = False) -> None:
        """Note why a video cannot be segmented, and remove what is unfinished of it.

        Args:
            video: The video.
            error: Why.
            alone: It is the only one, so that the error says enough if nothing has been written.
        """
        self._queue.end()
        folder = self._current or self.folder(video)
        folder.abort(None if alone and not folder.begun else str(error))
        self._current = None
        self.failed[video.name] = str(error)

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the writing thread; after an error keep finished images and remove the unfinished movie."""
        self._queue.end()
        if self._current is not None:
            self._current.abort()
            if not self._current.video.live:  # which cannot be read again
                print(
                    f"stopped in '{self._current.video.name}'; {len(self.finished)} videos of this run are complete in "
                    f"{self.output}; run the same command again to resume"
                )
            self._current = None

    def write_overview(self, videos: Sequence[Video]) -> None:
        """Write what is made of all videos of the output folder: ``videos.csv``, and ``coco.json`` if it is chosen.

        Raises:
            UserError: They cannot be written.
        """
        with locked(self.output):
            remove_partial(self.output)
            write_table(self.output, videos)
            if "coco" in self.kinds:
                place = KINDS["coco"].place
                coco.merge([self.folder(video).path / place for video in videos], self.output / place)

    def raise_failed(self, count: int) -> None:
        """Raise `UserError` with the reasons if some of so many videos could not be segmented."""
        if self.failed:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in self.failed.items())
            raise UserError(f"{len(self.failed)} of {count} videos could not be segmented:{reasons}")

    def metrics(self) -> dict[str, float]:
        """Numbers of frames, videos and skipped videos, and frames per second from reading to writing."""
        return {
            "predict/frames": float(self.frames),
            "predict/videos": float(len(self.finished)),
            "predict/skipped": float(self.skipped),
            "predict/frames_per_second": self.frames / self.seconds if self.seconds else 0.0,
        }

    def summary(self) -> str:
        """What was written, how fast, and where."""
        lines = []
        if self.finished:
            count = f"{len(self.finished)} video{'s' if len(self.finished) > 1 else ''}"
            speed = self.metrics()["predict/frames_per_second"]
            lines.append(f"segmented {count}, {self.frames} frames, {speed:.1f} frames/s from reading to writing")
        if self.skipped:
            lines.append(f"skipped {self.skipped} segmented already (--overwrite or writer.existing=overwrite: again)")
        places = ", ".join(KINDS[kind].place + "/" * (not KINDS[kind].is_file) for kind in self.kinds)
        lines += [f"  {self.output / name}: {places} ({frames} frames)" for name, frames in self.finished[:_LISTED]]
        if len(self.finished) > _LISTED:
            lines.append(f"  ... and {len(self.finished) - _LISTED} more")
        return "\n".join([*lines, *self.notes, f"results: {self.output}"])

    def folder(self, video: Video) -> VideoFolder:
        """The results of a video.

        Raises:
            UserError: Its name cannot be that of a folder.
        """
        return VideoFolder(self.output, video, self.settings, self.look)


class StreamsVideos(Protocol):
    """What `write_predictions` needs of a `Segmenter`."""

    def stream_video(self, video: Video, times: FrameTimes, reading: Reading) -> Iterator[SegmentedFrame]:
        """See `Segmenter.stream_video`."""


def write_predictions(
    segmenter: StreamsVideos,
    videos: Sequence[Video],
    writer: PredictionWriter,
    progress: bool = True,
    listed: Sequence[Video] | None = None,
) -> None:
    """Segment videos and write the results.

    Args:
        segmenter: Segments them.
        videos: Movies or folders of frames.
        writer: Writes the results.
        progress: Show a progress bar with frames and time left on stderr.
        listed: All videos of the output folder, for ``videos.csv``, if other processes segment the others.

    Raises:
        UserError: Videos cannot be read, the others are written; or results cannot be written.
    """
    listed = videos if listed is None else listed
    alone = len(listed) == 1
    with removed_if_unused(writer.folder(listed[0]).path if alone else writer.output):
        left = writer.pending(videos)
        try:
            write_videos(segmenter, left, writer, progress, writer.on_error == "skip" and len(videos) > 1, alone)
        except UserError as error:
            if not (error.unwritable or (alone and writer.folder(listed[0]).is_empty())):
                writer.write_overview(listed)
            raise
        writer.write_overview(listed)
        writer.raise_failed(len(videos))


def write_videos(
    segmenter: StreamsVideos,
    videos: Sequence[Video],
    writer: PredictionWriter,
    progress: bool,
    skip: bool,
    alone: bool = False,
) -> None:
    """`write_predictions` without what is made of all videos of the output folder.

    Args:
        segmenter: Segments them.
        videos: Movies or folders of frames, `PredictionWriter.pending`.
        writer: Writes the results; notes videos that cannot be segmented.
        progress: Show a progress bar.
        skip: Go on after a video that cannot be segmented.
        alone: There is no other video in the output folder, see `PredictionWriter.fail`.

    Raises:
        UserError: A video cannot be segmented, unless it is skipped; or results cannot be written.
    """
    with (
        writer,
        progress_bar(shown=progress) as bar,
        contextlib.closing(writer.claim(videos)) as claimed,
    ):
        task = bar.add_task("", visible=False)
        for video in claimed:
            try:
                _write(segmenter, video, writer, bar, task)
            except UserError as error:
                if error.unwritable:
                    raise
                writer.fail(video, error, alone)
                if not skip:
                    raise


def _write(segmenter: StreamsVideos, video: Video, writer: PredictionWriter, bar: Progress, task: TaskID) -> None:
    total = len(video.frames) if video.file is None else probe(video.file).length
    bar.reset(task, total=total, description=video.name, visible=True)
    times, reading = times_of(video, writer.frame_rate), Reading()
    frames = segmenter.stream_video(video, times, reading)
    try:
        writer.write(video, times, _counted(frames, lambda: bar.advance(task)), reading)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"video '{video.name}': the memory is full; close other programs, lower data.eval_batch_size, or resize it"
        ) from error


def _counted(frames: Iterator[SegmentedFrame], advance: Callable[[], None]) -> Iterator[SegmentedFrame]:
    for frame in frames:
        yield frame
        advance()


class _Queue:
    """A thread that runs tasks in order, few of them waiting; after a failure the remaining ones are skipped."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()
        self._sound = True

    def _do(self, task: Callable[..., None], *arguments: Any) -> None:
        if self._sound:
            # Failed until it has succeeded: nothing may build on a partial task.
            self._sound = False
            task(*arguments)
            self._sound = True

    def put(self, task: Callable[..., None], *arguments: Any) -> None:
        """Append a task; blocks while too many wait, and raises the error of an earlier one."""
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting.append(self._pool.submit(self._do, task, *arguments))
        while self._waiting and (len(self._waiting) > _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()

    def flush(self) -> None:
        """Wait for all tasks; raises the error of one that failed."""
        while self._waiting:
            self._waiting.popleft().result()

    def end(self) -> None:
        """Run the waiting tasks unless one has failed, and end the thread; raises nothing."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        self._sound = True
