"""Comparison of runs: correct numbers, unique labels, and warnings where scores are not comparable."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from pathlib import Path

import pytest

from maskvos.errors import UserError
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.results import Summary
from maskvos.reports.comparison import compare, read_runs, table
from maskvos.reports.report import ROWS
from maskvos.run import compose, main, run
from reports.test_report import LIMIT, Page, scores

VIDEOS = {"bear": 6, "cow": 5, "dog": 4}


def write_run(
    folder: Path, summary: Summary, name: str, speed: float | None = 10.0, task: str = "test", **more: object
) -> Path:
    """Write results in the layout of a run."""
    about = {"task": task, "name": name, "frames_per_second": speed, "datasets": ["d"], "device": "cpu", **more}
    dataclasses.replace(summary, run=about).write(folder)
    return folder


def three(root: Path) -> list[Path]:
    return [
        write_run(root / name / "test", scores(VIDEOS, seed=index), name, 10.0 * (index + 1)).parent
        for index, name in enumerate(("small", "medium", "large"))
    ]


def test_the_page_shows_scores_speeds_and_differences(tmp_path: Path) -> None:
    runs = read_runs(three(tmp_path))
    page = Page(compare(runs, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "differences.png",
        "report.html",
        "scatter.png",
    ]
    assert [run.label for run in runs] == ["small", "medium", "large"]
    for index, run_ in enumerate(runs):
        assert run_.label in page.text
        assert f"{run_.summary.overall['jf']:.3f}" in page.text
        assert f"{10.0 * (index + 1):.1f}" in page.text
        for row, first in zip(run_.summary.sequences, runs[0].summary.sequences, strict=True):
            assert f"{row.values['jf']:.3f}" in page.text
            if index:
                assert f"{row.values['jf'] - first.values['jf']:+.3f}" in page.text
    label = next(element["aria-label"] for element in page.all("div") if "plot" in element.get("class", ""))
    assert f"medium: J&F-Mean {runs[1].summary.overall['jf']:.3f} at 20.0 frames per second" in label
    assert "not directly comparable" not in page.text
    assert not re.search(r"(src|href)=\"(?!data:|#)", (tmp_path / "out" / "report.html").read_text())


def test_largest_differences_come_first(tmp_path: Path) -> None:
    runs = read_runs(three(tmp_path))
    text = Page(compare(runs, tmp_path / "out")).text.split("Scores per sequence")[1]
    spread = {
        name: max(values) - min(values)
        for name in VIDEOS
        for values in [[next(s.values["jf"] for s in r.summary.sequences if s.name == name) for r in runs]]
    }
    assert sorted(VIDEOS, key=text.index) == sorted(VIDEOS, key=lambda name: -spread[name])


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"protocol": Protocol("all_frames")}, "protocols differ in trim: both (a); none (b)"),
        (
            {"videos": {"bear": 6, "cow": 5, "pig": 7}},
            "different frames were scored: 9 frames (a); 12 frames (b); 7 of them",
        ),
        ({"datasets": ["e"]}, "datasets differ: d (a); e (b)"),
        ({"device": "cuda (H200)"}, "different devices: cpu (a); cuda (H200) (b)"),
    ],
)
def test_runs_that_are_not_comparable_have_warnings(tmp_path: Path, change: dict, warning: str) -> None:
    change = dict(change)
    other = scores(change.pop("videos", VIDEOS), change.pop("protocol", None), seed=1)
    folders = [write_run(tmp_path / "1", scores(VIDEOS), "a"), write_run(tmp_path / "2", other, "b", **change)]
    runs = read_runs(folders)
    assert warning in Page(compare(runs, tmp_path / "out")).text
    assert re.search(f"^warning: .*{re.escape(warning)}", table(runs), re.MULTILINE)


def test_sequences_missing_in_a_run_are_listed_and_excluded_from_the_mean(tmp_path: Path) -> None:
    first, second = scores({"bear": 6, "cow": 5}), scores({"cow": 5, "dog": 5}, seed=1)
    runs = read_runs([write_run(tmp_path / "1", first, "a"), write_run(tmp_path / "2", second, "b")])
    text = Page(compare(runs, tmp_path / "out")).text
    assert "mean of the 1 sequences in all runs" in text
    assert text.index("cow") < text.index("bear")


def test_a_run_without_a_speed_is_not_plotted(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "1", scores(VIDEOS), "a"),
        write_run(tmp_path / "2", scores(VIDEOS, seed=1), "b", task="evaluate"),
        write_run(tmp_path / "3", scores(VIDEOS, seed=2), "c", None),
    ]
    page = Page(compare(read_runs(folders), tmp_path / "out"))
    assert "Showing the 1 of 3 runs with a known speed" in page.text
    page = Page(compare(read_runs(folders[1:]), tmp_path / "none"))
    assert "Not available" in page.text
    assert not (tmp_path / "none" / "scatter.png").exists()


def test_labels_are_unique(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / name / "test", scores(VIDEOS, seed=i), "x").parent
        for i, name in enumerate(("a", "b", "c/a"))
    ]
    labels = [run_.label for run_ in read_runs(folders)]
    assert len(set(labels)) == 3
    assert labels[1] == "x (b)"


def test_different_settings_are_listed(tmp_path: Path) -> None:
    configs = [{"optim": {"lr": lr, "betas": [0.9, 0.99]}, "paths": {"run": str(lr)}} for lr in (0.1, 0.2)]
    folders = [write_run(tmp_path / str(i), scores(VIDEOS), str(i), config=config) for i, config in enumerate(configs)]
    text = Page(compare(read_runs(folders), tmp_path / "out")).text
    assert "optim.lr" in text
    assert "betas" not in text
    assert "paths.run" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>$x_{"
    folders = [write_run(tmp_path / str(i), scores({name: 5, "b": 4}, seed=i), name + str(i)) for i in range(2)]
    page = Page(compare(read_runs(folders), tmp_path / "out"))
    assert len(page.all("script")) == 1
    assert name in page.text


def test_many_sequences_and_runs_stay_small(tmp_path: Path) -> None:
    videos = {f"sequence-{index:04d}": 2 for index in range(ROWS + 100)}
    folders = [write_run(tmp_path / str(i), scores(videos, Protocol("p"), i), f"run {i}", 1.0 + i) for i in range(3)]
    path = compare(read_runs(folders), tmp_path / "out")
    assert path.stat().st_size < LIMIT
    assert f"Showing {ROWS} of {len(videos)}" in Page(path).text


def test_a_sequence_without_scored_frames_has_a_dash(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(i), scores({"bear": 6, "short": 2}, seed=i), str(i)) for i in range(2)]
    text = Page(compare(read_runs(folders), tmp_path / "out")).text
    assert "short" in text
    assert "nan" not in text
    assert math.isnan(read_runs(folders)[0].summary.sequences[1].values.get("jf", math.nan))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["a"], "at least two"),
        (["a", "a/test"], "is given twice"),
        (["a", "nowhere"], "nowhere does not exist"),
        (["a", "other"], "has no results .*contains notes.txt"),
        (["a", "broken"], "evaluate again"),
        (["a", "vsod"], "no score in common"),
    ],
)
def test_wrong_folders_are_refused(tmp_path: Path, runs: list[str], message: str) -> None:
    write_run(tmp_path / "a" / "test", scores(VIDEOS), "a")
    write_run(tmp_path / "vsod", scores(VIDEOS, Protocol("vsod", ["mae", "s"])), "s")
    write_run(tmp_path / "broken", scores(VIDEOS), "b")
    (tmp_path / "broken" / "summary.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=message):
        compare(read_runs([tmp_path / name for name in runs]), tmp_path / "out")


def test_the_report_task_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folders = three(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["maskvos", "task=report", f"runs=[{','.join(map(str, folders))}]", "output=out"])
    main()
    assert Page(tmp_path / "out" / "report.html").text
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("small", "medium", "large"))


def test_the_report_task_from_python(tmp_path: Path) -> None:
    folders = three(tmp_path)
    metrics = run(compose(["task=report", f"runs=[{folders[0]},{folders[2]}]"], tmp_path / "run"))
    assert metrics == {"report/runs": 2.0}
    assert (tmp_path / "run" / "report" / "report.html").is_file()
    with pytest.raises(UserError, match="nothing to compare"):
        run(compose(["task=report"], tmp_path))
