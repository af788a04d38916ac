"""Exponential moving average of the weights: formula, validation, checkpoints, test, resuming."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import FSDPStrategy
from torch import nn
from torch.optim.swa_utils import AveragedModel

from maskvos.errors import UserError
from maskvos.run import compose, run
from maskvos.training.ema import EMA


class Counted(nn.Module):
    """A weight, a statistic and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("index", torch.arange(200))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=EMA(decay)._update, use_buffers=True)


def test_the_average_follows_its_formula() -> None:
    model = Counted()
    average = averaged(model, 0.9)
    expected = torch.zeros(3)
    for step in range(200):
        values = torch.tensor([1.0, step, -step])
        model.weight.data.copy_(values)
        model.mean.copy_(values[:2])
        average.update_parameters(model)
        decay = 0.0 if step == 0 else min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * values
        torch.testing.assert_close(average.module.weight.data, expected)
    torch.testing.assert_close(average.module.mean, expected[:2])


def test_integer_buffers_are_copied() -> None:
    model = Counted()
    average = averaged(model, 0.999)
    for _ in range(50):
        average.update_parameters(model)
    assert torch.equal(average.module.index, torch.arange(200))


SIZES = ["data.size=[64,96]", "data.scales=[0.5,1]", "data.batch_size=4", "data.train.clips=6", "data.train.frames=3"]
VALIDATION = ["data.val.clips=2", "data.val.frames=3", "data.test.clips=2", "data.test.frames=3"]
QUIET = ["trainer.enable_progress_bar=false", "callbacks.progress=null", "data.num_workers=0", "callbacks.panels=null"]


def config(data: Path, folder: Path, *overrides: str) -> DictConfig:
    fixed = ["+experiment=smoke", f"paths.data={data}", *SIZES, *VALIDATION, *QUIET]
    return compose([*fixed, "optim.lr=3e-3", "train.ema=0.9", *overrides], folder)


def checkpoint(cfg: DictConfig, name: str) -> Path:
    return Path(cfg.paths.run) / "checkpoints" / f"{name}.ckpt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """A finished training: two epochs of four steps."""
    cfg = config(data, tmp_path_factory.mktemp("finished"))
    run(cfg)
    return cfg


class Interrupt(Callback):
    """Interrupts after the second step of the second epoch, or in the first validation."""

    seen: dict[str, torch.Tensor]

    def __init__(self, validating: bool = False) -> None:
        self.validating = validating

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not self.validating and trainer.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer, pl_module, *args) -> None:
        if self.validating:
            Interrupt.seen = {key: value.clone() for key, value in pl_module.state_dict().items()}
            raise KeyboardInterrupt


def interrupt(cfg: DictConfig) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        run(cfg)
    signal.signal(signal.SIGINT, before)  # Lightning leaves the signal ignored


def assert_equal(one: object, other: object) -> None:
    """Nested containers of tensors and numbers, to 1e-6."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
    elif isinstance(one, float):
        assert other == pytest.approx(one, abs=1e-6)


def test_the_best_checkpoint_reproduces_its_validation_score(finished: DictConfig, data: Path, tmp_path: Path) -> None:
    with (Path(finished.paths.run) / "csv" / "train" / "metrics.csv").open() as file:
        logged = [float(row["val/jf"]) for row in csv.DictReader(file) if row["val/jf"]]
    best = checkpoint(finished, "best")
    source = torch.load(best, weights_only=True)
    assert any(
        not torch.equal(value, source["current_model_state"][key]) for key, value in source["state_dict"].items()
    )
    metrics = run(config(data, tmp_path, "task=test", f"ckpt_path={best}", "data.test.split=val"))
    assert metrics["test/jf"] == pytest.approx(max(logged), abs=1e-6)


def test_an_interrupted_epoch_resumes_exactly(finished: DictConfig, data: Path, tmp_path: Path) -> None:
    interrupted = config(data, tmp_path / "interrupted", f"+callbacks.interrupt._target_={__name__}.Interrupt")
    interrupt(interrupted)
    resumed = config(data, tmp_path / "resumed", f"ckpt_path={checkpoint(interrupted, 'last')}")
    run(resumed)
    configs = (interrupted, finished, resumed)
    middle, *ends = (torch.load(checkpoint(cfg, "last"), weights_only=True) for cfg in configs)
    assert (middle["global_step"], ends[0]["global_step"], ends[1]["global_step"]) == (6, 8, 8)
    assert middle["averaging_state"]["n_averaged"] == 6
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_equal(ends[0][key], ends[1][key])


def test_interrupted_validation_saves_the_trained_weights(data: Path, tmp_path: Path) -> None:
    target = [f"+callbacks.interrupt._target_={__name__}.Interrupt", "+callbacks.interrupt.validating=true"]
    interrupted = config(data, tmp_path, *target)
    interrupt(interrupted)
    saved = torch.load(checkpoint(interrupted, "last"), weights_only=True)
    for key, value in saved["state_dict"].items():
        assert torch.equal(value, Interrupt.seen[key])  # validation used the average
    assert any(not torch.equal(value, Interrupt.seen[key]) for key, value in saved["current_model_state"].items())


def test_sharded_strategies_are_refused() -> None:
    with pytest.raises(UserError, match=r"FSDPStrategy.*trainer=ddp"):
        EMA(0.9).setup(SimpleNamespace(strategy=FSDPStrategy()), nn.Linear(1, 1), "fit")
