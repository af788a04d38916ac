"""What a training may change in a network: equal results where only speed or memory changes, still norms, bounds."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import DictConfig
from timm.layers import DropPath
from torch import nn

from maskvos.errors import UserError
from maskvos.metrics.functional import jaccard
from maskvos.metrics.protocol import Protocol
from maskvos.models.backbones.base import Backbone
from maskvos.models.backbones.mit import MixTransformer
from maskvos.models.backbones.swin import Swin
from maskvos.models.backbones.timm import TimmBackbone
from maskvos.models.backbones.tiny import Tiny
from maskvos.run import build, compose
from maskvos.synthetic.clips import Style, generate_clip
from maskvos.training.losses import BCE, Dice, WeightedSum
from maskvos.training.module import SegmentationSystem
from maskvos.training.options import Training, batch_norms
from maskvos.types import Batch


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(2, 3, 64, 96, generator=generator)
    flow = torch.randn(2, 2, 64, 96, generator=generator)
    return {"rgb": rgb, "flow": flow, "mask": (rgb[:, :1] > 0.5).float(), "video": ["a", "a"], "frame": ["0", "1"]}


@cache
def config() -> DictConfig:
    cfg = compose(["backbone=tiny", "model=maskvos_tiny"]).model
    cfg.rgb_encoder = cfg.flow_encoder = None
    return cfg


def system(backbone: Any = Tiny, **options: Any) -> SegmentationSystem:
    torch.manual_seed(0)
    network = build(config(), rgb_encoder=backbone(), flow_encoder=backbone())
    made = SegmentationSystem(network, BCE(), Protocol("all_frames"), options=Training(**options))
    made.log = lambda *args, **kwargs: None
    return made


class Step(NamedTuple):
    """What one training step leaves behind."""

    loss: float
    gradients: dict[str, torch.Tensor]
    statistics: dict[str, torch.Tensor]
    kept: int  # bytes that the forward pass keeps for the backward pass, parameters left out


def step(module: SegmentationSystem) -> Step:
    """One training step, in the order of Lightning's hooks."""
    torch.manual_seed(3)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module.training_step(batch(), 0)
    for parameter in module.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    module.on_before_backward(loss)
    loss.backward()
    module.on_after_backward()
    gradients = {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}
    # Nothing reads how many batches a norm has seen, and one that is computed again counts them twice.
    statistics = {name: b for name, b in module.network.named_buffers() if not name.endswith("num_batches_tracked")}
    return Step(loss.item(), gradients, statistics, sum(kept.values()))


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
def test_computing_activations_again_keeps_less_and_changes_nothing(name: str) -> None:
    plain, again = step(system(BACKBONES[name])), step(system(BACKBONES[name], checkpointing=True))
    assert_same(plain, again)
    assert again.kept < 0.8 * plain.kept


class Plain(Backbone):
    """A backbone of somebody else's that does not know how."""

    channels = (8, 8, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, stride, stride) for stride in self.strides)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [conv(x) for conv in self.convs]


def test_a_backbone_that_cannot_compute_again_says_so() -> None:
    with pytest.raises(UserError, match="Plain does not know"):
        system(Plain, checkpointing=True)


def test_channels_last_moves_the_weights_and_not_the_result() -> None:
    plain, last = system(), system(channels_last=True)
    weights = [p for p in last.network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert_same(step(plain), step(last))


@pytest.mark.parametrize(("which", "still"), [("none", 0), ("encoders", 1), ("all", 2)])
def test_frozen_norms_neither_learn_nor_count(which: str, still: int) -> None:
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
            frozen = still == 2 or (still == 1 and id(part) in encoders)
            assert torch.equal(before[f"{name}.running_mean"], after[f"{name}.running_mean"]) == frozen
            assert (f"{name}.weight" in gradients) != frozen
            assert part.training != frozen
    assert encoders


def test_layer_norms_are_trained_all_the_same() -> None:
    module = system(BACKBONES["swin"], freeze_norms="all")
    norms = [part for part in module.network.rgb_encoder.modules() if isinstance(part, nn.LayerNorm)]
    assert all(p.requires_grad for norm in norms for p in norm.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_parts_give_the_same_step_and_names(checkpointing: bool) -> None:
    plain = system(checkpointing=checkpointing)
    compiled = system(compile="default", checkpointing=checkpointing)
    compiled.on_fit_start()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert_same(step(plain), step(compiled), tolerance=1e-4)


def scene() -> Batch:
    """Two frames of plain procedural clips with one large object."""
    never = dict.fromkeys(("leave", "stop", "occluders", "camouflage", "motion_blur", "soft", "deform"), 0.0)
    style = Style(objects=1, distractors=0, area=(0.15, 0.35), **never)
    clips = [generate_clip(seed, frames=2, size=(96, 96), style=style) for seed in range(2)]
    return {
        "rgb": torch.stack([torch.from_numpy(clip.rgb[0]).permute(2, 0, 1) / 255 for clip in clips]),
        "flow": torch.stack([torch.from_numpy(clip.flow[0]).permute(2, 0, 1) for clip in clips]),
        "mask": torch.stack([torch.from_numpy(clip.mask[0])[None].float() for clip in clips]),
        "video": ["a", "b"],
    }


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    ("name", "rate", "steps"),
    [("tiny", 1e-2, 80), pytest.param("resnet", 2e-3, 200, **SLOW), pytest.param("swin", 2e-3, 200, **SLOW)],
)
def test_one_batch_is_learnt_by_heart(name: str, rate: float, steps: int) -> None:
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
    ("options", "says"),
    [
        ({"backbone_factor": -0.1}, "backbone_factor: -0.1"),
        ({"layer_decay": 0.0}, "above 0"),
        ({"layer_decay": 1.1}, "at most 1"),
        ({"freeze_norms": "encoder"}, "'encoders'"),
        ({"ema": 1.0}, "0.999"),
        ({"compile": "defualt"}, "'default'"),
        ({"compile": True}, "'default'|default"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Training(**options)
