"""The SLURM job that segments an archive, with SLURM's commands replaced by such as write down what they were given."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from maskvos.run import compose

SBATCH = Path(__file__).resolve().parents[2] / "scripts" / "predict.sbatch"


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def submit(folder: Path, *overrides: str, task: int = 7, first: int = 5, count: int = 4) -> subprocess.Popen[str]:
    array = {
        "ARRAY_JOB_ID": 90,
        "ARRAY_TASK_ID": task,
        "ARRAY_TASK_MIN": first,
        "ARRAY_TASK_COUNT": count,
        "JOB_ID": 97,
    }
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **{f"SLURM_{k}": str(v) for k, v in array.items()}}
    command = ["bash", str(SBATCH), *overrides]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def test_each_job_of_the_array_takes_its_share(tmp_path: Path) -> None:
    fake(tmp_path, "srun", 'printf "%s\\n" "$@" > given; exit 3')
    assert submit(tmp_path, "input=my clips", "output=out", "writer.kinds=[masks, soft]").wait(20) == 3
    given = (tmp_path / "given").read_text().splitlines()
    assert given[:3] == ["python", "-m", "maskvos.run"]
    assert {"task=predict", "shard=3/4", "input=my clips", "output=out", "writer.kinds=[masks, soft]"} <= set(given)
    assert "hydra.run.dir=runs/predict_90/7" in given
    # The script's own settings are such as there are.
    cfg = compose([setting for setting in given if "=" in setting and not setting.startswith("hydra.")])
    assert (cfg.shard, cfg.input, list(cfg.writer.kinds)) == ("3/4", "my clips", ["masks", "soft"])


def test_all_jobs_need_one_output(tmp_path: Path) -> None:
    job = submit(tmp_path, "input=clips")
    assert "give output=<folder>" in job.communicate(timeout=20)[1]
    assert job.returncode == 2


@pytest.mark.parametrize("status", [143, 2])
def test_the_job_is_requeued_when_its_time_is_up(tmp_path: Path, status: int) -> None:
    fake(
        tmp_path,
        "srun",
        f"echo $$ > pid; trap 'touch ended; exit {status}' TERM; touch started; while :; do sleep 0.1; done",
    )
    fake(tmp_path, "scancel", 'echo "$@" > cancelled; kill -TERM $(cat pid)')
    fake(tmp_path, "scontrol", '[ -f ended ] && echo "$@" > requeued')
    job = submit(tmp_path, "output=out")
    deadline = time.time() + 30
    while not (tmp_path / "started").exists() and time.time() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 0
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "97"]
    assert (tmp_path / "cancelled").read_text().split() == ["--signal=TERM", "97.0"]
