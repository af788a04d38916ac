"""The LightningModule around a network that is small enough to reason about."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskvos.inference.tta import TTA
from maskvos.metrics.protocol import Protocol
from maskvos.models.backbones.tiny import Tiny
from maskvos.training.losses import BCE, Dice, WeightedSum
from maskvos.training.module import SegmentationModule
from maskvos.training.options import TrainingOptions
from maskvos.training.schedules import poly
from maskvos.types import Batch


class OneConv(nn.Module):
    """Logits from one convolution over rgb and flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 1, 3, padding=1)

    def segment(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None, aux: bool = False) -> Any:
        logits = self.conv(torch.cat([rgb, flow], 1))
        return (logits, [logits[..., ::2, ::2]]) if aux else logits


def system(**kwargs: Any) -> SegmentationModule:
    torch.manual_seed(0)
    return SegmentationModule(OneConv(), BCE(), Protocol("all_frames"), **kwargs)


def batch(size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {
        "rgb": torch.rand(size, 3, 16, 16, generator=generator),
        "flow": torch.randn(size, 2, 16, 16, generator=generator),
        "mask": (torch.rand(size, 1, 16, 16, generator=generator) > 0.5).float(),
        "video": ["a"] * size,
        "frame": [f"{i:05d}" for i in range(size)],
        "size": [(24 + i, 40) for i in range(size)],
    }


def test_auxiliary_weight_changes_the_loss_and_zero_does_not_compute_it() -> None:
    plain, with_aux = system(), system(aux_weight=0.5)
    for module in (plain, with_aux):
        module.log = lambda *args, **kwargs: None
    assert with_aux.training_step(batch(), 0) > plain.training_step(batch(), 0)


@pytest.mark.parametrize("aux_weight", [0.0, 0.5])
def test_parts_of_the_loss_are_logged_by_name(aux_weight: float) -> None:
    module = system(aux_weight=aux_weight)
    module.loss = WeightedSum({"bce": BCE(), "dice": Dice()}, {"dice": 0.25})
    logged: dict[str, float] = {}
    module.log = lambda name, value, **kwargs: logged.update({name: value.item()})
    total = module.training_step(batch(), 0).item()
    mask_loss = logged["train/loss_bce"] + 0.25 * logged["train/loss_dice"]
    if aux_weight:
        assert logged["train/loss_mask"] == pytest.approx(mask_loss)
        mask_loss += aux_weight * logged["train/loss_aux"]
    assert logged["train/loss"] == total == pytest.approx(mask_loss)
    assert ("train/loss_aux" in logged) == (aux_weight > 0)


def test_group_learning_rates_scale_the_optimisers() -> None:
    module = system(
        optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01),
        schedule=poly,
        options=TrainingOptions(backbone_factor=0.1),
    )
    module.network.encoder = Tiny()
    module.trainer = SimpleNamespace(estimated_stepping_batches=10)
    made = module.configure_optimizers()
    rates = {group["name"].partition("/")[0]: group["initial_lr"] for group in made["optimizer"].param_groups}
    assert rates == pytest.approx({"encoders": 0.01, "decoder": 0.1})


def test_optimizer_and_schedule_are_made_from_partials() -> None:
    module = system(optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01))
    optimizer = module.configure_optimizers()
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01, 0.0}


def test_checkpoint_carries_plain_containers(tmp_path) -> None:
    module = system(config={"name": "x", "optim": {"lr": 0.1}})
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["maskvos"]["config"]["optim"]["lr"] == 0.1


def test_evaluation_uses_test_time_augmentation_and_training_does_not() -> None:
    plain, mirrored = system().eval(), system(tta=TTA(mirror=True)).eval()
    given = {**batch(), "truth": [None] * 2}
    assert (plain.test_step(given, 0) - mirrored.test_step(given, 0)).abs().max() > 1e-3
    for module in (plain, mirrored):
        module.log = lambda *args, **kwargs: None
    assert plain.training_step(given, 0) == mirrored.training_step(given, 0)
