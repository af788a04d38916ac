"""Plots of results: drawn by Matplotlib, as PNG files and as SVG that takes the colours of the page around it."""

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

# Of Okabe and Ito's palette: people with any colour vision tell these apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A636E")
MARKERS = "osD^vPX*"
# Stands for the colour of text until an SVG gets that of its page.
_INK = "#1b1f24"
_FAINT = "#c9ced4"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a name is a name, whatever signs it has
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
# So many letters of a name have place in half a scatter.
_LETTERS = 26
_ROW = 0.2  # inches that a line of a chart of bars takes


def bars(names: Sequence[str], values: Sequence[float], label: str, mean: float) -> Figure:
    """Horizontal bars from top to bottom in the order given, with a line at the mean.

    Args:
        names: Of the bars.
        values: Lengths in [0, 1]; nan draws no bar.
        label: What the values are.
        mean: Where the line goes; nan: none.
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
    """The scores of each frame, one small panel for each sequence.

    Args:
        panels: Of each sequence, the values (T,) in [0, 1] of its frames by measure; nan where a frame does not count.
        columns: Panels in a row.
    """
    rows = -(-len(panels) // columns)
    with mpl.rc_context(_STYLE):
        figure, grid = _figure((3.2 * columns, 1.5 * rows + 0.4), rows, columns)
        for axes, (name, series) in zip(grid, panels.items(), strict=False):
            for (measure, values), colour, line in zip(series.items(), COLOURS, ("-", "--"), strict=False):
                lonely = "." if len(values) < 3 else None  # a line needs neighbours, a point does not
                axes.plot(range(len(values)), values, line, color=colour, linewidth=1.1, label=measure, marker=lonely)
            axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
            axes.set_title(name, fontsize=8, loc="left")
            axes.tick_params(labelsize=7, length=0)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def scatter(points: Sequence[tuple[str, float, float]], across: str, up: str) -> Figure:
    """Named points, such as quality against speed.

    Args:
        points: Name, place across, place up.
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
    """Write names beside points, towards the middle, and above one another where points lie close together."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    heights = {"left": -np.inf, "right": -np.inf}
    for name, x, y in sorted(points, key=lambda point: point[2]):
        side = "left" if x < (left + right) / 2 else "right"
        # In points of type, as an axis is about 200 of them high.
        place = (y - bottom) / (top - bottom) * 200
        heights[side] = max(place, heights[side] + 11)
        offset = (9 if side == "left" else -9, heights[side] - place)
        short = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        label = axes.annotate(short, (x, y), offset, textcoords="offset points", ha=side, va="center")
        label.set_in_layout(False)  # or a long one would leave no place for the points


def dots(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Figure:
    """One line for each name with a dot for each series, to see how these differ.

    Args:
        names: Of the lines, from top to bottom.
        series: Values for all names by series; nan: no dot.
        label: What the values are.
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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        UserError: The disk is full, or the place cannot be written to.
    """
    write_bytes(path, _rendered(figure, "png"))


def svg(figure: Figure) -> str:
    """A figure as an ``<svg>`` element whose text and lines take the colours of the page around it."""
    text = _rendered(figure, "svg").decode()
    text = text[text.index("<svg") :]
    # Its description, and styles that would go for all of the page.
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, count=1, flags=re.DOTALL)  # the white ground
    return text.replace(_INK, "var(--ink)").replace(_FAINT, "var(--line)")


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _figure(inches: tuple[float, float], rows: int, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    # No pyplot: it keeps every figure, and asks for a display.
    figure = Figure(figsize=inches, layout="constrained", facecolor="white")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, list(grid.ravel())
