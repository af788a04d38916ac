"""Matplotlib plots of results, saved as PNG or as inline SVG that adopts the colours of its HTML page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskvos.media.files import write_bytes

# From the Okabe-Ito palette, which is safe for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A636E")
MARKERS = "osD^vPX*"
# Text and lines; replaced in SVG by the variables of the page's style sheet.
_INK = "#1b1f24"
_FAINT = "#c9ced4"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # names may contain $ and _
    "text.color": _INK,
    "axes.facecolor": "none",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "maskvos",
    "savefig.dpi": 150,
}
_LETTERS = 26  # maximum length of a label in a scatter plot
_ROW = 0.2  # height of a row in bar and dot plots, inches


def bars(names: Sequence[str], values: Sequence[float], label: str, mean: float) -> Figure:
    """Horizontal bar chart, from top to bottom, with a line at the mean.

    Args:
        names: Names of the bars.
        values: Lengths in [0, 1]; nan draws no bar.
        label: Label of the horizontal axis.
        mean: Position of the line; nan draws none.
    """
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure((6.4, 0.9 + _ROW * len(names)), 1)
        places = range(len(names))
        axes.barh(places, np.nan_to_num(values), height=0.7, color=COLOURS[2])
        for place, value in zip(places, values, strict=True):
            text = "no score" if np.isnan(value) else f"{value:.3f}"
            axes.text(np.nan_to_num(value) + 0.008, place, text, va="center", fontsize=7.5)
        if np.isfinite(mean):
            axes.axvline(mean, color=_INK, linewidth=1, linestyle="--")
            axes.set_title(f"mean {mean:.3f}", fontsize=9, loc="left")
        axes.set(yticks=places, yticklabels=names, xlim=(0, 1.08), ylim=(len(names) - 0.4, -0.6), xlabel=label)
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
    return figure


def curves(panels: Mapping[str, Mapping[str, np.ndarray]], columns: int = 3) -> Figure:
    """Score curves over frames, one small panel per sequence.

    Args:
        panels: By sequence and measure, the scores (T,) in [0, 1]; gaps at nan.
        columns: Panels in a row.
    """
    rows = -(-len(panels) // columns)
    with mpl.rc_context(_STYLE):
        figure, grid = _figure((3.2 * columns, 1.5 * rows + 0.4), rows, columns)
        for axes, (name, series) in zip(grid, panels.items(), strict=False):
            for (measure, values), colour, line in zip(series.items(), COLOURS, ("-", "--"), strict=False):
                dot = "." if len(values) < 3 else None  # a single point has no line
                axes.plot(range(len(values)), values, line, color=colour, linewidth=1.1, label=measure, marker=dot)
            axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
            axes.set_title(name, fontsize=8, loc="left")
            axes.tick_params(labelsize=7, length=0)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def scatter(points: Sequence[tuple[str, float, float]], across: str, up: str) -> Figure:
    """Scatter plot of named points, such as quality over speed.

    Args:
        points: Name, x and y of each point.
        across: Label of the horizontal axis.
        up: Label of the vertical axis.
    """
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure((4.8, 3.6), 1)
        for index, (_, x, y) in enumerate(points):
            marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
            axes.plot(x, y, marker, color=colour, markersize=9, markeredgecolor="white", zorder=3)
        axes.set(xlabel=across, ylabel=up)
        axes.margins(0.2)
        axes.tick_params(length=0)
        _label_points(axes, points)
    return figure


def _label_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write names next to points, towards the middle, shifted up where they would overlap."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    heights = {"left": -np.inf, "right": -np.inf}
    for name, x, y in sorted(points, key=lambda point: point[2]):
        side = "left" if x < (left + right) / 2 else "right"
        # Typographic points: the axis is about 200 high.
        height = (y - bottom) / (top - bottom) * 200
        heights[side] = max(height, heights[side] + 11)
        offset = (9 if side == "left" else -9, heights[side] - height)
        short = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        label = axes.annotate(short, (x, y), offset, textcoords="offset points", ha=side, va="center")
        label.set_in_layout(False)  # a long label must not shrink the axes


def dots(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Dot plot: one row per name with one dot per series, connected by a line.

    Args:
        names: Names of the rows, from top to bottom.
        series: One value per row for each series; nan draws no dot.
        label: Label of the horizontal axis.
    """
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure((6.4, 1.2 + _ROW * (len(names) + len(series))), 1)
        places = range(len(names))
        table = np.array(list(series.values()), float)
        if np.isfinite(table).any():
            masked = np.ma.masked_invalid(table)
            axes.hlines(places, masked.min(axis=0), masked.max(axis=0), color=_FAINT, linewidth=2)
        for index, (name, values) in enumerate(series.items()):
            marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
            axes.plot(values, places, marker, color=colour, markersize=5, label=name)
        axes.set(yticks=places, yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlabel=label)
        axes.tick_params(length=0)
        figure.legend(loc="outside lower center", fontsize=8)
    return figure


def score_by_setting(
    settings: Mapping[str, Sequence[str]], scores: Sequence[float], label: str, title: str = ""
) -> Figure:
    """Scores of runs over each of their settings, one panel per setting; on a log axis if it spans a decade.

    Args:
        settings: Setting to its value in each run; a category axis unless all values are numbers.
        scores: Score of each run.
        label: Label of the vertical axis.
        title: Title of the figure.
    """
    with mpl.rc_context(_STYLE):
        figure, panels = _figure((max(4.0, 3.2 * len(settings)), 3.2), 1, len(settings), share_y=True)
        for axes, (name, values) in zip(panels, settings.items(), strict=True):
            numbers = _numbers(values)
            axes.plot(numbers or values, scores, "o", color=COLOURS[0])
            if not numbers:
                axes.tick_params(axis="x", labelrotation=30)
            elif min(numbers) > 0 and max(numbers) / min(numbers) >= 10:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")  # the default formatter needs text.parse_math
                axes.xaxis.set_minor_formatter("")
            axes.set_xlabel(name)
            axes.tick_params(length=0, which="both")
        panels[0].set_ylabel(label)
        if title:
            figure.suptitle(title, fontsize=9)
    return figure


def _numbers(values: Sequence[str]) -> list[float]:
    """The values as numbers; empty if any of them is not one."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return []


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        UserError: The disk is full, or the folder cannot be written to.
    """
    write_bytes(path, _rendered(figure, "png"))


def svg(figure: Figure) -> str:
    """Render a figure as an ``<svg>`` element that uses the colours of the page's style sheet."""
    text = _rendered(figure, "svg").decode()
    text = text[text.index("<svg") :]
    # Without metadata, and without styles, which would apply to the whole page.
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, count=1, flags=re.DOTALL)  # white background
    return text.replace(_INK, "var(--ink)").replace(_FAINT, "var(--line)")


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _figure(
    inches: tuple[float, float], rows: int, columns: int = 1, share_y: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    # Not pyplot, which keeps every figure in memory and may need a display.
    figure = Figure(figsize=inches, layout="constrained", facecolor="white")
    grid: Any = figure.subplots(rows, columns, sharey=share_y, squeeze=False)
    return figure, list(grid.ravel())
