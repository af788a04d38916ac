"""The flow of a whole dataset, computed once into a cache: in several processes, over several machines, resumable."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from maskvos.errors import UserError
from maskvos.flow.store import FlowStore
from maskvos.types import Video

# Frames per piece of work: neighbours share images and one call of the estimator.
_PIECE = 8


@dataclass(frozen=True)
class FlowSummary:
    """What computing the flow of a dataset came to.

    Attributes:
        computed: Flow maps that were made now.
        reused: Flow maps that were in the cache already.
        problems: Why some flow maps could not be computed, one line per reason; all others were.
        movies: Movie files, whose flow is computed while they are read and never kept.
        seconds: Wall time.
    """

    computed: int
    reused: int
    problems: tuple[str, ...]
    movies: tuple[str, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Flow maps computed per second."""
        return self.computed / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        """A few lines for the terminal."""
        lines = [
            f"flow: {self.computed} maps computed in {self.seconds:.1f} s ({self.rate:.1f} frames/s), "
            f"{self.reused} were there already"
        ]
        if self.movies:
            lines.append(f"{len(self.movies)} movie files left out: their flow is computed as they are read")
        if self.problems:
            lines.append("flow is missing where:")
            lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Piece:
    """Some neighbouring frames of one video, by its position in the list, in one direction."""

    video: int
    frames: range
    direction: str


@dataclass(frozen=True)
class _Done:
    computed: int
    reused: int
    problems: tuple[str, ...]


def compute_flows(
    videos: Sequence[Video],
    store: FlowStore,
    shard: str | None = None,
    workers: int = 0,
    progress: bool = True,
) -> FlowSummary:
    """Fill the cache of a store with the flow of all frames of some videos.

    What is there already stays, so that a run that was stopped goes on where it was. Several runs may fill one cache at
    once: every run takes the pieces of work in an order of its own and leaves out what another has finished.
    A damaged image costs its own flow maps only and is reported at the end. Videos of one frame have no flow to keep.

    Args:
        videos: The dataset.
        store: Says how flow is made and where it is kept; ``both_ways`` makes both directions.
        shard: ``"3/16"``: only the third of sixteen parts, to spread a dataset over machines; None: everything.
        workers: Processes; 0 computes in this one, as an estimator on a GPU always does.
        progress: Show a progress bar with the time left.

    Returns:
        Counts, problems and time.

    Raises:
        UserError: The store has no estimator or no cache, the cache cannot be written to, or the shard does not fit.
    """
    store.folder()  # says which setting is missing
    if store.estimator is not None:
        store.estimator.prepare()
        workers = 0 if store.estimator.on_gpu else workers
    pieces = _select(list(_pieces(videos, store)), shard)
    random.Random().shuffle(pieces)
    jobs = _Jobs(videos, store, pieces)
    loader = DataLoader(jobs, batch_size=None, num_workers=workers, worker_init_fn=_one_thread)
    begin = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    results: list[_Done] = []
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("flow", total=sum(len(piece.frames) for piece in pieces))
        for done in loader:
            results.append(done)
            bar.advance(task, done.computed + done.reused + len(done.problems))
    return FlowSummary(
        computed=sum(done.computed for done in results),
        reused=sum(done.reused for done in results),
        problems=tuple(sorted({problem for done in results for problem in done.problems})),
        movies=tuple(str(video.file) for video in videos if video.file is not None),
        seconds=time.monotonic() - begin,
    )


def _pieces(videos: Sequence[Video], store: FlowStore) -> Iterator[_Piece]:
    for number, video in enumerate(videos):
        for direction in store.directions:
            # The flow of a single frame is zero, which needs no file.
            for start in range(0, len(video.frames) if len(video.frames) > 1 else 0, _PIECE):
                yield _Piece(number, range(start, min(start + _PIECE, len(video.frames))), direction)


def _select(pieces: list[_Piece], shard: str | None) -> list[_Piece]:
    if shard is None:
        return pieces
    match = re.fullmatch(r"(\d+)/(\d+)", str(shard).strip())
    part, parts = (int(number) for number in match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"shard={shard}: it must be <part>/<parts>, from 1/<parts> to <parts>/<parts>, e.g. shard=3/16")
    return pieces[part - 1 :: parts]


class _Jobs(Dataset):
    def __init__(self, videos: Sequence[Video], store: FlowStore, pieces: list[_Piece]) -> None:
        self.videos = videos
        self.store = store
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> _Done:
        piece = self.pieces[number]
        video = self.videos[piece.video]
        missing: list[int] = []
        problems: list[str] = []
        for index in piece.frames:
            try:
                if not self.store.kept(video, index, piece.direction):
                    missing.append(index)
            except UserError as error:
                problems.append(str(error))
        reused = len(piece.frames) - len(missing) - len(problems)
        try:
            self.store.fill(video, missing, piece.direction)
            computed = len(missing)
        except UserError as error:
            if error.unwritable:
                raise
            computed, more = self._one_by_one(video, missing, piece.direction)
            problems += more
        return _Done(computed, reused, tuple(problems))

    def _one_by_one(self, video: Video, indices: list[int], direction: str) -> tuple[int, list[str]]:
        """So that a damaged image costs its own flow only."""
        computed, problems = 0, []
        for index in indices:
            try:
                self.store.load(video, index, direction)
                computed += 1
            except UserError as error:
                if error.unwritable:
                    raise
                problems.append(str(error))
        return computed, problems


def _one_thread(worker: int) -> None:
    """The workers are the threads. 0, not 1: that would tear down a pool inherited by a fork, and wait for ever."""
    cv2.setNumThreads(0)
