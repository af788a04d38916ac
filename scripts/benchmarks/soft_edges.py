"""How good and how fast soft edges are: J and F of masks, and of opacity above one half, on annotated videos.

python scripts/benchmarks/soft_edges.py data/DAVIS val
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

import maskvos
from maskvos.data.datasets.davis import davis
from maskvos.media.alpha import foreground, soft_alpha
from maskvos.media.images import read_image
from maskvos.metrics.functional import jaccard_and_boundary_f
from maskvos.text import table


def main() -> None:
    """Print J and F per video under the DAVIS protocol, and the milliseconds of a core per frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of DAVIS-2016")
    parser.add_argument("split", nargs="?", default="val")
    parser.add_argument("--weights", default="light")
    given = parser.parse_args()
    model = maskvos.load(given.weights)
    model.refine = False  # which would make both the same
    cv2.setNumThreads(1)
    means, seconds = {}, []
    for video in davis(given.root, given.split):
        scores = []
        for frame, annotated in zip(model.stream(video), video.frames, strict=True):
            if annotated.mask is None or frame.index in (0, len(video.frames) - 1):
                continue
            truth = read_image(annotated.mask)[..., 0] > 0
            begin = time.thread_time()
            alpha = soft_alpha(frame.image, frame.mask)
            middle = time.thread_time()
            foreground(frame.image, alpha)
            seconds.append((middle - begin, time.thread_time() - middle))
            hard, soft = (jaccard_and_boundary_f(mask, truth) for mask in (frame.mask, alpha > 127))
            scores.append([*hard, *soft])
        means[video.name] = np.mean(scores, axis=0)
    means["mean"] = np.mean(list(means.values()), axis=0)
    rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in means.items()]
    print(table([["video", "J", "F", "J soft", "F soft"], *rows]))
    for name, times in zip(("soft_alpha", "foreground"), np.transpose(seconds), strict=True):
        print(f"{name}: {1e3 * np.median(times):.1f} ms, 90% below {1e3 * np.quantile(times, 0.9):.1f} ms")


if __name__ == "__main__":
    main()
