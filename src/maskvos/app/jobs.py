"""Clips of the page's users: one is segmented at a time, the others wait in order."""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from maskvos.app.formats import check_movie
from maskvos.app.recording import Recording
from maskvos.errors import UserError, nearest
from maskvos.inference.outputs import KINDS
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.writer import PredictionWriter, write_predictions
from maskvos.media.background import AUTO, BLUR, parse_colour
from maskvos.media.draw import draw_overlay
from maskvos.media.images import encode_image
from maskvos.media.video import probe
from maskvos.types import Video

OFFERED = ("overlay", "webm", "prores", "background", "green_screen", "matte", "webp", "gif", "mask_movie")
"""Kinds of results that are one file."""

UPLOADED = "file"
"""The background is the file that was sent for it."""

# Clips that are kept; older ones are removed, with their results.
_KEPT = 20
_PREVIEW_WIDTH = 640  # pixels
_PREVIEW_EVERY = 0.25  # seconds


class _Removed(UserError):
    """The clip has been removed while it was segmented."""


@dataclass
class Job:
    """A clip, and what is made of it.

    Attributes:
        id: Random; whoever knows it may see the clip.
        name: Of the clip, as its user calls it, without suffix.
        folder: Of its files.
        type: Media type of the clip.
        frames: Their number, if the clip states it.
        state: ``new``, ``waiting``, ``working``, ``done`` or ``failed``.
        done: Frames done.
        error: Why it failed.
        result: The file that was made.
        kind: The kind of it.
        preview: JPEG of the latest frame.
        removed: It is no longer wanted.
    """

    id: str
    name: str
    folder: Path
    type: str = ""
    frames: int | None = None
    state: str = "new"
    done: int = 0
    error: str = ""
    result: Path | None = None
    kind: str = ""
    preview: bytes = b""
    removed: bool = False
    recording: Recording | None = field(default=None, repr=False)

    @property
    def clip(self) -> Path:
        """The file that was sent."""
        return self.folder / "clip"

    @property
    def background(self) -> Path:
        """The picture or movie that was sent for the background."""
        return self.folder / "background"


class Jobs:
    """The clips of all users, and the thread that segments them.

    Args:
        segmenter: Segments them.
        folder: For all files; its owner removes it.
    """

    def __init__(self, segmenter: Segmenter, folder: Path) -> None:
        self._segmenter, self._folder = segmenter, folder
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._tasks: queue.Queue[tuple[Job, dict[str, Any]] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="segment", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Remove all clips and end the thread."""
        for name in list(self._jobs):
            self.remove(name)
        self._tasks.put(None)
        self._thread.join()

    def create(self, name: str) -> Job:
        """A job for a clip that is about to be sent.

        Args:
            name: Of the clip, for people; no file gets it.
        """
        stem = Path(name.replace("\\", "/")).stem.strip(". ")[:100] or "clip"
        job = Job(secrets.token_urlsafe(16), "".join(c if c.isprintable() else "_" for c in stem), Path())
        job.folder = self._folder / job.id
        job.folder.mkdir(mode=0o700)
        with self._lock:
            self._jobs[job.id] = job
            idle = [old.id for old in self._jobs.values() if old.state in ("done", "failed")]
        for old in idle[: max(len(self._jobs) - _KEPT, 0)]:
            self.remove(old)
        return job

    def get(self, name: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(name)

    def inspect(self, job: Job) -> None:
        """Look at the clip that was sent.

        Raises:
            UserError: It is not a movie.
        """
        job.type = check_movie(job.clip)
        job.frames = probe(job.clip).length

    def position(self, job: Job) -> int:
        """How many clips come before this one."""
        with self._lock:
            return self._waiting.index(job) if job in self._waiting else 0

    def start(self, job: Job, settings: dict[str, Any]) -> None:
        """Have a result made; waits for its turn.

        Args:
            job: Of a clip that was inspected.
            settings: ``kind``, one of `OFFERED`; ``threshold``; and ``background``: a colour, `AUTO`, `BLUR` or
                `UPLOADED`, but not a path.

        Raises:
            UserError: A setting is wrong, or the clip is being worked on.
        """
        kind, threshold = settings.get("kind"), settings.get("threshold", 0.5)
        background = settings.get("background", BLUR)
        if kind not in OFFERED:
            raise UserError(f"kind {kind!r}: {nearest(str(kind), OFFERED)}")
        if not isinstance(threshold, int | float) or not 0.01 <= threshold <= 0.99:
            raise UserError(f"threshold {threshold!r}: give a number from 0.01 to 0.99")
        if background == UPLOADED:
            if not job.background.is_file():
                raise UserError("no background was sent; choose a picture or a movie")
            background = job.background
        elif background not in (AUTO, BLUR):
            background = parse_colour(str(background), "background")
        with self._lock:
            if job.state in ("waiting", "working"):
                raise UserError("this clip is being worked on; wait until it is done")
            job.state, job.done, job.error = "waiting", 0, ""
            self._waiting.append(job)
        self._tasks.put((job, {"kind": kind, "threshold": float(threshold), "background": background}))

    def remove(self, name: str) -> None:
        """Forget a clip and delete its files; if it is being worked on, after the current frame."""
        with self._lock:
            job = self._jobs.pop(name, None)
            if job is None:
                return
            job.removed = True
            working = job.state in ("waiting", "working")
        if not working:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            job, settings = task
            try:
                self._make(job, **settings)
                state = "done"
            except UserError as error:
                job.error, state = str(error).replace(str(job.clip), job.name), "failed"
            except Exception as error:  # one clip must not end the page for all
                job.error, state = f"{type(error).__name__}: {error}", "failed"
            with self._lock:
                self._waiting.remove(job)
                job.state = state
            if job.removed:
                shutil.rmtree(job.folder, ignore_errors=True)

    def _make(self, job: Job, kind: str, threshold: float, background: Any) -> None:
        if job.removed:
            raise _Removed("removed")
        job.state, shown = "working", 0.0

        def watch(frame: SegmentedFrame) -> None:
            nonlocal shown
            if job.removed:
                raise _Removed("removed")
            if time.monotonic() - shown > _PREVIEW_EVERY:
                shown, job.preview = time.monotonic(), _preview(frame)
            job.done = frame.index + 1

        if job.recording is None:
            job.recording = Recording(self._segmenter, job.folder / "recording", watch)
        job.recording.watch, job.recording.threshold = watch, threshold
        video, output = Video("result", file=job.clip), job.folder / secrets.token_hex(4)
        writer = PredictionWriter(output, [kind], background=background)
        write_predictions(job.recording, [video], writer, progress=False)
        old, job.result, job.kind = job.result, output / video.name / KINDS[kind].place, kind
        if old is not None:
            shutil.rmtree(old.parents[1], ignore_errors=True)


def _preview(frame: SegmentedFrame) -> bytes:
    drawn = draw_overlay(frame.image, frame.mask)
    height, width = drawn.shape[:2]
    if width > _PREVIEW_WIDTH:
        drawn = cv2.resize(
            drawn, (_PREVIEW_WIDTH, max(height * _PREVIEW_WIDTH // width, 1)), interpolation=cv2.INTER_AREA
        )
    return encode_image(drawn, ".jpg")
