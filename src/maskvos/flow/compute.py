"""Precompute the flow of a dataset into a cache: multi-process, sharded over machines, resumable."""

from __future__ import annotations

import copy
import logging
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import DataLoader, Dataset

from maskvos.environment import init_worker, parse_shard
from maskvos.errors import UserError
from maskvos.flow.store import FlowStore
from maskvos.text import progress_bar, size_text
from maskvos.types import Video

# Frames per chunk: neighbouring frames share decoded images and one call to the estimator.
_CHUNK = 8
# Maps by which the size of all is judged.
_SAMPLES = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlowSummary:
    """Result of `compute_flows`.

    Attributes:
        computed: Number of flow maps computed in this run.
        reused: Number of flow maps that were already in the cache.
        problems: Errors of the flow maps that could not be computed, without duplicates.
        movies: Skipped movie files: their flow is computed on the fly and never cached.
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
        """Summary for the terminal."""
        lines = [
            f"flow: {self.computed} maps computed in {self.seconds:.1f} s ({self.rate:.1f} frames/s), "
            f"{self.reused} already cached"
        ]
        if self.movies:
            lines.append(f"{len(self.movies)} movie files skipped: their flow is computed on the fly")
        if self.problems:
            lines.append("failed:")
            lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Chunk:
    """Consecutive frames of one video (an index into the list of videos), in one direction."""

    video: int
    frames: range
    direction: str


@dataclass(frozen=True)
class _Result:
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
    """Compute the flow of all frames of a dataset into the cache.

    Cached flow maps are skipped, so an interrupted run can be resumed by starting it again. Several runs may fill the
    same cache concurrently: each works through the chunks in random order and skips those that another run finished.
    A corrupt image only affects its own flow maps and is reported at the end. Videos of one frame are not cached.

    Args:
        videos: The dataset.
        store: The estimator and the cache; with ``both_directions`` both directions are computed.
        shard: ``"3/16"``: compute only the third of sixteen shards, to distribute a dataset over machines; None: all.
        workers: Worker processes; 0: this process, which an estimator on a GPU always uses.
        progress: Show a progress bar.

    Returns:
        Counts, errors and wall time.

    Raises:
        UserError: The store has no estimator or no cache, the cache is not writable, the disk is too small, or the
            shard is invalid.
    """
    store.folder()  # raises if a setting is missing
    if store.estimator is not None:
        store.estimator.prepare()
        workers = 0 if store.estimator.on_gpu else workers
    index, count = parse_shard(shard)
    chunks = list(_chunks(videos, store))[index::count]
    _check_disk(videos, store, chunks)
    random.Random().shuffle(chunks)
    loader = DataLoader(_Jobs(videos, store, chunks), batch_size=None, num_workers=workers, worker_init_fn=init_worker)
    begin = time.monotonic()
    results: list[_Result] = []
    with progress_bar(shown=progress) as bar:
        task = bar.add_task("flow", total=sum(len(chunk.frames) for chunk in chunks), unit="maps")
        for result in loader:
            results.append(result)
            bar.advance(task, result.computed + result.reused + len(result.problems))
    return FlowSummary(
        computed=sum(result.computed for result in results),
        reused=sum(result.reused for result in results),
        problems=tuple(sorted({problem for result in results for problem in result.problems})),
        movies=tuple(str(video.file) for video in videos if video.file is not None),
        seconds=time.monotonic() - begin,
    )


def _check_disk(videos: Sequence[Video], store: FlowStore, chunks: Sequence[_Chunk]) -> None:
    """Log how much disk space the missing maps will take, judged by a few of them.

    Raises:
        UserError: That is more than there is.
    """
    folder = store.folder().absolute()
    maps = sum(len(chunk.frames) for chunk in chunks)
    places = {(chunk.video, chunk.direction) for chunk in chunks}
    missing = max(0, maps - sum(store.count(videos[number], direction) for number, direction in places))
    some = chunks[:: max(1, len(chunks) // _SAMPLES)] if missing else []
    sizes = [size for chunk in some if (size := _bytes(videos, store, chunk))]
    if not sizes:
        return
    disk = next(place for place in (folder, *folder.parents) if place.exists())
    needed, free = missing * sum(sizes) // len(sizes), shutil.disk_usage(disk).free
    log.info("flow: %d of %d maps to compute, about %s in %s", missing, maps, size_text(needed), folder)
    if needed > free:
        remedy = "" if store.format == "png" else ", or flow.format=png, which takes a ninth"
        raise UserError(
            f"flow.cache={store.cache}: {missing} maps take about {size_text(needed)}, and {size_text(free)} are free; "
            f"make room, or choose another disk{remedy}"
        )


def _bytes(videos: Sequence[Video], store: FlowStore, chunk: _Chunk) -> int | None:
    """Size of the first map of a chunk; None if its images cannot be read, which is reported later."""
    uncached = copy.copy(store)
    uncached.cache = None
    try:
        return store.bytes_of(uncached.load(videos[chunk.video], chunk.frames[0], chunk.direction))
    except UserError:
        return None


def _chunks(videos: Sequence[Video], store: FlowStore) -> Iterator[_Chunk]:
    for number, video in enumerate(videos):
        for direction in store.directions:
            # The flow of a single frame is zero and needs no file.
            for start in range(0, len(video.frames) if len(video.frames) > 1 else 0, _CHUNK):
                yield _Chunk(number, range(start, min(start + _CHUNK, len(video.frames))), direction)


class _Jobs(Dataset[_Result]):
    def __init__(self, videos: Sequence[Video], store: FlowStore, chunks: list[_Chunk]) -> None:
        self.videos = videos
        self.store = store
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> _Result:
        chunk = self.chunks[number]
        video = self.videos[chunk.video]
        missing: list[int] = []
        problems: list[str] = []
        for index in chunk.frames:
            try:
                if not self.store.is_cached(video, index, chunk.direction):
                    missing.append(index)
            except UserError as error:
                problems.append(str(error))
        reused = len(chunk.frames) - len(missing) - len(problems)
        try:
            self.store.fill(video, missing, chunk.direction)
            computed = len(missing)
        except UserError as error:
            if error.unwritable:
                raise
            computed, more = self._one_by_one(video, missing, chunk.direction)
            problems += more
        return _Result(computed, reused, tuple(problems))

    def _one_by_one(self, video: Video, indices: list[int], direction: str) -> tuple[int, list[str]]:
        """Retry frame by frame, so that a corrupt image only affects its own flow maps."""
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
