"""Composing the configuration: Hydra's groups and overrides, completed by what a checkpoint brings."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from maskvos.cli.quoting import quote_texts
from maskvos.errors import UserError
from maskvos.settings.table import check_settings
from maskvos.text import flatten
from maskvos.weights import bundled
from maskvos.weights.config import InferenceConfig, find_checkpoint, read_config

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir())
# Tasks that use a trained network as its checkpoint says.
_INFERENCE = ("test", "predict", "export", "benchmark")
# Settings of a network that do not change its function at inference.
_TRAINING_ONLY = ("pretrained", "published", "drop_path", "drop_path_rate", "dropout")

_ANONYMOUS = re.compile(r"masks|predictions|results|outputs?|out|\.\.?|\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


def launch_id() -> str | None:
    """Identifier shared by all processes of a torchrun or srun launch; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ["TORCHELASTIC_RUN_ID"]
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in os.environ:
        return os.environ.get("SLURM_JOB_ID")
    return None


def run_id() -> str:
    """Name of the run's folder: date and time, or the job's id, which all of its processes share."""
    job = launch_id()
    return time.strftime("%Y-%m-%d_%H-%M-%S") if job is None else f"job_{job}"


def group_members() -> str:
    """The members of every group, for the help; not the ``base`` files, which only hold what members share."""
    # Hydra's own listing copies its sources for every group, which takes longer than composing.
    repository = cast(Any, GlobalHydra.instance().hydra).config_loader.repository

    def lines(group: str) -> Iterator[str]:
        if names := [name for name in repository.get_group_options(group) if not name.endswith("base")]:
            yield f"{group}: {', '.join(names)}"
        for inner in repository.get_group_options(group, ObjectType.GROUP):
            yield from lines(f"{group}/{inner}")

    groups = repository.get_group_options("", ObjectType.GROUP)
    return "\n".join(line for group in groups if not group.startswith("hydra") for line in lines(group))


def run_folder(runs: str, name: str, prefix: str = "") -> str:
    """The run's folder, ``<runs>/<name>/<date and time>``; see also `maskvos.cli.run_folder`.

    Args:
        runs: Folder of all runs; empty: the working folder.
        name: Name of the experiment.
        prefix: Precedes date and time.
    """
    return str(Path(runs, str(name), prefix + run_id()))


def run_name(task: str, predictions: str | None) -> str:
    """Name of a run that is not given one: that of the masks that it evaluates, else maskvos.

    Folders that say nothing, such as ``masks`` and those of date and time, leave it to the one above.
    """
    if task != "evaluate" or not predictions:
        return "maskvos"
    path = Path(str(predictions)).expanduser().absolute()
    names = [name for name in reversed(path.parts[1:]) if not _ANONYMOUS.fullmatch(name)]
    return names[0] if names else path.name or "maskvos"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("group_members", group_members, use_cache=True, replace=True)


def compose(overrides: Sequence[str] = (), run_dir: str | Path | None = None) -> DictConfig:
    """The configuration that the command line would give, for Python and notebooks.

    Args:
        overrides: As on the command line: ``["+experiment=smoke", "optim.lr=1e-4"]``.
        run_dir: The run's folder; by default ``<paths.runs>/<name>/<date and time>``.

    Returns:
        The configuration, read-only.

    Raises:
        UserError: A setting is invalid; a checkpoint cannot be read, or contradicts the overrides.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=quote_texts(overrides))
        cfg.paths.run = str(run_dir or run_folder(cfg.paths.runs, cfg.name))
        return complete(cfg, overrides)


def complete(cfg: DictConfig, overrides: Sequence[str], sweep: str | None = None) -> DictConfig:
    """Finish a composed configuration: find the checkpoint, and take from it what the overrides do not set.

    Args:
        cfg: What Hydra composed; unchanged.
        overrides: What was typed.
        sweep: Name of the sweep that the run belongs to.

    Returns:
        The final configuration, read-only.

    Raises:
        UserError: A setting is invalid; a checkpoint is not found, cannot be read, or contradicts the overrides.
    """
    check_settings(OmegaConf.to_container(cfg))
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    typed = {_name(override): override for override in overrides}
    if "input" in typed and "task" not in typed and cfg.task == "train":
        log.info("%s: taken as task=predict, since no task was given", typed["input"])
        cfg.task = "predict"
    if cfg.task == "predict" and cfg.ckpt_path is None and "experiment" not in typed:
        cfg.ckpt_path = bundled.DEFAULT
    for setting in ("ckpt_path", "init_from"):
        if cfg[setting] is not None:
            experiment = Path(cfg.paths.runs) / cfg.name
            cfg[setting] = str(find_checkpoint(str(cfg[setting]), cfg.paths.run, experiment, setting))
    if cfg.ckpt_path is not None and cfg.task in _INFERENCE and (made := read_config(cfg.ckpt_path)) is not None:
        source = InferenceConfig.from_config(made).check(cfg.ckpt_path, list(cfg.trust))
        _check_model(cfg, source, typed)
        _use(cfg, source, typed)
    if sweep and cfg.logger.get("wandb") and cfg.logger.wandb.get("group", "") is None:
        cfg.logger.wandb.group = sweep
    OmegaConf.set_struct(cfg, True)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _name(override: str) -> str:
    """The setting or group of an override: ``data.size`` of ``++data.size=[64,64]``."""
    return re.split("[=@]", override.lstrip("+~"))[0]


def _check_model(cfg: DictConfig, source: InferenceConfig, typed: Mapping[str, str]) -> None:
    """Refuse overrides that contradict the network of the checkpoint."""
    for name, override in typed.items():
        for path in _model_paths(name):
            here = dict(_leaves(OmegaConf.select(cfg, path), path))
            there = dict(_leaves(_select({"model": source.model}, path), path))
            for key in sorted({*here, *there}):
                if key.rpartition(".")[2] not in _TRAINING_ONLY and here.get(key) != there.get(key):
                    raise UserError(
                        f"{override}: contradicts {cfg.ckpt_path} (trained as '{source.name}'), which has {key}="
                        f"{there.get(key)}, not {here.get(key)}; leave it out, as a checkpoint brings its own model"
                    )


def _model_paths(name: str) -> list[str]:
    """Where an override changes the network."""
    top, _, rest = name.replace("/", ".").partition(".")
    if top == "backbone":
        return [f"model.{encoder}" + (f".{rest}" if rest else "") for encoder in ("rgb_encoder", "flow_encoder")]
    if top == "experiment":
        return ["model"]
    return [f"model.{rest}".rstrip(".")] if top == "model" else []


def _select(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True)
    return flatten(node, f"{path}.") if isinstance(node, Mapping) else iter([(path, node)])


def _use(cfg: DictConfig, source: InferenceConfig, typed: Mapping[str, str]) -> None:
    """Take model, input size, flow and test-time augmentation from the checkpoint, unless they are typed.

    An experiment that is typed says everything but the model itself.
    """
    cfg.model = source.model
    if "experiment" in typed:
        return
    values: dict[str, Any] = {
        "refine": source.refine,
        "data.size": list(source.size),
        "data.motion_as_option": source.motion_as_option,
        "data.eval_batch_size": source.batch_size,
    }
    if not any(name == "tta" or name.startswith("tta.flow") for name in typed):
        values["tta.flow"] = source.tta["flow"]
    if "tta" not in typed:
        values["tta.mirror"] = source.tta["mirror"]
    if "flow" not in typed:
        values |= {f"flow.{name}": value for name, value in source.flow.items() if name != "estimator"}
        estimator = OmegaConf.create({"estimator": source.flow["estimator"]})
        for name in typed:
            if name.startswith("flow.estimator."):
                OmegaConf.update(estimator, name.removeprefix("flow."), OmegaConf.select(cfg, name), force_add=True)
        if "flow.estimator" not in typed:
            cfg.flow.estimator = estimator.estimator
    for name, value in values.items():
        if name not in typed:
            OmegaConf.update(cfg, name, value, merge=False, force_add=True)
