"""Writes what a model finds in videos: masks, probabilities, overlay movies and cut-outs, safely and resumably.

The layout of an output folder, one folder per video; frames keep their names, and every picture its frame's size::

    <output>/<video>/masks/<frame>.png     8-bit grey: 0 background, 255 object
    <output>/<video>/soft/<frame>.png      8-bit grey: probability times 255
    <output>/<video>/cutout/<frame>.png    8-bit RGBA: the object's own colours, all else transparent
    <output>/<video>/overlay.mp4           the video at its own rate with the object tinted and outlined
    <output>/<video>/side_by_side.mp4      the same, as frame | optical flow | mask (at most 3840 pixels wide)
    <output>/<video>/manifest.json         from which input, with which weights and settings; whether complete

Each file appears whole or not at all. A run that was broken off is repeated with ``existing="resume"``: complete videos
are skipped without being decoded; the one that was cut short is done again from its first frame, replacing its files
one by one (the movie and the flow have to be read from the start anyway).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from maskvos.errors import UserError, nearest
from maskvos.flow.codec import flow_to_rgb
from maskvos.media.draw import RED, draw_cutout, draw_overlay, side_by_side
from maskvos.media.files import ensure_writable, write_bytes
from maskvos.media.images import write_image
from maskvos.media.video import VideoWriter, probe, variable_timestamps
from maskvos.types import Batch, Video

KINDS = ("masks", "soft", "overlay", "side_by_side", "cutout")
EXISTING = ("resume", "overwrite", "error")
MANIFEST = "manifest.json"
# Kinds that are one movie; the others are a folder of pictures.
MOVIES = {"overlay": "overlay.mp4", "side_by_side": "side_by_side.mp4"}
# Frames that may wait to be written; the network waits when writing is slower than it.
_WAITING = 8
# So many videos are listed one by one at the end.
_LISTED = 20


class PredictionWriter(Callback):
    """Writes the predictions of ``trainer.predict``, whose batches carry ``video``, ``frame``, ``image`` and ``flow``.

    Args:
        output: Folder that everything goes to; made when it is not there.
        kinds: What to write: any of ``masks``, ``soft``, ``overlay``, ``side_by_side``, ``cutout``.
        existing: What to do where results lie already: ``resume`` skips complete videos and does the others again,
            ``overwrite`` replaces them, ``error`` refuses.
        threshold: Probability above which a pixel belongs to the object.
        colour: Of the overlay, RGB from 0 to 255.
        opacity: Of the overlay's tint, 0 to 1.
        outline: Width of the overlay's outline in pixels; 0 for none.
        outline_colour: Of the overlay's outline; None: that of the tint.
        frame_rate: Frames per second of the movies of a folder of images; a movie keeps its own.
        settings: What else results depend on (plain numbers, texts, lists, mappings), such as the flow estimator; kept
            in the manifest and compared when resuming. The weights' digest is added.

    Raises:
        UserError: A setting is out of range, or no output folder is given.
    """

    def __init__(
        self,
        output: str | Path | None,
        kinds: Sequence[str] = ("masks", "overlay"),
        existing: str = "resume",
        threshold: float = 0.5,
        colour: Sequence[int] = RED,
        opacity: float = 0.45,
        outline: int = 2,
        outline_colour: Sequence[int] | None = None,
        frame_rate: float = 24,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if output is None or not str(output):
            raise UserError("no place for the results; give output=<folder>")
        for kind in kinds:
            if kind not in KINDS:
                raise UserError(f"writer.kinds: there is no '{kind}'; {nearest(kind, KINDS)}")
        if not kinds:
            raise UserError(f"writer.kinds is empty; take some of {', '.join(KINDS)}")
        if existing not in EXISTING:
            raise UserError(f"writer.existing: there is no '{existing}'; {nearest(existing, EXISTING)}")
        if not 0 <= threshold < 1 or not 0 <= opacity <= 1:
            raise UserError(f"writer: threshold={threshold}, opacity={opacity}; both are shares from 0 to 1")
        for name, value in {"colour": colour, "outline_colour": outline_colour or RED}.items():
            if len(value) != 3 or not all(0 <= c <= 255 for c in value):
                raise UserError(f"writer.{name} is {list(value)}; give red, green and blue from 0 to 255")
        if outline < 0 or not 0 < frame_rate <= 1000:
            raise UserError(f"writer: outline={outline}, frame_rate={frame_rate}; widths and rates are positive")
        self.output = Path(output).expanduser()
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.existing = existing
        self.threshold = threshold
        self.look = {
            "colour": tuple(int(c) for c in colour),
            "opacity": opacity,
            "outline": outline,
            "outline_colour": None if outline_colour is None else tuple(int(c) for c in outline_colour),
        }
        self.frame_rate = frame_rate
        self.settings = dict(settings or {})
        self.frames = 0
        self.seconds = 0.0
        self.finished: list[tuple[str, int]] = []
        self._complete: frozenset[str] = frozenset()
        self.videos: dict[str, Video] = {}
        self._begun: list[_VideoFolder] = []
        self._current: _VideoFolder | None = None
        self._queue = _Queue()
        self._start = 0.0

    def done(self, video: str) -> bool:
        """Whether a video's results were complete when the run started; known after ``setup``."""
        return video in self._complete

    def metrics(self) -> dict[str, float]:
        """What was done: frames, videos, videos skipped, and frames per second from end to end."""
        return {
            "predict/frames": float(self.frames),
            "predict/videos": float(len(self.finished)),
            "predict/skipped": float(len(self._complete)),
            "predict/frames_per_second": self.frames / self.seconds if self.seconds else 0.0,
        }

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look at what lies in the output folder, before any work is done.

        Raises:
            UserError: The folder cannot be written to, or holds results that must not be mixed with the new ones.
        """
        if stage != "predict":
            return
        ensure_writable(self.output)
        self.frames, self.seconds, self.finished, self._complete = 0, 0.0, [], frozenset()
        datamodule = getattr(trainer, "datamodule", None)
        self.videos = {video.name: video for video in datamodule.videos("predict")} if datamodule else {}
        own = {"kinds": self.kinds, "threshold": self.threshold, **self.look, "frame_rate": self.frame_rate}
        self.settings = _plain({**self.settings, **own, "weights": digest(pl_module)})
        folders = [_VideoFolder(self, name) for name in self.videos]
        if self.existing == "error":
            for folder in folders:
                if folder.path.is_dir() and any(folder.path.iterdir()):
                    raise UserError(
                        f"there are results in {folder.path} already; choose another output=<folder>, or "
                        "writer.existing=resume or writer.existing=overwrite"
                    )
        if self.existing == "resume":
            self._complete = frozenset(folder.name for folder in folders if folder.is_complete())
        if datamodule:
            # The set's own method, since it is sent to a loading process and this object need not be.
            datamodule.done = self._complete.__contains__

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand a batch's frames to the writing thread; the last batch's errors come up here.

        Raises:
            UserError: Something could not be written, or the network's output holds no numbers.
        """
        flows: Sequence[np.ndarray | None] = [None] * len(outputs)
        if "side_by_side" in self.kinds:
            flows = list(batch["flow"].float().permute(0, 2, 3, 1).cpu().numpy())
        frames = zip(outputs, batch["image"], flows, batch["video"], batch["frame"], strict=True)
        for probability, image, flow, video, frame in frames:
            if self._current is None or self._current.name != video:
                self._finish_video()
                self._current = _VideoFolder(self, video)
                self._begun.append(self._current)
                self._queue.put(self._current.begin, image.shape[:2])
            self._queue.put(self._current.add, _checked(probability, image, f"{video}/{frame}"), image, flow, frame)
            self.frames += 1

    def _finish_video(self, complete: bool = True) -> None:
        if self._current is not None:
            self._queue.put(self._current.finish, complete)
            self._current = None

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait until all is written, and say where it lies."""
        # The whole number 1 would mean one batch.
        limit = trainer.limit_predict_batches
        self._finish_video(complete=isinstance(limit, float) and limit == 1.0)
        self._queue.flush()
        self.seconds = time.perf_counter() - self._start
        print(self.summary())

    def summary(self) -> str:
        """What was written, how fast, and where it lies."""
        speed = self.metrics()["predict/frames_per_second"]
        lines = []
        if self.finished:
            count = f"{len(self.finished)} video{'s' if len(self.finished) > 1 else ''}"
            lines.append(f"segmented {count}, {self.frames} frames, {speed:.1f} frames/s from reading to writing")
        if self._complete:
            lines.append(
                f"skipped {len(self._complete)} that were complete already (writer.existing=overwrite redoes them)"
            )
        for name, frames in self.finished[:_LISTED]:
            places = [MOVIES.get(kind, f"{kind}/") for kind in self.kinds]
            lines.append(f"  {self.output / name}: {', '.join(places)} ({frames} frames)")
        if len(self.finished) > _LISTED:
            lines.append(f"  ... and {len(self.finished) - _LISTED} more")
        lines.append(f"results: {self.output}")
        return "\n".join(lines)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop cleanly, also at Ctrl-C: finished pictures stay, an unfinished overlay movie is removed."""
        self._give_up()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave no thread and no unfinished movie behind, whatever ended the run."""
        self._give_up()

    def _give_up(self) -> None:
        self._queue.end()
        for folder in self._begun:
            folder.abort()
        self._begun = []
        if self._current is not None:
            print(
                f"stopped in '{self._current.name}'; {len(self.finished)} videos of this run are complete in "
                f"{self.output}, and the same command goes on from there"
            )
            self._current = None


class _Queue:
    """One thread that does tasks in order; few may wait, and after one that failed the others are left undone."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()
        self._sound = True

    def _do(self, task: Callable[..., None], *arguments: Any) -> None:
        if self._sound:
            # Until it comes through, it counts as failed: nothing may follow upon half a task.
            self._sound = False
            task(*arguments)
            self._sound = True

    def put(self, task: Callable[..., None], *arguments: Any) -> None:
        """Append a task; waits when too many wait, and raises what an earlier one raised."""
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting.append(self._pool.submit(self._do, task, *arguments))
        while self._waiting and (len(self._waiting) > _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()

    def flush(self) -> None:
        """Wait for all tasks; raises what one of them raised."""
        while self._waiting:
            self._waiting.popleft().result()

    def end(self) -> None:
        """Do what waits, in so far as nothing failed before, and end the thread; raises nothing."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        self._sound = True


class _VideoFolder:
    """The results of one video. `begin`, `add` and `finish` run in the writing thread, one after the other."""

    def __init__(self, writer: PredictionWriter, name: str) -> None:
        self.writer, self.name = writer, name
        self.video = writer.videos.get(name)
        self.path = writer.output / name
        self._written = 0
        self._size: tuple[int, ...] = ()
        self._movies: dict[str, VideoWriter] = {}
        self._times: list[Fraction] | None = None

    # ---------------------------------------------------------------- what lies there

    def is_complete(self) -> bool:
        """Whether all results of this very input and these very settings are here.

        Raises:
            UserError: Results of another input or other settings are here, or nobody knows whose they are.
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
        made = {**manifest["settings"], "input": manifest["input"]}
        now = {**self.writer.settings, "input": self._fingerprint()}
        for key in sorted({*made, *now}):
            if made.get(key) != now.get(key):
                raise UserError(
                    f"the results in {self.path} were made with another {key} ({_short(made.get(key))}, now "
                    f"{_short(now.get(key))}); choose another output=<folder>, or replace them with "
                    "writer.existing=overwrite"
                )
        return bool(manifest["complete"]) and all(self._has_all(kind, manifest["frames"]) for kind in self.writer.kinds)

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
        """What tells this input from another of the same name: names, lengths and times of change, not the place."""
        if self.video is None:
            return "unknown"
        files = [self.video.file] if self.video.file else [frame.image for frame in self.video.frames]
        text = hashlib.sha256()
        for file in files:
            try:
                status = file.stat()
            except OSError as error:
                raise UserError(f"the input {file} cannot be read ({error.strerror}); check the path") from error
            text.update(f"{file.name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
        return text.hexdigest()[:16]

    def _write_manifest(self, complete: bool) -> None:
        source = None
        if self.video is not None:
            source = str(self.video.file or self.video.frames[0].image.parent)
        manifest = {
            "video": self.name,
            "source": source,
            "input": self._fingerprint(),
            "frames": self._written,
            "size": [int(side) for side in self._size],
            "complete": complete,
            "settings": self.writer.settings,
        }
        write_bytes(self.path / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())

    # ---------------------------------------------------------------- writing

    def begin(self, size: tuple[int, int]) -> None:
        """Clear away what an earlier run left, say what is going to lie here, and open the movies."""
        self._size = size
        ensure_writable(self.path)
        if self.writer.existing == "overwrite":
            for name in MOVIES.values():
                (self.path / name).unlink(missing_ok=True)
        for kind in KINDS:
            for old in (self.path / kind).glob("*.png" if self.writer.existing == "overwrite" else ".*.part"):
                old.unlink(missing_ok=True)
        self._write_manifest(complete=False)
        movies = [kind for kind in self.writer.kinds if kind in MOVIES]
        rate: Fraction | float = self.writer.frame_rate
        if movies and self.video is not None and self.video.file is not None:
            rate, self._times = probe(self.video.file).fps, variable_timestamps(self.video.file)
        for kind in movies:
            self._movies[kind] = VideoWriter(self.path / MOVIES[kind], rate)

    def add(self, probability: np.ndarray, image: np.ndarray, flow: np.ndarray | None, frame: str) -> None:
        """Write all pictures of a frame; ``flow`` (h, w, 2) is on the network's grid, and only there if it is drawn."""
        mask = probability > self.writer.threshold
        for kind in self.writer.kinds:
            if kind == "masks":
                self._picture(kind, frame, mask.astype(np.uint8) * 255)
            elif kind == "soft":
                self._picture(kind, frame, np.round(np.clip(probability, 0, 1) * 255).astype(np.uint8))
            elif kind == "cutout":
                self._picture(kind, frame, draw_cutout(image, mask))
            elif kind == "overlay":
                self._picture_of_movie(kind, draw_overlay(image, mask, **self.writer.look))  # type: ignore[arg-type]
            elif flow is not None:
                self._picture_of_movie(kind, side_by_side([image, draw_flow(flow, mask.shape), mask]))
        self._written += 1

    def _picture(self, kind: str, frame: str, picture: np.ndarray) -> None:
        write_image(self.path / kind / f"{frame}.png", picture)

    def _picture_of_movie(self, kind: str, picture: np.ndarray) -> None:
        movie = self._movies[kind]
        movie.write(picture, self._time(movie.fps))

    def _time(self, rate: Fraction) -> Fraction | None:
        """When the next frame of a movie is shown; None at a constant rate."""
        if self._times is None:
            return None
        if self._written < len(self._times):
            return self._times[self._written]
        # A decoder may give more frames than the file announced; these follow at the average rate.
        return self._times[-1] + (self._written - len(self._times) + 1) / rate

    def finish(self, complete: bool) -> None:
        """Give the movies their names, and note whether the whole video was seen."""
        for movie in self._movies.values():
            movie.close()
        self._movies = {}
        self._times = None
        self._write_manifest(complete)
        self.writer.finished.append((self.name, self._written))

    def abort(self) -> None:
        """Remove the unfinished movies; call it when the writing thread is at rest."""
        for movie in self._movies.values():
            movie.abort()
        self._movies = {}


def draw_flow(flow: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Draw the flow that a network saw as it is on the frame.

    Args:
        flow: (h, w, 2) float32, pixels of the network's grid, x then y.
        size: Height and width of the frame, pixels.

    Returns:
        (H, W, 3) uint8 RGB, the colours of the Middlebury wheel.
    """
    # On a grid of other proportions directions are bent: they are straightened before they become colours.
    shares = np.array([size[1] / flow.shape[1], size[0] / flow.shape[0]], np.float32)
    return cv2.resize(flow_to_rgb(flow * shares), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def digest(module: torch.nn.Module) -> str:
    """A short name for a module's weights: equal weights, equal names."""
    text = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        text.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        text.update(value.reshape(-1).view(torch.uint8).numpy())
    return text.hexdigest()[:16]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a JSON file."""
    return json.loads(json.dumps(settings, sort_keys=True, default=str))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked(probability: Any, image: np.ndarray, name: str) -> np.ndarray:
    """A prediction as an array of the frame's size that holds numbers."""
    array = np.asarray(probability)
    if array.shape != image.shape[:2]:
        raise ValueError(f"{name}: a prediction of shape {array.shape} for a frame of {image.shape[:2]}")
    if array.dtype == bool:
        return array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(
            f"{name}: the network's output is not a number there; try trainer.precision=32, or another checkpoint"
        )
    return array
