"""The notebooks run from start to end at a small size, and are committed without outputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from maskvos.weights import bundled
from pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Code inserted after the cell tagged `parameters`.
SMALL = {
    "quickstart": "FRAMES, SIZE = 4, (96, 160)",
    "data_and_flow": "CLIPS, FRAMES, SIZE = 3, 4, [64, 96]",
    "compare_runs": "STEPS, CLIPS = 2, 2",
    "add_a_backbone": "STEPS, CLIPS = 2, 4",
}


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel shared by all notebooks, since starting one and importing torch takes most of the time."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


def executed(path: Path, folder: Path, kernel: KernelManager) -> nbformat.NotebookNode:
    """Run a notebook in a folder at a small size, in an empty namespace; returns it with outputs."""
    notebook = nbformat.read(path, as_version=4)
    (place,) = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL[path.stem]))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}"))
    return NotebookClient(notebook, timeout=300, km=kernel).execute()


def images_shown(notebook: nbformat.NotebookNode) -> int:
    """Number of images and videos in the outputs."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [output.get("data", {}) for output in outputs]
    return sum("image/png" in shown or "<video" in shown.get("text/html", "") for shown in data)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, kernel: KernelManager) -> None:
    if path.stem == "quickstart" and not bundled.names():
        pytest.skip("the package contains no bundled weights, which this notebook needs")
    assert images_shown(executed(path, tmp_path, kernel)) >= 1


def test_every_notebook_has_a_small_size() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)


def test_notebooks_are_committed_without_outputs() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "strip_notebooks.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run scripts/strip_notebooks.py for {done.stdout}"
