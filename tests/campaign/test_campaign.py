"""The campaign breaks no law, and its laws notice what they are for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from campaign.laws import Case, verdict

CAMPAIGN = Path(__file__).parent


def fail() -> None:
    raise RuntimeError("not an answer")


def twice() -> None:
    print("error: one\nerror: another", file=sys.stderr)
    sys.exit(2)


@pytest.mark.parametrize(
    ("act", "breach"),
    [
        (fail, "status 1"),
        (twice, "2 errors at status 2"),
        (lambda: print("Traceback"), "Traceback"),
        (lambda: print("error: but status 0"), "1 errors at status 0"),
        (lambda: sys.exit(2), "0 errors at status 2"),
        (lambda: time.sleep(60), "did not end"),
        (lambda: Path("beside").touch(), "changed outside of its outputs: ['here/beside']"),
        (lambda: Path("../outside").touch(), "changed outside of its outputs: ['outside']"),
        (lambda: Path("input").write_text("changed"), "changed outside of its outputs: ['here/input']"),
        (lambda: Path("out/.x.part").touch(), "left unfinished"),
    ],
)
def test_breaches_are_noticed(tmp_path: Path, act: Callable[[], object], breach: str) -> None:
    def prepare(place: Path) -> None:
        (place / "input").touch()
        (place / "out").mkdir()

    why, _ = verdict(Case("", "", prepare, act, limit=3), tmp_path / "case")
    assert breach in (why or "")


def test_an_answer_and_an_output_are_none(tmp_path: Path) -> None:
    def act() -> None:
        Path("out").mkdir()
        Path("out/result").touch()
        print("error: what, and what to do", file=sys.stderr)
        sys.exit(2)

    assert verdict(Case("", "", lambda place: None, act), tmp_path / "case") == (None, 2)
    assert verdict(Case("", "", lambda place: None, lambda: None), tmp_path / "other") == (None, 0)
    chosen = Case("", "", lambda place: None, lambda: Path("../x").touch(), outputs=("../x",))
    assert verdict(chosen, tmp_path / "chosen") == (None, 0)


KINDS = (
    *("movies", "pictures", "masks", "flows", "caches", "checkpoints", "exports", "manifests", "lists", "yamls"),
    "oddities",
    *("values", "predictions", "trainings", "names"),
    *("killed", "full_disk", "little_memory", "two_at_once", "stopped_training"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_case_is_broken(kind: str) -> None:
    done = subprocess.run([sys.executable, CAMPAIGN, kind], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.slow
def test_the_kinds_are_those_of_the_command() -> None:
    shown = subprocess.run([sys.executable, CAMPAIGN, "--help"], capture_output=True, text=True, check=True).stdout
    assert ", ".join(KINDS) in " ".join(shown.split())
