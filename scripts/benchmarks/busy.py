"""A process that keeps one core busy, for benchmarks beside other load."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator


@contextlib.contextmanager
def busy(wanted: bool = True) -> Iterator[None]:
    """Keep one core busy in another process."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) if wanted else None
    if process:
        process.start()
        time.sleep(1)
    try:
        yield
    finally:
        if process:
            process.terminate()
            process.join()


def _spin() -> None:
    while True:
        pass
