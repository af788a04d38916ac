"""What a command leaves on the terminal and in ``runs/``."""

from __future__ import annotations

import logging
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class TerminalHandler(logging.StreamHandler):
    """Logs to what ``sys.stderr`` is at the time: a progress bar on a terminal puts its own there, to stay below."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The present ``sys.stderr``."""
        return sys.stderr


def log_to_terminal_only() -> None:
    """Close the log files, for a command whose results lie elsewhere."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()


def remove_run(folder: Path, top: Path) -> None:
    """Remove a run's folder with Hydra's notes, and those above it, up to and with ``top``, unless they hold more."""
    folder, top = folder.absolute(), top.absolute()
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    with suppress(OSError):
        for each in (folder, *folder.parents):
            if each == top.parent or top not in (each, *each.parents):
                break
            each.rmdir()
