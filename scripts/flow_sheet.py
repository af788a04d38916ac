"""Draws a contact sheet of flow, to be looked at: frame, DIS and RAFT-small for some frames of some sequences.

python scripts/flow_sheet.py <DAVIS> --raft <weights> --sequences blackswan parkour --output sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from maskvos.flow.base import FlowEstimator
from maskvos.flow.codec import flow_to_rgb
from maskvos.flow.dis import DIS
from maskvos.flow.raft import RAFT
from maskvos.flow.store import FlowStore
from maskvos.types import Frame, Video


def titled(rgb: np.ndarray, title: str) -> np.ndarray:
    """A small copy of a picture, (240, 427, 3) uint8, with a title in its corner."""
    small = cv2.resize(rgb, (427, 240), interpolation=cv2.INTER_AREA)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(small, title, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width, cv2.LINE_AA)
    return small


def main() -> None:
    """Draw the sheet: a row per frame, the last row of a sequence its last frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=Path)
    parser.add_argument("--raft", type=Path, help="weights of RAFT-small; without them DIS alone is drawn")
    parser.add_argument("--sequences", nargs="+", default=["blackswan", "parkour"])
    parser.add_argument("--output", type=Path, default=Path("sheet.png"))
    arguments = parser.parse_args()
    estimators: list[FlowEstimator] = [DIS(), *([RAFT("small", arguments.raft)] if arguments.raft else [])]
    rows = []
    for sequence in arguments.sequences:
        images = sorted((arguments.davis / "JPEGImages" / "480p" / sequence).glob("*.jpg"))
        video = Video(sequence, tuple(Frame(path.stem, path) for path in images))
        for index in (len(images) // 4, len(images) // 2, len(images) - 1):
            rgb = cv2.cvtColor(cv2.imread(str(images[index])), cv2.COLOR_BGR2RGB)
            row = [titled(rgb, f"{sequence} {images[index].stem}")]
            for estimator in estimators:
                flow = FlowStore(estimator).load(video, index)
                longest = np.linalg.norm(flow, axis=-1).max()
                row.append(titled(flow_to_rgb(flow), f"{estimator.settings['name']}, longest {longest:.1f} px"))
            rows.append(np.hstack(row))
    cv2.imwrite(str(arguments.output), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
