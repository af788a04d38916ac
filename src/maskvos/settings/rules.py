"""Rules for the values of settings: numbers in ranges, choices, texts, lists, and what else a value may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from numbers import Integral, Real
from typing import Any

from maskvos.errors import nearest

Check = Callable[[Any], str | None]
"""From a value to a hint for the error message, or ``""``; None if the value is valid."""


@dataclass(frozen=True)
class Rule:
    """What the value of a setting may be.

    Attributes:
        expected: In words, after "must be".
        check: From an invalid value to a hint that is appended to ``expected``, or ``""``; from a valid one to None.
    """

    expected: str
    check: Check

    def problem(self, value: Any) -> str | None:
        """The error message for an invalid value, with a hint; None if it is valid."""
        hint = self.check(value)
        return None if hint is None else self.expected + (f"; {hint}" if hint else "")


def number(least: float = -math.inf, most: float = math.inf, open_ends: str = "") -> Rule:
    """A finite number in a range.

    Args:
        least: Its lower end.
        most: Its upper end.
        open_ends: ``(``: not the lower end itself; ``)``: not the upper end itself; or both.
    """

    def check(value: Any) -> str | None:
        if isinstance(value, Integral) and not -(2**63) <= int(value) < 2**63:
            return "integers have at most 63 bits; write it as 1e30"
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            return ""
        given = float(value)
        low = given > least if "(" in open_ends else given >= least
        return None if low and (given < most if ")" in open_ends else given <= most) else ""

    return Rule(f"a number{_range(least, most, open_ends)}", check)


def whole(least: float = -math.inf, most: float = math.inf) -> Rule:
    """An integer in a range, ends included."""
    inner = number(least, most)
    check: Check = lambda value: inner.check(value) if isinstance(value, Integral) else ""  # noqa: E731
    return Rule(f"a whole number{_range(least, most, '')}", check)


def _range(least: float, most: float, open_ends: str) -> str:
    if not math.isfinite(least):
        return ""
    low = f"above {least}" if "(" in open_ends else f"of at least {least}"
    if not math.isfinite(most):
        return f" {low}"
    high = f"below {most}" if ")" in open_ends else f"at most {most}"
    return f" {low} and {high}" if open_ends else f" from {least} to {most}"


def choice(*names: Any) -> Rule:
    """One of some names; ``"module:ATTRIBUTE"`` stands for those that a module has."""

    def check(value: Any) -> str | None:
        known = [name for given in names for name in _names(given)]
        if value in known and not isinstance(value, bool):
            return None
        return nearest(str(value), map(str, known))

    return Rule("a known name", check)


def _names(given: Any) -> Collection[Any]:
    module, colon, attribute = str(given).partition(":")
    return getattr(import_module(module), attribute) if colon else (given,)


def several(rule: Rule, count: int | None = None, least: int = 0) -> Rule:
    """A list of values that each follow a rule, of some length."""

    def check(value: Any) -> str | None:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            return ""
        values = list(value)
        if len(values) < least or count not in (None, len(values)):
            return ""
        hints = [f"{item}: {hint}" if hint else "" for item in values if (hint := rule.check(item)) is not None]
        return hints[0] if hints else None

    length = f" of {count} values" if count is not None else " of one value or more" if least else ""
    return Rule(f"a list{length}, each {rule.expected}", check)


def mapping(rule: Rule) -> Rule:
    """Names with values that each follow a rule."""

    def check(value: Any) -> str | None:
        return several(rule).check(value.values()) if isinstance(value, Mapping) else ""

    return Rule(f"names with values, each {rule.expected}", check)


def either(*rules: Rule) -> Rule:
    """What follows one of several rules."""

    def check(value: Any) -> str | None:
        hints = [rule.check(value) for rule in rules]
        return None if None in hints else next(filter(None, hints), "")

    return Rule(", or ".join(rule.expected for rule in rules), check)


def null(rule: Rule) -> Rule:
    """What follows a rule, or null."""
    either_or: Check = lambda value: None if value is None else rule.check(value)  # noqa: E731
    return Rule(f"{rule.expected}, or null", either_or)


def such_as(rule: Rule, example: str) -> Rule:
    """The same rule, with an example in its words."""
    return replace(rule, expected=f"{rule.expected}, such as {example}")


def worded(rule: Rule, expected: str) -> Rule:
    """The same rule in other words."""
    return replace(rule, expected=expected)


FLAG = Rule("true or false", lambda value: None if isinstance(value, bool) else "")
TEXT = Rule("a text", lambda value: None if isinstance(value, str) else "")
ANYTHING = Rule("anything", lambda value: None)
SHARE = number(0, 1)
POSITIVE = number(0, open_ends="(")
COUNT = whole(1)
