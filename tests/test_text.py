"""Plain-text helpers."""

from __future__ import annotations

import io
import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskvos.text import cell, markdown_table, progress_bar, table, uncell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("total", "fields", "shown"),
    [
        (50, {}, "30/50 frames 0:00:02 left"),
        (None, {}, "30 frames 10.0 frames/s"),
        (5e6, {"unit": "bytes"}, "30.0 kB/5.0 MB"),
        (None, {"unit": "bytes"}, "30.0 kB 10.0 kB/s"),
    ],
)
def test_a_bar_shows_the_time_left_or_the_speed_where_the_length_is_unknown(
    monkeypatch: pytest.MonkeyPatch, total: float | None, fields: dict[str, str], shown: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in {"COLUMNS": "120", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    with progress_bar() as bar:
        bar.get_time = itertools.count(1.0).__next__  # type: ignore[method-assign]
        task = bar.add_task("clip", total=total, **fields)
        for _ in range(3):
            bar.advance(task, 10e3 if fields else 10)
        bar.get_time = lambda: 5.0  # type: ignore[method-assign]
    assert shown in terminal.getvalue()


def test_a_file_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as continuous integrations set it
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar() as bar:
        bar.advance(bar.add_task("clip", total=3))
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


@given(st.text(st.sampled_from("'=+-@a \t"), max_size=4))
def test_no_cell_is_a_formula_and_each_is_read_back(text: str) -> None:
    assert not cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert uncell(cell(text)) == text
    assert cell(1.5) == 1.5


def test_markdown_table() -> None:
    assert markdown_table(["a", "b"], [["x", 0.12345], ["y", None]]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x | 0.1235 |",
        "| y |  |",
    ]


def test_table_aligns_numbers_to_the_right() -> None:
    assert table([("name", "n"), ("a", "10"), ("bc", "7")], rules=(1, 2)).splitlines() == [
        "name   n",
        "--------",
        "a     10",
        "--------",
        "bc     7",
    ]
