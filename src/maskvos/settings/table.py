"""All settings and what their values may be, and the check of a configuration by it.

Names are dotted; in a name, ``*`` stands for any one part, ``**`` for any number of them, and items of lists have their
numbers as parts. Settings that are not listed, such as those of classes of your own, need only be finite. Choices that
a module owns are looked up there when they are needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from maskvos.environment import parse_shard
from maskvos.errors import UserError
from maskvos.settings.rules import (
    ANYTHING,
    COUNT,
    FLAG,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    choice,
    either,
    mapping,
    null,
    number,
    several,
    such_as,
    whole,
    worded,
)

TASKS = ("train", "test", "predict", "evaluate", "check", "flow", "export", "benchmark", "report", "sweep")
BACKENDS = ("auto", "torch", "onnx", "openvino", "torchscript", "pt2")
PRECISIONS = {"32-true": None, "32": None, "bf16-mixed": "bfloat16", "bf16": "bfloat16", "16-mixed": "float16"}
"""Names of precisions, as Lightning's Trainer has them, to the type of autocast; None: no autocast."""
PRECISIONS["16"] = "float16"

_OWN = ("maskvos.", "torch.", "albumentations.", "pytorch_lightning.")
_LARGEST = 2**13  # a side of an image, pixels
_SIZE = such_as(several(whole(8, _LARGEST), count=2), "[512,512]")
_COLOUR = either(such_as(several(number(0, 255), count=3), "[255,0,0] (red, green, blue)"), TEXT)
_PATH = null(TEXT)
_RANGE = several(number(), count=2)
_DIRECTION = choice("forward", "backward")
_SEED = null(whole(0, 2**32 - 1))
_LIMIT = either(number(0, 1), whole(0))
_ODD = Rule(
    "an odd number of at least 1, such as 31", lambda value: COUNT.check(value) if value in range(1, 10**6, 2) else ""
)
_LISTED = null(either(TEXT, several(TEXT)))


def _check_shard(value: Any) -> str | None:
    try:
        parse_shard(value)
    except UserError:
        return ""
    return None


RULES: dict[str, Rule] = {
    # ---------------------------------------------------------------- general
    "task": choice(*TASKS),
    "name": TEXT,
    "seed": _SEED,
    "ckpt_path": _PATH,
    "init_from": _PATH,
    "trust": several(TEXT),
    "aux_weight": number(0),
    "input": _PATH,
    "output": _PATH,
    "backend": choice(*BACKENDS),
    "threshold": number(0, 1, ")"),
    "fill_gaps": null(whole(0, 10)),
    "refine": FLAG,
    "predictions": _PATH,
    "missing": choice("fail", "zero", "skip"),
    "format": choice("onnx", "torchscript", "pt2"),
    "runs": _LISTED,
    "shard": null(Rule("<index>/<count> with 1 <= index <= count, such as 3/16", _check_shard)),
    "paths.*": TEXT,
    "ray.workers": whole(0),
    "ray.cpus": COUNT,
    "ray.gpus": null(number(0)),
    "ray.address": null(TEXT),
    # ---------------------------------------------------------------- data
    "data.root": _PATH,
    "data.size": _SIZE,
    "data.batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "data.num_workers": null(whole(0, 256)),
    "data.scales": null(such_as(several(number(0.1, 10), least=1), "[0.75,1,1.25]")),
    "data.weights": null(mapping(number(0))),
    "data.samples_per_epoch": null(COUNT),
    "data.motion_as_option": null(SHARE),
    "data.paste": SHARE,
    "data.flow_pairs": null(such_as(several(mapping(ANYTHING)), "[{direction: backward, gap: 1}]")),
    "data.flow_pairs.*.direction": _DIRECTION,
    "data.flow_pairs.*.gap": COUNT,
    "data.seed": _SEED,
    "data.**.clips": COUNT,
    "data.**.frames": null(COUNT),
    "data.**.size": such_as(several(whole(16, _LARGEST), count=2), "[96,160]"),
    "data.**.fraction": SHARE,
    "data.**.style.objects": COUNT,
    "data.**.style.distractors": whole(0),
    "data.**.style.area": such_as(several(number(0, 1, "()"), count=2), "[0.03,0.3]"),
    "data.**.style.speed": such_as(several(number(0, 1, "()"), count=2), "[0.004,0.03]"),
    "data.**.style.*": SHARE,
    "data.**.style": null(mapping(ANYTHING)),
    "data.**.year": choice(2016, 2017),
    "data.**.split": TEXT,
    "data.**.seed": _SEED,
    "data.**.root": TEXT,
    "data.**.name": TEXT,
    "data.**.images": TEXT,
    "data.**.masks": TEXT,
    "data.**.group": null(TEXT),
    "data.**.hold_out": several(TEXT),
    "data.**.sets": several(TEXT),
    "data.**.classes": _LISTED,
    "data.**.datasets": _LISTED,
    # ---------------------------------------------------------------- flow and test-time augmentation
    "**flow.cache": _PATH,
    "**flow.direction": _DIRECTION,
    "**flow.gap": COUNT,
    "**flow.both_directions": FLAG,
    "**flow.format": choice("maskvos.flow.store:FORMATS"),
    "**flow.save_images": FLAG,
    "**flow.max_flow": POSITIVE,
    "**flow.estimator.preset": choice("maskvos.flow.dis:PRESETS"),
    "**flow.estimator.max_size": null(whole(1, _LARGEST)),
    "**flow.estimator.finest_scale": null(whole(0, 2)),
    "**flow.estimator.patch_stride": null(whole(1, 8)),
    "**flow.estimator.refinements": null(whole(0, 1000)),
    "**flow.estimator.smoothness": null(number(0.01, 1e6)),
    "**flow.estimator.variant": choice("small", "large"),
    "**flow.estimator.weights": TEXT,
    "**flow.estimator.updates": whole(1, 1000),
    "**flow.estimator.precision": choice("32-true", "bf16-mixed"),
    "tta.mirror": FLAG,
    "tta.flow.direction": _DIRECTION,
    "tta.flow.gap": COUNT,
    # ---------------------------------------------------------------- network
    "**encoder.pretrained": either(FLAG, TEXT),
    "backbone.pretrained": either(FLAG, TEXT),
    "model.saliency.pretrained": either(FLAG, TEXT),
    "**.drop_path": number(0, 1, ")"),
    "**.dropout": number(0, 1, ")"),
    "**.channels": either(COUNT, several(COUNT, least=1)),
    "**.depths": several(COUNT, least=1),
    "**.heads": either(COUNT, several(COUNT, least=1)),
    "**.ffn_channels": COUNT,
    "**.points": COUNT,
    "**.queries": COUNT,
    "model.**.layers": COUNT,
    "**.window": COUNT,
    "**.head.width": COUNT,
    "**.head.padding": choice("zeros", "replicate"),
    "model.inputs.mean": several(number(), count=3),
    "model.inputs.std": several(POSITIVE, count=3),
    "model.shared": FLAG,
    "model.init": choice("default", "original"),
    "**.output_norm": FLAG,
    "**.pad_type": TEXT,
    "backbone.name": TEXT,
    "backbone.published": TEXT,
    "backbone.variant": TEXT,
    "**encoder.name": TEXT,
    "**encoder.published": TEXT,
    "**encoder.variant": TEXT,
    # ---------------------------------------------------------------- training
    "augment.colours.hue": several(number(-0.5, 0.5), count=2),
    "augment.colours.*": several(number(0), count=2),
    "**.p": SHARE,
    "**.brightness": _RANGE,
    "**.contrast": _RANGE,
    "**.saturation": _RANGE,
    "**.hue": _RANGE,
    "**.brightness_limit": _RANGE,
    "**.contrast_limit": _RANGE,
    "**.limit": _RANGE,
    "**.ratio": several(POSITIVE, count=2),
    "**.scale": several(POSITIVE, count=2),
    "**.std": number(0),
    "augment.transforms.*.size": _SIZE,
    "optim.lr": number(0),
    "optim.weight_decay": number(0),
    "optim.betas": several(number(0, 1, ")"), count=2),
    "optim.momentum": number(0, 1, ")"),
    "optim.fused": null(FLAG),
    "schedule.warmup": SHARE,
    "schedule.floor": SHARE,
    "schedule.power": POSITIVE,
    "loss.**width": _ODD,
    "loss.**factor": number(0),
    "loss.**smooth": number(0),
    "loss.**gamma": number(0),
    "loss.**alpha": null(SHARE),
    "loss.weights.*": number(0),
    "train.backbone_factor": number(0),
    "train.layer_decay": number(0, 1, "("),
    "train.freeze_layers": whole(0),
    "train.freeze_norms": choice("none", "encoders", "all"),
    "train.ema": null(number(0, 1, "()")),
    "train.compile": null(choice("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")),
    "train.channels_last": FLAG,
    "train.activation_checkpointing": FLAG,
    "trainer.accelerator": choice("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "trainer.devices": worded(
        either(choice("auto", -1), COUNT, TEXT, several(whole(0), least=1)),
        "a number of devices of at least 1, a list of their indices such as [0,1], -1 (all) or auto",
    ),
    "trainer.num_nodes": COUNT,
    "trainer.strategy": either(TEXT, mapping(ANYTHING)),
    "trainer.strategy.*": TEXT,
    "trainer.precision": worded(
        choice(*PRECISIONS, 32, 16), "a precision whose weights have 32 bits, such as 16-mixed or bf16-mixed"
    ),
    "trainer.max_epochs": whole(-1),
    "trainer.max_steps": whole(-1),
    "trainer.gradient_clip_val": null(number(0)),
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.check_val_every_n_epoch": null(COUNT),
    "trainer.num_sanity_val_steps": whole(-1),
    "trainer.limit_*_batches": worded(_LIMIT, "a share of the batches from 0 to 1.0, or a whole number of them"),
    "trainer.log_every_n_steps": whole(0),
    "trainer.deterministic": either(FLAG, choice("warn")),
    "trainer.enable_*": FLAG,
    "trainer.fast_dev_run": either(FLAG, whole(0)),
    "trainer.default_root_dir": TEXT,
    "trainer.plugins.*.auto_requeue": FLAG,
    "callbacks.last.every_n_steps": null(COUNT),
    "callbacks.last.every_minutes": null(POSITIVE),
    "callbacks.panels.count": whole(0),
    "callbacks.best.mode": choice("max", "min"),
    "callbacks.best.save_top_k": whole(-1),
    "callbacks.best.*_counter": FLAG,
    "callbacks.best.auto_insert_metric_name": FLAG,
    "callbacks.rates.logging_interval": null(choice("step", "epoch")),
    "callbacks.randomness.seed": _SEED,
    "callbacks.*.*": TEXT,
    "logger.wandb.offline": FLAG,
    "logger.wandb.log_model": either(FLAG, choice("all")),
    "logger.wandb.tags": several(TEXT),
    "logger.*.*": null(TEXT),
    # ---------------------------------------------------------------- results
    "protocol.measures": several(choice("maskvos.metrics.protocol:MEASURES"), least=1),
    "protocol.minmax": FLAG,
    "protocol.tolerance": number(0),
    "protocol.name": TEXT,
    "protocol.trim": choice("none", "first", "last", "both"),
    "protocol.empty_truth": choice("score", "skip"),
    "protocol.threshold": choice("above_0", "above_127", "above_128"),
    "protocol.average": choice("sequences", "classes", "frames"),
    "protocol.objects": choice("merge", "match"),
    "protocol.decay": choice("exact", "davis2016", "davis2017"),
    "protocol.structure": choice("matlab", "torch"),
    "protocol.curve": choice("averaged", "per_sequence"),
    "protocol.unstable": several(TEXT),
    "writer.output": _PATH,
    "writer.kinds": several(choice("maskvos.inference.outputs:KINDS"), least=1),
    "writer.existing": choice("resume", "overwrite", "error"),
    "writer.on_error": choice("skip", "fail"),
    "writer.colour": _COLOUR,
    "writer.opacity": SHARE,
    "writer.outline": whole(0, 1000),
    "writer.outline_colour": null(_COLOUR),
    "writer.background": _COLOUR,
    "writer.soft_edges": FLAG,
    "writer.frame_rate": number(0, 1000, "("),
    "benchmark.batches": several(whole(1, 4096), least=1),
    "benchmark.variants": several(TEXT, least=1),
    "benchmark.repeats": COUNT,
    "benchmark.warmup": COUNT,
    "benchmark.frames": COUNT,
    "benchmark.threads": null(whole(1, 1024)),
}


@cache
def rule_of(name: str) -> Rule | None:
    """The rule of a setting: the first in `RULES` whose name fits."""
    return RULES.get(name) or next((rule for pattern, rule in _patterns() if pattern.fullmatch(name)), None)


@cache
def _patterns() -> list[tuple[re.Pattern[str], Rule]]:
    parts = {"**.": r"(?:[^.]+\.)*", "**": r"(?:.*[._])?", "*": r"[^.]*"}
    return [
        (re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*\.?|\*)", name))), rule)
        for name, rule in RULES.items()
        if "*" in name
    ]


def check_settings(config: Any, name: str = "", source: str = "") -> None:
    """Check every value of a configuration, or of a part of it.

    Args:
        config: Plain containers; references to other settings need not be resolved.
        name: Dotted name of the part: ``writer`` for the settings of the writer alone.
        source: The file that it comes from, if that is not the command line.

    Raises:
        UserError: A value is not what it may be; names the setting, its value, the rule, and the remedy.
    """
    for key, value in _values(config, name):
        if problem := _problem(key, value):
            raise UserError(
                f"{source}{': ' if source else ''}{key}={_shown(value)}: must be {problem}; change it, or leave it out"
            )


def _problem(name: str, value: Any) -> str | None:
    """What a value must be, if it is something else."""
    if isinstance(value, str) and "${" in value:  # another setting
        return None
    rule = rule_of(name)
    if rule is not None and (problem := rule.problem(value)) is not None:
        return problem
    return "finite" if isinstance(value, float) and not math.isfinite(value) else None


def _values(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A value by its name, and what is in it if it is a mapping or list, but for what belongs to foreign classes."""
    yield name, value
    inner: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping) and str(value.get("_target_", _OWN[0])).startswith(_OWN):
        inner = list(value.items())
    elif isinstance(value, (list, tuple)):
        inner = list(enumerate(value))
    for key, part in inner:
        if not str(key).startswith("_"):
            yield from _values(part, f"{name}.{key}".lstrip("."))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
