"""Scores masks that any program saved: finds them, tells what is wrong with them, reads and scores them in parallel."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskvos.errors import UserError, nearest
from maskvos.metrics.protocol import MAX_PROPOSALS, Protocol, Reduced, check_unique
from maskvos.metrics.reading import SUFFIXES, Kind, image_size, read_picture, read_truth
from maskvos.metrics.results import FrameScore, Summary

if TYPE_CHECKING:
    from maskvos.types import MaskRule, Video

Missing = Literal["fail", "zero", "skip"]
_CHUNK = 16
_DEPTH = 4
_SHOWN = 20


@dataclass
class Problems:
    """What is wrong with a folder of predictions, by kind; every entry names a file, frame or sequence."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.unreadable)

    def lines(self) -> list[str]:
        """One line for each kind, with its first entries."""
        lines = []
        for kind, entries in vars(self).items():
            if entries:
                more = f", and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
                lines.append(f"{len(entries)} {kind}: {', '.join(entries[:_SHOWN])}{more}")
        return lines


@dataclass(frozen=True)
class _Task:
    """One frame to score.

    Attributes:
        video: Name of the sequence.
        frame: Name of the frame.
        truth: Its ground truth.
        rule: How the truth's values are to be understood.
        like: The image whose size the truth is to take, where it may have another.
        prediction: The file to score; None: an empty mask in place of a missing one.
    """

    video: str
    frame: str
    truth: Path
    rule: MaskRule
    like: Path | None
    prediction: Path | None


@dataclass(frozen=True)
class _Outcome:
    """What came of a task: a score, or the reason why the prediction could not be read."""

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
    """Score the masks in a folder.

    The masks of a sequence lie in a folder of its name, anywhere down to four levels below `predictions`
    (``<predictions>/<sequence>/00000.png``, ``<predictions>/480p/<sequence>/...``,
    ``<predictions>/<method>/480p/...``), or one level further in ``masks`` or ``soft``. Files are matched by name. Grey
    images are soft maps that the protocol's threshold turns into masks (255 is foreground); palette images hold labels,
    of which all but 0 are foreground.

    Args:
        predictions: The folder.
        videos: The dataset, such as ``davis(root, "val")``.
        protocol: How to score; None: DAVIS-2016.
        missing: What to do about predictions that are missing or cannot be read: ``fail`` lists them (and files that
            belong to no frame) in an error; ``zero`` scores an empty mask; ``skip`` leaves the frame out. The last two
            list in the summary what they did.
        workers: Threads; None: one for each core.
        output: Folder for ``frames.csv``, ``sequences.csv`` and ``summary.json``; None: none are written.
        progress: Show a bar with the time left.

    Returns:
        Scores of frames, sequences, and overall.

    Raises:
        UserError: No such folder, no sequence in it, problems as above under ``fail``, or masks that look like
            something else than what the protocol expects; the message lists all problems.
    """
    if missing not in get_args(Missing):
        raise UserError(f"missing={missing}: there is no such option; {nearest(str(missing), get_args(Missing))}")
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: give at least 1, or leave it out for one for each core")
    protocol = protocol or Protocol("davis2016", trim="both")
    problems = Problems()
    tasks = _plan(Path(predictions), videos, protocol, missing, problems)
    if missing == "fail" and problems:
        raise UserError(_complaint(predictions, problems))

    parts, seen = _score_all(tasks, videos, protocol, missing, workers or _cores(), progress)
    problems.unreadable = seen.unreadable
    if missing == "fail" and problems:
        raise UserError(_complaint(predictions, problems))
    seen.check(protocol, predictions)
    summary = protocol.combine(parts[video.name] for video in videos)
    summary.notes.extend([*seen.notes(), *(f"{line} (missing={missing})" for line in problems.lines())])
    if output is not None:
        summary.write(output)
    return summary


def find_predictions(
    predictions: Path | str, videos: Sequence[Video], protocol: Protocol
) -> dict[tuple[str, str], Path]:
    """Where the masks lie that `evaluate_folder` scores, by the names of sequence and frame.

    Raises:
        UserError: No such folder, or no sequence in it.
    """
    base = _find_base(Path(predictions), videos)
    alone = _is_sequence(base, videos)
    return {
        (video.name, frame): path
        for video in videos
        for frame, path in _files(base if alone else base / video.name, protocol.soft).items()
    }


@dataclass
class _Seen:
    """What all predictions together look like."""

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
        """Refuse object labels that are about to pass for very dark soft maps, all of them below the threshold."""
        if protocol.objects == "match" or not 0 < self.greatest <= min(protocol.level, MAX_PROPOSALS):
            return
        raise UserError(
            f"{predictions}: no grey value is above {self.greatest}, so these look like labels and not like maps from 0"
            f" to 255, and nothing would be above protocol.threshold={protocol.threshold};"
            " set protocol.threshold=above_0, or save 255 for foreground"
        )

    def notes(self) -> list[str]:
        notes = []
        if self.kinds["colours"]:
            notes.append(f"{self.kinds['colours']} predictions are in colour: all but black was taken for foreground")
        if self.kinds["labels"] and self.kinds["levels"]:
            notes.append(
                f"{self.kinds['labels']} predictions are palette images (all but 0 is foreground) and"
                f" {self.kinds['levels']} grey ones (foreground by threshold)"
            )
        return notes


def _score_all(
    tasks: Sequence[_Task],
    videos: Sequence[Video],
    protocol: Protocol,
    missing: Missing,
    workers: int,
    progress: bool,
) -> tuple[dict[str, Reduced], _Seen]:
    """Score all frames; what `Protocol.reduce` made of each video, by name."""
    named = {video.name: video for video in videos}
    parts = {name: protocol.reduce(name, [], video.frames, video.category) for name, video in named.items()}
    seen = _Seen()
    work = partial(_score_chunk, protocol=protocol, missing=missing, turn=Lock())
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    with _threads(min(workers, len(chunks))) as run, _bar(len(tasks), progress) as advance:
        outcomes = (outcome for chunk in run(work, chunks) for outcome in chunk)
        # Outcomes come in order of the videos: each video is averaged, and its frames let go, before the next.
        for name, pairs in groupby(zip(tasks, outcomes, strict=True), key=lambda pair: pair[0].video):
            scores = []
            for _, outcome in pairs:
                advance()
                seen.add(outcome)
                scores += [outcome.score] if outcome.score else []
            parts[name] = protocol.reduce(name, scores, named[name].frames, named[name].category)
    return parts, seen


def _plan(root: Path, videos: Sequence[Video], protocol: Protocol, missing: Missing, problems: Problems) -> list[_Task]:
    """Match the files with the frames to score, and note what does not fit."""
    check_unique(videos)
    for video in videos:
        if not video.annotated:
            raise UserError(f"video '{video.name}': it has no ground truth to score against; choose another dataset")
    base = _find_base(root, videos)
    tasks: list[_Task] = []
    for video in videos:
        files = _files(base if _is_sequence(base, videos) else base / video.name, protocol.soft)
        names = [frame.name for frame in video.frames]
        extra = sorted(set(files) - set(names))
        problems.extra += [f"{video.name}/{files[name].name}" for name in extra]
        problems.extra += [f"{video.name}/{path.name} (beside {files[path.stem].name})" for path in _second(files)]
        needed = {frame.name for frame in video.annotated if not protocol.trimmed(frame.name, names)}
        if not files:
            problems.missing.append(f"{video.name} (all {len(needed)} frames)")
        for frame in video.frames:
            if frame.mask is None or (frame.name not in files and frame.name not in needed):
                continue
            if frame.name not in files:
                problems.missing += [f"{video.name}/{frame.name}{_misnamed(frame.name, extra)}"] if files else []
                if missing != "zero":
                    continue
            like = frame.image if video.masks.any_size else None
            tasks.append(_Task(video.name, frame.name, frame.mask, video.masks, like, files.get(frame.name)))
    if not _is_sequence(base, videos):
        tops = {video.name.split("/")[0] for video in videos}
        others = [path for path in _folders(base) if path.name not in tops]
        problems.extra += [f"{path.name}/" for path in others if _files(path, protocol.soft)]
    return tasks


def _find_base(root: Path, videos: Sequence[Video]) -> Path:
    """The folder that holds the sequences, or the one sequence there is."""
    if not root.is_dir():
        raise UserError(f"predictions={root}: there is no such folder; give the one that holds <sequence>/<frame>.png")
    if _is_sequence(root, videos):
        return root
    found = {folder: sum((folder / video.name).is_dir() for video in videos) for folder in _walk(root, _DEPTH)}
    best = max(found, key=lambda folder: (found[folder], -len(folder.parts)))
    if not found[best]:
        there = ", ".join(path.name for path in _folders(root)[:_SHOWN]) or "no folder"
        raise UserError(
            f"predictions={root}: none of the {len(videos)} sequences is there (such as '{videos[0].name}'); expected"
            f" {root}/<sequence>/<frame>.png, and found: {there}"
        )
    rivals = [
        folder
        for folder, count in found.items()
        if count and folder != best and folder not in best.parents and best not in folder.parents
    ]
    if rivals:
        raise UserError(
            f"predictions={root}: several folders hold sequences, {best} and {rivals[0]}; give the one to score"
        )
    return best


def _is_sequence(folder: Path, videos: Sequence[Video]) -> bool:
    """Whether the frames of the only video lie in the folder itself."""
    return len(videos) == 1 and not {frame.name for frame in videos[0].frames}.isdisjoint(_images(folder))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it, except folders of images."""
    yield folder
    if depth:
        for inner in _folders(folder):
            if not _images(inner):
                yield from _walk(inner, depth - 1)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by name; of two formats of one name the first of `SUFFIXES`."""
    return {path.stem: path for path in reversed(_all_images(folder))}


def _all_images(folder: Path) -> list[Path]:
    """Image files of a folder, the preferred formats first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=lambda path: (SUFFIXES.index(path.suffix.lower()), path))


def _second(files: dict[str, Path]) -> list[Path]:
    """Images beside those of `files` that have the name of one of them, in another format."""
    folders = sorted({path.parent for path in files.values()})
    return sorted(path for folder in folders for path in _all_images(folder) if files.get(path.stem) != path)


def _files(folder: Path, soft: bool) -> dict[str, Path]:
    """Predictions of a sequence: in its folder, or in ``masks`` or ``soft`` within (`soft` tells which to prefer)."""
    inner = ("soft", "masks") if soft else ("masks", "soft")
    return next((files for files in map(_images, (folder, *(folder / name for name in inner))) if files), {})


def _misnamed(name: str, extra: Sequence[str]) -> str:
    """A hint when a file that belongs to no frame looks like this one."""
    if name.isdigit():
        alike = [other for other in extra if (digits := re.findall(r"\d+", other)) and int(digits[-1]) == int(name)]
    else:
        alike = [other for other in extra if name in other]
    return f" (is it '{alike[0]}'?)" if alike else ""


def _complaint(predictions: Path | str, problems: Problems) -> str:
    remedy = "give the right folder or complete it, or set missing=zero (score empty masks) or missing=skip (leave out)"
    return "\n  ".join([f"predictions={predictions} do not match the dataset:", *problems.lines(), remedy])


def _score_chunk(tasks: Sequence[_Task], protocol: Protocol, missing: Missing, turn: Lock) -> list[_Outcome]:
    return [_score(task, protocol, missing, turn) for task in tasks]


def _score(task: _Task, protocol: Protocol, missing: Missing, turn: Lock) -> _Outcome:
    """Read and score one frame.

    Images are decoded at the same time; scoring is done in `turn`. Its many short array operations let Python's own
    lock go and take it again each time, and two threads that do so spend more time on waking one another than on work.

    Raises:
        UserError: The truth cannot be read, or the prediction does not hold what the protocol needs.
    """
    truth = read_truth(task.truth, task.rule)
    if task.like is not None:
        truth = _resize(truth, image_size(task.like))
    if protocol.objects == "merge":
        truth = truth != 0
    note, unreadable = "no prediction: scored as an empty mask", ""
    picture = None
    if task.prediction is not None:
        try:
            picture = read_picture(task.prediction)
        except UserError as error:
            unreadable = str(error)
            note = "prediction not readable: scored as an empty mask"
            if missing != "zero":
                return _Outcome(None, unreadable=unreadable)
    if picture is None:
        with turn:
            score = protocol.score(task.video, task.frame, np.zeros(truth.shape, bool), truth, note=note)
        return _Outcome(score, unreadable=unreadable)
    if protocol.objects == "match" and picture.kind == "colours":
        raise UserError(f"{task.prediction}: colours do not tell the object ids; save ids as palette or grey PNG")
    values = _resize(picture.values, truth.shape)
    note = ""
    if values is not picture.values:
        sizes = [f"{width}x{height}" for height, width in (picture.values.shape, truth.shape)]
        note = f"prediction of {sizes[0]} resized to the truth's {sizes[1]} (nearest pixel)"
    with turn:
        score = protocol.score(task.video, task.frame, values, truth, labels=picture.kind != "levels", note=note)
    return _Outcome(score, picture.kind, int(values.max()) if picture.kind == "levels" else 0)


def _resize(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) to another size by the nearest pixel; the array itself when it has that size."""
    if values.shape == size:
        return values
    return cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _threads(count: int) -> Iterator[Callable[..., Iterable[list[_Outcome]]]]:
    """A `map` that keeps the order and spreads its work over threads; what is left undone is dropped at the end."""
    if count <= 1:
        yield map
        return
    # A thread back from decoding asks for Python's lock after this long; the usual 5 ms are as long as ten images take.
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
    """A bar on the terminal's error stream, with the time left; yields what moves it by one."""
    columns = [TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda: bar.advance(task)
