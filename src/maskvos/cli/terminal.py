"""What a command leaves on the terminal and in ``runs/``."""

from __future__ import annotations

import logging
import shutil
import sys
from contextlib import suppress
from pathlib import Path


class TerminalHandler(logging.Handler):
    """Logs to what ``sys.stderr`` is at the time: a progress bar on a terminal puts its own there, to stay below."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # as all handlers: what is logged must not end the program
            self.handleError(record)


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
