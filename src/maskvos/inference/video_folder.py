"""The results of one video on disk: images, movies, and the manifest that says how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from maskvos.data.streams import FrameTimes
from maskvos.errors import UserError
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.draw import draw_cutout, draw_overlay, side_by_side
from maskvos.media.files import ensure_writable, remove_partial, write_bytes
from maskvos.media.images import write_image
from maskvos.media.video import Reading, VideoWriter
from maskvos.types import Video

KINDS = ("masks", "soft", "overlay", "side_by_side", "cutout")
MANIFEST = "manifest.json"
MOVIES = {"overlay": "overlay.mp4", "side_by_side": "side_by_side.mp4"}
"""Kinds that are one movie; the others are folders of images."""


class Look(NamedTuple):
    """How an overlay is drawn, see `draw_overlay`."""

    colour: tuple[int, ...]
    opacity: float
    outline: int
    outline_colour: tuple[int, ...] | None


class VideoFolder:
    """The results of one video. `begin`, `add` and `finish` are called in this order, from one thread.

    Args:
        output: The output folder, in which this one is named after the video.
        video: The video.
        settings: What results depend on, in plain values.
        look: How the overlay is drawn.
    """

    def __init__(self, output: Path, video: Video, settings: Mapping[str, Any], look: Look) -> None:
        if Path(video.name).name != video.name or video.name in ("", ".."):
            raise UserError(f"video '{video.name}': its name cannot be that of a folder in {output}; rename it")
        self.video = video
        self.path = output / video.name
        self.settings = json.loads(json.dumps(settings, sort_keys=True, default=str))  # as they come back from the file
        self.look = look
        self.written = 0
        self._kinds: Sequence[str] = ()
        self._size: tuple[int, ...] = ()
        self._movies: dict[str, VideoWriter] = {}
        self._times: FrameTimes | None = None

    # ---------------------------------------------------------------- existing results

    def is_complete(self, kinds: Sequence[str]) -> bool:
        """Whether all results of this input with these settings exist.

        Of a video that is short, that is all of what can be read; of one that failed, nothing.

        Raises:
            UserError: There are results of another input or other settings, or of unknown origin.
        """
        found = [kind for kind in KINDS if (self.path / MOVIES.get(kind, kind)).exists()]
        manifest = self._read_manifest()
        if manifest is None:
            if found:
                raise UserError(
                    f"{self.path} holds {', '.join(found)} without a manifest.json that says how they were made; "
                    "choose another output=<folder>, or replace them with writer.existing=overwrite"
                )
            return False
        if "error" in manifest:
            return False
        made = {**manifest["settings"], "input": manifest["input"]}
        now = {**self.settings, "input": self._fingerprint()}
        for key in sorted({*made, *now}):
            if made.get(key) != now.get(key):
                raise UserError(
                    f"the results in {self.path} were made with another {key} ({_short(made.get(key))}, now "
                    f"{_short(now.get(key))}); choose another output=<folder>, or replace them with "
                    "writer.existing=overwrite"
                )
        done = manifest["complete"] or "expected" in manifest
        return bool(done) and all(self._has_all(kind, manifest["frames"]) for kind in kinds)

    def is_empty(self) -> bool:
        """Whether there are no results, of whatever kind."""
        return not self.path.is_dir() or not any(path.name != ".lock" for path in self.path.iterdir())

    def _has_all(self, kind: str, frames: int) -> bool:
        if kind in MOVIES:
            return (self.path / MOVIES[kind]).is_file()
        folder = self.path / kind
        return folder.is_dir() and sum(1 for _ in folder.glob("[!.]*.png")) == frames

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            manifest = json.loads((self.path / MANIFEST).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path / MANIFEST} cannot be read ({error}); delete the folder, or use writer.existing=overwrite"
            ) from error
        if not isinstance(manifest, dict) or not {"settings", "input", "frames", "complete"} <= set(manifest):
            raise UserError(f"{self.path / MANIFEST} is not a manifest of predictions; choose another output=<folder>")
        return manifest

    def _fingerprint(self) -> str:
        """Hash of the input files' names, sizes and modification times, but not of their folder; reading them fails."""
        files = [self.video.file] if self.video.file else [frame.image for frame in self.video.frames]
        text = hashlib.sha256()
        for file in files:
            try:
                status = file.stat()
                text.update(f"{file.name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
            except OSError as error:  # whoever reads it reports this
                text.update(f"{file.name}|{error.errno}\n".encode())
        return text.hexdigest()[:16]

    def _write_manifest(self, complete: bool, **more: Any) -> None:
        manifest = {
            "video": self.video.name,
            "source": str(self.video.file or self.video.frames[0].image.parent),
            "input": self._fingerprint(),
            "frames": self.written,
            "size": [int(side) for side in self._size],
            "complete": complete,
            **more,
            "settings": self.settings,
        }
        write_bytes(self.path / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())

    # ---------------------------------------------------------------- writing

    def begin(self, kinds: Sequence[str], size: tuple[int, int], times: FrameTimes, overwrite: bool) -> None:
        """Remove leftovers of earlier runs, write an incomplete manifest, and open the movies.

        Args:
            kinds: What to write, of `KINDS`.
            size: Height and width of the frames, pixels.
            times: When the frames are shown.
            overwrite: Also remove finished results.
        """
        self._kinds, self._size, self._times = kinds, size, times
        ensure_writable(self.path)
        remove_partial(self.path)
        for kind in KINDS:
            remove_partial(self.path / kind)
        if overwrite or "error" in (self._read_manifest() or {}):
            for name in MOVIES.values():
                (self.path / name).unlink(missing_ok=True)
            for kind in KINDS:
                for old in (self.path / kind).glob("*.png"):
                    old.unlink(missing_ok=True)
        self._write_manifest(complete=False)
        for kind in kinds:
            if kind in MOVIES:
                self._movies[kind] = VideoWriter(self.path / MOVIES[kind], times.rate)

    def add(self, frame: SegmentedFrame) -> None:
        """Write everything of one frame."""
        for kind in self._kinds:
            if kind == "masks":
                self._write_image(kind, frame, frame.mask.astype(np.uint8) * 255)
            elif kind == "soft":
                self._write_image(kind, frame, np.round(np.clip(frame.probability, 0, 1) * 255).astype(np.uint8))
            elif kind == "cutout":
                self._write_image(kind, frame, draw_cutout(frame.image, frame.mask))
            elif kind == "overlay":
                self._movie_frame(kind, draw_overlay(frame.image, frame.mask, **self.look._asdict()))
            else:
                flow = draw_flow(frame.flow, frame.mask.shape)
                self._movie_frame(kind, side_by_side([frame.image, flow, frame.mask]))
        self.written += 1

    def _write_image(self, kind: str, frame: SegmentedFrame, image: np.ndarray) -> None:
        write_image(self.path / kind / f"{frame.name}.png", image)

    def _movie_frame(self, kind: str, picture: np.ndarray) -> None:
        uneven = self._times is not None and self._times.uneven is not None
        self._movies[kind].write(picture, self._times.at(self.written) if self._times and uneven else None)

    def finish(self, reading: Reading) -> None:
        """Close the movies and mark the results as complete, unless the video is short.

        Raises:
            RuntimeError: Not all frames that were read have been written.
        """
        if not reading.ended or reading.frames != self.written:
            raise RuntimeError(f"video '{self.video.name}': {reading.frames} frames read, but {self.written} written")
        for movie in self._movies.values():
            movie.close()
        self._movies = {}
        noted = {"expected": reading.expected} if reading.short else {}
        self._write_manifest(not reading.short, **noted, damaged=reading.damaged)

    def abort(self, reason: str | None = None) -> None:
        """Remove the unfinished movies; call it when the writing thread has ended.

        Args:
            reason: Why the video cannot be segmented, for the manifest; None: it can be.
        """
        for movie in self._movies.values():
            movie.abort()
        self._movies = {}
        if reason is not None:
            self._write_manifest(complete=False, error=reason)


def draw_flow(flow: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Draw the network's input flow at the frame's size.

    Args:
        flow: (h, w, 2) float32, pixels of the network's input, x then y.
        size: Height and width of the frame, pixels.

    Returns:
        (H, W, 3) uint8 RGB, the colours of the Middlebury wheel.
    """
    from maskvos.flow.colours import flow_to_rgb  # imports torch, which the other kinds do not need

    # Another aspect ratio changes directions: undo that before they become colours.
    scale = np.array([size[1] / flow.shape[1], size[0] / flow.shape[0]], np.float32)
    return cv2.resize(flow_to_rgb(flow * scale), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
