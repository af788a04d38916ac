"""A seeded mutation fuzzer over every kind of file that maskvos reads."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import fakes
import maskvos
from brightness import predict
from campaign.laws import Case, content
from campaign.mutations import junk, lines, mutate, sealed
from maskvos import run as entrypoint
from maskvos.build import build
from maskvos.data.check import check
from maskvos.data.datasets.davis import davis
from maskvos.data.datasets.fbms import fbms
from maskvos.data.datasets.youtube_vos import youtube_vos
from maskvos.errors import UserError
from maskvos.flow.codec import read_flow, write_flow
from maskvos.flow.compute import compute_flows
from maskvos.flow.dis import DIS
from maskvos.flow.store import FORMATS, FlowStore
from maskvos.media.video import VideoWriter
from maskvos.run import compose
from maskvos.weights.config import InferenceConfig
from maskvos.weights.export import export

SIZE = (32, 48)

# ---------------------------------------------------------------- sound files


@cache
def movie(suffix: str, codec: str) -> bytes:
    """A movie of five frames."""
    path = _SCRATCH / f"movie{suffix}"
    with VideoWriter(path, fps=25) if codec == "h264" else _other(path, codec) as writer:
        for index in range(5):
            writer.write(fakes.frame(index, SIZE))
    return path.read_bytes()


class _other:
    """A movie in a codec that maskvos reads only."""

    def __init__(self, path: Path, codec: str) -> None:
        import av

        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream(codec, rate=25)
        self.stream.width, self.stream.height = SIZE[1], SIZE[0]
        self.stream.pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "yuv420p"}.get(codec, "yuv420p")

    def write(self, image: np.ndarray) -> None:
        import av

        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    def __enter__(self) -> _other:
        return self

    def __exit__(self, *given: object) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()


@cache
def picture(suffix: str, label: bool = False) -> bytes:
    image = Image.fromarray(fakes.mask(0, SIZE) * 255 if label else fakes.frame(0, SIZE))
    written = io.BytesIO()
    image.save(written, {".jpg": "JPEG", ".tif": "TIFF", ".ppm": "PPM"}.get(suffix, suffix[1:]))
    return written.getvalue()


@cache
def trained() -> tuple[Any, InferenceConfig]:
    """The smallest network and how it is used."""
    torch.manual_seed(0)
    config = _plain(compose(["+experiment=smoke", f"data.size=[{SIZE[0]},{SIZE[1]}]", "backbone.pretrained=false"]))
    return build(config["model"], "model").eval(), InferenceConfig.from_config(config)


def _plain(cfg: Any) -> Any:
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(cfg)
    node.pop("paths", None)
    return OmegaConf.to_container(
        OmegaConf.create({**node, "paths": {"data": "d", "runs": "r", "run": "r"}}), resolve=True
    )


@cache
def checkpoint() -> bytes:
    network, config = trained()
    written = io.BytesIO()
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "maskvos": {"version": "0", "config": config.to_config()}}, written)
    return written.getvalue()


@cache
def exported(file_format: str) -> bytes:
    network, config = trained()
    path = _SCRATCH / f"network.{file_format}"
    formats = {"onnx": "onnx", "ts": "torchscript", "pt2": "pt2"}
    export(network, path, formats[file_format], SIZE, config.to_config())
    return path.read_bytes()


_SCRATCH = Path()


def scratch() -> Path:
    """Where sound files are made."""
    return _SCRATCH


def warm(scratch: Path) -> None:
    """Make all sound files, so that cases fork from a process that has them."""
    global _SCRATCH
    _SCRATCH = scratch
    for kind in MOVIES:
        movie(*kind)
    checkpoint()
    exported("onnx")
    exported("ts")
    for file_format in FORMATS:
        cached(file_format)


# ---------------------------------------------------------------- cases

MOVIES = ((".mp4", "h264"), (".avi", "mjpeg"), (".mkv", "ffv1"), (".webm", "libvpx-vp9"), (".mpg", "mpeg2video"))
PICTURES = (".jpg", ".png", ".bmp", ".tif", ".webp", ".ppm")
FRAMES = np.stack([fakes.frame(index, SIZE) for index in range(3)])


def _case(group: str, seed: int, prepare: Callable[[random.Random, Path], object], act: Any, **more: Any) -> Case:
    return Case(group, f"seed {seed}", lambda place: prepare(random.Random(f"{group} {seed}"), place), act, **more)


def movies(seed: int) -> Case:
    suffix, codec = MOVIES[seed % len(MOVIES)]

    def prepare(chance: random.Random, place: Path) -> None:
        (place / f"in{suffix}").write_bytes(mutate(chance, movie(suffix, codec)))

    return _case("movies", seed, prepare, partial(_predicted, f"in{suffix}"), after=_as_manifest)


def pictures(seed: int) -> Case:
    suffix = PICTURES[seed % len(PICTURES)]

    def prepare(chance: random.Random, place: Path) -> None:
        fakes.write_folder(place / "in", 3, SIZE, suffix)
        (place / "in" / f"0000{chance.randrange(3)}{suffix}").write_bytes(
            sealed(chance, mutate(chance, picture(suffix)))
        )

    return _case("pictures", seed, prepare, partial(_predicted, "in"), after=_as_manifest)


def _predicted(source: str) -> None:
    predict(Path(source), Path("out"), kinds=["masks", "overlay"])


def _as_manifest(place: Path, status: int) -> str | None:
    """What is called complete is there."""
    found = place / "out" / "in" / "manifest.json"
    if not found.exists():
        return None if status else "no manifest"
    made = json.loads(found.read_text())
    masks = len(list((place / "out" / "in" / "masks").glob("*.png")))
    if made["complete"] and (status or masks != made["frames"] or not (place / "out" / "in" / "overlay.mp4").exists()):
        return f"complete at status {status}, with {masks} of {made['frames']} masks"
    return None if made["complete"] or status or "expected" in made else "neither complete nor short"


def masks(seed: int) -> Case:
    def prepare(chance: random.Random, place: Path) -> None:
        fakes.write_davis(place / "d")
        for sequence in fakes.DAVIS_SPLITS["val"]:
            for index in range(3):
                fakes.write_mask(place / "p" / sequence / f"{index:05d}.png", fakes.mask(index))
        top = chance.choice((place / "p", place / "d" / "Annotations"))
        path = chance.choice(sorted(top.rglob("*.png")))
        path.write_bytes(sealed(chance, mutate(chance, path.read_bytes())))

    return _case("masks", seed, prepare, lambda: print(maskvos.evaluate("p", davis("d", "val")).table()))


def flows(seed: int) -> Case:
    suffix = (".flo", ".png")[seed % 2]
    flow = np.random.default_rng(0).normal(size=(*SIZE, 2)).astype(np.float32)

    def prepare(chance: random.Random, place: Path) -> None:
        write_flow(place / f"x{suffix}", flow)
        (place / f"x{suffix}").write_bytes(sealed(chance, mutate(chance, (place / f"x{suffix}").read_bytes())))

    return _case("flow files", seed, prepare, lambda: read_flow(f"x{suffix}"))


def caches(seed: int) -> Case:
    file_format = FORMATS[seed % 2]

    def prepare(chance: random.Random, place: Path) -> None:
        shutil.copytree(cached(file_format), place, dirs_exist_ok=True)
        path = chance.choice(sorted((place / "cache").rglob(f"*.{file_format}")))
        path.write_bytes(mutate(chance, path.read_bytes()))

    def after(place: Path, status: int) -> str | None:
        now, before = (_maps(folder / "cache", file_format) for folder in (place, cached(file_format)))
        return None if now == before else "damage was kept"

    return _case("flow caches", seed, prepare, partial(_fill, Path(), file_format), statuses=(0,), after=after)


def _maps(cache: Path, file_format: str) -> dict[str, Any]:
    """Flow maps by name; of .flo only headers and sizes, since damage within its numbers cannot be seen."""
    files = content(cache, f"*.{file_format}")
    if file_format == "flo":
        return {name: (data[:12], len(data)) for name, data in files.items()}
    return {name: read_flow(cache / name).tobytes() for name in files}


def _fill(place: Path, file_format: str) -> None:
    store, videos = FlowStore(DIS(), place / "cache", format=file_format), davis(place / "d", "val")
    done = compute_flows(videos, store, None, 0)
    if done.problems:  # as task=flow does
        raise UserError(str(done))
    for video in videos:  # as training does; whole files were only looked at
        store.fill(video, range(len(video.frames)))


@cache
def cached(file_format: str) -> Path:
    """A dataset with its flow."""
    place = _SCRATCH / f"cached_{file_format}"
    fakes.write_davis(place / "d", frames=2)
    _fill(place, file_format)
    return place


def checkpoints(seed: int) -> Case:
    suffix = (".ckpt", ".safetensors")[seed % 2 if seed % 3 else 0]

    def prepare(chance: random.Random, place: Path) -> None:
        if suffix == ".safetensors":
            from safetensors.torch import save

            network, config = trained()
            data = save(network.state_dict(), {"config": json.dumps(junk(chance, config.to_config()))})
            (place / f"x{suffix}").write_bytes(mutate(chance, data) if chance.random() < 0.5 else data)
        elif chance.random() < 0.5:
            (place / "x.ckpt").write_bytes(mutate(chance, checkpoint()))
        else:
            found = torch.load(io.BytesIO(checkpoint()), weights_only=True)
            torch.save(junk(chance, found), place / "x.ckpt")

    return _case("checkpoints", seed, prepare, partial(_loaded, f"x{suffix}"))


def exports(seed: int) -> Case:
    suffix = "ts" if seed % 10 == 0 else "onnx"

    def prepare(chance: random.Random, place: Path) -> None:
        data = exported(suffix)
        end = chance.choice((2000, len(data)))  # structure is at both ends
        head, rest = (data[:end], data[end:]) if chance.random() < 0.5 else (data[-end:], data[:-end])
        damaged = mutate(chance, head)
        (place / f"x.{suffix}").write_bytes(damaged + rest if data.startswith(head) else rest + damaged)

    statuses = (2,) if suffix == "ts" else (0, 2)
    return _case("exported files", seed, prepare, partial(_loaded, f"x.{suffix}"), statuses=statuses)


def _loaded(name: str) -> None:
    maskvos.load(name, device="cpu")(FRAMES)


def manifests(seed: int) -> Case:
    def prepare(chance: random.Random, place: Path) -> None:
        fakes.write_folder(place / "in", 2, SIZE)
        predict(place / "in", place / "out", kinds=["masks"])
        path = place / "out" / "in" / "manifest.json"
        made = path.read_bytes()
        text = mutate(chance, made) if chance.random() < 0.5 else json.dumps(junk(chance, json.loads(made))).encode()
        path.write_bytes(text)

    def act() -> None:
        predict(Path("in"), Path("out"), kinds=["masks"], existing="overwrite" if seed % 2 else "resume")

    return _case("manifests", seed, prepare, act, statuses=(0,) if seed % 2 else (0, 2))


def lists(seed: int) -> Case:
    kind = ("davis", "davis2017", "fbms", "youtube_vos")[seed % 4]
    listed: dict[str, tuple[str, Callable[[], Any]]] = {
        "davis": ("ImageSets/**/*.txt", lambda: davis("d", "val")),
        "davis2017": ("ImageSets/**/*.txt", lambda: davis("d", "val", year=2017)),
        "fbms": ("**/*Def.dat", lambda: fbms("d", "test")),
        "youtube_vos": ("train/meta.json", lambda: youtube_vos("d", "train")),
    }
    pattern, videos = listed[kind]

    def prepare(chance: random.Random, place: Path) -> None:
        fakes.WRITERS[kind](place / "d")
        path = chance.choice(sorted((place / "d").glob(pattern)))
        if path.suffix == ".json" and chance.random() < 0.6:
            path.write_text(json.dumps(junk(chance, json.loads(path.read_text()))))
        else:
            path.write_bytes(lines(chance, path.read_bytes()))

    def act() -> None:
        report = check({"test": videos}, FlowStore(DIS()))
        if report.problems:
            print("error: problems", file=sys.stderr)
            sys.exit(2)

    return _case("dataset lists", seed, prepare, act)


def yamls(seed: int) -> Case:
    sound = Path(__file__).parents[2].joinpath("conf/experiment/light_scratch.yaml").read_bytes()

    def prepare(chance: random.Random, place: Path) -> None:
        (place / "mine" / "experiment").mkdir(parents=True)
        (place / "mine" / "experiment" / "mine.yaml").write_bytes(lines(chance, sound))

    return _case("yaml", seed, prepare, partial(command, "--config-dir", "mine", "+experiment=mine", "task=report"))


def command(*arguments: str) -> None:
    """Run the command."""
    sys.argv = ["maskvos", *arguments]
    entrypoint.main()


def oddities(seed: int) -> Case:
    """A pipe, a device, a folder, a link to nowhere or to itself, or nothing, where a file should be."""
    chance = random.Random(f"oddities {seed}")
    base = chance.choice((pictures, masks, flows, caches, checkpoints, exports, manifests, lists, yamls))(10 * seed + 1)
    oddity = chance.choice(("pipe", "folder", "nowhere", "itself", "/dev/zero", "/dev/full", "empty", "gone"))

    def prepare(place: Path) -> None:
        base.prepare(place)
        path = chance.choice(sorted(path for path in place.rglob("*") if path.is_file() and path.name != ".lock"))
        path.unlink()
        if oddity == "pipe":
            os.mkfifo(path)
        elif oddity == "folder":
            path.mkdir()
        elif oddity == "empty":
            path.touch()
        elif oddity != "gone":
            path.symlink_to(path.name if oddity == "itself" else oddity)

    return Case("oddities", f"seed {seed}: {oddity} in {base.group}", prepare, base.act, limit=30)


FUZZERS: dict[Callable[[int], Case], int] = {
    movies: 260,
    pictures: 220,
    masks: 150,
    flows: 150,
    caches: 50,
    checkpoints: 160,
    exports: 120,
    manifests: 110,
    lists: 120,
    yamls: 60,
    oddities: 100,
}
"""Each with its number of cases in the campaign."""
