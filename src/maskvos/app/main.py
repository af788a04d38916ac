"""``maskvos app``: the page's command."""

from __future__ import annotations

import argparse
import socket
import tempfile
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from maskvos.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost")


def main(arguments: Sequence[str]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        arguments: Of the command line, after ``app``.

    Raises:
        UserError: Packages are missing, the port is taken, or the weights cannot be loaded.
    """
    options = _parser().parse_args(arguments)
    if find_spec("uvicorn") is None or find_spec("starlette") is None:
        raise UserError("maskvos app needs two more packages; pip install starlette uvicorn, or '.[app]'")
    if not 0 < options.limit <= 1000:
        raise UserError(f"--limit {options.limit}: give gigabytes, above 0 and at most 1000")
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port {options.port}: give a number from 0 (any free port) to 65535")
    import uvicorn

    from maskvos.api import load
    from maskvos.app.jobs import Jobs
    from maskvos.app.server import build_app

    try:
        listener = socket.create_server((options.host, options.port))
    except OSError as error:
        raise UserError(
            f"port {options.port} of {options.host} cannot be used ({error.strerror}); choose another one: --port 7861"
        ) from error
    hosts = [*LOOPBACK, options.host] if options.host != "0.0.0.0" else ["*"]
    with listener, tempfile.TemporaryDirectory(prefix="maskvos-app-") as folder:
        segmenter = load(options.weights, device=options.device, backend=options.backend, fill_gaps=0)
        with closing(Jobs(segmenter, Path(folder))) as jobs:
            app = build_app(jobs, int(options.limit * 2**30), hosts)
            port = listener.getsockname()[1]
            print(f"http://{options.host}:{port}/  (Ctrl-C ends it and removes all clips)", flush=True)
            if options.host not in LOOPBACK:
                print("warning: whoever reaches this address can send clips here", flush=True)
            config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
            uvicorn.Server(config).run(sockets=[listener])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maskvos app", description="Segment clips on a page in the browser.")
    add = parser.add_argument
    add("--host", default=LOOPBACK[0], help="address to listen on; by default only this machine reaches the page")
    add("--port", type=int, default=7860, help="port, 0: any that is free (7860)")
    add("--limit", type=float, default=4, metavar="GB", help="size that a clip may have, gigabytes (4)")
    add("--weights", default="light", metavar="FILE", help="bundled weights, a checkpoint or an exported network")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--backend", default="auto", help="auto, torch, onnx, openvino, torchscript or pt2")
    return parser
