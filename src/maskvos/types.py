"""What travels through maskvos: videos as they lie on disk, samples and batches as they reach the network.

One legend of axes for the whole code base: B batch, T time, Q queries, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from maskvos.errors import UserError

if TYPE_CHECKING:  # whoever scores masks with a list of videos needs no torch
    from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """One time step of a video on disk.

    Attributes:
        name: Name within the video, without suffix (``"00042"``); image, mask and flow are matched by it.
        image: The RGB image.
        mask: The ground truth, or None where the frame is not annotated.
        flow: Optical flow made beforehand by somebody else, or None.
    """

    name: str
    image: Path
    mask: Path | None = None
    flow: Path | None = None


@dataclass(frozen=True)
class MaskRule:
    """How the mask files of a dataset are to be understood.

    Attributes:
        above: A pixel is foreground where its value (palette index, grey level, or any colour channel) is above this:
            0 for object labels, 127 for grey saliency maps. Palettes of colours always hold labels.
        any_size: The dataset is published with masks of another size than their frames: they are resized to the
            frame (nearest pixel) instead of refused.
        background: Values that are background, where it is not simply 0; everything else is foreground and ``above``
            does not count. A colour counts as the number 65536 R + 256 G + B.
    """

    above: int = 0
    any_size: bool = False
    background: tuple[int, ...] = ()


@dataclass(frozen=True)
class Video:
    """A sequence: either a list of frames (a folder of images) or one movie file.

    Attributes:
        name: Name of the sequence, unique within its dataset.
        frames: The frames in order of time; empty for a movie file.
        file: The movie file, or None for a folder of images.
        dataset: Name of the dataset that it comes from.
        category: Class of the main object, for benchmarks that average over classes.
        masks: How its mask files are to be understood.

    Raises:
        UserError: It has neither frames nor file, or both, or two frames of one name.
    """

    name: str
    frames: tuple[Frame, ...] = ()
    file: Path | None = None
    dataset: str = ""
    category: str | None = None
    masks: MaskRule = MaskRule()

    def __post_init__(self) -> None:
        if (self.file is None) == (not self.frames):
            raise UserError(f"video '{self.name}': it must have frames or a movie file, and not both; check its folder")
        names = [frame.name for frame in self.frames]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError(
                f"video '{self.name}': two frames are called {twice[0]!r}; frames are matched by name, so keep one"
            )

    @property
    def annotated(self) -> tuple[Frame, ...]:
        """The frames that have a ground truth."""
        return tuple(frame for frame in self.frames if frame.mask is not None)


class Sample(TypedDict, total=False):
    """One frame as a dataset yields it; ``data.dataset.collate`` makes a `Batch` of several.

    ``rgb`` (3, H, W) float32 in [0, 1]; ``flow`` (2, H, W) float32, pixels of this map's own grid, x then y;
    ``mask`` (1, H, W) float32 {0, 1} (absent when there is no ground truth). H, W: the network's size. ``motion`` ()
    bool: False where the motion stream is to see the RGB frame instead of the flow (motion as option).
    ``second_flow``, where there is one, is like ``flow`` and made of other frames. At the frame's own size (H0, W0):
    ``truth`` bool or None, ``image`` (H0, W0, 3) uint8, ``size`` (H0, W0).
    ``video`` and ``frame``: names, which together are the sample's key.
    """

    rgb: Tensor
    flow: Tensor
    second_flow: Tensor
    mask: Tensor
    motion: Tensor
    video: str
    frame: str
    size: tuple[int, int]
    truth: np.ndarray | None
    image: np.ndarray


class Batch(TypedDict, total=False):
    """Several samples: tensors stacked, everything else in lists of length B.

    Attributes:
        rgb: (B, 3, H, W) float32 in [0, 1].
        flow: (B, 2, H, W) float32, pixels of the map's own grid, x then y.
        second_flow: The same, made of other frames, for a second look at the frame; outside of training only.
        mask: (B, 1, H, W) float32, 0 or 1.
        motion: (B,) bool, False where the motion stream is to see the RGB frame instead of the flow.
        video: Sequence names.
        frame: Frame names.
        size: Original sizes (H0, W0).
        truth: Ground truth at the original size, (H0, W0) bool, or None; validation and test only.
        image: Original frames, (H0, W0, 3) uint8; only where pictures are to be made.
    """

    rgb: Tensor
    flow: Tensor
    second_flow: Tensor
    mask: Tensor
    motion: Tensor
    video: list[str]
    frame: list[str]
    size: list[tuple[int, int]]
    truth: list[np.ndarray | None]
    image: list[np.ndarray]
