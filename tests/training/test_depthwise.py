"""Depthwise convolutions in mixed precision on CPUs: the same results, for those that are slow."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from maskvos.models.backbones.timm import TimmBackbone
from maskvos.training.depthwise import Float32Depthwise, speed_up_depthwise
from maskvos.training.options import TrainingOptions


def conv(kernel: int, stride: int = 1, groups: int = 8) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=groups)


def gradients(module: nn.Module, autocast: bool) -> list[torch.Tensor]:
    """Output and gradients of a convolution of random numbers."""
    torch.manual_seed(1)
    x = torch.randn(2, 8, 14, 17, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = module(x)
    output.float().square().sum().backward()
    assert x.grad is not None
    return [output, x.grad, *(parameter.grad for parameter in module.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (5, 2), (3, 2), (7, 1)])
def test_outputs_and_gradients_are_those_of_a_convolution(kernel: int, stride: int) -> None:
    plain = conv(kernel, stride)
    fast = copy.deepcopy(plain)
    speed_up_depthwise(fast)
    assert type(fast) is Float32Depthwise
    torch.testing.assert_close(gradients(fast, False), gradients(plain, False), rtol=0, atol=0)
    plain.zero_grad()
    fast.zero_grad()
    output, *mixed = gradients(fast, True)
    assert output.dtype == torch.bfloat16
    expected, *exact = gradients(plain, False)
    torch.testing.assert_close(output.float(), expected, rtol=0.01, atol=0.01)
    for found, wanted in zip(mixed, exact, strict=True):
        assert found.dtype == wanted.dtype
        assert (found - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("module", [conv(3), conv(5, groups=1), conv(5, groups=4)])
def test_other_convolutions_are_left_as_they_are(module: nn.Conv2d) -> None:
    speed_up_depthwise(module)
    assert type(module) is nn.Conv2d


def test_without_gradients_the_precision_is_that_of_autocast() -> None:
    module = conv(5)
    speed_up_depthwise(module)
    x = torch.randn(1, 8, 9, 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(x), conv(5)(x), rtol=0, atol=0)


def test_encoders_are_trained_with_them() -> None:
    encoder = TimmBackbone("tf_efficientnet_lite0", pretrained=False, pad_type="")
    names = list(encoder.state_dict())
    TrainingOptions().prepare(encoder)
    assert sum(isinstance(part, Float32Depthwise) for part in encoder.modules()) == 11
    assert list(encoder.state_dict()) == names
