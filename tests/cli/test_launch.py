"""Several processes and several machines: torchrun, SLURM, and what is refused where it cannot run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from maskvos.build import build
from maskvos.cli.compose import launch_id, run_id
from maskvos.cli.launch import check_launch, check_nested_launch
from maskvos.environment import processes
from maskvos.errors import UserError
from maskvos.models.state_dict import read_checkpoint
from maskvos.run import compose
from maskvos.tasks.lightning import build_trainer

SBATCH = Path(__file__).resolve().parents[2] / "scripts" / "train.sbatch"


@pytest.mark.slow
def test_torchrun_trains_and_tests_on_two_processes(tmp_path: Path) -> None:
    small = [
        *("+experiment=smoke", "trainer.enable_progress_bar=false", "callbacks.progress=null", "callbacks.panels=null"),
        *("data.num_workers=0", "data.batch_size=2", "data.size=[32,64]", "trainer.max_epochs=1", "data.val.clips=1"),
        *("data.train.clips=3", "data.train.frames=4", "data.val.frames=4", "data.test.clips=1", "data.test.frames=4"),
        *("trainer.devices=2", "trainer.strategy=ddp", f"paths.data={tmp_path / 'data'}"),
    ]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "maskvos.run"]
    for task in (["task=train"], ["task=test", "ckpt_path=best"]):
        done = subprocess.run([*run, *task, *small], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "runs" / "smoke").iterdir())
    assert len(folders) == 2  # one for each task, not for each process
    (trained,) = (folder for folder in folders if (folder / "checkpoints").is_dir())
    assert torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    (tested,) = (folder for folder in folders if folder != trained)
    assert 0 <= json.loads((tested / "result.json").read_text())["metrics"]["test/jf"] <= 1
    assert (tested / "test" / "frames.csv").read_text().count("\n") == 1 + 4


def test_processes_that_were_started_one_by_one_share_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")
    for name in (*names, "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert launch_id() is None
    assert processes() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes() == (0, 1)  # nobody's rank: some shells export it
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="--standalone"):
        check_launch([])
    check_launch(["hydra.run.dir=x"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    check_launch([])
    assert run_id() == "job_abc"
    assert processes() == (1, 2)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    job = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "17", "SLURM_PROCID": "3"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert run_id() == "job_17"
    assert processes() == (3, 4)


def test_a_sweep_of_jobs_with_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(mode: RunMode, devices: object) -> None:
        monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(mode=mode))
        check_nested_launch(OmegaConf.create({"trainer": {"devices": devices}}))

    check(RunMode.RUN, 2)
    check(RunMode.MULTIRUN, 1)
    for devices in (2, [0, 1]):
        with pytest.raises(UserError, match=r"trainer\.devices=1"):
            check(RunMode.MULTIRUN, devices)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the errors without a GPU")
@pytest.mark.parametrize(
    ("trainer", "says"), [("fsdp", "trainer=fsdp .*CUDA"), ("ddp", "trainer.accelerator=gpu"), ("gpu", "trainer=cpu")]
)
def test_a_trainer_without_its_hardware_says_so(trainer: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_trainer(compose([f"trainer={trainer}"]))


def test_slurm_outside_of_a_job_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with pytest.raises(UserError, match="sbatch"):
        build_trainer(compose(["trainer=slurm", "trainer.accelerator=cpu"]))


def test_slurm_takes_the_nodes_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NNODES", "3")
    cfg = compose(["trainer=slurm"])
    assert cfg.trainer.num_nodes == 3
    environment = build(cfg.trainer.plugins[1])
    assert environment.auto_requeue is False


def test_fsdp_writes_checkpoints_that_every_task_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = build(compose(["trainer=fsdp"]).trainer.strategy)
    # Stand-ins for several processes: this is the first of them, and they agree on the path.
    monkeypatch.setattr(type(strategy), "is_global_zero", True)
    monkeypatch.setattr(strategy, "broadcast", lambda value: value)
    strategy.save_checkpoint({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt")["state_dict"].keys() == {"a"}


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def submit(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """Run the job's script with SLURM's commands replaced by such as write down what they were given."""
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}
    command = ["bash", str(SBATCH), *overrides]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def test_the_job_resumes_only_what_it_has_saved_and_quotes_what_it_is_given(tmp_path: Path) -> None:
    fake(tmp_path, "srun", 'printf "%s\\n" "$@" > given; exit 3')
    assert submit(tmp_path, "+experiment=swin_t", "data.size=[64, 64]").wait(20) == 3
    given = (tmp_path / "given").read_text().splitlines()
    assert {"trainer=slurm", "trainer.devices=4", "hydra.run.dir=runs/slurm_7", "data.size=[64, 64]"} <= set(given)
    assert "ckpt_path=last" not in given
    checkpoint = tmp_path / "runs/slurm_7/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    submit(tmp_path).wait(20)
    given = (tmp_path / "given").read_text().splitlines()
    assert "ckpt_path=last" in given
    # The script's own settings are such as there are.
    compose([setting for setting in given if "=" in setting and not setting.startswith(("hydra.", "ckpt_path="))])


def test_the_job_is_saved_and_requeued_when_its_time_is_up(tmp_path: Path) -> None:
    fake(tmp_path, "srun", "echo $$ > pid; trap 'touch saved; exit 1' TERM; touch started; while :; do sleep 0.1; done")
    fake(tmp_path, "scancel", 'echo "$@" > cancelled; kill -TERM $(cat pid)')
    fake(tmp_path, "scontrol", '[ -f saved ] && echo "$@" > requeued')
    job = submit(tmp_path)
    deadline = time.time() + 30
    while not (tmp_path / "started").exists() and time.time() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 0
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]
    assert (tmp_path / "cancelled").read_text().split() == ["--signal=TERM", "7.0"]
