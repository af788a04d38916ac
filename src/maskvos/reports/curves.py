"""Score curves over the frames of each sequence, as SVG paths for the page and as figures for the PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maskvos.metrics.results import FrameRow, SequenceScore, Summary
from maskvos.reports import plots, scores
from maskvos.reports.scores import SHOWN, frame_score, lower_is_better, measure_of, number

Series = Mapping[str, Mapping[str, np.ndarray]]
"""By sequence and measure, the scores (T,) of all frames in order; nan for frames that are excluded or not scored."""

POINTS = 60_000
# Maximum points of one curve, panels of curves.png, and bars of sequences.png.
_CURVE_POINTS = 400
_PANELS = 12
_BARS = 60


def series_of(summary: Summary) -> Series:
    """Collect the curves of all sequences with at least one frame that counts."""
    measures = [name for name in SHOWN if name in summary.overall] or list(summary.overall)[:2]
    rows: dict[str, list[FrameRow]] = {}
    for row in summary.frames:
        rows.setdefault(row.video, []).append(row)
    return {
        video: {name: np.array([frame_score(row, name) for row in frames]) for name in measures}
        for video, frames in rows.items()
        if not all(row.left_out for row in frames)
    }


def downsample(values: np.ndarray, points: int, lower: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a curve to few points, keeping the worst of neighbouring values.

    Args:
        values: (T,) scores, or nan.
        points: Maximum number of points.
        lower: Lower is better, so the worst is the maximum.

    Returns:
        Positions from 0 to T - 1, and the values there; nan where all neighbours are nan.
    """
    count = min(points, len(values))
    edges = np.linspace(0, len(values), count + 1).round().astype(int)
    worst = np.fmax if lower else np.fmin
    return (edges[:-1] + edges[1:] - 1) / 2, worst.reduceat(values, edges[:-1])


def page_curves(summary: Summary, rows: Sequence[SequenceScore], series: Series) -> tuple[list[dict[str, Any]], bool]:
    """Curves of the listed sequences for the HTML page, about `POINTS` points in total.

    Returns:
        One dict per curve, and whether any curve was downsampled.
    """
    names = [name for name in dict.fromkeys(row.video for row in rows) if name in series]
    frames: dict[str, list[str]] = {}
    for row in summary.frames:
        frames.setdefault(row.video, []).append(row.frame)
    points = min(_CURVE_POINTS, max(20, POINTS // (2 * max(1, len(names)))))
    curves = []
    for name in names:
        known = {measure_of(m): v[np.isfinite(v)] for m, v in series[name].items()}
        means = ", ".join(f"{m} {number(float(v.mean()) if v.size else None)}" for m, v in known.items())
        spans = ", ".join(
            f"{m} from {v.min():.3f} to {v.max():.3f}, mean {v.mean():.3f}" for m, v in known.items() if v.size
        )
        curves.append(
            {
                "name": name,
                "summary": means,
                "alt": f"{name}, {len(frames[name])} frames: {spans or 'no scores'}",
                "frames": len(frames[name]),
                "first": frames[name][0],
                "last": frames[name][-1],
                "lines": [(m, _svg_path(v, points, lower_is_better(m))) for m, v in series[name].items()],
            }
        )
    return curves, any(len(frames[name]) > points for name in names)


def _svg_path(values: np.ndarray, points: int, lower: bool) -> str:
    """SVG path of a curve, 1000 wide and 100 high, with gaps at nan."""
    positions, heights = downsample(values, points, lower)
    across = positions * (1000 / max(1, len(values) - 1)) if len(values) > 1 else np.array([500.0])
    parts, pen = [], "M"
    for x, value in zip(across, heights, strict=True):
        if math.isnan(value):
            pen = "M"
            continue
        # The line of zero length draws a dot, so that a frame without neighbours is visible.
        point = f"{x:.0f} {100 - 100 * value:.1f}"
        parts.append(f"M{point}L{point}" if pen == "M" else f"L{point}")
        pen = "L"
    return "".join(parts)


def draw_bars(summary: Summary, main: str) -> Figure | None:
    """Bar chart of the sequences, best first; None without scores."""
    rows = scores.head_and_tail(scores.ranked(summary.sequences, main), _BARS)
    if not rows or not main:
        return None
    label = scores.title_of(main) + (f" ({_BARS} of all sequences)" if len(rows) < len(summary.sequences) else "")
    values = [row.values.get(main, math.nan) for row in rows]
    return plots.bars([row.name for row in rows], values, label, summary.overall.get(main, math.nan))


def draw_curves(summary: Summary, main: str, series: Series) -> Figure | None:
    """Curves of the worst sequences; None without scores."""
    names = dict.fromkeys(row.video for row in reversed(scores.ranked(summary.sequences, main)) if row.video in series)
    panels = {
        name: {measure_of(m): downsample(v, _CURVE_POINTS, lower_is_better(m))[1] for m, v in series[name].items()}
        for name in list(names)[:_PANELS]
    }
    return plots.curves(panels, columns=min(3, len(panels))) if panels else None
