"""User errors: each message names the value, the rule and the remedy."""

from __future__ import annotations

import difflib
import errno
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import NoReturn

# What Python, OpenCV, PyTorch and ONNX Runtime say of a full memory.
_FULL = re.compile(
    r"can't start new thread|Insufficient memory|can't allocate memory|bad[ _]alloc|Failed to allocate|out of memory"
    r"|failed to map segment"
)


class UserError(ValueError):
    """Invalid input, setting or environment; the message names the value, the rule and the remedy.

    The entrypoint prints it without a traceback and exits with status 2.

    Attributes:
        unwritable: Writing a file failed, so writing further files is likely to fail too.
    """

    unwritable = False


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """Suggest the choices most similar to a mistyped name.

    Args:
        name: The mistyped name.
        choices: Valid names.
        count: Maximum number of suggestions.

    Returns:
        ``"did you mean 'a' or 'b'?"``, or all choices if none is similar (``"choose one of: ..."``).
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=count, cutoff=0.5)
    if close:
        similarity = {choice: difflib.SequenceMatcher(None, choice, name).ratio() for choice in close}
        close = [choice for choice in close if similarity[choice] > similarity[close[0]] - 0.15]
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "choose one of: " + ", ".join(choices)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that the memory is full, or that a thread finds none for its stack."""
    if isinstance(error, UserError):
        return False
    full = isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN)
    return full or _FULL.search(str(error)) is not None


def require(package: str, purpose: str = "") -> None:
    """Raise a `UserError` unless a package is installed.

    Args:
        package: Its name, for import and for pip.
        purpose: What needs it; starts the message.
    """
    if find_spec(package) is None:
        subject = f"{purpose}: " if purpose else ""
        raise UserError(f"{subject}the package '{package}' is not installed; pip install {package}")


def require_framework() -> None:
    """Raise a `UserError` unless the packages of the framework (Hydra among them) are installed."""
    if find_spec("hydra") is None:
        raise UserError(
            "settings (KEY=VALUE) are for the framework, whose packages are not installed; install it with all "
            "dependencies: pip install <folder of maskvos>"
        )


def fail(message: str) -> NoReturn:
    """End the program with a message and exit status 2, that of a user's mistake."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
