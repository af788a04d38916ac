"""The entrypoint answers what a user may do wrong with one message and exit status 2, before anything is built."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from yaml import YAMLError

from maskvos import run as entrypoint
from maskvos.cli.launch import check_files
from maskvos.errors import UserError

LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    """The one error message of a command that ends with status 2."""
    monkeypatch.setattr(sys, "argv", ["maskvos", *typed])
    with pytest.raises(SystemExit) as ended:
        entrypoint.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("error: ") == 1
    return said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, r"\de\+\d+ values with its aliases"),
        ("a: &a\n  b: *a\n", "values with its aliases"),
        ("a: [b\n", "cannot be read as YAML"),
        ("a: " + "[" * 5000, "cannot be read as YAML"),
        ("a: *nowhere\n", "cannot be read as YAML"),
        ("\udcff", "cannot be read as YAML"),
        ("\n# @package_global_\na: 1\n", "begins with '# @package_global_'"),
        ("# @package _global_\n# @package a b\n", "begins with '# @package a b'"),
    ],
)
def test_configuration_files_without_end_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(text.encode(errors="surrogateescape"))
    for typed in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)]):
        with pytest.raises(UserError, match=rf"mine\.yaml .*({says})"):
            check_files([*typed, "+experiment=mine"])


def test_aliases_of_a_sensible_number_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: &a [1, 2]\nb: {c: *a, d: *a}\n")
    check_files(["--config-dir", str(tmp_path)])


def test_the_command_reads_no_file_whose_aliases_have_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "laughs.yaml").write_text(LAUGHS)
    said = answer(monkeypatch, capsys, "--config-dir", "mine", "+experiment=laughs", "task=report")
    assert "laughs.yaml has" in said
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("value", ["[0.5,0.6]", "[null]", "[[a]]", "[{a: 1}]", "5"])
def test_what_is_no_name_of_a_member_of_a_group_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "such as backbone=swin_t" in answer(monkeypatch, capsys, "task=report", f"protocol={value}")


@pytest.mark.filterwarnings("error:Callback")
def test_a_run_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    assert "runs" in answer(monkeypatch, capsys, "task=report")
    assert (tmp_path / "runs").read_text() == "a file"


@pytest.mark.parametrize("where", ["run_task", "_hydra_main"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "some/file"),
        YAMLError("some/file"),
    ],
)
def test_errors_of_files_are_answered_wherever_they_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, error: Exception
) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entrypoint, where, fail)
    assert "some/file" in answer(monkeypatch, capsys, "task=report")
