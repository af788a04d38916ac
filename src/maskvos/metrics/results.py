"""Evaluation results: scores of frames and sequences, and their summary as table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskvos.errors import UserError
from maskvos.media.files import read_file, write_bytes
from maskvos.text import cell, table, uncell

TITLES = {
    "jf": "J&F-Mean",
    **{
        f"{m}{s}": f"{m.upper()}{t}"
        for m in "jf"
        for s, t in (("", "-Mean"), ("_recall", "-Recall"), ("_decay", "-Decay"))
    },
    "t": "T-Mean",
    "boundary_iou": "Boundary-IoU",
    "precision": "Precision",
    "recall": "Recall",
    "mae": "MAE",
    "max_f": "maxF",
    "mean_f": "meanF",
    "adaptive_f": "adpF",
    "max_e": "maxE",
    "mean_e": "meanE",
    "adaptive_e": "adpE",
    "s": "S",
    "weighted_f": "wF",
}
"""Column headings; those of J and F as in the official DAVIS tables."""

FILES = ("summary.json", "sequences.csv", "frames.csv")
"""Files that `Summary.write` creates."""


@dataclass(frozen=True)
class FrameScore:
    """Scores of one frame, small enough to keep and gather over processes, unlike masks.

    Attributes:
        video: Name of the sequence.
        frame: Name of the frame.
        values: Metric name to score.
        empty_truth: The ground truth has no foreground.
        histogram: (2, 256) histograms of the map in background and foreground, if curves are computed.
        objects: (2, P + 1, O + 1) J and F of predicted and true objects, if objects are matched.
        note: Remark on the prediction, e.g. that it was missing.
        outline: (N, 2) corners of the outline, if T is computed; see `maskvos.metrics.outline.outline`.
    """

    video: str
    frame: str
    values: dict[str, float]
    empty_truth: bool = False
    histogram: np.ndarray | None = None
    objects: np.ndarray | None = None
    note: str = ""
    outline: np.ndarray | None = None

    def to_line(self) -> str:
        """Serialise to one line of JSON, bit-exactly."""
        arrays = [None if array is None else array.tolist() for array in (self.histogram, self.objects, self.outline)]
        return json.dumps([self.video, self.frame, self.values, self.empty_truth, *arrays, self.note])

    @classmethod
    def from_line(cls, line: str) -> FrameScore:
        """The inverse of `to_line`."""
        video, frame, values, empty_truth, histogram, objects, outline, note = json.loads(line)
        histogram = None if histogram is None else np.array(histogram, np.int64)
        objects = None if objects is None else np.array(objects, np.float64)
        outline = None if outline is None else np.array(outline, np.int32)
        return cls(video, frame, values, empty_truth, histogram, objects, note, outline)


@dataclass(frozen=True)
class FrameRow:
    """One row of the frame table; ``left_out`` is the reason if the frame is excluded from the means, else empty."""

    video: str
    frame: str
    values: dict[str, float]
    left_out: str = ""
    note: str = ""


@dataclass(frozen=True)
class SequenceScore:
    """Scores of one sequence, or of one object in it.

    Attributes:
        name: Name of the sequence, with ``_<id>`` for an object.
        video: Name of the sequence.
        category: Class of its main object, if the dataset has classes.
        frames: Number of frames in the means.
        values: Name of metric and statistic to score; empty if no frame counts.
        curves: Metric name to mean curve over the frames.
    """

    name: str
    video: str
    category: str | None
    frames: int
    values: dict[str, float]
    curves: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Results of an evaluation.

    Attributes:
        protocol: Options of the protocol.
        overall: Name of metric and statistic to score, averaged according to the protocol.
        sequences: Scores of the sequences (or objects), in the order of the videos.
        frames: All frames, scored or not.
        classes: Mean scores of each class, if the protocol averages over classes.
        also: Other averages used in papers, by name.
        notes: Remarks that are needed to interpret the scores.
        run: Metadata of the run (task, weights, speed, versions, configuration), as plain containers; may be empty.
    """

    protocol: dict[str, Any]
    overall: dict[str, float]
    sequences: list[SequenceScore]
    frames: list[FrameRow]
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    also: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, Any]:
        """Number of sequences and frames in the means, and of frames left out by reason."""
        left_out = Counter(row.left_out for row in self.frames if row.left_out)
        return {
            "sequences": len({row.video for row in self.frames if not row.left_out}),
            "frames": sum(1 for row in self.frames if not row.left_out),
            "left_out": dict(sorted(left_out.items())),
        }

    @property
    def mean_of(self) -> str:
        """Description of the average in `overall`."""
        rows_are = "objects" if self.protocol["objects"] == "match" else "sequences"
        return f"mean over {rows_are if self.protocol['average'] == 'sequences' else self.protocol['average']}"

    def table(self, worst: Sequence[SequenceScore] | None = None) -> str:
        """Text table in the official DAVIS layout: one row per sequence, then the mean, then `account`.

        Args:
            worst: The sequences to list if not all, the worst first.
        """
        names = list(self.overall)
        few = worst is not None and len(worst) < len(self.sequences)
        first = f"worst of {len(self.sequences)}" if few else "Sequence"
        rows = [[first, "Frames", *(TITLES.get(name, name) for name in names)]]
        shown = self.sequences if worst is None else worst
        rows += [[sequence.name, str(sequence.frames), *_cells(sequence.values, names)] for sequence in shown]
        means = [(f"class {name}", values) for name, values in self.classes.items()]
        means += [*self.also.items(), (self.mean_of, self.overall)]
        last = len(rows)
        rows += [[name, "", *_cells(values, names)] for name, values in means]
        lines = table(rows, (1, last)).splitlines()
        return "\n".join([*lines, lines[1], *self.account()])

    def account(self) -> list[str]:
        """Which frames were counted or left out and why, and the notes, one per line."""
        counts = self.counts
        left_out = ", ".join(f"{count} {reason}" for reason, count in counts["left_out"].items()) or "none"
        lines = [
            f"protocol {self.protocol['name']}: {counts['sequences']} sequences, {counts['frames']} frames"
            f" counted; frames left out: {left_out}"
        ]
        special = Counter(row.note for row in self.frames if row.note and not row.left_out)
        lines += [f"{count} frames: {note}" for note, count in sorted(special.items())]
        return lines + self.notes

    def write(self, folder: Path | str) -> None:
        """Write ``frames.csv``, ``sequences.csv`` and ``summary.json`` to a folder; it is created if missing.

        Raises:
            UserError: The disk is full, or the folder is not writable.
        """
        folder = Path(folder)
        measures = list(dict.fromkeys(name for row in self.frames for name in row.values))
        frames: list[list[Any]] = [["sequence", "frame", "counted", *measures, "left_out", "note"]]
        frames += [
            [row.video, row.frame, int(not row.left_out), *_exact(row.values, measures), row.left_out, row.note]
            for row in self.frames
        ]
        write_bytes(folder / "frames.csv", _csv(frames).encode())
        names = list(self.overall)
        sequences: list[list[Any]] = [["sequence", "class", "frames", *names]]
        sequences += [[s.name, s.category or "", s.frames, *_exact(s.values, names)] for s in self.sequences]
        write_bytes(folder / "sequences.csv", _csv(sequences).encode())
        summary = {
            "overall": self.overall,
            "classes": self.classes,
            "also": self.also,
            "counts": self.counts,
            "protocol": self.protocol,
            "account": self.account(),
            "notes": self.notes,
            "run": self.run,
        }
        text = json.dumps(_without_nan(summary), indent=2, default=str)
        write_bytes(folder / "summary.json", (text + "\n").encode())

    @classmethod
    def read(cls, folder: Path | str) -> Summary:
        """Read the files of `write`; the curves of sequences are not stored and stay empty.

        Raises:
            UserError: A file is missing or invalid.
        """
        folder = Path(folder)
        try:
            found = json.loads(read_file(folder / "summary.json"))
            sequences = _read_csv(folder / "sequences.csv", ("sequence", "class", "frames"))
            frames = _read_csv(folder / "frames.csv", ("sequence", "frame", "counted", "left_out", "note"))
            rows = [
                FrameRow(names["sequence"], names["frame"], values, names["left_out"], names["note"])
                for names, values in frames
            ]
            videos = {row.video for row in rows}
            scores = [
                SequenceScore(
                    name=names["sequence"],
                    # The row of an object is named <sequence>_<id>.
                    video=names["sequence"] if names["sequence"] in videos else names["sequence"].rpartition("_")[0],
                    category=names["class"] or None,
                    frames=int(names["frames"]),
                    values=values,
                )
                for names, values in sequences
            ]
            return cls(
                protocol=found["protocol"],
                overall=_numbers(found["overall"]),
                sequences=scores,
                frames=rows,
                classes={name: _numbers(values) for name, values in found["classes"].items()},
                also={name: _numbers(values) for name, values in found["also"].items()},
                notes=found.get("notes", []),
                run=found.get("run", {}),
            )
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be read ({error.strerror}); give the output folder of task=test or "
                f"task=evaluate, which contains {', '.join(FILES)}"
            ) from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{folder}: its {', '.join(FILES)} are not valid outputs of task=test or task=evaluate ({error!r}); "
                "evaluate again"
            ) from error


def _cells(values: dict[str, float], names: list[str]) -> list[str]:
    return [f"{values[name]:.4f}" if name in values else "-" for name in names]


def _exact(values: dict[str, float], names: list[str]) -> list[float | str]:
    return [float(values[name]) if name in values else "" for name in names]


def _csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def _read_csv(path: Path, names: tuple[str, ...]) -> list[tuple[dict[str, str], dict[str, float]]]:
    """Rows of a CSV file: the named columns as text, all others as numbers, without empty cells."""
    rows = list(csv.DictReader(io.StringIO(read_file(path).decode(), newline="")))
    return [
        (
            {name: uncell(row[name]) for name in names},
            {key: float(row[key]) for key in row if key not in names and row[key]},
        )
        for row in rows
    ]


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else float(value) for key, value in values.items()}


def _without_nan(value: Any) -> Any:
    """Replace nan by None, as JSON has no nan."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
