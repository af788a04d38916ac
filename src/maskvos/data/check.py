"""Look at all data before training starts: what is there, and what is wrong, each problem once with its path."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from maskvos.data.dataset import read_mask
from maskvos.data.datasets.listing import ExtraDataWarning, ListingError
from maskvos.errors import UserError
from maskvos.flow.codec import read_flow
from maskvos.flow.store import FlowStore
from maskvos.media.images import read_image
from maskvos.types import Frame, Video

PARTS = ("train", "val", "test")


@dataclass
class PartReport:
    """What one part of the data holds.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        videos: Number of sequences.
        frames: Number of frames.
        annotated: Frames with a ground truth.
        sizes: (height, width) to the number of frames of that size.
        flow: Frames whose flow lies on disk already; None where flow is computed when it is needed.
        foreground: Foreground share of every mask that could be read.
    """

    name: str
    videos: int = 0
    frames: int = 0
    annotated: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    flow: int | None = None
    foreground: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        """Its cells of the table."""
        sizes = [f"{width}x{height}" for (height, width), _ in self.sizes.most_common()]
        share = sum(self.foreground) / len(self.foreground) if self.foreground else None
        return [
            self.name,
            str(self.videos),
            str(self.frames),
            str(self.annotated),
            ", ".join(sizes[:3]) + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""),
            "when needed" if self.flow is None else f"{self.flow}/{self.frames}",
            "" if share is None else f"{100 * share:.1f}%",
        ]


@dataclass
class Report:
    """What the data holds, and what is wrong with it.

    Attributes:
        parts: One entry for each part that could be listed.
        problems: What was found and what was expected, each once.
    """

    parts: list[PartReport]
    problems: list[str]

    SHOWN = 100
    TITLES = ("part", "videos", "frames", "annotated", "size", "flow on disk", "foreground")

    def table(self) -> str:
        """Plain text: one line for each part, then the problems (at most `SHOWN` of them)."""
        rows = [list(self.TITLES), *(part.row() for part in self.parts)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.TITLES))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
        count = len(self.problems)
        lines += ["", "no problems" if not count else f"{count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {number}. {text}" for number, text in enumerate(self.problems[: self.SHOWN], start=1)]
        if count > self.SHOWN:
            lines.append(f"  ... and {count - self.SHOWN} more of their kind")
        return "\n".join(lines)


@dataclass
class _Seen:
    """What reading one frame told."""

    size: tuple[int, int] | None = None
    foreground: float | None = None
    flow: bool = False
    lacks_flow: bool = False
    problems: list[str] = field(default_factory=list)


def check(
    sources: Mapping[str, Callable[[], list[Video]] | None], flow: FlowStore, workers: int | None = None
) -> Report:
    """Read every frame, mask and precomputed flow of the training, validation and test videos.

    Args:
        sources: Part to what lists its videos, such as `VideoDataModule.sources`; only `PARTS` are looked at.
        flow: Where flow comes from.
        workers: Reading threads; None: one per core.

    Returns:
        The report; with an empty ``problems`` the data is as expected.

    Raises:
        UserError: There is no part to check.
    """
    given = {part: source for part in PARTS if (source := sources.get(part)) is not None}
    if not given:
        raise UserError("task=check: this data has no train, val or test videos; choose a data set, such as data=davis")
    # A dictionary keeps order and forgets repetitions: parts may share a source, and its problems.
    problems: dict[str, None] = {}
    listed = {part: videos for part, source in given.items() if (videos := _list(source, problems)) is not None}
    for one, other in itertools.combinations(listed, 2):
        for text in _shared(one, listed[one], other, listed[other]):
            problems[text] = None
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        reports = [_check_part(part, videos, flow, pool, problems) for part, videos in listed.items()]
    return Report(reports, list(problems))


def _list(source: Callable[[], list[Video]], problems: dict[str, None]) -> list[Video] | None:
    """List a part; what the listing tells becomes problems."""
    with warnings.catch_warnings(record=True) as told:
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
            problems.update(dict.fromkeys(str(w.message) for w in told if issubclass(w.category, ExtraDataWarning)))


def _shared(one: str, first: Sequence[Video], other: str, second: Sequence[Video]) -> Iterator[str]:
    """Videos that two parts have in common: what is tested must not be trained on."""
    seen = {video.frames[0].image: video for video in first if video.frames}
    for video in second:
        if video.frames and video.frames[0].image in seen:
            yield f"{video.dataset}: '{video.name}' is in both {one} and {other}; results on it would mean nothing"


def _check_part(
    part: str, videos: Sequence[Video], flow: FlowStore, pool: ThreadPoolExecutor, problems: dict[str, None]
) -> PartReport:
    """Read one part."""
    report = PartReport(part, videos=len(videos), flow=0 if flow.cache or flow.estimator is None else None)
    jobs = [(video, index) for video in videos for index in range(len(video.frames))]
    read = pool.map(lambda job: _read(job[0], job[1], flow), jobs)
    seen = iter(track(read, part, len(jobs), console=Console(stderr=True), transient=True))
    for video in videos:
        _add_video(report, video, list(itertools.islice(seen, len(video.frames))), problems)
    return report


def _add_video(report: PartReport, video: Video, seen: Sequence[_Seen], problems: dict[str, None]) -> None:
    """Add what the frames of one video told to the report of its part."""
    report.frames += len(seen)
    report.annotated += len(video.annotated)
    for result in seen:
        problems.update(dict.fromkeys(result.problems))
        if result.size is not None:
            report.sizes[result.size] += 1
        if result.foreground is not None:
            report.foreground.append(result.foreground)
        if report.flow is not None:
            report.flow += result.flow
    sizes = Counter(result.size for result in seen if result.size is not None)
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        odd = next(i for i, result in enumerate(seen) if result.size not in (None, usual))
        height, width = seen[odd].size or usual
        problems[
            f"{video.dataset}: {video.frames[odd].image} is {width}x{height}, other frames of '{video.name}' are "
            f"{usual[1]}x{usual[0]} (width x height); flow needs one size per video"
        ] = None
    lacking = [video.frames[i].image for i, result in enumerate(seen) if result.lacks_flow]
    if lacking:
        problems[
            f"{video.dataset}: {len(lacking)} of {len(seen)} frames of '{video.name}' have no flow, such as "
            f"{lacking[0]}; expected a file '{lacking[0].stem}' among its flow, or compute flow (flow=dis)"
        ] = None
    shares = [result.foreground for result in seen if result.foreground is not None]
    if shares and not any(shares):
        folder = video.annotated[0].mask
        problems[
            f"{video.dataset}: no mask of '{video.name}' has foreground ({folder} and {len(shares) - 1} others); "
            "expected an object in at least one frame"
        ] = None


def _read(video: Video, index: int, flow: FlowStore) -> _Seen:
    """Read one frame, its mask and its flow."""
    frame, seen = video.frames[index], _Seen()
    try:
        image = read_image(frame.image)
    except UserError as error:
        seen.problems.append(f"{video.dataset}: {error}")
        return seen
    seen.size = (image.shape[0], image.shape[1])
    if frame.mask is not None:
        try:
            seen.foreground = float(read_mask(frame.mask, seen.size, video.masks).mean())
        except UserError as error:
            seen.problems.append(f"{video.dataset}: {error}")
    if flow.estimator is None:
        _read_given_flow(video, frame, seen.size, seen)
    elif flow.cache is not None:
        # Of another frame's image that cannot be read, that frame tells.
        with contextlib.suppress(UserError):
            seen.flow = flow.path(video, index).is_file()
    return seen


def _read_given_flow(video: Video, frame: Frame, size: tuple[int, int], seen: _Seen) -> None:
    """Read flow that was made beforehand; a still image needs none."""
    if frame.flow is None:
        seen.lacks_flow = len(video.frames) > 1 and frame.mask is not None
        return
    try:
        field_size = read_flow(Path(frame.flow)).shape[:2]
    except UserError as error:
        seen.problems.append(f"{video.dataset}: {error}")
        return
    seen.flow = True
    # Flow is often made at a smaller size; of another shape it cannot belong to the frame.
    if abs(field_size[0] * size[1] - field_size[1] * size[0]) > max(size) * max(2, *field_size) * 0.02:
        seen.problems.append(
            f"{video.dataset}: the flow {frame.flow} is {field_size[1]}x{field_size[0]} and its frame "
            f"{size[1]}x{size[0]} (width x height); expected the same shape"
        )
