"""Procedural textures: value noise, Voronoi cells, stripes, clutter, foliage, bricks, landscapes.

Every texture is a function ``(rng, height, width) -> (H, W, 3) uint8 RGB``, deterministic given the state of ``rng``.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Texture = Callable[[np.random.Generator, int, int], np.ndarray]


def noise(
    rng: np.random.Generator, height: int, width: int, scale: float, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Fractal value noise: interpolated random grids summed over octaves of half the cell size and weight each.

    Args:
        rng: Source of randomness.
        height: Height in pixels.
        width: Width in pixels.
        scale: Size of the coarsest features, pixels.
        octaves: Number of grids.
        stretch: Ratio of the features' width to height.

    Returns:
        (H, W) float32, rescaled to span [0, 1].
    """
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell = max(scale / 2**octave, 1.0)
        rows, columns = int(height / cell) + 2, int(width / (cell * stretch)) + 2
        grid = rng.random((rows, columns), dtype=np.float32)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)


def palette(rng: np.random.Generator, colours: int | None = None) -> np.ndarray:
    """A random colour map: a smooth ramp through a few related colours.

    Args:
        rng: Source of randomness.
        colours: Number of colours; three to five at random if None.

    Returns:
        (256, 3) uint8 RGB.
    """
    count = colours or int(rng.integers(3, 6))
    # OpenCV's hue ends at 180. Half of all colour maps use the hues of earth, leaves, sky and stone.
    natural = rng.random() < 0.5
    middle = rng.choice([10, 18, 30, 45, 105, 110]) if natural else rng.uniform(0, 180)
    hue = middle + rng.normal(0, rng.choice([5, 10, 15] if natural else [8, 25, 70]), count)
    saturation = np.clip(rng.normal(rng.uniform(10, 110 if natural else 170), 35, count), 0, 255)
    value = np.clip(rng.permutation(np.linspace(rng.uniform(15, 90), rng.uniform(130, 250), count)), 0, 255)
    hsv = np.stack([hue % 180, saturation, value], axis=-1).astype(np.uint8)[None]
    ramp = cv2.resize(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), (256, 1), interpolation=cv2.INTER_LINEAR)
    return ramp[0]


def apply_palette(field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Apply a colour map to a scalar field.

    Args:
        field: (H, W) float32 in [0, 1]; clipped to that range.
        colours: Colour map, (256, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    index = (np.clip(field, 0, 1) * 255).astype(np.uint8)
    return cv2.LUT(cv2.merge([index, index, index]), colours[None])


def _random_colour(rng: np.random.Generator, colours: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = colours[int(rng.integers(256))]
    return int(red), int(green), int(blue)


def _pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))


def _random_projection(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Pixel coordinates projected on a random direction, (H, W) float32."""
    x, y = _pixel_grid(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Fractal noise at a random scale: clouds, rock, grass, fur."""
    scale = max(height, width) * rng.uniform(0.04, 0.6)
    octaves = int(rng.integers(2, 7))
    return apply_palette(noise(rng, height, width, scale, octaves, rng.choice([0.4, 1.0, 1.0, 3.0])), palette(rng))


def gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth gradient with little detail: sky, painted walls, smooth skin."""
    projection = _random_projection(rng, height, width)
    field = (projection - projection.min()) / max(float(np.ptp(projection)), 1e-6)
    grain = noise(rng, height, width, max(height, width) * 0.3, 5)
    return apply_palette(0.8 * field + 0.2 * grain, palette(rng, 3))


def cells(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Voronoi cells, with or without dark seams: stones, scales, cracked mud."""
    size = max(height, width) * rng.uniform(0.04, 0.16)
    count = max(int(height * width / size**2), 3)
    seeds = np.full((height, width), 255, np.uint8)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = palette(rng)[rng.integers(0, 256, int(labels.max()) + 1)]
    image = colours[labels].astype(np.float32)
    shade = 1 - rng.uniform(0, 0.6) * np.clip(distance / size, 0, 1)
    return (image * shade[..., None] * (0.8 + 0.2 * noise(rng, height, width, size / 2, 2))[..., None]).astype(np.uint8)


def stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Stripes, straight or wavy, with soft or hard edges, or a checkerboard of two sets."""
    wavelength = max(height, width) * rng.uniform(0.03, 0.2)
    bend = noise(rng, height, width, max(height, width) * 0.4, 2) * rng.choice([0.0, 2.0, 6.0, 12.0])
    field = np.sin(_random_projection(rng, height, width) * (2 * np.pi / wavelength) + bend)
    if rng.random() < 0.3:
        field *= np.sin(_random_projection(rng, height, width) * (2 * np.pi / wavelength))
    sharpness = rng.choice([1.0, 3.0, 10.0])
    field = 0.5 + 0.5 * np.clip(field * sharpness, -1, 1) * 0.9
    return apply_palette(field + 0.1 * (noise(rng, height, width, wavelength, 3) - 0.5), palette(rng, 2))


def clutter(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Clutter: letters, boxes and lines of many sizes over a gradient."""
    image = np.ascontiguousarray(gradient(rng, height, width))
    colours, reach = palette(rng), max(height, width)
    for _ in range(int(rng.integers(25, 70))):
        x, y = int(rng.integers(-reach // 8, width)), int(rng.integers(0, height))
        colour, thickness = _random_colour(rng, colours), int(rng.integers(1, 4))
        kind = rng.random()
        if kind < 0.5:
            letters = "".join(chr(c) for c in rng.integers(33, 126, int(rng.integers(1, 8))))
            size = reach * rng.uniform(0.02, 0.09) / 22
            face = int(rng.integers(0, 8))
            cv2.putText(image, letters, (x, y), face, size, colour, thickness, cv2.LINE_AA)
        elif kind < 0.85:
            corner = (x + int(rng.integers(2, reach // 5 + 3)), y + int(rng.integers(2, reach // 5 + 3)))
            cv2.rectangle(image, (x, y), corner, colour, thickness if rng.random() < 0.5 else -1)
        else:
            end = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            cv2.line(image, (x, y), end, colour, thickness, cv2.LINE_AA)
    return image


def leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Many small overlapping ellipses: foliage, pebbles, a crowd."""
    image = np.ascontiguousarray(clouds(rng, height, width))
    colours, reach = palette(rng), max(height, width)
    size = reach * rng.uniform(0.008, 0.035)
    turn = rng.uniform(0, 180)
    for _ in range(int(min(0.9 * height * width / size**2 / 4, 450))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (max(int(size * rng.uniform(0.5, 2)), 1), max(int(size * rng.uniform(0.3, 1)), 1))
        cv2.ellipse(
            image, centre, axes, turn + rng.normal(0, 40), 0, 360, _random_colour(rng, colours), -1, cv2.LINE_AA
        )
    return image


def bricks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall of blocks in varying shades with joints, which also serves as a facade with windows."""
    block_height = max(int(height * rng.uniform(0.04, 0.16)), 3)
    block_width = max(int(block_height * rng.uniform(0.7, 3)), 3)
    x, y = _pixel_grid(height, width)
    row = (y // block_height).astype(np.int32)
    column = ((x + (row % 2) * block_width * rng.choice([0.0, 0.5])) // block_width).astype(np.int32)
    shade = rng.random((int(row.max()) + 1, int(column.max()) + 1), dtype=np.float32)[row, column]
    image = apply_palette(0.75 * shade + 0.25 * noise(rng, height, width, block_width, 4), palette(rng))
    joint = ((y % block_height) < 1.5) | (((x + (row % 2) * block_width * 0.5) % block_width) < 1.5)
    image[joint] = palette(rng)[int(rng.integers(256))]
    return image


def quilt(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two textures that meet at a ragged border."""
    first, second = (PLAIN[int(rng.integers(len(PLAIN)))](rng, height, width) for _ in range(2))
    weight = np.clip((noise(rng, height, width, max(height, width) * 0.5, 4) - 0.5) * 12 + 0.5, 0, 1)[..., None]
    return (first * (1 - weight) + second * weight).astype(np.uint8)


def landscape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Sky over ground, with hills, buildings and trees along the horizon."""
    horizon = int(height * rng.uniform(0.25, 0.6))
    image = np.empty((height, width, 3), np.uint8)
    sky = noise(rng, height, width, width * 0.4, 5, 2.0) * 0.4 + np.linspace(0, 0.6, height, dtype=np.float32)[:, None]
    image[:] = apply_palette(sky, palette(rng, 2))
    ridge = horizon - (noise(rng, 2, width, width * 0.3, 5)[0] * height * rng.uniform(0, 0.25)).astype(np.int32)
    y = np.arange(height)[:, None]
    image[y >= ridge[None]] = apply_palette(noise(rng, height, width, width * 0.1, 5), palette(rng))[y >= ridge[None]]
    for _ in range(int(rng.integers(0, 7))):
        _building(rng, image, horizon)
    ground = GROUND[int(rng.integers(len(GROUND)))](rng, height, width)
    # Rows are sampled more sparsely towards the horizon, like a plane in perspective.
    depth = (np.arange(height - horizon) / max(height - horizon - 1, 1)) ** 0.5
    image[horizon:] = ground[(depth * (height - 1)).astype(np.int32)]
    for _ in range(int(rng.integers(0, 6))):
        _tree(rng, image, horizon)
    return image


def _building(rng: np.random.Generator, image: np.ndarray, horizon: int) -> None:
    height, width = image.shape[:2]
    tall, wide = int(height * rng.uniform(0.08, 0.35)), int(width * rng.uniform(0.06, 0.25))
    left, top = int(rng.integers(-wide // 2, width)), max(horizon - tall, 0)
    right, bottom = min(left + wide, width), min(horizon + int(height * 0.04), height)
    left = max(left, 0)
    if right - left > 3 and bottom - top > 3:
        image[top:bottom, left:right] = bricks(rng, bottom - top, right - left)


def _tree(rng: np.random.Generator, image: np.ndarray, horizon: int) -> None:
    height, width = image.shape[:2]
    colours, size = palette(rng), height * rng.uniform(0.05, 0.18)
    x, foot = int(rng.integers(0, width)), horizon + int(rng.uniform(0, 0.25) * (height - horizon))
    top = int(foot - size * rng.uniform(1.5, 2.5))
    cv2.line(image, (x, foot), (x, top), _random_colour(rng, colours), max(int(size / 6), 1), cv2.LINE_AA)
    for _ in range(25):
        dx, dy = rng.normal(0, size / 2.5, 2)
        centre = (int(x + dx), int(top + dy))
        cv2.circle(
            image, centre, max(int(size * rng.uniform(0.1, 0.3)), 1), _random_colour(rng, colours), -1, cv2.LINE_AA
        )


PLAIN: tuple[Texture, ...] = (clouds, gradient, cells, stripes, clutter, leaves, bricks)
GROUND: tuple[Texture, ...] = (clouds, clouds, cells, leaves, bricks)
BACKGROUNDS: tuple[Texture, ...] = (*PLAIN, landscape, landscape, landscape, landscape, quilt, clouds)
SURFACES: tuple[Texture, ...] = (*PLAIN, clouds, gradient, quilt)


def random_texture(
    rng: np.random.Generator, height: int, width: int, kinds: tuple[Texture, ...] = SURFACES
) -> np.ndarray:
    """A texture of a random kind.

    Args:
        rng: Source of randomness.
        height: Height in pixels.
        width: Width in pixels.
        kinds: The functions to choose from.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return kinds[int(rng.integers(len(kinds)))](rng, height, width)
