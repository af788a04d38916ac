"""HTML report of a test or evaluation: one self-contained page, and its plots as PNG.

The page loads nothing from elsewhere and stays below 5 MB, however many and however long the videos are: it lists at
most `ROWS` sequences, has about `POINTS` points in all curves together, and at most ``2 * EXAMPLES`` images of at
most `IMAGE_BYTES` each. The CSV files next to it are complete.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from maskvos.environment import versions
from maskvos.media.draw import FALSE_NEGATIVE, FALSE_POSITIVE
from maskvos.media.files import write_bytes
from maskvos.metrics.results import Summary
from maskvos.reports import plots, scores
from maskvos.reports.curves import Series, draw_bars, draw_curves, page_curves, series_of
from maskvos.reports.examples import EXAMPLES, ExampleSource, example_figures
from maskvos.text import progress_bar
from maskvos.types import Video

PAGE = "report.html"
ROWS = 400
_PACKAGES = ("maskvos", "torch", "pytorch-lightning", "numpy", "opencv-python-headless")


def about_run(
    task: str, config: Mapping[str, Any], videos: Sequence[Video], frames: int, seconds: float, source: str, device: str
) -> dict[str, Any]:
    """Collect how scores were obtained, as plain containers for `Summary.run`.

    Args:
        task: ``test`` or ``evaluate``.
        config: Resolved configuration.
        videos: Videos that were scored.
        frames: Number of scored frames.
        seconds: Wall time.
        source: Checkpoint, or folder of masks.
        device: Device of the network.
    """
    return {
        "task": task,
        "name": config.get("name"),
        "source": source,
        "datasets": sorted({video.dataset for video in videos if video.dataset}),
        "root": config.get("data", {}).get("root"),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "device": device,
        "frames": frames,
        "seconds": seconds,
        "frames_per_second": frames / seconds if seconds > 0 else None,
        "speed_of": "reading and scoring masks" if task == "evaluate" else "reading, flow, network and scoring",
        "versions": versions(_PACKAGES),
        "config": dict(config),
    }


def write_report(
    summary: Summary, folder: Path | str, source: ExampleSource | None = None, progress: bool = False
) -> Path:
    """Write the score tables, ``report.html``, ``sequences.png`` and ``curves.png``.

    Args:
        summary: The evaluation, with ``summary.run`` from `about_run` if known.
        folder: Output folder.
        source: Provides the best and worst frames; None for a page without example frames.
        progress: Show a progress bar.

    Returns:
        Path of the page.

    Raises:
        UserError: The folder cannot be written to.
    """
    folder = Path(folder)
    summary.write(folder)
    main = scores.main_measure(summary.overall)
    series = series_of(summary)
    figures = {"sequences.png": draw_bars(summary, main), "curves.png": draw_curves(summary, main, series)}
    for name, figure in figures.items():
        if figure is not None:
            plots.save(figure, folder / name)
    examples = []
    if source is not None and main:
        with progress_bar(shown=progress) as bar:
            task = bar.add_task("drawing examples", total=2 * EXAMPLES)
            examples = example_figures(summary.frames, main, source, lambda: bar.advance(task))
    page = render(
        "report.html",
        **_content(summary, main, series),
        examples=examples,
        plots=[name for name, figure in figures.items() if figure is not None],
    )
    write_bytes(folder / PAGE, page.encode())
    return folder / PAGE


def render(template: str, **content: Any) -> str:
    """Render a page of ``templates/``, with all content HTML-escaped."""
    loader = jinja2.PackageLoader("maskvos.reports")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    for function in (scores.number, scores.exact, scores.speed, scores.title_of, scores.measure_of):
        environment.filters[function.__name__] = function
    return environment.get_template(template).render(content)


def _content(summary: Summary, main: str, series: Series) -> dict[str, Any]:
    """Variables of the template, except the example frames."""
    rows = scores.head_and_tail(scores.ranked(summary.sequences, main), ROWS)
    curves, downsampled = page_curves(summary, rows, series)
    run = summary.run
    means = [(f"class {name}", values) for name, values in summary.classes.items()]
    return {
        "title": run.get("name") or "results",
        "kind": {"test": "test report", "evaluate": "evaluation report"}.get(run.get("task", ""), "report"),
        "datasets": run.get("datasets", []),
        "run": run,
        "counts": summary.counts,
        "left_out": sum(summary.counts["left_out"].values()),
        "headline": _headline(summary.overall, main),
        "main": main,
        "main_title": scores.title_of(main),
        "lower": scores.lower_is_better(main),
        "others": [name for name in summary.overall if name != main],
        "rows": rows,
        "total": len(summary.sequences),
        "means": [*means, *summary.also.items(), (summary.mean_of, summary.overall)] if summary.overall else [],
        "classes": any(row.category for row in rows),
        "measures": list(next(iter(series.values()), {})),
        "curves": curves,
        "downsampled": downsampled,
        "videos": len(series),
        "account": summary.account(),
        "protocol": summary.protocol,
        "facts": _facts(run),
        "config": yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True) if run.get("config") else "",
        "colours": {"false_positive": FALSE_POSITIVE, "false_negative": FALSE_NEGATIVE},
    }


def _headline(overall: Mapping[str, float], main: str) -> list[dict[str, Any]]:
    """One card per measure with its recall and decay, the main measure first."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in overall.items():
        base, _, statistic = name.rpartition("_")
        if base in groups and statistic in ("recall", "decay"):
            groups[base]["more"].append((statistic, value))
        else:
            title, lower = scores.title_of(name), scores.lower_is_better(name)
            groups[name] = {"title": title, "value": value, "lower": lower, "more": []}
    return sorted(groups.values(), key=lambda group: group["title"] != scores.title_of(main))


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for the list of run details."""
    facts = [(name, str(run[name])) for name in ("source", "time", "device", "root") if run.get(name)]
    if run.get("frames_per_second"):
        facts.append(("speed", f"{scores.speed(run['frames_per_second'])} frames/s in {run['seconds']:.1f} s"))
    return facts + [(name, str(version)) for name, version in run.get("versions", {}).items()]
