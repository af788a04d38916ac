"""``--version`` answers at once; with ``--verbose`` it says what a bug report needs."""

from __future__ import annotations

import subprocess
import sys

import numpy
import pytest
import torch

from maskvos import __version__
from maskvos.cli.version import version_text
from maskvos.run import main


def test_version_is_maskvos_own_and_needs_no_torch() -> None:
    # None in sys.modules makes an import fail as if the package were not installed.
    code = "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['--version']\nfrom maskvos.run import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"maskvos {__version__}\n", 0), done.stderr


def test_verbose_lists_packages_devices_and_engines() -> None:
    text = version_text(["--verbose", "--version"]) or ""
    first, *lines = text.splitlines()
    about = dict(line.split(maxsplit=1) for line in lines)
    assert first == f"maskvos {__version__}"
    assert about["numpy"] == numpy.__version__
    assert torch.__version__.startswith(about["torch"])
    assert about["python"] == sys.version.split()[0]
    assert about["devices"].startswith("cpu (")
    assert {"torch", "onnx"} <= set(about["engines"].split(", "))
    assert version_text(["task=check"]) is None


def test_verbose_alone_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["maskvos", "--verbose"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "hydra.verbose=true" in capsys.readouterr().err
