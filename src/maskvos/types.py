"""Data types shared by all packages: videos on disk, samples, and batches for the network.

Axes in the whole code base: B batch, T time, Q queries, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from maskvos.errors import UserError

if TYPE_CHECKING:  # scoring masks needs videos, but no torch
    from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """One time step of a video on disk.

    Attributes:
        name: Name within the video, without suffix (``"00042"``); images, masks and flow are matched by it.
        image: The RGB image.
        mask: The ground truth, or None where the frame is not annotated.
        flow: Precomputed optical flow, or None.
    """

    name: str
    image: Path
    mask: Path | None = None
    flow: Path | None = None


@dataclass(frozen=True)
class MaskRule:
    """How to read the mask files of a dataset.

    Attributes:
        above: Threshold: a pixel is foreground where its value (palette index, grey level, or any colour channel) is
            greater. 0 for object labels, 127 for grey saliency maps. Palette images always hold labels.
        any_size: Resize masks to their frame (nearest neighbour) instead of refusing another size, for datasets that
            are published with masks of another resolution.
        background: Values of the background where it is not simply 0; all others are foreground and ``above`` is
            ignored. A colour counts as the number 65536 R + 256 G + B.
    """

    above: int = 0
    any_size: bool = False
    background: tuple[int, ...] = ()


@dataclass(frozen=True)
class Video:
    """A sequence: a list of frames (a folder of images), one movie file, or what came from a live source.

    Attributes:
        name: Name of the sequence, unique within its dataset.
        frames: The frames in temporal order; empty for a movie file.
        file: The movie file, or None for a folder of images.
        dataset: Name of the dataset that it comes from.
        category: Class of the main object, for benchmarks that average over classes.
        masks: How to read its mask files.
        live: Address of the live source; None for what lies on disk.

    Raises:
        UserError: It has neither frames nor file, or both, or two frames of one name.
    """

    name: str
    frames: tuple[Frame, ...] = ()
    file: Path | None = None
    dataset: str = ""
    category: str | None = None
    masks: MaskRule = MaskRule()
    live: str | None = None

    def __post_init__(self) -> None:
        if sum((bool(self.frames), self.file is not None, self.live is not None)) != 1:
            raise UserError(f"video '{self.name}': expected either frames or a movie file; check its folder")
        names = [frame.name for frame in self.frames]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError(
                f"video '{self.name}': two frames are named {twice[0]!r}; frames are matched by name, so keep one"
            )

    @property
    def annotated(self) -> tuple[Frame, ...]:
        """The frames with ground truth."""
        return tuple(frame for frame in self.frames if frame.mask is not None)


class Sample(TypedDict, total=False):
    """One frame, as a dataset yields it; ``data.dataset.collate`` stacks several into a `Batch`.

    H, W is the network's input size; H0, W0 the frame's own size.

    Attributes:
        rgb: (3, H, W) float32 in [0, 1].
        flow: (2, H, W) float32, pixels of this grid, x then y.
        tta_flow: Like ``flow``, from other frames, for test-time augmentation.
        mask: (1, H, W) float32, 0 or 1; absent without ground truth.
        motion: () bool; False where the motion encoder reads the RGB frame instead of flow (motion as option).
        video: Name of the sequence.
        frame: Name of the frame within it.
        size: (H0, W0).
        truth: (H0, W0) bool, or None.
        image: (H0, W0, 3) uint8 RGB.
    """

    rgb: Tensor
    flow: Tensor
    tta_flow: Tensor
    mask: Tensor
    motion: Tensor
    video: str
    frame: str
    size: tuple[int, int]
    truth: np.ndarray | None
    image: np.ndarray


class Batch(TypedDict, total=False):
    """Several samples: tensors stacked along a first axis B, everything else as lists of length B.

    Attributes:
        rgb: (B, 3, H, W) float32 in [0, 1].
        flow: (B, 2, H, W) float32, pixels of this grid, x then y.
        tta_flow: Like ``flow``, from other frames; validation and test only.
        mask: (B, 1, H, W) float32, 0 or 1.
        motion: (B,) bool; False where the motion encoder reads the RGB frame instead of flow.
        video: Sequence names.
        frame: Frame names.
        size: Original sizes (H0, W0).
        truth: Ground truth at the original size, (H0, W0) bool, or None; validation and test only.
        image: Original frames, (H0, W0, 3) uint8 RGB; validation and test only.
    """

    rgb: Tensor
    flow: Tensor
    tta_flow: Tensor
    mask: Tensor
    motion: Tensor
    video: list[str]
    frame: list[str]
    size: list[tuple[int, int]]
    truth: list[np.ndarray | None]
    image: list[np.ndarray]
