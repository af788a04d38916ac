"""The matrix of settings: any value for any setting, combinations that run, and names of any characters."""

from __future__ import annotations

import random
from functools import cache, partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import fakes
from campaign import fuzz
from campaign.laws import Case
from maskvos.run import compose, run
from maskvos.text import flatten

VALUES = (
    *(
        "-1",
        "0",
        "1",
        "2",
        "3.5",
        "0.5",
        "1e9",
        "1e308",
        "1e-300",
        "nan",
        "inf",
        "-inf",
        "9" * 30,
        "null",
        "true",
        "false",
    ),
    *(
        "abc",
        "''",
        "[]",
        "{}",
        "[1]",
        "[1,2]",
        "[64,64]",
        "[0.5,0.6]",
        "{a: 1}",
        "[a,b]",
        "[[1]]",
        "${seed}",
        "${nowhere}",
    ),
    *("auto", "cpu", "none", "fast", "backward", "[masks]", "resume", "best", "../x", "/nowhere/x", "ñ", "a b"),
)
"""Values as they are typed; some fit a setting, most do not."""
PREDICT: dict[str, tuple[str, ...]] = {
    "writer.kinds": (
        "[masks]",
        "[soft,cutout]",
        "[overlay,side_by_side]",
        "[webm]",
        "[prores]",
        "[webp,coco]",
        "[matte]",
    ),
    "writer.existing": ("resume", "overwrite", "error"),
    "writer.opacity": ("0", "1"),
    "writer.outline": ("0", "1000"),
    "writer.frame_rate": ("0.001", "1000", "23.976"),
    "threshold": ("0", "0.999", "1e-9"),
    "data.size": ("[8,8]", "[64,40]", "[33,47]", "[16,512]"),
    "data.eval_batch_size": ("1", "3", "10000"),
    "tta": ("none", "mirror", "mirror_backward"),
    "flow.estimator.preset": ("ultrafast", "medium"),
    "flow.estimator.max_size": ("32", "null", "8192"),
    "flow.gap": ("1", "2", "1000"),
    "flow.direction": ("forward", "backward"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed", "64-true", "16-true", "32"),
    "trainer.accelerator": ("cpu", "auto", "gpu"),
    "backend": ("auto", "torch", "onnx", "pt2", "torchscript", "openvino"),
    "shard": ("1/1", "2/2", "9/9"),
    "seed": ("0", "null", "4294967295"),
    "ckpt_path": ("x.ckpt", "x.onnx", "light", "nowhere"),
}
TRAIN: dict[str, tuple[str, ...]] = {
    "optim": ("adamw", "sgd"),
    "optim.lr": ("0", "1e-3", "1e30"),
    "schedule": ("constant", "poly", "cosine_warmup"),
    "loss": ("bce", "bce_dice", "sum", "lovasz", "focal", "boundary_bce"),
    "augment": ("none", "standard", "published"),
    "data.batch_size": ("1", "2", "1000"),
    "data.scales": ("null", "[0.5,1]", "[2]"),
    "data.paste": ("0", "1"),
    "data.motion_as_option": ("null", "0", "1"),
    "data.flow_pairs": ("null", "[{direction: backward, gap: 1}]", "[{gap: 1}]"),
    "data.samples_per_epoch": ("1", "5", "null"),
    "train.ema": ("null", "0.9"),
    "train.freeze_norms": ("none", "encoders", "all"),
    "train.layer_decay": ("1", "0.5"),
    "train.freeze_layers": ("0", "2", "100"),
    "train.activation_checkpointing": ("true", "false"),
    "train.channels_last": ("true", "false"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true"),
    "trainer.gradient_clip_val": ("null", "0", "1"),
    "trainer.accumulate_grad_batches": ("1", "3"),
    "trainer.max_epochs": ("0", "1", "null"),
    "trainer.max_steps": ("0", "1"),
    "trainer.limit_val_batches": ("0", "1", "0.0", "1.0"),
    "trainer.num_sanity_val_steps": ("0", "1", "-1"),
    "trainer.log_every_n_steps": ("0", "1"),
    "trainer.deterministic": ("true", "false", "warn"),
    "callbacks.last.every_n_steps": ("null", "1"),
    "callbacks.best": ("null",),
    "callbacks.panels.count": ("0", "9"),
    "callbacks.best.monitor": ("val/j", "val/nothing"),
    "logger": ("none", "csv"),
    "aux_weight": ("0", "0.5"),
    "model/fusion": ("concat", "gated", "sum", "rgb_only", "flow_only"),
    "model/pixel_decoder": ("deformable_tiny", "fpn"),
    "backbone": ("tiny", "resnet18"),
    "protocol": ("all_frames", "davis2016", "vsod"),
    "seed": ("0", "null"),
    "name": ("a b", "ñ", "7"),
    "init_from": ("x.ckpt", "light"),
}
NAMES = (
    *(
        "2024",
        "ñ",
        "clip (1)",
        "it's",
        "a&b",
        "a,b",
        "a:b",
        "%03d",
        "#?",
        "..",
        "-x",
        "~",
        "a=b",
        "[1]",
        "{a}",
        "$HOME",
        "null",
    ),
    *(
        "true",
        "1e3",
        "a\tb",
        "a\nb",
        "é" * 100,
        "💧",
        "'",
        '"',
        "`id`",
        ";",
        "|",
        "<>",
        "*",
        "?",
        "\\",
        "CON",
        ".hidden",
        " x ",
    ),
)


@cache
def settings() -> tuple[str, ...]:
    """Names of all settings."""
    return tuple(name for name, _ in flatten(OmegaConf.to_container(compose(["+experiment=smoke"], "run"))))  # type: ignore[arg-type]


def values(seed: int) -> Case:
    """Any value for any setting: composed, or answered."""
    chance = random.Random(f"values {seed}")
    typed = [f"{chance.choice(settings())}={chance.choice(VALUES)}" for _ in range(chance.choice((1, 1, 2)))]
    act = partial(fuzz.command, "task=report", *typed)
    chosen = tuple(setting.partition("=")[2] for setting in typed if setting.startswith("paths.run"))
    return Case("settings", f"seed {seed}: {typed}", lambda place: None, act, statuses=(2,), outputs=chosen)


def _chosen(chance: random.Random, table: dict[str, tuple[str, ...]]) -> list[str]:
    names = chance.sample(sorted(table), chance.choice((1, 2, 3, 5)))
    return [
        f"{name}={chance.choice((*table[name], *table[name], *table[name], chance.choice(VALUES)))}" for name in names
    ]


def predictions(seed: int) -> Case:
    """Combinations of the settings of task=predict."""
    chance = random.Random(f"predictions {seed}")
    typed = _chosen(chance, PREDICT)
    if not any(setting.startswith("ckpt_path=") for setting in typed):
        typed.append(f"ckpt_path={chance.choice(('x.ckpt', 'x.onnx'))}")

    def prepare(place: Path) -> None:
        fakes.write_folder(place / "in", 3, fuzz.SIZE)
        (place / "x.ckpt").write_bytes(fuzz.checkpoint())
        (place / "x.onnx").write_bytes(fuzz.exported("onnx"))

    act = partial(fuzz.command, "task=predict", "input=in", "output=out", "trainer.enable_progress_bar=false", *typed)
    return Case("prediction", f"seed {seed}: {typed}", prepare, act)


SMALL = (
    *("+experiment=smoke", "data.train.clips=2", "data.train.frames=3", "data.val.clips=1", "data.val.frames=3"),
    *("data.test.clips=1", "data.test.frames=3", "data.size=[32,64]", "data.batch_size=2", "data.num_workers=0"),
    *(
        "trainer.enable_progress_bar=false",
        "trainer.limit_train_batches=2",
        "trainer.max_epochs=1",
        "backbone.pretrained=false",
    ),
)


def trainings(seed: int) -> Case:
    """Combinations of the settings of task=train."""
    chance = random.Random(f"trainings {seed}")
    typed = _chosen(chance, TRAIN)

    def prepare(place: Path) -> None:
        (place / "x.ckpt").write_bytes(fuzz.checkpoint())

    act = partial(fuzz.command, *SMALL, f"paths.data={data()}", *typed)
    return Case("training", f"seed {seed}: {typed}", prepare, act, limit=240)


@cache
def data() -> Path:
    """A folder with the procedural clips of `SMALL`."""
    folder = fuzz.scratch() / "data"
    run(compose([*SMALL, f"paths.data={folder}", "task=check"], folder / "run"))
    return folder


def names(seed: int) -> Case:
    """Videos and outputs of any name, typed as they are."""
    chance = random.Random(f"names {seed}")
    name, suffix = NAMES[seed % len(NAMES)], chance.choice(("", ".mp4"))

    def prepare(place: Path) -> None:
        (place / f"{name}{suffix}").write_bytes(fuzz.movie(".mp4", "h264")) if name != ".." else None
        (place / "x.onnx").write_bytes(fuzz.exported("onnx"))

    given: tuple[Any, ...] = (f"input={name}{suffix}", f"output=out/{name}", "ckpt_path=x.onnx", "writer.kinds=[masks]")
    return Case("names", f"seed {seed}: {name!r}", prepare, partial(fuzz.command, "task=predict", *given))


MATRIX = {values: 120, predictions: 120, trainings: 60, names: 35}
"""Each with its number of cases in the campaign."""
