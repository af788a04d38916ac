"""How trained weights are used: finding their file, and reading the configuration that it carries."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from maskvos.build import check_targets
from maskvos.errors import UserError, nearest
from maskvos.settings.table import check_settings
from maskvos.weights import bundled
from maskvos.weights.exported import SUFFIXES, exported_config

NO_TTA: Mapping[str, Any] = {"mirror": False, "flow": None}


@dataclass(frozen=True)
class InferenceConfig:
    """Inference settings of trained weights: network, input size, optical flow, test-time augmentation.

    Attributes:
        model: Configuration of the network (``conf/model``, resolved).
        size: Height and width of its input, pixels.
        flow: Configuration of the flow (``conf/flow``, resolved).
        tta: Test-time augmentation, ``mirror`` and ``flow``.
        refine: Masks follow the edges of the picture.
        motion_as_option: See `FrameDataset`.
        batch_size: Frames per forward pass.
        name: Name of the experiment.
    """

    model: Mapping[str, Any]
    size: Sequence[int]
    flow: Mapping[str, Any]
    tta: Mapping[str, Any] = field(default_factory=lambda: dict(NO_TTA))
    refine: bool = False
    motion_as_option: float | None = None
    batch_size: int = 1
    name: str = ""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> InferenceConfig:
        """Pick what inference needs from a resolved configuration of the current version.

        Raises:
            TypeError: A group of settings is not a mapping.
            KeyError: A setting is missing.
        """
        for group in ("model", "data", "flow", "tta"):
            if not isinstance(config[group], Mapping):
                raise TypeError(f"{group} is not a mapping, but {config[group]!r:.40}")
        return cls(
            model=config["model"],
            size=config["data"]["size"],
            flow=config["flow"],
            tta={name: config["tta"][name] for name in NO_TTA},
            refine=bool(config.get("refine", False)),
            motion_as_option=config["data"].get("motion_as_option"),
            batch_size=config["data"].get("eval_batch_size", 1),
            name=str(config.get("name", "")),
        )

    def to_config(self) -> dict[str, Any]:
        """The inverse of `from_config`."""
        data = {"size": list(self.size), "motion_as_option": self.motion_as_option, "eval_batch_size": self.batch_size}
        settings = {"flow": self.flow, "tta": self.tta, "refine": self.refine}
        return {"name": self.name, "model": self.model, "data": data, **settings}

    def check(self, source: str, trust: Sequence[str] = ()) -> InferenceConfig:
        """Validate a configuration from a file, which is not trusted.

        Args:
            source: The file that the configuration comes from, for messages.
            trust: Packages beside maskvos whose classes may be built.

        Returns:
            The configuration without a flow cache and without pretrained weights to fetch.

        Raises:
            UserError: A ``_target_`` is not a class of maskvos or of a trusted package.
        """
        if bundled.find(Path(source).stem) != Path(source):  # checking imports the classes, and thereby torch
            check_targets(self.model, source, trust)
        check_targets(self.flow, source, trust)
        check_settings(self.to_config(), source=source)
        flow = {key: self.flow[key] for key in ("_target_", "estimator", "direction", "gap") if key in self.flow}
        return replace(self, model=without_pretrained(self.model), flow=flow)


def without_pretrained(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration with parts that fetch no pretrained weights, since a checkpoint brings its own."""
    parts = {
        name: {**model[name], "pretrained": False}
        for name in ("rgb_encoder", "flow_encoder", "saliency")
        if isinstance(model.get(name), Mapping) and "pretrained" in model[name]
    }
    return {**model, **parts}


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The configuration that a checkpoint or an exported file carries.

    Args:
        path: A checkpoint of a training, bundled weights, or an exported network.

    Returns:
        The resolved configuration with the names of the current version; None for a file without one, such as a plain
        state dict.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = Path(path)
    config: Any
    if path.suffix in SUFFIXES:
        config = exported_config(path)
    elif path.suffix == ".safetensors":
        config = _metadata(path).get("config")
    else:
        from maskvos.models.state_dict import read_checkpoint  # imports torch, which exported networks do not need

        about = read_checkpoint(path).get("maskvos", {})
        config = about.get("config") if isinstance(about, Mapping) else about
    try:
        if isinstance(config, str):
            config = json.loads(config)
        if config:
            config = migrate(config)
            InferenceConfig.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: its configuration is not one of maskvos ({error!r}); give the checkpoint of a training"
        ) from error
    return config or None


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"weights: no file '{path}'; check the path (relative paths start at the working folder)")
    try:
        with safe_open(path, "np") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"weights: '{path}' cannot be read ({error}); it is damaged: copy it again") from error


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of an earlier version with the settings of the current one; a current one as it is."""
    config = dict(config)
    data = dict(config.get("data", {}))
    if "tta" not in config:
        config["tta"] = {"mirror": config.pop("mirror", False), "flow": data.pop("second_look", None)}
    train = dict(config.get("train", {}))
    if "checkpointing" in train:
        train["activation_checkpointing"] = train.pop("checkpointing")
    model = config.get("model")
    model = model if isinstance(model, Mapping) else {}
    head = model.get("head")
    if isinstance(head, Mapping) and head.get("_target_") == "maskvos.models.head.SegFormerHead":
        config["model"] = {**model, "head": {"padding": "zeros", **head}}
    return {**config, "data": data, "train": train}


def find_checkpoint(
    wanted: str, run: str | Path | None = None, experiment: str | Path | None = None, setting: str = "ckpt_path"
) -> Path:
    """The file that ``ckpt_path`` or ``init_from`` names.

    Args:
        wanted: A path; the name of bundled weights; or the bare name of a checkpoint (``last``, ``last-previous``,
            ``best``), which is looked up in the run's own folder, as a requeued job has it, and then in the newest run
            of the experiment.
        run: The run's folder; None: bare names of checkpoints are not looked up.
        experiment: The folder of the experiment's runs; likewise.
        setting: Name of the setting, for messages.

    Raises:
        UserError: There is no checkpoint of that name.
    """
    path = Path(wanted).expanduser()
    if path.is_file():
        return path
    if found := bundled.find(wanted):
        return found
    if path.suffix or len(path.parts) > 1:
        return path
    if run is None or experiment is None:
        raise UserError(
            f"{setting}={wanted}: neither a file nor the name of bundled weights; {nearest(wanted, bundled.names())}"
        )
    own = Path(run) / "checkpoints" / f"{wanted}.ckpt"
    if own.is_file():
        return own
    runs = list(Path(experiment).glob(f"*/checkpoints/{wanted}.ckpt"))
    if not runs:
        known = {file.stem for file in Path(experiment).glob("*/checkpoints/*.ckpt")}
        raise UserError(
            f"{setting}={wanted}: not the name of bundled weights, and no run under {experiment} has a "
            f"checkpoints/{wanted}.ckpt; train first, or give the name= and paths.runs= of the training, or the "
            f"checkpoint's path; {nearest(wanted, {*known, *bundled.names()})}"
        )
    # A file from the future, of a clock that was wrong, is older than all others.
    now = time.time() + 60
    return max(runs, key=lambda file: (file.stat().st_mtime <= now, file.stat().st_mtime))
