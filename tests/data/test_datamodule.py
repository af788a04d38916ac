"""Loaders: what each stage gets, shuffling, mixtures, workers."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import fakes
from maskvos.data.datamodule import EpochSampler, EvalSampler, VideoDataModule
from maskvos.data.datasets.davis import davis
from maskvos.data.transforms import HorizontalFlip
from maskvos.environment import init_worker
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fakes.write_davis(tmp_path / "DAVIS")
    return tmp_path / "DAVIS"


def build(root: Path, **options: Any) -> VideoDataModule:
    settings = {
        "flow": FlowStore(DIS()),
        "train": partial(davis, root, "train", hold_out=["bus"]),
        "val": partial(davis, root, "held_out", hold_out=["bus"]),
        "test": partial(davis, root, "val"),
        "size": (32, 48),
        "batch_size": 4,
        "num_workers": 0,
        **options,
    }
    return VideoDataModule(**settings)


def test_training_batches(root: Path) -> None:
    data = build(root, augment=[HorizontalFlip(), A.ColorJitter()])
    data.setup("fit")
    [batch] = data.train_dataloader()  # 6 frames; the rest of 2 is dropped
    assert batch["rgb"].shape == (4, 3, 32, 48)
    assert batch["flow"].shape == (4, 2, 32, 48)
    assert batch["mask"].shape == (4, 1, 32, 48)
    assert batch["motion"].tolist() == [True] * 4
    assert set(batch["video"]) <= {"bear", "dance-jump"}
    assert "truth" not in batch


def test_a_dataset_smaller_than_a_batch_still_trains(root: Path) -> None:
    data = build(root, batch_size=64)
    data.setup("fit")
    [batch] = data.train_dataloader()
    assert len(batch["video"]) == 6


def test_evaluation_batches_are_complete_and_in_order(root: Path) -> None:
    data = build(root, eval_batch_size=4)
    data.setup("test")
    batches = list(data.test_dataloader())
    keys = [key for batch in batches for key in zip(batch["video"], batch["frame"], strict=True)]
    assert keys == [(name, f"{index:05d}") for name in ("blackswan", "cows") for index in range(3)]
    assert [truth.shape for batch in batches for truth in batch["truth"]] == [fakes.SIZE] * 6
    assert batches[1]["image"][0].shape == (*fakes.SIZE, 3)
    assert [video.name for video in data.videos("test")] == ["blackswan", "cows"]
    data.setup("validate")
    assert {name for batch in data.val_dataloader() for name in batch["video"]} == {"bus"}


def test_flow_for_test_time_augmentation_is_loaded_outside_of_training(root: Path) -> None:
    data = build(root, tta_flow={"direction": "backward", "gap": 2}, flow_pairs=[{"direction": "backward"}])
    for stage, split in {"fit": "train", "validate": "val", "test": "test"}.items():
        data.setup(stage)
        for batch in getattr(data, f"{split}_dataloader")():
            assert ("tta_flow" in batch) == (split != "train")
    with pytest.raises(UserError, match=r"tta\.flow=null"):
        build(root, flow=FlowStore(), tta_flow={"direction": "backward"})
    with pytest.raises(UserError, match=r"data\.flow_pairs=null"):
        build(root, flow=FlowStore(), flow_pairs=[{"direction": "backward"}]).train_dataloader()
    for wrong in ({"gap": 2}, {"direction": "backward", "step": 2}):
        with pytest.raises(UserError, match=r"tta\.flow: .*give direction"):
            build(root, tta_flow=wrong)


def test_all_samples_of_a_batch_have_one_scale_which_depends_on_its_index(root: Path) -> None:
    def shapes(workers: int, seen: int = 0) -> list[tuple[int, ...]]:
        options = {"batch_size": 2, "size": (64, 128), "scales": [0.5, 1, 1.5], "samples_per_epoch": 24}
        data = build(root, num_workers=workers, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.seen = (3, seen)
        loader.sampler.set_epoch(3)
        found = []
        for batch in loader:
            assert batch["flow"].shape[-2:] == batch["mask"].shape[-2:] == batch["rgb"].shape[-2:]
            found.append(tuple(batch["rgb"].shape))
        return found

    drawn = shapes(0)
    assert set(drawn) == {(2, 3, 32, 64), (2, 3, 64, 128), (2, 3, 96, 192)}
    assert len(drawn) == 12
    assert shapes(2) == drawn
    assert shapes(0, seen=10) == drawn[5:]


def test_processes_train_on_one_scale_at_a_time() -> None:
    samplers = [EpochSampler(["a"] * 40, None, None, 7, 2, rank, [0.5, 1, 2], 4) for rank in (0, 1)]
    scales = [[scale for *_, scale in sampler][::4] for sampler in samplers]
    assert scales[0] == scales[1]
    assert len(set(scales[0])) > 1
    for sampler in samplers:
        sampler.set_epoch(1)
    assert [scale for *_, scale in samplers[0]][::4] != scales[0]


@given(count=st.integers(1, 40), replicas=st.integers(1, 3), batch_size=st.integers(1, 5), workers=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_no_sample_is_scored_twice(count: int, replicas: int, batch_size: int, workers: int) -> None:
    samplers = [EvalSampler(range(count), replicas, rank, batch_size, workers) for rank in range(replicas)]  # type: ignore[arg-type]
    assert sorted(index for sampler in samplers for index in sampler) == list(range(count))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


def test_a_loading_process_evaluates_neighbouring_frames() -> None:
    order = list(EvalSampler(range(24), batch_size=2, workers=3))  # type: ignore[arg-type]
    batches = [order[start : start + 2] for start in range(0, 24, 2)]
    runs = [[index for batch in batches[worker::3] for index in batch] for worker in range(3)]
    assert runs == [list(range(8)), list(range(8, 16)), list(range(16, 24))]


def test_a_missing_dataset_is_named_when_it_is_needed(tmp_path: Path) -> None:
    data = build(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no folder 'nowhere'"):
        data.setup("fit")


def test_sizes_are_tuples_after_pinning(root: Path) -> None:
    data = build(root, eval_batch_size=2)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    pinned = {**batch, "size": [list(size) for size in batch["size"]]}
    after = data.on_after_batch_transfer(pinned, 0)  # type: ignore[arg-type]
    assert after["size"] == batch["size"] == [fakes.SIZE] * 2
    assert after.keys() == batch.keys()


def test_missing_splits_are_named(root: Path) -> None:
    data = VideoDataModule(FlowStore(DIS()), train=partial(davis, root, "train"), num_workers=0)
    data.setup("fit")
    assert data.val_dataloader() == []
    for stage in ("test", "validate"):
        with pytest.raises(UserError, match=r"it has: train\); choose another data="):
            data.setup(stage)
    data = VideoDataModule(FlowStore(DIS()), train=list, test=lambda: davis(root, "val") * 2)
    with pytest.raises(UserError, match="list of train videos is empty"):
        data.setup("fit")
    with pytest.raises(UserError, match="2 test videos named 'blackswan'"):
        data.setup("test")


def test_invalid_settings_are_rejected(root: Path) -> None:
    with pytest.raises(UserError, match="batch_size=0"):
        build(root, batch_size=0)
    with pytest.raises(UserError, match="num_workers=-1"):
        build(root, num_workers=-1)
    for scales in ([], [1, 0]):
        with pytest.raises(UserError, match=r"data\.scales="):
            build(root, scales=scales)
    with pytest.raises(UserError, match="motion_as_option=2"):
        build(root, motion_as_option=2)
    data = build(root, weights={"DAVIS-2017": 1})
    data.setup("fit")
    with pytest.raises(UserError, match="'DAVIS-2017' is in one of them only; did you mean 'DAVIS-2016'"):
        data.train_dataloader()
    data = build(root, weights={"DAVIS-2016": 0})
    data.setup("fit")
    with pytest.raises(UserError, match="must be above 0"):
        data.train_dataloader()


def epoch(data: VideoDataModule, number: int) -> dict[tuple[str, str], torch.Tensor]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[union-attr]
    return {
        key: torch.cat([rgb.flatten(), flow.flatten()])
        for batch in loader
        for key, rgb, flow in zip(
            zip(batch["video"], batch["frame"], strict=True), batch["rgb"], batch["flow"], strict=True
        )
    }


def test_augmentation_does_not_depend_on_the_number_of_workers(root: Path) -> None:
    def run(workers: int, number: int) -> dict[tuple[str, str], torch.Tensor]:
        options = {"augment": [HorizontalFlip(), A.ColorJitter(p=1)], "batch_size": 1, "num_workers": workers}
        data = build(root, **options)
        data.setup("fit")
        return epoch(data, number)

    in_process, one, two, later = run(0, 0), run(1, 0), run(2, 0), run(0, 1)
    assert list(in_process) == list(one) == list(two)
    assert len(in_process) == 6
    for key, sample in in_process.items():
        assert torch.equal(sample, one[key])
        assert torch.equal(sample, two[key])
        assert not torch.equal(sample, later[key])
    assert list(later) != list(in_process)


class PaintThreads(A.ImageOnlyTransform):
    """An image of the number of OpenCV's threads, after an operation that uses all of them."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (9, 9), 2)
        return np.full_like(img, cv2.getNumThreads())


def test_workers_use_no_threads_of_opencv_and_leave_those_of_the_main_process(root: Path) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        PaintThreads().apply(np.zeros(1, np.uint8))  # workers must not wait for the threads of this process
        data = build(root, augment=[PaintThreads(p=1)], num_workers=2)
        data.setup("fit")
        rgb = torch.cat([batch["rgb"] for batch in data.train_dataloader()])
        assert (255 * rgb).round().unique().tolist() == [1]
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


class Probe(pl.LightningModule):
    """Notes what Lightning feeds it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[tuple[str, str, float]]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        for video, frame, rgb in zip(batch["video"], batch["frame"], batch["rgb"], strict=True):
            self.seen[-1].append((video, frame, float(rgb.sum())))
        return self.weight * batch["rgb"].mean()

    def validation_step(self, batch: dict, index: int) -> None:
        assert batch["truth"][0].dtype == bool

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_gives_every_epoch_its_own_order_and_augmentation(root: Path, tmp_path: Path, workers: int) -> None:
    probe = Probe()
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(probe, datamodule=build(root, batch_size=2, num_workers=workers, augment=[A.ColorJitter(p=1)]))
    orders = [[sample[:2] for sample in epoch] for epoch in probe.seen]
    assert [sorted(order) for order in orders] == [sorted(orders[0])] * 3
    assert len(set(orders[0])) == 6
    assert orders[0] != orders[1]
    sums = [dict((sample[:2], sample[2]) for sample in epoch) for epoch in probe.seen]
    assert all(sums[0][key] != sums[1][key] != sums[2][key] for key in sums[0])


# ---------------------------------------------------------------------- sampler


@given(
    counts=st.dictionaries(st.sampled_from("abc"), st.integers(1, 30), min_size=1),
    length=st.integers(1, 80),
    replicas=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_mixtures_keep_their_shares(counts: dict[str, int], length: int, replicas: int, data: st.DataObject) -> None:
    weights = {name: data.draw(st.floats(0.1, 10)) for name in counts}
    groups = [name for name, count in counts.items() for _ in range(count)]
    drawn: list[tuple[int, int]] = []
    for rank in range(replicas):
        sampler = EpochSampler(groups, weights, length, 0, replicas, rank)
        sampler.set_epoch(5)
        part = list(sampler)
        assert len(part) == len(sampler) == -(-length // replicas)
        drawn += part
    assert {number for number, _ in drawn} == {5}
    indices = [index for _, index in drawn]
    got = Counter(groups[index] for index in indices)
    for name in counts:
        share = weights[name] / sum(weights.values()) * length
        assert abs(got[name] - share) <= replicas + 1
        # Each sample as often as the others of its dataset, give or take one round (and what fills up the processes).
        times = [indices.count(index) for index, group in enumerate(groups) if group == name]
        assert max(times) - min(times) <= 1 + (replicas - 1)


def test_without_weights_every_sample_is_drawn_once() -> None:
    sampler = EpochSampler(["a"] * 7 + ["b"] * 3)
    first = [index for _, index in sampler]
    assert sorted(first) == list(range(10))
    assert first == [index for _, index in sampler]
    sampler.set_epoch(1)
    assert [index for _, index in sampler] != first
    other = EpochSampler(["a"] * 7 + ["b"] * 3, seed=1)
    assert [index for _, index in other] != first


def test_sampling_does_not_open_files_or_grow() -> None:
    sampler = EpochSampler(["a"] * 100_000, samples_per_epoch=10)
    assert np.unique([index for _, index in sampler]).size == 10


@pytest.mark.skipif(not hasattr(os, "getpgid"), reason="this system has no process groups")
def test_workers_are_in_process_groups_of_their_own() -> None:
    # Signals to the group, such as Ctrl-C, are for the main process.
    loader = DataLoader(range(2), num_workers=2, worker_init_fn=init_worker, collate_fn=lambda _: os.getpgid(0))
    groups = list(loader)
    assert os.getpgid(0) not in groups
    assert len(set(groups)) == 2
