"""Generate procedural clips with exact masks and optical flow: unlimited training data, and tests without downloads.

A clip shows one to three moving objects in front of a textured background, seen by a moving camera. `Style` sets how
often it also has static distractors, occluders, parallax, objects that stop or leave the frame, motion blur, changing
light, sensor noise and compression.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskvos.errors import UserError
from maskvos.synthetic.effects import apply_camera_effects
from maskvos.synthetic.rendering import Renderer
from maskvos.synthetic.scene import Scene
from maskvos.synthetic.style import Style

_SHUTTER_SAMPLES = 5  # renderings averaged into a frame with motion blur


class Clip(NamedTuple):
    """A clip: rgb (T, H, W, 3) uint8; mask (T, H, W) uint8 0/1; flow (T, H, W, 2) float32, pixels, x then y.

    Forward flow t -> t+1; the last frame has the negated backward flow (zero if T = 1).
    """

    rgb: np.ndarray
    mask: np.ndarray
    flow: np.ndarray


def generate_clip(
    seed: int | tuple[int, ...], frames: int, size: tuple[int, int] = (224, 384), style: Style | None = None
) -> Clip:
    """Generate one clip, deterministically from its seed.

    Args:
        seed: Random seed.
        frames: Number of frames T.
        size: Height and width in pixels.
        style: Content of the clip; the default `Style` if None.

    Raises:
        UserError: Less than one frame, or a side under 16 pixels.
    """
    if frames < 1 or min(size) < 16:
        raise UserError(f"synthetic: {frames} frames of {size[0]}x{size[1]}; choose at least 1 frame of 16x16 pixels")
    style = style or Style()
    rng = np.random.default_rng(seed)
    height, width = size
    renderer = Renderer(Scene(rng, frames, (height, width), style).layers, (height, width))
    shutter = rng.uniform(0.2, 0.9) if rng.random() < style.motion_blur else 0.0
    rgb = np.empty((frames, height, width, 3), np.uint8)
    mask = np.empty((frames, height, width), np.uint8)
    flow = np.zeros((frames, height, width, 2), np.float32)
    for index in range(frames):
        last = index == frames - 1
        rgb[index], labels, flow[index] = renderer.frame(index, index - 1 if last else index + 1)
        mask[index] = renderer.mask(labels)
        if last:
            np.negative(flow[index], out=flow[index])
        if shutter:
            rgb[index] = _motion_blur(renderer, rgb[index], index, shutter)
    if frames == 1:
        flow[:] = 0
    return Clip(apply_camera_effects(rng, rgb, style), mask, flow)


def _motion_blur(renderer: Renderer, sharp: np.ndarray, time: int, shutter: float) -> np.ndarray:
    """Average renderings over the time that the shutter is open (a fraction of the frame interval)."""
    total = sharp.astype(np.uint16)
    half = _SHUTTER_SAMPLES // 2
    for step in range(-half, half + 1):
        if step:
            total += renderer.image(time + shutter * step / (2 * half))
    return ((total + half) // _SHUTTER_SAMPLES).astype(np.uint8)
