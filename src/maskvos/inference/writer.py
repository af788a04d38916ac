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
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from maskvos.data.streams import FRAME_RATE, FrameTimes, times_of
from maskvos.errors import UserError, nearest
from maskvos.inference.archive import write_table
from maskvos.inference.outputs import KINDS, Look, coco
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.video_folder import VideoFolder
from maskvos.media.draw import GREEN, RED, Colour
from maskvos.media.files import ensure_writable, locked, remove_partial
from maskvos.media.video import Reading, probe
from maskvos.types import Video

EXISTING = ("resume", "overwrite", "error")
ON_ERROR = ("skip", "fail")
# Frames that may wait to be written; segmentation waits when writing is slower.
_WAITING = 8
# Number of videos that the summary lists one by one.
_LISTED = 20


class PredictionWriter:
    """Writes segmented videos into a folder, in a thread of its own.

    Args:
        output: The folder; created if missing.
        kinds: Names in `maskvos.inference.outputs.KINDS`.
        existing: Where results exist already: ``resume`` skips complete videos and segments the others, ``overwrite``
            replaces them, ``error`` refuses.
        on_error: Of several videos, one that cannot be segmented is left out (``skip``) or ends the run (``fail``).
        colour: Tint of the overlay, RGB from 0 to 255.
        opacity: Opacity of the tint, 0 to 1.
        outline: Width of the outline in pixels; 0: no outline.
        outline_colour: RGB from 0 to 255; None: that of the tint.
        background: Colour of the green screen, RGB from 0 to 255.
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
        colour: Sequence[int] = RED,
        opacity: float = 0.45,
        outline: int = 2,
        outline_colour: Sequence[int] | None = None,
        background: Sequence[int] = GREEN,
        frame_rate: float = FRAME_RATE,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if output is None or not str(output):
            raise UserError("no output folder; give output=<folder>")
        for kind in kinds:
            if kind not in KINDS:
                raise UserError(f"writer.kinds: unknown kind '{kind}'; {nearest(kind, KINDS)}")
        if not kinds:
            raise UserError(f"writer.kinds is empty; choose from {', '.join(KINDS)}")
        if existing not in EXISTING:
            raise UserError(f"writer.existing: invalid value '{existing}'; {nearest(existing, EXISTING)}")
        if on_error not in ON_ERROR:
            raise UserError(f"writer.on_error: invalid value '{on_error}'; {nearest(on_error, ON_ERROR)}")
        if not 0 <= opacity <= 1:
            raise UserError(f"writer.opacity is {opacity}; it must be from 0 to 1")
        colours = {"colour": colour, "outline_colour": outline_colour or RED, "background": background}
        for name, value in colours.items():
            if len(value) != 3 or not all(0 <= c <= 255 for c in value):
                raise UserError(f"writer.{name} is {list(value)}; give red, green and blue from 0 to 255")
        if outline < 0 or not 0 < frame_rate <= 1000:
            raise UserError(
                f"writer: outline={outline}, frame_rate={frame_rate}; the outline must not be negative, and the rate "
                "above 0 and at most 1000"
            )
        self.output = Path(output).expanduser()
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.existing = existing
        self.on_error = on_error
        self.frame_rate = frame_rate
        self.look = Look(
            _rgb(colour), opacity, outline, None if outline_colour is None else _rgb(outline_colour), _rgb(background)
        )
        self.settings = {**(settings or {}), "kinds": self.kinds, **self.look._asdict(), "frame_rate": frame_rate}
        if "green_screen" not in kinds:  # results of versions that have no such kind are resumed
            del self.settings["background"]
        self.frames = 0
        self.seconds = 0.0
        self.finished: list[tuple[str, int]] = []
        self.skipped = 0
        self.failed: dict[str, str] = {}
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
                with locked(self._folder(video).path, wait) as mine:
                    if not mine:
                        held.append(video)
                    elif self._is_left(video):
                        yield video
                    else:
                        self.skipped += 1

    def _is_left(self, video: Video) -> bool:
        """Whether a video is still to be segmented; raises if there are results that must not be mixed with others."""
        folder = self._folder(video)
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
        folder = self._current = self._folder(video)
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

    def fail(self, video: Video, error: UserError) -> None:
        """Note why a video cannot be segmented, and remove what is unfinished of it."""
        self._queue.end()
        (self._current or self._folder(video)).abort(str(error))
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
                coco.merge([self._folder(video).path / place for video in videos], self.output / place)

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
        return "\n".join([*lines, f"results: {self.output}"])

    def _folder(self, video: Video) -> VideoFolder:
        return VideoFolder(self.output, video, self.settings, self.look)


def write_predictions(
    segmenter: Segmenter,
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
    left, listed = writer.pending(videos), videos if listed is None else listed
    try:
        write_videos(segmenter, left, writer, progress, skip=writer.on_error == "skip" and len(videos) > 1)
    except UserError as error:
        if not error.unwritable:
            writer.write_overview(listed)
        raise
    writer.write_overview(listed)
    writer.raise_failed(len(videos))


def write_videos(
    segmenter: Segmenter, videos: Sequence[Video], writer: PredictionWriter, progress: bool, skip: bool
) -> None:
    """`write_predictions` without what is made of all videos of the output folder.

    Args:
        segmenter: Segments them.
        videos: Movies or folders of frames, `PredictionWriter.pending`.
        writer: Writes the results; notes videos that cannot be segmented.
        progress: Show a progress bar.
        skip: Go on after a video that cannot be segmented.

    Raises:
        UserError: A video cannot be segmented, unless it is skipped; or results cannot be written.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} frames"))
    with (
        writer,
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not progress) as bar,
        contextlib.closing(writer.claim(videos)) as claimed,
    ):
        task = bar.add_task("", visible=False)
        for video in claimed:
            try:
                _write(segmenter, video, writer, bar, task)
            except UserError as error:
                if error.unwritable:
                    raise
                writer.fail(video, error)
                if not skip:
                    raise


def _write(segmenter: Segmenter, video: Video, writer: PredictionWriter, bar: Progress, task: TaskID) -> None:
    total = len(video.frames) if video.file is None else probe(video.file).frames
    bar.reset(task, total=total, description=video.name, visible=True)
    times, reading = times_of(video, writer.frame_rate), Reading()
    frames = segmenter.stream_video(video, times, reading)
    try:
        writer.write(video, times, _counted(frames, lambda: bar.advance(task)), reading)
    except MemoryError as error:
        raise UserError(
            f"video '{video.name}': the memory is full; close other programs, lower data.eval_batch_size, or resize it"
        ) from error


def _counted(frames: Iterator[SegmentedFrame], advance: Callable[[], None]) -> Iterator[SegmentedFrame]:
    for frame in frames:
        yield frame
        advance()


def _rgb(colour: Sequence[int]) -> Colour:
    red, green, blue = map(int, colour)
    return red, green, blue


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
