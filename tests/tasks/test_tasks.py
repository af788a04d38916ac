"""The entrypoint, end to end: train, test and predict with the smallest experiment, and what bad input is answered."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ProgressBar

import maskvos
from maskvos.build import build
from maskvos.errors import UserError
from maskvos.media.images import read_image
from maskvos.media.video import VideoWriter, read_video
from maskvos.models.saliency import U2NetP
from maskvos.models.state_dict import read_checkpoint
from maskvos.run import compose, run
from maskvos.tasks.lightning import build_trainer
from maskvos.weights.exported import suffix_of


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of procedural clips for all tests here."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DictConfig, dict[str, float]]:
    """The configuration and the metrics of one finished training."""
    cfg = smoke(data, tmp_path_factory.mktemp("trained"))
    return cfg, run(cfg)


@pytest.fixture(scope="session")
def export(trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export the trained network in a format, once."""

    @cache
    def export(file_format: str) -> Path:
        file = tmp_path_factory.mktemp("exported") / f"network{suffix_of(file_format)}"
        run(compose(["task=export", f"ckpt_path={checkpoint(trained[0])}", f"format={file_format}", f"output={file}"]))
        return file

    return export


def checkpoint(cfg: DictConfig, name: str = "best") -> Path:
    return Path(cfg.paths.run) / "checkpoints" / f"{name}.ckpt"


# Few and small clips: what is tested here does not depend on how well a network has learnt.
CLIPS = ["data.train.clips=2", "data.train.frames=4", "data.val.clips=1", "data.val.frames=4"]
CLIPS += ["data.test.clips=2", "data.test.frames=4"]
SMALL = [*CLIPS, "data.size=[64,96]", "data.batch_size=2", "data.num_workers=0"]


def smoke(data: Path, folder: Path, *overrides: str) -> DictConfig:
    quiet = "trainer.enable_progress_bar=false"
    return compose(["+experiment=smoke", f"paths.data={data}", quiet, *SMALL, *overrides], folder)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maskvos.run", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_training_returns_metrics_and_leaves_checkpoints(trained) -> None:
    cfg, metrics = trained
    assert {"train/loss", "val/j", "val/f", "val/jf"} <= metrics.keys()
    assert 0 <= metrics["val/jf"] <= 1
    for name in ("best", "last"):
        content = torch.load(checkpoint(cfg, name), weights_only=True)
        assert content["maskvos"]["config"]["name"] == "smoke"
    with (Path(cfg.paths.run) / "csv" / "train" / "metrics.csv").open() as file:
        assert any(row.get("val/jf") for row in csv.DictReader(file))
    assert list((Path(cfg.paths.run) / "panels").glob("*.png"))


def test_a_training_without_validation_says_which_checkpoint_there_is(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(smoke(data, tmp_path, "trainer.max_steps=2"))
    assert "not validated, so there is no best checkpoint; use ckpt_path=last" in caplog.text
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("shown", [True, False])
def test_one_setting_disables_the_progress_bar(data: Path, tmp_path: Path, shown: bool) -> None:
    overrides = ["+experiment=smoke", f"paths.data={data}", f"trainer.enable_progress_bar={shown}"]
    trainer = build_trainer(compose(overrides, tmp_path))
    assert any(isinstance(callback, ProgressBar) for callback in trainer.callbacks) is shown


def test_test_task_scores_every_frame(trained, data: Path, tmp_path: Path) -> None:
    cfg = smoke(data, tmp_path, "task=test", f"ckpt_path={checkpoint(trained[0])}")
    metrics = run(cfg)
    summary = json.loads((tmp_path / "test" / "summary.json").read_text())
    assert metrics["test/jf"] == pytest.approx((metrics["test/j"] + metrics["test/f"]) / 2)
    with (tmp_path / "test" / "frames.csv").open() as file:
        frames = list(csv.DictReader(file))
    assert len(frames) == sum(len(video.frames) for video in build(cfg.data.test)())
    assert summary


def test_metrics_do_not_depend_on_the_batch_size(trained, data: Path, tmp_path: Path) -> None:
    scores = [
        run(smoke(data, tmp_path, "task=test", f"ckpt_path={checkpoint(trained[0])}", f"data.eval_batch_size={size}"))
        for size in (1, 4)
    ]
    # Kernels round differently for one sample and for four, which may turn a pixel of a network that has hardly learnt.
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_predict_writes_masks_of_a_folder_under_the_frames_names(trained, data: Path, tmp_path: Path) -> None:
    video = build(smoke(data, tmp_path).data.test)()[0]
    ready = ["task=predict", f"ckpt_path={checkpoint(trained[0])}", f"output={tmp_path / 'out'}"]
    metrics = run(smoke(data, tmp_path, *ready, f"input={video.frames[0].image.parent}", "writer.kinds=[masks,soft]"))
    masks = sorted((tmp_path / "out").rglob("masks/*.png"))
    assert [path.stem for path in masks] == [frame.name for frame in video.frames]
    frame, mask = read_image(video.frames[0].image), read_image(masks[0])
    assert mask.shape[:2] == frame.shape[:2]
    assert set(np.unique(mask)) <= {0, 255}
    assert metrics["predict/frames"] == len(video.frames)


def test_progress_of_prediction_counts_frames(
    trained, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = build(smoke(data, tmp_path).data.test)()[0].frames
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    given = [f"ckpt_path={checkpoint(trained[0])}", f"input={frames[0].image.parent}", f"output={tmp_path / 'out'}"]
    run(compose(["task=predict", *given], tmp_path))
    shown = "".join(capsys.readouterr())
    assert f"{len(frames)}/{len(frames)} frames" in shown
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    run(compose(["task=predict", *given, "writer.existing=overwrite"], tmp_path))
    shown = capsys.readouterr()
    assert shown.err == ""  # no bar in a file
    assert "\x1b" not in shown.out


def test_predict_reads_a_movie_of_odd_size(trained, data: Path, tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 255, (51, 71, 3), dtype=np.uint8) for i in range(5)]
    with VideoWriter(tmp_path / "clip.mp4", fps=25) as writer:
        for frame in frames:
            writer.write(frame)
    ready = ["task=predict", f"ckpt_path={checkpoint(trained[0])}", f"output={tmp_path / 'out'}"]
    run(smoke(data, tmp_path, *ready, f"input={tmp_path / 'clip.mp4'}"))
    shape = next(read_video(tmp_path / "clip.mp4")).shape
    masks = sorted((tmp_path / "out").rglob("masks/*.png"))
    (overlay,) = (tmp_path / "out").rglob("*overlay*.mp4")
    assert len(masks) == len(list(read_video(overlay))) == 5
    assert read_image(masks[0]).shape[:2] == shape[:2]


@pytest.mark.parametrize("file_format", ["onnx", "torchscript"])
def test_an_exported_network_predicts_the_same(trained, export, data: Path, tmp_path: Path, file_format: str) -> None:
    frames = build(smoke(data, tmp_path).data.test)()[0].frames[0].image.parent
    soft = {}
    for backend, source in (("torch", checkpoint(trained[0])), (file_format, export(file_format))):
        out = tmp_path / backend
        given = [f"backend={backend}", f"ckpt_path={source}", f"input={frames}", f"output={out}", "writer.kinds=[soft]"]
        given.append("trust=[torchscript]")
        run(smoke(data, tmp_path / "run", "task=predict", *given))
        soft[backend] = np.stack([read_image(path) for path in sorted(out.rglob("soft/*.png"))]).astype(int)
    assert np.abs(soft["torch"] - soft[file_format]).max() <= 1


def test_resume_continues_where_the_training_stopped(trained, data: Path, tmp_path: Path) -> None:
    cfg = smoke(data, tmp_path, f"ckpt_path={checkpoint(trained[0], 'last')}", "trainer.max_epochs=3")
    before = torch.load(checkpoint(trained[0], "last"), weights_only=True)
    run(cfg)
    after = torch.load(checkpoint(cfg, "last"), weights_only=True)
    assert (before["epoch"], after["epoch"]) == (1, 2)
    assert after["global_step"] == before["global_step"] * 3 // 2


class Interrupt(Callback):
    """Ctrl-C after some batches of the second epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_epoch_resumes_with_the_remaining_samples(data: Path, tmp_path: Path) -> None:
    epochs = ["trainer.max_epochs=3", "schedule=cosine_warmup", "augment=published"]
    whole = smoke(data, tmp_path / "whole", *epochs)
    run(whole)
    cut = smoke(data, tmp_path / "cut", *epochs, f"+callbacks.interrupt._target_={__name__}.Interrupt")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        run(cut)
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    rest = smoke(data, tmp_path / "rest", *epochs, f"ckpt_path={checkpoint(cut, 'last')}")
    run(rest)
    ends = [torch.load(checkpoint(cfg, "last"), weights_only=True) for cfg in (whole, rest)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 12
    for key, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][key], value, atol=1e-6, rtol=0)


def test_a_resumed_training_keeps_the_best_of_both(trained, data: Path, tmp_path: Path) -> None:
    source = torch.load(checkpoint(trained[0], "last"), weights_only=True)
    states = {key: state for key, state in source["callbacks"].items() if key.startswith("BestCheckpoint")}
    (state,) = states.values()
    state["best_model_score"] = torch.tensor(2.0)  # no epoch to come can be better
    torch.save(source, tmp_path / "last.ckpt")
    cfg = smoke(data, tmp_path / "run", f"ckpt_path={tmp_path / 'last.ckpt'}", "trainer.max_epochs=3")
    run(cfg)
    assert checkpoint(cfg).read_bytes() == checkpoint(trained[0]).read_bytes()
    # Nothing left to train is no error either.
    run(smoke(data, tmp_path / "done", f"ckpt_path={tmp_path / 'last.ckpt'}", "trainer.max_epochs=2"))


def _moments(content: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> None:
    for state in content["optimizer_states"][0]["state"].values():
        change(state)


JUNK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "maskvos": lambda content: content.update(maskvos=5),
    "config": lambda content: content.update(maskvos={"config": 5}),
    "data": lambda content: content.update(maskvos={"config": {"data": 5}}),
    "optim": lambda content: content.update(maskvos={"config": {"optim": 5}}),
    "loops": lambda content: content.update(loops=5),
    "no loops": lambda content: content.update(loops={}),
    "fit_loop": lambda content: content.update(loops={"fit_loop": 5}),
    "epoch": lambda content: content.update(epoch="a"),
    "callbacks": lambda content: content.update(callbacks={name: 5 for name in content["callbacks"]}),
    "schedule": lambda content: content.update(lr_schedulers=[5]),
    "no optimiser": lambda content: content.update(optimizer_states=[{}]),
    "optimiser": lambda content: content.update(optimizer_states=[5]),
    "datamodule": lambda content: content.update(VideoDataModule=5),
    "shapes": lambda content: _moments(content, lambda state: state.update(exp_avg=torch.zeros(3, 3, 3, 3, 3))),
    "moments": lambda content: _moments(content, lambda state: state.pop("exp_avg")),
}


@pytest.mark.parametrize("part", JUNK)
def test_a_damaged_training_state_is_named(trained, data: Path, tmp_path: Path, part: str) -> None:
    content = torch.load(checkpoint(trained[0], "last"), weights_only=True)
    JUNK[part](content)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt.*init_from="):
        run(smoke(data, tmp_path / "run", f"ckpt_path={tmp_path / 'x.ckpt'}", "trainer.max_epochs=3"))


def test_pretrained_weights_are_not_downloaded_for_a_checkpoint(trained, data: Path, tmp_path: Path) -> None:
    # `tiny` has no published weights: to fetch them would fail.
    cfg = smoke(data, tmp_path, "task=test", f"ckpt_path={checkpoint(trained[0])}", "backbone.pretrained=true")
    assert run(cfg)["test/jf"] >= 0
    assert OmegaConf.is_readonly(cfg)


def test_a_checkpoint_is_enough(trained, data: Path, tmp_path: Path) -> None:
    given = [f"ckpt_path={checkpoint(trained[0])}", f"paths.data={data}", "data=synthetic", "protocol=all_frames"]
    alone = compose(["task=test", *given, *CLIPS, "data.num_workers=0"], tmp_path / "alone")
    assert list(alone.data.size) == list(trained[0].data.size)
    assert alone.model.rgb_encoder._target_ == "maskvos.models.backbones.tiny.Tiny"
    with_experiment = smoke(data, tmp_path / "with", "task=test", f"ckpt_path={checkpoint(trained[0])}")
    scores = [run(cfg) for cfg in (alone, with_experiment)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_the_command_line_overrides_the_checkpoint_except_its_model(trained, tmp_path: Path) -> None:
    def composed(*overrides: str) -> DictConfig:
        return compose(["task=predict", f"ckpt_path={checkpoint(trained[0])}", "input=x", *overrides], tmp_path)

    own = composed()
    assert own.flow.estimator.preset == "medium"
    assert own.tta == {"mirror": False, "flow": None}
    assert list(composed("data.size=[96,160]").data.size) == [96, 160]
    assert composed("flow.estimator.preset=fast").flow.estimator.preset == "fast"
    assert composed("flow=raft_small").flow.estimator.variant == "small"
    assert composed("tta=mirror").tta.mirror is True
    assert composed("flow.cache=kept").flow.cache == "kept"
    assert composed("backbone=tiny").model == own.model
    for wrong, key in {
        "backbone=resnet18": "model.rgb_encoder",
        "model.transformer_decoder.layers=6": "model.transformer_decoder.layers=3, not 6",
        "+experiment=swin_t": "model",
        "model/fusion=sum": "model.fusion._target_",
    }.items():
        with pytest.raises(UserError, match=rf"{re.escape(wrong)}: contradicts .*trained as 'smoke'.*{re.escape(key)}"):
            composed(wrong)


def test_backend_torch_predicts_with_the_bundled_weights(tmp_path: Path) -> None:
    for backend in ("auto", "torch"):
        cfg = compose(["task=predict", "input=x", f"backend={backend}"], tmp_path)
        assert Path(cfg.ckpt_path).name == "light.safetensors"
        assert list(cfg.data.size) == [256, 448]


def test_predict_and_the_api_write_the_same(trained, data: Path, tmp_path: Path) -> None:
    frames = build(smoke(data, tmp_path).data.test)()[0].frames[0].image.parent
    weights = checkpoint(trained[0])
    run(smoke(data, tmp_path, "task=predict", f"ckpt_path={weights}", f"input={frames}", f"output={tmp_path / 'a'}"))
    model = maskvos.load(weights, device="cpu", batch_size=1)
    metrics = maskvos.segment(frames, tmp_path / "b", model=model, progress=False)
    assert metrics["predict/frames"] == len(list((tmp_path / "b").rglob("masks/*.png")))
    written = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.suffix in (".png", ".mp4")}
        for out in (tmp_path / "a", tmp_path / "b")
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize("file_format", ["onnx", "torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_an_exported_file_carries_its_inference_settings(trained, export, file_format: str) -> None:
    model = maskvos.load(export(file_format), trust=[file_format])
    assert model.size == tuple(trained[0].data.size)
    frames = np.random.default_rng(0).integers(0, 255, (3, 50, 70, 3), dtype=np.uint8)
    expected = maskvos.load(checkpoint(trained[0]), device="cpu")(frames)
    np.testing.assert_allclose(model(frames), expected, atol=1e-3)


def test_trains_without_a_logger(data: Path, tmp_path: Path) -> None:
    assert "val/jf" in run(smoke(data, tmp_path, "logger=none", "trainer.max_epochs=1"))


def test_a_network_for_salient_objects_needs_weights(data: Path, tmp_path: Path) -> None:
    settings = ("model/saliency=u2netp", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    with pytest.raises(UserError, match=r"model\.saliency\.pretrained=false: .*give the path of u2netp\.onnx"):
        run(smoke(data, tmp_path / "random", *settings))
    torch.save(U2NetP().state_dict(), tmp_path / "u2netp.pth")
    first = smoke(data, tmp_path / "first", *settings, f"model.saliency.pretrained={tmp_path / 'u2netp.pth'}")
    run(first)
    second = smoke(data, tmp_path / "second", *settings, f"init_from={checkpoint(first)}")
    run(second)
    before, after = (read_checkpoint(checkpoint(cfg))["state_dict"] for cfg in (first, second))
    names = [name for name in before if ".saliency." in name]
    assert names
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_init_from_takes_the_weights_and_starts_at_the_first_epoch(trained, data: Path, tmp_path: Path) -> None:
    cfg = smoke(data, tmp_path, f"init_from={checkpoint(trained[0])}", "trainer.max_epochs=1", "optim.lr=0.0")
    run(cfg)
    source = torch.load(checkpoint(trained[0]), weights_only=True)["state_dict"]
    result = torch.load(checkpoint(cfg, "last"), weights_only=True)
    assert result["epoch"] == 0
    weights = [key for key in source if key.endswith("weight") and source[key].ndim > 1]
    assert all(torch.equal(source[key], result["state_dict"][key]) for key in weights)


def test_two_runs_with_one_seed_are_equal(data: Path, tmp_path: Path) -> None:
    def scores(folder: str, seed: int) -> dict[str, float]:
        metrics = run(smoke(data, tmp_path / folder, f"seed={seed}", "trainer.max_epochs=1"))
        return {name: value for name, value in metrics.items() if name != "train/images_per_second"}

    first = scores("a", 0)
    assert first == pytest.approx(scores("b", 0), abs=1e-6)
    assert first != pytest.approx(scores("c", 1), abs=1e-6)


def test_one_frame_sequences_train_and_a_protocol_that_counts_no_frame_is_an_error(data: Path, tmp_path: Path) -> None:
    short = [f"data.{part}.frames=1" for part in ("train", "val")] + ["trainer.max_epochs=1"]
    assert 0 <= run(smoke(data, tmp_path / "a", *short))["val/jf"] <= 1
    with pytest.raises(UserError, match="counts none of the val frames"):
        run(smoke(data, tmp_path / "b", *short, "protocol=davis2016"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=tset"], ["task=tset", "'test'"]),
        (["task=predict", "ckpt_path=CKPT", "input=.", "trainer.precision=bf16-true"], ["bf16-true", "'bf16-mixed'"]),
        (["task=test", "ckpt_path=CKPT", "trainer.precision=bf16-true"], ["bf16-true", "bf16-mixed"]),
        (["trainer.precision=16-true"], ["16-true", "16-mixed"]),
        (["task=predict", "ckpt_path=CKPT"], ["input="]),
        (["task=test"], ["ckpt_path="]),
        (["ckpt_path=CKPT", "init_from=CKPT"], ["give one"]),
        (["+local.paths.data=x"], ["# @package _global_"]),
        (["callbacks.best.monitor=val/jff", "trainer.max_epochs=1"], ["'val/jf'"]),
        (["task=predict", "input=FRAMES", "backend=onxx", "ckpt_path=CKPT"], ["'onnx'"]),
        (["task=predict", "input=FRAMES", "backend=onnx", "ckpt_path=CKPT"], ["best.ckpt", "onnx"]),
        (["task=test", "ckpt_path=nowhere.ckpt"], ["nowhere.ckpt"]),
        (["task=predict", "ckpt_path=CKPT", "input=nowhere.mp4"], ["nowhere.mp4"]),
        (["task=test", "ckpt_path=CKPT", "backbone=resnet18"], ["best.ckpt", "smoke"]),
        (["ckpt_path=TEXT"], ["broken.ckpt"]),
    ],
)
def test_errors_give_value_rule_and_remedy(
    overrides: list[str], says: list[str], trained, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.ckpt").write_text("this is no checkpoint")
    frames = build(smoke(data, tmp_path).data.test)()[0].frames[0].image.parent
    names = {"CKPT": checkpoint(trained[0]), "TEXT": tmp_path / "broken.ckpt", "FRAMES": frames}
    filled = [re.sub("|".join(names), lambda name: str(names[name[0]]), override) for override in overrides]
    with pytest.raises(UserError) as error:
        run(smoke(data, tmp_path, *filled))
    for part in says:
        assert part in str(error.value)


def test_help_is_printed_and_user_errors_have_no_traceback(tmp_path: Path) -> None:
    shown = command("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "task=predict" in shown.stdout
    assert "swin_t" in shown.stdout
    wrong = command("+experiment=smoky", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "'smoke'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_missing_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DAVIS(.|\n)*paths\.data"):
        run(compose(["+experiment=smoke", "data=davis", f"paths.data={tmp_path}"], tmp_path))


@pytest.mark.slow
def test_a_missing_dataset_is_reported_on_the_command_line(tmp_path: Path) -> None:
    done = command("+experiment=swin_t", "backbone.pretrained=false", "trainer=cpu", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "data/DAVIS" in done.stderr


@pytest.mark.slow
def test_data_loaders_work_where_processes_are_spawned(data: Path, tmp_path: Path) -> None:
    """As on Windows and macOS."""
    overrides = ["+experiment=smoke", f"paths.data={data}", *SMALL, "data.num_workers=1", "trainer.max_epochs=1"]
    program = f"""
import multiprocessing
from maskvos.run import compose, run
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    run(compose({overrides}))
"""
    (tmp_path / "main.py").write_text(program)
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("checkpoints/best.ckpt"))


@pytest.mark.slow
def test_sweep_runs_every_value(data: Path, tmp_path: Path) -> None:
    done = command("-m", "+experiment=smoke", f"paths.data={data}", "optim.lr=1e-4,3e-4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("checkpoints/best.ckpt"))) == 2


@pytest.mark.slow
def test_sweep_over_several_processes_is_refused(data: Path, tmp_path: Path) -> None:
    done = command("-m", "+experiment=smoke", f"paths.data={data}", "trainer.devices=2", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2
    assert "trainer.devices=1" in done.stderr


@pytest.mark.slow
def test_interrupted_training_leaves_a_checkpoint_that_resumes(data: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "maskvos.run", "+experiment=smoke", f"paths.data={data}", "trainer.max_epochs=1000"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 120
    while not list(tmp_path.rglob("last.ckpt")) and time.time() < deadline:
        time.sleep(0.2)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    (last,) = tmp_path.rglob("last.ckpt")
    assert process.returncode != 0
    assert str(last.name) in errors
    content = torch.load(last, weights_only=True)
    cfg = smoke(data, tmp_path / "again", f"ckpt_path={last}", f"trainer.max_epochs={content['epoch'] + 2}")
    run(cfg)
    assert torch.load(checkpoint(cfg, "last"), weights_only=True)["global_step"] > content["global_step"]


def test_wandb_runs_offline_and_keeps_the_panels(data: Path, tmp_path: Path) -> None:
    run(smoke(data, tmp_path, "logger=wandb", "trainer.max_epochs=1"))
    (record,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(record.glob("*.wandb"))
    assert list((record / "files" / "media" / "images" / "val").glob("*.png"))


def test_tensorboard_gets_scalars_and_panels(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(smoke(data, tmp_path, "logger=tensorboard", "trainer.max_epochs=1"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "val/jf" in events.Tags()["scalars"]
    assert "val/panels" in events.Tags()["images"]
