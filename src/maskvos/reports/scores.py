"""Names, order and formatting of scores in reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from maskvos.metrics.results import TITLES, FrameRow, SequenceScore, Summary

SHOWN: tuple[str, ...] = ("j", "f")
"""Measures in curves and captions, where the protocol scores them."""


def lower_is_better(name: str) -> bool:
    """Whether lower values of a score are better."""
    return name in ("mae", "t") or name.endswith("_decay")


def main_measure(overall: Iterable[str]) -> str:
    """The score to rank by: the first for which higher is better (J&F if scored), else the first; empty if none."""
    names = list(overall)
    return next((name for name in names if not lower_is_better(name)), names[0] if names else "")


def frame_score(row: FrameRow, measure: str) -> float:
    """The score of one frame; nan if it has none or is excluded by the protocol."""
    if row.left_out:
        return math.nan
    if measure == "jf":
        return (row.values.get("j", math.nan) + row.values.get("f", math.nan)) / 2
    return row.values.get(measure, math.nan)


def ranked(sequences: Iterable[SequenceScore], measure: str) -> list[SequenceScore]:
    """Sequences from best to worst; those without a score last."""
    sign = 1 if lower_is_better(measure) else -1

    def key(row: SequenceScore) -> tuple[bool, float]:
        value = row.values.get(measure, math.nan)
        return math.isnan(value), sign * value

    return sorted(sequences, key=key)


def brief(summary: Summary, worst: int = 3) -> str:
    """The table of scores for a terminal, with the worst sequences only."""
    main = main_measure(summary.overall)
    scored = [sequence for sequence in ranked(summary.sequences, main) if main in sequence.values]
    return summary.table(scored[::-1][:worst])


def head_and_tail(rows: Sequence[Any], count: int) -> list[Any]:
    """A sorted list, reduced to its first and last ``count // 2`` entries if it has more than ``count``."""
    return list(rows) if len(rows) <= count else [*rows[: count // 2], *rows[-(count // 2) :]]


def title_of(name: str) -> str:
    """Column heading of a score: ``J-Mean`` for ``j``."""
    return TITLES.get(name, name)


def measure_of(name: str) -> str:
    """Short name of a measure: ``J`` for ``j``."""
    return title_of(name).removesuffix("-Mean")


def number(value: Any) -> str:
    """A score with three decimals; a dash if there is none."""
    return f"{value:.3f}" if isinstance(value, float) and math.isfinite(value) else "–"


def exact(value: Any) -> str:
    """A score with six decimals for HTML attributes; empty if there is none."""
    return f"{value:.6f}" if isinstance(value, float) and math.isfinite(value) else ""


def speed(value: float) -> str:
    """Frames per second, with one decimal below 100."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
