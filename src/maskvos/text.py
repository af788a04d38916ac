"""Text for terminals and files: tables, progress bars, natural sort order, nested settings as dotted names."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_DIGITS = re.compile(r"(\d+)")
# What a spreadsheet may take for a formula, also behind the quotes that `cell` adds.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def table(rows: Sequence[Sequence[str]], rules: Sequence[int] = (1,), right: bool = True) -> str:
    """Align cells in columns.

    Args:
        rows: Rows of equally many cells, the header first.
        rules: Rows above which a line of dashes is drawn.
        right: Align every column but the first to the right, as numbers need; otherwise all to the left.

    Returns:
        One line per row and rule, without trailing blanks.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        if number in rules:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        first, *rest = (
            cell.rjust(width) if right and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; floats with four decimals, empty cells for None."""

    def shown(value: Any) -> str:
        return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = [header, ["---"] * len(header), *([shown(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class _Count(ProgressColumn):
    """``120/500 frames``, or ``120 frames`` where the length is not known; of bytes ``1.2 MB/3.4 MB``."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "frames")
        if unit == "bytes":
            return Text("/".join(size_text(count) for count in (task.completed, task.total) if count is not None))
        total = "" if task.total is None else f"/{task.total:.0f}"
        return Text(f"{task.completed:.0f}{total} {unit}")


class _Left(TimeRemainingColumn):
    """Time left; the speed where the length is not known."""

    def render(self, task: Task) -> Text:
        if task.total is not None:
            return super().render(task).append(" left")
        if not task.speed:
            return Text("")
        unit = task.fields.get("unit", "frames")
        return Text(f"{size_text(task.speed)}/s" if unit == "bytes" else f"{task.speed:.1f} {unit}/s")


def progress_bar(shown: bool = True) -> Progress:
    """A progress bar on stderr, with done and total number and the time left; nothing where that is not a terminal.

    Where the total is not known, the speed instead of it. What is counted is the field ``unit`` of a task, by default
    frames.

    Args:
        shown: Show it.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(),
        _Left(),
        console=console,
        # Rich takes a file for a terminal where FORCE_COLOR is set, as in many continuous integrations.
        disable=not (shown and (sys.stderr.isatty() or console.is_jupyter)),
        speed_estimate_period=300,  # seconds; a step of a training may take half a minute
        redirect_stdout=sys.stdout.isatty(),
    )


def size_text(count: float) -> str:
    """A number of bytes for people: ``2.3 GB``, in powers of ten as disks have them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def cell(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula; the inverse of `uncell`."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def uncell(text: str) -> str:
    """What `cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def natural(name: str) -> list[tuple[int, int, str]]:
    """Key for natural sort order: ``frame2`` before ``frame10``."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name) if part]


def flatten(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names with their values: ``optim.lr``; an empty mapping is a value."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
