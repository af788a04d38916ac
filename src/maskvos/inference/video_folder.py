"""The results of one video on disk: images, movies, and the manifest that says how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from maskvos.data.datasets.folder import RESULTS
from maskvos.data.streams import FrameTimes
from maskvos.errors import UserError
from maskvos.inference.outputs import KINDS, Look, Output, Target
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.files import ensure_writable, read_file, remove, remove_partial, write_bytes
from maskvos.media.video import Reading
from maskvos.text import flatten
from maskvos.types import Video

MANIFEST = RESULTS


class VideoFolder:
    """The results of one video. `begin`, `add` and `finish` are called in this order, from one thread.

    Args:
        output: The output folder, in which this one is named after the video.
        video: The video.
        settings: What results depend on, in plain values.
        look: How results are drawn.
    """

    def __init__(self, output: Path, video: Video, settings: Mapping[str, Any], look: Look) -> None:
        # The name of a video in nested folders is a path; none leads out of the output folder.
        name = Path(video.name)
        if not name.parts or name.anchor or not all(part.strip(".") for part in name.parts):
            raise UserError(f"video '{video.name}': its name cannot be that of a folder in {output}; rename it")
        self.video = video
        self.path = output / video.name
        self.settings = json.loads(json.dumps(settings, sort_keys=True, default=str))  # as they come back from the file
        self.look = look
        self.written = 0
        self._foreground = self._confidence = 0.0
        self._size: tuple[int, ...] = ()
        self._outputs: list[Output] = []
        self._times = FrameTimes(Fraction(1))

    # ---------------------------------------------------------------- existing results

    def is_complete(self, kinds: Sequence[str]) -> bool:
        """Whether all results of this input with these settings exist.

        Of a video that is short, that is all of what can be read; of one that failed, nothing.

        Raises:
            UserError: There are results of another input or other settings, or of unknown origin.
        """
        found = [kind.place for kind in KINDS.values() if (self.path / kind.place).exists()]
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
        made = dict(flatten({**manifest["settings"], "input": manifest["input"]}))
        now = dict(flatten({**self.settings, "input": self._fingerprint()}))
        for key in sorted({*made, *now}):
            if made.get(key) != now.get(key):
                raise UserError(
                    f"the results in {self.path} were made with {key}={_short(made.get(key))}, which is "
                    f"{_short(now.get(key))} now; choose another output=<folder>, or replace them with "
                    "writer.existing=overwrite"
                )
        done = manifest["complete"] or "expected" in manifest
        return bool(done) and all(self._has_all(kind, manifest["frames"]) for kind in kinds)

    def is_empty(self) -> bool:
        """Whether there are no results, of whatever kind."""
        return not self.path.is_dir() or not any(path.name != ".lock" for path in self.path.iterdir())

    def _has_all(self, kind: str, frames: int) -> bool:
        path = self.path / KINDS[kind].place
        if KINDS[kind].is_file:
            return path.is_file()
        return path.is_dir() and sum(1 for _ in path.glob("[!.]*.png")) == frames

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            manifest = json.loads(read_file(self.path / MANIFEST))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.path / MANIFEST} cannot be read ({error}); delete the folder, or use writer.existing=overwrite"
            ) from error
        if (
            not isinstance(manifest, dict)
            or not {"settings", "input", "frames", "complete"} <= set(manifest)
            or not isinstance(manifest["settings"], dict)
            or not isinstance(manifest["frames"], int)
        ):
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
            "source": str(self.video.live or self.video.file or self.video.frames[0].image.parent),
            "input": self._fingerprint(),
            "frames": self.written,
            "size": [int(side) for side in self._size],
            "complete": complete,
            **more,
            "settings": self.settings,
        }
        write_bytes(self.path / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())

    # ---------------------------------------------------------------- writing

    @property
    def begun(self) -> bool:
        """Whether `begin` has been called."""
        return bool(self._size)

    def begin(self, kinds: Sequence[str], size: tuple[int, int], times: FrameTimes, overwrite: bool) -> None:
        """Remove leftovers of earlier runs, write an incomplete manifest, and begin the outputs.

        Args:
            kinds: What to write, of `KINDS`.
            size: Height and width of the frames, pixels.
            times: When the frames are shown.
            overwrite: Also remove finished results.
        """
        self._size, self._times = size, times
        ensure_writable(self.path)
        for place in (self.path, *(self.path / kind.place for kind in KINDS.values())):
            remove_partial(place)
        if overwrite or "error" in (self._read_manifest() or {}):
            for kind in KINDS.values():
                for old in [self.path / kind.place] if kind.is_file else (self.path / kind.place).glob("*.png"):
                    remove(old)
        self._write_manifest(complete=False)
        for name in kinds:
            target = Target(self.path / KINDS[name].place, self.video, times, self.look)
            self._outputs.append(KINDS[name].open(target))

    def add(self, frame: SegmentedFrame) -> None:
        """Write everything of one frame."""
        for output in self._outputs:
            output.add(frame)
        self.written += 1
        self._foreground += np.count_nonzero(frame.mask) / frame.mask.size
        self._confidence += frame.confidence

    def finish(self, reading: Reading) -> None:
        """Close all files and mark the results as complete, unless the video is short.

        Raises:
            RuntimeError: Not all frames that were read have been written.
        """
        if not reading.ended or reading.frames != self.written:
            raise RuntimeError(f"video '{self.video.name}': {reading.frames} frames read, but {self.written} written")
        for output in self._outputs:
            output.finish()
        self._outputs = []
        noted: dict[str, Any] = {"expected": reading.expected} if reading.short else {}
        noted |= {"damaged": reading.damaged, "seconds": round(float(self._times.at(self.written)), 3)}
        noted |= {"foreground": round(self._foreground / self.written, 4)}
        noted |= {"confidence": round(self._confidence / self.written, 4)}
        self._write_manifest(not reading.short, **noted)

    def abort(self, reason: str | None = None) -> None:
        """Remove what is unfinished; call it when the writing thread has ended.

        Args:
            reason: Why the video cannot be segmented, for the manifest; None: it can be.
        """
        for output in self._outputs:
            output.abort()
        self._outputs = []
        if reason is not None:
            self._write_manifest(complete=False, error=reason)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
