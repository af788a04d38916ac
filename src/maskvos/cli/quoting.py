"""Paths and names on the command line are taken as they are, whatever characters they contain."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

TEXTS = (
    *("input", "output", "ckpt_path", "init_from", "predictions", "name", "flow.cache", "hydra.run.dir"),
    *("paths.data", "paths.runs", "paths.run", "data.root", "backbone.pretrained"),
)
"""Settings whose values are names or paths."""
# Left to Hydra: what is quoted already, its null, booleans and lists, and references to other settings.
_HYDRA = re.compile(r"""'.*'|".*"|null|true|false|\[.*\]|.*\$\{.*""", re.DOTALL)


def quote_texts(arguments: Sequence[str]) -> list[str]:
    """Quote the values of settings that are names or paths, for Hydra's parser.

    Without quotes, Hydra takes ``input=2024`` for a number and refuses ``input=clip (1).mp4``. In a sweep, a comma
    separates values, unless the value is an existing path.

    Args:
        arguments: What was typed after the command.

    Returns:
        The same, with quotes where they are needed.
    """
    sweeps = any(argument in ("-m", "--multirun") for argument in arguments)
    return [_quoted(argument, sweeps) for argument in arguments]


def _quoted(argument: str, sweeps: bool) -> str:
    key, equals, value = argument.partition("=")
    if not equals or not value or key.lstrip("+") not in TEXTS or _HYDRA.fullmatch(value):
        return argument
    if sweeps and re.search(r"[,(]", value) and not os.path.exists(value):
        return argument
    # In Hydra's quotes, a backslash escapes a quote, and backslashes count only before one.
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"{key}='{escaped}'"
