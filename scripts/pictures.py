"""Draw the images of the documentation from procedural clips, into docs/images.

python scripts/pictures.py [--output FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import maskvos
from maskvos.build import build
from maskvos.flow.base import pair_flow
from maskvos.flow.colours import flow_to_rgb
from maskvos.flow.dis import DIS
from maskvos.inference.outputs.movies import draw_flow
from maskvos.media.draw import contact_sheet, draw_overlay, side_by_side
from maskvos.media.images import write_image
from maskvos.run import compose
from maskvos.synthetic.clips import Clip, generate_clip

SIZE = (240, 400)
SEEDS = (6, 18, 26)
ANIMATION_SEED = 40
AUGMENTATION_SEEDS = (1, 4, 5)
HEIGHT = 150  # of a row, pixels


def flow_sheet(clips: list[Clip]) -> np.ndarray:
    """Frame with mask, exact flow and DIS flow, one row per clip; (H, W, 3) uint8."""
    estimator, middle = DIS(), len(clips[0].rgb) // 2
    rows = []
    for clip in clips:
        estimated = pair_flow(clip.rgb[middle], clip.rgb[middle + 1], estimator)
        rows.append(
            {
                "frame and mask": draw_overlay(clip.rgb[middle], clip.mask[middle]),
                "exact flow": flow_to_rgb(clip.flow[middle]),
                "DIS flow": flow_to_rgb(estimated),
            }
        )
    return contact_sheet(rows, height=HEIGHT)


def augmentation_sheet(clip: Clip) -> np.ndarray:
    """One frame with flow and mask after ``augment=standard``, one row per random draw; (H, W, 3) uint8."""
    transform = build(compose(["data=synthetic", f"data.size={list(SIZE)}"]).data).train_transform
    middle, rows = len(clip.rgb) // 2, []
    for seed in AUGMENTATION_SEEDS:
        sample = transform(clip.rgb[middle], clip.flow[middle], clip.mask[middle], seed=seed)
        rows.append(
            {
                "frame": (sample["rgb"].permute(1, 2, 0).numpy() * 255).astype(np.uint8),
                "flow": flow_to_rgb(sample["flow"].permute(1, 2, 0).numpy()),
                "mask": sample["mask"][0].numpy(),
            }
        )
    return contact_sheet(rows, height=HEIGHT)


def write_animation(clip: Clip, path: Path) -> None:
    """Write an animated WebP of frame, optical flow, and overlay predicted with the bundled weights."""
    pictures = [
        Image.fromarray(
            side_by_side([frame.image, draw_flow(frame.flow, frame.mask.shape), draw_overlay(frame.image, frame.mask)])
        )
        for frame in maskvos.load(device="cpu").stream(iter(clip.rgb))
    ]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=80, loop=0, quality=60, method=4)


def main() -> None:
    """Draw and write all images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    clips = [generate_clip(seed, frames=12, size=SIZE) for seed in SEEDS]
    write_image(folder / "flow.png", flow_sheet(clips))
    write_image(folder / "augmentation.png", augmentation_sheet(clips[0]))
    write_animation(generate_clip(ANIMATION_SEED, frames=36, size=(216, 360)), folder / "demo.webp")


if __name__ == "__main__":
    main()
