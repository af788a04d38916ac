"""What procedural clips show: probabilities and ranges of objects, motion, camera and compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from maskvos.errors import UserError, nearest
from maskvos.settings.table import check_settings


@dataclass(frozen=True)
class Style:
    """Content of procedural clips. Probabilities are per clip unless noted.

    Attributes:
        objects: Maximum number of main objects.
        area: Range of the first object's area, as a fraction of the frame.
        speed: Range of object speeds, in frame widths per frame.
        distractors: Maximum number of static distractors.
        follow: The camera follows the object.
        still: The camera is static.
        shake: The camera is hand-held.
        parallax: The scene has layers at several depths.
        occluders: The scene has occluders in the foreground.
        deform: An object bends in waves (per object that has a single part).
        stop: An object pauses (per object).
        leave: An object may leave the frame (per object).
        camouflage: An object has the background's kind of texture (per object).
        shadow: An object casts a shadow (per object).
        ripple: The background moves like water.
        motion_blur: Frames have motion blur.
        light: The illumination changes.
        soft: The lens is out of focus.
        noise: The sensor is noisy.
        jpeg: Frames are compressed with JPEG.
        h264: The clip is compressed with H.264.

    Raises:
        UserError: A value is out of range.
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
        check_settings(vars(self), "data.style")
        for name in ("area", "speed"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"data.style.{name}={[low, high]}: give the lower end first")

    @classmethod
    def of(cls, settings: Mapping[str, object] | None) -> Style:
        """The default style with some settings changed.

        Raises:
            UserError: Unknown setting, or a value out of range.
        """
        names = [field.name for field in fields(cls)]
        for name in settings or {}:
            if name not in names:
                raise UserError(f"synthetic: unknown style setting '{name}'; {nearest(name, names)}")
        changed = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in (settings or {}).items()}
        return replace(cls(), **changed)  # type: ignore[arg-type]

    @classmethod
    def plain(cls) -> Style:
        """The default style without effects that change an object's colours between frames (brightness constancy)."""
        return cls(shadow=0, motion_blur=0, light=0, soft=0, noise=0, jpeg=0, h264=0)
