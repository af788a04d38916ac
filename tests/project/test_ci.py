"""CI runs targets of the Makefile on the supported Pythons; the lists of versions fit pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pages import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([a-z-]+):([^#\n]*)", MAKEFILE, flags=re.MULTILINE))
JOBS = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]["strategy"]["matrix"]["include"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = [ROOT / "constraints.txt", ROOT / "constraints-lowest.txt"]


def test_each_job_is_a_target_and_check_runs_them_all() -> None:
    jobs = {job["target"] for job in JOBS}
    assert jobs <= set(TARGETS)
    # The tests of `make test` are those of `make coverage`.
    assert jobs - {"test"} == set(TARGETS["check"].split())


def test_the_own_ci_runs_targets() -> None:
    ran = set(re.findall(r"^make (.+)$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE))
    assert {"lint", "typecheck", "docs", "test", "test-project"} <= ran <= set(TARGETS)


def test_the_oldest_and_newest_python_are_tested() -> None:
    stated = [re.fullmatch(r".* :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    pythons = [match[1] for match in stated if match]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert {job["python"] for job in JOBS if job["target"] == "test"} == {pythons[0], pythons[-1]}


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_are_names_and_versions_that_pyproject_allows(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[\w.]+( ; [^#@]+)?", line)]
    pinned = [Requirement(line) for line in lines]
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for wish in map(Requirement, wanted):
        versions = [pin.specifier for pin in pinned if canonicalize_name(pin.name) == canonicalize_name(wish.name)]
        assert versions or wish.name == "maskvos", f"{wish.name} is missing: make lock"
        outside = [str(version) for version in versions if not wish.specifier.contains(str(version).removeprefix("=="))]
        assert not outside, f"{wish}: {outside}; make lock"
