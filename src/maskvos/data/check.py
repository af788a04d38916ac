"""Validate a dataset before training: statistics per split, and every problem with its path."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from maskvos.data.dataset import read_mask
from maskvos.data.datasets.listing import ExtraDataWarning, ListingError
from maskvos.environment import cores
from maskvos.errors import UserError
from maskvos.flow.codec import read_flow
from maskvos.flow.store import FlowStore
from maskvos.media.images import read_image
from maskvos.text import progress_bar, table
from maskvos.types import Frame, Video

SPLITS = ("train", "val", "test")


@dataclass
class SplitReport:
    """Statistics of one split.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        videos: Number of sequences.
        frames: Number of frames.
        annotated: Number of frames with ground truth.
        sizes: (height, width) to the number of frames of that size.
        flow: Number of frames with flow on disk; None if flow is computed on demand.
        foreground: Foreground fraction of each readable mask.
    """

    name: str
    videos: int = 0
    frames: int = 0
    annotated: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    flow: int | None = None
    foreground: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        """Cells of its row in the table."""
        sizes = [f"{width}x{height}" for (height, width), _ in self.sizes.most_common()]
        fraction = sum(self.foreground) / len(self.foreground) if self.foreground else None
        return [
            self.name,
            str(self.videos),
            str(self.frames),
            str(self.annotated),
            ", ".join(sizes[:3]) + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""),
            "on demand" if self.flow is None else f"{self.flow}/{self.frames}",
            "" if fraction is None else f"{100 * fraction:.1f}%",
        ]


@dataclass
class DataReport:
    """Statistics and problems of a dataset.

    Attributes:
        splits: One entry per split that could be listed.
        problems: Messages that say what was found and what was expected, without duplicates.
    """

    splits: list[SplitReport]
    problems: list[str]

    SHOWN = 100
    TITLES = ("split", "videos", "frames", "annotated", "size", "flow on disk", "foreground")

    def table(self) -> str:
        """Text table with one row per split, followed by the problems (at most `SHOWN`)."""
        lines = [table([self.TITLES, *(split.row() for split in self.splits)], right=False)]
        count = len(self.problems)
        lines += ["", "no problems" if not count else f"{count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {number}. {text}" for number, text in enumerate(self.problems[: self.SHOWN], start=1)]
        if count > self.SHOWN:
            lines.append(f"  ... and {count - self.SHOWN} more")
        return "\n".join(lines)


@dataclass
class _FrameCheck:
    size: tuple[int, int] | None = None
    foreground: float | None = None
    flow: bool = False
    lacks_flow: bool = False
    problems: list[str] = field(default_factory=list)


def check(
    sources: Mapping[str, Callable[[], list[Video]] | None], flow: FlowStore, workers: int | None = None
) -> DataReport:
    """Read every frame, mask and precomputed flow map of the train, val and test splits.

    Args:
        sources: Split name to a function that lists its videos, as in `VideoDataModule.sources`; other names than
            `SPLITS` are ignored.
        flow: The flow of the dataset.
        workers: Threads; None: one per CPU core.

    Returns:
        The report; the data is valid if its ``problems`` are empty.

    Raises:
        UserError: There is no split to check.
    """
    given = {split: source for split in SPLITS if (source := sources.get(split)) is not None}
    if not given:
        raise UserError("task=check: this data has no train, val or test videos; choose a dataset, e.g. data=davis")
    # An ordered set: splits may share a source, and thus its problems.
    problems: dict[str, None] = {}
    listed = {split: videos for split, source in given.items() if (videos := _list(source, problems)) is not None}
    for one, other in itertools.combinations(listed, 2):
        for text in _overlap(one, listed[one], other, listed[other]):
            problems[text] = None
    with ThreadPoolExecutor(workers or cores()) as pool:
        reports = [_check_split(split, videos, flow, pool, problems) for split, videos in listed.items()]
    return DataReport(reports, list(problems))


def _list(source: Callable[[], list[Video]], problems: dict[str, None]) -> list[Video] | None:
    """List a split, and add errors and warnings of listing to the problems."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return source()
        except ListingError as error:
            problems.update(dict.fromkeys(error.problems))
            return None
        except UserError as error:
            problems[str(error)] = None
            return None
        finally:
            problems.update(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, ExtraDataWarning)))


def _overlap(one: str, first: Sequence[Video], other: str, second: Sequence[Video]) -> Iterator[str]:
    """Problems for videos that are in two splits."""
    seen = {video.frames[0].image: video for video in first if video.frames}
    for video in second:
        if video.frames and video.frames[0].image in seen:
            yield f"{video.dataset}: '{video.name}' is in both {one} and {other}; results on it are meaningless"


def _check_split(
    split: str, videos: Sequence[Video], flow: FlowStore, pool: ThreadPoolExecutor, problems: dict[str, None]
) -> SplitReport:
    report = SplitReport(split, videos=len(videos), flow=0 if flow.cache or flow.estimator is None else None)
    jobs = [(video, index) for video in videos for index in range(len(video.frames))]
    read = pool.map(lambda job: _read(job[0], job[1], flow), jobs)
    with progress_bar() as bar:
        results = bar.track(read, len(jobs), description=split)
        for video in videos:
            _add_video(report, video, list(itertools.islice(results, len(video.frames))), problems)
    return report


def _add_video(report: SplitReport, video: Video, results: Sequence[_FrameCheck], problems: dict[str, None]) -> None:
    """Add the results of the frames of one video to the report of its split."""
    report.frames += len(results)
    report.annotated += len(video.annotated)
    for result in results:
        problems.update(dict.fromkeys(result.problems))
        if result.size is not None:
            report.sizes[result.size] += 1
        if result.foreground is not None:
            report.foreground.append(result.foreground)
        if report.flow is not None:
            report.flow += result.flow
    sizes = Counter(result.size for result in results if result.size is not None)
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        odd = next(i for i, result in enumerate(results) if result.size not in (None, usual))
        height, width = results[odd].size or usual
        problems[
            f"{video.dataset}: {video.frames[odd].image} is {width}x{height}, other frames of '{video.name}' are "
            f"{usual[1]}x{usual[0]} (width x height); all frames of a video must have the same size for flow"
        ] = None
    lacking = [video.frames[i].image for i, result in enumerate(results) if result.lacks_flow]
    if lacking:
        problems[
            f"{video.dataset}: {len(lacking)} of {len(results)} frames of '{video.name}' have no flow, e.g. "
            f"{lacking[0]}; expected a flow file '{lacking[0].stem}', or compute flow (flow=dis)"
        ] = None
    fractions = [result.foreground for result in results if result.foreground is not None]
    if fractions and not any(fractions):
        mask = video.annotated[0].mask
        problems[
            f"{video.dataset}: no mask of '{video.name}' has foreground ({mask} and {len(fractions) - 1} others); "
            "expected an object in at least one frame"
        ] = None


def _read(video: Video, index: int, flow: FlowStore) -> _FrameCheck:
    frame, result = video.frames[index], _FrameCheck()
    try:
        image = read_image(frame.image)
    except UserError as error:
        result.problems.append(f"{video.dataset}: {error}")
        return result
    result.size = (image.shape[0], image.shape[1])
    if frame.mask is not None:
        try:
            result.foreground = float(read_mask(frame.mask, result.size, video.masks).mean())
        except UserError as error:
            result.problems.append(f"{video.dataset}: {error}")
    if flow.estimator is None:
        _read_precomputed_flow(video, frame, result.size, result)
    elif flow.cache is not None:
        # An unreadable image of the other frame is reported for that frame.
        with contextlib.suppress(UserError):
            result.flow = flow.path(video, index).is_file()
    return result


def _read_precomputed_flow(video: Video, frame: Frame, size: tuple[int, int], result: _FrameCheck) -> None:
    """Read precomputed flow; a still image needs none."""
    if frame.flow is None:
        result.lacks_flow = len(video.frames) > 1 and frame.mask is not None
        return
    try:
        flow_size = read_flow(Path(frame.flow)).shape[:2]
    except UserError as error:
        result.problems.append(f"{video.dataset}: {error}")
        return
    result.flow = True
    # Flow may have a lower resolution than its frame, but must have the same aspect ratio.
    if abs(flow_size[0] * size[1] - flow_size[1] * size[0]) > max(size) * max(2, *flow_size) * 0.02:
        result.problems.append(
            f"{video.dataset}: the flow {frame.flow} is {flow_size[1]}x{flow_size[0]} and its frame "
            f"{size[1]}x{size[0]} (width x height); expected the same aspect ratio"
        )
