"""Evaluation protocols: which frames count, and how scores are averaged."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

import configs
from maskvos.errors import UserError
from maskvos.metrics import functional as F
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.results import FrameScore
from maskvos.types import Frame, Video


def video(name, frames, category=None, unannotated=()):
    entries = (Frame(f, Path(f"{f}.jpg"), None if f in unannotated else Path(f"{f}.png")) for f in frames)
    return Video(name, tuple(entries), category=category)


def score(video_name, frame, j, f=0.5, **kwargs):
    return FrameScore(video_name, frame, {"j": j, "f": f}, **kwargs)


FRAMES = ["8", "9", "10", "11"]


@pytest.mark.parametrize(
    ("trim", "mean", "left_out"),
    [
        ("none", (0.1 + 0.2 + 0.3 + 0.8) / 4, {}),
        ("first", (0.2 + 0.3 + 0.8) / 3, {"first frame": 1}),
        ("last", (0.1 + 0.2 + 0.3) / 3, {"last frame": 1}),
        ("both", (0.2 + 0.3) / 2, {"first frame": 1, "last frame": 1}),
    ],
)
@pytest.mark.parametrize("expected", [True, False])
def test_trimming_uses_temporal_order(trim, mean, left_out, expected):
    scores = [score("a", name, j) for name, j in zip(FRAMES, (0.1, 0.2, 0.3, 0.8), strict=True)]
    videos = [video("a", FRAMES)] if expected else None
    summary = Protocol("p", trim=trim).summarise(reversed(scores), videos)
    assert summary.overall["j"] == pytest.approx(mean)
    assert summary.overall["jf"] == pytest.approx((mean + 0.5) / 2)
    assert summary.counts["left_out"] == left_out
    assert [row.frame for row in summary.frames] == FRAMES


def test_reports_which_frames_were_left_out_and_why():
    scores = [score("a", "9", 0.5), score("a", "10", 0.0, empty_truth=True)]
    videos = [video("a", FRAMES, unannotated=("11",)), video("b", ["0", "1"])]
    summary = Protocol("p", empty_truth="skip").summarise(scores, videos)
    assert {row.frame: row.left_out for row in summary.frames if row.video == "a"} == {
        "8": "not scored",
        "9": "",
        "10": "empty truth",
        "11": "not annotated",
    }
    assert summary.overall["j"] == 0.5
    table = summary.table()
    assert "1 sequences, 1 frames counted" in table
    assert "1 empty truth, 1 not annotated, 3 not scored" in table
    assert "no frame counted, so not in the mean: b" in table


def test_means_over_sequences_classes_and_frames():
    scores = [score("a", str(i), 1.0) for i in range(3)] + [score("b", "0", 0.0), score("c", "0", 0.4)]
    videos = [video("a", "012", "cat"), video("b", "0", "cat"), video("c", "0", "dog")]
    means = {}
    for average in ("sequences", "classes", "frames"):
        summary = Protocol("p", average=average).summarise(scores, videos)
        means[average] = summary.overall["j"]
        if average == "classes":
            assert {name: values["j"] for name, values in summary.classes.items()} == {"cat": 0.5, "dog": 0.4}
            assert summary.also["mean over sequences"]["j"] == pytest.approx(1.4 / 3)
    assert means == pytest.approx({"sequences": 1.4 / 3, "classes": 0.45, "frames": 3.4 / 5})


def test_mean_over_classes_needs_classes():
    with pytest.raises(UserError, match="'a' has no class"):
        Protocol("p", average="classes").summarise([score("a", "0", 1.0)], [video("a", "0")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": ["jj"]}, "jj: did you mean 'j'"),
        ({"measures": []}, "of one value or more"),
        ({"trim": "botth"}, "protocol.trim=botth.*did you mean 'both'"),
        ({"threshold": ">127"}, "above_127"),
        ({"objects": "match", "measures": ["mae"]}, "supports j and f"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(UserError, match=message):
        Protocol("p", **options)


def test_unknown_names_are_rejected():
    with pytest.raises(UserError, match="unknown frame; did you mean '10'"):
        Protocol("p").summarise([score("a", "010", 1.0)], [video("a", FRAMES)])
    with pytest.raises(UserError, match="two videos are called 'a'"):
        Protocol("p").summarise([], [video("a", FRAMES), video("a", FRAMES)])
    with pytest.raises(UserError, match="unknown video"):
        Protocol("p").summarise([score("b", "10", 1.0)], [video("a", FRAMES)])


@pytest.mark.parametrize(("threshold", "count"), [("above_0", 255), ("above_127", 128), ("above_128", 127)])
def test_thresholds_are_the_same_for_levels_and_probabilities(threshold, count):
    levels = np.arange(256, dtype=np.uint8)[None]
    protocol = Protocol("p", threshold=threshold)
    mask = protocol.foreground(levels)
    assert mask.sum() == count
    np.testing.assert_array_equal(protocol.foreground(levels / np.float32(255)), mask)
    np.testing.assert_array_equal(protocol.foreground(mask), mask)
    with pytest.raises(UserError, match="sigmoid"):
        protocol.foreground(levels.astype(float))
    with pytest.raises(UserError, match="int64"):
        protocol.foreground(levels.astype(int))


def test_errors_name_the_frame():
    with pytest.raises(UserError, match=r"cow/0007: .*4x5, ground truth of 5x4"):
        Protocol("p").score("cow", "0007", np.zeros((4, 5)), np.zeros((5, 4), bool))


def test_all_metrics_are_in_the_summary(tmp_path):
    rng = np.random.default_rng(0)
    truth = np.zeros((30, 40), bool)
    truth[5:20, 10:30] = True
    prediction = np.clip(truth + rng.normal(0, 0.3, truth.shape), 0, 1)
    measures = ["j", "f", "boundary_iou", "precision", "recall", "mae", "s", "mean_f", "adaptive_f", "mean_e"]
    measures += ["adaptive_e", "max_f", "max_e", "weighted_f"]
    protocol = Protocol("p", measures)
    frame = protocol.score("a", "0", prediction, truth)
    again = FrameScore.from_line(frame.to_line())
    assert again.values == frame.values
    np.testing.assert_array_equal(again.histogram, frame.histogram)
    summary = protocol.summarise([frame])
    one = {name: summary.overall[name] for name in measures}
    assert one == pytest.approx(frame.values)
    assert one["max_f"] == F.max_f(prediction, truth)
    assert (one["precision"], one["recall"]) == F.precision_recall(prediction > 0.5, truth)
    summary.write(tmp_path / "new")
    rows = list(csv.DictReader((tmp_path / "new/frames.csv").open()))
    assert {name: float(rows[0][name]) for name in measures} == frame.values
    rows = list(csv.DictReader((tmp_path / "new/sequences.csv").open()))
    assert float(rows[0]["j_recall"]) == 1.0
    written = json.loads((tmp_path / "new/summary.json").read_text())
    assert written["overall"]["s"] == summary.overall["s"]
    assert written["counts"]["frames"] == 1
    assert written["protocol"]["measures"] == measures


def test_curves_are_averaged_before_or_after_the_maximum():
    truth = np.array([[True, False]])
    frames = {"a": np.array([[200, 100]], np.uint8), "b": np.array([[100, 50]], np.uint8)}
    curves = {name: F.f_curve(frame, truth) for name, frame in frames.items()}
    overall = {}
    for curve in ("averaged", "per_sequence"):
        protocol = Protocol("p", ["max_f"], curve=curve)
        scores = [protocol.score(name, "0", frame, truth) for name, frame in frames.items()]
        overall[curve] = protocol.summarise(scores).overall["max_f"]
    assert overall["averaged"] == pytest.approx(((curves["a"] + curves["b"]) / 2).max())
    assert overall["per_sequence"] == 1
    assert overall["averaged"] < 1


def test_a_sequence_without_counted_frames_is_reported():
    summary = Protocol("p", trim="both").summarise([score("a", "0", 1.0), score("a", "1", 1.0)])
    assert summary.overall == {}
    assert "no frame counted, so not in the mean: a" in summary.table()


def test_objects_are_matched_over_a_sequence():
    # Ids are swapped; in the last frame the second object is absent and a third one is predicted.
    truth = np.zeros((3, 40, 60), np.uint8)
    truth[:, 5:20, 5:20] = 1
    truth[:2, 22:38, 30:50] = 2
    prediction = np.choose(truth, [0, 2, 1]).astype(np.uint8)
    prediction[2, 0:3, 50:58] = 3
    protocol = Protocol("p", objects="match")
    scores = [protocol.score("a", str(i), prediction[i], truth[i]) for i in range(3)]
    scores = [FrameScore.from_line(frame.to_line()) for frame in scores]
    summary = protocol.summarise(scores)
    assert [row.name for row in summary.sequences] == ["a_1", "a_2"]
    assert summary.overall["j"] == summary.overall["f"] == 1
    assert summary.counts["sequences"] == 1
    assert "mean over objects" in summary.table()
    # One foreground mask for two objects: it can only be matched with one of them.
    scores = [protocol.score("a", str(i), truth[i] > 0, truth[i]) for i in range(3)]
    summary = protocol.summarise(scores)
    alone = [[F.jaccard(truth[i] > 0, truth[i] == k) for i in range(3)] for k in (1, 2)]
    assert summary.overall["j"] == pytest.approx(max(np.mean(alone[0]) + 1 / 3, np.mean(alone[1])) / 2)
    with pytest.raises(UserError, match="a/0: object id 21: at most 20"):
        protocol.score("a", "0", np.full((4, 4), 21, np.uint8), np.ones((4, 4), np.uint8))
    with pytest.raises(UserError, match="task=evaluate"):
        protocol.score("a", "0", np.ones((4, 4), bool), np.ones((4, 4), bool))


@pytest.mark.parametrize("seed", range(4))
def test_matching_is_optimal(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, 2)
    ids = [np.kron(rng.integers(0, n + 1, (3, 4, 5)), np.ones((1, 8, 8), int)).astype(np.uint8) for n in counts]
    prediction, truth = ids
    truth[0, :8, :8] = counts[1]  # the first frame must contain all objects
    protocol = Protocol("p", objects="match")
    scores = [protocol.score("a", str(i), prediction[i], truth[i]) for i in range(3)]
    overall = protocol.summarise(scores).overall
    proposals = [*range(1, counts[0] + 1), *[99] * counts[1]]  # 99 is absent
    best = max(
        np.mean(
            [
                np.add(*F.jaccard_and_boundary_f(prediction[i] == p, truth[i] == o)) / 2
                for o, p in enumerate(chosen, 1)
                for i in range(3)
            ]
        )
        for chosen in itertools.permutations(proposals, int(counts[1]))
    )
    assert overall["jf"] == pytest.approx(best, abs=1e-12)


def test_ground_truth_without_objects_is_reported():
    protocol = Protocol("p", objects="match")
    empty = np.zeros((8, 8), np.uint8)
    assert "not in the mean: a" in protocol.summarise([protocol.score("a", "0", empty, empty)]).table()


def test_decay_variants_of_long_sequences():
    scores = [score("a", f"{i:04}", 1 - i / 600) for i in range(600)]
    decay = {d: Protocol("p", decay=d).summarise(scores).overall["j_decay"] for d in ("exact", "davis2017")}
    assert decay["exact"] == pytest.approx(0.75, abs=0.01)
    assert not abs(decay["davis2017"] - 0.75) < 0.1
    assert math.isfinite(decay["exact"])


@pytest.mark.parametrize("name", configs.members("protocol"))
def test_every_config_builds_a_protocol_of_its_name(name):
    protocol = instantiate(configs.load("protocol", name), _convert_="all")
    assert protocol.name == name
    truth = np.zeros((20, 30), np.uint8 if protocol.objects == "match" else bool)
    truth[5:10, 5:15] = 1
    videos = [video("a", FRAMES, category="cat")]
    scores = [protocol.score("a", frame, truth, truth) for frame in FRAMES]
    summary = protocol.summarise(scores, videos)
    assert summary.overall["max_f" if name == "vsod" else "jf"] == pytest.approx(1)
    assert summary.counts["frames"] == (2 if name == "davis2016" else 4)
    assert name in summary.table()
