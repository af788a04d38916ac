"""One table over the runs of a sweep, made of what each run left in its folder: it can be made again at any time."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from maskvos.errors import UserError
from maskvos.media.files import write_bytes

RESULT = "result.json"
# In this order; the first of them that a sweep has is what its picture shows.
_SCORES = ("best/", "test/", "evaluate/", "val/")
_SPEED = "train/images_per_second"


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        folder: Where it ran.
        overrides: Setting to value, as on the command line.
        status: ``done``, ``failed``, or ``unfinished`` where it runs yet or was killed.
        metrics: What it returned.
        seconds: How long it took.
        error: What it failed with.
    """

    folder: Path
    overrides: Mapping[str, str]
    status: str = "unfinished"
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float | None = None
    error: str = ""


def write_result(
    folder: Path, metrics: Mapping[str, float] | None = None, seconds: float | None = None, error: str = ""
) -> None:
    """Leave in a run's folder how it ended.

    Args:
        folder: The run's folder.
        metrics: What it returned.
        seconds: How long it took.
        error: What it failed with; empty: it did not.
    """
    # JSON has no nan.
    numbers = {name: value if math.isfinite(value) else None for name, value in (metrics or {}).items()}
    result = {"status": "failed" if error else "done", "seconds": seconds, "error": error, "metrics": numbers}
    write_bytes(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())


def read_jobs(folder: Path) -> list[Job]:
    """The runs of a sweep, in their order.

    Args:
        folder: The sweep's folder.

    Raises:
        UserError: There is no run in it.
    """
    files = sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda file: _natural(file.parents[1].name))
    if not files:
        raise UserError(
            f"{folder}: no run of a sweep in it; expected {folder}/<number>/.hydra/overrides.yaml, as `-m` leaves it"
        )
    jobs = []
    for file in files:
        run = file.parents[1]
        overrides = dict(_split(line) for line in yaml.safe_load(file.read_text()) or [])
        result = json.loads((run / RESULT).read_text()) if (run / RESULT).is_file() else {}
        jobs.append(Job(run, overrides, **result))
    return jobs


def _natural(name: str) -> tuple[int, str]:
    return (int(name) if name.isdigit() else 10**9, name)


def _split(override: str) -> tuple[str, str]:
    name, _, value = override.partition("=")
    return name.lstrip("+~"), value


def rows(jobs: list[Job], folder: Path) -> list[dict[str, Any]]:
    """The table: what differs between the runs, their scores, their speed, and where they are.

    Args:
        jobs: Of `read_jobs`.
        folder: Relative to it the runs' folders are given.
    """
    names = list(dict.fromkeys(name for job in jobs for name in job.overrides))
    varied = [name for name in names if len({job.overrides.get(name) for job in jobs}) > 1]
    scores = [name for name in dict.fromkeys(n for job in jobs for n in job.metrics) if name.startswith(_SCORES)]
    scores.sort(key=lambda name: next(i for i, start in enumerate(_SCORES) if name.startswith(start)))
    return [
        {
            "run": job.folder.relative_to(folder).as_posix(),
            "status": job.status,
            **{name: job.overrides.get(name) for name in varied},
            **{name: job.metrics.get(name) for name in scores},
            "images_per_second": job.metrics.get(_SPEED),
            "seconds": job.seconds,
            "error": job.error,
        }
        for job in jobs
    ]


def write_sweep(folder: str | Path) -> str:
    """Write ``sweep.csv`` and ``sweep.png`` into a sweep's folder, of the runs that there are so far.

    Returns:
        The table as text.

    Raises:
        UserError: There is no run in the folder, or it cannot be written to.
    """
    folder = Path(folder)
    table = rows(read_jobs(folder), folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_bytes(folder / "sweep.csv", text.getvalue().encode())
    write_bytes(folder / "sweep.png", _picture(table))
    return _text(table)


def _text(table: list[dict[str, Any]]) -> str:
    columns = [name for name in table[0] if any(row[name] not in (None, "") for row in table)]
    cells = [columns, *([_cell(row[name]) for name in columns] for row in table)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else re.sub(r"\s+", " ", value)[:80]


def _picture(table: list[dict[str, Any]]) -> bytes:
    """A panel for each setting that differs: its value against the score of the runs that are done."""
    columns = list(table[0])
    score = next((name for name in columns if name.startswith(_SCORES)), None)
    end = columns.index("images_per_second") if score is None else columns.index(score)
    varied = columns[2:end] or ["run"]
    done = [row for row in table if score is not None and row[score] is not None]
    heights = [row[score] for row in done if score is not None]
    figure = Figure(figsize=(max(4.0, 3.2 * len(varied)), 3.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(varied), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, varied, strict=True):
        values = [str(row[name]) for row in done]
        numbers = [_number(value) for value in values]
        if done and all(number is not None for number in numbers):
            axes.plot(numbers, heights, "o", color="#0072B2")
            low, high = min(filter(None, numbers), default=0), max(filter(None, numbers), default=0)
            if low > 0 and high / low >= 10 and 0 not in numbers:
                axes.set_xscale("log")
        else:
            axes.plot(values, heights, "o", color="#0072B2")
            axes.tick_params(axis="x", labelrotation=30)
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(score or "no score yet")
    missing = len(table) - len(done)
    if missing:
        figure.suptitle(f"{missing} of {len(table)} runs without a score", fontsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
