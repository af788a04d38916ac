"""Training options: equal results with memory and speed options, frozen norms, overfitting one batch, validation."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import DictConfig
from timm.layers import DropPath
from torch import nn

from maskvos.build import build
from maskvos.errors import UserError
from maskvos.metrics.functional import jaccard
from maskvos.metrics.protocol import Protocol
from maskvos.models.backbones.base import Backbone
from maskvos.models.backbones.mit import MixTransformer
from maskvos.models.backbones.swin import Swin
from maskvos.models.backbones.timm import TimmBackbone
from maskvos.models.backbones.tiny import Tiny
from maskvos.run import compose
from maskvos.synthetic.clips import generate_clip
from maskvos.synthetic.style import Style
from maskvos.training.losses import BCE, Dice, WeightedSum
from maskvos.training.module import SegmentationModule
from maskvos.training.options import TrainingOptions, batch_norms
from maskvos.types import Batch


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(2, 3, 64, 96, generator=generator)
    flow = torch.randn(2, 2, 64, 96, generator=generator)
    return {"rgb": rgb, "flow": flow, "mask": (rgb[:, :1] > 0.5).float(), "video": ["a", "a"], "frame": ["0", "1"]}


@cache
def config() -> DictConfig:
    return compose(["backbone=tiny", "model=maskvos_tiny"]).model


def system(backbone: Any = Tiny, **options: Any) -> SegmentationModule:
    torch.manual_seed(0)
    network = build(config(), rgb_encoder=backbone(), flow_encoder=backbone())
    made = SegmentationModule(network, BCE(), Protocol("all_frames"), options=TrainingOptions(**options))
    made.log = lambda *args, **kwargs: None
    return made


class Step(NamedTuple):
    """Results of one training step."""

    loss: float
    gradients: dict[str, torch.Tensor]
    statistics: dict[str, torch.Tensor]
    saved: int  # bytes saved for the backward pass, without parameters


def step(module: SegmentationModule) -> Step:
    """One training step, with hooks in the order of Lightning."""
    torch.manual_seed(3)
    saved: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = module.training_step(batch(), 0)
    for parameter in module.parameters():
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    module.on_before_backward(loss)
    loss.backward()
    module.on_after_backward()
    gradients = {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}
    # Recomputation increments num_batches_tracked twice; it is not used.
    statistics = {name: b for name, b in module.network.named_buffers() if not name.endswith("num_batches_tracked")}
    return Step(loss.item(), gradients, statistics, sum(saved.values()))


def assert_same(one: Step, other: Step, tolerance: float = 1e-5) -> None:
    assert other.loss == pytest.approx(one.loss, rel=tolerance)
    assert one.gradients.keys() == other.gradients.keys()
    largest = max(gradient.abs().max().item() for gradient in one.gradients.values())
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(other.gradients[name], gradient, rtol=1e-3, atol=tolerance * largest, msg=name)
    for name, value in one.statistics.items():
        torch.testing.assert_close(other.statistics[name], value, rtol=1e-4, atol=1e-6, msg=name)


BACKBONES = {
    "tiny": Tiny,
    "swin": partial(Swin, channels=12, depths=(1, 2, 1, 1), heads=(1, 1, 1, 1), drop_path=0.3),
    "mit": partial(MixTransformer, "b0", drop_path=0.3),
    "resnet": partial(TimmBackbone, "resnet18"),
    "convnext": partial(TimmBackbone, "convnext_atto"),
    "efficientnet": partial(TimmBackbone, "mobilenetv2_035"),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_activation_checkpointing_saves_memory_and_gives_the_same_step(name: str) -> None:
    plain = step(system(BACKBONES[name]))
    checkpointed = step(system(BACKBONES[name], activation_checkpointing=True))
    assert_same(plain, checkpointed)
    assert checkpointed.saved < 0.8 * plain.saved


class Plain(Backbone):
    """A custom backbone without support for activation checkpointing."""

    channels = (8, 8, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, stride, stride) for stride in self.strides)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [conv(x) for conv in self.convs]


def test_a_backbone_without_activation_checkpointing_is_refused() -> None:
    with pytest.raises(UserError, match="Plain does not support activation checkpointing"):
        system(Plain, activation_checkpointing=True)


def test_channels_last_gives_the_same_step() -> None:
    plain, last = system(), system(channels_last=True)
    weights = [p for p in last.network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert_same(step(plain), step(last))


@pytest.mark.parametrize(("which", "level"), [("none", 0), ("encoders", 1), ("all", 2)])
def test_frozen_norms_keep_weights_and_statistics(which: str, level: int) -> None:
    module = system(freeze_norms=which)
    encoders = {
        id(norm) for part in (module.network.rgb_encoder, module.network.flow_encoder) for norm in batch_norms(part)
    }
    before = {name: buffer.clone() for name, buffer in module.network.named_buffers()}
    module.eval()
    module.train()
    _, gradients, after, _ = step(module)
    for name, part in module.network.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            frozen = level == 2 or (level == 1 and id(part) in encoders)
            assert torch.equal(before[f"{name}.running_mean"], after[f"{name}.running_mean"]) == frozen
            assert (f"{name}.weight" in gradients) != frozen
            assert part.training != frozen
    assert encoders


@pytest.mark.parametrize("count", [0, 2])
def test_frozen_layers_of_the_appearance_encoder_are_not_trained(count: int) -> None:
    module = system(freeze_layers=count)
    module.eval()
    module.train()
    before = {name: buffer.clone() for name, buffer in module.network.named_buffers()}
    _, gradients, after, _ = step(module)
    for stream in ("rgb_encoder", "flow_encoder"):
        for stage in range(4):
            # The stem is layer 0, and each of the four stages has one block.
            frozen = stream == "rgb_encoder" and stage + 1 < count
            block = f"{stream}.stages.{stage}.0."
            assert (f"{block}conv1.weight" in gradients) != frozen
            assert (f"{block}norm1.weight" in gradients) != frozen
            mean = f"{block}norm1.running_mean"
            assert torch.equal(before[mean], after[mean]) == frozen


def test_freezing_layers_needs_a_backbone_that_numbers_them() -> None:
    with pytest.raises(UserError, match=r"train\.freeze_layers=1: Plain does not number its layers"):
        system(Plain, freeze_layers=1)


def test_layer_norms_are_never_frozen() -> None:
    module = system(BACKBONES["swin"], freeze_norms="all")
    norms = [part for part in module.network.rgb_encoder.modules() if isinstance(part, nn.LayerNorm)]
    assert all(p.requires_grad for norm in norms for p in norm.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_parts_give_the_same_step_and_names(checkpointing: bool) -> None:
    plain = system(activation_checkpointing=checkpointing)
    compiled = system(compile="default", activation_checkpointing=checkpointing)
    compiled.on_fit_start()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert_same(step(plain), step(compiled), tolerance=1e-4)


def scene() -> Batch:
    """Two frames of simple procedural clips with one large object."""
    never = dict.fromkeys(("leave", "stop", "occluders", "camouflage", "motion_blur", "soft", "deform"), 0.0)
    style = Style(objects=1, distractors=0, area=(0.15, 0.35), **never)
    clips = [generate_clip(seed, frames=2, size=(96, 96), style=style) for seed in range(2)]
    return {
        "rgb": torch.stack([torch.from_numpy(clip.rgb[0]).permute(2, 0, 1) / 255 for clip in clips]),
        "flow": torch.stack([torch.from_numpy(clip.flow[0]).permute(2, 0, 1) for clip in clips]),
        "mask": torch.stack([torch.from_numpy(clip.mask[0])[None].float() for clip in clips]),
        "video": ["a", "b"],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate", "steps"), [("tiny", 1e-2, 80), ("resnet", 2e-3, 200), ("swin", 2e-3, 200)])
def test_overfits_one_batch(name: str, rate: float, steps: int) -> None:
    module, batch = system(BACKBONES[name]), scene()
    for part in module.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0
    module.loss = WeightedSum({"bce": BCE(), "dice": Dice()})
    optimizer = torch.optim.AdamW(module.parameters(), rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3 * steps // 4])
    for _ in range(steps):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        predicted = module.eval()(batch).numpy() > 0
    scores = [jaccard(*pair) for pair in zip(predicted[:, 0], batch["mask"][:, 0].numpy() > 0, strict=True)]
    assert min(scores) > 0.95, scores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone_factor": -0.1}, "backbone_factor=-0.1"),
        ({"layer_decay": 0.0}, "above 0"),
        ({"layer_decay": 1.1}, "at most 1"),
        ({"freeze_layers": -1}, "of at least 0"),
        ({"freeze_norms": "encoder"}, "'encoders'"),
        ({"ema": 1.0}, "below 1"),
        ({"compile": "defualt"}, "'default'"),
        ({"compile": True}, r"train\.compile=true: .*choose one of: default"),
    ],
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingOptions(**options)
