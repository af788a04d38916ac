"""Optical flow: speed of colour coding, reading and estimation, endpoint error, photometric error.

    python scripts/benchmarks/flow.py                                       # on procedural frames
    python scripts/benchmarks/flow.py --davis <DAVIS> --raft <weights>      # on real frames, with RAFT-small

Methods are interleaved, so that other load on the machine affects all alike; times are medians over rounds. ``--raft``
takes the authors' ``raft-small.pth`` or torchvision's file; without it RAFT is timed with random weights. The
photometric error is the mean absolute difference of grey levels between a frame and the next one warped by the flow,
including pixels that leave the frame. The endpoint error on procedural clips is clipped at `LARGE` pixels, and given
over whole frames and near object outlines.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.models.optical_flow import raft_small
from torchvision.utils import flow_to_image

from maskvos.flow.base import FlowEstimator, pair_flow
from maskvos.flow.codec import read_flow, write_flow
from maskvos.flow.colours import flow_to_rgb, flow_to_rgb_tensor
from maskvos.flow.dis import DIS, PRESETS
from maskvos.flow.raft import RAFT
from maskvos.synthetic.clips import generate_clip

HEIGHT, WIDTH = 480, 854
CLIP_SIZE = (252, 448)
NEAR = 6  # distance from the outline, pixels
LARGE = 20.0  # clip of the endpoint error, pixels
FINE = DIS(finest_scale=0, patch_stride=5, refinements=10, smoothness=60.0)
"""At full resolution, and smoother than the presets."""


def medians(methods: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each method, interleaved, after one warm-up round.

    CPU time with one thread, since other processes affect it least, else wall time.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for round_ in range(rounds + 1):
        for name, method in methods.items():
            begin = clock()
            method()
            if round_:
                seconds[name].append(clock() - begin)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def drawn_pair() -> tuple[np.ndarray, np.ndarray]:
    """Two frames of smooth texture, (480, 854, 3) uint8, the second rotated by two degrees."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0).astype(np.float32)
    first = np.clip((smooth - smooth.mean()) * 8 + 128, 0, 255).astype(np.uint8)
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 2.0, 1.0)
    return first, cv2.warpAffine(first, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)


def real_pairs(davis: Path, count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of consecutive frames, one per sequence, from sequences spread over the dataset."""
    folders = [folder for folder in sorted((davis / "JPEGImages" / "480p").iterdir()) if folder.is_dir()]
    pairs = {}
    for folder in folders[:: max(1, len(folders) // count)][:count]:
        images = sorted(folder.glob("*.jpg"))
        middle = len(images) // 2
        first, second = (cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in images[middle : middle + 2])
        pairs[folder.name] = (first, second)
    return pairs


def time_drawing(flow: np.ndarray, rounds: int) -> None:
    """Colour-code one flow map, as tensor and as image, compared with torchvision."""
    noise = np.random.default_rng(1).standard_normal(flow.shape).astype(np.float32)
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for kind, vectors in (("smooth", flow), ("random", noise)):
            tensor = torch.from_numpy(vectors).permute(2, 0, 1)[None].contiguous()
            took = medians(
                {
                    "torchvision": lambda tensor=tensor: flow_to_image(tensor),
                    "ours, tensor": lambda tensor=tensor: flow_to_rgb_tensor(tensor),
                    "ours, picture": lambda vectors=vectors: flow_to_rgb(vectors),
                },
                rounds,
            )
            print(f"drawing {kind} flow, {threads} thread(s):", end="")
            for name, seconds in took.items():
                print(f"  {name} {seconds * 1e3:.2f} ms ({took['torchvision'] / seconds:.1f}x)", end="")
            print()


def time_reading(flow: np.ndarray, rounds: int) -> None:
    """Read one flow map from each file format."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("flow.png", "flow.flo")]
        for path in paths:
            write_flow(path, flow)
        took = medians({path.name: lambda path=path: read_flow(path) for path in paths}, rounds)
        for path in paths:
            print(f"reading {path.suffix}: {took[path.name] * 1e3:.2f} ms, {path.stat().st_size / 1024:.0f} KiB")


def time_estimating(estimators: dict[str, FlowEstimator], first: np.ndarray, second: np.ndarray, rounds: int) -> None:
    """Estimate flow at 854x480, frames per second."""
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        methods = {
            name: lambda estimator=estimator: pair_flow(first, second, estimator)
            for name, estimator in estimators.items()
        }
        for name, seconds in medians(methods, rounds).items():
            print(f"estimating {WIDTH}x{HEIGHT}, {threads} thread(s): {name} {1 / seconds:.2f} frames/s")


def photometric_error(first: np.ndarray, second: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Absolute grey-level difference between a frame and the next one warped by the flow: (H, W), mean of channels."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    fetched = cv2.remap(second, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.abs(fetched.astype(np.float32) - first.astype(np.float32)).mean(-1)


def explain_frames(estimators: dict[str, FlowEstimator], pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Photometric error on real frames."""
    means: dict[str, list[float]] = {"no flow": [], **{name: [] for name in estimators}}
    print(f"\nphotometric error (levels), {len(pairs)} pairs\n{'':20}" + "".join(f"{name:>14}" for name in means))
    for sequence, (first, second) in pairs.items():
        still = np.zeros((*first.shape[:2], 2), np.float32)
        for name in means:
            flow = pair_flow(first, second, estimators[name]) if name in estimators else still
            means[name].append(float(photometric_error(first, second, flow).mean()))
        print(f"{sequence:20}" + "".join(f"{values[-1]:14.2f}" for values in means.values()))
    print(f"{'mean':20}" + "".join(f"{np.mean(values):14.2f}" for values in means.values()))


def errors_on_clips(estimators: dict[str, FlowEstimator], clips: int) -> None:
    """Endpoint error against the exact flow of procedural clips, and CPU time per pair, ms."""
    square = np.ones((3, 3), np.uint8)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in estimators}
    for seed in range(clips):
        clip = generate_clip(seed, 3, CLIP_SIZE)
        mask = clip.mask[1]
        near = cv2.dilate(mask, square, iterations=NEAR) > cv2.erode(mask, square, iterations=NEAR)
        for name, estimator in estimators.items():
            begin = time.process_time()
            flow = pair_flow(clip.rgb[1], clip.rgb[2], estimator)
            spent = time.process_time() - begin
            error = np.linalg.norm(flow - clip.flow[1], axis=2).clip(max=LARGE)
            if near.any():
                rows[name].append((float(error.mean()), float(error[near].mean()), 1e3 * spent))
    print(f"\n{'error on clips':20}{'all':>10}{'outline':>10}{'ms':>10}")
    for name, values in rows.items():
        print(f"{name:20}{''.join(f'{value:10.2f}' for value in np.mean(values, 0))}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, help="DAVIS folder with JPEGImages/480p")
    parser.add_argument("--raft", type=Path, help="weights of RAFT-small")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--raft-rounds", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=8, help="real pairs for the photometric error")
    parser.add_argument("--clips", type=int, default=100, help="procedural clips for the endpoint error")
    arguments = parser.parse_args()
    first, second = drawn_pair()
    flow = pair_flow(first, second, DIS())
    time_drawing(flow, arguments.rounds)
    time_reading(flow, arguments.rounds)
    dis = {**{f"dis {preset}": DIS(preset) for preset in PRESETS}, "dis fine": FINE}
    time_estimating(dis, first, second, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.raft or Path(folder) / "random.pth"
        if arguments.raft is None:
            torch.save(raft_small().state_dict(), weights)
        raft = RAFT("small", weights)
        time_estimating({"raft small": raft}, first, second, arguments.raft_rounds)
    known = {**dis, **({"raft small": raft} if arguments.raft else {})}
    errors_on_clips(known, arguments.clips)
    if arguments.davis is not None:
        explain_frames(known, real_pairs(arguments.davis, arguments.pairs))


if __name__ == "__main__":
    main()
