"""Ablations of the light models, cross-validated on the DAVIS-2016 train split.

    python scripts/benchmarks/light.py --data <folder with DAVIS/> --davis <DAVIS> --steps 600 --output runs/light_table
    python scripts/benchmarks/light.py ... --experiment light --encoder <ImageNet weights>     # encoder, pictures, size

Each variant is trained on two thirds of the sequences (every third by name is held out) and scored on the others with
the DAVIS-2016 protocol at original resolution, next to two baselines without learning. Finished parts are kept in the
output folder, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from learning import constant_mask, flow_magnitude

from maskvos.benchmark.network import random_images, time_variants
from maskvos.benchmark.variants import VARIANTS as FORMS
from maskvos.benchmark.variants import Forward, Setting
from maskvos.build import build
from maskvos.data.datasets.davis import davis
from maskvos.flow.base import resize_flow
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.media.files import write_bytes
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.reading import read_truth
from maskvos.metrics.video import VideoMetric
from maskvos.reports.sweep import RESULT
from maskvos.run import compose
from maskvos.tasks.common import plain
from maskvos.types import Video
from maskvos.weights.config import without_pretrained

FOLDS = 3
_WIDE_COLOURS = {"brightness": "[0.7,1.3]", "contrast": "[0.7,1.3]", "saturation": "[0.5,1.5]", "hue": "[-0.1,0.1]"}
_WIDE = {"area": "[0.01,0.5]", "speed": "[0.002,0.06]", "distractors": 6, "follow": 0.6, "occluders": 0.4, "stop": 0.3}
_WIDE |= {"leave": 0.15, "camouflage": 0.3, "shadow": 0.5, "ripple": 0.3}
_RAFT = "flow by RAFT-small"
_SALIENCY = "larger input, averaged with U2-Net-p"
_FINE = {"finest_scale": 0, "patch_stride": 5, "refinements": 10, "smoothness": 60}
_PAIRS = ",".join(
    f"{{direction: {direction}, gap: {gap}}}"
    for direction, gap in [("backward", 1), ("forward", 2), ("backward", 2), ("forward", 3), ("backward", 3)]
)


def _style(**changes: object) -> str:
    """Override that changes the style of the procedural clips."""
    return f"+data.train.parts.1.style={{{','.join(f'{name}: {value}' for name, value in changes.items())}}}"


VARIANTS = {
    "both streams, both data": [],
    "appearance stream only": ["model/fusion=rgb_only"],
    "motion stream only": ["model/fusion=flow_only"],
    "flow as colours": ["model.inputs._target_=maskvos.models.inputs.InputEncoder"],
    "nothing pasted": ["data.paste=0"],
    "procedural clips only": ["data.weights.DAVIS-2016=0"],
    "DAVIS only": ["data.weights.synthetic=0"],
    "flow of several pairs of frames": [f"data.flow_pairs=[{_PAIRS}]"],
    "wider colours": [f"augment.colours.{name}={reach}" for name, reach in _WIDE_COLOURS.items()],
    "averaged weights": ["train.ema=0.99"],
    "wider clips": [_style(**_WIDE)],
    _RAFT: ["flow=raft_small"],
    "smoother flow": ["flow.estimator.refinements=15", "flow.estimator.smoothness=60"],
    "finer and smoother flow": [f"flow.estimator.{name}={value}" for name, value in _FINE.items()],
}
"""Overrides of each variant, relative to the first."""

IMAGENET = {
    "light": [],
    "appearance encoder from random weights": [
        *("backbone.pretrained=false", "train.freeze_layers=0", "train.freeze_norms=none"),
    ],
    "ImageNet weights for motion too": [
        *("backbone@model.flow_encoder=efficientnet_lite0", "~model.flow_encoder.depths"),
        "model.flow_encoder.pretrained=${backbone.pretrained}",
    ],
    "no pictures": ["data.weights.varied=0", "data.weights.narrow=0"],
    "no procedural clips": ["data.weights.synthetic=0"],
    "nothing pasted": ["data.paste=0"],
    "larger input": ["data.size=[192,352]"],
    _SALIENCY: ["data.size=[192,352]", "model/saliency=u2netp"],
    _RAFT: ["flow=raft_small", "flow.estimator.max_size=448", "flow.estimator.updates=6"],
}
"""The same of ``experiment=light``, which starts from ImageNet weights."""

TESTED = {_SALIENCY: ["data.size=[256,448]"]}
"""Further overrides of a variant in the test."""

FROZEN = ["train.freeze_layers=2", "train.freeze_norms=encoders", "train.channels_last=true"]
"""How ``release_light.py`` trains an encoder that starts from ImageNet weights."""

SHORT = [
    *("data.flow_pairs=null", "data.scales=[0.75]", "data.paste=0.3"),
    *("augment.colours.brightness=[0.8,1.2]", "augment.colours.contrast=[0.8,1.2]"),
    *("augment.colours.saturation=[0.8,1.2]", "augment.colours.hue=[-0.05,0.05]"),
]
"""Augmentation of the first training in ``release_light.py``; stronger augmentation needs longer trainings."""

TTA = {
    "": ["tta.mirror=false", "tta.flow=null"],
    ", mirror": ["tta.mirror=true", "tta.flow=null"],
    ", mirror, backward flow": ["tta.mirror=true", "tta.flow={direction: backward, gap: 1}"],
    ", mirror, backward flow over 2": ["tta.mirror=true", "tta.flow={direction: backward, gap: 2}"],
}
"""Test-time augmentation. All variants are tested without, and those of `TTA_VARIANTS` with all of them."""

QUANTISED_VARIANTS = ("light",)
"""Those that are also tested in 8 bits."""

TTA_VARIANTS = ("both streams, both data", "flow of several pairs of frames")


def sequences(root: Path, fold: int) -> tuple[list[str], list[str]]:
    """Names of the training and the held-out sequences of a fold."""
    names = sorted(video.name for video in davis(root, "train", hold_out=()))
    held = names[fold::FOLDS]
    return [name for name in names if name not in held], held


def command(settings: list[str]) -> None:
    """Run ``maskvos`` with some overrides."""
    process = subprocess.run([sys.executable, "-m", "maskvos.run", *settings], check=False)
    if process.returncode:
        sys.exit(f"error: maskvos {' '.join(settings)} failed")


def train(work: Path, held: list[str], options: argparse.Namespace, settings: list[str]) -> None:
    """Train one variant, unless done; writes ``checkpoints/last.ckpt``."""
    if (work / "done").exists():
        return
    command(
        [
            *(f"hydra.run.dir={work}", f"paths.data={options.data}", f"flow.cache={options.output}/flow"),
            *(f"trainer.max_steps={options.steps}", "trainer.max_epochs=-1", f"data.val.hold_out=[{','.join(held)}]"),
            # The held-out sequences must not select the checkpoint: the last one is used.
            *("callbacks.best=null", "trainer.limit_val_batches=0", "logger=none", "callbacks.rates=null"),
            *(*SHORT, *options.settings, *settings),
        ]
    )
    (work / "done").touch()


def test(work: Path, checkpoint: Path, held: list[str], options: argparse.Namespace, settings: list[str]) -> dict:
    """Score a checkpoint on the held-out sequences."""
    command(
        [
            *("task=test", f"hydra.run.dir={work}", f"ckpt_path={checkpoint}", f"data.test.root={options.davis}"),
            *("data.test.split=held_out", f"+data.test.hold_out=[{','.join(held)}]", "logger=none"),
            *(*options.settings, *settings),
        ]
    )
    overall = json.loads((work / "test/summary.json").read_text())["overall"]
    return {"j": overall["j"], "f": overall["f"]}


def speed(work: Path, checkpoint: Path, sequence: str, options: argparse.Namespace, settings: list[str]) -> float:
    """Frames per second of ``task=predict`` on one sequence."""
    with tempfile.TemporaryDirectory() as folder:
        command(
            [
                *("task=predict", f"hydra.run.dir={work}", f"ckpt_path={checkpoint}", f"output={folder}"),
                *(f"input={options.davis}/JPEGImages/480p/{sequence}", "flow.cache=null", *settings),
            ]
        )
    result = json.loads((work / RESULT).read_text())
    return float(result["metrics"]["predict/frames_per_second"])


def network_ms(variants: dict[str, list[str]], size: tuple[int, int] = (256, 448)) -> dict[str, float]:
    """Milliseconds per frame of each variant's network alone: ONNX Runtime, one thread, alternating, medians."""
    with tempfile.TemporaryDirectory() as folder:

        def prepare(number: int, settings: list[str]) -> Forward:
            # Time does not depend on the weights.
            model = without_pretrained(plain(compose([*settings, "data.test=null"]).model))
            place = Path(folder) / str(number)
            place.mkdir()
            return FORMS["onnx"](build(model, "model").eval(), Setting(place, 1, torch.device("cpu")))

        makers = {name: partial(prepare, number, settings) for number, (name, settings) in enumerate(variants.items())}
        timings = time_variants(makers, random_images(1, size, torch.device("cpu")), repeats=20, warmup=3)
    return {timing.variant: timing.figures()["ms"] for timing in timings if not timing.problem}


def test_quantised(work: Path, checkpoint: Path, videos: list[Video]) -> dict[str, float]:
    """Score a checkpoint in 8 bits, see ``quantize.py``, in OpenVINO."""
    # Imported here, since only this row needs OpenVINO.
    from quantize import quantise

    import maskvos

    exported, quantised = work / "network.onnx", work / "network-int8.onnx"
    command(["task=export", f"hydra.run.dir={work}", f"ckpt_path={checkpoint}", f"output={exported}"])
    quantise(exported, quantised, clips=12)
    model = maskvos.load(quantised, backend="openvino", fill_gaps=0)
    return score(videos, lambda video: (frame.mask for frame in model.stream(video)))[0]


def without_learning(train_videos: list[Video], held_videos: list[Video]) -> dict[str, dict]:
    """J and F of the two baselines, see ``learning.py``."""
    store = FlowStore(DIS(max_size=448))
    constant = constant_mask(train_videos, (480, 854))

    def moving(video: Video) -> Iterator[np.ndarray]:
        for index in range(len(video.frames)):
            yield flow_magnitude(resize_flow(store.load(video, index), constant.shape))

    magnitude, rate = score(held_videos, moving)
    return {
        "constant mask": score(held_videos, lambda video: repeat(constant))[0],
        "flow magnitude": magnitude | {"frames_per_second": rate},
    }


def score(videos: list[Video], masks: Callable[[Video], Iterable[np.ndarray]]) -> tuple[dict[str, float], float]:
    """J and F of the masks of some videos, and frames per second."""
    seconds = 0.0
    metric = VideoMetric(Protocol("davis2016", trim="both"))
    metric.expect(videos)
    for video in videos:
        found = iter(masks(video))
        for frame in video.frames:
            truth = read_truth(frame.mask, video.masks) != 0
            start = time.perf_counter()
            mask = next(found)
            seconds += time.perf_counter() - start
            metric.update([mask], [truth], [video.name], [frame.name])
    scores = metric.compute()
    rate = sum(len(video.frames) for video in videos) / seconds
    return {"j": float(scores["j"]), "f": float(scores["f"])}, rate


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that contains DAVIS/, for training")
    parser.add_argument("--davis", type=Path, required=True, help="DAVIS-2016 folder, for scoring")
    parser.add_argument("--output", type=Path, default=Path("runs/light_table"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--experiment", choices=("light_scratch", "light"), default="light_scratch")
    parser.add_argument("--encoder", default="true", help="EfficientNet-Lite0's weights, for --experiment light")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, *IMAGENET], help="default: all of the experiment")
    parser.add_argument("--raft", default="default", help="file of RAFT-small's weights, for its variant")
    parser.add_argument("--saliency", help="U2-Net-p's weights (u2netp.onnx), for its variant, which needs them")
    parser.add_argument(
        "--speed", action="store_true", help="also measure frames/s and network ms; needs an idle machine"
    )
    options, options.settings = parser.parse_known_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    variants, base = VARIANTS, [f"+experiment={options.experiment}"]
    if options.experiment == "light":
        variants, base = IMAGENET, [*base, *FROZEN, f"backbone.pretrained={options.encoder}"]
    files = {
        _RAFT: f"flow.estimator.weights={options.raft}",
        _SALIENCY: f"model.saliency.pretrained={options.saliency}",
    }
    variants = variants | {name: [*variants[name], file] for name, file in files.items() if name in variants}
    if options.saliency is None:
        variants = {name: changes for name, changes in variants.items() if name != _SALIENCY}
        if _SALIENCY in (options.variants or ()):
            parser.error(f"the variant '{_SALIENCY}' needs --saliency u2netp.onnx")
    for fold in options.folds:
        train_names, held = sequences(options.davis, fold)
        file = options.output / f"fold{fold}.json"
        if "flow magnitude" not in rows_of(file):
            videos = {video.name: video for video in davis(options.davis, "train", hold_out=())}
            add(file, without_learning([videos[name] for name in train_names], [videos[name] for name in held]))
        for name in options.variants or variants:
            changes = [*base, *variants[name]]
            work = options.output / f"fold{fold}" / name.replace(",", "").replace(" ", "-")
            train(work, held, options, changes)
            checkpoint = work / "checkpoints/last.ckpt"
            for ending, tta in TTA.items() if name in TTA_VARIANTS else [("", TTA[""])]:
                row, settings = rows_of(file).get(name + ending, {}), [*changes, *TESTED.get(name, []), *tta]
                if "j" not in row:
                    row |= test(work, checkpoint, held, options, settings)
                if "frames_per_second" not in row and options.speed:
                    row["frames_per_second"] = speed(work, checkpoint, held[0], options, settings)
                add(file, {name + ending: row})
            eight_bits = f"{name}, in 8 bits"
            if name in QUANTISED_VARIANTS and eight_bits not in rows_of(file):
                videos = [video for video in davis(options.davis, "train", hold_out=()) if video.name in held]
                add(file, {eight_bits: test_quantised(work, checkpoint, videos)})
    if options.speed:
        times = network_ms({name: [*base, *settings] for name, settings in variants.items()})
        write_bytes(options.output / "network_ms.json", json.dumps(times, indent=2).encode())
    print(table(options.output))


def rows_of(file: Path) -> dict[str, dict]:
    """Finished rows of one fold."""
    return json.loads(file.read_text()) if file.is_file() else {}


def add(file: Path, rows: dict[str, dict]) -> None:
    """Add rows to a fold's file, reading it again, since another process may have added rows."""
    write_bytes(file, json.dumps(rows_of(file) | rows, indent=2).encode())


def table(folder: Path, files: str = "fold*.json") -> str:
    """All finished rows, each the mean over its folds."""
    folds = [rows_of(path) for path in sorted(folder.glob(files))]
    milliseconds = rows_of(folder / "network_ms.json")
    lines = [f"{'':<64}{'folds':>6}{'J':>8}{'F':>8}{'J&F':>8}{'frames/s':>10}{'network ms':>12}"]
    for name in dict.fromkeys(name for rows in folds for name in rows):
        found = [rows[name] for rows in folds if name in rows]
        j, f = (float(np.mean([row[key] for row in found])) for key in ("j", "f"))
        rates = [row["frames_per_second"] for row in found if "frames_per_second" in row]
        rate = f"{np.mean(rates):>10.1f}" if rates else f"{'':>10}"
        ms = f"{milliseconds[name]:>12.1f}" if name in milliseconds else ""
        lines.append(f"{name:<64}{len(found):>6}{j:>8.3f}{f:>8.3f}{(j + f) / 2:>8.3f}{rate}{ms}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
