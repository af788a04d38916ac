"""Draw a contact sheet for visual inspection of optical flow: frame, DIS and RAFT-small flow of some DAVIS sequences.

python scripts/flow_sheet.py <DAVIS> --raft <weights> --sequences blackswan parkour --output sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from maskvos.flow.base import FlowEstimator
from maskvos.flow.colours import flow_to_rgb
from maskvos.flow.dis import DIS
from maskvos.flow.raft import RAFT
from maskvos.flow.store import FlowStore
from maskvos.media.draw import draw_label, side_by_side
from maskvos.media.images import read_image, write_image
from maskvos.types import Frame, Video

WIDTH = 427  # of a column, pixels


def draw_row(video: Video, index: int, estimators: list[FlowEstimator]) -> np.ndarray:
    """One frame and its flow by each estimator, labelled with the longest vector; (H, W, 3) uint8."""
    frame = video.frames[index]
    row = [draw_label(read_image(frame.image), f"{video.name} {frame.name}")]
    for estimator in estimators:
        flow = FlowStore(estimator).load(video, index)
        longest = np.linalg.norm(flow, axis=-1).max()
        row.append(draw_label(flow_to_rgb(flow), f"{estimator.settings['name']}, max {longest:.1f} px"))
    return side_by_side(row, max_width=len(row) * (WIDTH + 4) - 4)


def main() -> None:
    """Draw three rows for each sequence; the last of them is its last frame, which has the negated backward flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=Path, help="root folder of DAVIS-2016")
    parser.add_argument("--raft", type=Path, help="weights of RAFT-small; without them only DIS is drawn")
    parser.add_argument("--sequences", nargs="+", default=["blackswan", "parkour"])
    parser.add_argument("--output", type=Path, default=Path("sheet.png"))
    arguments = parser.parse_args()
    estimators: list[FlowEstimator] = [DIS(), *([RAFT("small", arguments.raft)] if arguments.raft else [])]
    rows = []
    for sequence in arguments.sequences:
        images = sorted((arguments.davis / "JPEGImages" / "480p" / sequence).glob("*.jpg"))
        video = Video(sequence, tuple(Frame(path.stem, path) for path in images))
        rows += [draw_row(video, index, estimators) for index in (len(images) // 4, len(images) // 2, len(images) - 1)]
    write_image(arguments.output, np.vstack(rows))


if __name__ == "__main__":
    main()
