"""The wheel can be built, installed outside the repository, and run from any folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fakes import DAVIS_SPLITS, write_davis

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, without access to the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    (wheel,) = folder.glob("maskvos-*.whl")
    site = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    return site


def test_wheel_contains_every_config(installed: Path) -> None:
    shipped = {path.relative_to(installed / "maskvos/conf") for path in (installed / "maskvos/conf").rglob("*.yaml")}
    written = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert shipped == {path for path in written if path.parts[0] != "local"}


def test_wheel_runs_from_any_folder(installed: Path, tmp_path: Path) -> None:
    # Python 3.10 lacks -P; the path inserted first takes precedence over the editable installation.
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "sys.argv = ['maskvos', '+experiment=smoke', '--cfg', 'job']\n"
        f"import maskvos; assert maskvos.__file__.startswith({str(installed)!r}), maskvos.__file__\n"
        "from maskvos.run import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "name: smoke" in done.stdout


def test_console_command_is_declared(installed: Path) -> None:
    (entry,) = installed.glob("maskvos-*.dist-info/entry_points.txt")
    assert "maskvos = maskvos.cli.command:main" in entry.read_text()
    assert (installed / "bin" / "maskvos").exists()
    assert zipfile.is_zipfile(next(installed.parent.glob("*.whl")))


@pytest.mark.slow
def test_segmenting_and_scoring_need_no_torch(installed: Path, tmp_path: Path) -> None:
    wheel = next(installed.parent.glob("*.whl"))
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    subprocess.run([*pip, "-r", str(ROOT / "requirements-segment.txt")], check=True)
    write_davis(tmp_path / "DAVIS")
    for sequence in DAVIS_SPLITS["val"]:
        shutil.copytree(tmp_path / "DAVIS/Annotations/480p" / sequence, tmp_path / "masks" / sequence)
    code = (
        "import sys, maskvos\n"
        "from maskvos.data.datasets.davis import davis\n"
        "maskvos.segment('DAVIS/JPEGImages/480p', 'out', kinds=['masks'])\n"
        "assert maskvos.evaluate('masks', davis('DAVIS', 'val')).overall['jf'] == 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([str(python), "-c", code], cwd=tmp_path, check=True)
    command = [str(python.with_name("maskvos")), "DAVIS/JPEGImages/480p/cows", "-o", "cows.webm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "cows.webm").is_file()
    size = sum(path.stat().st_size for path in (tmp_path / "venv").rglob("*") if path.is_file())
    assert size < 600e6
