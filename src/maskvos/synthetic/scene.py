"""Random scenes: chooses background, objects, distractors and occluders, and the motion of objects and camera."""

from __future__ import annotations

import cv2
import numpy as np

from maskvos.synthetic.curves import STEPS, Curves
from maskvos.synthetic.rendering import Clock, Layer, Pose, Wave, rotate, scale, translate
from maskvos.synthetic.shapes import ANY_ORIENTATION, SHAPES, Shape, Sprite, make_sprites, union_area
from maskvos.synthetic.style import Style
from maskvos.synthetic.textures import BACKGROUNDS, SURFACES, noise, random_texture


class Scene:
    """A random scene of a size (height, width) in pixels; `layers` holds it from back to front for the `Renderer`."""

    def __init__(self, rng: np.random.Generator, frames: int, size: tuple[int, int], style: Style) -> None:
        self.rng, self.size, self.style = rng, size, style
        self.height, self.width = size
        self.curves = Curves(rng, frames)
        self.backdrop = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
        self.has_parallax = rng.random() < style.parallax
        self._choose_motion()
        self.layers = [self._background_layer()]
        if self.has_parallax and rng.random() < 0.6:
            self.layers.append(self._parallax_layer(rng.uniform(1.05, 1.3), rng.uniform(0.45, 0.75)))
        objects = [self._object_layers(index) for index in range(len(self.paths))]
        distractors = [self._distractor_layers() for _ in range(int(rng.integers(0, style.distractors + 1)))]
        groups = objects + distractors
        for index in rng.permutation(len(groups)):
            self.layers.extend(groups[index])
        if rng.random() < style.occluders:
            for _ in range(int(rng.integers(1, 4))):
                self.layers.append(self._occluder_layer())
        if self.has_parallax and rng.random() < 0.3:
            self.layers.append(self._parallax_layer(rng.uniform(1.3, 2.0), rng.uniform(0.75, 0.95)))

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    # ---------------------------------------------------------------- motion

    def _choose_motion(self) -> None:
        """Choose the paths of camera and objects, in world pixels; the origin is the frame centre at time zero."""
        rng, curves, style = self.rng, self.curves, self.style
        still, follow = self._chance(style.still), self._chance(style.follow)
        pan = np.zeros((len(curves.times), 2))
        if not still and not follow:
            pan = self._random_walk(rng.uniform(0, 0.012) * self.width, 0.3)
        count = 1 + int(rng.integers(0, style.objects)) if self._chance(0.4) else 1
        self.paths, self.clocks = [], []
        for index in range(max(min(count, style.objects), 1)):
            gate = curves.motion_gate(style.stop)
            self.paths.append(self._object_path(pan, gate, unbounded=follow and index == 0))
            clock = np.cumsum(gate) / STEPS
            self.clocks.append(curves.interpolate(clock))
        if follow and not still:
            pan = self._following_path(self.paths[0])
        shake = np.zeros((len(curves.times), 2))
        if not still and self._chance(style.shake):
            strength = self.width * rng.uniform(0.001, 0.008)
            shake = np.stack([curves.smooth_noise(rng.uniform(4, 12), strength) for _ in range(2)], axis=1)
        moving = 0.0 if still else 1.0
        self.pan = [curves.interpolate(pan[:, axis]) for axis in (0, 1)]
        self.shake = [curves.interpolate(shake[:, axis]) for axis in (0, 1)]
        zoom = moving * self._chance(0.4) * rng.uniform(0.02, 0.12)
        turn = moving * self._chance(0.4) * rng.uniform(0.01, 0.08)
        self.zoom = curves.interpolate(np.exp(curves.smooth_noise(40, zoom)))
        self.turn = curves.interpolate(curves.smooth_noise(30, turn))

    def _random_walk(self, speed: float, vertical: float) -> np.ndarray:
        """A path of constant speed (pixels per frame) whose heading changes slowly, (N, 2)."""
        heading = self.rng.uniform(0, 2 * np.pi) + self.curves.smooth_noise(40, 0.7)
        velocity = np.stack([np.cos(heading), vertical * np.sin(heading)], axis=1) * speed / STEPS
        return np.cumsum(velocity, axis=0) - velocity[0]

    def _object_path(self, pan: np.ndarray, gate: np.ndarray, unbounded: bool) -> np.ndarray:
        """The positions of an object, (N, 2) world pixels.

        It is steered back towards the frame centre, unless it may leave or the camera follows it.
        """
        rng = self.rng
        speed = self.width * np.exp(rng.uniform(*np.log(self.style.speed))) / STEPS
        reach = np.array([self.width, self.height]) * 0.3
        free = unbounded or self._chance(self.style.leave)
        heading = rng.uniform(0, 2 * np.pi)
        vertical = rng.choice([0.3, 1.0])
        bends = self.curves.smooth_noise(25, 0.05 / STEPS)
        position = rng.uniform(-0.8, 0.8, 2) * reach
        path = np.empty((len(gate), 2))
        for step, (go, bend) in enumerate(zip(gate, bends, strict=True)):
            path[step] = position
            offset = position - pan[step]
            if not free and (np.abs(offset) > reach).any():
                home = np.arctan2(-offset[1], -offset[0])
                bend = bend + np.sin(home - heading) * 0.5 / STEPS
            heading += bend * max(go, 0.0)
            position = position + speed * go * np.array([np.cos(heading), vertical * np.sin(heading)])
        return path

    def _following_path(self, path: np.ndarray) -> np.ndarray:
        """The path of a camera that follows an object with some delay, (N, 2) world pixels."""
        lag = np.exp(-1 / (STEPS * self.rng.uniform(2, 12)))
        pan = np.empty_like(path)
        position = path[0] * self.rng.uniform(0, 0.6)
        # The camera starts at the object's speed, as if it had been following for a while.
        offset = position - path[0]
        velocity = path[1] - path[0]
        for step, target in enumerate(path):
            if step:
                goal = target + offset
                velocity = lag * velocity + (1 - lag) * (goal - pan[step - 1]) * 0.5
                position = pan[step - 1] + velocity
            pan[step] = position
        return pan

    def _camera(self, time: float, parallax: float = 1.0) -> np.ndarray:
        """World to image pixels, (3, 3); layers nearer than the background have a parallax factor above 1."""
        zoom = self.zoom(time) ** parallax
        eye = translate(self.width / 2 + self.shake[0](time), self.height / 2 + self.shake[1](time))
        look = translate(-self.pan[0](time) * parallax, -self.pan[1](time) * parallax)
        return eye @ rotate(self.turn(time)) @ scale(zoom, zoom) @ look

    def _static_pose(self, place: np.ndarray, parallax: float = 1.0) -> Pose:
        """The pose of a static layer; `place` maps its pixels to world pixels."""
        return lambda time: self._camera(time, parallax) @ place

    # ---------------------------------------------------------------- layers

    def _background_layer(self) -> Layer:
        rng = self.rng
        high, wide = int(self.height * 1.5), int(self.width * 1.5)
        texture = random_texture(rng, high, wide, (self.backdrop,))
        if self._chance(0.25):
            texture = cv2.GaussianBlur(texture, (0, 0), self.width * rng.uniform(0.002, 0.015))
        wave = None
        if self._chance(self.style.ripple):
            strength = self.width * rng.uniform(0.002, 0.01)
            wave = self._wave((high, wide), strength, lambda time: time, waves=rng.uniform(2, 12))
        return Layer(np.ascontiguousarray(texture), self._static_pose(translate(-wide / 2, -high / 2)), wave=wave)

    def _wave(self, extent: tuple[int, int], amplitude: float, clock: Clock, waves: float) -> Wave:
        rng = self.rng
        frequency = (2 * np.pi * waves / extent[0], 2 * np.pi * waves / extent[1])
        # A steeper shear would fold thin parts over one another.
        amplitude = min(amplitude, 0.6 / max(frequency))
        strength = amplitude * rng.uniform(0.3, 1, 2)
        speed, phase = rng.uniform(0.08, 0.4, 2), rng.uniform(0, 2 * np.pi, 2)
        return Wave(tuple(strength), frequency, tuple(speed), tuple(phase), clock)

    def _random_sprites(self, area: float) -> tuple[list[Sprite], bool]:
        """The sprites of a random shape with an area in pixels, and whether it may have any orientation."""
        rng = self.rng
        shape: Shape = SHAPES[int(rng.integers(len(SHAPES)))]
        parts = shape(rng)
        unit = float(np.sqrt(area / union_area(parts, 0.0)))
        kinds = (self.backdrop,) if self._chance(self.style.camouflage) else SURFACES
        return make_sprites(rng, parts, unit, kinds), shape in ANY_ORIENTATION

    def _object_layers(self, index: int) -> list[Layer]:
        rng, style = self.rng, self.style
        area = np.exp(rng.uniform(*np.log(style.area))) * (1.0 if index == 0 else rng.uniform(0.3, 1.0))
        sprites, rotatable = self._random_sprites(area * self.height * self.width)
        path, clock = self.paths[index], self.clocks[index]
        position = [self.curves.interpolate(path[:, axis]) for axis in (0, 1)]
        facing = -1.0 if path[-1, 0] < path[0, 0] else 1.0
        lean = self.curves.interpolate(self.curves.smooth_noise(20, 0.3 if rotatable else 0.06))
        start, spin = (rng.uniform(0, 6), rng.normal(0, 0.04)) if rotatable else (0.0, 0.0)
        swell = self.curves.interpolate(np.exp(self.curves.smooth_noise(30, rng.uniform(0, 0.12))))
        breath = self.curves.interpolate(np.exp(self.curves.smooth_noise(15, rng.uniform(0, 0.05))))

        def pose(time: float) -> np.ndarray:
            own_time = clock(time)
            size, wide = swell(own_time), breath(own_time)
            turn = rotate(start + spin * own_time + lean(own_time))
            place = translate(position[0](time), position[1](time))
            return self._camera(time) @ place @ turn @ scale(facing * size * wide, size / wide)

        layers = []
        if self._chance(style.shadow):
            layers.append(self._shadow_layer(pose, area))
        return layers + [self._sprite_layer(sprite, pose, clock, len(sprites) == 1) for sprite in sprites]

    def _sprite_layer(self, sprite: Sprite, parent: Pose, clock: Clock, single: bool) -> Layer:
        wave = None
        if single and self._chance(self.style.deform):
            extent = sprite.texture.shape[:2]
            wave = self._wave(extent, max(extent) * self.rng.uniform(0.02, 0.1), clock, self.rng.uniform(0.5, 2))
        pose = sprite.pose
        return Layer(sprite.texture, lambda time: parent(time) @ pose(clock(time)), salient=True, wave=wave)

    def _shadow_layer(self, parent: Pose, area: float) -> Layer:
        """A soft shadow below an object; its alpha stays below one half, so it never enters labels, mask or flow."""
        reach = max(int(np.sqrt(area * self.height * self.width)), 6)
        alpha: np.ndarray = np.zeros((reach, 2 * reach), np.uint8)
        cv2.ellipse(alpha, (reach, reach // 2), (int(reach * 0.7), int(reach * 0.25)), 0, 0, 360, 110, -1)
        alpha = cv2.GaussianBlur(alpha, (0, 0), max(reach * 0.08, 0.5))
        texture = np.dstack([np.zeros((*alpha.shape, 3), np.uint8), alpha])

        def pose(time: float) -> np.ndarray:
            x, y = parent(time)[:2, 2]
            return translate(x - reach, y + reach * 0.2)

        return Layer(texture, pose)

    def _distractor_layers(self) -> list[Layer]:
        """A distractor: looks like an object, but is static."""
        rng = self.rng
        area = np.exp(rng.uniform(*np.log(self.style.area))) * rng.uniform(0.2, 1.0)
        sprites, rotatable = self._random_sprites(area * self.height * self.width)
        x, y = rng.uniform(-0.7, 0.7) * self.width, rng.uniform(-0.4, 0.4) * self.height
        turn = rotate(rng.uniform(0, 6) if rotatable else rng.normal(0, 0.05))
        place = translate(x, y) @ turn @ scale(rng.choice([-1.0, 1.0]), 1.0)
        parallax = rng.uniform(1.0, 1.25) if self.has_parallax else 1.0
        time = rng.uniform(0, 30)
        return [Layer(s.texture, self._static_pose(place @ s.pose(time), parallax)) for s in sprites]

    def _parallax_layer(self, parallax: float, top: float) -> Layer:
        """A layer at another depth with a ragged upper edge, which spans the frame below a height (0 top, 1 bottom)."""
        rng = self.rng
        high, wide = int(self.height * 1.2), int(self.width * 3)
        texture = random_texture(rng, high, wide)
        edge = noise(rng, 2, wide, self.width * rng.uniform(0.05, 0.4), 4)[0] * self.height * rng.uniform(0.03, 0.2)
        rows = np.arange(high, dtype=np.float32)[:, None]
        alpha = (np.clip(rows - edge[None], 0, 1) * 255).astype(np.uint8)
        place = translate(-wide / 2, (top - 0.5) * self.height)
        return Layer(_premultiply(texture, alpha), self._static_pose(place, parallax))

    def _occluder_layer(self) -> Layer:
        """A foreground occluder: a pole, a bar, or a blob near the frame border."""
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
        parallax = rng.uniform(1.1, 1.8) if self.has_parallax else 1.0
        return Layer(texture, self._static_pose(place @ translate(-wide / 2, -high / 2), parallax))


def _premultiply(texture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """RGBA with the colour multiplied by alpha, (h, w, 4) uint8."""
    return np.dstack([cv2.multiply(texture, cv2.merge([alpha, alpha, alpha]), scale=1 / 255), alpha])
