r"""Reproduce the bundled weights: seventeen trainings, most of them initialised with the weights of an earlier one.

    python scripts/release_light.py --data data --encoder efficientnet-lite0.pth --raft raft-small.pth \
        --saliency u2netp.onnx --output release
    python scripts/release_light.py ... trainer.precision=32-true      # any override

The data folder holds ``DAVIS`` (see compact_davis.py) and ``images`` (see conf/data/davis_pictures.yaml). The first six
trainings start from random weights; then the appearance encoder is replaced (see replace_encoder.py), and six more
follow with animated pictures. The thirteenth, with flow by RAFT, makes ``light_raft`` of the eleventh. The next two
start anew, from random weights and procedural clips alone, and make ``light_free``, with U2-Net-p. The last two follow
the twelfth with other clips; the mean of the weights of all three is ``light`` and, with U2-Net-p, ``light_saliency``.

To resume, run the command again: finished trainings are skipped, and an interrupted one resumes from its checkpoint.
About fourteen hours on two cores. The released weights were trained like this, except that the third training was
stopped at step 4,869 of 5,400, that the head was padded with zeros in the first eleven trainings and in the thirteenth,
and that the last two continued the weights of the twelfth in half precision.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from maskvos import __version__
from maskvos.build import build
from maskvos.environment import git_commit
from maskvos.errors import UserError
from maskvos.models.state_dict import read_checkpoint, tensors_of
from maskvos.run import compose
from maskvos.tasks.common import plain
from maskvos.weights import bundled
from maskvos.weights.checkpoint import load_network
from maskvos.weights.config import InferenceConfig, read_config, without_pretrained
from maskvos.weights.export import export

_FIRST = ["data.paste=0.3", "data.flow_pairs=null"]
_EMA = "train.ema=0.999"
_MANY_CLIPS = "data.train.parts.1.clips=2400"
_NO_VALIDATION = ["trainer.limit_val_batches=0", "callbacks.best=null"]
_WEAK_JITTER = [
    "augment.colours.brightness=[0.8,1.2]",
    "augment.colours.contrast=[0.8,1.2]",
    "augment.colours.saturation=[0.8,1.2]",
    "augment.colours.hue=[-0.05,0.05]",
]


def _validate_every(steps: int) -> str:
    """The override that validates every ``steps`` steps within an epoch, to select the best weights more often."""
    return f"++trainer.val_check_interval={steps}"


SCRATCH = {
    "1": ["data.scales=[0.75]", "optim.lr=1e-3", "trainer.max_steps=5200", *_FIRST, *_WEAK_JITTER],
    "2": ["data.scales=null", "optim.lr=3e-4", "trainer.max_steps=1300", _validate_every(400), *_FIRST, *_WEAK_JITTER],
    "3": ["optim.lr=6e-4", "trainer.max_steps=5400", _validate_every(1000), _MANY_CLIPS, _EMA, "data.flow_pairs=null"],
    "4": ["optim.lr=5e-4", "trainer.max_steps=2400", _validate_every(750), _MANY_CLIPS, _EMA],
    "5": ["optim.lr=6e-4", "trainer.max_steps=4000", _validate_every(750), _MANY_CLIPS, _EMA],
    # The hyperparameters are fixed: train on all sequences, with none held out for validation.
    "6": ["optim.lr=5e-4", "trainer.max_steps=3000", _MANY_CLIPS, "data.train.parts.0.hold_out=[]", *_NO_VALIDATION],
}
"""Trainings from random weights (experiment=light_scratch): number to overrides."""

_FROZEN = ["train.freeze_layers=2", "train.freeze_norms=encoders", "train.channels_last=true"]
_ALL_SEQUENCES = ["data.train.parts.0.hold_out=[]", "trainer.limit_val_batches=0", "callbacks.best=null"]
_SMALL = "data.size=[224,384]"
PICTURES = {
    "7": ["data.size=[160,288]", "optim.lr=6e-4", "trainer.max_steps=2400", "train.ema=0.999", _validate_every(600)],
    "8": [_SMALL, "optim.lr=4e-4", "trainer.max_steps=1100", "train.ema=0.998", "seed=1", *_ALL_SEQUENCES],
    "9": [_SMALL, "optim.lr=4e-4", "trainer.max_steps=1200", "train.ema=0.998", "seed=2", *_ALL_SEQUENCES],
    "10": [_SMALL, "trainer.max_steps=3600", "train.ema=0.998", "seed=3", *_ALL_SEQUENCES],
    "11": ["trainer.max_steps=2400", "train.ema=0.998", "seed=5", *_ALL_SEQUENCES],
    "12": ["trainer.max_steps=2000", "train.ema=0.998", "seed=7", *_ALL_SEQUENCES],
}
"""Trainings with the pretrained encoder (experiment=light): number to overrides."""
RAFT = {
    "13": [
        *("trainer.max_steps=2000", "train.ema=0.998", "seed=6", *_ALL_SEQUENCES),
        # Flow takes most of the time, and pictures need it for frames that are seen once: fewer of them.
        *("data.train.parts.2.clips=1", "data.weights.DAVIS-2016=3", "data.weights.narrow=0.5"),
    ]
}
"""Trainings with flow by RAFT (experiment=light_raft): number to overrides."""
FREE = {
    "14": ["data.size=[128,224]", "optim.lr=1e-3", "trainer.max_steps=4000"],
    "15": [_SMALL, "trainer.max_steps=1200"],
}
"""Trainings on procedural clips alone (experiment=light_free): number to overrides."""


def _clips(seed: int) -> list[str]:
    """The overrides that draw other procedural clips, and animate the pictures otherwise."""
    return [f"+data.train.parts.{part}.seed={seed}" for part in (1, 2, 3)]


MORE = {
    "16": ["trainer.max_steps=2300", "train.ema=0.998", "seed=11", *_clips(11), *_ALL_SEQUENCES],
    "17": [
        *("trainer.max_steps=2300", "train.ema=0.998", "seed=12", *_clips(12), *_ALL_SEQUENCES),
        *("data.weights.varied=3", "data.paste=0.5"),
    ],
}
"""Trainings with other clips (experiment=light): number to overrides."""
TRAININGS = {**SCRATCH, **PICTURES, **RAFT, **FREE, **MORE}
_TWELFTH = "12/checkpoints/last.ckpt"
START = {"1": None, "7": "start.ckpt", "13": "11/checkpoints/last.ckpt", "14": None, "16": _TWELFTH, "17": _TWELFTH}
"""What a training starts from, if it is not the end of the one before; None: random weights."""
_LIGHT = ["16", "17", "12"]
RELEASED = {"light": _LIGHT, "light_saliency": _LIGHT, "light_raft": ["13"], "light_free": ["15"]}
"""The trainings whose weights, or their mean, are released under a name, which is that of an experiment."""


def command(number: str, options: argparse.Namespace) -> list[str]:
    """The overrides of one training."""
    run = options.output / number
    settings = [f"paths.data={options.data}", f"hydra.run.dir={run}", "data.test=null", "trainer.precision=bf16-mixed"]
    if number in SCRATCH:
        settings += ["+experiment=light_scratch", f"flow.cache={options.output}/flow"]
    elif number in PICTURES or number in MORE:
        settings += ["+experiment=light", f"backbone.pretrained={options.encoder}", *_FROZEN]
    elif number in FREE:
        settings += ["+experiment=light_free", f"model.saliency.pretrained={options.saliency}", "train.ema=0.998"]
        settings += [*_NO_VALIDATION, "train.channels_last=true", "data.scales=null", "flow.estimator.max_size=448"]
    else:
        settings += ["+experiment=light_raft", f"backbone.pretrained={options.encoder}", *_FROZEN]
        settings += [f"model.saliency.pretrained={options.saliency}", f"flow.cache={options.output}/flow_raft"]
        settings += [f"flow.estimator.weights={options.raft}", "flow.estimator.precision=bf16-mixed"]
    settings += [*TRAININGS[number], *options.settings]
    if number in FREE:  # whose clips are not part of a mixture
        settings = [setting.replace("data.train.parts.1.", "data.train.") for setting in settings]
    if (run / "checkpoints/last.ckpt").is_file():
        return [*settings, "ckpt_path=last"]
    start = START.get(number, f"{int(number) - 1}/checkpoints/last.ckpt")
    return settings if start is None else [*settings, f"init_from={options.output}/{start}"]


def run(arguments: list[str]) -> None:
    """Run a Python script or module; ends this process if it fails."""
    process = subprocess.run([sys.executable, *arguments], check=False)
    if process.returncode:
        sys.exit(process.returncode)


def mean(checkpoints: list[dict[str, Any]]) -> dict[str, Any]:
    """The first checkpoint, with the mean of the weights of all (Wortsman et al., "Model Soups", ICML 2022)."""
    weights = [checkpoint["state_dict"] for checkpoint in checkpoints]
    means = {
        key: torch.stack([other[key] for other in weights]).mean(0) if value.is_floating_point() else value
        for key, value in weights[0].items()
    }
    return {**checkpoints[0], "state_dict": means}


def use_as(checkpoint: dict[str, Any], name: str) -> None:
    """Store how an experiment is used, which can be otherwise than how the weights were trained."""
    experiment = plain(compose([f"+experiment={name}"]))
    config = checkpoint["maskvos"]["config"]
    config |= {key: experiment[key] for key in ("name", "tta", "flow")}
    config["data"]["size"] = experiment["data"]["size"]


def add_saliency(checkpoint: dict[str, Any], path: Path) -> None:
    """Add U2-Net-p to the checkpoint of a training without."""
    model = plain(compose(["+experiment=light_saliency", f"model.saliency.pretrained={path}"]))["model"]
    checkpoint["maskvos"]["config"]["model"]["saliency"] = model["saliency"]
    weights = build(model["saliency"], "model.saliency").state_dict()
    checkpoint["state_dict"] |= {f"network.saliency.{key}": value for key, value in weights.items()}


def write_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the network of a checkpoint in the format of the bundled weights, with metadata about its training."""
    config = checkpoint["maskvos"]["config"]
    config |= {"model": without_pretrained(config["model"]), "flow": {**config["flow"], "cache": None}}
    if "weights" in config["flow"]["estimator"]:  # a user's are elsewhere
        config["flow"]["estimator"] |= {"weights": "default", "precision": "32-true"}
    metadata = {
        "version": __version__,
        "commit": str(git_commit()),
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "config": config,
        "steps": checkpoint["global_step"],
    }
    tensors = {key.removeprefix("network."): value for key, value in tensors_of(checkpoint, str(path)).items()}
    bundled.write(path, tensors, metadata)


def main() -> None:
    """Run all trainings, then write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that contains DAVIS/ and images/")
    parser.add_argument("--encoder", type=Path, required=True, help="ImageNet weights of EfficientNet-Lite0 (.pth)")
    parser.add_argument("--raft", type=Path, required=True, help="weights of RAFT-small (.pth)")
    parser.add_argument("--saliency", type=Path, required=True, help="weights of U2-Net-p (u2netp.onnx)")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs, flow cache and weights")
    options, options.settings = parser.parse_known_args()
    for number in TRAININGS:
        done = options.output / number / "done"
        if done.exists():
            continue
        if number == "7" and not (start := options.output / "start.ckpt").exists():
            trained = options.output / "6/checkpoints/last.ckpt"
            encoder = ["+experiment=light", f"backbone.pretrained={options.encoder}", *options.settings]
            script = str(Path(__file__).with_name("replace_encoder.py"))
            run([script, str(trained), str(start), "--images", str(options.data), *encoder])
        run(["-m", "maskvos.run", *command(number, options)])
        done.touch()
    for name, numbers in RELEASED.items():
        checkpoint = mean([read_checkpoint(options.output / n / "checkpoints/last.ckpt") for n in numbers])
        use_as(checkpoint, name)
        if name == "light_saliency":
            add_saliency(checkpoint, options.saliency)
        path = options.output / f"{name}.safetensors"
        write_weights(checkpoint, path)
        config = InferenceConfig.from_config(read_config(path) or {})
        network = load_network(path, config.model)
        exported = export(network, path.with_suffix(".onnx"), config=config.to_config(), half=True)
        print(f"weights of step {checkpoint['global_step']}: {path}, {exported}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
