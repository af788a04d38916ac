"""Measure flicker: the share of pixels whose mask changes from frame to frame although the flow says that they stay.

    python scripts/benchmarks/flicker.py <masks> [<other masks> ...] --davis <DAVIS> --split val

The mask of the next frame is fetched along the optical flow and compared with that of this frame, where forward and
backward flow agree to 1.5 pixels. The folders hold ``<sequence>/<frame>.png``, as ``task=evaluate`` reads them; the
mean is over frames, then over sequences.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from maskvos.data.datasets.davis import davis
from maskvos.flow.base import pair_flow, resize_flow
from maskvos.flow.dis import DIS
from maskvos.media.images import read_image
from maskvos.types import Video


def changes(video: Video, folders: list[Path]) -> np.ndarray:
    """Percentage of changed pixels, (F, T - 1) for F folders of masks and T frames."""
    estimator = DIS(preset="medium", max_size=448)
    images = [read_image(frame.image) for frame in video.frames]
    y, x = np.mgrid[: images[0].shape[0], : images[0].shape[1]].astype(np.float32)
    found = np.empty((len(folders), len(images) - 1))
    for t, (first, second) in enumerate(pairwise(images)):
        forward, backward = (
            resize_flow(pair_flow(*pair, estimator), first.shape[:2]) for pair in ((first, second), (second, first))
        )
        there = x + forward[..., 0], y + forward[..., 1]
        back = cv2.remap(backward, *there, cv2.INTER_LINEAR)
        agree = np.linalg.norm(forward + back, axis=-1) < 1.5
        for index, folder in enumerate(folders):
            here, after = (read_image(folder / video.name / f"{video.frames[i].name}.png")[..., 0] for i in (t, t + 1))
            fetched = cv2.remap(after, *there, cv2.INTER_NEAREST)
            found[index, t] = 100 * ((fetched > 127) != (here > 127))[agree].mean()
    return found


def main() -> None:
    """Print the percentage of each folder and sequence, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", nargs="+", type=Path)
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    rows = {video.name: changes(video, options.masks).mean(axis=1) for video in davis(options.davis, options.split)}
    for name, values in (*rows.items(), ("mean", np.mean(list(rows.values()), axis=0))):
        print(f"{name:<20}" + "".join(f"{value:8.2f}" for value in values))


if __name__ == "__main__":
    main()
