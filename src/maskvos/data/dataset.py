"""From videos on disk to samples: single frames in any order, or whole videos in order of time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from maskvos.data.transforms import Transform
from maskvos.errors import UserError
from maskvos.flow.store import FlowStore
from maskvos.media.video import read_image, read_video
from maskvos.metrics.reading import read_truth
from maskvos.types import Batch, Frame, MaskRule, Sample, Video


def read_mask(path: Path, size: tuple[int, int], rule: MaskRule | None = None) -> np.ndarray:
    """Read a ground truth and merge its objects to one foreground.

    Args:
        path: An image: palette indices, grey levels or colours.
        size: Height and width of the frame that it belongs to, pixels.
        rule: How its values are to be understood; None: whatever is not 0 is foreground.

    Returns:
        (H, W) uint8, 0 or 1, of the frame's size.

    Raises:
        UserError: The file is missing or cannot be decoded, or the mask is of another size and the rule forbids it.
    """
    rule = rule or MaskRule()
    mask = (read_truth(path, rule) != 0).astype(np.uint8)
    if mask.shape == tuple(size):
        return mask
    if not rule.any_size:
        raise UserError(
            f"the mask {path} is {mask.shape[1]}x{mask.shape[0]} and its frame {size[1]}x{size[0]} (width x height); "
            "they must be of one size, so take both from one release and resolution of the dataset"
        )
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


class FrameDataset(Dataset[Sample]):
    """Single frames of a list of videos, for training and evaluation.

    A key is an index, or a pair of epoch and index: the random choices of a sample follow from (seed, epoch, index)
    alone, so they do not depend on the number of workers or on the order of loading.

    Args:
        videos: Videos with frames on disk.
        flow: Where optical flow comes from.
        transform: To the network's size, with or without augmentation.
        with_truth: Samples carry the ground truth at the frame's own size.
        with_image: Samples carry the frame at its own size.
        annotated_only: Only frames that have a ground truth.
        seed: Of the random choices.
        motion_as_option: Share of the moving samples whose motion stream is to see the RGB frame (Cho et al., "Treating
            Motion as Option with Output Selection for Unsupervised Video Object Segmentation"); a number, 0 included,
            also makes it see the RGB frame for still images. None: motion is always flow, and zero for still images.
        paste: Share of the samples into which the object of another sample is pasted with its motion (after Ghiasi et
            al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021).
        second: Where the flow for a second look comes from; None: samples have no such. It points as ``flow`` does:
            from another direction than that one's, it is negated.
        others: Further places that flow comes from: each sample draws one of them or ``flow``, equally often.

    Raises:
        UserError: A movie file among the videos, or no frame that counts.
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
        second: FlowStore | None = None,
        others: Sequence[FlowStore] = (),
    ) -> None:
        self.videos = list(videos)
        self.flow = flow
        self.flows = [flow, *others]
        self.second = second
        self.transform = transform
        self.with_truth = with_truth
        self.with_image = with_image
        self.seed = seed
        self.motion_as_option = motion_as_option
        self.paste = paste
        movie = next((video for video in self.videos if video.file is not None), None)
        if movie is not None:
            raise UserError(f"'{movie.file}' is a movie; training and testing need folders of frames with masks")
        # Pairs of (video, frame) indices: one small array that workers share, and a look-up that does not grow with it.
        pairs = [
            (v, f)
            for v, video in enumerate(self.videos)
            for f, frame in enumerate(video.frames)
            if frame.mask is not None or not annotated_only
        ]
        if not pairs:
            names = ", ".join(video.name for video in self.videos[:5]) or "none"
            raise UserError(
                f"no {'annotated ' if annotated_only else ''}frame in {len(self.videos)} videos ({names}); "
                "check the dataset's folder with task=check"
            )
        self.pairs = np.array(pairs, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int] | tuple[int, int, float]) -> Sample:
        """Read one sample, by its index, or epoch and index, or these and a factor on the transform's size.

        Raises:
            UserError: A file is missing, cannot be decoded, or does not fit the others.
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
        """One sample as it is on disk, transformed with its own seed."""
        v, f = (int(i) for i in self.pairs[index])
        video, frame = self.videos[v], self.videos[v].frames[f]
        image = read_image(frame.image)
        size = (image.shape[0], image.shape[1])
        mask = None if frame.mask is None else read_mask(frame.mask, size, video.masks)
        still = len(video.frames) == 1 and frame.flow is None
        # Of words of its own: the transform draws from the seed itself.
        store = self.flows[np.random.default_rng([seed, 1]).integers(len(self.flows))]
        flow = np.zeros((*size, 2), dtype=np.float32) if still else store.load(video, f)
        sample = Sample(video=video.name, frame=frame.name, size=size)
        sample.update(self.transform(image, flow, mask, seed=seed, scale=scale))  # type: ignore[typeddict-item]
        as_rgb = self.motion_as_option is not None and (still or share < self.motion_as_option)
        sample["motion"] = torch.tensor(not as_rgb)
        if self.second is not None:
            again = flow if still else _sign(self.flow, self.second) * self.second.load(video, f)
            sample["second_flow"] = self.transform.of_flow(again)
        if self.with_truth:
            sample["truth"] = None if mask is None else mask.astype(bool)
        if self.with_image:
            sample["image"] = image
        return sample

    def _draw(self, epoch: int, index: int) -> tuple[int, float, float]:
        """The sample's own seed, and two uniform numbers in [0, 1) beside it."""
        words = np.random.SeedSequence([self.seed, epoch, index]).generate_state(3)
        return int(words[0]), float(words[1]) / 2**32, float(words[2]) / 2**32


def paste_object(sample: Sample, other: Sample, rng: np.random.Generator) -> None:
    """Put the object of one sample over another, which then shows both.

    The object takes its flow along, to which a random shift is added: two cameras that stand still would else leave it
    without a motion of its own.

    Args:
        sample: Changed in place: ``rgb``, ``flow`` and ``mask``.
        other: Of the same size; stays as it is.
        rng: Draws the shift, normal with a deviation of half a percent of the width.
    """
    inside = other["mask"][None]
    # The outline is blended over a pixel, as a camera would, so that no sharp edge gives the pasting away.
    alpha = F.avg_pool2d(inside, 3, stride=1, padding=1, count_include_pad=False)[0]
    shift = torch.from_numpy(rng.normal(0, 0.005 * inside.shape[-1], (2, 1, 1)).astype(np.float32))
    sample["rgb"] = torch.lerp(sample["rgb"], other["rgb"], alpha)
    sample["flow"] = torch.where(inside[0] > 0, other["flow"] + shift, sample["flow"])
    sample["mask"] = torch.maximum(sample["mask"], other["mask"])


class StreamDataset(IterableDataset[Sample]):
    """Whole videos, frame by frame in order of time; memory does not grow with their length.

    Order matters and a movie can only be read from its start, so one process reads: in a loader with several workers
    the others yield nothing. Give it one worker (or none).

    Args:
        videos: Movie files or folders of frames.
        flow: Where optical flow comes from.
        transform: To the network's size; without augmentation.
        done: Tells of a video's name whether its results are complete already; such videos are left out.
        motion_as_option: As in `FrameDataset`; here a number makes a video of one frame be seen without motion.
        second: As in `FrameDataset`.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        flow: FlowStore,
        transform: Transform,
        done: Callable[[str], bool] | None = None,
        motion_as_option: float | None = None,
        second: FlowStore | None = None,
    ) -> None:
        self.videos = list(videos)
        self.flow = flow
        self.second = second
        self.transform = transform
        self.done = done
        self.motion_as_option = motion_as_option

    def __iter__(self) -> Iterator[Sample]:
        """Yield every frame of every video that is not done.

        Raises:
            UserError: A video cannot be read, is empty, or has frames of several sizes.
        """
        worker = get_worker_info()
        if worker is not None and worker.id > 0:
            return
        for video in self.videos:
            if self.done is None or not self.done(video.name):
                yield from self._video(video)

    def _video(self, video: Video) -> Iterator[Sample]:
        """Yield the frames of one video."""
        still, frames = _is_still(self._frames(video))
        count = 0
        for image, flow, second in self._moving(video, frames):
            name = video.frames[count].name if video.frames else f"{count:05d}"
            sample = Sample(video=video.name, frame=name, size=(image.shape[0], image.shape[1]), image=image)
            sample.update(self.transform(image, flow))  # type: ignore[typeddict-item]
            sample["motion"] = torch.tensor(self.motion_as_option is None or not still)
            if second is not None:
                sample["second_flow"] = self.transform.of_flow(second)
            count += 1
            yield sample
        if count == 0:
            raise UserError(f"the video {video.file} has no frame that can be read; check that it plays")

    def _moving(
        self, video: Video, frames: Iterator[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Yield every frame with its flow, and that of the second look."""
        if self.second is None:
            yield from ((image, flow, None) for image, flow in self.flow.stream(video, frames))
            return
        once, again = _twice(frames)
        sign = _sign(self.flow, self.second)
        streams = self.flow.stream(video, once), self.second.stream(video, again)
        for (image, flow), (_, second) in zip(*streams, strict=True):
            yield image, flow, sign * second

    @staticmethod
    def _frames(video: Video) -> Iterator[np.ndarray]:
        """Yield the frames, (H, W, 3) uint8 RGB, all of one size."""
        if video.file is not None:
            yield from read_video(video.file)
            return
        first: tuple[Frame, tuple[int, ...]] | None = None
        for frame in video.frames:
            image = read_image(frame.image)
            first = first or (frame, image.shape)
            if image.shape != first[1]:
                raise UserError(
                    f"{frame.image} is {image.shape[1]}x{image.shape[0]} and {first[0].image.name} "
                    f"{first[1][1]}x{first[1][0]} (width x height); the frames of a video must be of one size"
                )
            yield image


def _sign(flow: FlowStore, other: FlowStore) -> np.float32:
    """What makes the other flow point as the flow does, had everything a constant velocity."""
    return np.float32(1 if flow.direction == other.direction else -1)


def _twice(frames: Iterator[np.ndarray]) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    """The same frames for two readers that take turns.

    What only one has seen yet is held, and nothing else; `itertools.tee` would hold 57 frames and more.
    """
    held: tuple[deque[np.ndarray], deque[np.ndarray]] = deque(), deque()

    def reader(own: deque[np.ndarray]) -> Iterator[np.ndarray]:
        while True:
            if not own:
                frame = next(frames, None)
                if frame is None:
                    return
                for queue in held:
                    queue.append(frame)
                del frame
            yield own.popleft()

    return reader(held[0]), reader(held[1])


def _is_still(frames: Iterator[np.ndarray]) -> tuple[bool, Iterator[np.ndarray]]:
    """Whether there is one frame only, which a movie does not say of itself; and all frames."""
    head = list(itertools.islice(frames, 2))
    return len(head) == 1, itertools.chain(head, frames)


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch: tensors stacked, everything else in lists.

    A tensor that only some samples have (the mask, where some frames are not annotated) is left out.
    """
    batch: dict[str, Any] = {}
    for key in dict.fromkeys(key for sample in samples for key in sample):
        values = [sample.get(key) for sample in samples]
        if not any(isinstance(value, torch.Tensor) for value in values):
            batch[key] = values
        elif all(isinstance(value, torch.Tensor) for value in values):
            batch[key] = torch.stack(values)  # type: ignore[arg-type]
    return Batch(**batch)  # type: ignore[typeddict-item]
