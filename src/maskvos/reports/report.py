"""The report of a test: one page that opens from disk, whatever was scored, and its plots as PNG.

The page fetches nothing, and its size is bounded: at most `ROWS` sequences are listed, all curves together have at most
about `POINTS` points, and there are at most ``2 * EXAMPLES`` pictures of at most `PICTURE_BYTES` each. That keeps it
under 5 MB however many and however long the videos are; the tables beside it hold everything.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib.metadata
import logging
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import jinja2
import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import Progress

from maskvos.data.dataset import collate, read_mask
from maskvos.environment import git_commit
from maskvos.errors import UserError
from maskvos.media.draw import FALSE_NEGATIVE, FALSE_POSITIVE, draw_errors
from maskvos.media.files import write_bytes
from maskvos.media.images import read_image
from maskvos.metrics.folder import find_predictions
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.reading import read_picture
from maskvos.metrics.results import TITLES, FrameRow, SequenceScore, Summary
from maskvos.metrics.video import VideoMetric
from maskvos.reports import plots
from maskvos.training.module import probabilities
from maskvos.types import Video

log = logging.getLogger(__name__)

PAGE = "report.html"
ROWS = 400
POINTS = 60_000
EXAMPLES = 6
PICTURE_BYTES = 100_000
# Longest side of an example, pixels; panels of the PNG with curves, bars of the one with sequences.
_SIDE = 640
_PANELS = 12
_BARS = 60
# Points of a curve that no screen can tell from more.
_FINE = 400
_LOWER_IS_BETTER = ("mae",)
# What curves show and captions say, where it was scored.
_SERIES: tuple[str, ...] = ("j", "f")
_PACKAGES = ("maskvos", "torch", "pytorch-lightning", "numpy", "opencv-python-headless")


class Example(NamedTuple):
    """A frame (H, W, 3) uint8 RGB at its own size, its truth (H, W) bool, and what was predicted (H, W) bool."""

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


Show = Callable[[str, str], Example]
"""From the names of a sequence and of a frame in it to its pictures."""


# -------------------------------------------------------------------- measures


def lower_is_better(name: str) -> bool:
    """Whether a score is the better the less it is."""
    return name in _LOWER_IS_BETTER or name.endswith("_decay")


def main_measure(overall: Iterable[str]) -> str:
    """The score that sequences and frames are sorted by: the first of which more is better (J&F where there is one)."""
    names = list(overall)
    return next((name for name in names if not lower_is_better(name)), names[0] if names else "")


def of_frame(row: FrameRow, measure: str) -> float:
    """The score of one frame; nan where it has none or does not count."""
    if row.left_out:
        return math.nan
    if measure == "jf":
        return (row.values.get("j", math.nan) + row.values.get("f", math.nan)) / 2
    return row.values.get(measure, math.nan)


def ranked(sequences: Iterable[SequenceScore], measure: str) -> list[SequenceScore]:
    """Sequences from the best to the worst, those without a score last."""
    sign = 1 if lower_is_better(measure) else -1

    def key(row: SequenceScore) -> tuple[bool, float]:
        value = row.values.get(measure, math.nan)
        return math.isnan(value), sign * value

    return sorted(sequences, key=key)


def title_of(name: str) -> str:
    """The heading of a score."""
    return TITLES.get(name, name)


def measure_of(name: str) -> str:
    """The short name of a measure: J of ``j``."""
    return title_of(name).removesuffix("-Mean")


def number(value: Any) -> str:
    """A score for people; a dash where there is none."""
    return f"{value:.3f}" if isinstance(value, float) and math.isfinite(value) else "–"


def exact(value: Any) -> str:
    """A score for scripts and styles; empty where there is none."""
    return f"{value:.6f}" if isinstance(value, float) and math.isfinite(value) else ""


def speed(value: float) -> str:
    """Frames per second with as many digits as mean something."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


# -------------------------------------------------------------------- the page


def write_report(summary: Summary, folder: Path | str, show: Show | None = None, progress: bool = False) -> Path:
    """Write ``report.html``, ``sequences.png`` and ``curves.png`` beside the tables, and these too.

    Args:
        summary: What was found; ``summary.run`` as `about_run` makes it, where known.
        folder: Where everything goes.
        show: Where the pictures of the best and worst frames come from; None: the page has none.
        progress: Show a bar with the time left.

    Returns:
        The page.

    Raises:
        UserError: The folder cannot be written to.
    """
    folder = Path(folder)
    summary.write(folder)
    main = main_measure(summary.overall)
    series = _series(summary)
    drawn = {"sequences.png": _draw_bars(summary, main), "curves.png": _draw_curves(summary, main, series)}
    for name, figure in drawn.items():
        if figure is not None:
            plots.save(figure, folder / name)
    examples = []
    if show is not None and main:
        with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
            task = bar.add_task("drawing the worst and best frames", total=2 * EXAMPLES)
            examples = _examples(summary.frames, main, show, lambda: bar.advance(task))
    page = render(
        "report.html",
        **_content(summary, main, series),
        examples=examples,
        plots=[name for name, figure in drawn.items() if figure is not None],
    )
    write_bytes(folder / PAGE, page.encode())
    return folder / PAGE


def render(template: str, **content: Any) -> str:
    """A page of ``templates/``; whatever is put into it is escaped."""
    loader = jinja2.PackageLoader("maskvos.reports")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, exact=exact, speed=speed, title_of=title_of, measure_of=measure_of)
    return environment.get_template(template).render(content)


def ends(rows: Sequence[Any], count: int) -> list[Any]:
    """All of a sorted list, or its first and its last entries where it is longer than ``count``."""
    return list(rows) if len(rows) <= count else [*rows[: count // 2], *rows[-(count // 2) :]]


def _content(summary: Summary, main: str, series: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """What the page says but for the pictures."""
    rows = ends(ranked(summary.sequences, main), ROWS)
    curves, condensed = _curves(summary, rows, series)
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
        "main_title": title_of(main),
        "lower": lower_is_better(main),
        "others": [name for name in summary.overall if name != main],
        "rows": rows,
        "total": len(summary.sequences),
        "means": [*means, *summary.also.items(), (summary.mean_of, summary.overall)] if summary.overall else [],
        "classes": any(row.category for row in rows),
        "measures": list(next(iter(series.values()), {})),
        "curves": curves,
        "condensed": condensed,
        "videos": len(series),
        "account": summary.account(),
        "protocol": summary.protocol,
        "facts": _facts(run),
        "config": yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True) if run.get("config") else "",
        "colours": {"false_positive": FALSE_POSITIVE, "false_negative": FALSE_NEGATIVE},
    }


def _headline(overall: Mapping[str, float], main: str) -> list[dict[str, Any]]:
    """One card for each measure, its recall and decay with it; the main one first."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in overall.items():
        base, _, statistic = name.rpartition("_")
        if base in groups and statistic in ("recall", "decay"):
            groups[base]["more"].append((statistic, value))
        else:
            groups[name] = {"title": title_of(name), "value": value, "lower": lower_is_better(name), "more": []}
    return sorted(groups.values(), key=lambda group: group["title"] != title_of(main))


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a run, as lines of a list."""
    facts = [(name, str(run[name])) for name in ("source", "time", "device", "root") if run.get(name)]
    if run.get("frames_per_second"):
        facts.append(("speed", f"{speed(run['frames_per_second'])} frames/s in {run['seconds']:.1f} s"))
    return facts + [(name, str(version)) for name, version in run.get("versions", {}).items()]


# -------------------------------------------------------------------- curves and plots


def _series(summary: Summary) -> dict[str, dict[str, np.ndarray]]:
    """Of each sequence with a frame that counts, the scores of all its frames by measure; nan where they do not."""
    measures = [name for name in _SERIES if name in summary.overall] or list(summary.overall)[:2]
    rows: dict[str, list[FrameRow]] = {}
    for row in summary.frames:
        rows.setdefault(row.video, []).append(row)
    return {
        video: {name: np.array([of_frame(row, name) for row in frames]) for name in measures}
        for video, frames in rows.items()
        if not all(row.left_out for row in frames)
    }


def condense(values: np.ndarray, points: int, lower: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A curve of few points that keeps what is bad: of neighbouring values the worst stands for all.

    Args:
        values: (T,) scores; nan where there is none.
        points: At most so many remain.
        lower: Less is better, so that the worst is the greatest.

    Returns:
        Places from 0 to T - 1, and values there; nan where all neighbours are.
    """
    count = min(points, len(values))
    edges = np.linspace(0, len(values), count + 1).round().astype(int)
    worst = np.fmax if lower else np.fmin
    return (edges[:-1] + edges[1:] - 1) / 2, worst.reduceat(values, edges[:-1])


def _curves(
    summary: Summary, rows: Sequence[SequenceScore], series: dict[str, dict[str, np.ndarray]]
) -> tuple[list[dict[str, Any]], bool]:
    """The curves of the listed sequences in their order, and whether any stands for more frames than it has points."""
    names = [name for name in dict.fromkeys(row.video for row in rows) if name in series]
    frames: dict[str, list[str]] = {}
    for row in summary.frames:
        frames.setdefault(row.video, []).append(row.frame)
    points = min(_FINE, max(20, POINTS // (2 * max(1, len(names)))))
    curves = []
    for name in names:
        known = {measure_of(m): v[np.isfinite(v)] for m, v in series[name].items()}
        told = ", ".join(f"{m} {number(float(v.mean()) if v.size else None)}" for m, v in known.items())
        spans = ", ".join(
            f"{m} from {v.min():.3f} to {v.max():.3f}, mean {v.mean():.3f}" for m, v in known.items() if v.size
        )
        curves.append(
            {
                "name": name,
                "summary": told,
                "alt": f"{name}, {len(frames[name])} frames: {spans or 'no scores'}",
                "frames": len(frames[name]),
                "first": frames[name][0],
                "last": frames[name][-1],
                "lines": [(m, _path(v, points, lower_is_better(m))) for m, v in series[name].items()],
            }
        )
    return curves, any(len(frames[name]) > points for name in names)


def _path(values: np.ndarray, points: int, lower: bool) -> str:
    """An SVG path through scores, 1000 wide and 100 high, broken where there is none."""
    places, heights = condense(values, points, lower)
    across = places * (1000 / max(1, len(values) - 1)) if len(values) > 1 else np.array([500.0])
    parts, pen = [], "M"
    for x, value in zip(across, heights, strict=True):
        if math.isnan(value):
            pen = "M"
            continue
        # A line to where it is draws a dot, which is all that is seen of a frame without neighbours.
        point = f"{x:.0f} {100 - 100 * value:.1f}"
        parts.append(f"M{point}L{point}" if pen == "M" else f"L{point}")
        pen = "L"
    return "".join(parts)


def _draw_bars(summary: Summary, main: str) -> Any:
    rows = ends(ranked(summary.sequences, main), _BARS)
    if not rows or not main:
        return None
    label = title_of(main) if len(rows) == len(summary.sequences) else f"{title_of(main)} ({_BARS} of all sequences)"
    values = [row.values.get(main, math.nan) for row in rows]
    return plots.bars([row.name for row in rows], values, label, summary.overall.get(main, math.nan))


def _draw_curves(summary: Summary, main: str, series: dict[str, dict[str, np.ndarray]]) -> Any:
    """The curves of the worst sequences."""
    names = dict.fromkeys(row.video for row in reversed(ranked(summary.sequences, main)) if row.video in series)
    panels = {
        name: {measure_of(m): condense(v, _FINE, lower_is_better(m))[1] for m, v in series[name].items()}
        for name in list(names)[:_PANELS]
    }
    return plots.curves(panels, columns=min(3, len(panels))) if panels else None


# -------------------------------------------------------------------- best and worst frames


def candidates(frames: Sequence[FrameRow], measure: str, best: bool) -> Iterator[FrameRow]:
    """Frames from the best, or from the worst, on; few of one sequence, and these apart from each other.

    Args:
        frames: All frames, those of a sequence in order of time.
        measure: What they are sorted by.
        best: Start with the best.
    """
    lengths = Counter(row.video for row in frames)
    places: dict[tuple[str, str], int] = {}
    seen: Counter[str] = Counter()
    for row in frames:
        places[row.video, row.frame] = seen[row.video]
        seen[row.video] += 1
    most = max(2, -(-EXAMPLES // max(1, len(lengths))))
    taken: dict[str, list[int]] = {}
    scored = [row for row in frames if not math.isnan(of_frame(row, measure))]
    for row in sorted(scored, key=lambda row: of_frame(row, measure), reverse=best != lower_is_better(measure)):
        place, others = places[row.video, row.frame], taken.setdefault(row.video, [])
        if len(others) < most and all(abs(place - other) > lengths[row.video] / (2 * most) for other in others):
            others.append(place)
            yield row


def _examples(
    frames: Sequence[FrameRow], measure: str, show: Show, advance: Callable[[], None]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The worst and the best frames as figures of the page."""
    count = min(EXAMPLES, max(1, sum(not row.left_out for row in frames) // 2))
    shown: set[tuple[str, str]] = set()
    parts = []
    for heading, best in (("Worst", False), ("Best", True)):
        figures: list[dict[str, Any]] = []
        for tries, row in enumerate(candidates(frames, measure, best)):
            if len(figures) == count or tries == 4 * EXAMPLES:
                break
            if (row.video, row.frame) in shown:
                continue
            try:
                example = show(row.video, row.frame)
            except UserError as error:
                log.warning("the report leaves out the picture of %s/%s: %s", row.video, row.frame, error)
                continue
            if best and not example.truth.any():
                continue  # nothing found where nothing is: right, and nothing to see
            shown.add((row.video, row.frame))
            figures.append(_figure(row, measure, example))
            advance()
        parts.append((heading, figures))
    return parts


def _figure(row: FrameRow, measure: str, example: Example) -> dict[str, Any]:
    """A frame with its errors, what is said below it, and what is said to those who do not see it."""
    size = max(1, int(example.truth.sum()))
    missed = int((example.truth & ~example.prediction).sum())
    wrong = int((example.prediction & ~example.truth).sum())
    if example.truth.any():
        errors = f"missed {missed / size:.0%} of the object, marked {wrong / size:.0%} of its area beside it"
    else:
        errors = f"no object in the truth; {wrong:,} pixels marked"
    names = [name for name in _SERIES if name in row.values] or [measure]
    scores = ", ".join(f"{measure_of(name)} {number(of_frame(row, name))}" for name in names)
    picture = draw_errors(*_scaled(example))
    return {
        "name": f"{row.video} / {row.frame}",
        "scores": scores,
        "errors": errors,
        "alt": f"Frame {row.frame} of {row.video}: {scores}; {errors}",
        "source": _data_uri(picture),
        "width": picture.shape[1],
        "height": picture.shape[0],
    }


def _scaled(example: Example) -> Example:
    """An example of the size that the page shows, so that its outline is as wide in a small picture as in a large."""
    height, width = example.truth.shape
    share = _SIDE / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    way = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    masks = (
        cv2.resize(mask.astype(np.float32), size, interpolation=way) > 0.5
        for mask in (example.truth, example.prediction)
    )
    return Example(cv2.resize(example.image, size, interpolation=way), *masks)


def _data_uri(picture: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 RGB as JPEG inside a URL, of at most `PICTURE_BYTES`."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for quality in (88, 75, 55, 35, 15, 5):
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(data) <= PICTURE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def saved_masks(predictions: Path | str, videos: Sequence[Video], protocol: Protocol) -> Show:
    """Examples of masks that lie on disk, as `metrics.evaluate_folder` finds and understands them."""
    files = find_predictions(predictions, videos, protocol)
    frames = {(video.name, frame.name): (video, frame) for video in videos for frame in video.frames}

    def show(name: str, frame_name: str) -> Example:
        video, frame = frames[name, frame_name]
        image = read_image(frame.image)
        size = (image.shape[0], image.shape[1])
        truth = np.zeros(size, bool) if frame.mask is None else read_mask(frame.mask, size, video.masks) > 0
        if (name, frame_name) not in files:
            return Example(image, truth, np.zeros(size, bool))
        picture = read_picture(files[name, frame_name])
        ids = picture.kind != "levels" or protocol.objects == "match"
        mask = (picture.values != 0 if ids else protocol.foreground(picture.values)).astype(np.uint8)
        return Example(image, truth, cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0)

    return show


def predicted_masks(trainer: pl.Trainer, module: pl.LightningModule, protocol: Protocol) -> Show:
    """Examples that the network of a running test segments once more, so that no test keeps any picture.

    Only the process that calls this takes part, whatever the number of processes.
    """
    dataset = trainer.datamodule.test_dataloader().dataset  # type: ignore[attr-defined]
    places = {
        (dataset.videos[v].name, dataset.videos[v].frames[f].name): index for index, (v, f) in enumerate(dataset.pairs)
    }

    @torch.inference_mode()
    def show(name: str, frame_name: str) -> Example:
        batch = collate([dataset[places[name, frame_name]]])
        moved = trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(batch))
        with trainer.precision_plugin.test_step_context():
            logits = module(moved)
        (probability,) = probabilities(logits, batch["size"])
        truth = batch["truth"][0]
        prediction = protocol.foreground(probability)
        return Example(batch["image"][0], np.zeros_like(prediction) if truth is None else truth, prediction)

    return show


# -------------------------------------------------------------------- runs


def about_run(
    task: str,
    config: Mapping[str, Any],
    videos: Sequence[Video],
    frames: int,
    seconds: float,
    source: str,
    device: str,
) -> dict[str, Any]:
    """What a reader of results wants to know of how they came about, as plain containers.

    Args:
        task: ``test`` or ``evaluate``.
        config: The resolved configuration.
        videos: What was scored.
        frames: How many frames were scored.
        seconds: Wall time.
        source: The checkpoint, or the folder of masks.
        device: Where the network ran.
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
        "versions": versions(),
        "config": dict(config),
    }


def versions() -> dict[str, str]:
    """Python, packages, and the commit where maskvos runs from a checkout."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if commit := git_commit():
        found["commit"] = commit
    return found


class TestReport(Callback):
    """Prints the table of a test, and writes frames.csv, sequences.csv, summary.json, report.html and its plots.

    Args:
        folder: Where the files go.
    """

    __test__ = False  # a name that pytest must not collect

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._start = 0.0

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the frames of all processes, and let the first one write."""
        metric = cast(VideoMetric, pl_module.test_metric)
        summary = metric.summary()
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._start
        config = cast(dict[str, Any], pl_module.config)
        about = about_run(
            "test",
            config,
            trainer.datamodule.videos("test"),  # type: ignore[attr-defined]
            sum(1 for row in summary.frames if row.values),
            seconds,
            str(config.get("ckpt_path")),
            _device(pl_module.device, trainer.world_size),
        )
        show = predicted_masks(trainer, pl_module, metric.protocol)
        print(summary.table())
        print(f"tested {about['frames']} frames in {seconds:.1f} s, {speed(about['frames'] / seconds)} frames/s")
        summary = dataclasses.replace(summary, run=about)
        page = write_report(summary, self.folder, show, progress=trainer.progress_bar_callback is not None)
        print(f"scores: {self.folder}\nreport: {page}")


def _device(device: torch.device, processes: int) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type} ({name})" + (f", {processes} processes" if processes > 1 else "")
