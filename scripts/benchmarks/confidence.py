"""How well confidence says which masks are good: its rank correlation with J on annotated videos.

python scripts/benchmarks/confidence.py data/DAVIS val
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import maskvos
from maskvos.data.datasets.davis import davis
from maskvos.media.images import read_image
from maskvos.metrics.functional import jaccard
from maskvos.text import table


def main() -> None:
    """Print J and confidence per video, and Spearman's correlation over videos and over frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder of DAVIS-2016")
    parser.add_argument("split", nargs="?", default="val")
    parser.add_argument("--weights", default="light")
    given = parser.parse_args()
    model = maskvos.load(given.weights)
    rows: list[list[str]] = []
    scores: list[np.ndarray] = []  # of each video: (T, 2), J and confidence
    for video in davis(given.root, given.split):
        truths = (read_image(frame.mask)[..., 0] > 0 for frame in video.annotated if frame.mask is not None)
        found = zip(truths, model.stream(video), strict=True)
        scores.append(np.array([[jaccard(frame.mask, truth), frame.confidence] for truth, frame in found]))
        rows.append([video.name, *(f"{value:.3f}" for value in scores[-1].mean(axis=0))])
    print(table([["video", "J", "confidence"], *rows]))
    for name, pairs in {"videos": np.stack([s.mean(axis=0) for s in scores]), "frames": np.concatenate(scores)}.items():
        print(f"rank correlation of confidence with J over {len(pairs)} {name}: {spearmanr(*pairs.T)[0]:.3f}")


if __name__ == "__main__":
    main()
