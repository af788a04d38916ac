"""Any pyramid of the timm library as a backbone."""

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
from maskvos.models.backbones.hub import quick_hub
from maskvos.models.layers import crop

_STRIDE = 32


class TimmBackbone(Backbone):
    """A timm network with ``features_only``, at any image size.

    Images are continued by their border to a multiple of 32 and the maps cropped back, so that networks that drop odd
    rows or demand whole windows work at every size.

    Args:
        name: timm's name, with or without a weights tag.
        pretrained: True, false or a weights file (timm's, torchvision's, or EfficientNetV2 as others publish it).
        **options: Handed to ``timm.create_model``, for instance ``drop_path_rate`` or ``img_size``.

    Raises:
        UserError: timm does not know the name, or the network gives no pyramid of strides 4, 8, 16, 32.
    """

    def __init__(self, name: str, pretrained: bool | str | Path = False, **options: Any) -> None:
        super().__init__()
        _check_name(name)
        self.open_size = not _has_option(name, "strict_img_size")  # of windowed networks
        self.body: Any
        try:
            self._build(name, options)
        except UserError:
            # Windowed networks are tied to one size unless told otherwise; others do not know this option.
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
        # Without a branch on the size, so that a traced network is open to every size.
        x = F.pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
        outputs = self.body(x)
        if self._channels_last:
            outputs = [out.permute(0, 3, 1, 2) for out in outputs]
        # Rounded up without negative numbers, which ONNX divides towards zero.
        return [
            crop(out, ((height + stride - 1) // stride, (width + stride - 1) // stride))
            for out, stride in zip(outputs, self.strides, strict=True)
        ]

    def _probe(self, name: str) -> None:
        """Learn the order of axes, and refuse a network that cannot work at any size."""
        training, self._channels_last = self.body.training, False
        size = (2 * _STRIDE, 3 * _STRIDE)
        self.body.eval()
        try:
            with torch.no_grad():
                shapes = [tuple(out.shape[1:]) for out in self.body(torch.zeros(1, 3, *size))]
        except (AssertionError, RuntimeError) as error:
            raise UserError(
                f"backbone: timm's {name!r} does not take an image of {size} pixels ({str(error)[:120]}); choose a "
                "network without a fixed size, or give the option that frees it (img_size, strict_img_size=false, ...)"
            ) from error
        self.body.train(training)
        maps = [(size[0] // stride, size[1] // stride) for stride in self.strides]
        if shapes == [(height, width, c) for (height, width), c in zip(maps, self.channels, strict=True)]:
            self._channels_last = True
        elif shapes != [(c, height, width) for (height, width), c in zip(maps, self.channels, strict=True)]:
            raise UserError(f"backbone: timm's {name!r} gives maps {shapes} for an image of {size}; expected {maps}")

    def depths(self) -> dict[str, int]:
        """See `Backbone`: by stage, the stem with the first; empty where timm's names do not tell the stages apart."""
        names = [name.removeprefix("body.").removeprefix("model.") for name, _ in self.named_parameters()]
        joined = [name.replace(".", "_") for name in names]
        ends = []
        for stage in self.body.feature_info.module_name():
            inside = [i for i, name in enumerate(joined) if name.startswith(stage.replace(".", "_") + "_")]
            if not inside:
                return {}
            ends.append(inside[-1])
        # Parameters are registered in the order in which they run; what follows the last stage goes with it.
        return {
            name: min(sum(index > end for end in ends), len(ends) - 1)
            for index, (name, _) in enumerate(self.named_parameters())
        }

    def checkpoint_activations(self) -> None:
        """See `Backbone`; done by timm, block by block or stage by stage as it is there."""
        part: Any
        for part in (self.body, getattr(self.body, "model", None)):
            if hasattr(part, "set_grad_checkpointing"):
                with contextlib.suppress(AssertionError):  # timm's way to say that this network cannot
                    part.set_grad_checkpointing(True)
                    self.checkpointing = True
        super().checkpoint_activations()

    def translate(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring weights of any known layout under this module's names.

        timm's own names are taken as they are. Others are matched by order: a published layout lists its layers in the
        order in which they run, so tensors are paired one by one, and every pair must have one shape.
        """
        own = self.body.state_dict()
        # timm joins the names of modules that it lifts out of a network by underscores.
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
    """Raise a `UserError` with the nearest names unless timm knows this one."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(f"backbone: timm has no network {name!r}; {nearest(architecture, timm.list_models())}")
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
    """Build the network with exactly the maps of strides 4, 8, 16, 32."""
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(name, features_only=True, **options).feature_info
        reductions = info.reduction()
        indices = [max(i for i, r in enumerate(reductions) if r == stride) for stride in Backbone.strides]
    except (RuntimeError, AttributeError, ValueError) as error:
        raise UserError(
            f"backbone: timm's {name!r} gives no pyramid of strides {Backbone.strides} ({str(error)[:120]}); "
            "choose a network with four stages, for instance resnet50, convnext_tiny or tf_efficientnetv2_s"
        ) from error
    return timm.create_model(name, features_only=True, out_indices=indices, **options)


def _published(name: str, indices: list[int], options: Mapping[str, Any]) -> dict[str, Tensor]:
    with quick_hub():
        body = timm.create_model(name, pretrained=True, features_only=True, out_indices=indices, **options)
    return body.state_dict()
