"""Moving pictures: short clips from still images with masks, whose object and background move differently.

They show a network what real objects look like together with the motion of a video (after Perazzi et al., "Learning
Video Object Segmentation from Static Images", CVPR 2017, and pre-training on animated saliency images since).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from maskvos.errors import UserError
from maskvos.media.images import read_image
from maskvos.metrics.reading import read_truth
from maskvos.synthetic.clips import Clip
from maskvos.synthetic.dataset import clip_videos, ensure_clips
from maskvos.types import Video

# Increment when the same picture and seed give different clips, so that outdated clips on disk are not reused.
VERSION = 1


def animate(
    picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator, frames: int, size: tuple[int, int]
) -> Clip:
    """Animate a picture by warping it: camera motion, parallax, and the object's own motion.

    The frame is a random window of the picture. Displacements grow linearly with time and blend over a few pixels from
    the object's to the background's, which stretches the background next to the object instead of uncovering it. One
    object in four rests: only camera and parallax move it.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W) bool, the object.
        rng: Random numbers.
        frames: Number of frames T.
        size: Height and width (h, w) of the frames, pixels.

    Returns:
        The clip, with exact flow.
    """
    rgb, inside = _random_window(picture, mask, rng, size)
    motion = _displacement(inside, rng)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    clip = Clip(
        np.empty((frames, height, width, 3), np.uint8),
        np.empty((frames, height, width), np.uint8),
        np.empty((frames, height, width, 2), np.float32),
    )
    for index in range(frames):
        time = np.float32(index - (frames - 1) / 2)
        # A point of the picture at p appears at p + time * motion(p): invert by fixed-point iteration.
        here = motion
        for _ in range(4):
            source = (x - time * here[..., 0], y - time * here[..., 1])
            here = cv2.remap(motion, *source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        source = (x - time * here[..., 0], y - time * here[..., 1])
        clip.rgb[index] = cv2.remap(rgb, *source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        moved = cv2.remap(inside, *source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        clip.mask[index] = moved >= 0.5
        clip.flow[index] = here
    if frames == 1:
        clip.flow[:] = 0
    return clip


def moving_pictures(
    pictures: Sequence[Callable[[], list[Video]]],
    root: str | Path,
    clips: int = 1,
    frames: int = 4,
    size: tuple[int, int] = (224, 384),
    seed: int = 0,
    name: str = "pictures",
) -> list[Video]:
    """List clips of animated pictures; generates them on first use.

    They are stored like those of `maskvos.synthetic.dataset.synthetic`, without flow: it is estimated as for videos.

    Args:
        pictures: Functions that list still images with masks, one dataset each.
        root: Parent folder; created if missing.
        clips: Clips per picture, each with another window and motion.
        frames: Frames per clip.
        size: Height and width of the frames, pixels.
        seed: Random seed.
        name: Name of the dataset.

    Returns:
        Videos with a mask for every frame.

    Raises:
        UserError: No picture, a setting is out of range, a picture cannot be read, or the folder is not writable.
    """
    if min(clips, frames, *size) < 1 or seed < 0:
        raise UserError(
            f"{name}: clips={clips}, frames={frames}, size={tuple(size)}, seed={seed}; choose at least one clip, frame "
            "and pixel, and a seed of 0 or more"
        )
    videos = [video for part in pictures for video in part()]
    listed = [[v.dataset, f.name, f.image.stat().st_size] for v in videos for f in v.frames if f.mask is not None]
    if not listed:
        raise UserError(f"{name}: no picture with a mask; list some under 'pictures'")
    settings = {
        "version": VERSION,
        "pictures": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "clips": int(clips),
        "frames": int(frames),
        "size": [int(side) for side in size],
        "seed": int(seed),
    }
    names = [f"{index:05d}-{clip}" for index in range(len(listed)) for clip in range(clips)]

    def render() -> Iterator[Clip]:
        index = 0
        for video in videos:
            for frame in video.frames:
                if frame.mask is None:
                    continue
                picture = read_image(frame.image)
                mask = read_truth(frame.mask, video.masks) != 0
                for clip in range(clips):
                    rng = np.random.default_rng((seed, index, clip))
                    yield animate(picture, mask, rng, frames, (int(size[0]), int(size[1])))
                index += 1

    folder = ensure_clips(Path(root), name, settings, names, render(), with_flow=False)
    return clip_videos(folder, names, frames, dataset=name, with_flow=False)


def _random_window(
    picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A random window of about the frame's aspect ratio that shows a good part of the object, resized to the frame.

    Returns:
        The image (h, w, 3) uint8, and the object's coverage of each pixel, (h, w) float32 in 0 to 1.
    """
    height, width = mask.shape
    aspect = size[1] / size[0] * np.exp(rng.uniform(-0.25, 0.15))  # width / height
    best, seen = (slice(0, height), slice(0, width)), -1.0
    for _ in range(8):
        share = rng.uniform(0.7, 1.0)
        rows = max(1, round(min(height, width / aspect) * share))
        columns = max(1, min(width, round(rows * aspect)))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        window = (slice(top, top + rows), slice(left, left + columns))
        visible = mask[window].sum() / max(1, mask.sum())
        if visible > seen:
            best, seen = window, visible
        if seen > 0.6:
            break
    shape = (size[1], size[0])
    shrinks = (best[0].stop - best[0].start) > size[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return (
        cv2.resize(picture[best], shape, interpolation=how),
        cv2.resize(mask[best].astype(np.float32), shape, interpolation=cv2.INTER_LINEAR),
    )


def _displacement(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The displacement per frame of every pixel of a picture, (H, W, 2) float32, pixels."""
    height, width = inside.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    places = np.stack((np.ones_like(x), x, y), axis=-1)

    def affine(shift: float, gradient: float) -> np.ndarray:
        """A random affine field; standard deviations in parts of the width."""
        stds = np.array([shift, gradient, gradient])[:, None]
        return places @ (rng.normal(0, 1, (3, 2)) * stds * width).astype(np.float32)

    camera = affine(0.012, 0.004) if rng.random() < 0.8 else np.zeros((height, width, 2), np.float32)
    # Depth, water, leaves: smooth motion of the background that no camera model explains.
    coarse = rng.normal(0, 1, (int(rng.integers(2, 7)), int(rng.integers(2, 9)), 2)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    background = camera + smooth * np.float32(abs(rng.normal(0, 0.0012)) * width)
    rests = rng.random() < 0.25
    strength = 0.0 if rests else float(np.exp(rng.uniform(np.log(0.003), np.log(0.03))))
    own = affine(strength, strength / 4)
    blurred = cv2.GaussianBlur(inside, (0, 0), rng.uniform(1.0, 3.0))[..., None]
    return background + blurred * own
