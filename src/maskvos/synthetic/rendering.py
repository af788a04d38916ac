"""Render layered scenes with exact masks and optical flow.

A scene is a list of layers from back to front. A layer is a fixed texture and a map from texture to image pixels at any
time t (frames, fractional): first a `Wave` that deforms it, then an affine matrix. Both have closed-form inverses, so
the flow of every pixel is computed exactly.

Coordinates are pixels, x to the right and y down; matrices are (3, 3) float64 on homogeneous column vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

Pose = Callable[[float], np.ndarray]  # time to a (3, 3) matrix
Clock = Callable[[float], float]  # time of the clip in frames to a scalar, as an object's own time


def translate(x: float, y: float) -> np.ndarray:
    """Translation matrix by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def rotate(angle: float) -> np.ndarray:
    """Rotation matrix by an angle in radians, from x towards y."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def scale(x: float, y: float) -> np.ndarray:
    """Scaling matrix by factors x and y."""
    return np.diag([x, y, 1.0])


@dataclass(frozen=True)
class Wave:
    """Deformation by two travelling sine shears: x is shifted by a sine of y, then y by a sine of x.

    Each shear keeps the coordinate that it depends on, so the inverse is exact: the same shears in reverse order.

    Attributes:
        amplitude: Maximum shift along x and y, pixels.
        frequency: Radians per pixel of the shift along x (over y) and along y (over x).
        speed: Radians per frame, of both.
        phase: Radians at time zero, of both.
        clock: Time of the clip to time of the wave.
    """

    amplitude: tuple[float, float]
    frequency: tuple[float, float]
    speed: tuple[float, float]
    phase: tuple[float, float]
    clock: Clock

    def _shift(self, axis: int, coordinate: np.ndarray, time: float) -> np.ndarray:
        angle = np.float32(self.frequency[axis]) * coordinate
        angle += np.float32(self.speed[axis] * self.clock(time) + self.phase[axis])
        return np.float32(self.amplitude[axis]) * np.sin(angle)

    def warp(self, x: np.ndarray, y: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Deformed positions of texture points; x and y (H, W) float32."""
        x = x + self._shift(0, y, time)
        return x, y + self._shift(1, x, time)

    def unwarp(self, x: np.ndarray, y: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Texture points of deformed positions, the inverse of `warp`; x and y (H, W) float32."""
        y = y - self._shift(1, x, time)
        return x - self._shift(0, y, time), y


@dataclass(frozen=True)
class Layer:
    """One layer of a scene.

    Attributes:
        texture: (h, w, 3) uint8 RGB that covers the frame (reflected at its borders), or (h, w, 4) uint8 RGBA with
            premultiplied alpha.
        pose: Time to the matrix from (deformed) texture pixels to image pixels.
        salient: Whether it belongs to a main object, and so to the mask.
        wave: Deformation, or None.
    """

    texture: np.ndarray
    pose: Pose
    salient: bool = False
    wave: Wave | None = None


def _apply(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f = (np.float32(value) for value in matrix[:2].ravel())
    return a * x + b * y + c, d * x + e * y + f


def _bounding_box(layer: Layer, matrix: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part (x0, y0, x1, y1) of the image that a layer may cover; None if it is out of view."""
    height, width = size
    if layer.texture.shape[2] == 3:
        return 0, 0, width, height
    reach_x, reach_y = layer.wave.amplitude if layer.wave else (0.0, 0.0)
    h, w = layer.texture.shape[:2]
    x = np.array([-reach_x, w + reach_x, -reach_x, w + reach_x])
    y = np.array([-reach_y, -reach_y, h + reach_y, h + reach_y])
    corners = matrix @ np.stack([x, y, np.ones(4)])
    x0, y0 = np.floor(corners[:2].min(axis=1)).astype(int) - 1
    x1, y1 = np.ceil(corners[:2].max(axis=1)).astype(int) + 2
    box = max(int(x0), 0), max(int(y0), 0), min(int(x1), width), min(int(y1), height)
    return box if box[0] < box[2] and box[1] < box[3] else None


class _Drawn(NamedTuple):
    """A rendered layer: its box, alpha (None: covers the frame), image-to-texture matrix and texture coordinates."""

    box: tuple[int, int, int, int]
    alpha: np.ndarray | None
    inverse: np.ndarray
    grid: tuple[np.ndarray, np.ndarray] | None


class Renderer:
    """Renders a scene.

    Args:
        layers: From back to front; the first must cover the frame.
        size: Height and width of the image.
    """

    def __init__(self, layers: list[Layer], size: tuple[int, int]) -> None:
        self.layers, self.size = layers, size
        height, width = size
        self._x, self._y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))

    def image(self, time: float) -> np.ndarray:
        """The image only, (H, W, 3) uint8 RGB."""
        rgb = np.zeros((*self.size, 3), np.uint8)
        for layer in self.layers:
            self._draw(layer, time, rgb)
        return rgb

    def frame(self, time: float, other: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The image with its layer labels and optical flow.

        Label and flow of a pixel are those of the topmost layer with an alpha of at least one half.

        Args:
            time: Time of the frame.
            other: Time that the flow points to.

        Returns:
            rgb (H, W, 3) uint8; labels (H, W) uint16, layer indices; flow (H, W, 2) float32, pixels, `time` -> `other`.
        """
        rgb = np.zeros((*self.size, 3), np.uint8)
        labels = np.zeros(self.size, np.uint16)
        flow = np.zeros((*self.size, 2), np.float32)
        for index, layer in enumerate(self.layers):
            drawn = self._draw(layer, time, rgb)
            if drawn is None:
                continue
            window = slice(drawn.box[1], drawn.box[3]), slice(drawn.box[0], drawn.box[2])
            solid = np.ones(labels[window].shape, bool) if drawn.alpha is None else drawn.alpha >= 128
            if solid.any():
                labels[window][solid] = index
                np.copyto(flow[window], self._flow(layer, window, drawn, other), where=solid[..., None])
        return rgb, labels, flow

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Mask of the main objects, (H, W) uint8 0/1, from labels (H, W)."""
        return np.array([layer.salient for layer in self.layers], np.uint8)[labels]

    def _draw(self, layer: Layer, time: float, rgb: np.ndarray) -> _Drawn | None:
        """Composite a layer onto `rgb` (H, W, 3) uint8, in place; None if it is out of view."""
        matrix = layer.pose(time)
        box = _bounding_box(layer, matrix, self.size)
        if box is None:
            return None
        x0, y0, x1, y1 = box
        inverse = np.linalg.inv(matrix)
        covers_all = layer.texture.shape[2] == 3
        border = cv2.BORDER_REFLECT_101 if covers_all else cv2.BORDER_CONSTANT
        grid = None
        if layer.wave is None:
            local = (inverse @ translate(x0, y0))[:2]
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            patch = cv2.warpAffine(layer.texture, local, (x1 - x0, y1 - y0), flags=flags, borderMode=border)
        else:
            window = slice(y0, y1), slice(x0, x1)
            grid = layer.wave.unwarp(*_apply(inverse, self._x[window], self._y[window]), time)
            patch = cv2.remap(layer.texture, *grid, cv2.INTER_LINEAR, borderMode=border)
        if covers_all:
            rgb[:] = patch
            return _Drawn(box, None, inverse, grid)
        colour, alpha = patch[..., :3], patch[..., 3]
        under = rgb[y0:y1, x0:x1]
        rest = 255 - alpha
        under[:] = cv2.add(cv2.multiply(under, cv2.merge([rest, rest, rest]), scale=1 / 255), colour)
        return _Drawn(box, alpha, inverse, grid)

    def _flow(self, layer: Layer, window: tuple[slice, slice], drawn: _Drawn, other: float) -> np.ndarray:
        x, y = self._x[window], self._y[window]
        pose = layer.pose(other)
        if layer.wave is None or drawn.grid is None:
            return np.stack(_apply(pose @ drawn.inverse - np.eye(3), x, y), axis=-1)
        target_x, target_y = _apply(pose, *layer.wave.warp(*drawn.grid, other))
        return np.stack([target_x - x, target_y - y], axis=-1)
