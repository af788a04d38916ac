"""Table and plot of a sweep, built from the result files of its runs."""

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

from maskvos import text
from maskvos.errors import UserError
from maskvos.media.files import read_file, write_bytes

RESULT = "result.json"
# Prefixes of score columns, in order; the plot shows the first column.
_SCORES = ("best/", "test/", "evaluate/", "val/")
_SPEED = "train/images_per_second"


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        folder: The run's folder.
        overrides: Setting to value, as on the command line.
        status: ``done``, ``failed``, or ``unfinished`` (running or killed).
        metrics: Metrics that it returned.
        seconds: Duration.
        error: Error message, if it failed.
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
    """Write the outcome of a run to ``result.json`` in its folder.

    Args:
        folder: The run's folder.
        metrics: Metrics that it returned.
        seconds: Duration.
        error: Error message; empty if it succeeded.
    """
    # JSON has no nan.
    numbers = {name: value if math.isfinite(value) else None for name, value in (metrics or {}).items()}
    result = {"status": "failed" if error else "done", "seconds": seconds, "error": error, "metrics": numbers}
    write_bytes(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())


def read_jobs(folder: Path) -> list[Job]:
    """Read the runs of a sweep, in order.

    Args:
        folder: The sweep's folder.

    Raises:
        UserError: The folder contains no run, or one of them is damaged.
    """
    files = sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda file: text.natural(file.parents[1].name))
    if not files:
        raise UserError(
            f"{folder}: not the folder of a sweep; expected {folder}/<number>/.hydra/overrides.yaml, as written by `-m`"
        )
    jobs = []
    for file in files:
        run = file.parents[1]
        try:
            overrides = dict(_split(line) for line in yaml.safe_load(read_file(file)) or [])
            result = json.loads((run / RESULT).read_text()) if (run / RESULT).is_file() else {}
            jobs.append(Job(run, overrides, **result))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"{run}: {file.name} or {RESULT} cannot be read ({error!r}); remove this run from the sweep's folder"
            ) from error
    return jobs


def _split(override: str) -> tuple[str, str]:
    name, _, value = override.partition("=")
    return name.lstrip("+~"), value


def sweep_rows(jobs: list[Job], folder: Path) -> list[dict[str, Any]]:
    """One row per run: folder, status, settings that vary, scores, speed, error.

    Args:
        jobs: Runs from `read_jobs`.
        folder: The sweep's folder; the runs' folders are given relative to it.
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
    """Write ``sweep.csv`` and ``sweep.png`` into a sweep's folder, about the runs so far.

    Returns:
        The table as plain text.

    Raises:
        UserError: The folder contains no run, or cannot be written to.
    """
    folder = Path(folder)
    rows = sweep_rows(read_jobs(folder), folder)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: text.cell(value) for name, value in row.items()} for row in rows)
    write_bytes(folder / "sweep.csv", buffer.getvalue().encode())
    _plot(rows, folder / "sweep.png")
    columns = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    return text.table([columns, *([_cell(row[name]) for name in columns] for row in rows)], right=False)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else re.sub(r"\s+", " ", value)[:80]


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the score of the finished runs over each setting that varies."""
    from maskvos.reports import plots  # imports matplotlib, which writing a run's result does not need

    columns = list(rows[0])
    score = next((name for name in columns if name.startswith(_SCORES)), None)
    end = columns.index("images_per_second") if score is None else columns.index(score)
    done = [] if score is None else [row for row in rows if row[score] is not None]
    settings = {name: [str(row[name]) for row in done] for name in columns[2:end] or ["run"]}
    missing = len(rows) - len(done)
    title = f"{missing} of {len(rows)} runs without a score" if missing else ""
    scores = [] if score is None else [row[score] for row in done]
    plots.save(plots.score_by_setting(settings, scores, score or "no score yet", title), path)
