"""Does recurrence help? Networks of light.py's table, trained on with and without a ConvGRU.

    python scripts/benchmarks/recurrence.py --table runs/light_table --davis <DAVIS> --steps 300

A ConvGRU on the fused features at strides 8 to 32 (after Lin et al., "Robust High-Resolution Video Matting with
Temporal Guidance", WACV 2022) is added to ``fold<n>/light`` of the table, which is trained on with clips of four
frames; for comparison also without it, with the same clips and with single frames. The held-out sequences are segmented
frame by frame, at the input size that the networks were tested at in the table. Finished rows are kept in
``recurrence<n>.json``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from light import FOLDS, add, rows_of, score, sequences, table
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from maskvos.data.dataset import FrameDataset, collate
from maskvos.data.datasets.davis import davis
from maskvos.inference.postprocess import probabilities
from maskvos.models.fusion import Fusion, Pyramid
from maskvos.models.network import MaskVOS
from maskvos.models.state_dict import read_checkpoint
from maskvos.tasks.lightning import build_data, build_module
from maskvos.types import Video
from maskvos.weights.checkpoint import load_weights

_HIDDEN = (0, 32, 64, 64)  # channels of the state, fine to coarse; 0: no recurrence
_FRAMES = 4  # of a clip
ARMS = {
    "single frames": (1, 8, False),
    "clips": (_FRAMES, 2, False),
    "recurrence": (_FRAMES, 2, True),
    "single frames, four times as many": (1, 32, False),
    "recurrence, four times as many frames": (_FRAMES, 8, True),
}
"""Frames per clip, clips per batch, and whether the network is recurrent."""


class ConvGRU(nn.Module):
    """Adds a projection of its state to the features; nothing at first, since the projection starts from zero."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, hidden, 1)
        self.gates = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1)
        self.candidate = nn.Conv2d(2 * hidden, hidden, 3, padding=1)
        self.exit = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)
        nn.init.constant_(self.gates.bias, -1.0)  # a long memory at first

    def forward(self, clips: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Clips (N, T, C, h, w) and the state (N, hidden, h, w) before them to the same clips and the state after."""
        found = []
        for frame in clips.unbind(1):
            x = self.entry(frame).tanh()
            state = torch.zeros_like(x) if state is None else state
            reset, update = self.gates(torch.cat((x, state), 1)).sigmoid().chunk(2, 1)
            candidate = self.candidate(torch.cat((x, reset * state), 1)).tanh()
            state = (1 - update) * state + update * candidate
            found.append(frame + self.exit(state))
        assert state is not None
        return torch.stack(found, 1), state


class RecurrentFusion(Fusion):
    """A fusion followed by ConvGRUs.

    In training, a batch is clips of ``frames`` frames, one after the other, each with a new state; in evaluation it is
    one clip, whose state is that after the batch before, until `forget`.
    """

    def __init__(self, fusion: Fusion, frames: int) -> None:
        super().__init__(fusion.channels, fusion.channels)
        self.fusion, self.frames = fusion, frames
        self.memories = nn.ModuleList(
            ConvGRU(channels, hidden) if hidden else nn.Identity()
            for channels, hidden in zip(fusion.channels, _HIDDEN, strict=True)
        )
        self.forget()

    def forget(self) -> None:
        """Start a new video."""
        self.states: list[Tensor | None] = [None] * len(self.memories)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        if self.training:
            self.forget()
        pyramid = self.fusion(rgb, flow)
        frames = self.frames if self.training else len(pyramid[0])
        for level, memory in enumerate(self.memories):
            if isinstance(memory, ConvGRU):
                clips = pyramid[level].unflatten(0, (-1, frames))
                clips, self.states[level] = memory(clips, self.states[level])
                pyramid[level] = clips.flatten(0, 1)
        return pyramid


class ClipDataset(FrameDataset):
    """Keys are (clip, index): the random choices are those of the clip, the same for all of its frames."""

    def _draw(self, epoch: int, index: int) -> tuple[int, float, float]:
        return super()._draw(epoch, 0)


class ClipSampler:
    """Batches of (clip, index, scale) keys.

    A clip is consecutive frames, or every second or third one, in either direction; its dataset is drawn by weight.
    """

    def __init__(self, dataset: FrameDataset, cfg: DictConfig, frames: int, clips: int, steps: int) -> None:
        self.frames, self.clips, self.steps = frames, clips, steps
        self.scale = float(cfg.scales[0])
        videos = defaultdict(list)
        for index, (video, _) in enumerate(dataset.pairs):
            videos[int(video)].append(index)
        groups = defaultdict(list)
        for video, indices in videos.items():
            groups[dataset.videos[video].dataset].append(indices)
        self.groups = [groups[name] for name in sorted(groups)]
        shares = np.array([cfg.weights[name] for name in sorted(groups)], dtype=float)
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int, float]]]:
        for step in range(self.steps):
            yield [key for clip in range(self.clips) for key in self._clip(step * self.clips + clip)]

    def _clip(self, number: int) -> list[tuple[int, int, float]]:
        rng = np.random.default_rng([0, number])
        videos = self.groups[rng.choice(len(self.groups), p=self.shares)]
        indices = videos[rng.integers(len(videos))]
        longest = (len(indices) - 1) // max(1, self.frames - 1)
        stride = int(rng.integers(1, min(3, longest) + 1))
        start = int(rng.integers(len(indices) - (self.frames - 1) * stride))
        chosen = indices[start : start + (self.frames - 1) * stride + 1 : stride]
        return [(number, index, self.scale) for index in (chosen if rng.random() < 0.5 else chosen[::-1])]


def train(cfg: DictConfig, checkpoint: dict[str, Any], frames: int, clips: int, recurrent: bool, steps: int) -> MaskVOS:
    """Train the network of a checkpoint for more steps, with or without recurrence."""
    module = build_module(cfg)
    network = module.network
    load_weights(network, checkpoint, "the table's checkpoint")
    if recurrent:
        network.fusion = RecurrentFusion(network.fusion, frames)
    data = build_data(cfg)
    dataset = ClipDataset(data.videos("train"), data.flow, data.train_transform, seed=data.seed)
    sampler = ClipSampler(dataset, cfg.data, frames, clips, steps)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        precision=cfg.trainer.precision,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=1))
    return network.eval()


def segment(network: MaskVOS, cfg: DictConfig, video: Video) -> Iterator[np.ndarray]:
    """The masks of a video, frame by frame."""
    data = build_data(cfg)
    if isinstance(network.fusion, RecurrentFusion):
        network.fusion.forget()
    for sample in iter(FrameDataset([video], data.flow, data.eval_transform)):
        with torch.inference_mode():
            logits = network.segment(sample["rgb"][None], sample["flow"][None])
        yield probabilities(logits.numpy(), [sample["size"]])[0] > 0.5


def main() -> None:
    """Train and score what is not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="output folder of light.py --experiment light")
    parser.add_argument("--davis", type=Path, required=True, help="DAVIS-2016 folder, for scoring")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    options = parser.parse_args()
    for fold in options.folds:
        path = options.table / f"fold{fold}/light/checkpoints/last.ckpt"
        checkpoint = read_checkpoint(path)
        cfg = OmegaConf.create(checkpoint["maskvos"]["config"])
        cfg.backbone.pretrained = cfg.model.rgb_encoder.pretrained = False  # the checkpoint brings the weights
        _, held = sequences(options.davis, fold)
        videos = [video for video in davis(options.davis, "train", hold_out=()) if video.name in held]
        for name, arm in ARMS.items():
            file = options.table / f"recurrence{fold}.json"
            if name not in rows_of(file):
                network = train(cfg, checkpoint, *arm, options.steps)
                add(file, {name: score(videos, partial(segment, network, cfg))[0]})
    print(table(options.table, "recurrence*.json"))


if __name__ == "__main__":
    main()
