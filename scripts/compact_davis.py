"""Write a downscaled copy of the DAVIS-2016 train split in the same layout, a few tens of megabytes.

    python scripts/compact_davis.py --davis <DAVIS> --output <folder>/DAVIS

For slow connections, and for small models, whose input is smaller than the frames anyway. Train on it with
`paths.data=<folder>`. DAVIS is licensed CC BY-NC 4.0, and so is the copy.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np

from maskvos.data.dataset import read_mask
from maskvos.data.datasets.davis import davis
from maskvos.media.files import write_bytes
from maskvos.media.images import read_image, resize_image
from maskvos.types import Frame


def write_frame(frame: Frame, root: Path, output: Path, width: int, quality: int) -> int:
    """Write one downscaled frame and its mask; returns their size in bytes."""
    image = read_image(frame.image)
    size = (round(image.shape[0] * width / image.shape[1]), width)
    mask = read_mask(frame.mask, image.shape[:2]).astype(np.float32)
    pictures = {
        frame.image: (cv2.cvtColor(resize_image(image, size), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]),
        # A pixel is foreground if at least half of its area is.
        frame.mask: (np.uint8(255 * (resize_image(mask, size) >= 0.5)), [cv2.IMWRITE_PNG_BILEVEL, 1]),
    }
    total = 0
    for path, (picture, options) in pictures.items():
        data = cv2.imencode(path.suffix, picture, options)[1].tobytes()
        write_bytes(output / path.relative_to(root), data)
        total += len(data)
    return total


def main() -> None:
    """Downscale and copy the split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True, help="root folder of DAVIS-2016")
    parser.add_argument("--output", type=Path, required=True, help="root folder of the copy")
    parser.add_argument("--width", type=int, default=448, help="frame width in pixels")
    parser.add_argument("--quality", type=int, default=70, help="JPEG quality, 1 to 100")
    options = parser.parse_args()
    videos = davis(options.davis, "train", hold_out=())
    frames = [frame for video in videos for frame in video.frames]
    total = sum(write_frame(frame, options.davis, options.output, options.width, options.quality) for frame in frames)
    # Written last, so that an incomplete copy is not a valid dataset.
    split = Path("ImageSets/480p/train.txt")
    (options.output / split).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(options.davis / split, options.output / split)
    print(f"{len(frames)} frames of {len(videos)} sequences, {total / 1e6:.1f} MB: {options.output}")


if __name__ == "__main__":
    main()
