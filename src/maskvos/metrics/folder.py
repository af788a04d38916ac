"""Evaluate saved masks: match them with the dataset, report mismatches, read and score them in parallel."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from maskvos.environment import cores
from maskvos.errors import UserError
from maskvos.metrics import layout
from maskvos.metrics.protocol import MAX_PROPOSALS, Protocol, VideoScores, check_unique
from maskvos.metrics.reading import Kind, image_size, read_prediction, read_truth
from maskvos.metrics.results import FrameScore, Summary
from maskvos.settings.table import check_settings
from maskvos.text import progress_bar

if TYPE_CHECKING:
    from maskvos.types import MaskRule, Video

Missing = Literal["fail", "zero", "skip"]
_CHUNK = 16


@dataclass
class Mismatches:
    """Differences between a folder of predictions and a dataset; entries name files, frames or sequences."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.unreadable)

    def lines(self) -> list[str]:
        """One line per kind, with its first entries."""
        lines = []
        for kind, entries in vars(self).items():
            if entries:
                more = f", and {len(entries) - layout.MAX_SHOWN} more" if len(entries) > layout.MAX_SHOWN else ""
                lines.append(f"{len(entries)} {kind}: {', '.join(entries[: layout.MAX_SHOWN])}{more}")
        return lines


@dataclass(frozen=True)
class _Task:
    """One frame to score.

    Attributes:
        video: Name of the sequence.
        frame: Name of the frame.
        truth: Ground-truth file.
        rule: Which values of the ground truth are foreground.
        like: Image to whose size the ground truth is resized; None: not resized.
        prediction: File to score; None: missing, scored as an empty mask.
    """

    video: str
    frame: str
    truth: Path
    rule: MaskRule
    like: Path | None
    prediction: Path | None


@dataclass(frozen=True)
class _Outcome:
    """Result of a task: the score, or the error if the prediction could not be read."""

    score: FrameScore | None
    kind: Kind | None = None
    greatest: int = 0
    unreadable: str = ""


def evaluate_folder(
    predictions: Path | str,
    videos: Sequence[Video],
    protocol: Protocol | None = None,
    missing: Missing = "fail",
    workers: int | None = None,
    output: Path | str | None = None,
    progress: bool = True,
) -> Summary:
    """Score a folder of predicted masks.

    The masks of a sequence are in a folder of its name, up to four levels below `predictions`
    (``<predictions>/<sequence>/00000.png``, ``<predictions>/480p/<sequence>/...``,
    ``<predictions>/<method>/480p/...``), or in its subfolder ``masks`` or ``soft``. Files are matched by name.
    Greyscale images are soft maps, thresholded according to the protocol (255 is foreground); palette images hold
    object ids, where all but 0 are foreground.

    Args:
        predictions: The folder.
        videos: The dataset, e.g. ``davis(root, "val")``.
        protocol: The evaluation protocol; None: DAVIS-2016.
        missing: How to handle missing or unreadable predictions. ``fail``: raise an error that lists them (and files
            that match no frame). ``zero``: score an empty mask. ``skip``: leave the frame out. The last two list these
            files in the summary.
        workers: Threads; None: one per CPU core.
        output: Folder for ``frames.csv``, ``sequences.csv`` and ``summary.json``; None: not written.
        progress: Show a progress bar.

    Returns:
        Scores per frame, per sequence and overall.

    Raises:
        UserError: The folder does not exist or contains no sequence, there are mismatches with ``missing="fail"`` (all
            are listed), or the masks are not in the format that the protocol expects.
    """
    check_settings(missing, "missing")
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: must be at least 1; leave it out for one per CPU core")
    protocol = protocol or Protocol("davis2016", trim="both")
    mismatches = Mismatches()
    tasks = _match(Path(predictions), videos, protocol, missing, mismatches)
    if missing == "fail" and mismatches:
        raise UserError(_describe(predictions, mismatches))

    results, statistics = _score_all(tasks, videos, protocol, missing, workers or cores(), progress)
    mismatches.unreadable = statistics.unreadable
    if missing == "fail" and mismatches:
        raise UserError(_describe(predictions, mismatches))
    statistics.check(protocol, predictions)
    summary = protocol.combine(results[video.name] for video in videos)
    summary.notes.extend([*statistics.notes(), *(f"{line} (missing={missing})" for line in mismatches.lines())])
    if output is not None:
        summary.write(output)
    return summary


@dataclass
class _Statistics:
    """File formats and values over all predictions."""

    kinds: Counter[str] = field(default_factory=Counter)
    greatest: int = 0
    unreadable: list[str] = field(default_factory=list)

    def add(self, outcome: _Outcome) -> None:
        self.greatest = max(self.greatest, outcome.greatest)
        if outcome.kind:
            self.kinds[outcome.kind] += 1
        if outcome.unreadable:
            self.unreadable.append(outcome.unreadable)

    def check(self, protocol: Protocol, predictions: Path | str) -> None:
        """Raise if object ids saved as greyscale would be read as soft maps that are below the threshold everywhere."""
        if protocol.objects == "match" or not 0 < self.greatest <= min(protocol.level, MAX_PROPOSALS):
            return
        raise UserError(
            f"{predictions}: no grey value is above {self.greatest}, so these seem to be object ids, not maps from 0 to"
            f" 255, and nothing exceeds protocol.threshold={protocol.threshold}; set protocol.threshold=above_0, or"
            " save 255 for foreground"
        )

    def notes(self) -> list[str]:
        """What is unusual about the predictions, a sentence each."""
        notes = []
        if self.kinds["colours"]:
            notes.append(f"{self.kinds['colours']} predictions are in colour: all pixels but black are foreground")
        if self.kinds["labels"] and self.kinds["levels"]:
            notes.append(
                f"{self.kinds['labels']} predictions are palette images (all ids but 0 are foreground) and"
                f" {self.kinds['levels']} are greyscale (thresholded)"
            )
        return notes


def _score_all(
    tasks: Sequence[_Task],
    videos: Sequence[Video],
    protocol: Protocol,
    missing: Missing,
    workers: int,
    progress: bool,
) -> tuple[dict[str, VideoScores], _Statistics]:
    """Score all frames; return the results of `Protocol.reduce` by video name."""
    named = {video.name: video for video in videos}
    results = {name: protocol.reduce(name, [], video.frames, video.category) for name, video in named.items()}
    statistics = _Statistics()
    lock = Lock()

    def score_chunk(chunk: Sequence[_Task]) -> list[_Outcome]:
        return [_score(task, protocol, missing, lock) for task in chunk]

    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    with _threads(min(workers, len(chunks))) as run, _bar(len(tasks), progress) as advance:
        outcomes = (outcome for chunk in run(score_chunk, chunks) for outcome in chunk)
        # Outcomes arrive in order of the videos: average each video and free its frames before the next.
        for name, pairs in groupby(zip(tasks, outcomes, strict=True), key=lambda pair: pair[0].video):
            scores = []
            for _, outcome in pairs:
                advance()
                statistics.add(outcome)
                scores += [outcome.score] if outcome.score else []
            results[name] = protocol.reduce(name, scores, named[name].frames, named[name].category)
    return results, statistics


def _match(
    root: Path, videos: Sequence[Video], protocol: Protocol, missing: Missing, mismatches: Mismatches
) -> list[_Task]:
    """Match files with the frames to score, and collect mismatches."""
    check_unique(videos)
    for video in videos:
        if not video.annotated:
            raise UserError(f"video '{video.name}': no ground truth; choose another dataset")
    base = layout.find_base(root, videos)
    tasks: list[_Task] = []
    for video in videos:
        files = layout.prediction_files(base if layout.is_sequence(base, videos) else base / video.name, protocol.soft)
        names = [frame.name for frame in video.frames]
        extra = sorted(set(files) - set(names))
        mismatches.extra += [f"{video.name}/{files[name].name}" for name in extra]
        mismatches.extra += [f"{video.name}/{p.name} (beside {files[p.stem].name})" for p in layout.duplicates(files)]
        needed = {frame.name for frame in video.annotated if not protocol.trimmed(frame.name, names)}
        if not files:
            mismatches.missing.append(f"{video.name} (all {len(needed)} frames)")
        for frame in video.frames:
            if frame.mask is None or (frame.name not in files and frame.name not in needed):
                continue
            if frame.name not in files:
                if files:
                    mismatches.missing.append(f"{video.name}/{frame.name}{layout.misnamed_hint(frame.name, extra)}")
                if missing != "zero":
                    continue
            like = frame.image if video.masks.any_size else None
            tasks.append(_Task(video.name, frame.name, frame.mask, video.masks, like, files.get(frame.name)))
    if not layout.is_sequence(base, videos):
        tops = {video.name.split("/")[0] for video in videos}
        others = [path for path in layout.subfolders(base) if path.name not in tops]
        mismatches.extra += [f"{path.name}/" for path in others if layout.prediction_files(path, protocol.soft)]
    return tasks


def _describe(predictions: Path | str, mismatches: Mismatches) -> str:
    remedy = "give the right folder, add the files, or set missing=zero (score empty masks) or missing=skip (leave out)"
    return "\n  ".join([f"predictions={predictions} do not match the dataset:", *mismatches.lines(), remedy])


def _score(task: _Task, protocol: Protocol, missing: Missing, lock: Lock) -> _Outcome:
    """Read and score one frame.

    Images are decoded concurrently, but scored one at a time under `lock`. Scoring consists of many short array
    operations that release and reacquire the GIL; several threads doing so spend more time on switching than on work.

    Raises:
        UserError: The ground truth cannot be read, or the prediction has no object ids although they are matched.
    """
    truth = read_truth(task.truth, task.rule)
    if task.like is not None:
        truth = _resize(truth, image_size(task.like))
    if protocol.objects == "merge":
        truth = truth != 0
    note, unreadable = "no prediction: scored as an empty mask", ""
    prediction = None
    if task.prediction is not None:
        try:
            prediction = read_prediction(task.prediction)
        except UserError as error:
            unreadable = str(error)
            note = "prediction not readable: scored as an empty mask"
            if missing != "zero":
                return _Outcome(None, unreadable=unreadable)
    if prediction is None:
        with lock:
            score = protocol.score(task.video, task.frame, np.zeros(truth.shape, bool), truth, note=note)
        return _Outcome(score, unreadable=unreadable)
    if protocol.objects == "match" and prediction.kind == "colours":
        raise UserError(f"{task.prediction}: a colour image has no object ids; save ids as palette or greyscale PNG")
    values = _resize(prediction.values, truth.shape)
    note = ""
    if values is not prediction.values:
        sizes = [f"{width}x{height}" for height, width in (prediction.values.shape, truth.shape)]
        note = f"prediction of {sizes[0]} resized to the truth's {sizes[1]} (nearest pixel)"
    with lock:
        score = protocol.score(task.video, task.frame, values, truth, labels=prediction.kind != "levels", note=note)
    return _Outcome(score, prediction.kind, int(values.max()) if prediction.kind == "levels" else 0)


def _resize(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize (H, W) by nearest neighbour; return the array itself if it has that size."""
    if values.shape == size:
        return values
    return cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


@contextmanager
def _threads(count: int) -> Iterator[Callable[..., Iterable[list[_Outcome]]]]:
    """Yield an ordered `map` over a thread pool; pending work is cancelled at exit."""
    if count <= 1:
        yield map
        return
    # A thread that has decoded an image requests the GIL after this time; the default 5 ms is as long as ten images.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
            sys.setswitchinterval(interval)


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """Progress bar on stderr; yields a function that advances it by one."""
    with progress_bar(shown=shown) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda: bar.advance(task)
