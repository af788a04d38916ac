"""Errors that a user can act on: each message names the value, the rule and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave does not fit; the message says what, why, and what to do.

    The entrypoint prints it without a traceback and exits with status 2.

    Attributes:
        unwritable: A file could not be written, so that other files cannot be expected to fare better.
    """

    unwritable = False


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """Suggest the choices that look most like a mistyped name.

    Args:
        name: What was typed.
        choices: The names that exist.
        count: At most so many suggestions.

    Returns:
        ``"did you mean 'a' or 'b'?"``, or all choices when nothing is near (``"choose one of: ..."``).
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=count, cutoff=0.5)
    if close:
        likeness = {choice: difflib.SequenceMatcher(None, choice, name).ratio() for choice in close}
        close = [choice for choice in close if likeness[choice] > likeness[close[0]] - 0.15]
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "choose one of: " + ", ".join(choices)
