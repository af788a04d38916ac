"""Adapter for feature pyramids of the timm library."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from maskvos.errors import UserError, nearest
from maskvos.models.backbones.base import Backbone
from maskvos.models.backbones.hub import offline_if_unreachable
from maskvos.models.layers import crop

_STRIDE = 32
# Options of `timm.create_model` that read files or download. A configuration can come from an untrusted checkpoint,
# so weights are loaded by `Backbone.load_pretrained` only.
_FORBIDDEN = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained_strict")


class TimmBackbone(Backbone):
    """A timm model with ``features_only``, for any image size.

    Images are padded to a multiple of 32 by replicating the border, and the maps are cropped, so that models that drop
    odd rows or require full windows work at every size.

    Args:
        name: timm's model name, with or without a weights tag.
        pretrained: True, False or a weights file (of timm, torchvision, or EfficientNetV2 in another layout).
        **options: Arguments of ``timm.create_model``, for example ``drop_path_rate`` or ``img_size``.

    Raises:
        UserError: The name is unknown, the model has no pyramid of strides 4, 8, 16, 32, or an option would read files
            or download.
    """

    def __init__(self, name: str, pretrained: bool | str | Path = False, **options: Any) -> None:
        super().__init__()
        _check_name(name)
        for option in _FORBIDDEN:
            if option in options:
                raise UserError(
                    f"backbone.{option}={options[option]}: options of timm that read files or download are not "
                    "allowed; remove it, and set backbone.pretrained to true or to a weights file"
                )
        self.dynamic_size = not _has_option(name, "strict_img_size")  # an option of models with windows
        self.body: Any
        try:
            self._build(name, options)
        except UserError:
            # Models with windows have a fixed image size by default; others do not have this option.
            if not _has_option(name, "strict_img_size") or "strict_img_size" in options:
                raise
            options = {**options, "strict_img_size": False}
            self._build(name, options)
        indices = list(self.body.feature_info.out_indices)
        self.load_pretrained(pretrained, name, lambda: _published(name, indices, options), self.translate)

    def _build(self, name: str, options: Mapping[str, Any]) -> None:
        self.body = _pyramid(name, options)
        self.channels = tuple(self.body.feature_info.channels())
        self._probe(name)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Backbone`."""
        height, width = x.shape[-2:]
        # No branch on the size, so that a traced network supports dynamic sizes.
        x = F.pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
        outputs = self.body(x)
        if self._channels_last:
            outputs = [out.permute(0, 3, 1, 2) for out in outputs]
        # Rounding up without negative numbers, because ONNX rounds divisions towards zero.
        return [
            crop(out, ((height + stride - 1) // stride, (width + stride - 1) // stride))
            for out, stride in zip(outputs, self.strides, strict=True)
        ]

    def _probe(self, name: str) -> None:
        """Detect the order of axes, and refuse a model that does not support any image size."""
        training, self._channels_last = self.body.training, False
        size = (2 * _STRIDE, 3 * _STRIDE)
        self.body.eval()
        try:
            with torch.no_grad():
                shapes = [tuple(out.shape[1:]) for out in self.body(torch.zeros(1, 3, *size))]
        except (AssertionError, RuntimeError) as error:
            raise UserError(
                f"backbone: timm's {name!r} does not support an image of {size} pixels ({str(error)[:120]}); choose a "
                "model without a fixed image size, or set its option for that (img_size, strict_img_size=false, ...)"
            ) from error
        self.body.train(training)
        maps = [(size[0] // stride, size[1] // stride) for stride in self.strides]
        if shapes == [(height, width, c) for (height, width), c in zip(maps, self.channels, strict=True)]:
            self._channels_last = True
        elif shapes != [(c, height, width) for (height, width), c in zip(maps, self.channels, strict=True)]:
            raise UserError(
                f"backbone: timm's {name!r} outputs maps {shapes} for an image of {size}, not {maps}; "
                "choose a model with strides 4, 8, 16 and 32, for example resnet50"
            )

    def layer_ids(self) -> dict[str, int]:
        """See `Backbone`: one layer per stage, the first with the stem; empty if names do not identify the stages."""
        names = [name.removeprefix("body.").removeprefix("model.") for name, _ in self.named_parameters()]
        joined = [name.replace(".", "_") for name in names]
        ends = []
        for stage in self.body.feature_info.module_name():
            inside = [i for i, name in enumerate(joined) if name.startswith(stage.replace(".", "_") + "_")]
            if not inside:
                return {}
            ends.append(inside[-1])
        # Parameters are registered in order of execution; those after the last stage belong to it.
        return {
            name: min(sum(index > end for end in ends), len(ends) - 1)
            for index, (name, _) in enumerate(self.named_parameters())
        }

    def enable_activation_checkpointing(self) -> None:
        """See `Backbone`; implemented by timm, per block or per stage depending on the model."""
        part: Any
        for part in (self.body, getattr(self.body, "model", None)):
            if hasattr(part, "set_grad_checkpointing"):
                with contextlib.suppress(AssertionError):  # how timm reports that a model does not support it
                    part.set_grad_checkpointing(True)
                    self.activation_checkpointing = True
        super().enable_activation_checkpointing()

    def translate(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of any supported layout.

        timm's names are used as they are. Other layouts are matched by order, because they also list layers in order of
        execution: tensors are paired one by one, and all pairs must have equal numbers of elements.
        """
        own = self.body.state_dict()
        # timm joins the names of modules by underscores where `features_only` flattens a model.
        joined = {key.replace(".", "_"): value for key, value in weights.items()}
        if all(key.replace(".", "_") in joined for key in own):
            return {f"body.{key}": joined[key.replace(".", "_")] for key in own}
        ours = [key for key in own if not key.endswith("num_batches_tracked")]
        theirs = [key for key in weights if not key.endswith("num_batches_tracked")]
        paired = dict(zip(ours, theirs, strict=False))
        alike = all(own[a].numel() == weights[b].numel() for a, b in paired.items()) and len(paired) == len(ours)
        if not alike:
            return {f"body.{key}": value for key, value in weights.items()}
        counters = {f"body.{key}": value for key, value in own.items() if key.endswith("num_batches_tracked")}
        return {f"body.{a}": weights[b].reshape(own[a].shape) for a, b in paired.items()} | counters


def _check_name(name: str) -> None:
    """Raise a `UserError` with the nearest names if timm does not have a model or tag of this name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(f"backbone: timm has no model {name!r}; {nearest(architecture, timm.list_models())}")
    if tag and name not in timm.list_pretrained():
        known = timm.list_pretrained(f"{architecture}.*")
        raise UserError(f"backbone: timm has no weights {tag!r} of {architecture!r}; {nearest(name, known)}")


def _has_option(name: str, option: str) -> bool:
    chosen: dict[str, Any] = {option: False}
    try:
        with torch.device("meta"):
            timm.create_model(name, features_only=True, **chosen)
    except TypeError:
        return False
    return True


def _pyramid(name: str, options: Mapping[str, Any]) -> Any:
    """Build the model with the maps of strides 4, 8, 16, 32 as outputs."""
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(name, features_only=True, **options).feature_info
        reductions = info.reduction()
        indices = [max(i for i, r in enumerate(reductions) if r == stride) for stride in Backbone.strides]
    except (RuntimeError, AttributeError, ValueError) as error:
        raise UserError(
            f"backbone: timm's {name!r} has no feature pyramid of strides {Backbone.strides} ({str(error)[:120]}); "
            "choose a model with four stages, for example resnet50, convnext_tiny or tf_efficientnetv2_s"
        ) from error
    return timm.create_model(name, features_only=True, out_indices=indices, **options)


def _published(name: str, indices: list[int], options: Mapping[str, Any]) -> dict[str, Tensor]:
    with offline_if_unreachable():
        body = timm.create_model(name, pretrained=True, features_only=True, out_indices=indices, **options)
    return body.state_dict()
