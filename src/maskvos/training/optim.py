"""Which parameters an optimiser trains, at what rate and with what decay."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.optim import Optimizer

from maskvos.models.backbones.base import Backbone


def parameter_groups(module: nn.Module, backbone_factor: float = 1.0, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Split the trainable parameters by learning rate and by whether weight decay applies to them.

    Decay pulls towards zero what scales a signal; norms, biases, position tables and query or level embeddings have
    no such meaning, so they are left alone (as in the Swin and Mask2Former recipes).

    Args:
        module: The network.
        backbone_factor: Learning rate of the encoders as a share of that of the rest.
        layer_decay: Factor on an encoder's rate for every layer between it and the decoder, itself counted (Clark et
            al., ELECTRA, ICLR 2020). An encoder that does not tell its layers gets ``backbone_factor`` alone.

    Returns:
        Groups for an optimiser, each with ``name``, ``params`` and ``lr_scale``; those whose name ends in ``no_decay``
        with ``weight_decay`` 0. Names are ``decay``, and where rates differ ``decoder/decay``, ``encoders/decay`` or
        ``encoders.03/decay`` (three layers from the decoder).
    """
    distances = _distances(module)
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        place, scale = "", 1.0
        if backbone_factor != 1 or layer_decay != 1:
            place = "decoder/"
            if id(parameter) in distances:
                distance = distances[id(parameter)] if layer_decay != 1 else 0
                place = f"encoders.{distance:02d}/" if distance else "encoders/"
                scale = backbone_factor * layer_decay**distance
        spared = parameter.ndim <= 1 or "relative_position" in name or "embed" in name.rsplit(".", 1)[-1]
        kind = "no_decay" if spared or id(parameter) in embeddings else "decay"
        group = groups.setdefault(place + kind, {"params": [], "name": place + kind, "lr_scale": scale})
        if kind == "no_decay":
            group["weight_decay"] = 0.0
        group["params"].append(parameter)
    return [groups[name] for name in sorted(groups)]


def _distances(module: nn.Module) -> dict[int, int]:
    """For each parameter (by id) of an encoder, its layers from the decoder: 1 for the last; 0 where it is unknown."""
    distances = {}
    for backbone in (part for part in module.modules() if isinstance(part, Backbone)):
        depths = backbone.depths()
        count = 1 + max(depths.values(), default=0)
        for name, parameter in backbone.named_parameters():
            distances[id(parameter)] = count - depths[name] if depths else 0
    return distances


def group_table(optimizer: Optimizer, module: nn.Module) -> str:
    """What an optimiser trains, one line per group: learning rate (at its peak), weight decay, tensors, parameters."""
    rows = [("group", "lr", "weight decay", "tensors", "parameters")]
    total: Counter[str] = Counter()
    for group in optimizer.param_groups:
        tensors, parameters = len(group["params"]), sum(p.numel() for p in group["params"])
        rate, decay = group.get("initial_lr", group["lr"]), group.get("weight_decay", 0.0)
        rows.append((group.get("name", "all"), f"{rate:.3g}", f"{decay:g}", str(tensors), f"{parameters:,}"))
        total.update(tensors=tensors, parameters=parameters)
    rows.append(("trained", "", "", str(total["tensors"]), f"{total['parameters']:,}"))
    frozen = [p for p in module.parameters() if not p.requires_grad]
    if frozen:
        rows.append(("frozen", "", "", str(len(frozen)), f"{sum(p.numel() for p in frozen):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(line) for line in lines)
