"""A release is refused unless version, changelog, tree and tags agree."""

from __future__ import annotations

import importlib.util
import re

import pytest

from pages import ROOT

spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
assert spec is not None
assert spec.loader is not None
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)

DATED = "# Changelog\n\n## [1.2.0] - 2026-01-31\n\n### Added\n\n## [1.1.0] - 2026-01-01\n"


def test_a_release_without_problems() -> None:
    assert release.problems("1.2.0", DATED, "", ["v1.1.0"]) == []


@pytest.mark.parametrize(
    ("version", "changelog", "changes", "tags", "says"),
    [
        ("1.2.dev0", DATED.replace("1.2.0", "1.2.dev0"), "", [], "version 1.2.dev0"),
        ("1.2.0", DATED.replace("[1.2.0] - 2026-01-31", "[Unreleased]"), "", [], r"heading is '\[Unreleased\]'"),
        ("1.1.0", DATED, "", [], r"heading is '\[1.2.0\] - 2026-01-31'"),
        ("1.2.0", "", "", [], "heading is 'nothing'"),
        ("1.2.0", DATED, " M README.md\n", [], "README.md"),
        ("1.2.0", DATED, "", ["v1.1.0", "v1.2.0"], "tag v1.2.0 exists"),
    ],
)
def test_what_is_missing_is_named(version: str, changelog: str, changes: str, tags: list[str], says: str) -> None:
    (problem,) = release.problems(version, changelog, changes, tags)
    assert re.search(says, problem)
