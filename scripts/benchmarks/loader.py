"""Speed of loading training samples, compared with a loader that uses PIL and torchvision.

    python scripts/benchmarks/loader.py [--davis <DAVIS>] [--samples 48] [--rounds 5]

One process, one thread, samples of both loaders interleaved, so that other load on the machine affects both alike. Both
return frame, flow and mask at 512x512 without augmentation. The baseline reads flow from colour images, as the original
project does; ours reads vectors from the cache, in both formats. Then it measures the time to the first batch of a list
of 100,000 frames, listing included, and the time per sample in a large and a small list.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from maskvos.data.datamodule import VideoDataModule
from maskvos.data.dataset import FrameDataset
from maskvos.data.datasets.davis import davis
from maskvos.data.transforms import Transform
from maskvos.flow.colours import flow_to_rgb
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.types import Video

SIZE = (512, 512)


class PilLoader:
    """Loads frame, flow image and mask with PIL and torchvision.

    Args:
        videos: Videos with masks.
        pictures: Folder of the flow images.
    """

    def __init__(self, videos: list[Video], pictures: Path) -> None:
        self.frames = [(video, frame) for video in videos for frame in video.frames]
        self.pictures = pictures
        normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.colour = transforms.Compose([transforms.Resize(SIZE), transforms.ToTensor(), normalise])
        nearest = transforms.InterpolationMode.NEAREST
        self.grey = transforms.Compose([transforms.Resize(SIZE, interpolation=nearest), transforms.ToTensor()])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Load one sample."""
        video, frame = self.frames[index]
        rgb = Image.open(frame.image).convert("RGB")
        flow = Image.open(self.pictures / f"{video.name}-{frame.name}.png").convert("RGB")
        mask = Image.open(frame.mask or "").convert("L")
        return self.colour(rgb), self.colour(flow), self.grey(mask)


def write_clips(root: Path, videos: int, frames: int) -> None:
    """Write DAVIS-like clips of 854x480: moving smooth texture, JPEG frames and elliptic masks."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(videos):
        coarse = rng.integers(0, 256, (60, 120, 3), dtype=np.uint8)
        texture = cv2.resize(coarse, (1100, 560), interpolation=cv2.INTER_CUBIC)
        texture = np.clip(texture + rng.normal(0, 6, texture.shape), 0, 255).astype(np.uint8)
        for index in range(frames):
            image = f"JPEGImages/480p/clip{number}/{index:05d}.jpg"
            mask = f"Annotations/480p/clip{number}/{index:05d}.png"
            shape = np.zeros((480, 854), np.uint8)
            cv2.ellipse(shape, (300 + 4 * index, 240), (120, 80), 10, 0, 360, 255, -1)
            for path, array in ((image, texture[20:500, 5 * index : 5 * index + 854]), (mask, shape)):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / path), array)
            lines.append(f"/{image} /{mask}")
    (root / "ImageSets/480p").mkdir(parents=True)
    (root / "ImageSets/480p/train.txt").write_text("\n".join(lines))


def middle(seconds: list[float]) -> float:
    """Median, ms."""
    return 1000 * statistics.median(seconds)


def compare(videos: list[Video], work: Path, rounds: int) -> None:
    """Print samples per second of both loaders."""
    pictures = work / "pictures"
    pictures.mkdir()
    loaders: dict[str, Callable[[int], object]] = {}
    for name in ("flo", "png"):
        store = FlowStore(DIS(preset="ultrafast"), cache=work / f"cache-{name}", format=name)
        loaders[f"ours, flow cache as {name}"] = FrameDataset(videos, store, Transform(SIZE)).__getitem__
        for video in videos:
            for index, frame in enumerate(video.frames):
                flow = store.load(video, index)
                if name == "flo":
                    Image.fromarray(flow_to_rgb(flow)).save(pictures / f"{video.name}-{frame.name}.png")
    loaders["PIL and torchvision"] = PilLoader(videos, pictures).__getitem__
    count = sum(len(video.frames) for video in videos)
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(rounds + 1):
        for index in range(count):
            for name, load in loaders.items():
                start = time.perf_counter()
                load(index)
                if turn:  # the first round fills the file cache
                    times[name].append(time.perf_counter() - start)
    baseline = middle(times["PIL and torchvision"])
    print(f"{count} samples of {SIZE[0]}x{SIZE[1]}, median of {rounds} rounds, one thread:")
    for name, seconds in times.items():
        ms = middle(seconds)
        print(f"  {name:28s} {ms:6.2f} ms  {1000 / ms:6.1f} samples/s  {baseline / ms:.2f} x")


def write_large_list(big: Path, image: Path, mask: Path, frames: int, per_video: int) -> None:
    """Write a list of many frames, as hard links to save disk space."""
    lines = []
    for number in range(frames // per_video):
        for part, source in (("JPEGImages", image), ("Annotations", mask)):
            folder = big / part / "480p" / f"v{number:04d}"
            folder.mkdir(parents=True)
            # File systems limit the links to a file: every hundredth video starts with a copy.
            first = big / part / "480p" / f"v{number - number % 100:04d}" / f"00000{source.suffix}"
            if not first.exists():
                first.write_bytes(source.read_bytes())
            for index in range(per_video):
                path = folder / f"{index:05d}{source.suffix}"
                if path != first:
                    path.hardlink_to(first)
        names = [f"480p/v{number:04d}/{index:05d}" for index in range(per_video)]
        lines += [f"/JPEGImages/{name}{image.suffix} /Annotations/{name}{mask.suffix}" for name in names]
    (big / "ImageSets/480p").mkdir(parents=True)
    (big / "ImageSets/480p/train.txt").write_text("\n".join(lines))


def large_list(video: Video, big: Path, frames: int = 100_000, per_video: int = 100) -> None:
    """Print the time to the first batch of a large list, and the time per sample in a large and a small list."""
    image, mask = video.frames[0].image, video.frames[0].mask
    if mask is None:
        raise SystemExit(f"{image}: no mask")
    write_large_list(big, image, mask, frames, per_video)
    store = FlowStore(DIS(preset="ultrafast"))
    start, cpu = time.perf_counter(), time.process_time()
    data = VideoDataModule(store, train=partial(davis, big), size=SIZE, batch_size=8, num_workers=2)
    data.setup("fit")
    listed, cpu = time.perf_counter() - start, time.process_time() - cpu
    next(iter(data.train_dataloader()))
    first = time.perf_counter() - start
    print(f"first batch of {frames} frames: {first:.2f} s (listing {listed:.2f} s, of which {cpu:.2f} s on the CPU)")

    lists = (data.videos("train")[:1], data.videos("train"))
    datasets = {len(videos): FrameDataset(videos, store, Transform(SIZE)) for videos in lists}
    times: dict[int, list[float]] = {count: [] for count in datasets}
    rng = np.random.default_rng(0)
    for _ in range(40):
        for count, dataset in datasets.items():
            index = int(rng.integers(len(dataset)))
            start = time.perf_counter()
            dataset[index]
            times[count].append(time.perf_counter() - start)
    few, many = (middle(seconds) for seconds in times.values())
    print(f"one sample, flow computed: {few:.2f} ms in a list of {per_video} frames, {many:.2f} ms in {frames}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, help="DAVIS folder; default: procedural clips")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = options.davis
        if root is None:
            root = work / "clips"
            write_clips(root, videos=4, frames=-(-options.samples // 4))
        videos = []
        for video in davis(root, "train", hold_out=[])[:4]:
            videos.append(Video(video.name, video.frames[: -(-options.samples // 4)], dataset=video.dataset))
        compare(videos, work, options.rounds)
        large_list(videos[0], work / "big")


if __name__ == "__main__":
    main()
