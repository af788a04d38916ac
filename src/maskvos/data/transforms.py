"""Joint augmentation of frame, optical flow and mask with albumentations.

A geometric transform of a flow field must also transform its vectors: a flip negates u, resizing scales both
components, a rotation rotates them, and a crop leaves them unchanged. The geometric transforms below extend those of
albumentations by the target ``flow``. Colour transforms of albumentations can be used directly, as they do not affect
flow; other geometric transforms are rejected.
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
from maskvos.flow.base import resize_flow
from maskvos.media.images import resize_image
from maskvos.settings.table import check_settings


class _FlowTarget:
    """Mixin that adds the target ``flow``, (H, W, 2) float32 in pixels, to an albumentations transform."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Transform the flow field and its vectors."""
        raise NotImplementedError

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """Targets of the albumentations transform, plus flow."""
        return {**super().targets, "flow": self.apply_to_flow}  # type: ignore[misc]


class HorizontalFlip(_FlowTarget, A.HorizontalFlip):
    """Flip left to right; negates u."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Flip the flow field and negate u."""
        flipped = np.ascontiguousarray(flow[:, ::-1])
        flipped[..., 0] *= -1
        return flipped


class Rotate(_FlowTarget, A.Rotate):
    """Rotate about the centre and rotate the vectors; borders are black, or cropped with ``crop_border``."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Rotate the flow field and its vectors."""
        rotated = self.apply(flow, **params)
        # The matrix maps points of the input to the output, so its linear part maps vectors.
        return cv2.transform(rotated, np.asarray(params["matrix"], dtype=np.float64)[:2, :2])


class RandomResizedCrop(_FlowTarget, A.RandomResizedCrop):
    """Crop a random region and resize it; vectors are scaled by the resize factors along x and y."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Crop and resize the flow field, and scale its vectors."""
        left, top, right, bottom = params["crop_coords"]
        return resize_flow(flow[top:bottom, left:right], tuple(self.size))


class _FlowOnly(A.BasicTransform):
    """Base class of transforms of flow only."""

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Transform the flow field."""
        raise NotImplementedError

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """Flow only."""
        return {"flow": self.apply_to_flow}


class TimeReversal(_FlowOnly):
    """Reverse time: approximate the flow to the previous frame by negating the flow to the next frame.

    Exact for constant velocity. The last frame of a video gets its flow by the same rule.
    """

    def apply_to_flow(self, flow: np.ndarray, **params: Any) -> np.ndarray:
        """Negate the vectors."""
        return -flow


class FlowNoise(_FlowOnly):
    """Add spatially smooth Gaussian noise, similar to the errors of flow estimators.

    Args:
        std: Maximum standard deviation in pixels; drawn uniformly from [0, std].
        grid: Spacing in pixels of the grid from which the noise is interpolated.
        p: Probability of applying the transform.
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
    """Set flow to zero in rectangles or everywhere, so that the network does not rely on motion alone.

    Args:
        holes: Maximum number of rectangles; drawn from [1, holes].
        size: Maximum side of a rectangle, as a fraction of the side of the field.
        whole: Probability of dropping the entire field instead.
        p: Probability of applying the transform.
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


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask by exact nearest-neighbour interpolation, so that it stays binary.

    Args:
        mask: (H, W) uint8.
        size: New height and width, pixels.
    """
    height, width = size
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


class Transform:
    """Augment, resize to the network's input size, and convert to tensors.

    Args:
        size: Input height and width of the network, pixels.
        augment: Albumentations transforms, applied in order at original resolution; None or empty: no augmentation.

    Raises:
        UserError: The size is not two positive numbers, or a geometric transform does not support flow.
    """

    def __init__(self, size: Sequence[int], augment: Sequence[A.BasicTransform] | None = None) -> None:
        check_settings(size, "data.size")
        self.size = (int(size[0]), int(size[1]))
        for step in _flatten(augment or ()):
            if not isinstance(step, A.ImageOnlyTransform) and "flow" not in step.targets:
                raise UserError(
                    f"augment: {type(step).__name__} is a geometric transform without support for flow; use one of "
                    "maskvos.data.transforms, or a colour transform"
                )
        # Frame, flow and mask have the same size already; the check would be slower than a flip.
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
            flow: (H', W', 2) float32, pixels of its own grid, x then y; precomputed flow may differ in size.
            mask: (H, W) uint8, 0 or 1, or None.
            seed: Seed of the augmentation, reproducible in any process; None: continue the random state.
            scale: Multiplies ``size``, see `scaled`.

        Returns:
            ``rgb`` (3, h, w) float32 in [0, 1], ``flow`` (2, h, w) float32 in pixels of that grid, and, if a mask was
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
        """Resize a flow map and convert it to a tensor, without augmentation.

        Args:
            flow: (H, W, 2) float32, pixels of its own grid, x then y.
            scale: Multiplies ``size``, see `scaled`.

        Returns:
            (2, h, w) float32, pixels of that grid.
        """
        return _to_tensor(resize_flow(flow, scaled(self.size, scale))).float()


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Multiply a size and round it to multiples of 32 pixels, the largest stride of the networks; 1 keeps the size."""
    if scale == 1:
        return size
    height, width = (max(1, round(side * scale / 32)) * 32 for side in size)
    return height, width


def _flatten(steps: Sequence[Any]) -> Iterator[A.BasicTransform]:
    """Yield all transforms, including those nested in ``OneOf`` and other compositions."""
    for step in steps:
        if isinstance(step, A.BaseCompose):
            yield from _flatten(step.transforms)
        else:
            yield step


def _to_tensor(array: np.ndarray) -> Tensor:
    """(H, W, C) array to (C, H, W) tensor, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
