"""Plain-text helpers."""

from __future__ import annotations

from maskvos.text import markdown_table, table


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
