"""The one entrypoint: compose the configuration, check it, build the parts, do the task, return its metrics.

The only file that imports Hydra. From a shell: ``python -m maskvos.run +experiment=swin_t``; from Python:
``run(compose(["+experiment=smoke"]))``.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from maskvos import __version__
from maskvos.benchmark.measure import benchmark as measure_speed
from maskvos.cli import hints as prompt
from maskvos.cli.hints import check_flags, check_values
from maskvos.data.check import check as check_data
from maskvos.environment import git_commit
from maskvos.errors import UserError, nearest
from maskvos.flow.compute import compute_flows
from maskvos.metrics import evaluate_folder
from maskvos.models.network import MaskVOS
from maskvos.models.state_dict import load_state, read_checkpoint, tensors_of
from maskvos.reports.comparison import compare, read_runs, table
from maskvos.reports.report import about_run, saved_masks, write_report
from maskvos.reports.sweep import write_result, write_sweep
from maskvos.training.ema import EMA
from maskvos.training.loggers import CsvLogger
from maskvos.training.module import SegmentationSystem
from maskvos.training.resume import WANDB_ID, changed_settings, find_checkpoint, previous
from maskvos.weights import bundled
from maskvos.weights.export import ExportedNetwork, suffix_of
from maskvos.weights.export import export as write_exported

log = logging.getLogger(__name__)
# Lightning's use of torch's internals, of no concern to whoever trains.
warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
# Not true of this project's loaders, whose sampler goes on where the epoch was interrupted.
warnings.filterwarnings("ignore", message=r"[\s\S]*your dataloader is\s+not resumable")

_BEST = "best/"
_PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "optuna": "hydra-optuna-sweeper",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
_START_ANEW = "start a training from its weights with init_from="
_PACKAGE = Path(__file__).resolve().parent
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir())


def compose(overrides: Sequence[str] = (), run_dir: str | Path | None = None) -> DictConfig:
    """The configuration that the command line would give, for tests and notebooks.

    Args:
        overrides: As on the command line: ``["+experiment=smoke", "optim.lr=1e-4"]``.
        run_dir: The run's folder; by default ``<paths.runs>/<name>/<date and time>``.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=bundled.complete(overrides))
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    cfg.paths.run = str(run_dir or Path(cfg.paths.runs) / cfg.name / stamp)
    return cfg


def build(node: DictConfig, **kwargs: Any) -> Any:
    """Instantiate a node of the configuration; plain containers inside, a user's error kept as it is."""
    try:
        return hydra.utils.instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as plain containers, everything resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def build_system(cfg: DictConfig) -> SegmentationSystem:
    """The LightningModule with network, loss, protocol, optimiser and schedule."""
    model = OmegaConf.create(plain(cfg.model))
    if cfg.ckpt_path is not None or cfg.task == "benchmark":
        for encoder in filter(None, (model.rgb_encoder, model.flow_encoder)):
            if "pretrained" in encoder:
                encoder.pretrained = False  # a checkpoint brings these weights, speed needs none
    return SegmentationSystem(
        network=build(model),
        loss=build(cfg.loss),
        protocol=build(cfg.protocol),
        optimizer=build(cfg.optim),
        schedule=build(cfg.schedule),
        aux_weight=cfg.aux_weight,
        mirror=cfg.mirror,
        options=build(cfg.train),
        config=plain(cfg),
    )


def build_trainer(cfg: DictConfig, extra: Sequence[pl.Callback] = (), logged: bool = True) -> pl.Trainer:
    """The Lightning trainer with the callbacks and loggers of the configuration."""
    refuse_missing_hardware(cfg)
    # A part that the command line sets to null is left out.
    loggers = [build(node) for node in cfg.logger.values() if node] if logged else []
    callbacks = [build(node) for node in cfg.callbacks.values() if node]
    if not loggers:
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    trainer = build(cfg.trainer, callbacks=[*extra, *callbacks], logger=loggers or False)
    for logger in trainer.loggers:
        logger.log_hyperparams({**plain(cfg), "version": __version__, "git": git_commit()})
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_text("config", f"```yaml\n{OmegaConf.to_yaml(cfg, resolve=True)}```")
    return trainer


def refuse_missing_hardware(cfg: DictConfig) -> None:
    """Tell what a trainer is for, where it cannot run."""
    target = str(cfg.trainer.strategy.get("_target_")) if isinstance(cfg.trainer.strategy, DictConfig) else ""
    fsdp = "fsdp" in f"{target}{cfg.trainer.strategy}".lower()
    if (fsdp or cfg.trainer.accelerator in ("gpu", "cuda")) and not torch.cuda.is_available():
        what = "trainer=fsdp shares out the weights among" if fsdp else "trainer.accelerator=gpu computes on"
        raise UserError(f"{what} CUDA GPUs, and PyTorch finds none here; give trainer=cpu, or look at `nvidia-smi`")
    if "SLURMEnvironment" in str(cfg.trainer.get("plugins")) and "SLURM_NTASKS" not in os.environ:
        raise UserError(
            "trainer=slurm: no SLURM job runs this process; use `sbatch scripts/train.sbatch`, or give trainer=ddp"
        )


def prepare_resume(cfg: DictConfig, system: SegmentationSystem) -> dict[str, Any]:
    """See that a checkpoint can be gone on with before anything starts, and tell which settings differ from its own.

    Returns:
        The checkpoint.

    Raises:
        UserError: The checkpoint is damaged, of another network or optimiser, or holds weights only.
    """
    path = Path(cfg.ckpt_path)
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        if path.is_file() and (before := previous(path)):
            raise UserError(f"{error}; or go on from the one before it, ckpt_path={before}") from error
        raise
    if "optimizer_states" not in checkpoint or "loops" not in checkpoint:
        raise UserError(f"{path} holds weights and no state of a training to resume; {_START_ANEW}")
    put_weights(system, checkpoint, path)
    made = checkpoint.get("maskvos", {}).get("config", {})
    if made and made["optim"]["_target_"] != cfg.optim._target_:
        raise UserError(
            f"{path} was trained with {made['optim']['_target_']}, whose state {cfg.optim._target_} cannot go on with; "
            f"give the optim= that it had, or {_START_ANEW}"
        )
    log.info("resuming %s, epoch %d, step %d", path, checkpoint["epoch"], checkpoint["global_step"])
    changed = changed_settings(made, plain(cfg))
    for line in changed:
        log.warning("resume: %s", line)
    if any("ignored" in line for line in changed):
        log.warning("resume: for other settings of the optimiser, %s", _START_ANEW)
    return checkpoint


def load_weights(system: SegmentationSystem, path: str | Path, strict: bool = True) -> None:
    """Put a checkpoint's weights into the network; when not strict, what does not fit is told and left as it was."""
    put_weights(system, read_checkpoint(path), path, strict)


def put_weights(system: SegmentationSystem, checkpoint: dict[str, Any], path: str | Path, strict: bool = True) -> None:
    """The same for a checkpoint that was read."""
    made = checkpoint.get("maskvos", {}).get("config", {})
    source = f"{path} (trained as '{made['name']}')" if "name" in made else str(path)
    network = {key.removeprefix("network."): value for key, value in tensors_of(checkpoint, source).items()}
    for line in load_state(system.network, network, source=source, strict=strict):
        log.warning("init_from: %s", line)


def train(cfg: DictConfig) -> dict[str, float]:
    """Train; leaves ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the run's folder."""
    if cfg.ckpt_path is not None and cfg.init_from is not None:
        raise UserError("ckpt_path resumes a training with its weights, init_from starts one from weights; give one")
    system, datamodule = build_system(cfg), build(cfg.data)
    reached: dict[str, Any] = {}
    if cfg.ckpt_path is not None:
        reached = prepare_resume(cfg, system)
        if cfg.logger.get("wandb") and not cfg.logger.wandb.get("id"):
            cfg.logger.wandb.id = reached.get(WANDB_ID)
    elif cfg.init_from is not None:
        load_weights(system, cfg.init_from, strict=False)
    trainer = build_trainer(cfg, extra=[EMA(cfg.train.ema)] if cfg.train.ema else [])
    for logger in trainer.loggers:
        if isinstance(logger, CsvLogger) and reached:
            logger.continue_from(reached["global_step"])
    begin = time.monotonic()
    try:
        trainer.fit(system, datamodule, ckpt_path=cfg.ckpt_path, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C, when its callbacks have saved
        log.warning("interrupted; continue with ckpt_path=%s", Path(trainer.default_root_dir) / "checkpoints/last.ckpt")
        raise
    except ValueError as error:
        if cfg.ckpt_path is None or "parameter group" not in str(error):
            raise
        raise UserError(
            f"{cfg.ckpt_path}: its optimiser has other parameter groups ({error}); {_START_ANEW}"
        ) from error
    metrics = scores(trainer)
    told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name.startswith("val/"))
    took = timedelta(seconds=round(time.monotonic() - begin))
    log.info("trained to epoch %d, step %d in %s: %s", trainer.current_epoch, trainer.global_step, took, told)
    best = trainer.checkpoint_callback
    if isinstance(best, ModelCheckpoint) and best.best_model_score is not None:
        log.info("best checkpoint: %s (%s %.3f)", best.best_model_path, best.monitor, best.best_model_score)
        metrics[_BEST + str(best.monitor).removeprefix("val/")] = float(best.best_model_score)
    log.info("run: %s", trainer.default_root_dir)
    return metrics


def test(cfg: DictConfig) -> dict[str, float]:
    """Score a checkpoint on the test split."""
    system = trained_system(cfg)
    trainer = build_trainer(cfg)
    trainer.test(system, build(cfg.data), verbose=False)
    return scores(trainer)


def predict(cfg: DictConfig) -> dict[str, float]:
    """Write masks for a movie, a folder of frames, or a folder of such."""
    if cfg.input is None:
        raise UserError("task=predict: nothing to segment; give input=<movie | folder of frames | folder of such>")
    if cfg.backend == "torch":
        system = trained_system(cfg)
        system.network = system.network.fuse()  # the same function, faster
    else:
        system = exported_system(cfg)
    # What the masks depend on beside the weights: a repeated run goes on only where all of this is the same.
    made = plain(cfg)
    settings = {
        **{key: made[key] for key in ("model", "backend", "mirror")},
        **{key: made["data"][key] for key in ("size", "motion_as_option", "second_look")},
        "precision": made["trainer"]["precision"],
        "flow": {key: made["flow"].get(key) for key in ("estimator", "direction", "gap")},
    }
    output = cfg.output or Path(cfg.paths.run) / "predictions"
    writer = build(cfg.writer, output=str(output))
    writer.settings = settings  # not by `build`, which would make objects of every _target_ in it
    trainer = build_trainer(cfg, extra=[writer], logged=False)
    trainer.predict(system, build(cfg.data), return_predictions=False)
    return writer.metrics()


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Score masks that any program saved, against the truth of the test split."""
    if cfg.predictions is None:
        raise UserError("task=evaluate: nothing to score; give predictions=<folder of masks>")
    folder = Path(cfg.paths.run) / "evaluation"
    videos, protocol = build(cfg.data).videos("test"), build(cfg.protocol)
    begin = time.perf_counter()
    summary = evaluate_folder(cfg.predictions, videos, protocol, cfg.missing)
    scored, seconds = sum(1 for row in summary.frames if row.values), time.perf_counter() - begin
    about = about_run("evaluate", plain(cfg), videos, scored, seconds, str(cfg.predictions), "cpu")
    print(summary.table())
    show = saved_masks(cfg.predictions, videos, protocol)
    page = write_report(dataclasses.replace(summary, run=about), folder, show, progress=True)
    log.info("scores: %s\nreport: %s", folder, page)
    return {f"evaluate/{name}": value for name, value in summary.overall.items()}


def check(cfg: DictConfig) -> dict[str, float]:
    """List what the data folders hold; fails when something is wrong with it."""
    datamodule = build(cfg.data)
    report = check_data(datamodule.sources, datamodule.flow)
    print(report.table())
    if report.problems:
        raise UserError(f"task=check: {len(report.problems)} problem(s) in the data, listed above; mend and repeat")
    return {f"check/{part.name}_frames": float(part.frames) for part in report.parts}


def flow(cfg: DictConfig) -> dict[str, float]:
    """Compute the optical flow of all videos of a dataset once, into ``flow.cache``."""
    datamodule = build(cfg.data)
    parts = [part for part in ("train", "val", "test") if datamodule.sources[part] is not None]
    videos = [video for part in parts for video in datamodule.videos(part)]
    summary = compute_flows(videos, datamodule.flow, cfg.shard, datamodule.num_workers)
    print(summary)
    if summary.problems:
        raise UserError(f"task=flow: {len(summary.problems)} problems, listed above; mend these files and repeat")
    log.info("flow: %s", datamodule.flow.folder())
    return {"flow/computed": summary.computed, "flow/reused": summary.reused, "flow/frames_per_second": summary.rate}


def trained_system(cfg: DictConfig) -> SegmentationSystem:
    """The system with the weights of ``ckpt_path``."""
    if cfg.ckpt_path is None:
        raise UserError(f"task={cfg.task}: no weights; give ckpt_path=<checkpoint of a training>")
    system = build_system(cfg)
    load_weights(system, cfg.ckpt_path)
    return system


def exported_system(cfg: DictConfig) -> SegmentationSystem:
    """The system around a file that `export` wrote; it segments, and cannot be trained."""
    if cfg.ckpt_path is None:
        raise UserError(f"task={cfg.task} backend={cfg.backend}: give ckpt_path=<file of task=export>")
    network = ExportedNetwork(cfg.ckpt_path, cfg.backend)
    return SegmentationSystem(cast(MaskVOS, network), build(cfg.loss), build(cfg.protocol), mirror=cfg.mirror)


def export(cfg: DictConfig) -> dict[str, float]:
    """Write the network into a file that runs without maskvos."""
    path = Path(cfg.output or Path(cfg.paths.run) / f"{cfg.name}{suffix_of(cfg.format)}")
    write_exported(trained_system(cfg).network.eval(), path, cfg.format, tuple(cfg.data.size))
    log.info("exported: %s (%.1f MB), checked against PyTorch", path, path.stat().st_size / 1e6)
    return {"export/bytes": float(path.stat().st_size)}


def benchmark(cfg: DictConfig) -> dict[str, float]:
    """Measure the speed of the network alone and of everything from movie to movie."""
    options, system, datamodule = build(cfg.benchmark), build_system(cfg), build(cfg.data)
    if cfg.ckpt_path is None:
        log.warning("task=benchmark: random weights, as there is no ckpt_path; speed hardly depends on them")
    else:
        load_weights(system, cfg.ckpt_path)
    video = None if cfg.input is None else datamodule.videos("predict")[0]
    accelerator, precision = str(cfg.trainer.accelerator), str(cfg.trainer.precision)
    report = measure_speed(system.network, datamodule, options, video, accelerator, precision)
    folder = Path(cfg.output or Path(cfg.paths.run) / "benchmark")
    report.write(folder)
    print(report.table())
    log.info("figures: %s", folder)
    return report.metrics()


def sweep(cfg: DictConfig) -> dict[str, float]:
    """Make the table of a sweep again, from what its runs have left so far."""
    if cfg.input is None:
        raise UserError("task=sweep: no sweep to tabulate; give input=<folder of the sweep>")
    print(write_sweep(cfg.input))
    return {}


def report(cfg: DictConfig) -> dict[str, float]:
    """Put the results of several runs side by side."""
    if not cfg.runs:
        raise UserError("task=report: nothing to compare; give runs=<folder>,<folder> of task=test or task=evaluate")
    runs = read_runs(cfg.runs.split(",") if isinstance(cfg.runs, str) else list(cfg.runs))
    print(table(runs))
    page = compare(runs, Path(cfg.output or Path(cfg.paths.run) / "report"))
    log.info("report: %s", page)
    return {"report/runs": float(len(runs))}


def scores(trainer: pl.Trainer) -> dict[str, float]:
    """The last logged metrics as plain numbers."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


TASKS: dict[str, Callable[[DictConfig], dict[str, float]]] = {
    "train": train,
    "test": test,
    "predict": predict,
    "evaluate": evaluate,
    "check": check,
    "flow": flow,
    "export": export,
    "benchmark": benchmark,
    "report": report,
    "sweep": sweep,
}


def run(cfg: DictConfig) -> dict[str, float]:
    """Do ``cfg.task`` and return its metrics.

    Raises:
        UserError: Something in the configuration or in the data that it names does not fit.
    """
    if cfg.task not in TASKS:
        raise UserError(f"task={cfg.task}: there is no such task; {nearest(str(cfg.task), TASKS)}")
    if cfg.get("local"):
        raise UserError(
            'conf/local/default.yaml is not read as it stands: its first line must be "# @package _global_"'
        )
    for setting in ("ckpt_path", "init_from"):
        if named := cfg[setting]:
            experiment = Path(cfg.paths.runs) / cfg.name
            cfg[setting] = str(bundled.find(named) or find_checkpoint(named, cfg.paths.run, experiment, setting))
    if cfg.seed is not None:
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
    try:
        return TASKS[cfg.task](cfg)
    finally:
        # Or the next run of this process, such as a sweep's, would be logged as this one going on.
        if wandb := sys.modules.get("wandb"):
            wandb.finish()


def launched_as() -> str | None:
    """What the processes of this run have in common where torchrun or srun started several; None where not."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ["TORCHELASTIC_RUN_ID"]
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in os.environ:
        return os.environ.get("SLURM_JOB_ID")
    return None


def share_folder(arguments: Sequence[str]) -> list[str]:
    """Let processes that were started one by one agree on the run's folder, which the clock would not give them.

    Raises:
        UserError: They have nothing in common to name it after.
    """
    job = launched_as()
    if job is None or any(argument.startswith("hydra.run.dir=") for argument in arguments):
        return list(arguments)
    if job == "none":
        raise UserError(
            "torchrun: the processes must agree on the run's folder; give torchrun --standalone (one machine) or "
            "--rdzv-id=<a name for the run>, or hydra.run.dir=<folder>"
        )
    return [*arguments, f"hydra.run.dir=${{paths.runs}}/${{name}}/job_{job}"]


def refuse_nested_launch(cfg: DictConfig) -> None:
    """A sweep whose jobs start processes of their own would be started again, whole, by each of these."""
    devices = cfg.trainer.devices
    several = len(devices) > 1 if isinstance(devices, ListConfig) else str(devices) not in ("1", "auto")
    if devices == "auto":
        several = torch.cuda.device_count() > 1
    several = several or launched_as() is not None
    if HydraConfig.get().mode == RunMode.MULTIRUN and several:
        raise UserError(
            f"-m with trainer.devices={devices}: every process of a job would launch the sweep again; "
            "sweep with trainer.devices=1, or start the runs one by one"
        )


def refuse_wrong_values(cfg: DictConfig) -> None:
    """Compare what was typed with the values that the chosen groups bring, see `check_values`."""
    typed, sources = list(HydraConfig.get().overrides.task), HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    names = {override: re.split("[=@]", override.lstrip("+"))[0] for override in typed}
    groups = [override for override in typed if any((folder / names[override]).is_dir() for folder in folders)]
    before = hydra.compose("config", overrides=groups)  # with the folders of configurations of this command
    check_values(typed, *(cast(dict[str, Any], OmegaConf.to_container(node)) for node in (cfg, before)))


class SweepTable(Callback):
    """Notes that a run failed, and keeps the table of a sweep up to date, wherever its jobs run."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the table after each run: it is there whatever happens to the next."""
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return
        folder = Path(config.hydra.runtime.output_dir)
        if job_return.status == JobStatus.FAILED:
            error = explain(job_return._return_value)
            write_result(folder, error=error)
            if config.hydra.mode == RunMode.MULTIRUN:
                log.warning("run %s failed: %s; see %s", folder.name, error, folder.parent / "sweep.csv")
        if config.hydra.mode == RunMode.MULTIRUN:
            write_sweep(folder.parent)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the table."""
        folder = Path(config.hydra.sweep.dir)
        print(write_sweep(folder))
        log.info("sweep: %s", folder)


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> float | None:
    refuse_nested_launch(cfg)
    if GlobalHydra.instance().is_initialized():  # not in the processes that a launcher starts
        refuse_wrong_values(cfg)
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode == RunMode.MULTIRUN and cfg.logger.get("wandb") and cfg.logger.wandb.get("group", "") is None:
        cfg.logger.wandb.group = Path(hydra_cfg.sweep.dir).name
    begin = time.monotonic()
    metrics = run(cfg)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        write_result(Path(hydra_cfg.runtime.output_dir), metrics, time.monotonic() - begin)
    return next((value for name, value in metrics.items() if name.startswith(_BEST)), None)


def main() -> None:
    """The command: `run` on what the command line composes; a user's mistake ends with one message and status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises; what a user reads is decided here
    # Without quotes Hydra takes a,b for the values of a sweep.
    sys.argv[1:] = [re.sub(r"^runs=([^'\"\[].*)$", r"runs='\1'", argument) for argument in sys.argv[1:]]
    try:
        check_flags(sys.argv[1:])
        sys.argv[1:] = share_folder(bundled.complete(sys.argv[1:]))
        _hydra_main()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.exit(_fail(error))


def _fail(error: Exception) -> int:
    print(f"error: {explain(error)}", file=sys.stderr)
    return 2


def explain(error: Exception) -> str:
    """What went wrong, with the nearest right name where a name was mistyped."""
    group, _, name = str(getattr(error, "missing_cfg_file", None)).rpartition("/")
    if name in _PLUGINS:
        return f"{group}={name} needs the package {_PLUGINS[name]}; pip install 'maskvos[sweep]'"
    return prompt.explain(error, lambda: _keys(compose()))


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items_ex(resolve=False):
        name = prefix + str(key)
        yield name
        if isinstance(value, DictConfig):
            yield from _keys(value, name + ".")


if __name__ == "__main__":
    # By its name: what a launcher sends to other processes must not refer to "__main__", which is another file there.
    from maskvos.run import main as named_main

    named_main()
