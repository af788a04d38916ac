"""Backgrounds to put an object on: a colour, a picture, another movie, or the video's own background, blurred."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageColor

from maskvos.errors import UserError, nearest
from maskvos.media.draw import GREEN, Colour
from maskvos.media.images import read_image, resize_image
from maskvos.media.video import probe, read_video

AUTO, BLUR = "auto", "blur"

KEY_COLOURS: tuple[Colour, ...] = (GREEN, (0, 0, 255), (255, 0, 255), (0, 255, 255), (255, 0, 0), (255, 255, 0))
"""Colours that `AUTO` chooses from: green, blue, magenta, cyan, red, yellow."""

# Distance of chroma (Cb, Cr) below which a keyer takes a colour for the key: grey is at 130 from pure green.
_SIMILAR = 50
# Standard deviation of the blur, as a share of the frame's diagonal.
_BLUR = 0.025


class Background(Protocol):
    """What is behind the object of one video; asked for each frame, in order."""

    def at(self, image: np.ndarray, alpha: np.ndarray, time: float) -> np.ndarray:
        """The background of a frame.

        Args:
            image: (H, W, 3) uint8 RGB, the frame.
            alpha: (H, W) uint8, 0 background to 255 object.
            time: Seconds after the first frame.

        Returns:
            (H, W, 3) uint8 RGB.
        """


def parse_colour(value: str | Sequence[int], name: str) -> Colour:
    """A colour from a name of CSS (``magenta``), ``#RRGGBB``, or red, green and blue from 0 to 255.

    ``green`` is that of green screens, (0, 255, 0), which CSS calls lime.

    Args:
        value: The colour.
        name: Of the setting, for messages.

    Raises:
        UserError: It is none.
    """
    if isinstance(value, str):
        try:
            red, green, blue = ImageColor.getrgb("lime" if value.lower() == "green" else value)[:3]
        except ValueError as error:
            raise UserError(
                f"{name} is {value!r}; give a name, #RRGGBB, or red, green and blue from 0 to 255{_hint(value)}"
            ) from error
        return red, green, blue
    if len(value) != 3 or not all(0 <= c <= 255 for c in value):
        raise UserError(f"{name} is {list(value)}; give red, green and blue from 0 to 255")
    red, green, blue = map(int, value)
    return red, green, blue


def parse_background(value: str | Path | Sequence[int], name: str) -> Colour | Path | str:
    """What a setting says: a colour as in `parse_colour`, `AUTO`, `BLUR`, or the path of a picture or movie.

    Args:
        value: The setting.
        name: Its name, for messages.

    Raises:
        UserError: It is none of these, or the file does not exist.
    """
    if value in (AUTO, BLUR):
        return str(value)
    if isinstance(value, Path) or (isinstance(value, str) and ("." in value or "/" in value or Path(value).is_file())):
        path = Path(value).expanduser()
        if not path.is_file():
            raise UserError(f"{name}={value}: file not found; give a picture, a movie, a colour, or {BLUR}")
        return path
    try:
        return parse_colour(value, name)
    except UserError as error:
        if not isinstance(value, str):
            raise
        raise UserError(
            f"{name} is {value!r}; give a colour (a name or #RRGGBB), {AUTO}, {BLUR}, a picture or a movie"
            f"{_hint(value, AUTO, BLUR)}"
        ) from error


def _hint(value: str, *more: str) -> str:
    """The names that are like a mistyped one; not all of the many."""
    names = [name for name in (*more, *ImageColor.colormap) if SequenceMatcher(None, name, value.lower()).ratio() > 0.6]
    return f"; {nearest(value.lower(), names)}" if names else ""


def open_background(setting: Colour | Path | str) -> Background:
    """The background of a new video.

    Args:
        setting: From `parse_background`.

    Raises:
        UserError: The file can be read neither as a picture nor as a movie.
    """
    if setting == BLUR:
        return Blur()
    if setting == AUTO:
        return Plain(None)
    if isinstance(setting, Path):
        return Picture(setting) if _is_picture(setting) else Film(setting)
    assert isinstance(setting, tuple)
    return Plain(setting)


class Plain:
    """One colour, for keying.

    Args:
        colour: RGB; None: of `KEY_COLOURS`, the first that is far from the object's colours in the first frame, or
            else the one that is farthest.
    """

    def __init__(self, colour: Colour | None) -> None:
        self.colour = colour
        self._similar = self._seen = 0

    @property
    def similar(self) -> float:
        """Share of the object's pixels, over all frames so far, which a keyer would take for the background."""
        return self._similar / self._seen if self._seen else 0.0

    def at(self, image: np.ndarray, alpha: np.ndarray, time: float) -> np.ndarray:
        """See `Background`."""
        step = max(min(alpha.shape) // 120, 1)  # a sample of the pixels is enough
        inside = image[::step, ::step][alpha[::step, ::step] > 127]
        if self.colour is None:
            seen = inside if len(inside) else image[::step, ::step].reshape(-1, 3)
            far = {colour: float(np.percentile(_distance(seen, colour), 2)) for colour in KEY_COLOURS}
            self.colour = next((key for key in far if far[key] > 2 * _SIMILAR), max(far, key=far.__getitem__))
        self._seen += len(inside)
        self._similar += int(np.count_nonzero(_distance(inside, self.colour) < _SIMILAR))
        return np.full_like(image, self.colour)


def _distance(pixels: np.ndarray, colour: Colour) -> np.ndarray:
    """Distance of pixels (N, 3) uint8 from a colour in chroma, which is what keyers compare; (N,) float32."""
    both = np.vstack([pixels.reshape(-1, 3), np.array([colour], np.uint8)])[None]
    chroma = cv2.cvtColor(both, cv2.COLOR_RGB2YCrCb)[0, :, 1:].astype(np.float32)
    return np.hypot(*(chroma[:-1] - chroma[-1]).T)


class Blur:
    """The video's own background, blurred; the object's colours do not spread into it."""

    def at(self, image: np.ndarray, alpha: np.ndarray, time: float) -> np.ndarray:
        """See `Background`."""
        height, width = alpha.shape
        sigma = _BLUR * math.hypot(height, width)
        step = max(round(sigma / 4), 1)
        small = (max(height // step, 1), max(width // step, 1))
        weight = 1 - resize_image(alpha, small)[..., None] / np.float32(255) + np.float32(1e-4)
        colours = cv2.GaussianBlur(resize_image(image, small) * weight, (0, 0), sigma / step)
        weight = cv2.GaussianBlur(weight, (0, 0), sigma / step)[..., None]
        mean = np.clip(colours / weight + 0.5, 0, 255).astype(np.uint8)
        return cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)


class Picture:
    """A picture that covers the frame; what does not fit its proportions is cut off evenly."""

    def __init__(self, path: Path) -> None:
        self._image = read_image(path)
        self._covering = self._image[:0]

    def at(self, image: np.ndarray, alpha: np.ndarray, time: float) -> np.ndarray:
        """See `Background`."""
        if self._covering.shape != image.shape:
            self._covering = cover(self._image, alpha.shape)
        return self._covering


class Film:
    """A movie at its own rate that covers the frame, and begins again when it ends."""

    def __init__(self, path: Path) -> None:
        self._path, self._rate = path, probe(path).fps
        self._frames: Iterator[np.ndarray] = iter(())
        self._count, self._shown = -1, np.empty(0)

    def at(self, image: np.ndarray, alpha: np.ndarray, time: float) -> np.ndarray:
        """See `Background`."""
        number, shown = math.floor(time * self._rate + 1e-6), None
        while self._count < number:
            shown = next(self._frames, None)
            if shown is None:
                self._frames = read_video(self._path)
            else:
                self._count += 1
        if shown is not None:
            self._shown = cover(shown, alpha.shape)
        return self._shown


def cover(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Scale an image (h, w, 3) uint8 until it covers a size (H, W), and cut off evenly what is too much."""
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    high, wide = (min(max(round(scale * side), 1), limit) for side, limit in zip(size, (height, width), strict=True))
    top, left = (height - high) // 2, (width - wide) // 2
    return resize_image(image[top : top + high, left : left + wide], (size[0], size[1]))


def _is_picture(path: Path) -> bool:
    """Whether a file is a picture, and not a movie."""
    try:
        with Image.open(path) as image:
            return image.format == "MPO" or not getattr(image, "is_animated", False)  # MPO: photographs of phones
    except (OSError, Image.DecompressionBombError):
        return False
