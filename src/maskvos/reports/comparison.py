"""Comparison of several tests or evaluations: one HTML page, with warnings where scores are not comparable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np

from maskvos import text
from maskvos.errors import UserError
from maskvos.media.files import write_bytes
from maskvos.metrics.results import FILES, Summary
from maskvos.reports import plots
from maskvos.reports.report import PAGE, ROWS, render
from maskvos.reports.scores import lower_is_better, main_measure, number, speed, title_of

# Folders below a run's folder in which results are looked for.
_PLACES = (".", "test", "evaluation")
# Maximum rows of the plot of differences; twice as many in the table of settings.
_LINES = 40
# Settings that name files and folders, and do not influence scores.
_PATH_SETTINGS = ("paths.", "name", "ckpt_path", "output", "predictions", "task")


@dataclass(frozen=True)
class Run:
    """Results of one run.

    Attributes:
        label: Name in the comparison, unique.
        folder: Folder of the score tables.
        summary: Content of the tables.
        colour: Colour in plots.
    """

    label: str
    folder: Path
    summary: Summary
    colour: str

    @property
    def frames_per_second(self) -> float:
        """Speed of the test; nan if unknown, or for an evaluation of saved masks."""
        run = self.summary.run
        return float(run.get("frames_per_second") or math.nan) if run.get("task") == "test" else math.nan


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read the results of several runs.

    Args:
        folders: Run folders, or the folders of their score tables.

    Raises:
        UserError: Fewer than two folders, a duplicate, or a folder without results.
    """
    if len(folders) < 2:
        raise UserError(
            f"runs=[{','.join(map(str, folders))}]: give at least two folders to compare, 'runs=[<folder>,<folder>]'; "
            "the report of a single run is in its folder"
        )
    found = [_find(Path(folder).expanduser()) for folder in folders]
    places = [folder.resolve() for folder in found]
    for given, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"runs: {given} is given twice; give each run once")
    summaries = [Summary.read(folder) for folder in found]
    labels = _labels(found, summaries)
    return [Run(*parts) for parts in zip(labels, found, summaries, cycle(plots.COLOURS))]


def compare(runs: Sequence[Run], output: Path | str) -> Path:
    """Write ``report.html``, ``scatter.png`` and ``differences.png`` about several runs.

    Args:
        runs: Runs to compare; differences are relative to the first.
        output: Output folder.

    Returns:
        Path of the page.

    Raises:
        UserError: The runs have no score in common, or the folder cannot be written to.
    """
    output = Path(output)
    measures = [name for name in runs[0].summary.overall if all(name in run.summary.overall for run in runs)]
    if not measures:
        scores = "; ".join(f"{run.label}: {', '.join(run.summary.overall) or 'none'}" for run in runs)
        raise UserError(f"runs: they have no score in common ({scores}); test them with the same protocol")
    main = main_measure(measures)
    rows = _differences(runs, main)
    points = [(run.label, run.frames_per_second, run.summary.overall[main]) for run in runs]
    points = [point for point in points if all(map(math.isfinite, point[1:]))]
    figure = plots.scatter(points, "frames/s of the whole test", title_of(main)) if points else None
    if figure is not None:
        plots.save(figure, output / "scatter.png")
    if rows:
        series = {run.label: [row["values"][index] for row in rows[:_LINES]] for index, run in enumerate(runs)}
        plots.save(
            plots.dots([row["name"] for row in rows[:_LINES]], series, title_of(main)), output / "differences.png"
        )
    common = [row["values"] for row in rows if all(math.isfinite(value) for value in row["values"])]
    page = render(
        "comparison.html",
        runs=runs,
        measures=measures,
        best={name: _best(runs, name) for name in measures},
        main=main,
        main_title=title_of(main),
        lower=lower_is_better(main),
        warnings=list(warnings(runs)),
        points=points,
        # Safe as markup: Matplotlib has escaped the labels.
        scatter=markupsafe.Markup(plots.svg(figure)) if figure is not None else None,
        rows=rows[:ROWS],
        total=len(rows),
        common=len(common),
        means=np.mean(common, axis=0).tolist() if common else [math.nan] * len(runs),
        largest=max((abs(delta) for row in rows for delta in row["deltas"] if math.isfinite(delta)), default=0.0),
        settings=_settings(runs),
    )
    write_bytes(output / PAGE, page.encode())
    return output / PAGE


def table(runs: Sequence[Run]) -> str:
    """Scores and speeds as plain text, best run first, followed by the warnings."""
    main = main_measure(runs[0].summary.overall)
    sign = 1 if lower_is_better(main) else -1
    scores = {run.label: run.summary.overall.get(main, math.nan) for run in runs}
    rows = [["run", title_of(main), "frames/s"]]
    for run in sorted(runs, key=lambda run: (math.isnan(scores[run.label]), sign * scores[run.label])):
        rate = speed(run.frames_per_second) if math.isfinite(run.frames_per_second) else "–"
        rows.append([run.label, number(scores[run.label]), rate])
    return "\n".join([text.table(rows), *(f"warning: {line}" for line in warnings(runs))])


def warnings(runs: Sequence[Run]) -> Iterator[str]:
    """Reasons why the scores or speeds of these runs are not comparable."""
    for key in dict.fromkeys(key for run in runs for key in run.summary.protocol):
        values = [run.summary.protocol.get(key) for run in runs]
        if any(value != values[0] for value in values):
            yield f"protocols differ in {key}: " + _by_value(runs, values)
    frames = [{(row.video, row.frame) for row in run.summary.frames if not row.left_out} for run in runs]
    if any(counted != frames[0] for counted in frames):
        common = len(set.intersection(*frames))
        counts = _by_value(runs, [f"{len(counted):,} frames" for counted in frames])
        yield f"different frames were scored: {counts}; {common:,} of them in all runs"
    datasets = [", ".join(run.summary.run.get("datasets", [])) or "unknown" for run in runs]
    if len(set(datasets)) > 1:
        yield "datasets differ: " + _by_value(runs, datasets)
    timed = [run for run in runs if math.isfinite(run.frames_per_second)]
    devices = [str(run.summary.run.get("device", "unknown")) for run in timed]
    if len(set(devices)) > 1:
        yield "speed was measured on different devices: " + _by_value(timed, devices)


def _by_value(runs: Sequence[Run], values: Sequence[Any]) -> str:
    """Each distinct value with the labels of the runs that have it."""
    groups: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        groups.setdefault(shown, []).append(run.label)
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in groups.items())


def _find(folder: Path) -> Path:
    """Find the folder of a run's score tables."""
    if not folder.is_dir():
        raise UserError(f"runs: the folder {folder} does not exist; give output folders of task=test or task=evaluate")
    for place in _PLACES:
        if (folder / place / "summary.json").is_file():
            return folder / place if place != "." else folder
    content = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise UserError(
        f"runs: {folder} has no results of task=test or task=evaluate ({', '.join(FILES)}, or a subfolder test or "
        f"evaluation with them); it contains {content}"
    )


def _labels(folders: Sequence[Path], summaries: Sequence[Summary]) -> list[str]:
    """A unique label for each run: its name, with its folder where names repeat."""
    homes = [folder.parent if folder.name in _PLACES else folder for folder in (f.absolute() for f in folders)]
    names = [str(summary.run.get("name") or home.name) for summary, home in zip(summaries, homes, strict=True)]
    for longer in (lambda home: home.name, str):
        names = [
            name if names.count(name) == 1 else f"{name} ({longer(home)})"
            for name, home in zip(names, homes, strict=True)
        ]
    return names


def _best(runs: Sequence[Run], measure: str) -> float:
    """The best score; nan if all runs have the same."""
    values = {run.summary.overall[measure] for run in runs if math.isfinite(run.summary.overall[measure])}
    return (min if lower_is_better(measure) else max)(values) if len(values) > 1 else math.nan


def _differences(runs: Sequence[Run], measure: str) -> list[dict[str, Any]]:
    """Each sequence with its score in every run and the differences from the first run, largest spread first."""
    scores = [{row.name: row.values.get(measure, math.nan) for row in run.summary.sequences} for run in runs]
    rows = []
    for name in dict.fromkeys(name for by_name in scores for name in by_name):
        values = [by_name.get(name, math.nan) for by_name in scores]
        finite = [value for value in values if math.isfinite(value)]
        rows.append(
            {
                "name": name,
                "values": values,
                "deltas": [value - values[0] for value in values[1:]],
                "spread": max(finite) - min(finite) if finite else 0.0,
            }
        )
    return sorted(rows, key=lambda row: -row["spread"])


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings that differ between the configurations, with their value in each run."""
    flat = [{k: str(v) for k, v in text.flatten(run.summary.run.get("config", {}))} for run in runs]
    if not all(flat):
        return []
    keys = dict.fromkeys(key for settings in flat for key in settings if not key.startswith(_PATH_SETTINGS))
    rows = [(key, [settings.get(key, "–") for settings in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1][: 2 * _LINES]
