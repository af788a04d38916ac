"""Strip outputs, execution counts and machine-specific metadata from the notebooks before they are committed.

python scripts/strip_notebooks.py [--check] [FILE ...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def stripped(path: Path) -> str:
    """A notebook as JSON without outputs and metadata, its cells renumbered; tags are kept."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """Strip the notebooks; with ``--check`` only list those that are not stripped, and exit with status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    parser.add_argument("--check", action="store_true", help="list notebooks that are not stripped, change nothing")
    arguments = parser.parse_args()
    changed = [path for path in arguments.files if stripped(path) != path.read_text()]
    for path in changed:
        print(path)
        if not arguments.check:
            path.write_text(stripped(path))
    sys.exit(bool(changed and arguments.check))


if __name__ == "__main__":
    main()
