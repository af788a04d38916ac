"""The LightningModule around a network that is small enough to reason about."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskvos.metrics.protocol import Protocol
from maskvos.models.backbones.tiny import Tiny
from maskvos.training.losses import BCE, Dice, WeightedSum
from maskvos.training.module import SegmentationSystem, probabilities
from maskvos.training.options import Training
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


def system(**kwargs: Any) -> SegmentationSystem:
    torch.manual_seed(0)
    return SegmentationSystem(OneConv(), BCE(), Protocol("all_frames"), **kwargs)


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


def test_probabilities_come_at_each_frame_s_own_size() -> None:
    logits = torch.full((2, 1, 4, 4), -3.0)
    logits[1] = 3.0
    small, large = probabilities(logits, [(5, 7), (480, 854)])
    assert small.shape == (5, 7)
    assert large.shape == (480, 854)
    assert small.dtype == np.float32
    assert small == pytest.approx(1 / (1 + np.exp(3.0)))
    assert large == pytest.approx(1 / (1 + np.exp(-3.0)))


def test_predict_step_is_independent_of_the_batch() -> None:
    module, both = system(), batch(2)
    one = [{k: v[i : i + 1] for k, v in both.items()} for i in range(2)]
    together = module.predict_step(both, 0)
    for index, single in enumerate(one):
        assert module.predict_step(single, 0)[0] == pytest.approx(together[index], abs=1e-6)


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


def test_rates_of_groups_are_factors_on_the_optimiser_s() -> None:
    module = system(
        optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01),
        schedule=poly,
        options=Training(backbone_factor=0.1),
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


def test_a_mirrored_frame_gives_the_mirrored_answer_where_both_are_averaged() -> None:
    seen: Any = {**batch(), "size": [(24, 40)] * 2}
    mirrored = {**seen, "rgb": seen["rgb"].flip(-1), "flow": seen["flow"].flip(-1)}
    mirrored["flow"][:, 0] *= -1
    both, alone = system(mirror=True).eval(), system().eval()
    here, there = (np.stack(both.predict_step(given, 0)) for given in (seen, mirrored))
    np.testing.assert_allclose(there[..., ::-1], here, atol=1e-6)
    assert np.abs(np.stack(alone.predict_step(seen, 0)) - here).max() > 1e-3


@pytest.mark.parametrize("mirror", [False, True])
def test_a_second_look_is_averaged_with_the_first(mirror: bool) -> None:
    seen = batch()
    other: Any = {**seen, "flow": 2 * seen["flow"] + 1}
    module = system(mirror=mirror).eval()

    def predict(sample: Any) -> np.ndarray:
        return np.stack(module.predict_step({**sample, "size": [(16, 16)] * 2}, 0))

    here, there = predict({**seen, "second_flow": other["flow"]}), predict({**other, "second_flow": seen["flow"]})
    if not mirror:
        average = (module(seen) + module(other)) / 2
        np.testing.assert_allclose(here, average.sigmoid()[:, 0].detach(), atol=1e-6)
        np.testing.assert_allclose(here, there, atol=1e-6)
    same = predict({**seen, "second_flow": seen["flow"]})
    np.testing.assert_allclose(same, predict(seen), atol=1e-6)
    assert np.abs(here - same).max() > 1e-3
