"""The benchmark of recurrence."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from maskvos.models.fusion import SumFusion


@pytest.fixture
def recurrence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "scripts/benchmarks")
    return importlib.import_module("recurrence")


def test_frame_by_frame_is_as_in_training(recurrence: ModuleType) -> None:
    torch.manual_seed(0)
    channels = (4, 5, 6, 7)
    fusion = recurrence.RecurrentFusion(SumFusion(channels, channels), frames=3)
    for memory in list(fusion.memories)[1:]:
        torch.nn.init.normal_(memory.exit.weight)
    rgb, flow = ([torch.randn(6, c, 8 >> i, 16 >> i) for i, c in enumerate(channels)] for _ in range(2))
    with torch.no_grad():
        clips = fusion.train()(rgb, flow)
        fusion.eval()
        for clip in (0, 3):
            fusion.forget()
            for frame in range(clip, clip + 3):
                alone = fusion([x[frame : frame + 1] for x in rgb], [x[frame : frame + 1] for x in flow])
                for together, found in zip(clips, alone, strict=True):
                    torch.testing.assert_close(found, together[frame : frame + 1])
    assert not torch.allclose(clips[1], rgb[1] + flow[1])


def test_clips_are_evenly_spaced_frames_of_one_video(recurrence: ModuleType) -> None:
    videos = [SimpleNamespace(dataset=name) for name in ("long", "short")]
    pairs = np.array([(0, f) for f in range(20)] + [(1, f) for f in range(4)])
    dataset = SimpleNamespace(videos=videos, pairs=pairs)
    cfg = SimpleNamespace(scales=[0.75], weights={"long": 1, "short": 1})
    batches = list(recurrence.ClipSampler(dataset, cfg, frames=4, clips=2, steps=50))
    assert len(batches) == 50
    strides = set()
    for batch in batches:
        for clip in (batch[:4], batch[4:]):
            assert len({number for number, _, _ in clip}) == 1
            assert len({pairs[index][0] for _, index, _ in clip}) == 1
            steps = set(np.diff([index for _, index, _ in clip]))
            assert len(steps) == 1
            strides |= steps
    assert strides == {-3, -2, -1, 1, 2, 3}
