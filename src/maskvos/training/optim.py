"""Parameter groups of the optimiser: learning rates by layer, weight decay, and a table of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.optim import Optimizer

from maskvos.models.backbones.base import Backbone
from maskvos.text import table


def parameter_groups(module: nn.Module, backbone_factor: float = 1.0, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay.

    As in the recipes of Swin and Mask2Former, norms, biases, position bias tables, and query and level embeddings have
    no weight decay.

    Args:
        module: The network.
        backbone_factor: Learning rate of the encoders relative to the rest.
        layer_decay: Layer-wise learning-rate decay (Clark et al., ELECTRA, ICLR 2020): factor per layer of an encoder,
            counted from the decoder, so that the last layer gets it once. A backbone without `Backbone.layer_ids` gets
            ``backbone_factor`` only.

    Returns:
        Parameter groups with ``name``, ``params`` and ``lr_scale``, and ``weight_decay`` 0 where the name ends in
        ``no_decay``. Names are ``decay`` and ``no_decay``; with different learning rates ``decoder/decay``,
        ``encoders/decay`` or ``encoders.03/decay`` (third layer from the decoder), and so on.
    """
    distances = _distances(module)
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix, scale = "", 1.0
        if backbone_factor != 1 or layer_decay != 1:
            prefix = "decoder/"
            if id(parameter) in distances:
                distance = distances[id(parameter)] if layer_decay != 1 else 0
                prefix = f"encoders.{distance:02d}/" if distance else "encoders/"
                scale = backbone_factor * layer_decay**distance
        no_decay = parameter.ndim <= 1 or "relative_position" in name or "embed" in name.rsplit(".", 1)[-1]
        kind = "no_decay" if no_decay or id(parameter) in embeddings else "decay"
        group = groups.setdefault(prefix + kind, {"params": [], "name": prefix + kind, "lr_scale": scale})
        if kind == "no_decay":
            group["weight_decay"] = 0.0
        group["params"].append(parameter)
    return [groups[name] for name in sorted(groups)]


def _distances(module: nn.Module) -> dict[int, int]:
    """Layers from the decoder of each encoder parameter (by id): 1 for the last layer, 0 if unknown."""
    distances = {}
    for backbone in (part for part in module.modules() if isinstance(part, Backbone)):
        layers = backbone.layer_ids()
        count = 1 + max(layers.values(), default=0)
        for name, parameter in backbone.named_parameters():
            distances[id(parameter)] = count - layers[name] if layers else 0
    return distances


def group_table(optimizer: Optimizer, module: nn.Module) -> str:
    """Table of the parameter groups: peak learning rate, weight decay, numbers of tensors and parameters."""
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
    return table(rows, rules=(1, 1 + len(optimizer.param_groups)))
