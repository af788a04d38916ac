"""Resume: checkpoints are atomic, and a training resumes exactly wherever it was interrupted."""

from __future__ import annotations

import csv
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader

from maskvos.data.dataset import FrameDataset
from maskvos.errors import UserError
from maskvos.run import compose, run
from maskvos.training.resume import AtomicCheckpoints, changed_settings
from maskvos.types import Sample
from maskvos.weights.config import find_checkpoint

# Dropout draws random numbers in every step; the loss of every step is in the table.
SMALL = [
    *("+experiment=smoke", "trainer.enable_progress_bar=false", "callbacks.progress=null", "callbacks.panels=null"),
    *("data.num_workers=0", "data.batch_size=2", "data.size=[32,64]", "model.head.dropout=0.3"),
    *("data.train.clips=3", "data.train.frames=4", "data.val.clips=1", "data.val.frames=4"),
    *("trainer.max_epochs=3", "trainer.limit_train_batches=4", "trainer.limit_val_batches=2", "schedule=poly"),
]
STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted training."""
    cfg = small(data, tmp_path_factory.mktemp("whole"))
    run(cfg)
    return Path(cfg.paths.run)


def small(data: Path, folder: Path, *overrides: str) -> DictConfig:
    return compose([*SMALL, f"paths.data={data}", f"paths.runs={folder.parent}", *overrides], folder)


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def load(folder: Path) -> dict:
    return torch.load(last(folder), weights_only=True)


def curve(folder: Path) -> dict[int, float]:
    """Step to loss."""
    with (folder / "csv" / "train" / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def assert_resumes_as(whole: Path, rest: Path) -> None:
    ends = load(whole), load(rest)
    assert ends[0]["global_step"] == ends[1]["global_step"] == STEPS
    for key, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][key], value, atol=1e-6, rtol=0)
    losses = curve(rest)
    assert losses
    assert losses == pytest.approx({step: loss for step, loss in curve(whole).items() if step in losses}, abs=1e-6)


class Interrupt(Callback):
    """Sends this process a signal in a hook of the second epoch."""

    def __init__(self, hook: str, number: int) -> None:
        def send(trainer, *rest, **more) -> None:
            within = trainer.fit_loop.epoch_loop.batch_idx
            if trainer.current_epoch == 1 and (hook.startswith(("on_val", "on_train_epoch")) or within == 1):
                os.kill(os.getpid(), number)
                time.sleep(0.01)  # until it has arrived

        setattr(self, hook, send)


@pytest.mark.parametrize(
    ("hook", "number"),
    [
        pytest.param("on_train_epoch_start", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("on_after_backward", signal.SIGINT, marks=pytest.mark.slow),
        ("on_after_backward", signal.SIGTERM),
        pytest.param("on_train_batch_end", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("on_validation_batch_end", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_resumes_exactly(
    whole: Path, data: Path, tmp_path: Path, hook: str, number: int
) -> None:
    stop = [f"_target_={__name__}.Interrupt", f"hook={hook}", f"number={int(number)}"]
    with pytest.raises(SystemExit) as caught:
        run(small(data, tmp_path / "cut", *(f"+callbacks.stop.{option}" for option in stop)))
    assert caught.value.code == 128 + number
    assert load(tmp_path / "cut")["global_step"] < STEPS
    run(small(data, tmp_path / "rest", "ckpt_path=last", "name=."))
    assert_resumes_as(whole, tmp_path / "rest")


def test_a_signal_while_samples_are_read_waits_for_the_batch(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception from a signal could be lost there, as in the callbacks of a fork, or leave a library undone."""
    read, ended = FrameDataset.__getitem__, []

    def interrupted(dataset: FrameDataset, key: int | tuple[int, int]) -> Sample:
        if isinstance(key, tuple) and key[0] == 1 and not ended:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # until it has arrived
            ended.append(key)
        return read(dataset, key)

    monkeypatch.setattr(FrameDataset, "__getitem__", interrupted)
    with pytest.raises(SystemExit) as caught:
        run(small(data, tmp_path / "cut"))
    assert caught.value.code == 143
    assert ended  # the sample was read
    assert load(tmp_path / "cut")["global_step"] == STEPS / 3
    run(small(data, tmp_path / "rest", "ckpt_path=last", "name=."))
    assert_resumes_as(whole, tmp_path / "rest")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_an_interruption_before_the_first_batch_is_no_failure(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def interrupted(loader: object) -> None:
        raise error

    monkeypatch.setattr(DataLoader, "__iter__", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        run(small(data, tmp_path, "trainer.num_sanity_val_steps=0"))
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert caught.value.code == status


class Interrupting:
    """Sends Ctrl-C while it is pickled."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return OrderedDict, ()


def test_a_checkpoint_that_is_being_written_is_not_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpoints().save_checkpoint({"a": Interrupting()}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"a": OrderedDict()}


class Disturb(Callback):
    """Makes the second batch of the second epoch fail within its step, or its loss NaN."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.how == "poison" and trainer.global_step == 5:
            batch["rgb"].fill_(torch.nan)

    def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
        if self.how == "fail" and trainer.fit_loop.epoch_loop.batch_idx == 1 and trainer.current_epoch == 1:
            raise RuntimeError("DataLoader worker is killed")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("fail", UserError, "worker is killed.*data.num_workers"),
        ("poison", UserError, r"not finite since step 6.*ckpt_path=last"),
    ],
)
def test_no_checkpoint_within_a_step_or_after_a_loss_of_nan(
    data: Path, tmp_path: Path, how: str, error: type[Exception], message: str
) -> None:
    disturb = [f"+callbacks.disturb._target_={__name__}.Disturb", f"+callbacks.disturb.how={how}"]
    with pytest.raises(error, match=message):
        run(small(data, tmp_path / "run", *disturb, "callbacks.last.every_n_steps=1", "trainer.log_every_n_steps=50"))
    saved = load(tmp_path / "run")
    assert saved["global_step"] == 5
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


class Copy(Callback):
    """Copies the last checkpoint as a kill after some step of the second epoch would leave it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == 1:
            target = last(self.folder / str(batch_idx))
            target.parent.mkdir(parents=True)
            target.write_bytes(last(Path(trainer.default_root_dir)).read_bytes())


@pytest.mark.slow
def test_a_training_resumes_from_every_step(whole: Path, data: Path, tmp_path: Path) -> None:
    copy = [f"_target_={__name__}.Copy", f"folder={tmp_path / 'copies'}"]
    saving = ["callbacks.last.every_n_steps=1", *(f"+callbacks.copy.{option}" for option in copy)]
    run(small(data, tmp_path / "saving", *saving))
    assert_resumes_as(whole, tmp_path / "saving")  # saving has no side effect
    for batch in (0, 1, 3):
        source = tmp_path / "copies" / str(batch)
        assert load(source)["global_step"] == 4 + batch
        run(small(data, tmp_path / f"rest{batch}", f"ckpt_path={last(source)}"))
        assert_resumes_as(whole, tmp_path / f"rest{batch}")


@pytest.mark.slow
def test_a_killed_training_resumes_exactly(whole: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    places = [f"paths.data={data}", f"paths.runs={tmp_path}", "callbacks.last.every_n_steps=1"]
    # A pause in every step, so that the kill falls into the second epoch.
    slow = ["+callbacks.pause._target_=test_resume.Pause"]
    process = subprocess.Popen(
        [sys.executable, "-m", "maskvos.run", *SMALL, *places, *slow, f"hydra.run.dir={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # As many threads as here: another number adds in another order.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    deadline = time.time() + 120
    while not (last(folder).exists() and load(folder)["global_step"] >= 6) and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 6 <= load(folder)["global_step"] < 8
    for rest in (tmp_path / "rest", folder):  # in a new folder, and in the same one
        run(small(data, rest, "ckpt_path=last", "name=."))
        assert_resumes_as(whole, rest)
    assert curve(folder).keys() == curve(whole).keys()


class Pause(Callback):
    """Slows down every step."""

    def on_train_batch_start(self, *args) -> None:
        time.sleep(0.5)


def test_checkpoints_are_saved_every_few_minutes(data: Path, tmp_path: Path) -> None:
    run(small(data, tmp_path, "callbacks.last.every_minutes=1e-9", "trainer.max_epochs=1"))
    steps = [torch.load(path, weights_only=True)["global_step"] for path in sorted(tmp_path.rglob("last*.ckpt"))]
    assert steps == [3, 4]
    with pytest.raises(UserError, match=r"callbacks\.last\.every_n_steps=0"):
        run(small(data, tmp_path, "callbacks.last.every_n_steps=0"))


def test_a_truncated_checkpoint_is_named_with_the_one_before_it(whole: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    content = last(whole).read_bytes()
    last(tmp_path / "old").touch()
    cfg = small(data, tmp_path / "new", "ckpt_path=last", "name=.")
    for size in (0, 100, len(content) // 2, len(content) - 1):
        last(tmp_path / "old").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"last\.ckpt' cannot be read") as error:
            run(cfg)
        assert "last-previous" not in str(error.value)
    before = last(whole).with_stem("last-previous")
    kept = before.rename(last(tmp_path / "old").with_stem("last-previous"))
    with pytest.raises(UserError) as error:
        run(small(data, tmp_path / "new", "ckpt_path=last", "name=."))
    assert f"ckpt_path={kept}" in str(error.value)
    run(small(data, tmp_path / "new", "ckpt_path=last-previous", "name=."))
    assert load(tmp_path / "new")["global_step"] == STEPS
    kept.rename(before)


def test_checkpoints_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / "new" / "last.ckpt", AtomicCheckpoints()
    for number in range(3):
        io.save_checkpoint({"number": number}, path)
    assert torch.load(path)["number"] == 2
    assert torch.load(path.with_stem("last-previous"))["number"] == 1

    def fail(*args) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="the disk is full"):
        io.save_checkpoint({"number": 3}, path)
    assert {file.name for file in path.parent.iterdir()} == {"last.ckpt", "last-previous.ckpt"}
    assert torch.load(path)["number"] == 2
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", fail)  # a file system without hard links
    io.save_checkpoint({"number": 3}, path)
    assert [torch.load(path.with_stem(name))["number"] for name in ("last", "last-previous")] == [3, 2]


def test_a_bare_name_is_looked_up_in_the_run_and_then_in_the_newest_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ckpt_path=last: .*no run under .* has a checkpoints/last.ckpt; .*name="):
        find_checkpoint("last", tmp_path / "a", tmp_path)
    for age, name in enumerate(("b", "a", "c")):
        last(tmp_path / name).parent.mkdir(parents=True)
        last(tmp_path / name).touch()
        os.utime(last(tmp_path / name), (1000 - age, 1000 - age))
    assert find_checkpoint("last", tmp_path / "d", tmp_path) == last(tmp_path / "b")
    assert find_checkpoint("last", tmp_path / "c", tmp_path) == last(tmp_path / "c")
    assert find_checkpoint("some/last.ckpt", tmp_path, tmp_path) == Path("some/last.ckpt")


def test_a_folder_is_not_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "last").mkdir()
    last(tmp_path / "a").parent.mkdir(parents=True)
    last(tmp_path / "a").touch()
    assert find_checkpoint("last", tmp_path / "b", tmp_path) == last(tmp_path / "a")


@pytest.mark.parametrize(("typed", "meant"), [("lihgt", "light"), ("bset", "best"), ("lst", "last")])
def test_a_mistyped_name_suggests_the_nearest(tmp_path: Path, typed: str, meant: str) -> None:
    for name in ("last", "best"):
        last(tmp_path / "a").parent.mkdir(parents=True, exist_ok=True)
        last(tmp_path / "a").with_stem(name).touch()
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        find_checkpoint(typed, tmp_path, tmp_path)


def test_settings_that_a_resume_ignores_or_changes_are_logged(
    whole: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = ["optim.lr=0.5", "loss=dice", "data.num_workers=0", "callbacks.last.every_n_steps=3"]
    with caplog.at_level(logging.WARNING):
        run(small(data, tmp_path, f"ckpt_path={last(whole)}", *new))
    logged = [record.getMessage() for record in caplog.records if record.getMessage().startswith("resume: ")]
    assert len(logged) == 3
    assert "loss._target_ was" in logged[0]
    assert "optim.lr=6e-05 is kept" in logged[1]
    assert "optim.lr=0.5 is ignored" in logged[1]
    assert "init_from" in logged[2]


def test_a_class_that_moved_to_another_module_is_the_same_setting() -> None:
    made = {"loss": {"_target_": "maskvos.models.losses.BCE"}, "train": {"_target_": "maskvos.training.Training"}}
    now = {"loss": {"_target_": "maskvos.training.losses.BCE"}, "train": {"_target_": "maskvos.training.options.X"}}
    assert changed_settings(made, now) == []
    assert changed_settings(made, {"loss": {"_target_": "maskvos.training.losses.Dice"}}) != []


def test_only_settings_that_affect_the_training_are_compared() -> None:
    made = {"optim": {"lr": 1}, "paths": {"run": "a"}, "data": {"size": [1, 2], "train": {"root": "a"}}, "old": 1}
    assert changed_settings(made, made) == []
    assert changed_settings(made, {**made, "paths": {"run": "b"}, "new": 2}) == []
    now = {"optim": {"lr": 2}, "data": {"size": [2, 2], "train": {"root": "b"}}}
    lines = changed_settings(made, now)
    assert len(lines) == 2
    assert lines[0].startswith("data.size was [1, 2]")


def test_checkpoints_that_cannot_be_resumed_are_named(whole: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AdamW, whose state torch.optim.SGD cannot load.*init_from="):
        run(small(data, tmp_path, f"ckpt_path={last(whole)}", "optim=sgd"))
    weights = tmp_path / "weights.ckpt"
    torch.save({"state_dict": load(whole)["state_dict"]}, weights)
    with pytest.raises(UserError, match=r"no training state.*init_from="):
        run(small(data, tmp_path, f"ckpt_path={weights}"))
    content = load(whole)
    group = content["optimizer_states"][0]["param_groups"]
    content["optimizer_states"][0]["param_groups"] = group[:1]
    torch.save(content, weights)
    with pytest.raises(UserError, match=r"different number of parameter groups.*init_from="):
        run(small(data, tmp_path, f"ckpt_path={weights}"))
