"""Train the weights that come with the package from nothing, in the six trainings that made them.

    python scripts/release_light.py --data <folder with DAVIS/> --output release     # some six hours on two cores
    python scripts/release_light.py --data ... --output ... trainer.precision=32-true      # any setting of the project

Each training starts from the weights of the one before. What is finished is left as it is, and an interrupted training
is gone on with. Clips and flow take some 50 GB. The released weights were trained so, but for the third training, which
was ended at step 4,869 of 5,400.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from maskvos.errors import UserError
from maskvos.models.state_dict import read_checkpoint
from train_light import write_weights

# The experiment's own settings are those of the last training.
_PLAIN = ["data.paste=0.3", "data.flow_pairs=null"]
_AVERAGED = "train.ema=0.999"
_MANY_CLIPS = "data.train.parts.1.clips=2400"
_UNSEEN = ["trainer.limit_val_batches=0", "callbacks.best=null"]
_PALE = [
    "augment.colours.brightness=[0.8,1.2]",
    "augment.colours.contrast=[0.8,1.2]",
    "augment.colours.saturation=[0.8,1.2]",
    "augment.colours.hue=[-0.05,0.05]",
]


def _validate(steps: int) -> str:
    """The setting that validates every so many steps of an epoch, and so looks for the best weights more often."""
    return f"++trainer.val_check_interval={steps}"


TRAININGS = {
    "1": ["data.scales=[0.75]", "optim.lr=1e-3", "trainer.max_steps=5200", *_PLAIN, *_PALE],
    "2": ["data.scales=null", "optim.lr=3e-4", "trainer.max_steps=1300", _validate(400), *_PLAIN, *_PALE],
    "3": ["optim.lr=6e-4", "trainer.max_steps=5400", _validate(1000), _MANY_CLIPS, _AVERAGED, "data.flow_pairs=null"],
    "4": ["optim.lr=5e-4", "trainer.max_steps=2400", _validate(750), _MANY_CLIPS, _AVERAGED],
    "5": ["optim.lr=6e-4", "trainer.max_steps=4000", _validate(750), _MANY_CLIPS, _AVERAGED],
    # All sequences, now that the settings are known: nothing is left to validate on.
    "6": ["optim.lr=5e-4", "trainer.max_steps=3000", _MANY_CLIPS, "data.train.parts.0.hold_out=[]", *_UNSEEN],
}


def command(number: str, options: argparse.Namespace) -> list[str]:
    """Settings of one training."""
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
    """All trainings, then the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds DAVIS/ (see compact_davis.py)")
    parser.add_argument("--output", type=Path, required=True, help="folder for everything")
    options, options.settings = parser.parse_known_args()
    for number in TRAININGS:
        done = options.output / number / "done"
        if not done.exists():
            process = subprocess.run([sys.executable, "-m", "maskvos.run", *command(number, options)], check=False)
            if process.returncode:
                sys.exit(process.returncode)
            done.touch()
    checkpoint = read_checkpoint(options.output / list(TRAININGS)[-1] / "checkpoints/last.ckpt")
    write_weights(checkpoint, options.output / "light.safetensors")
    print(f"weights of step {checkpoint['global_step']}: {options.output / 'light.safetensors'}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
