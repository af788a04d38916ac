"""Train the light model within a given time, and go on from where an earlier job stopped.

    python scripts/train_light.py --data <folder with DAVIS/> --output job1 --minutes 9
    python scripts/train_light.py --data <folder with DAVIS/> --output job2 --minutes 9 --resume job1
    python scripts/train_light.py ... trainer.max_steps=20000 data.batch_size=32        # any setting of the project

For machines that can be had for short jobs only. When the time is over the training stops as by Ctrl-C, and the output
holds all that the next job needs, in parts of at most 16 MB; the weights with the best validation score are beside it
as `light.safetensors`. To keep the parts few, weights and averages travel in half precision and the optimiser's moments
in bfloat16: a rounding once a job, which is far below a step's own noise. Without --resume, within one job, and in
`python -m maskvos.run +experiment=light` itself, nothing is rounded.
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


def rounded(value: Any, dtype: torch.dtype) -> Any:
    """A nest of containers with its floating-point tensors of more than one element in a type."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() and value.numel() > 1 else value
    if isinstance(value, dict):
        return {key: rounded(inner, dtype) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rounded(inner, dtype) for inner in value)
    return value


def write_parts(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint in parts; the list of them comes last, so that half of them are never taken for all."""
    small = {
        key: rounded(value, torch.bfloat16 if key == "optimizer_states" else torch.float16)
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
    """The checkpoint that `write_parts` wrote.

    Raises:
        UserError: Parts are missing or changed.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"--resume {folder}: it has no {MANIFEST}; give the --output of a job that came to its end")

    def verified() -> Iterator[bytes]:
        for name, digest in json.loads((folder / MANIFEST).read_text()).items():
            part = (folder / name).read_bytes() if (folder / name).is_file() else b""
            if hashlib.sha256(part).hexdigest() != digest:
                raise UserError(f"--resume {folder}: {name} is missing or changed; copy the job's output again")
            yield part

    return b"".join(verified())


def full(value: Any) -> Any:
    """The opposite of `rounded`: floating-point tensors in single precision."""
    return rounded(value, torch.float32)


def train(overrides: list[str], minutes: float, work: Path) -> None:
    """Train until the time is over or all steps are done."""
    # Lightning ends on Ctrl-C after a whole step, with a checkpoint that goes on exactly: so does the end of the time.
    alarm = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT))
    alarm.daemon = True
    alarm.start()
    try:
        run(compose(overrides, work))
    except SystemExit:
        print(f"stopped after {minutes:g} minutes", flush=True)
    finally:
        alarm.cancel()


def write_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint's network as weights that can come with the package, and how they were made."""
    made = {
        "version": __version__,
        "commit": str(git_commit()),
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "config": checkpoint["maskvos"]["config"],
        "steps": checkpoint["global_step"],
    }
    tensors = {key.removeprefix("network."): value for key, value in tensors_of(checkpoint, str(path)).items()}
    bundled.write(path, tensors, made)


def main() -> None:
    """One job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds DAVIS/ (see compact_davis.py)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts and the weights")
    parser.add_argument("--minutes", type=float, required=True, help="of training, before what is written at the end")
    parser.add_argument("--resume", type=Path, help="the --output of an earlier job, to go on from")
    parser.add_argument("--work", type=Path, default=Path("runs/light_job"), help="folder for everything in between")
    options, overrides = parser.parse_known_args()
    settings = ["+experiment=light", f"paths.data={options.data}", f"flow.cache={options.work}/flow", "data.test=null"]
    settings += overrides
    print(run(compose([*settings, "task=flow"], options.work)), flush=True)
    if options.resume:
        checkpoint = torch.load(io.BytesIO(read_parts(options.resume)), map_location="cpu", weights_only=True)
        start = options.work / "resume.ckpt"
        torch.save(full(checkpoint), start)
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
