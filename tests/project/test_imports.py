"""The direction of imports: a file imports only from rooms below it."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pages import ROOT, blocks

SOURCE = ROOT / "src" / "maskvos"

# Lowest first. A file may import from its own room and from rooms that stand before it.
ROOMS = [
    ["types", "errors", "text", "environment", "build", "settings"],
    ["media"],
    ["flow", "metrics", "synthetic"],
    ["models"],
    ["data"],
    ["weights"],
    ["inference"],
    ["training"],
    ["reports", "benchmark"],
    ["api"],
    ["tasks", "app"],
    ["cli"],
    ["run"],
    ["cli.command"],
]


def room(module: str) -> int:
    """Index of the room of a module, by its longest matching prefix."""
    matches = [
        (len(prefix), index)
        for index, prefixes in enumerate(ROOMS)
        for prefix in prefixes
        if module == prefix or module.startswith(prefix + ".")
    ]
    return max(matches)[1] if matches else -1


def imports(path: Path) -> list[str]:
    """Modules of maskvos that a file imports, without the leading ``maskvos.``, wherever in the file it does so."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maskvos"):
            base = (node.module or "").removeprefix("maskvos").lstrip(".")
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found += [name if room(name) >= 0 else base for name in names]
        elif isinstance(node, ast.Import):
            found += [a.name.removeprefix("maskvos.") for a in node.names if a.name.startswith("maskvos.")]
    return [name for name in found if name and not name.startswith("__")]


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    own = room(module)
    assert own >= 0, f"{module} stands in no room: add it to ROOMS where it belongs"
    upward = [name for name in imports(path) if room(name) > own]
    assert not upward, f"{module} imports from above: {upward}"


def diagram() -> str:
    """The rooms as a Mermaid diagram: a box for each row of `ROOMS`, the highest first."""
    boxes = [f'    level{row}["{", ".join(rooms)}"]' for row, rooms in reversed(list(enumerate(ROOMS)))]
    arrows = "    " + " --> ".join(f"level{row}" for row in reversed(range(len(ROOMS))))
    layout = '%%{init: {"flowchart": {"rankSpacing": 18, "padding": 6}}}%%'
    return "\n".join([layout, "flowchart TD", *boxes, arrows, ""])


def test_the_architecture_page_shows_the_rooms() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert [block.text for block in blocks(page, "mermaid")] == [diagram()], f"paste this:\n{diagram()}"
    named = {name for row in ROOMS for name in row}
    assert {name for name in named if not re.search(rf"^\|.*`{name}`.*\|", page, flags=re.MULTILINE)} == set()


def test_only_run_imports_hydra() -> None:
    users = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "hydra" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hydra")
    ]
    assert {user.split("/")[0] for user in users} <= {"run.py", "cli"}


SCORE = "import maskvos.metrics.functional, maskvos.metrics.folder, maskvos.data.datasets.davis"
SEGMENT = """
import maskvos, numpy
model = maskvos.load(device="cpu")
assert next(model.stream([numpy.zeros((40, 60, 3), "uint8")] * 2)).mask.shape == (40, 60)
"""


COMMAND = """
import cv2, numpy
cv2.imwrite("00000.png", numpy.zeros((40, 60, 3), "uint8"))
sys.argv = ["maskvos", "00000.png", "-o", "out"]
from maskvos.cli.command import main; main()
assert cv2.imread("out/00000/masks/00000.png") is not None
"""


@pytest.mark.parametrize("code", [SCORE, SEGMENT, COMMAND], ids=["score", "segment", "command"])
def test_scoring_and_segmenting_need_no_torch(code: str, tmp_path: Path) -> None:
    # None in sys.modules makes an import fail as if the package were not installed.
    names = ("torch", "pytorch_lightning", "hydra", "omegaconf", "timm", "scipy")
    absent = f"import sys\nfor name in {names}: sys.modules[name] = None\n"
    command = [sys.executable, "-c", absent + code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_framework_without_its_packages_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    monkeypatch.delitem(sys.modules, "maskvos.run", raising=False)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("maskvos.run", run_name="__main__")
    assert "whose packages are not installed" in capsys.readouterr().err
