"""Speed of scoring masks, compared with two other implementations of the same measures.

    python scripts/benchmarks/evaluation.py                          # on procedural masks
    python scripts/benchmarks/evaluation.py --davis <DAVIS>          # on shifted annotations of DAVIS
    python scripts/benchmarks/evaluation.py --davis <DAVIS> --predictions <folder with <sequence>/<frame>.png>

One run, one thread, methods interleaved frame by frame, so that other load on the machine affects all alike. All
methods must return the same scores. scikit-image (first baseline) and pysodmetrics are optional; without them their
rows are missing: ``pip install scikit-image pysodmetrics``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from maskvos.metrics import functional as F
from maskvos.metrics.saliency import Saliency

HEIGHT, WIDTH = 480, 854
VALIDATION_FRAMES = 1376


def draw(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of prediction and ground truth (480, 854) bool: unions of ellipses as large as real objects."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        truth = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(5):
            centre = (int(rng.normal(WIDTH / 2, 90)), int(rng.normal(HEIGHT / 2, 50)))
            axes = (int(rng.integers(20, 120)), int(rng.integers(20, 90)))
            cv2.ellipse(truth, centre, axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
        yield np.roll(truth, (4, 7), (0, 1)) > 0, truth > 0


def real(davis: Path, predictions: Path | None, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of prediction and ground truth of frames spread over DAVIS."""
    annotations = davis / "Annotations" / "480p"
    paths = sorted(annotations.glob("*/*.png"))
    if predictions is not None:
        paths = [path for path in paths if (predictions / path.relative_to(annotations)).is_file()]
    for path in paths[:: max(1, len(paths) // count)][:count]:
        truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0
        if predictions is None:
            yield np.roll(truth, (4, 7), (0, 1)), truth
        else:
            saved = cv2.imread(str(predictions / path.relative_to(annotations)), cv2.IMREAD_GRAYSCALE)
            yield saved > 127, truth


def whole_frame_boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary map as defined by the official code, with operations on whole bool arrays."""
    right, below, both = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ both)
    edge[-1] = mask[-1] ^ right[-1]
    edge[:, -1] = mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


def whole_frame_f(prediction: np.ndarray, truth: np.ndarray, dilate: Callable[[np.ndarray], np.ndarray]) -> float:
    """Boundary F on whole frames as in the toolkits: products of boundary maps, with a given dilation."""
    valid = np.logical_not(np.zeros_like(prediction))
    edges = [whole_frame_boundary(mask * valid) for mask in (prediction, truth)]
    wide = [dilate(edge) for edge in edges]
    counts = [float(np.sum(edge)) for edge in edges]
    matched = [np.sum(edges[0] * wide[1]), np.sum(edges[1] * wide[0])]
    if 0 in counts:
        return float(counts[0] == counts[1])
    precision, recall = matched[0] / counts[0], matched[1] / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def whole_frame_j(prediction: np.ndarray, truth: np.ndarray) -> float:
    """J as in the DAVIS-2017 toolkit, with an empty map of void pixels."""
    prediction, truth, void = prediction.astype(bool), truth.astype(bool), np.zeros_like(prediction)
    intersection = np.sum((prediction & truth) & np.logical_not(void), axis=(-2, -1))
    union = np.sum((prediction | truth) & np.logical_not(void), axis=(-2, -1))
    return 1.0 if np.isclose(union, 0) else float(intersection / union)


def disk() -> np.ndarray:
    """Structuring element of the official tolerance at this size: a disk, uint8."""
    radius = int(np.ceil(0.008 * np.hypot(HEIGHT, WIDTH)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def baselines() -> dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, float]]]:
    """Other implementations of J and F, without those whose package is not installed."""
    element = disk()

    def by_opencv(edge: np.ndarray) -> np.ndarray:
        return cv2.dilate(edge.astype(np.uint8), element)

    methods = {}
    if importlib.util.find_spec("skimage"):
        from skimage import morphology

        dilation = getattr(morphology, "dilation" if hasattr(morphology, "footprint_rectangle") else "binary_dilation")

        def by_skimage(edge: np.ndarray) -> np.ndarray:
            return dilation(edge, element)

        methods["scikit-image disk"] = lambda p, t: (whole_frame_j(p, t), whole_frame_f(p, t, by_skimage))
    methods["OpenCV disk"] = lambda p, t: (whole_frame_j(p, t), whole_frame_f(p, t, by_opencv))
    return methods


def soften(prediction: np.ndarray) -> np.ndarray:
    """Turn a mask into a saliency map (H, W) uint8."""
    noise = np.random.default_rng(0).normal(0, 10, prediction.shape)
    return np.clip(cv2.GaussianBlur(prediction * 230.0, (0, 0), 6) + 12 + noise, 0, 255).astype(np.uint8)


def our_saliency(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """MAE, max F, max E and S of one frame."""
    saliency = Saliency.of(prediction, truth)
    return saliency.mae, saliency.max_f, saliency.max_e, saliency.s


def pysodmetrics(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """The same four measures by the package ``pysodmetrics``, without rescaling the maps."""
    import py_sod_metrics as other

    warnings.simplefilter("ignore")  # deprecation warnings at every call
    steps = other.MAE(), other.Fmeasure(), other.Emeasure(), other.Smeasure()
    for step in steps:
        step.step(prediction / 255, truth, normalize=False)
    mae, f, e, s = (step.get_results() for step in steps)
    return mae["mae"], f["fm"]["curve"].max(), e["em"]["curve"].max(), s["sm"]


def measure(pairs: list[tuple[np.ndarray, np.ndarray]], repeats: int) -> dict[str, float]:
    """Time of each method, ms: the best of the repeats of each frame, averaged over frames.

    Raises:
        SystemExit: A baseline returns another score.
    """
    region = baselines()
    saliency = {"pysodmetrics": pysodmetrics} if importlib.util.find_spec("py_sod_metrics") else {}
    best: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, function: Callable[..., object], *args: object) -> object:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            value = function(*args)
            times.append(time.perf_counter() - start)
        best[name].append(min(times))
        return value

    for prediction, truth in pairs:
        ours = timed("J+F ours", F.jaccard_and_boundary_f, prediction, truth)
        timed("J ours", F.jaccard, prediction, truth)
        timed("F ours", F.boundary_f, prediction, truth)
        for name, method in region.items():
            theirs = timed(f"J+F {name}", method, prediction, truth)
            if theirs != ours:
                sys.exit(f"{name} has {theirs}, ours {ours}: they must be equal")
        soft = soften(prediction)
        ours = timed("VSOD ours", our_saliency, soft, truth)
        for name, method in saliency.items():
            theirs = timed(f"VSOD {name}", method, soft, truth)
            if not np.allclose(theirs, ours, rtol=0, atol=1e-9):
                sys.exit(f"{name} has {theirs}, ours {ours}: they must be equal")
    return {name: 1000 * float(np.mean(times)) for name, times in best.items()}


def measure_decoding(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Time to read one mask PNG, ms."""
    from maskvos.metrics.reading import read_prediction

    with tempfile.TemporaryDirectory() as folder:
        times = []
        for index, (prediction, _) in enumerate(pairs):
            path = Path(folder) / f"{index}.png"
            Image.fromarray(prediction.astype(np.uint8) * 255).save(path)
            single = []
            for _ in range(3):
                start = time.perf_counter()
                read_prediction(path)
                single.append(time.perf_counter() - start)
            times.append(min(single))
    return 1000 * float(np.mean(times))


FOLDER = """
import os, resource, sys, time
from pathlib import Path
from maskvos.metrics import Protocol, evaluate_folder
from maskvos.types import Frame, Video
root, workers, frames = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
names = [path.name for path in sorted((root / "truth" / "0").iterdir())]
videos = [
    Video(folder.name, tuple(Frame(name[:-4], folder / name, folder / name) for name in names))
    for folder in sorted((root / "truth").iterdir())[: frames // len(names)]
]
start, before = time.perf_counter(), sum(os.times()[:4])
evaluate_folder(root / "masks", videos, Protocol("all_frames"), missing="skip", workers=workers, progress=False)
wall, used = time.perf_counter() - start, os.times()
scale = 1000 / (len(names) * len(videos))
memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(scale * wall, scale * (sum(used[:4]) - before), memory / 1024)
"""


def measure_folder(pairs: list[tuple[np.ndarray, np.ndarray]], frames: int) -> None:
    """Score a validation set from disk with one and two workers, and a quarter of it to compare peak memory."""
    each = 43
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind, index in (("masks", 0), ("truth", 1)):
            for video in range(frames // each):
                (root / kind / str(video)).mkdir(parents=True)
                for frame in range(each):
                    mask = pairs[(video * each + frame) % len(pairs)][index]
                    image = Image.fromarray(mask.astype(np.uint8) * 255 if kind == "masks" else mask)
                    image.save(root / kind / str(video) / f"{frame:05}.png")
        for workers, count in ((1, frames // 4), (1, frames), (2, frames)):
            command = [sys.executable, "-c", FOLDER, str(root), str(workers), str(count)]
            wall, processor, memory = map(float, subprocess.check_output(command, text=True).split())
            print(
                f"folder of {count} frames, {workers} worker(s): {wall:.2f} ms/frame ({processor:.2f} ms of CPU"
                f" time), peak {memory:.0f} MiB"
            )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--davis", type=Path, help="folder with Annotations/480p; default: procedural masks")
    parser.add_argument("--predictions", type=Path, help="folder with <sequence>/<frame>.png")
    parser.add_argument("--frames", type=int, default=40, help="number of frames")
    parser.add_argument("--repeats", type=int, default=3, help="repeats per frame, of which the best counts")
    parser.add_argument("--folder", type=int, default=VALIDATION_FRAMES, help="frames scored from disk; 0 skips it")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    pairs = list(real(args.davis, args.predictions, args.frames) if args.davis else draw(args.frames))
    times = measure(pairs, args.repeats)
    print(f"{len(pairs)} frames of {pairs[0][0].shape[1]}x{pairs[0][0].shape[0]}, one thread, ms/frame:")
    for name, milliseconds in times.items():
        group = name.split(" ")[0]
        ratio = milliseconds / times[f"{group} ours"]
        print(f"  {name:24} {milliseconds:8.3f}" + (f"   {ratio:6.1f} x ours" if not name.endswith("ours") else ""))
    print(f"  decoding one mask PNG    {measure_decoding(pairs):8.3f}")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if args.folder:
        measure_folder(pairs, args.folder)


if __name__ == "__main__":
    main()
