"""Learning test: trains a ResNet-18 network from scratch on a CPU, and compares it with two baselines without learning.

    python scripts/benchmarks/learning.py --davis <DAVIS>          # about six minutes on one core

Trains on every n-th frame of the DAVIS-2016 train split except its held-out sequences, and scores every n-th frame of
those (J at original resolution, DAVIS-2016 protocol). The baselines are scored on the same frames:

* constant mask: one mask for all frames, the mean training mask at the threshold with the highest training J;
* flow magnitude: the largest connected component of pixels that move unlike the median, by Otsu's threshold.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytorch_lightning as pl

from maskvos.build import build
from maskvos.data.dataset import FrameDataset, read_mask
from maskvos.media.images import read_image
from maskvos.metrics.functional import jaccard
from maskvos.metrics.video import VideoMetric
from maskvos.run import compose
from maskvos.tasks.lightning import build_module
from maskvos.types import Video

Predictor = Callable[[FrameDataset, int], np.ndarray]


def thin(videos: list[Video], every: int) -> list[Video]:
    """Keep the annotation of every n-th frame; all frames stay, so that flow still connects consecutive frames."""
    return [
        dataclasses.replace(
            video,
            frames=tuple(
                frame if index % every == every // 2 else dataclasses.replace(frame, mask=None)
                for index, frame in enumerate(video.frames)
            ),
        )
        for video in videos
    ]


def masks(videos: list[Video], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the masks of annotated frames, (height, width) float32 in [0, 1]."""
    for video in videos:
        for frame in video.annotated:
            shape = read_image(frame.image).shape
            mask = read_mask(frame.mask, (shape[0], shape[1]), video.masks)
            yield cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)


def constant_mask(videos: list[Video], size: tuple[int, int]) -> np.ndarray:
    """The mean mask of the videos at the threshold with the highest mean J: (height, width) bool."""
    every = np.stack(list(masks(videos, size)))
    mean = every.mean(0)
    choices = [mean >= threshold for threshold in np.linspace(0.02, 0.98, 49) * mean.max()]
    return max(choices, key=lambda choice: np.mean([jaccard(choice, mask >= 0.5) for mask in every]))


def flow_magnitude(flow: np.ndarray) -> np.ndarray:
    """The largest region that moves unlike the median: (H, W, 2) float32 pixels to (H, W) bool."""
    length = np.linalg.norm(flow - np.median(flow, axis=(0, 1)), axis=2)
    grey = np.uint8(255 * length / max(float(length.max()), 1e-6))
    _, moving = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(moving)
    if len(statistics) == 1:
        return moving > 0
    return parts == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())


def score(predict: Predictor, dataset: FrameDataset, metric: VideoMetric) -> float:
    """Mean J of a predictor on a dataset."""
    metric.reset()
    metric.expect(dataset.videos)
    for index in range(len(dataset)):
        sample = dataset[index]
        metric.update([predict(dataset, index)], [sample["truth"]], [sample["video"]], [sample["frame"]])
    return float(metric.compute()["j"])


class Curve(pl.Callback):
    """Records the training losses and the validation J of every epoch."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []
        self.scores: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start an epoch."""
        self.losses.append([])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Record the loss of a step."""
        self.losses[-1].append(float(outputs["loss"]))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the score of an epoch."""
        self.scores.append(float(trainer.callback_metrics["val/j"]))


def learn(davis: Path, size: tuple[int, int], epochs: int, every: int, rate: float) -> str:
    """Train and score the network and the baselines; returns the table."""
    overrides = [
        *("backbone=resnet18", "backbone.pretrained=false", "model=maskvos_light", "loss=bce_dice", "aux_weight=0.5"),
        *("trainer=cpu", f"trainer.max_epochs={epochs}", "trainer.gradient_clip_val=1.0", "schedule=cosine_warmup"),
        *(f"data.size=[{size[0]},{size[1]}]", "data.batch_size=8", "data.eval_batch_size=8", "data.num_workers=0"),
        *(f"optim.lr={rate}", "augment=published", f"data.root={davis}", "flow.estimator.max_size=448"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose(overrides, folder)
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        system, data, curve = build_module(cfg), build(cfg.data), Curve()
        train, val = data.sources["train"](), data.sources["val"]()
        data.sources |= {"train": lambda: thin(train, every), "val": lambda: thin(val, every)}
        trainer = build(cfg.trainer, callbacks=[curve], logger=False, enable_checkpointing=False)
        start = time.perf_counter()
        trainer.fit(system, data)
        minutes = (time.perf_counter() - start) / 60
        frames = FrameDataset(data.videos("val"), data.flow, data.eval_transform, with_truth=True)
        metric = VideoMetric(build(cfg.protocol))
        best = constant_mask(data.videos("train"), size)
        rows = {
            "constant mask": score(lambda _, i: _resize(best, frames[i]["truth"]), frames, metric),
            "flow magnitude": score(lambda _, i: flow_magnitude(_flow(frames, i)), frames, metric),
            **{f"network, epoch {1 + i}": value for i, value in enumerate(curve.scores)},
        }
    losses = [float("nan")] * 2 + [float(np.mean(epoch)) for epoch in curve.losses]
    sizes = sum(p.numel() for p in system.network.parameters()) / 1e6
    lines = [
        f"ResNet-18, {sizes:.1f} M parameters, {size[0]}x{size[1]}, {sum(map(len, curve.losses))} steps of 8 in "
        f"{minutes:.1f} minutes; {len(frames)} frames of {', '.join(video.name for video in frames.videos)}",
        f"{'':<20}{'training loss':>14}{'validation J':>14}",
    ]
    lines += [
        f"{name:<20}{'' if np.isnan(loss) else f'{loss:.3f}':>14}{value:>14.3f}"
        for (name, value), loss in zip(rows.items(), losses, strict=True)
    ]
    return "\n".join(lines)


def _resize(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return cv2.resize(np.uint8(mask), like.shape[::-1], interpolation=cv2.INTER_LINEAR_EXACT) > 0


def _flow(dataset: FrameDataset, index: int) -> np.ndarray:
    video, frame = dataset.pairs[index]
    return dataset.flow.load(dataset.videos[video], int(frame))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True, help="DAVIS-2016 folder")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 160), help="height and width of the network's input")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--every", type=int, default=6, help="use every n-th frame")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    given = parser.parse_args()
    print(learn(given.davis, tuple(given.size), given.epochs, given.every, given.rate))


if __name__ == "__main__":
    main()
