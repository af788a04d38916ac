"""HTML report: agrees with the tables, self-contained, of bounded size, and safe for any names."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

import configs
from fakes import SIZE, mask, write_davis
from maskvos.cli.compose import run_name
from maskvos.data.datasets.davis import davis
from maskvos.errors import UserError
from maskvos.media.images import write_image
from maskvos.metrics import evaluate_folder
from maskvos.metrics.functional import jaccard
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.results import FrameRow, FrameScore, Summary
from maskvos.reports import callback
from maskvos.reports.callback import TestReport
from maskvos.reports.comparison import read_runs
from maskvos.reports.curves import downsample
from maskvos.reports.examples import EXAMPLES, Example, candidates, saved_masks
from maskvos.reports.report import ROWS, about_run, write_report
from maskvos.reports.scores import brief, frame_score, main_measure
from maskvos.run import compose, run
from maskvos.tasks.common import plain
from maskvos.tasks.lightning import build_data, build_module
from maskvos.types import Frame, Video

PROTOCOLS = configs.members("protocol")
LIMIT = 5_000_000


class Page(HTMLParser):
    """A parsed page: elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._silent = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._silent = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._silent = ""

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def scores(videos: dict[str, int], protocol: Protocol | None = None, seed: int = 0) -> Summary:
    """A summary of random masks, or of random J and F if the protocol has no other measures."""
    rng = np.random.default_rng(seed)
    protocol = protocol or Protocol("davis2016", trim="both")
    truth = np.zeros((12, 16), np.uint8)
    truth[3:9, 4:12] = 1
    frames = []
    for video, count in videos.items():
        for index in range(count):
            name = f"{index:05d}"
            if set(protocol.measures) == {"j", "f"} and protocol.objects == "merge":
                frames.append(FrameScore(video, name, dict(zip("jf", rng.random(2).tolist(), strict=True))))
            else:
                ids = protocol.objects == "match"
                found = np.roll(truth, rng.integers(5), axis=1)
                frames.append(protocol.score(video, name, found if ids else found > 0, truth if ids else truth > 0))
    listed = [
        Video(name, tuple(Frame(f"{i:05d}", Path("x"), Path("x")) for i in range(count)), category=name[:3])
        for name, count in videos.items()
    ]
    return protocol.summarise(frames, listed)


def show(video: str, frame: str) -> Example:
    """Noise, which compresses badly, and two different masks."""
    rng = np.random.default_rng(int(frame))
    truth, prediction = np.zeros((2, 480, 854), bool)
    truth[100:300, 200:500], prediction[150:350, 250:600] = True, True
    return Example(rng.integers(0, 256, (480, 854, 3), np.uint8), truth, prediction)


# -------------------------------------------------------------------- tables


def same(first: Any, second: Any) -> bool:
    return repr(first) == repr(second)  # unlike ==, true for nan


@pytest.mark.parametrize("name", PROTOCOLS)
def test_tables_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    protocol = instantiate(configs.load("protocol", name), _convert_="all")
    summary = dataclasses.replace(scores({"a,b": 5, 'c"d': 1, "e\nf": 2}, protocol), run={"name": "x", "deep": [1, {}]})
    summary.write(tmp_path)
    again = Summary.read(tmp_path)
    plain = [dataclasses.replace(row, curves={}) for row in summary.sequences]
    assert same(again.overall, summary.overall)
    assert same(again.sequences, plain)
    assert same(again.frames, summary.frames)
    assert same(
        (again.classes, again.also, again.notes, again.run),
        (summary.classes, summary.also, [*summary.notes], summary.run),
    )
    assert again.table() == summary.table()


@pytest.mark.parametrize("lost", ["summary.json", "sequences.csv", "frames.csv"])
def test_a_missing_file_is_named(tmp_path: Path, lost: str) -> None:
    scores({"a": 3}).write(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match=re.escape(lost) + r".*cannot be read.*task=test"):
        Summary.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("frames.csv", "a,b\n1,2\n"),
        ("sequences.csv", ""),
        ("summary.json", "{}"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, file: str, text: str) -> None:
    scores({"a": 3}).write(tmp_path)
    (tmp_path / file).write_text(text)
    if text:
        with pytest.raises(UserError, match="evaluate again"):
            Summary.read(tmp_path)
    else:
        assert Summary.read(tmp_path).sequences == []


# -------------------------------------------------------------------- the page


def test_the_page_shows_all_scores_and_facts(tmp_path: Path) -> None:
    summary = scores({"bear": 20, "cow": 12})
    about = about_run("test", {"name": "mine", "seed": 7}, [], 32, 4.0, "best.ckpt", "cpu")
    page = Page(write_report(dataclasses.replace(summary, run=about), tmp_path, show))
    for name in ("jf", "j", "f", "j_recall", "f_recall", "j_decay", "f_decay"):
        assert f"{summary.overall[name]:.3f}" in page.text
        assert all(f"{row.values[name]:.3f}" in page.text for row in summary.sequences)
    for shown in ("mine", "davis2016", "2 sequences", "28 frames scored, 4 excluded", "2 first frame, 2 last frame"):
        assert shown in page.text
    for shown in ("best.ckpt", "8.0", "seed: 7", "torch", "false positive", "false negative"):
        assert shown in page.text
    # Best first.
    bars = [element["style"] for element in page.all("span") if element.get("class") == "fill"]
    assert len(bars) == 2
    assert bars == sorted(bars, reverse=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curves.png", "frames.csv", "report.html", "sequences.csv", "sequences.png", "summary.json",
    ]  # fmt: skip


def test_the_page_is_self_contained_and_its_images_have_alternative_text(tmp_path: Path) -> None:
    page = Page(write_report(scores({"bear": 40, "cow": 12}), tmp_path, show))
    images = page.all("img")
    assert len(images) > EXAMPLES
    for tag, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            if name in attributes:
                assert attributes[name].startswith("data:"), (tag, attributes)
    assert not re.search(r"url\(|@import|https?://", (tmp_path / "report.html").read_text())
    assert all(re.search(r"J 0\.\d+, F 0\.\d+; false negatives \d+%", image["alt"]) for image in images)
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 2
    assert "bear, 40 frames: J from" in charts[0]["aria-label"] + charts[1]["aria-label"]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a$b$c_{d"]
)
def test_names_are_escaped(tmp_path: Path, name: str) -> None:
    summary = dataclasses.replace(
        scores({name: 5, "b": 4}), run={"name": name, "config": {"key": name}, "source": name}
    )
    plain, page = (
        Page(write_report(s, tmp_path / str(i), show)) for i, s in enumerate((scores({"a": 5, "b": 4}), summary))
    )
    # The name adds text only: the page has the same elements as one with harmless names.
    assert Counter(tag for tag, _ in page.elements) - Counter(tag for tag, _ in plain.elements) <= Counter(
        {"details": 1, "summary": 1, "pre": 1, "dt": 1, "dd": 1}
    )
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert name in page.text


@pytest.mark.parametrize(
    "videos",
    [
        {f"sequence-{index:03d}": 30 for index in range(200)},
        {"long": 10_000},
        {f"s{index}": 2 for index in range(ROWS + 50)},
    ],
    ids=["200 sequences", "10,000 frames", "many sequences"],
)
def test_the_page_stays_small(tmp_path: Path, videos: dict[str, int]) -> None:
    path = write_report(scores(videos, Protocol("p")), tmp_path, show)
    page = Page(path)
    assert len(page.all("img")) == 2 * EXAMPLES
    assert path.stat().st_size < LIMIT
    assert sum(element.get("class") == "fill" for element in page.all("span")) == min(len(videos), ROWS)
    if len(videos) > ROWS:
        assert f"Showing {ROWS} of {len(videos)}" in page.text
    with (tmp_path / "frames.csv").open() as file:
        assert sum(1 for _ in csv.reader(file)) == sum(videos.values()) + 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_a_page(name: str, tmp_path: Path) -> None:
    protocol = instantiate(configs.load("protocol", name), _convert_="all")
    summary = scores({"cow-1": 6, "cow-2": 1, "dog": 3}, protocol)
    page = Page(write_report(summary, tmp_path, show))
    main = main_measure(summary.overall)
    assert main == {"vsod": "max_f"}.get(name, "jf")
    assert f"{summary.overall[main]:.3f}" in page.text
    assert len(page.all("img")) > 0
    assert not re.search(r"\bnan\b|Undefined|None", page.text.split("Details")[0])


def test_a_page_without_scored_frames_says_so(tmp_path: Path) -> None:
    page = Page(write_report(scores({"a": 2, "b": 1}), tmp_path, show))
    assert "protocol excludes all frames" in page.text
    assert "no frame counted, so not in the mean: a, b" in page.text
    assert not page.all("img")


def test_nan_scores_are_shown_as_dashes(tmp_path: Path) -> None:
    """The official decay is nan for long videos; a frame's score may be nan, too."""
    summary = scores({"a": 5, "b": 5})
    values = {**summary.overall, "j_decay": math.nan, "jf": math.nan}
    frames = [dataclasses.replace(row, values={"j": math.nan, "f": 0.5}) for row in summary.frames]
    rows = [dataclasses.replace(row, values={**row.values, "jf": math.nan}) for row in summary.sequences]
    page = Page(
        write_report(dataclasses.replace(summary, overall=values, frames=frames, sequences=rows), tmp_path, show)
    )
    assert "recall" in page.text
    assert "nan" not in page.text.split("Details")[0]
    assert "–" in page.text
    assert not page.all("img")  # no frame has a score to rank by


def test_lowest_error_comes_first(tmp_path: Path) -> None:
    summary = scores({"a": 4, "b": 4, "c": 4}, Protocol("p", ["mae"]))
    path = write_report(summary, tmp_path, show)
    bars = [element["style"] for element in Page(path).all("span") if element.get("class") == "fill"]
    assert bars == sorted(bars)


def test_an_unreadable_image_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(video: str, frame: str) -> Example:
        if video == "a":
            raise UserError("gone")
        return show(video, frame)

    page = Page(write_report(scores({"a": 9, "b": 9}), tmp_path, broken))
    assert {image["alt"].split()[3].rstrip(":") for image in page.all("img")} == {"b"}
    assert "gone" in caplog.text


def test_best_frames_exclude_empty_ones(tmp_path: Path) -> None:
    def without(video: str, frame: str) -> Example:
        return Example(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), bool), np.zeros((8, 9), bool))

    page = Page(write_report(scores({"a": 30}), tmp_path, without))
    assert "Worst" in page.text
    assert not re.search(r"^Best$", page.text, re.MULTILINE)


# -------------------------------------------------------------------- selection and curves


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=30), min_size=1, max_size=8), st.booleans())
@settings(max_examples=50, deadline=None)
def test_candidates_are_sorted_and_spread_over_the_sequences(series: list[list[float]], best: bool) -> None:
    frames = [
        FrameRow(str(v), str(i), {"j": j, "f": j}) for v, values in enumerate(series) for i, j in enumerate(values)
    ]
    chosen = list(candidates(frames, "jf", best))
    values = [frame_score(row, "jf") for row in chosen]
    assert values == sorted(values, reverse=best)
    assert values[0] == (max if best else min)(value for part in series for value in part)
    assert {row.video for row in chosen} == {str(v) for v in range(len(series))}
    most = max(2, math.ceil(EXAMPLES / len(series)))
    assert max(Counter(row.video for row in chosen).values()) <= most
    for first in chosen:
        for second in chosen:
            if first.video == second.video and first is not second:
                assert abs(int(first.frame) - int(second.frame)) > len(series[int(first.video)]) / (2 * most)


@given(
    st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), min_size=1, max_size=200), st.integers(1, 60), st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_a_downsampled_curve_keeps_its_worst_value(values: list[float], points: int, lower: bool) -> None:
    series = np.array(values)
    places, heights = downsample(series, points, lower)
    assert len(places) == len(heights) == min(points, len(values))
    assert (np.diff(places) > 0).all()
    assert 0 <= places[0] <= places[-1] <= len(values) - 1
    known, kept = series[np.isfinite(series)], heights[np.isfinite(heights)]
    assert bool(known.size) == bool(kept.size)
    if known.size:
        assert (kept.max() == known.max()) if lower else (kept.min() == known.min())
    if points >= len(values):
        np.testing.assert_array_equal(heights, series)


# -------------------------------------------------------------------- sources of examples


def davis_with_masks(root: Path) -> tuple[list[Video], Path]:
    write_davis(root / "DAVIS", frames=4)
    videos = davis(root / "DAVIS", "val")
    for video in videos:
        for index, frame in enumerate(video.frames):
            write_image(root / "masks" / video.name / f"{frame.name}.png", mask(index + 3) * 255)
    return videos, root / "masks"


def test_saved_masks_are_read_as_they_were_scored(tmp_path: Path) -> None:
    videos, masks = davis_with_masks(tmp_path)
    protocol = Protocol("all_frames")
    summary = evaluate_folder(masks, videos, protocol, progress=False)
    source = saved_masks(masks, videos, protocol)
    for row in summary.frames:
        example = source(row.video, row.frame)
        assert example.image.shape == (*SIZE, 3)
        assert jaccard(example.prediction, example.truth) == row.values["j"]


def test_a_missing_mask_is_shown_as_empty(tmp_path: Path) -> None:
    videos, masks = davis_with_masks(tmp_path)
    (masks / "cows" / "00001.png").unlink()
    example = saved_masks(masks, videos, Protocol("all_frames"))("cows", "00001")
    assert example.truth.any()
    assert not example.prediction.any()


SMOKE = [
    *("+experiment=smoke", "data.test.clips=2", "data.test.frames=6", "data.val.clips=1", "data.train.clips=4"),
    *("trainer.enable_progress_bar=false", "data.num_workers=0"),
]


@pytest.mark.parametrize("mirror", [False, True])
def test_the_callback_writes_a_report_with_the_masks_that_were_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, mirror: bool
) -> None:
    seen: dict[tuple[str, str], Example] = {}
    predicted_masks = callback.predicted_masks

    def recorded(*arguments: Any) -> Any:
        source = predicted_masks(*arguments)

        def record(video: str, frame: str) -> Example:
            seen[video, frame] = source(video, frame)
            return seen[video, frame]

        return record

    monkeypatch.setattr(callback, "predicted_masks", recorded)
    cfg = compose([*SMOKE, f"paths.data={tmp_path}", f"tta.mirror={str(mirror).lower()}"], tmp_path)
    data = build_data(cfg)
    videos = data.videos("test")
    report = TestReport(tmp_path / "test", videos, data.eval_dataset("test"), plain(cfg))
    trainer = pl.Trainer(callbacks=[report], logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.test(build_module(cfg, {"test": videos}), data, verbose=False)
    page = Page(tmp_path / "test" / "report.html")
    summary = Summary.read(tmp_path / "test")
    assert f"{float(trainer.callback_metrics['test/jf']):.3f}" in page.text
    assert EXAMPLES <= len(page.all("img")) <= len(seen) <= 12
    values = {(row.video, row.frame): row.values["j"] for row in summary.frames}
    for key, example in seen.items():
        assert jaccard(example.prediction, example.truth) == pytest.approx(values[key], abs=1e-6)
    about = json.loads((tmp_path / "test" / "summary.json").read_text())["run"]
    assert about["task"] == "test"
    assert about["frames_per_second"] > 0
    assert {"python", "maskvos", "torch", "pytorch-lightning"} <= set(about["versions"])
    assert about["config"]["name"] == "smoke"
    printed = capsys.readouterr().out
    assert re.search(r"tested 12 frames in [\d.]+ s, [\d.]+ frames/s", printed)
    assert f"report: {tmp_path / 'test' / 'report.html'}" in printed


def test_the_evaluate_task_writes_a_report(tmp_path: Path) -> None:
    _, masks = davis_with_masks(tmp_path)
    run(compose(["task=evaluate", f"paths.data={tmp_path}", f"predictions={masks}", "name=mine"], tmp_path / "run"))
    page = Page(tmp_path / "run" / "evaluation" / "report.html")
    assert "mine" in page.text
    assert "evaluation report" in page.text
    assert str(masks) in page.text
    assert page.all("img")


def test_evaluations_are_named_after_the_predictions(tmp_path: Path) -> None:
    _, masks = davis_with_masks(tmp_path)
    found = []
    for name in ("pdb", "it's 2nd"):
        shutil.copytree(masks, tmp_path / name / "masks")
        # As on the command line, where quotes are added.
        given = "predictions='{}'".format(str(tmp_path / name / "masks").replace("'", "\\'"))
        cfg = compose(["task=evaluate", f"paths.data={tmp_path}", given, f"paths.runs={tmp_path / 'runs'}"])
        assert Path(cfg.paths.run).parent == tmp_path / "runs" / name
        run(cfg)
        found.append(Path(cfg.paths.run))
    assert [each.label for each in read_runs(found)] == ["pdb", "it's 2nd"]
    assert "pdb" in Page(found[0] / "evaluation" / "report.html").text


@pytest.mark.parametrize(
    ("predictions", "name"),
    [
        ("runs/swin_t/2026-01-31_12-00-00/predictions", "swin_t"),
        ("results/2019/pdb/", "pdb"),
        ("/masks", "masks"),
    ],
)
def test_folders_that_say_nothing_give_no_name(predictions: str, name: str) -> None:
    assert run_name("evaluate", predictions) == name
    assert run_name("train", predictions) == run_name("evaluate", None) == "maskvos"


def test_the_terminal_shows_the_worst_sequences_only() -> None:
    summary = scores({f"clip{index}": 6 for index in range(7)}, seed=1)
    lines = brief(summary).splitlines()
    assert len(lines) < 10
    assert lines[0].split()[:4] == ["worst", "of", "7", "Frames"]
    worst = sorted(summary.sequences, key=lambda sequence: sequence.values["jf"])[:3]
    assert [line.split()[0] for line in lines[2:5]] == [sequence.name for sequence in worst]
    assert lines[6].startswith("mean over sequences")
    assert summary.table().count("clip") == 7
    few = scores({"a": 6, "b": 6}, seed=1)
    assert brief(few).splitlines()[0].startswith("Sequence")
