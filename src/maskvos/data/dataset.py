"""Samples of single frames in random order, for training and evaluation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from maskvos.data.streams import same_direction
from maskvos.data.transforms import Transform
from maskvos.errors import UserError
from maskvos.flow.store import FlowStore
from maskvos.media.images import read_image
from maskvos.metrics.reading import read_truth
from maskvos.types import Batch, MaskRule, Sample, Video


def read_mask(path: Path, size: tuple[int, int], rule: MaskRule | None = None) -> np.ndarray:
    """Read a ground-truth mask and merge its objects into one foreground.

    Args:
        path: An image: palette indices, grey levels or colours.
        size: Height and width of the frame, pixels.
        rule: How to read its values; None: everything but 0 is foreground.

    Returns:
        (H, W) uint8, 0 or 1, at the frame's size.

    Raises:
        UserError: The file is missing or cannot be decoded, or its size differs from the frame's and the rule does not
            allow that.
    """
    rule = rule or MaskRule()
    mask = (read_truth(path, rule) != 0).astype(np.uint8)
    if mask.shape == tuple(size):
        return mask
    if not rule.any_size:
        raise UserError(
            f"the mask {path} is {mask.shape[1]}x{mask.shape[0]} and its frame {size[1]}x{size[0]} (width x height); "
            "they must have the same size: take both from the same release and resolution of the dataset"
        )
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


class FrameReader:
    """Decodes images and keeps the last few, so that neighbouring frames and their flow decode each file once.

    Args:
        count: Number of images to keep.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count
        self._images: OrderedDict[Path, np.ndarray] = OrderedDict()

    def __call__(self, path: Path) -> np.ndarray:
        """Decode an image, see `read_image`; the array must not be changed."""
        if path not in self._images:
            self._images[path] = read_image(path)
            if len(self._images) > self.count:
                self._images.popitem(last=False)
        self._images.move_to_end(path)
        return self._images[path]


class FrameDataset(Dataset[Sample]):
    """Single frames of a list of videos, for training and evaluation.

    A key is an index, or (epoch, index), or (epoch, index, scale). All random choices of a sample derive from (seed,
    epoch, index), so they do not depend on the number of workers or on the order of loading.

    Args:
        videos: Videos with frames on disk.
        flow: Source of optical flow.
        transform: Resizes to the network's input size, with or without augmentation.
        with_truth: Add the ground truth at the frame's own size.
        with_image: Add the frame at its own size.
        annotated_only: Use only frames with ground truth.
        seed: Seed of all random choices.
        motion_as_option: Probability that the motion encoder reads the RGB frame instead of flow (Cho et al., "Treating
            Motion as Option with Output Selection for Unsupervised Video Object Segmentation"); a number, 0 included,
            also makes it read the RGB frame of still images. None: always flow, and zero flow for still images.
        paste: Probability that the object of another sample is pasted into a sample together with its motion (after
            Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR
            2021).
        tta_flow: Source of a second flow map for test-time augmentation; negated where its direction differs from that
            of ``flow``.
        other_flows: Further sources of flow: each sample draws one of these or ``flow`` with equal probability.

    Raises:
        UserError: A movie file among the videos, or no usable frame.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        flow: FlowStore,
        transform: Transform,
        with_truth: bool = False,
        with_image: bool = False,
        annotated_only: bool = True,
        seed: int = 0,
        motion_as_option: float | None = None,
        paste: float = 0.0,
        tta_flow: FlowStore | None = None,
        other_flows: Sequence[FlowStore] = (),
    ) -> None:
        self.videos = list(videos)
        self.flow = flow
        self.flows = [flow, *other_flows]
        self.tta_flow = tta_flow
        self.transform = transform
        self.with_truth = with_truth
        self.with_image = with_image
        self.seed = seed
        self.motion_as_option = motion_as_option
        self.paste = paste
        self._read_image = FrameReader()
        movie = next((video for video in self.videos if video.file is not None), None)
        if movie is not None:
            raise UserError(f"'{movie.file}' is a movie; training and testing need folders of frames with masks")
        # (video, frame) indices in one array, which loading processes share without copying.
        pairs = [
            (v, f)
            for v, video in enumerate(self.videos)
            for f, frame in enumerate(video.frames)
            if frame.mask is not None or not annotated_only
        ]
        if not pairs:
            names = ", ".join(video.name for video in self.videos[:5]) or "no name"
            raise UserError(
                f"no {'annotated ' if annotated_only else ''}frame in {len(self.videos)} videos ({names}); "
                "check the dataset's folder with task=check"
            )
        self.pairs = np.array(pairs, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int] | tuple[int, int, float]) -> Sample:
        """Read one sample.

        Args:
            key: Index, or (epoch, index), or (epoch, index, factor on the transform's size).

        Raises:
            UserError: A file is missing or cannot be decoded, or mask and frame differ in size.
        """
        epoch, index, *scales = key if isinstance(key, tuple) else (0, key)
        scale = scales[0] if scales else 1.0
        seed, share, paste = self._draw(epoch, index)
        sample = self._read(index, seed, share, scale)
        if paste < self.paste:
            rng = np.random.default_rng(seed)
            other = self._read(int(rng.integers(len(self))), int(rng.integers(2**32)), share, scale)
            paste_object(sample, other, rng)
        return sample

    def _read(self, index: int, seed: int, share: float, scale: float) -> Sample:
        """Read a sample from disk and transform it with its own seed."""
        v, f = (int(i) for i in self.pairs[index])
        video, frame = self.videos[v], self.videos[v].frames[f]
        image = self._read_image(frame.image)
        size = (image.shape[0], image.shape[1])
        mask = None if frame.mask is None else read_mask(frame.mask, size, video.masks)
        still = len(video.frames) == 1 and frame.flow is None
        # A separate stream of random numbers: the transform uses the seed itself.
        store = self.flows[np.random.default_rng([seed, 1]).integers(len(self.flows))]
        flow = np.zeros((*size, 2), dtype=np.float32) if still else store.load(video, f, read=self._read_image)
        sample = Sample(video=video.name, frame=frame.name, size=size)
        sample.update(self.transform(image, flow, mask, seed=seed, scale=scale))  # type: ignore[typeddict-item]
        as_rgb = self.motion_as_option is not None and (still or share < self.motion_as_option)
        sample["motion"] = torch.tensor(not as_rgb)
        if self.tta_flow is not None:
            sign = same_direction(self.flow, self.tta_flow)
            tta_flow = flow if still else sign * self.tta_flow.load(video, f, read=self._read_image)
            sample["tta_flow"] = self.transform.of_flow(tta_flow)
        if self.with_truth:
            sample["truth"] = None if mask is None else mask.astype(bool)
        if self.with_image:
            sample["image"] = image
        return sample

    def _draw(self, epoch: int, index: int) -> tuple[int, float, float]:
        """The sample's seed, and two uniform numbers in [0, 1)."""
        words = np.random.SeedSequence([self.seed, epoch, index]).generate_state(3)
        return int(words[0]), float(words[1]) / 2**32, float(words[2]) / 2**32


def paste_object(sample: Sample, other: Sample, rng: np.random.Generator) -> None:
    """Paste the object of one sample, with its flow, into another; the mask becomes the union of both objects.

    A random shift is added to the pasted flow: with two static cameras the object would otherwise not move relative to
    its new background.

    Args:
        sample: Changed in place: ``rgb``, ``flow`` and ``mask``.
        other: A sample of the same size; unchanged.
        rng: Draws the shift from a normal distribution with a standard deviation of 0.5% of the width.
    """
    inside = other["mask"][None]
    # Blend the outline over one pixel, as a camera does: the network must not learn to find sharp seams.
    alpha = F.avg_pool2d(inside, 3, stride=1, padding=1, count_include_pad=False)[0]
    shift = torch.from_numpy(rng.normal(0, 0.005 * inside.shape[-1], (2, 1, 1)).astype(np.float32))
    sample["rgb"] = torch.lerp(sample["rgb"], other["rgb"], alpha)
    sample["flow"] = torch.where(inside[0] > 0, other["flow"] + shift, sample["flow"])
    sample["mask"] = torch.maximum(sample["mask"], other["mask"])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch: tensors along a new first axis, everything else in lists.

    A tensor that only some samples have (the mask, where some frames are not annotated) is dropped.
    """
    batch: dict[str, Any] = {}
    for key in dict.fromkeys(key for sample in samples for key in sample):
        values = [sample.get(key) for sample in samples]
        if not any(isinstance(value, torch.Tensor) for value in values):
            batch[key] = values
        elif all(isinstance(value, torch.Tensor) for value in values):
            batch[key] = torch.stack(values)  # type: ignore[arg-type]
    return Batch(**batch)  # type: ignore[typeddict-item]
