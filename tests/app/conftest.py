"""The page's server on a port of its own, with a segmenter for which what is bright is the object."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from brightness import segmenter
from maskvos.inference.segmenter import Segmenter

Serve = Callable[..., int]


@pytest.fixture
def installed() -> None:
    """Skips the test where the packages of the page are not installed."""
    for package in ("starlette", "uvicorn"):
        pytest.importorskip(package, reason=f"no {package}: pip install '.[app]'")


@contextmanager
def served(folder: Path, model: Segmenter, limit: int) -> Iterator[int]:
    """Port of a running server."""
    import uvicorn

    from maskvos.app.jobs import Jobs
    from maskvos.app.server import build_app

    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(Jobs(model, folder)) as jobs:
        app = build_app(jobs, limit, ["127.0.0.1", "localhost"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serve(installed: None, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers and returns their ports: `served` in a folder of the test."""
    with ExitStack() as stack:

        def start(model: Segmenter | None = None, limit: int = 2**24) -> int:
            return stack.enter_context(served(tmp_path / "server", model or segmenter(), limit))

        yield start
