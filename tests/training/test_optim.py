"""Parameter groups: learning rates, layer-wise decay, weight decay, and their table; fused optimisers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maskvos.build import build
from maskvos.models.backbones.base import Backbone
from maskvos.models.backbones.mit import MixTransformer
from maskvos.models.backbones.swin import Swin
from maskvos.models.backbones.timm import TimmBackbone
from maskvos.models.backbones.tiny import Tiny
from maskvos.run import compose
from maskvos.training.optim import group_table, parameter_groups


class Pair(nn.Module):
    """An encoder and a decoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Linear(4, 2)


class WithoutLayers(Backbone):
    """A backbone without `layer_ids`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)


def scales(module: nn.Module, **factors: float) -> dict[str, float]:
    """Learning-rate factors by parameter name."""
    rates = {id(p): group["lr_scale"] for group in parameter_groups(module, **factors) for p in group["params"]}
    return {name: rates[id(p)] for name, p in module.named_parameters()}


def test_norms_biases_and_embeddings_have_no_weight_decay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.Embedding(5, 4))
    module[0].bias.requires_grad_(False)
    groups = {group["name"]: group for group in parameter_groups(module)}
    assert {id(p) for p in groups["decay"]["params"]} == {id(module[0].weight), id(module[2].weight)}
    no_decay = {id(p) for p in (module[1].weight, module[1].bias, module[2].bias, module[3].weight)}
    assert {id(p) for p in groups["no_decay"]["params"]} == no_decay
    assert groups["no_decay"]["weight_decay"] == 0


@pytest.fixture(scope="module")
def published() -> nn.Module:
    return build(compose(["+experiment=swin_t", "backbone.pretrained=false"]).model)


@pytest.mark.parametrize("factors", [{}, {"backbone_factor": 0.1}, {"layer_decay": 0.8}], ids=str)
def test_weight_decay_of_the_published_network(published: nn.Module, factors: dict[str, float]) -> None:
    network = published
    groups = parameter_groups(network, **factors)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in network.parameters())
    decayed = {id(p) for group in groups if "weight_decay" not in group for p in group["params"]}
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
    no_decay = {id(p) for part in network.modules() if isinstance(part, norms) for p in part.parameters()}
    no_decay |= {
        id(p) for name, p in network.named_parameters() if name.endswith("bias") or "relative_position" in name
    }
    assert not decayed & no_decay
    weights = {id(part.weight) for part in network.modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    assert weights <= decayed


def test_backbone_factor_applies_to_encoders_only() -> None:
    found = scales(Pair(Tiny()), backbone_factor=0.1)
    assert {scale for name, scale in found.items() if name.startswith("encoder")} == {0.1}
    assert {scale for name, scale in found.items() if name.startswith("decoder")} == {1.0}


BACKBONES = {
    "tiny": (lambda: Tiny(depths=(1, 2, 1, 1)), 6, ["stem", "stages.0.0", "stages.1.0", "stages.1.1", "stages.3.0"]),
    "swin": (
        lambda: Swin(channels=12, depths=(1, 2, 1, 1), heads=(1, 1, 1, 1)),
        6,
        ["patch_embed", "layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1", "layers.3.blocks.0"],
    ),
    "mit": (
        lambda: MixTransformer("b0"),
        9,
        ["stages.0.patch_embed", "stages.0.blocks.0", "stages.0.blocks.1", "stages.2.blocks.0", "stages.3.blocks.1"],
    ),
    "resnet": (lambda: TimmBackbone("resnet18"), 4, ["body.layer1", "body.layer2", "body.layer3", "body.layer4"]),
    "convnext": (lambda: TimmBackbone("convnext_atto"), 4, [f"body.stages_{i}" for i in range(4)]),
    "efficientnet": (lambda: TimmBackbone("mobilenetv2_035"), 4, ["body.conv_stem", "body.blocks.2", "body.blocks.5"]),
    "timm's swin": (lambda: TimmBackbone("swin_tiny_patch4_window7_224"), 4, [f"body.layers_{i}" for i in range(4)]),
    "regnet": (lambda: TimmBackbone("regnety_002"), 4, [f"body.s{i}" for i in (1, 2, 3, 4)]),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_layer_wise_learning_rate_decay(name: str) -> None:
    make, layers, order = BACKBONES[name]
    backbone = make()
    ids = backbone.layer_ids()
    assert ids.keys() == {name for name, _ in backbone.named_parameters()}
    assert set(ids.values()) == set(range(layers))
    by_prefix = [{layer for name, layer in ids.items() if name.startswith(prefix + ".")} for prefix in order]
    assert all(len(found) == 1 for found in by_prefix), by_prefix
    flat = [found.pop() for found in by_prefix]
    assert flat == sorted(set(flat))
    found = scales(Pair(backbone), layer_decay=0.5, backbone_factor=0.2)
    for key, layer in ids.items():
        assert found[f"encoder.{key}"] == pytest.approx(0.2 * 0.5 ** (layers - layer))
    assert found["decoder.weight"] == 1


def test_a_backbone_without_layers_gets_the_backbone_factor() -> None:
    found = scales(Pair(WithoutLayers()), layer_decay=0.5, backbone_factor=0.2)
    assert found["encoder.conv.weight"] == 0.2
    assert found["decoder.weight"] == 1


def test_streams_of_different_depth_count_layers_from_the_decoder() -> None:
    both = nn.ModuleDict({"rgb": Tiny(depths=(2, 2, 1, 1)), "flow": Tiny()})
    found = scales(both, layer_decay=0.5)
    assert found["rgb.stages.3.0.conv1.weight"] == found["flow.stages.3.0.conv1.weight"] == 0.5
    assert found["rgb.stem.0.weight"] < found["flow.stem.0.weight"]


def test_group_table() -> None:
    module = Pair(Tiny())
    module.encoder.stem.requires_grad_(False)
    groups = parameter_groups(module, backbone_factor=0.1)
    optimizer = torch.optim.AdamW(groups, lr=6e-5, weight_decay=0.01)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    rows = {line.split()[0]: line.split()[1:] for line in group_table(optimizer, module).splitlines()}
    assert rows["decoder/decay"] == ["6e-05", "0.01", "1", "8"]
    assert rows["decoder/no_decay"] == ["6e-05", "0", "1", "2"]
    assert rows["encoders/decay"][:2] == ["6e-06", "0.01"]
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert rows["trained"][1] == f"{trained:,}"
    assert rows["frozen"] == ["6", f"{sum(p.numel() for p in module.encoder.stem.parameters()):,}"]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_optimizers_give_the_same_steps(name: str) -> None:
    results = []
    for fused in ("null", "true"):
        module = nn.Linear(4, 3)
        nn.init.ones_(module.weight)
        optimizer = build(compose([f"optim={name}", "optim.lr=0.1", f"optim.fused={fused}"]).optim)([module.weight])
        for _ in range(3):
            optimizer.zero_grad()
            (module.weight * torch.arange(12.0).view(3, 4)).sin().sum().backward()
            optimizer.step()
        results.append(module.weight.detach())
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0], torch.ones(3, 4))
