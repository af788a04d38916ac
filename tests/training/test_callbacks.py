"""Values, tables, images and checkpoints logged to wandb, TensorBoard and CSV, read back from their files."""

from __future__ import annotations

import contextlib
import csv
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf.message import DecodeError

from maskvos.environment import git_commit
from maskvos.run import compose, run
from maskvos.training.loggers import CsvLogger

SMALL = [
    *("+experiment=smoke", "trainer.enable_progress_bar=false", "callbacks.progress=null", "callbacks.panels.count=2"),
    *("data.num_workers=0", "data.batch_size=2", "data.size=[32,64]", "trainer.max_epochs=1"),
    *("data.train.clips=3", "data.train.frames=4", "data.val.clips=2", "data.val.frames=2"),
]
_BLOCK = 2**15


def records(path: Path) -> Iterator[Any]:
    """Records of an offline wandb run: protobuf messages in LevelDB's log format, after a header of seven bytes.

    This and `Dashboard` are the only code that knows wandb's file format: wandb has no public reader of offline runs,
    and mocking its client would not show what is uploaded later.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, message = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:  # the rest of a block is too short for a header
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full message, or its last fragment
            record = Record()
            record.ParseFromString(message)
            message = b""
            yield record


def all_records(path: Path) -> list[Any]:
    """`records`, once the last one is there: a process of wandb writes them, some after the run has ended."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(DecodeError):  # a record is being written
            found = list(records(path))
            if any(record.WhichOneof("record_type") == "exit" for record in found):
                return found
        time.sleep(0.1)
    raise TimeoutError(f"{path} does not end")


def items(entries: Any) -> dict[str, Any]:
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


class Dashboard:
    """The content of an offline run."""

    def __init__(self, folder: Path) -> None:
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        self.config: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.artifacts: list[Any] = []
        for record in all_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= items(record.run.config.update)
            elif kind == "config":
                self.config |= items(record.config.update)
            elif kind == "history":
                self.rows.append(items(record.history.item))
            elif kind == "artifact":
                self.artifacts.append(record.artifact)
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                self.artifacts.append(record.request.log_artifact.artifact)

    def values(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows if name in row]

    def models(self) -> list[Any]:
        return [artifact for artifact in self.artifacts if artifact.type == "model"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def logged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training logged by all loggers."""
    folder = tmp_path_factory.mktemp("logged")
    tensorboard = [
        "+logger.tensorboard._target_=pytorch_lightning.loggers.TensorBoardLogger",
        f"+logger.tensorboard.save_dir={folder}",
        "+logger.tensorboard.name=tensorboard",
        "+logger.tensorboard.version=''",
        "+logger.csv._target_=maskvos.training.loggers.CsvLogger",
        f"+logger.csv.save_dir={folder}",
    ]
    options = ["logger.wandb.log_model=true", "logger.wandb.group=ours", "logger.wandb.tags=[a,b]", *tensorboard]
    run(compose([*SMALL, f"paths.data={data}", "logger=wandb", *options], folder))
    return folder


def test_wandb(logged: Path) -> None:
    board = Dashboard(logged)
    assert (board.run.project, board.run.run_group, list(board.run.tags)) == ("maskvos", "ours", ["a", "b"])
    assert board.config["optim"]["lr"] == 6e-5
    assert board.config["data"]["batch_size"] == 2
    assert board.config["git"] == git_commit()
    steps = board.values("train/loss")
    assert len(steps) == 4
    assert all(norm > 0 for norm in board.values("train/grad_norm"))
    assert len(board.values("train/grad_norm")) == len(steps)
    assert all(rate > 0 for rate in board.values("train/images_per_second"))
    assert {name for row in board.rows for name in row if name.startswith("lr-")} == {
        "lr-AdamW/decay",
        "lr-AdamW/no_decay",
    }
    assert len(board.values("val/jf")) == 1
    assert board.values("val/panels/count") == [1]
    assert board.values("val/masks/count") == [2]
    ((first, second),) = board.values("val/masks/all_masks")
    assert first.keys() == second.keys() == {"prediction", "truth"}
    assert board.values("val/sequences/_type") == ["table-file"]
    (path,) = board.values("val/sequences/path")
    (file,) = logged.glob(f"wandb/offline-run-*/files/{path}")
    content = json.loads(file.read_text())
    assert content["columns"][:2] == ["sequence", "frames"]
    assert [row[1] for row in content["data"]] == [2, 2]
    jf = content["columns"].index("jf")
    assert sum(row[jf] for row in content["data"]) / 2 == pytest.approx(board.values("val/jf")[0], abs=1e-6)
    (model,) = board.models()
    assert {"best", "latest"} <= set(model.aliases)
    (entry,) = model.manifest.contents
    assert entry.path == "best.ckpt"
    assert entry.size == (logged / "checkpoints" / "best.ckpt").stat().st_size


def test_a_resumed_training_continues_its_wandb_run(logged: Path, data: Path, tmp_path: Path) -> None:
    last = logged / "checkpoints" / "last.ckpt"
    resume = [f"ckpt_path={last}", "trainer.max_epochs=2", "logger=wandb"]
    run(compose([*SMALL, f"paths.data={data}", *resume], tmp_path / "same"))
    assert Dashboard(tmp_path / "same").run.run_id == Dashboard(logged).run.run_id
    assert not Dashboard(tmp_path / "same").models()  # without logger.wandb.log_model
    assert torch.load(last, weights_only=True)["wandb_id"] == Dashboard(logged).run.run_id


def test_tensorboard(logged: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/grad_norm", "train/images_per_second", "val/jf"} <= set(tags["scalars"])
    assert "val/panels" in tags["images"]
    texts = {
        name: events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()
        for name in ("config", "val/sequences")
    }
    assert "lr: 6.0e-05" in texts["config"]
    assert len(texts["val/sequences"].splitlines()) == 2 + 2


def test_csv(logged: Path) -> None:
    with (logged / "csv" / "train" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["train/grad_norm"]) for row in rows) == sum(bool(row["train/loss"]) for row in rows) > 0
    assert sum(bool(row["val/jf"]) for row in rows) == 1


def test_the_gradient_norm_is_logged_before_clipping(data: Path, tmp_path: Path) -> None:
    def norms(folder: str, *overrides: str) -> list[float]:
        run(compose([*SMALL, f"paths.data={data}", *overrides], tmp_path / folder))
        with (tmp_path / folder / "csv" / "train" / "metrics.csv").open() as file:
            return [float(row["train/grad_norm"]) for row in csv.DictReader(file) if row["train/grad_norm"]]

    free, clipped = norms("free"), norms("clipped", "trainer.gradient_clip_val=1e-3")
    assert free[0] == pytest.approx(clipped[0], rel=1e-5)
    assert free[0] > 1e-3
    assert len(norms("rare", "trainer.log_every_n_steps=2")) == len(free) // 2


def test_a_csv_continues_from_the_resumed_step(tmp_path: Path) -> None:
    first = CsvLogger(str(tmp_path))
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step)
    second = CsvLogger(str(tmp_path))
    second.continue_from(2)
    second.log_metrics({"loss": 7.0, "other": 1.0}, 2)
    second.finalize("success")
    with (tmp_path / "csv" / "train" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], float(row["loss"])) for row in rows] == [("0", 0.0), ("1", 1.0), ("2", 7.0)]
