"""Procedural clips with exact masks and exact flow: training data without limit, and tests without downloads.

A clip shows one to three main objects of their own motion before a textured world that a camera looks at. What else
real videos do is thrown in by chance (`Style`): things that only move with the camera, occluders, parallax, objects
that stop or leave, motion blur, light that changes, sensor noise and compression.
"""

from __future__ import annotations

import fractions
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from maskvos.errors import UserError, nearest
from maskvos.flow.codec import write_flow
from maskvos.synthetic.scenes import Clock, Layer, Pose, Renderer, Wave, rotate, scale, translate
from maskvos.synthetic.shapes import FLOATING, SHAPES, Shape, Sprite, build, coverage
from maskvos.synthetic.textures import BACKGROUNDS, SURFACES, noise, random_texture
from maskvos.types import Frame, Video

log = logging.getLogger(__name__)

# Goes up whenever the same seed gives other clips, so that clips on disk are not taken for new ones.
VERSION = 2
SPLITS = ("train", "val", "test")
_STEPS = 4  # samples of every motion per frame
_SHUTTER = 5  # pictures that are averaged into one with motion blur


class Clip(NamedTuple):
    """A clip: rgb (T, H, W, 3) uint8; mask (T, H, W) uint8 0/1; flow (T, H, W, 2) float32, pixels, x then y.

    The flow goes from each frame to the next; the last one is the negated flow to the frame before (zero if T = 1).
    """

    rgb: np.ndarray
    mask: np.ndarray
    flow: np.ndarray


@dataclass(frozen=True)
class Style:
    """How likely, and how strong, everything is. Probabilities are per clip unless said otherwise.

    Raises:
        UserError: A value is out of range.

    Attributes:
        objects: Most main objects.
        area: Least and greatest area of the first main object, as a share of the frame.
        speed: Least and greatest speed of an object in frame widths per frame.
        distractors: Most things that stand still in the world.
        follow: The camera follows the object.
        still: The camera stands on a tripod.
        shake: It is held in a hand.
        parallax: There are nearer and farther sheets.
        occluders: Something stands in front.
        deform: A body bends in waves (per object that has one part).
        stop: An object stops, or starts late (per object).
        leave: An object leaves the frame (per object).
        camouflage: Objects are cut from the background's own kind of texture.
        shadow: Objects cast shadows.
        ripple: The background itself moves like water.
        motion_blur: The shutter stays open for a part of the frame's time.
        light: The light changes.
        soft: The lens is not sharp.
        noise: The sensor is noisy.
        jpeg: Each frame went through JPEG.
        h264: The clip went through H.264.
    """

    objects: int = 3
    area: tuple[float, float] = (0.03, 0.3)
    speed: tuple[float, float] = (0.004, 0.03)
    distractors: int = 4
    follow: float = 0.45
    still: float = 0.15
    shake: float = 0.5
    parallax: float = 0.35
    occluders: float = 0.3
    deform: float = 0.6
    stop: float = 0.2
    leave: float = 0.08
    camouflage: float = 0.15
    shadow: float = 0.3
    ripple: float = 0.1
    motion_blur: float = 0.25
    light: float = 0.3
    soft: float = 0.3
    noise: float = 0.5
    jpeg: float = 0.4
    h264: float = 0.25

    def __post_init__(self) -> None:
        for name in ("area", "speed"):
            least, most = getattr(self, name)
            if not 0 < least <= most < 1:
                raise UserError(f"synthetic: {name}={least, most}; give the least and the greatest, between 0 and 1")
        if self.objects < 1 or self.distractors < 0:
            raise UserError(
                f"synthetic: objects={self.objects}, distractors={self.distractors}; take at least one object"
            )
        counted = ("area", "speed", "objects", "distractors")
        for field in fields(self):
            if field.name not in counted and not 0 <= getattr(self, field.name) <= 1:
                raise UserError(f"synthetic: {field.name}={getattr(self, field.name)}; a probability is from 0 to 1")

    @classmethod
    def of(cls, settings: Mapping[str, object] | None) -> Style:
        """The default style with some settings changed.

        Raises:
            UserError: A setting does not exist.
        """
        names = [field.name for field in fields(cls)]
        for name in settings or {}:
            if name not in names:
                raise UserError(f"synthetic: unknown style setting '{name}'; {nearest(name, names)}")
        changed = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in (settings or {}).items()}
        return replace(cls(), **changed)  # type: ignore[arg-type]

    @classmethod
    def plain(cls) -> Style:
        """Nothing that changes colours between frames: what moves keeps its brightness, as a warp test needs."""
        return cls(shadow=0, motion_blur=0, light=0, soft=0, noise=0, jpeg=0, h264=0)


def generate_clip(
    seed: int | tuple[int, ...], frames: int, size: tuple[int, int] = (224, 384), style: Style | None = None
) -> Clip:
    """Make one clip.

    Args:
        seed: The same numbers give the same clip.
        frames: Number of frames T.
        size: Height and width in pixels.
        style: What may happen in it.

    Returns:
        The clip.

    Raises:
        UserError: No frames, or a frame of less than 16 pixels a side.
    """
    if frames < 1 or min(size) < 16:
        raise UserError(f"synthetic: {frames} frames of {size[0]}x{size[1]}; take at least 1 frame of 16x16 pixels")
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
            rgb[index] = _open_shutter(renderer, rgb[index], index, shutter)
    if frames == 1:
        flow[:] = 0
    return Clip(_camera_effects(rng, rgb, style), mask, flow)


def _open_shutter(renderer: Renderer, sharp: np.ndarray, time: int, shutter: float) -> np.ndarray:
    total = sharp.astype(np.uint16)
    half = _SHUTTER // 2
    for step in range(-half, half + 1):
        if step:
            total += renderer.image(time + shutter * step / (2 * half))
    return ((total + half) // _SHUTTER).astype(np.uint8)


class _Curves:
    """Draws smooth random functions of time; time runs from -1 to the number of frames."""

    def __init__(self, rng: np.random.Generator, frames: int) -> None:
        self.rng = rng
        self.times = np.linspace(-1, frames, (frames + 1) * _STEPS + 1)

    def wander(self, period: float, strength: float) -> np.ndarray:
        """A sum of three sines around zero of about this period (frames) and standard deviation."""
        values = np.zeros_like(self.times)
        for _ in range(3):
            speed = 2 * np.pi / (period * self.rng.uniform(0.6, 1.8))
            values += np.sin(speed * self.times + self.rng.uniform(0, 2 * np.pi))
        return values * strength * np.sqrt(2 / 3)

    def reader(self, values: np.ndarray) -> Clock:
        """The function that goes through these samples."""
        return lambda time: float(np.interp(time, self.times, values))

    def gate(self, chance: float) -> np.ndarray:
        """One while a thing moves, zero while it rests; it rests with this chance, at the start, amid or at the end."""
        gate = np.ones_like(self.times)
        if self.rng.random() < chance:
            length = self.times[-1] - self.times[0]
            middle = self.rng.uniform(self.times[0], self.times[-1])
            away = np.abs(self.times - middle) - length * self.rng.uniform(0.1, 0.3)
            gate = np.clip(away / 2, 0, 1)
        return gate


class Scene:
    """Chooses what a clip shows; `layers` is the result, from back to front."""

    def __init__(self, rng: np.random.Generator, frames: int, size: tuple[int, int], style: Style) -> None:
        self.rng, self.size, self.style = rng, size, style
        self.height, self.width = size
        self.curves = _Curves(rng, frames)
        self.backdrop = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
        self.deep = rng.random() < style.parallax
        self._move_things()
        self.layers = [self._background()]
        if self.deep and rng.random() < 0.6:
            self.layers.append(self._hedge(rng.uniform(1.05, 1.3), rng.uniform(0.45, 0.75)))
        objects = [self._object(index) for index in range(len(self.paths))]
        distractors = [self._distractor() for _ in range(int(rng.integers(0, style.distractors + 1)))]
        things = objects + distractors
        for index in rng.permutation(len(things)):
            self.layers.extend(things[index])
        if rng.random() < style.occluders:
            for _ in range(int(rng.integers(1, 4))):
                self.layers.append(self._occluder())
        if self.deep and rng.random() < 0.3:
            self.layers.append(self._hedge(rng.uniform(1.3, 2.0), rng.uniform(0.75, 0.95)))

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    # ---------------------------------------------------------------- motion

    def _move_things(self) -> None:
        """Choose the camera's path and the objects' paths, in world pixels; the frame's centre starts at the origin."""
        rng, curves, style = self.rng, self.curves, self.style
        still, follow = self._chance(style.still), self._chance(style.follow)
        pan = np.zeros((len(curves.times), 2))
        if not still and not follow:
            pan = self._drift(rng.uniform(0, 0.012) * self.width, 0.3)
        count = 1 + int(rng.integers(0, style.objects)) if self._chance(0.4) else 1
        self.paths, self.clocks = [], []
        for index in range(max(min(count, style.objects), 1)):
            gate = curves.gate(style.stop)
            self.paths.append(self._path(pan, gate, roams=follow and index == 0))
            clock = np.cumsum(gate) / _STEPS
            self.clocks.append(curves.reader(clock))
        if follow and not still:
            pan = self._chase(self.paths[0])
        shake = np.zeros((len(curves.times), 2))
        if not still and self._chance(style.shake):
            strength = self.width * rng.uniform(0.001, 0.008)
            shake = np.stack([curves.wander(rng.uniform(4, 12), strength) for _ in range(2)], axis=1)
        lively = 0.0 if still else 1.0
        self.pan = [curves.reader(pan[:, axis]) for axis in (0, 1)]
        self.shake = [curves.reader(shake[:, axis]) for axis in (0, 1)]
        zoom = lively * self._chance(0.4) * rng.uniform(0.02, 0.12)
        turn = lively * self._chance(0.4) * rng.uniform(0.01, 0.08)
        self.zoom = curves.reader(np.exp(curves.wander(40, zoom)))
        self.turn = curves.reader(curves.wander(30, turn))

    def _drift(self, speed: float, upright: float) -> np.ndarray:
        """A walk of about constant speed (pixels per frame) whose heading changes slowly, (N, 2)."""
        heading = self.rng.uniform(0, 2 * np.pi) + self.curves.wander(40, 0.7)
        velocity = np.stack([np.cos(heading), upright * np.sin(heading)], axis=1) * speed / _STEPS
        return np.cumsum(velocity, axis=0) - velocity[0]

    def _path(self, pan: np.ndarray, gate: np.ndarray, roams: bool) -> np.ndarray:
        """Where an object is, (N, 2) world pixels.

        It is steered back when it gets out of the middle of the picture, unless it leaves or the camera follows it.
        """
        rng = self.rng
        speed = self.width * np.exp(rng.uniform(*np.log(self.style.speed))) / _STEPS
        room = np.array([self.width, self.height]) * 0.3
        free = roams or self._chance(self.style.leave)
        heading = rng.uniform(0, 2 * np.pi)
        upright = rng.choice([0.3, 1.0])
        bends = self.curves.wander(25, 0.05 / _STEPS)
        position = rng.uniform(-0.8, 0.8, 2) * room
        path = np.empty((len(gate), 2))
        for step, (go, bend) in enumerate(zip(gate, bends, strict=True)):
            path[step] = position
            offset = position - pan[step]
            if not free and (np.abs(offset) > room).any():
                home = np.arctan2(-offset[1], -offset[0])
                bend = bend + np.sin(home - heading) * 0.5 / _STEPS
            heading += bend * max(go, 0.0)
            position = position + speed * go * np.array([np.cos(heading), upright * np.sin(heading)])
        return path

    def _chase(self, path: np.ndarray) -> np.ndarray:
        """The camera's path when it keeps an object in view, with some delay and swaying."""
        lag = np.exp(-1 / (_STEPS * self.rng.uniform(2, 12)))
        pan = np.empty_like(path)
        eye = path[0] * self.rng.uniform(0, 0.6)
        # It starts at the object's own speed, as a camera does that has been following for a while.
        slack = eye - path[0]
        velocity = path[1] - path[0]
        for step, target in enumerate(path):
            if step:
                goal = target + slack
                velocity = lag * velocity + (1 - lag) * (goal - pan[step - 1]) * 0.5
                eye = pan[step - 1] + velocity
            pan[step] = eye
        return pan

    def _camera(self, time: float, nearness: float = 1.0) -> np.ndarray:
        """World pixels to image pixels; what is nearer than the background moves more when the camera pans."""
        zoom = self.zoom(time) ** nearness
        eye = translate(self.width / 2 + self.shake[0](time), self.height / 2 + self.shake[1](time))
        look = translate(-self.pan[0](time) * nearness, -self.pan[1](time) * nearness)
        return eye @ rotate(self.turn(time)) @ scale(zoom, zoom) @ look

    def _standing(self, place: np.ndarray, nearness: float = 1.0) -> Pose:
        """The pose of what stands still in the world; `place` maps its pixels to the world's."""
        return lambda time: self._camera(time, nearness) @ place

    # ---------------------------------------------------------------- layers

    def _background(self) -> Layer:
        rng = self.rng
        high, wide = int(self.height * 1.5), int(self.width * 1.5)
        texture = random_texture(rng, high, wide, (self.backdrop,))
        if self._chance(0.25):
            texture = cv2.GaussianBlur(texture, (0, 0), self.width * rng.uniform(0.002, 0.015))
        wave = None
        if self._chance(self.style.ripple):
            strength = self.width * rng.uniform(0.002, 0.01)
            wave = self._wave((high, wide), strength, lambda time: time, waves=rng.uniform(2, 12))
        return Layer(np.ascontiguousarray(texture), self._standing(translate(-wide / 2, -high / 2)), wave=wave)

    def _wave(self, extent: tuple[int, int], amplitude: float, clock: Clock, waves: float) -> Wave:
        rng = self.rng
        frequency = (2 * np.pi * waves / extent[0], 2 * np.pi * waves / extent[1])
        # A shear steeper than this folds thin parts over one another in a way that no body does.
        amplitude = min(amplitude, 0.6 / max(frequency))
        strength = amplitude * rng.uniform(0.3, 1, 2)
        speed, phase = rng.uniform(0.08, 0.4, 2), rng.uniform(0, 2 * np.pi, 2)
        return Wave(tuple(strength), frequency, tuple(speed), tuple(phase), clock)

    def _thing(self, area: float) -> tuple[list[Sprite], bool]:
        """A thing of so many pixels, and whether it may be turned round."""
        rng = self.rng
        shape: Shape = SHAPES[int(rng.integers(len(SHAPES)))]
        parts = shape(rng)
        unit = float(np.sqrt(area / coverage(parts, 0.0)))
        kinds = (self.backdrop,) if self._chance(self.style.camouflage) else SURFACES
        return build(rng, parts, unit, kinds), shape in FLOATING

    def _object(self, index: int) -> list[Layer]:
        rng, style = self.rng, self.style
        share = np.exp(rng.uniform(*np.log(style.area))) * (1.0 if index == 0 else rng.uniform(0.3, 1.0))
        sprites, floating = self._thing(share * self.height * self.width)
        path, clock = self.paths[index], self.clocks[index]
        along = [self.curves.reader(path[:, axis]) for axis in (0, 1)]
        facing = -1.0 if path[-1, 0] < path[0, 0] else 1.0
        lean = self.curves.reader(self.curves.wander(20, 0.3 if floating else 0.06))
        start, spin = (rng.uniform(0, 6), rng.normal(0, 0.04)) if floating else (0.0, 0.0)
        swell = self.curves.reader(np.exp(self.curves.wander(30, rng.uniform(0, 0.12))))
        breath = self.curves.reader(np.exp(self.curves.wander(15, rng.uniform(0, 0.05))))

        def body(time: float) -> np.ndarray:
            own = clock(time)
            size, wide = swell(own), breath(own)
            turn = rotate(start + spin * own + lean(own))
            place = translate(along[0](time), along[1](time))
            return self._camera(time) @ place @ turn @ scale(facing * size * wide, size / wide)

        layers = []
        if self._chance(style.shadow):
            layers.append(self._shadow(body, share))
        return layers + [self._sprite(sprite, body, clock, len(sprites) == 1) for sprite in sprites]

    def _sprite(self, sprite: Sprite, body: Pose, clock: Clock, alone: bool) -> Layer:
        wave = None
        if alone and self._chance(self.style.deform):
            extent = sprite.texture.shape[:2]
            wave = self._wave(extent, max(extent) * self.rng.uniform(0.02, 0.1), clock, self.rng.uniform(0.5, 2))
        pose = sprite.pose
        return Layer(sprite.texture, lambda time: body(time) @ pose(clock(time)), salient=True, wave=wave)

    def _shadow(self, body: Pose, share: float) -> Layer:
        """A dark blot below an object; it dims by less than half, so that it is no part of the mask."""
        reach = max(int(np.sqrt(share * self.height * self.width)), 6)
        alpha: np.ndarray = np.zeros((reach, 2 * reach), np.uint8)
        cv2.ellipse(alpha, (reach, reach // 2), (int(reach * 0.7), int(reach * 0.25)), 0, 0, 360, 110, -1)
        alpha = cv2.GaussianBlur(alpha, (0, 0), max(reach * 0.08, 0.5))
        texture = np.dstack([np.zeros((*alpha.shape, 3), np.uint8), alpha])

        def pose(time: float) -> np.ndarray:
            x, y = body(time)[:2, 2]
            return translate(x - reach, y + reach * 0.2)

        return Layer(texture, pose)

    def _distractor(self) -> list[Layer]:
        """A thing like the objects, which nevertheless only stands there."""
        rng = self.rng
        share = np.exp(rng.uniform(*np.log(self.style.area))) * rng.uniform(0.2, 1.0)
        sprites, floating = self._thing(share * self.height * self.width)
        x, y = rng.uniform(-0.7, 0.7) * self.width, rng.uniform(-0.4, 0.4) * self.height
        turn = rotate(rng.uniform(0, 6) if floating else rng.normal(0, 0.05))
        place = translate(x, y) @ turn @ scale(rng.choice([-1.0, 1.0]), 1.0)
        nearness = rng.uniform(1.0, 1.25) if self.deep else 1.0
        moment = rng.uniform(0, 30)
        return [Layer(s.texture, self._standing(place @ s.pose(moment), nearness)) for s in sprites]

    def _hedge(self, nearness: float, top: float) -> Layer:
        """A sheet with a ragged upper edge that spans the picture from a height (share of the frame) downwards."""
        rng = self.rng
        high, wide = int(self.height * 1.2), int(self.width * 3)
        texture = random_texture(rng, high, wide)
        edge = noise(rng, 2, wide, self.width * rng.uniform(0.05, 0.4), 4)[0] * self.height * rng.uniform(0.03, 0.2)
        rows = np.arange(high, dtype=np.float32)[:, None]
        alpha = (np.clip(rows - edge[None], 0, 1) * 255).astype(np.uint8)
        place = translate(-wide / 2, (top - 0.5) * self.height)
        return Layer(_premultiply(texture, alpha), self._standing(place, nearness))

    def _occluder(self) -> Layer:
        """A pole, a bar, or a lump near the border of the picture, in front of everything."""
        rng = self.rng
        if self._chance(0.6):
            high, wide = int(self.height * 2.5), max(int(self.width * rng.uniform(0.015, 0.07)), 3)
            alpha: np.ndarray = np.full((high, wide), 255, np.uint8)
            turn = rng.choice([0.0, 0.0, np.pi / 2]) + rng.normal(0, 0.15)
            centre = rng.uniform(-0.45, 0.45, 2)
        else:
            high = wide = max(int(self.height * rng.uniform(0.2, 0.5)), 8)
            field = noise(rng, high, wide, high * 0.4, 4)
            y, x = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : wide * 1j]
            alpha = (np.clip((field + 0.4 - np.hypot(x, y)) * high / 4, 0, 1) * 255).astype(np.uint8)
            turn, angle = 0.0, rng.uniform(0, 2 * np.pi)
            centre = 0.45 * np.array([np.cos(angle), np.sin(angle)])
        texture = _premultiply(random_texture(rng, high, wide), alpha)
        place = translate(centre[0] * self.width, centre[1] * self.height) @ rotate(turn)
        nearness = rng.uniform(1.1, 1.8) if self.deep else 1.0
        return Layer(texture, self._standing(place @ translate(-wide / 2, -high / 2), nearness))


def _premultiply(texture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([cv2.multiply(texture, cv2.merge([alpha, alpha, alpha]), scale=1 / 255), alpha])


# -------------------------------------------------------------------- effects of camera and storage


def _camera_effects(rng: np.random.Generator, rgb: np.ndarray, style: Style) -> np.ndarray:
    """What lens, light, sensor and file do to a clip, in that order; changes `rgb` (T, H, W, 3) uint8 in place."""
    curves = _Curves(rng, len(rgb))
    sigma = rng.uniform(0.4, 1.2) if rng.random() < style.soft else 0.0
    lit = _light(rng, curves, rgb.shape[1:3]) if rng.random() < style.light else None
    grain = _grain(rng, rgb.shape[1:3]) if rng.random() < style.noise else None
    quality = int(rng.integers(25, 90)) if rng.random() < style.jpeg else 0
    crf = int(rng.integers(20, 38)) if rng.random() < style.h264 else 0
    height, width = rgb.shape[1:3]
    for index, frame in enumerate(rgb):
        if sigma:
            cv2.GaussianBlur(frame, (0, 0), sigma, dst=frame)
        if lit is not None:
            gain, tilt, map_light = lit
            cv2.multiply(frame, gain(index) + tilt(index) * map_light, dst=frame, dtype=cv2.CV_8U)
        if grain is not None:
            top, left = int(rng.integers(0, 64)), int(rng.integers(0, 64))
            cv2.add(frame, grain[top : top + height, left : left + width], dst=frame, dtype=cv2.CV_8U)
        if quality:
            code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            frame[:] = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return _through_h264(rgb, crf) if crf else rgb


def _light(rng: np.random.Generator, curves: _Curves, size: tuple[int, int]) -> tuple[Clock, Clock, np.ndarray]:
    """Gain over time, strength of a gradient over time, and the gradient (H, W, 3) float32, slightly coloured."""
    gain = curves.reader(1 + curves.wander(rng.uniform(6, 40), rng.uniform(0.02, 0.15)))
    tilt = curves.reader(curves.wander(rng.uniform(10, 40), rng.uniform(0.02, 0.2)))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    ramp = (np.cos(angle) * x + np.sin(angle) * y)[..., None] * rng.uniform(0.8, 1.2, 3)
    return gain, tilt, ramp.astype(np.float32)


def _grain(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """One sheet of sensor noise, larger than the frame, of which every frame takes another piece; int16."""
    shape = (size[0] + 64, size[1] + 64, 3)
    sheet = rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.uniform(1.5, 10))
    if rng.random() < 0.4:
        sheet = cv2.GaussianBlur(sheet, (0, 0), 0.7) * 1.8
    if rng.random() < 0.3:
        sheet = np.repeat(sheet[..., :1], 3, axis=2)
    return np.round(sheet).astype(np.int16)


def _through_h264(rgb: np.ndarray, crf: int) -> np.ndarray:
    """Encode and decode; odd sizes are padded for it. One thread, so that the result is the same everywhere."""
    height, width = rgb.shape[1:3]
    padded = np.pad(rgb, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as sink:
        stream = sink.add_stream("libx264", rate=fractions.Fraction(25))
        stream.height, stream.width = padded.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "ultrafast", "threads": "1"}
        for image in padded:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        sink.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as source:
        for index, picture in enumerate(source.decode(video=0)):
            rgb[index] = picture.to_ndarray(format="rgb24")[:height, :width]
    return rgb


# -------------------------------------------------------------------- clips on disk


def synthetic(
    root: str | Path,
    clips: int = 40,
    frames: int = 16,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    split: str = "train",
    style: Mapping[str, object] | None = None,
    image_format: str = "jpg",
) -> list[Video]:
    """Write procedural clips to disk, once, and return them as videos.

    They lie under ``<root>/<split>-<settings' digest>/`` in DAVIS's layout: ``JPEGImages/<clip>/00000.jpg``,
    ``Annotations/<clip>/00000.png`` (0 or 255), ``Flow/<clip>/00000.flo`` (exact flow to the next frame), and
    ``settings.json``. The folder appears whole or not at all; the same settings find it again, others get their own.

    Args:
        root: Folder to write to; made when it is not there.
        clips: Number of clips.
        frames: Frames per clip.
        size: Height and width in pixels.
        seed: Clips of different seeds differ.
        split: ``train``, ``val`` or ``test``; clips of different splits differ at the same seed too.
        style: Changes to the default `Style`, by name.
        image_format: ``jpg`` (quality 95) or ``png`` (lossless).

    Returns:
        The clips, named ``<split>-00000`` and so on, with mask and flow for every frame.

    Raises:
        UserError: A setting is out of range, or the folder cannot be written.
    """
    if split not in SPLITS:
        raise UserError(f"synthetic: unknown split '{split}'; {nearest(split, SPLITS)}")
    if image_format not in ("jpg", "png"):
        raise UserError(f"synthetic: image_format '{image_format}'; take 'jpg' or 'png'")
    if clips < 1 or seed < 0:
        raise UserError(f"synthetic: clips={clips}, seed={seed}; take at least one clip and no negative seed")
    chosen = Style.of(style)
    height, width = size
    settings = {
        "version": VERSION,
        "split": split,
        "clips": int(clips),
        "frames": int(frames),
        "size": [int(height), int(width)],
        "seed": int(seed),
        "image_format": image_format,
        "style": asdict(chosen),
    }
    text = json.dumps(settings, indent=2, sort_keys=True)
    folder = Path(root) / f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    if not (folder / "settings.json").is_file():
        _write_clips(folder, text, settings, chosen)
    return [_video(folder, f"{split}-{index:05d}", int(frames), image_format) for index in range(clips)]


def clip_seed(seed: int, split: str, index: int) -> tuple[int, ...]:
    """The seed of one clip of a split, for `generate_clip`: no two splits, seeds or clips share one."""
    return (seed, SPLITS.index(split), index)


def _write_clips(folder: Path, text: str, settings: Mapping, style: Style) -> None:
    """Write all clips beside `folder` and rename; when another process was faster, its folder is kept."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"synthetic: cannot write to {folder.parent} ({error.strerror}); choose another folder"
        ) from error
    log.info("synthetic: making %d clips of %d frames in %s", settings["clips"], settings["frames"], folder)
    try:
        for index in range(settings["clips"]):
            seed = clip_seed(settings["seed"], settings["split"], index)
            clip = generate_clip(seed, settings["frames"], tuple(settings["size"]), style)
            _write_clip(partial, f"{settings['split']}-{index:05d}", clip, settings["image_format"])
        (partial / "settings.json").write_text(text)
        partial.chmod(0o755)
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / "settings.json").is_file():
                raise
    except OSError as error:
        raise UserError(
            f"synthetic: writing clips to {folder.parent} failed ({error.strerror}); nothing half written was kept; "
            "make room or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_clip(folder: Path, name: str, clip: Clip, image_format: str) -> None:
    images, masks, flows = (folder / part / name for part in ("JPEGImages", "Annotations", "Flow"))
    for path in (images, masks, flows):
        path.mkdir(parents=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if image_format == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    for index, (rgb, mask, flow) in enumerate(zip(*clip, strict=True)):
        picture = cv2.imencode(f".{image_format}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1]
        (images / f"{index:05d}.{image_format}").write_bytes(picture.tobytes())
        (masks / f"{index:05d}.png").write_bytes(cv2.imencode(".png", mask * 255)[1].tobytes())
        write_flow(flows / f"{index:05d}.flo", flow)


def _video(folder: Path, name: str, frames: int, image_format: str) -> Video:
    return Video(
        name=name,
        frames=tuple(
            Frame(
                name=f"{index:05d}",
                image=folder / "JPEGImages" / name / f"{index:05d}.{image_format}",
                mask=folder / "Annotations" / name / f"{index:05d}.png",
                flow=folder / "Flow" / name / f"{index:05d}.flo",
            )
            for index in range(frames)
        ),
        dataset="synthetic",
    )
