"""Joint augmentation of frame, optical flow and mask, by albumentations.

A flow field is not a picture: what moves its pixels also changes its vectors. Mirroring negates u, scaling scales both
components, rotation turns them, a crop leaves them alone. The geometric transforms below are albumentations' own with
a third target, ``flow``, that does so. Any other albumentations transform that changes colours only can be put in a
recipe as it is (it never sees the flow); one that moves pixels is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor

from maskvos.errors import UserError


class _FlowTarget:
    """Adds the target ``flow``, (H, W, 2) float32 in pixels, to an albumentations transform."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Transform the field and its vectors."""
        raise NotImplementedError

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """The targets of the albumentations transform, and the flow."""
        return {**super().targets, "flow": self.apply_to_flow}  # type: ignore[misc]


class HorizontalFlip(_FlowTarget, A.HorizontalFlip):
    """Mirror left and right; u changes its sign."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Mirror the field and negate u."""
        mirrored = np.ascontiguousarray(flow[:, ::-1])
        mirrored[..., 0] *= -1
        return mirrored


class Rotate(_FlowTarget, A.Rotate):
    """Rotate about the centre, black outside (or cropped to what is inside: ``crop_border``); vectors turn with it."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Rotate the field and its vectors."""
        rotated = self.apply(flow, **params)
        # The matrix maps points of the old frame to the new one, so its linear part is what it does to vectors.
        return cv2.transform(rotated, np.asarray(params["matrix"], dtype=np.float64)[:2, :2])


class RandomResizedCrop(_FlowTarget, A.RandomResizedCrop):
    """Cut a random part out and bring it to a size; vectors grow with the magnification, separately along x and y."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Crop and resize the field, and scale its vectors."""
        left, top, right, bottom = params["crop_coords"]
        return resize_flow(flow[top:bottom, left:right], tuple(self.size))


class _FlowOnly(A.BasicTransform):
    """A transform that the frame and the mask never see."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Change the field."""
        raise NotImplementedError

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """The flow alone."""
        return {"flow": self.apply_to_flow}


class TimeReversal(_FlowOnly):
    """Play the clip backwards: the flow becomes that to the frame before, which is taken as the negative of the other.

    That is exact for constant velocity, and is the rule by which the last frame of a video gets its flow.
    """

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Negate the vectors."""
        return -flow


class FlowNoise(_FlowOnly):
    """Add normal noise that is smooth over some pixels, as errors of flow estimators are.

    Args:
        std: Largest standard deviation, in pixels; drawn uniformly from 0 to it.
        grid: Distance, in pixels, over which the noise is interpolated.
        p: Probability.
    """

    def __init__(self, std: float = 1.0, grid: int = 16, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.std = std
        self.grid = grid

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Add the noise."""
        height, width = flow.shape[:2]
        coarse = (max(1, height // self.grid), max(1, width // self.grid), 2)
        noise = self.random_generator.standard_normal(coarse, dtype=np.float32)
        noise *= np.float32(self.py_random.uniform(0, self.std))
        return flow + cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


class FlowDropout(_FlowOnly):
    """Forget the motion, in rectangles or everywhere, so that the network does not rely on it alone.

    Args:
        holes: Largest number of rectangles; from one to so many are drawn.
        size: Largest side of a rectangle, as a share of the field's side.
        whole: Probability that the whole field is dropped instead.
        p: Probability.
    """

    def __init__(self, holes: int = 4, size: float = 0.3, whole: float = 0.1, p: float = 0.1) -> None:
        super().__init__(p=p)
        self.holes = holes
        self.size = size
        self.whole = whole

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Set vectors to zero."""
        if self.py_random.random() < self.whole:
            return np.zeros_like(flow)
        dropped = flow.copy()
        height, width = flow.shape[:2]
        for _ in range(self.py_random.randint(1, self.holes)):
            rows = max(1, round(height * self.py_random.uniform(0, self.size)))
            columns = max(1, round(width * self.py_random.uniform(0, self.size)))
            top, left = self.py_random.randint(0, height - rows), self.py_random.randint(0, width - columns)
            dropped[top : top + rows, left : left + columns] = 0
        return dropped


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture: averaging where it shrinks, so that fine texture does not alias, linear where it grows.

    Args:
        image: (H, W, C) uint8 or float32.
        size: New height and width, pixels.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a flow field, and scale its vectors to pixels of the new grid.

    Args:
        flow: (H, W, 2) float32, pixels of its own grid, x then y.
        size: New height and width, pixels.

    Returns:
        (height, width, 2) float32, pixels of the new grid.
    """
    height, width = flow.shape[:2]
    if (height, width) == tuple(size):
        return flow
    resized = cv2.resize(flow, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.multiply(resized, np.array([size[1] / width, size[0] / height], dtype=np.float32), out=resized)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask by the nearest pixel (its centre), so that it stays 0 or 1.

    Args:
        mask: (H, W) uint8.
        size: New height and width, pixels.
    """
    height, width = size
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


class Transform:
    """Augment, bring to the network's size, turn into tensors.

    Args:
        size: Height and width that the network sees, pixels.
        augment: Albumentations transforms, applied in this order at the frame's own size; None or empty: none.

    Raises:
        UserError: A size that is not two positive numbers, or a transform that moves pixels and would forget the flow.
    """

    def __init__(self, size: Sequence[int], augment: Sequence[A.BasicTransform] | None = None) -> None:
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"size {list(size)}: expected height and width in pixels, such as [512, 512]")
        self.size = (int(size[0]), int(size[1]))
        for step in _flatten(augment or ()):
            if not isinstance(step, A.ImageOnlyTransform) and "flow" not in step.targets:
                raise UserError(
                    f"augment: {type(step).__name__} moves pixels and does not know the flow's vectors; "
                    "use one of maskvos.data.transforms, or a transform of colours only"
                )
        # Frame, flow and mask come at one size already; the check would cost more than a mirror.
        self.augment = A.Compose(list(augment), is_check_shapes=False) if augment else None

    def __call__(
        self,
        rgb: np.ndarray,
        flow: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        seed: int | None = None,
        scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """Transform one sample.

        Args:
            rgb: (H, W, 3) uint8.
            flow: (H', W', 2) float32, pixels of its own grid, x then y; of another size where it was computed so.
            mask: (H, W) uint8, 0 or 1, or None.
            seed: The same seed makes the same random choices, in any process; None: go on from the last call.
            scale: The result is of so many times ``size``, see `scaled`.

        Returns:
            ``rgb`` (3, h, w) float32 in [0, 1], ``flow`` (2, h, w) float32 in pixels of that grid, and, when a mask was
            given, ``mask`` (1, h, w) float32.
        """
        if self.augment is not None:
            if flow.shape[:2] != rgb.shape[:2]:
                flow = resize_flow(flow, rgb.shape[:2])
            if seed is not None:
                self.augment.set_random_seed(seed)
            data = self.augment(image=rgb, flow=flow, mask=mask)
            rgb, flow, mask = data["image"], data["flow"], data["mask"]
        size = scaled(self.size, scale)
        out = {
            "rgb": _to_tensor(resize_image(rgb, size)).float().div_(255),
            "flow": self.of_flow(flow, scale),
        }
        if mask is not None:
            out["mask"] = torch.from_numpy(np.ascontiguousarray(resize_mask(mask, size)))[None].float()
        return out

    def of_flow(self, flow: np.ndarray, scale: float = 1.0) -> Tensor:
        """A flow map alone, without augmentation.

        Args:
            flow: (H, W, 2) float32, pixels of its own grid, x then y.
            scale: As for a sample.

        Returns:
            (2, h, w) float32, pixels of that grid.
        """
        return _to_tensor(resize_flow(flow, scaled(self.size, scale))).float()


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """A size times a factor, in multiples of 32 pixels, the coarsest stride of the networks; times 1 it stays."""
    if scale == 1:
        return size
    height, width = (max(1, round(side * scale / 32)) * 32 for side in size)
    return height, width


def _flatten(steps: Sequence[Any]) -> Iterator[A.BasicTransform]:
    """The single transforms of a recipe, those inside of ``OneOf`` and its like included."""
    for step in steps:
        if isinstance(step, A.BaseCompose):
            yield from _flatten(step.transforms)
        else:
            yield step


def _to_tensor(array: np.ndarray) -> Tensor:
    """(H, W, C) array to (C, H, W) tensor, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
