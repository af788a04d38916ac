"""Procedural objects: articulated shapes of one or several parts, textured as sprites.

A shape is upright around the origin, faces right and is about one unit high; `make_sprites` scales it to pixels. Its
parts move by `Pose` functions of a clock, so an object pauses when its clock does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from maskvos.synthetic.rendering import Pose, rotate, scale, translate
from maskvos.synthetic.textures import SURFACES, Texture, random_texture


@dataclass(frozen=True)
class Part:
    """One rigid part of a shape.

    Attributes:
        outline: (N, 2) float64, vertices of a polygon in the part's coordinates.
        pose: Clock time to the matrix from the part's to the shape's coordinates.
        surface: Parts with the same number share a texture.
    """

    outline: np.ndarray
    pose: Pose
    surface: int = 0


@dataclass(frozen=True)
class Sprite:
    """A textured part: RGBA texture (h, w, 4) uint8 with premultiplied alpha, and the pose of its pixels."""

    texture: np.ndarray
    pose: Pose


Shape = Callable[[np.random.Generator], list[Part]]


def _identity(_: float) -> np.ndarray:
    return np.eye(3)


def _joint(parent: Pose, pivot: tuple[float, float], angle: float, swing: float, speed: float, phase: float) -> Pose:
    """Pose of a part that swings around a pivot of its parent; angles in radians, speed in radians per frame."""
    place = translate(*pivot)

    def pose(time: float) -> np.ndarray:
        return parent(time) @ place @ rotate(angle + swing * np.sin(speed * time + phase))

    return pose


def ellipse(width: float, height: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Outline of an ellipse of a width and height around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + width / 2 * np.cos(angle), y + height / 2 * np.sin(angle)], axis=1)


def capsule(length: float, start: float, end: float) -> np.ndarray:
    """Outline of a limb along x from the origin, with thickness `start` there and `end` at its tip."""
    half = np.linspace(-np.pi / 2, np.pi / 2, 10)
    tip = np.stack([length + end / 2 * np.cos(half), end / 2 * np.sin(half)], axis=1)
    root = np.stack([-start / 2 * np.cos(half), -start / 2 * np.sin(half)], axis=1)
    return np.concatenate([tip, root])


def random_outline(rng: np.random.Generator, roughness: float, aspect: float = 1.0) -> np.ndarray:
    """Smooth random outline: the radius is a random Fourier series of the angle."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    orders = np.arange(2, 8)
    weight = rng.normal(0, roughness, (2, len(orders))) / orders
    radius = 0.5 + weight[0] @ np.cos(orders[:, None] * angle) + weight[1] @ np.sin(orders[:, None] * angle)
    radius = np.maximum(radius, 0.12)
    return np.stack([radius * np.cos(angle) * aspect, radius * np.sin(angle)], axis=1)


def blob(rng: np.random.Generator) -> list[Part]:
    """A smooth blob, from nearly round to lobed."""
    return [Part(random_outline(rng, rng.uniform(0.03, 0.3), rng.uniform(0.6, 1.8)), _identity)]


def polygon(rng: np.random.Generator) -> list[Part]:
    """A polygon of three to eight edges, or a star."""
    corners = int(rng.integers(3, 9))
    angle = np.sort(np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.normal(0, 0.15, corners))
    radius = 0.5 * rng.uniform(0.8, 1.1, corners)
    if rng.random() < 0.25:
        angle = np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False)
        radius = np.tile([0.5, 0.5 * rng.uniform(0.4, 0.7)], corners)
    stretch = rng.uniform(0.7, 1.5)
    return [Part(np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle)], axis=1), _identity)]


def cluster(rng: np.random.Generator) -> list[Part]:
    """A few blobs, joined at random and swinging."""
    parts = [Part(random_outline(rng, 0.15, rng.uniform(0.7, 1.4)), _identity)]
    for _ in range(int(rng.integers(2, 5))):
        angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
        pivot = (0.4 * np.cos(angle), 0.4 * np.sin(angle))
        pose = _joint(_identity, pivot, angle, rng.uniform(0, 0.6), rng.uniform(0.1, 0.5), rng.uniform(0, 6))
        outline = random_outline(rng, 0.15, rng.uniform(0.8, 2)) * size + np.array([size * 0.4, 0])
        parts.insert(int(rng.integers(0, len(parts) + 1)), Part(outline, pose, int(rng.integers(0, 2))))
    return parts


def _leg(
    parent: Pose, hip: tuple[float, float], length: float, thick: float, gait: tuple[float, float, float]
) -> list[Part]:
    """Thigh and shin of a walking leg; gait is swing (radians), speed (radians per frame) and phase (radians)."""
    swing, speed, phase = gait
    thigh = _joint(parent, hip, np.pi / 2, swing, speed, phase)
    shin = _joint(thigh, (length / 2, 0.0), 0.35 * swing, 0.6 * swing, speed, phase + 0.9)
    return [
        Part(capsule(length / 2, thick, thick * 0.75), thigh, 1),
        Part(capsule(length / 2, thick * 0.75, thick * 0.5), shin, 1),
    ]


def person(rng: np.random.Generator) -> list[Part]:
    """A walking or running person: head, trunk, two arms and two legs."""
    swing, speed, phase = rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.55), rng.uniform(0, 6)
    girth = rng.uniform(0.8, 1.4)
    lean = rng.normal(0, 0.12)

    def trunk(time: float) -> np.ndarray:
        return translate(0, 0.02 * np.sin(2 * speed * time + phase)) @ rotate(lean)

    def arm(turn: float) -> list[Part]:
        upper = _joint(trunk, (0.0, -0.2), np.pi / 2, swing * 0.9, speed, phase + turn)
        lower = _joint(upper, (0.17, 0.0), -0.5, 0.3, speed, phase + turn)
        thick = 0.08 * girth
        return [Part(capsule(0.17, thick, thick * 0.8), upper), Part(capsule(0.16, thick * 0.8, thick * 0.6), lower, 2)]

    head = _joint(trunk, (0.02, -0.36), 0.0, 0.1, speed, phase)
    left, right = (_leg(trunk, (0.0, 0.08), 0.46, 0.12 * girth, (swing, speed, phase + turn)) for turn in (0.0, np.pi))
    body = Part(ellipse(0.22 * girth, 0.44, 0, -0.08), trunk)
    return [*arm(0.0), *left, *right, body, Part(ellipse(0.15, 0.18), head, 2), *arm(np.pi)]


def animal(rng: np.random.Generator) -> list[Part]:
    """A walking quadruped: trunk, four legs, neck, head and tail."""
    swing, speed, phase = rng.uniform(0.2, 0.7), rng.uniform(0.15, 0.6), rng.uniform(0, 6)
    long, deep, tall = rng.uniform(0.8, 1.3), rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.6)
    thick = rng.uniform(0.09, 0.16)

    def trunk(time: float) -> np.ndarray:
        return translate(0, 0.03 * np.sin(2 * speed * time + phase)) @ rotate(0.06 * np.sin(speed * time))

    legs = [
        _leg(trunk, (side * long * 0.36, deep * 0.25), tall, thick, (swing, speed, phase + turn))
        for side, turn in ((-1, 0.0), (1, 0.4), (-1, np.pi), (1, np.pi + 0.4))
    ]
    neck = _joint(trunk, (long * 0.38, -deep * 0.2), -rng.uniform(0.2, 1.3), 0.15, speed, phase)
    reach = rng.uniform(0.15, 0.5)
    head = _joint(neck, (reach, 0.0), rng.uniform(0.2, 1.0), 0.1, speed, phase + 1)
    tail = _joint(trunk, (-long * 0.46, -deep * 0.2), np.pi - rng.uniform(-0.6, 0.6), 0.5, speed, phase)
    body = np.concatenate([random_outline(rng, 0.08)]) * np.array([long, deep])
    return [
        *legs[0],
        *legs[1],
        Part(capsule(rng.uniform(0.2, 0.6), thick * 0.6, thick * 0.3), tail),
        Part(body, trunk),
        Part(capsule(reach, deep * 0.6, deep * 0.4), neck),
        Part(capsule(0.2, deep * 0.45, deep * 0.25), head, int(rng.integers(0, 2))),
        *legs[2],
        *legs[3],
    ]


def vehicle(rng: np.random.Generator) -> list[Part]:
    """A car: body, cabin and rotating wheels."""
    long, tall = rng.uniform(1.2, 2.2), rng.uniform(0.35, 0.6)
    wheel, speed = tall * rng.uniform(0.55, 0.9), rng.uniform(0.1, 0.5)
    nose, roof = rng.uniform(0.0, 0.3) * tall, rng.uniform(0.0, 0.9) * tall
    left, right = -long / 2 * rng.uniform(0.5, 1.0), long / 2 * rng.uniform(0.1, 0.9)
    body = np.array(
        [[-long / 2, 0], [-long / 2, -tall], [long / 2 - nose, -tall], [long / 2, -tall / 2], [long / 2, 0]]
    )
    cabin = np.array(
        [[left, -tall * 0.9], [left * 0.85, -tall - roof], [right * 0.7, -tall - roof], [right, -tall * 0.9]]
    )

    def vibrating(time: float) -> np.ndarray:
        return translate(0, 0.01 * np.sin(1.3 * time))

    def rolling(x: float) -> Pose:
        return lambda time: translate(x, 0.0) @ rotate(speed * time)

    wheels = [Part(ellipse(wheel, wheel), rolling(side * long * 0.32), 2) for side in (-1, 1)]
    return [Part(cabin, vibrating, 1), Part(body, vibrating), *wheels]


def bird(rng: np.random.Generator) -> list[Part]:
    """A bird with two beating wings."""
    speed, phase = rng.uniform(0.2, 0.8), rng.uniform(0, 6)
    span, chord = rng.uniform(0.7, 1.3), rng.uniform(0.25, 0.5)
    wing = np.array([[-chord / 2, 0], [chord / 2, 0], [chord * 0.2, span * 0.6], [-chord * 0.5, span]])

    def beating(side: float) -> Pose:
        def pose(time: float) -> np.ndarray:
            return scale(1.0, side * (0.65 + 0.35 * np.sin(speed * time + phase))) @ rotate(0.15)

        return pose

    head = _joint(_identity, (0.45, -0.03), 0.0, 0.1, speed, phase)
    tail = np.array([[0.0, -0.03], [-0.35, -0.14], [-0.35, 0.14], [0.0, 0.03]])
    tail_pose = _joint(_identity, (-0.4, 0.0), 0.0, 0.2, speed, phase)
    return [
        Part(wing, beating(1.0), 1),
        Part(tail, tail_pose),
        Part(ellipse(1.0, 0.28), _identity),
        Part(ellipse(0.24, 0.2), head, int(rng.integers(0, 2))),
        Part(wing, beating(-1.0), 1),
    ]


def snake(rng: np.random.Generator) -> list[Part]:
    """A chain of links with a travelling bend."""
    links, thick = int(rng.integers(4, 9)), rng.uniform(0.15, 0.35)
    swing, speed, phase, lag = rng.uniform(0.1, 0.35), rng.uniform(0.05, 0.3), rng.uniform(0, 6), rng.uniform(0.6, 1.2)
    length = 1.6 / links
    parts: list[Part] = []
    parent: Pose = _identity
    for link in range(links):
        pivot = (-0.8, 0.0) if link == 0 else (length, 0.0)
        parent = _joint(parent, pivot, 0.0, swing, speed, phase - lag * link)
        parts.append(Part(capsule(length, thick, thick), parent, link % 2 if thick < 0.2 else 0))
    return parts


SHAPES: tuple[Shape, ...] = (blob, blob, polygon, cluster, person, person, animal, animal, vehicle, bird, snake)
# Shapes that may have any orientation; the others stay upright.
ANY_ORIENTATION: tuple[Shape, ...] = (blob, polygon, cluster, bird, snake)


def union_area(parts: list[Part], time: float) -> float:
    """Area of the union of all parts at a time, in square units, accurate to about one per cent."""
    cells, reach = 60.0, 3.0
    canvas = np.zeros((int(2 * reach * cells),) * 2, np.uint8)
    for part in parts:
        matrix = part.pose(time)
        corners = (part.outline @ matrix[:2, :2].T + matrix[:2, 2] + reach) * cells
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 1)
    return max(float(cv2.countNonZero(canvas)) / cells**2, 1e-3)


def _shade(rng: np.random.Generator, colour: np.ndarray, solid: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Shade a flat part as if it were round: brighter towards the light, darker at the rim; (h, w, 3) uint8."""
    height, width = solid.shape
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    depth = cv2.distanceTransform((solid > 127).astype(np.uint8), cv2.DIST_L2, 3)
    rim = np.clip(depth / max(float(depth.max()) * 0.6, 1.0), 0, 1)
    gain = 1 + np.float32(light[0]) * x + np.float32(light[1]) * y
    gain = gain * (1 - np.float32(rng.uniform(0, 0.45)) * (1 - rim) ** 2)
    return np.clip(colour * gain[..., None], 0, 255).astype(np.uint8)


def make_sprites(
    rng: np.random.Generator, parts: list[Part], unit: float, kinds: tuple[Texture, ...] = SURFACES
) -> list[Sprite]:
    """Texture a shape's parts.

    Args:
        rng: Source of randomness.
        parts: The shape, in its own units.
        unit: Pixels per unit.
        kinds: Textures to choose from.

    Returns:
        One sprite per part, from back to front; poses map texture pixels to pixels around the shape's origin.
    """
    light = rng.normal(0, 0.25, 2)
    textures: dict[int, np.ndarray] = {}
    largest = max(int(np.ptp(part.outline, axis=0).max() * unit) for part in parts) + 8
    sprites = []
    for part in parts:
        low = np.floor(part.outline.min(axis=0) * unit) - 2
        high = np.ceil(part.outline.max(axis=0) * unit) + 3
        width, height = (high - low).astype(int)
        if part.surface not in textures:
            textures[part.surface] = random_texture(rng, largest, largest, kinds)
        source = textures[part.surface]
        top, left = (int(rng.integers(0, max(largest - extent, 0) + 1)) for extent in (height, width))
        colour = source[top : top + height, left : left + width]
        alpha = np.zeros((height, width), np.uint8)
        corners = np.round((part.outline * unit - low) * 16).astype(np.int32)
        cv2.fillPoly(alpha, [corners], 255, lineType=cv2.LINE_AA, shift=4)
        shaded = _shade(rng, colour, alpha, light)
        weight = cv2.merge([alpha, alpha, alpha])
        texture = np.dstack([cv2.multiply(shaded, weight, scale=1 / 255), alpha])
        sprites.append(Sprite(texture, _to_pixels(part.pose, unit, low)))
    return sprites


def _to_pixels(pose: Pose, unit: float, low: np.ndarray) -> Pose:
    """A part's pose in pixels; `low` is its texture's upper left corner."""
    grow, shrink = scale(unit, unit), scale(1 / unit, 1 / unit) @ translate(float(low[0]), float(low[1]))
    return lambda time: grow @ pose(time) @ shrink
