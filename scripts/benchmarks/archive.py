"""Segment an archive of short procedural videos in one process and on Ray: the same bytes, and frames per second.

    python scripts/benchmarks/archive.py FOLDER --videos 200 --workers 1 2 4 --cpus 1

The last run on Ray loses a worker: it is killed while it segments. Each line of the table is compared with the files of
the first. Times are from the start of the work to its end, that of Ray's workers included.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import threading
import time
from pathlib import Path

from maskvos.environment import cores
from maskvos.media.video import VideoWriter
from maskvos.run import compose, run
from maskvos.synthetic.clips import generate_clip

SIZE = (64, 96)


def make(folder: Path, videos: int, frames: int) -> None:
    """Write short movies, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(videos):
        path = folder / f"clip_{index:05d}.mp4"
        if not path.exists():
            with VideoWriter(path, 24) as movie:
                for frame in generate_clip(index, frames, SIZE).rgb:
                    movie.write(frame)


def digest(folder: Path) -> str:
    """Hash of the names and contents of all results but locks, and manifests, which hold times of the input."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (".lock", "manifest.json"):
            found.update(f"{path.relative_to(folder)}|".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def workers() -> list[int]:
    """Process ids of the workers of Ray on this machine."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = status.read_bytes()
        except OSError:  # ended meanwhile
            continue
        if name.startswith(b"ray::") and b"Worker" in name:
            found.append(int(status.parent.name))
    return found


def kill_one(output: Path, after: int) -> None:
    """Kill a worker once so many videos are complete."""
    while len(list(output.glob("*/manifest.json"))) < after:
        time.sleep(0.05)
    if pids := workers():
        os.kill(pids[0], signal.SIGKILL)
        print(f"killed worker {pids[0]}", flush=True)


def measure(folder: Path, name: str, settings: list[str], lose: int = 0) -> tuple[float, str]:
    """Frames per second and digest of a run; ``lose``: the number of videos after which a worker is killed."""
    output = folder / name
    common = ["task=predict", f"input={folder / 'clips'}", f"output={output}", "writer.kinds=[masks]"]
    cfg = compose([*common, "data.size=[64,96]", "trainer=cpu", "trainer.enable_progress_bar=false", *settings], folder)
    if lose:
        threading.Thread(target=kill_one, args=(output, lose), daemon=True).start()
    begin = time.perf_counter()
    metrics = run(cfg)
    seconds = time.perf_counter() - begin
    frames = sum(1 for _ in output.glob("*/masks/*.png"))
    print(f"{name}: {metrics}", flush=True)
    return frames / seconds, digest(output)


def main() -> None:
    """Make the videos, measure all runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--cpus", type=int, default=1, help="cores of each worker")
    arguments = parser.parse_args()
    make(arguments.folder / "clips", arguments.videos, arguments.frames)
    rows = [("one process", *measure(arguments.folder, "one", []))]
    for count in arguments.workers:
        settings = [f"ray.workers={count}", f"ray.cpus={arguments.cpus}"]
        rows.append((f"Ray, {count} workers", *measure(arguments.folder, f"ray_{count}", settings)))
    lost = measure(arguments.folder, "lost", settings, arguments.videos // 4)
    rows.append((f"Ray, {arguments.workers[-1]} workers, one of them killed", *lost))
    print(f"\n{arguments.videos} videos of {arguments.frames} frames, {cores()} cores\n")
    print("| | frames/s | same bytes |\n|---|---|---|")
    for name, speed, found in rows:
        print(f"| {name} | {speed:.1f} | {'yes' if found == rows[0][2] else 'NO'} |")


if __name__ == "__main__":
    main()
