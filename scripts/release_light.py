"""Reproduce the bundled weights: six trainings from scratch, each initialised with the weights of the previous one.

    python scripts/release_light.py --data <folder with DAVIS/> --output release     # about six hours on two cores
    python scripts/release_light.py --data ... --output ... trainer.precision=32-true      # any override

To resume, run the command again: finished trainings are skipped, and an interrupted one resumes from its checkpoint.
Clips and flow take about 50 GB. The released weights were trained like this, except that the third training was stopped
at step 4,869 of 5,400.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from maskvos.errors import UserError
from maskvos.models.state_dict import read_checkpoint
from maskvos.weights.checkpoint import load_network
from maskvos.weights.config import InferenceConfig, read_config
from maskvos.weights.export import export
from train_light import write_weights

# The experiment `light` itself has the settings of the last training.
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


TRAININGS = {
    "1": ["data.scales=[0.75]", "optim.lr=1e-3", "trainer.max_steps=5200", *_FIRST, *_WEAK_JITTER],
    "2": ["data.scales=null", "optim.lr=3e-4", "trainer.max_steps=1300", _validate_every(400), *_FIRST, *_WEAK_JITTER],
    "3": ["optim.lr=6e-4", "trainer.max_steps=5400", _validate_every(1000), _MANY_CLIPS, _EMA, "data.flow_pairs=null"],
    "4": ["optim.lr=5e-4", "trainer.max_steps=2400", _validate_every(750), _MANY_CLIPS, _EMA],
    "5": ["optim.lr=6e-4", "trainer.max_steps=4000", _validate_every(750), _MANY_CLIPS, _EMA],
    # The hyperparameters are fixed: train on all sequences, with none held out for validation.
    "6": ["optim.lr=5e-4", "trainer.max_steps=3000", _MANY_CLIPS, "data.train.parts.0.hold_out=[]", *_NO_VALIDATION],
}


def command(number: str, options: argparse.Namespace) -> list[str]:
    """The overrides of one training."""
    run = options.output / number
    settings = [
        *("+experiment=light", f"paths.data={options.data}", f"hydra.run.dir={run}", "data.test=null"),
        *(f"flow.cache={options.output}/flow", "trainer.precision=bf16-mixed", *TRAININGS[number], *options.settings),
    ]
    if (run / "checkpoints/last.ckpt").is_file():
        return [*settings, "ckpt_path=last"]
    if number == "1":
        return settings
    return [*settings, f"init_from={options.output}/{int(number) - 1}/checkpoints/last.ckpt"]


def main() -> None:
    """Run all trainings, then write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that contains DAVIS/ (see compact_davis.py)")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs, flow cache and weights")
    options, options.settings = parser.parse_known_args()
    for number in TRAININGS:
        done = options.output / number / "done"
        if not done.exists():
            process = subprocess.run([sys.executable, "-m", "maskvos.run", *command(number, options)], check=False)
            if process.returncode:
                sys.exit(process.returncode)
            done.touch()
    checkpoint = read_checkpoint(options.output / list(TRAININGS)[-1] / "checkpoints/last.ckpt")
    path = options.output / "light.safetensors"
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
