"""``maskvos app``: on loopback, without PyTorch, until Ctrl-C, after which nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from maskvos.app.main import main
from maskvos.errors import UserError

PROGRAM = """
import sys
for name in ("torch", "pytorch_lightning", "hydra", "omegaconf", "timm", "scipy"): sys.modules[name] = None
sys.argv = ["maskvos", "app", "--port", "0", "--limit", "0.5"]
from maskvos.cli.command import main; main()
"""


def test_the_page_is_served_until_it_is_interrupted(installed: None, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    server = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}about", timeout=20) as answer:
            assert json.load(answer)["limit"] == 2**29
        assert len(list(tmp_path.glob("maskvos-app-*"))) == 1
        port = int(address.rstrip("/").rpartition(":")[2])
        with pytest.raises(OSError, match="refused"):  # it listens on loopback alone
            socket.create_connection(("127.0.0.2", port), timeout=5)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
    finally:
        server.kill()
        server.wait()
    assert list(tmp_path.glob("maskvos-app-*")) == []


def test_mistakes_are_named(installed: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be used .* --port"):
            main(["--port", str(port)])
    with pytest.raises(UserError, match="--limit 0"):
        main(["--limit", "0"])
    with pytest.raises(UserError, match="--port 99999"):
        main(["--port", "99999"])


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskvos.app.main.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install starlette uvicorn"):
        main([])
