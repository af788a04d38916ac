"""The report of a test: true to the tables, whole in one file, of bounded size, and harmless whatever names are."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fakes import SIZE, mask, write_davis
from maskvos.data.datasets.davis import davis
from maskvos.errors import UserError
from maskvos.media.images import write_image
from maskvos.metrics import evaluate_folder
from maskvos.metrics.functional import jaccard
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.results import FrameRow, FrameScore, Summary
from maskvos.reports.report import (
    EXAMPLES,
    ROWS,
    Example,
    about_run,
    candidates,
    condense,
    main_measure,
    of_frame,
    saved_masks,
    write_report,
)
from maskvos.run import CONF, compose, run
from maskvos.types import Frame, Video

PROTOCOLS = sorted((CONF / "protocol").glob("*.yaml"))
LIMIT = 5_000_000


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and its text outside of scripts and styles."""

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
    """A summary of random masks, or of random numbers where the protocol scores J and F only."""
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
    """A picture that compresses badly, and masks that differ."""
    rng = np.random.default_rng(int(frame))
    truth, prediction = np.zeros((2, 480, 854), bool)
    truth[100:300, 200:500], prediction[150:350, 250:600] = True, True
    return Example(rng.integers(0, 256, (480, 854, 3), np.uint8), truth, prediction)


# -------------------------------------------------------------------- the tables that it is made of


def same(first: Any, second: Any) -> bool:
    return repr(first) == repr(second)  # in which nan equals nan


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_tables_are_read_as_they_were_written(path: Path, tmp_path: Path) -> None:
    protocol = instantiate(OmegaConf.load(path), _convert_="all")
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
def test_what_is_missing_is_named(tmp_path: Path, lost: str) -> None:
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
def test_other_files_of_these_names_are_refused(tmp_path: Path, file: str, text: str) -> None:
    scores({"a": 3}).write(tmp_path)
    (tmp_path / file).write_text(text)
    if text:
        with pytest.raises(UserError, match="make them again"):
            Summary.read(tmp_path)
    else:
        assert Summary.read(tmp_path).sequences == []


# -------------------------------------------------------------------- the page


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    summary = scores({"bear": 20, "cow": 12})
    about = about_run("test", {"name": "mine", "seed": 7}, [], 32, 4.0, "best.ckpt", "cpu")
    page = Page(write_report(dataclasses.replace(summary, run=about), tmp_path, show))
    for name in ("jf", "j", "f", "j_recall", "f_recall", "j_decay", "f_decay"):
        assert f"{summary.overall[name]:.3f}" in page.text
        assert all(f"{row.values[name]:.3f}" in page.text for row in summary.sequences)
    for told in ("mine", "davis2016", "2 sequences", "28 frames counted, 4 left out", "2 first frame, 2 last frame"):
        assert told in page.text
    for told in ("best.ckpt", "8.0", "seed: 7", "torch", "false positive", "false negative"):
        assert told in page.text
    # Sorted, the best first.
    bars = [element["style"] for element in page.all("span") if element.get("class") == "fill"]
    assert len(bars) == 2
    assert bars == sorted(bars, reverse=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curves.png", "frames.csv", "report.html", "sequences.csv", "sequences.png", "summary.json",
    ]  # fmt: skip


def test_the_page_is_whole_in_itself_and_tells_what_its_pictures_show(tmp_path: Path) -> None:
    page = Page(write_report(scores({"bear": 40, "cow": 12}), tmp_path, show))
    pictures = page.all("img")
    assert len(pictures) > EXAMPLES
    for tag, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            if name in attributes:
                assert attributes[name].startswith("data:"), (tag, attributes)
    assert not re.search(r"url\(|@import|https?://", (tmp_path / "report.html").read_text())
    assert all(re.search(r"J 0\.\d+, F 0\.\d+; missed \d+%", picture["alt"]) for picture in pictures)
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 2
    assert "bear, 40 frames: J from" in charts[0]["aria-label"] + charts[1]["aria-label"]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a$b$c_{d"]
)
def test_names_do_no_harm(tmp_path: Path, name: str) -> None:
    summary = dataclasses.replace(
        scores({name: 5, "b": 4}), run={"name": name, "config": {"key": name}, "source": name}
    )
    honest, page = (
        Page(write_report(s, tmp_path / str(i), show)) for i, s in enumerate((scores({"a": 5, "b": 4}), summary))
    )
    # All that came with the name is text: a page with honest names has the same elements.
    assert Counter(tag for tag, _ in page.elements) - Counter(tag for tag, _ in honest.elements) <= Counter(
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
        assert f"lists {ROWS} of {len(videos)}" in page.text
    with (tmp_path / "frames.csv").open() as file:
        assert sum(1 for _ in csv.reader(file)) == sum(videos.values()) + 1


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_every_protocol_gets_a_page(path: Path, tmp_path: Path) -> None:
    protocol = instantiate(OmegaConf.load(path), _convert_="all")
    summary = scores({"cow-1": 6, "cow-2": 1, "dog": 3}, protocol)
    page = Page(write_report(summary, tmp_path, show))
    main = main_measure(summary.overall)
    assert main == {"vsod": "max_f"}.get(path.stem, "jf")
    assert f"{summary.overall[main]:.3f}" in page.text
    assert len(page.all("img")) > 0
    assert not re.search(r"\bnan\b|Undefined|None", page.text.split("How it was made")[0])


def test_nothing_that_counts_is_told(tmp_path: Path) -> None:
    page = Page(write_report(scores({"a": 2, "b": 1}), tmp_path, show))
    assert "counts none of the frames" in page.text
    assert "no frame counted, so not in the mean: a, b" in page.text
    assert not page.all("img")


def test_scores_that_are_no_numbers_are_dashes(tmp_path: Path) -> None:
    """The decay of the official code is nan for long videos; a frame's score may be, too."""
    summary = scores({"a": 5, "b": 5})
    values = {**summary.overall, "j_decay": math.nan, "jf": math.nan}
    frames = [dataclasses.replace(row, values={"j": math.nan, "f": 0.5}) for row in summary.frames]
    rows = [dataclasses.replace(row, values={**row.values, "jf": math.nan}) for row in summary.sequences]
    page = Page(
        write_report(dataclasses.replace(summary, overall=values, frames=frames, sequences=rows), tmp_path, show)
    )
    assert "recall" in page.text
    assert "nan" not in page.text.split("How it was made")[0]
    assert "–" in page.text
    assert not page.all("img")  # no frame has a score to be chosen by


def test_a_mean_error_is_sorted_the_other_way(tmp_path: Path) -> None:
    summary = scores({"a": 4, "b": 4, "c": 4}, Protocol("p", ["mae"]))
    path = write_report(summary, tmp_path, show)
    bars = [element["style"] for element in Page(path).all("span") if element.get("class") == "fill"]
    assert bars == sorted(bars)


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(video: str, frame: str) -> Example:
        if video == "a":
            raise UserError("gone")
        return show(video, frame)

    page = Page(write_report(scores({"a": 9, "b": 9}), tmp_path, broken))
    assert {picture["alt"].split()[3].rstrip(":") for picture in page.all("img")} == {"b"}
    assert "gone" in caplog.text


def test_best_frames_show_an_object(tmp_path: Path) -> None:
    def without(video: str, frame: str) -> Example:
        return Example(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), bool), np.zeros((8, 9), bool))

    page = Page(write_report(scores({"a": 30}), tmp_path, without))
    assert "Worst" in page.text
    assert not re.search(r"^Best$", page.text, re.MULTILINE)


# -------------------------------------------------------------------- what is chosen and drawn


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=30), min_size=1, max_size=8), st.booleans())
@settings(max_examples=50, deadline=None)
def test_candidates_are_in_order_apart_and_of_many_sequences(series: list[list[float]], best: bool) -> None:
    frames = [
        FrameRow(str(v), str(i), {"j": j, "f": j}) for v, values in enumerate(series) for i, j in enumerate(values)
    ]
    chosen = list(candidates(frames, "jf", best))
    values = [of_frame(row, "jf") for row in chosen]
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
def test_a_condensed_curve_keeps_its_worst(values: list[float], points: int, lower: bool) -> None:
    series = np.array(values)
    places, heights = condense(series, points, lower)
    assert len(places) == len(heights) == min(points, len(values))
    assert (np.diff(places) > 0).all()
    assert 0 <= places[0] <= places[-1] <= len(values) - 1
    known, kept = series[np.isfinite(series)], heights[np.isfinite(heights)]
    assert bool(known.size) == bool(kept.size)
    if known.size:
        assert (kept.max() == known.max()) if lower else (kept.min() == known.min())
    if points >= len(values):
        np.testing.assert_array_equal(heights, series)


# -------------------------------------------------------------------- where pictures come from


def davis_with_masks(root: Path) -> tuple[list[Video], Path]:
    write_davis(root / "DAVIS", frames=4)
    videos = davis(root / "DAVIS", "val")
    for video in videos:
        for index, frame in enumerate(video.frames):
            write_image(root / "masks" / video.name / f"{frame.name}.png", mask(index + 3) * 255)
    return videos, root / "masks"


def test_saved_masks_are_shown_as_they_were_scored(tmp_path: Path) -> None:
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


def smoke(data: Path, folder: Path, *overrides: str) -> Any:
    small = ["data.test.clips=2", "data.test.frames=6", "data.val.clips=1", "data.train.clips=4"]
    quiet = ["trainer.enable_progress_bar=false", "callbacks.progress=null", "data.num_workers=0"]
    return compose(["+experiment=smoke", f"paths.data={data}", *small, *quiet, *overrides], folder)


def test_the_test_task_leaves_a_report_of_the_frames_that_it_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    from maskvos.reports import report

    with caplog.at_level("INFO"):
        run(smoke(tmp_path / "data", tmp_path / "train", "trainer.max_epochs=1"))
    for told in (
        r"trained to epoch 1, step 4 in 0:\d\d:\d\d: val/jf 0\.",
        r"best checkpoint: .*best\.ckpt",
        r"run: .*train",
    ):
        assert re.search(told, caplog.text)
    seen: dict[tuple[str, str], Example] = {}
    real = report.predicted_masks

    def watched(*arguments: Any) -> Any:
        source = real(*arguments)

        def keep(video: str, frame: str) -> Example:
            seen[video, frame] = source(video, frame)
            return seen[video, frame]

        return keep

    monkeypatch.setattr(report, "predicted_masks", watched)
    metrics = run(smoke(tmp_path / "data", tmp_path, "task=test", f"ckpt_path={tmp_path}/train/checkpoints/best.ckpt"))
    folder = tmp_path / "test"
    page = Page(folder / "report.html")
    summary = Summary.read(folder)
    assert f"{metrics['test/jf']:.3f}" in page.text
    assert EXAMPLES <= len(page.all("img")) <= len(seen) <= 12
    values = {(row.video, row.frame): row.values["j"] for row in summary.frames}
    for key, example in seen.items():
        assert jaccard(example.prediction, example.truth) == pytest.approx(values[key], abs=1e-6)
    made = json.loads((folder / "summary.json").read_text())["run"]
    assert made["task"] == "test"
    assert made["frames_per_second"] > 0
    assert {"python", "maskvos", "torch", "pytorch-lightning"} <= set(made["versions"])
    assert made["config"]["name"] == "smoke"
    printed = capsys.readouterr().out
    assert re.search(r"tested 12 frames in [\d.]+ s, [\d.]+ frames/s", printed)
    assert f"report: {folder / 'report.html'}" in printed


def test_the_evaluate_task_leaves_a_report(tmp_path: Path) -> None:
    _, masks = davis_with_masks(tmp_path)
    run(compose(["task=evaluate", f"paths.data={tmp_path}", f"predictions={masks}", "name=mine"], tmp_path / "run"))
    page = Page(tmp_path / "run" / "evaluation" / "report.html")
    assert "mine" in page.text
    assert "evaluation report" in page.text
    assert str(masks) in page.text
    assert page.all("img")
