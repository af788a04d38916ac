"""Segmenting what a user names, files or a live source, into an output folder."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from maskvos.data.streams import live_times
from maskvos.environment import stopped_by_signals
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.writer import PredictionWriter, write_predictions
from maskvos.media.files import removed_if_unused
from maskvos.media.live import LiveSource
from maskvos.text import progress_bar
from maskvos.types import Video


def write_source(
    segmenter: Segmenter,
    source: Sequence[Video] | LiveSource,
    writer: PredictionWriter,
    progress: bool = True,
    listed: Sequence[Video] | None = None,
) -> None:
    """Segment what `maskvos.data.sources.opened` gives: videos, see `write_predictions`, or a live source.

    A live source is segmented until it ends, or until Ctrl-C or SIGTERM; what came until then is complete. Its results
    are named after it and the time.

    Raises:
        UserError: As `write_predictions`; or the live source cannot be opened, or ends before its first frame.
    """
    if isinstance(source, LiveSource):
        _write_live(segmenter, source, writer, progress)
    else:
        write_predictions(segmenter, source, writer, progress, listed)


def _write_live(segmenter: Segmenter, source: LiveSource, writer: PredictionWriter, progress: bool) -> None:
    video = Video(_name(source.address), live=str(source.address))
    latencies: list[float] = []
    if segmenter.fill_gaps is None:  # without delay, no gap can be filled
        writer.settings.pop("fill_gaps", None)
    with (
        removed_if_unused(writer.output / video.name),
        writer,
        stopped_by_signals(source.stop),
        progress_bar(shown=progress) as bar,
    ):
        writer.pending([video])
        task = bar.add_task(f"waiting for {source.address}, Ctrl-C ends", total=None)

        def frames() -> Iterator[SegmentedFrame]:
            for frame in segmenter.stream(source):
                latencies.append(source.latency(frame.index))
                now = f"Ctrl-C ends, {source.dropped} dropped, latency {latencies[-1] * 1e3:.0f} ms"
                bar.update(task, completed=len(latencies), description=now)
                yield frame

        writer.write(video, live_times(source), frames(), source.reading)
    writer.write_overview([video])
    median, late = statistics.median(latencies), sorted(latencies)[int(0.95 * len(latencies))]
    writer.notes.append(
        f"latency from arrival to mask: median {median * 1e3:.0f} ms, 95 % below {late * 1e3:.0f} ms; "
        f"{source.dropped} of {source.dropped + source.reading.frames} frames dropped"
    )


def _name(address: int | str) -> str:
    """Name of a recording: its source and the time."""
    if isinstance(address, int):
        name = f"camera{address}"
    else:
        parts = urlsplit(address)
        name = Path(parts.path).stem or parts.hostname or "live"
        name = "pipe" if parts.scheme == "pipe" else name
    name = re.sub(r"[^\w.-]+", "-", name)
    return f"{name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
