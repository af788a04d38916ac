"""What prediction writes of a video: one kind, one entry of `KINDS`.

A kind is a file or a folder in the folder of the video, and a class that writes it frame by frame: add another one to
`KINDS`, and it is resumed, overwritten and locked like all of them.
"""

from __future__ import annotations

from maskvos.inference.outputs.background import OnBackground
from maskvos.inference.outputs.base import Kind, Look, Output, Target
from maskvos.inference.outputs.coco import Coco
from maskvos.inference.outputs.images import Images, draw_cutouts, draw_masks, draw_soft
from maskvos.inference.outputs.movies import (
    Movie,
    draw_alpha,
    draw_matte,
    draw_overlays,
    draw_side_by_side,
)
from maskvos.media.draw import GREEN
from maskvos.media.encode import FFV1_GREY, GIF, H264, PRORES_4444, VP9_ALPHA, WEBP

__all__ = ["KINDS", "TRANSPARENT", "Kind", "Look", "Output", "Target"]

KINDS: dict[str, Kind] = {
    "masks": Kind("masks", lambda target: Images(target, draw_masks)),
    "soft": Kind("soft", lambda target: Images(target, draw_soft)),
    "overlay": Kind("overlay.mp4", lambda target: Movie(target, draw_overlays, H264)),
    "side_by_side": Kind("side_by_side.mp4", lambda target: Movie(target, draw_side_by_side, H264)),
    "cutout": Kind("cutout", lambda target: Images(target, draw_cutouts)),
    "coco": Kind("coco.json", Coco),
    "mask_movie": Kind("masks.mkv", lambda target: Movie(target, draw_masks, FFV1_GREY)),
    "matte": Kind("matte.mp4", lambda target: Movie(target, draw_matte, H264)),
    "green_screen": Kind("green_screen.mp4", lambda target: OnBackground(target, GREEN)),
    "background": Kind("background.mp4", OnBackground),
    "webm": Kind("cutout.webm", lambda target: Movie(target, draw_alpha, VP9_ALPHA)),
    "prores": Kind("cutout.mov", lambda target: Movie(target, draw_alpha, PRORES_4444)),
    "webp": Kind("cutout.webp", lambda target: Movie(target, draw_cutouts, WEBP)),
    "gif": Kind("cutout.gif", lambda target: Movie(target, draw_cutouts, GIF)),
}
"""Name to kind, in the order in which they are written."""

TRANSPARENT = {"cutout", "matte", "green_screen", "background", "webm", "prores", "webp", "gif"}
"""Kinds that show the object alone, with soft or hard edges."""
