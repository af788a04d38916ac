"""Train the light model for a limited time, resuming from an earlier job, on machines that only run short jobs.

    python scripts/train_light.py --data <folder with DAVIS/> --output job1 --minutes 9
    python scripts/train_light.py --data <folder with DAVIS/> --output job2 --minutes 9 --resume job1
    python scripts/train_light.py ... trainer.max_steps=20000 data.batch_size=32        # any override

When the time is up, training is interrupted as by Ctrl-C. The output folder then contains the checkpoint for the next
job, in parts of at most 16 MB, and the weights with the best validation score, `light.safetensors`. To keep the
checkpoint small, weights and their averages are stored in float16 and the optimiser's moments in bfloat16. This rounds
once per job, far below the noise of a training step. Nothing is rounded within a job or by
`python -m maskvos.run +experiment=light`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from maskvos import __version__
from maskvos.environment import git_commit
from maskvos.errors import UserError
from maskvos.media.files import write_bytes
from maskvos.models.state_dict import read_checkpoint, tensors_of
from maskvos.run import compose, run
from maskvos.weights import bundled

PART = 16 * 1000 * 1000
MANIFEST = "parts.json"


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast the floating-point tensors of more than one element in nested containers to a dtype."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() and value.numel() > 1 else value
    if isinstance(value, dict):
        return {key: cast(inner, dtype) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cast(inner, dtype) for inner in value)
    return value


def write_parts(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint in parts; the manifest is written last, so that incomplete parts are not read."""
    small = {
        key: cast(value, torch.bfloat16 if key == "optimizer_states" else torch.float16)
        for key, value in checkpoint.items()
    }
    buffer = io.BytesIO()
    torch.save(small, buffer)
    data = buffer.getvalue()
    parts = {}
    for number, start in enumerate(range(0, len(data), PART)):
        part = data[start : start + PART]
        name = f"checkpoint.{number:02d}"
        write_bytes(folder / name, part)
        parts[name] = hashlib.sha256(part).hexdigest()
    write_bytes(folder / MANIFEST, json.dumps(parts, indent=2).encode())


def read_parts(folder: Path) -> bytes:
    """Join the parts that `write_parts` wrote.

    Raises:
        UserError: A part or the manifest is missing, or a checksum is wrong.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"--resume {folder}: no {MANIFEST} found; give the --output of a job that has finished")

    def verified() -> Iterator[bytes]:
        for name, digest in json.loads((folder / MANIFEST).read_text()).items():
            part = (folder / name).read_bytes() if (folder / name).is_file() else b""
            if hashlib.sha256(part).hexdigest() != digest:
                raise UserError(f"--resume {folder}: {name} is missing or damaged; copy the job's output again")
            yield part

    return b"".join(verified())


def train(overrides: list[str], minutes: float, work: Path) -> None:
    """Train until the time is up or all steps are done."""
    # On Ctrl-C, training ends after the current step and saves a checkpoint that resumes exactly.
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        run(compose(overrides, work))
    except SystemExit:
        print(f"stopped after {minutes:g} minutes", flush=True)
    finally:
        timer.cancel()


def write_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the network of a checkpoint in the format of the bundled weights, with metadata about its training."""
    metadata = {
        "version": __version__,
        "commit": str(git_commit()),
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "config": checkpoint["maskvos"]["config"],
        "steps": checkpoint["global_step"],
    }
    tensors = {key.removeprefix("network."): value for key, value in tensors_of(checkpoint, str(path)).items()}
    bundled.write(path, tensors, metadata)


def main() -> None:
    """Train in one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that contains DAVIS/ (see compact_davis.py)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint's parts and the weights")
    parser.add_argument("--minutes", type=float, required=True, help="training time; writing the output comes on top")
    parser.add_argument("--resume", type=Path, help="--output of the job to resume")
    parser.add_argument("--work", type=Path, default=Path("runs/light_job"), help="folder for run and flow cache")
    options, overrides = parser.parse_known_args()
    settings = ["+experiment=light", f"paths.data={options.data}", f"flow.cache={options.work}/flow", "data.test=null"]
    settings += overrides
    print(run(compose([*settings, "task=flow"], options.work)), flush=True)
    if options.resume:
        checkpoint = torch.load(io.BytesIO(read_parts(options.resume)), map_location="cpu", weights_only=True)
        start = options.work / "resume.ckpt"
        torch.save(cast(checkpoint, torch.float32), start)
        settings.append(f"ckpt_path={start}")
    train(settings, options.minutes, options.work)

    checkpoints = options.work / "checkpoints"
    last, best = read_checkpoint(checkpoints / "last.ckpt"), checkpoints / "best.ckpt"
    write_parts(last, options.output)
    weights = read_checkpoint(best) if best.is_file() else last
    write_weights(weights, options.output / "light.safetensors")
    print(f"{options.output}: {last['global_step']} steps done, weights of step {weights['global_step']}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
