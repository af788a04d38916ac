"""Plain-text helpers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from maskvos.text import cell, markdown_table, table, uncell


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
