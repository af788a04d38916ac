"""Check that a release can be made; `make release` runs this, builds, tries the packages, and prints the next steps.

python scripts/release.py [--steps]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from maskvos import __version__

ROOT = Path(__file__).resolve().parents[1]


def problems(version: str, changelog: str, changes: str, tags: list[str]) -> list[str]:
    """What prevents a release.

    Args:
        version: The version to release.
        changelog: Text of CHANGELOG.md.
        changes: What ``git status --porcelain`` prints.
        tags: Names of the repository's tags.

    Returns:
        One line per problem.
    """
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        found.append(f"version {version}: expected 1.2.0, or 1.2.0rc1; set it in src/maskvos/__init__.py")
    headings = re.findall(r"^## (.+)$", changelog, flags=re.MULTILINE)
    if not headings or not re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", headings[0]):
        first = headings[0] if headings else "nothing"
        found.append(f"CHANGELOG.md: its topmost heading is '{first}'; expected '[{version}] - <year-month-day>'")
    if changes:
        found.append(f"the working tree has changes; commit them:\n{changes.rstrip()}")
    if f"v{version}" in tags:
        found.append(f"tag v{version} exists; raise the version in src/maskvos/__init__.py")
    return found


def steps(version: str) -> str:
    """What is left to do after everything was checked."""
    return f"""maskvos {version} is built and checked, in dist/. To publish it:
  git tag --annotate v{version} --message "maskvos {version}"
  git push origin v{version}
  .venv/bin/twine upload dist/*
Then start the next version: a heading [Unreleased] in CHANGELOG.md."""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """List the problems and exit with status 1 where there are any; with ``--steps`` print what is left to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", action="store_true", help="print what is left to do, check nothing")
    if parser.parse_args().steps:
        print(steps(__version__))
        return
    changelog = (ROOT / "CHANGELOG.md").read_text()
    found = problems(__version__, changelog, _git("status", "--porcelain"), _git("tag").split())
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
