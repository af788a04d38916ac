"""Layered scenes: what is in a procedural clip, how it moves, and how it is drawn with exact mask and flow.

A scene is a list of layers from back to front. A layer is a still texture and a map from its own pixels to the
image's at any time t (frames; fractions are meant): first a `Wave` that bends it, then an affine matrix. Both have
closed inverses, so that the displacement of every pixel is known exactly and no flow is estimated.

Coordinates are pixels, x to the right and y down; matrices are (3, 3) float64 on homogeneous column vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

Pose = Callable[[float], np.ndarray]
Clock = Callable[[float], float]


def translate(x: float, y: float) -> np.ndarray:
    """The matrix that moves by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def rotate(angle: float) -> np.ndarray:
    """The matrix that turns by an angle in radians, from x towards y."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def scale(x: float, y: float) -> np.ndarray:
    """The matrix that stretches by x and y."""
    return np.diag([x, y, 1.0])


@dataclass(frozen=True)
class Wave:
    """Two shears that run as waves: rows are pushed sideways by a sine of y, then columns up and down by a sine of x.

    Each shear leaves the coordinate that steers it as it is, so the pair is undone exactly by doing it backwards.

    Attributes:
        amplitude: Largest push along x and y, pixels.
        frequency: Radians per pixel along y (for the push along x) and along x.
        speed: Radians per frame of both.
        phase: Radians at time zero of both.
        clock: Time of the frame to time of the wave.
    """

    amplitude: tuple[float, float]
    frequency: tuple[float, float]
    speed: tuple[float, float]
    phase: tuple[float, float]
    clock: Clock

    def _push(self, axis: int, steering: np.ndarray, time: float) -> np.ndarray:
        angle = np.float32(self.frequency[axis]) * steering
        angle += np.float32(self.speed[axis] * self.clock(time) + self.phase[axis])
        return np.float32(self.amplitude[axis]) * np.sin(angle)

    def bend(self, x: np.ndarray, y: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Where texture points go, (H, W) float32 each."""
        x = x + self._push(0, y, time)
        return x, y + self._push(1, x, time)

    def unbend(self, x: np.ndarray, y: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Where bent points come from, (H, W) float32 each."""
        y = y - self._push(1, x, time)
        return x - self._push(0, y, time), y


@dataclass(frozen=True)
class Layer:
    """One sheet of a scene.

    Attributes:
        texture: (h, w, 3) uint8 RGB that covers everything (mirrored at its borders), or (h, w, 4) uint8 RGBA with
            the colour multiplied by alpha.
        pose: Time to the matrix from (bent) texture pixels to image pixels.
        salient: Whether it belongs to a main object, and thus to the mask.
        wave: How it bends, or None.
    """

    texture: np.ndarray
    pose: Pose
    salient: bool = False
    wave: Wave | None = None


def _apply(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f = (np.float32(value) for value in matrix[:2].ravel())
    return a * x + b * y + c, d * x + e * y + f


def _extent(layer: Layer, matrix: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The box (x0, y0, x1, y1) of the image that a layer may touch; None when it is out of sight."""
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
    """A layer as it was drawn: where, its alpha there (None: it covers all), image to texture, texture coordinates."""

    box: tuple[int, int, int, int]
    alpha: np.ndarray | None
    inverse: np.ndarray
    grid: tuple[np.ndarray, np.ndarray] | None


class Renderer:
    """Draws a scene.

    Args:
        layers: From back to front; the first one must cover everything.
        size: Height and width of the image.
    """

    def __init__(self, layers: list[Layer], size: tuple[int, int]) -> None:
        self.layers, self.size = layers, size
        height, width = size
        self._x, self._y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))

    def image(self, time: float) -> np.ndarray:
        """The picture alone, (H, W, 3) uint8 RGB."""
        rgb = np.zeros((*self.size, 3), np.uint8)
        for layer in self.layers:
            self._draw(layer, time, rgb)
        return rgb

    def frame(self, time: float, other: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The picture with its truth.

        A pixel belongs to the topmost layer that covers at least half of it: label and flow are that layer's.

        Args:
            time: When.
            other: The time at which the flow ends.

        Returns:
            rgb (H, W, 3) uint8; labels (H, W) uint16, index of the layer; flow (H, W, 2) float32, pixels from `time`
            to `other`.
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
        """What belongs to the main objects: labels (H, W) to (H, W) uint8 0/1."""
        return np.array([layer.salient for layer in self.layers], np.uint8)[labels]

    def _draw(self, layer: Layer, time: float, rgb: np.ndarray) -> _Drawn | None:
        """Put a layer onto `rgb` (H, W, 3) uint8, in place; None when it is out of sight."""
        matrix = layer.pose(time)
        box = _extent(layer, matrix, self.size)
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
            grid = layer.wave.unbend(*_apply(inverse, self._x[window], self._y[window]), time)
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
        target_x, target_y = _apply(pose, *layer.wave.bend(*drawn.grid, other))
        return np.stack([target_x - x, target_y - y], axis=-1)
