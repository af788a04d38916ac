"""VideoMetric: same scores for any batch size, order and number of processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskvos.errors import UserError
from maskvos.metrics import VideoMetric
from maskvos.metrics.protocol import Protocol
from maskvos.types import Frame, Video

MEASURES = ("j", "f", "mae", "max_f", "s")


def clips():
    """Tuples (video, frame, prediction, truth) of three small videos, and the videos."""
    rng = np.random.default_rng(7)
    entries, videos = [], []
    for name, count in (("a", 5), ("b", 3), ("c", 7)):
        frames = [f"{i:05}" for i in range(count)]
        videos.append(Video(name, tuple(Frame(f, Path(f), Path(f)) for f in frames)))
        for frame in frames:
            truth = np.zeros((24, 36), bool)
            top, left = rng.integers(0, 12, 2)
            truth[top : top + 12, left : left + 16] = True
            prediction = np.clip(truth * 0.8 + rng.normal(0.1, 0.3, truth.shape), 0, 1).astype(np.float32)
            entries.append((name, frame, prediction, truth))
    return entries, videos


def feed(metric, entries, size):
    for start in range(0, len(entries), size):
        names, frames, predictions, truths = zip(*entries[start : start + size], strict=True)
        metric.update(list(predictions), list(truths), list(names), list(frames))


def overall(metric):
    return {name: value.item() for name, value in metric.compute().items()}


def make(videos, **options):
    metric = VideoMetric(Protocol("p", MEASURES, **options))
    metric.expect(videos)
    return metric


@pytest.fixture(scope="module")
def reference():
    entries, videos = clips()
    metric = make(videos, trim="both")
    feed(metric, entries, 4)
    return overall(metric)


def test_invariant_to_batch_size_order_and_duplicates(reference):
    entries, videos = clips()
    assert set(reference) == {"jf", "j", "f", "j_recall", "j_decay", "f_recall", "f_decay", "mae", "max_f", "s"}
    for size, seed in ((1, 0), (3, 1), (15, 2)):
        order = np.random.default_rng(seed).permutation(len(entries))
        metric = make(videos, trim="both")
        feed(metric, [entries[i] for i in order] + entries[: 4 * seed], size)
        assert overall(metric) == reference
        assert metric.summary().counts["frames"] == len(entries) - 6


def test_state_holds_scores_and_not_masks():
    metric = VideoMetric(Protocol("p"))
    truth = np.zeros((480, 854), bool)
    truth[100:300, 100:300] = True
    for index in range(10):
        metric.update([truth], [truth], ["a"], [str(index)])
    assert len(pickle.dumps(metric)) < 10_000
    assert overall(metric)["jf"] == 1


def test_reset_forward_and_unannotated_frames():
    entries, videos = clips()
    metric = make(videos)
    name, frame, prediction, truth = entries[0]
    step = metric([prediction], [truth], [name], [frame])
    assert step["j"] == metric.compute()["j"]
    metric.update([prediction], [None], [name], ["00001"])
    assert metric.summary().counts["frames"] == 1
    metric.reset()
    assert metric.compute() == {}
    metric.update([torch.from_numpy(prediction)], [torch.from_numpy(truth)], [name], [frame])
    assert metric.compute()["j"] == step["j"]


def test_invalid_batches_are_rejected():
    metric = VideoMetric(Protocol("p"))
    with pytest.raises(UserError, match="entries"):
        metric.update([np.zeros((2, 2))], [np.zeros((2, 2), bool)], ["a"], [])
    with pytest.raises(UserError, match="a/0: prediction of 2x3"):
        metric.update([np.zeros((2, 3))], [np.zeros((2, 2), bool)], ["a"], ["0"])


def _rank(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.set_num_threads(1)
    entries, videos = clips()
    results = []
    for share in ("strided", "one has all"):
        metric = make(videos, trim="both")
        # Like a distributed sampler: all processes get equally many frames, with the first ones repeated.
        mine = (
            (entries + entries[: -len(entries) % world])[rank::world] if share == "strided" else entries * (rank == 0)
        )
        feed(metric, mine, 2)
        results.append((overall(metric), metric.summary().counts))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.mark.slow
def test_invariant_to_number_of_processes(reference, tmp_path):
    mp.spawn(_rank, args=(2, tmp_path), nprocs=2)
    for rank in (0, 1):
        results = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(results) == 2
        for scores, counts in results:
            assert scores == reference
            assert counts["frames"] == 9
