"""Salient object detection: its weights, and its part in the network's output."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.saliency import U2NetP

TINY = ("model=maskvos_tiny", "backbone=tiny")


class Published(nn.Module):
    """What a published ONNX file holds besides `U2NetP`: finer levels of the decoder, and an output of each level."""

    def __init__(self, network: U2NetP) -> None:
        super().__init__()
        self.network = network
        self.finer = nn.Conv2d(64, 64, 3, padding=1)
        self.sides = nn.ModuleList(nn.Conv2d(64, 1, 3, padding=1) for _ in range(6))
        self.sides[2] = network.side
        self.fuse = nn.Conv2d(6, 1, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = self.network.side.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        side, self.network.side = self.network.side, nn.Identity()
        x = self.finer(self.network(rgb))
        self.network.side = side
        hook.remove()
        return self.fuse(torch.cat([layer(x) for layer in self.sides], 1))


def export(network: nn.Module, path: Path) -> Path:
    torch.onnx.export(network.eval(), (torch.rand(1, 3, 64, 64),), path, dynamo=False)
    return path


class TestU2NetP:
    def test_weights_come_from_the_published_onnx_file(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        source = U2NetP()
        loaded = U2NetP(export(Published(source), tmp_path / "u2netp.onnx"))
        images = torch.rand(1, 3, 64, 96)
        torch.testing.assert_close(source(images), loaded(images), atol=1e-5, rtol=1e-5)

    def test_weights_come_from_a_state_dict(self, tmp_path: Path) -> None:
        source = U2NetP()
        torch.save(source.state_dict(), tmp_path / "weights.pth")
        images = torch.rand(1, 3, 64, 96)
        assert torch.equal(source(images), U2NetP(tmp_path / "weights.pth")(images))

    def test_another_network_is_refused(self, tmp_path: Path) -> None:
        path = export(nn.Conv2d(3, 64, 3), tmp_path / "other.onnx")
        with pytest.raises(UserError, match=r"other\.onnx: its convolutions are not those of U2-Net-p; give u2netp"):
            U2NetP(path)

    @pytest.mark.parametrize("content", [None, b"no protobuf"])
    def test_an_unreadable_file_is_refused(self, content: bytes | None, tmp_path: Path) -> None:
        path = tmp_path / "u2netp.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.saliency\.pretrained=.*u2netp\.onnx: cannot be read"):
            U2NetP(path)

    def test_a_device_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "u2netp.onnx").symlink_to("/dev/zero")
        with pytest.raises(UserError, match="not a file"):
            U2NetP(tmp_path / "u2netp.onnx")

    def test_nothing_is_downloaded(self) -> None:
        with pytest.raises(UserError, match=r"pretrained=true.*not downloaded; give u2netp\.onnx"):
            U2NetP(True)

    @pytest.mark.parametrize("size", [(64, 64), (70, 99), (33, 128)])
    def test_logits_have_stride_four(self, size: tuple[int, int]) -> None:
        logits = U2NetP()(torch.rand(2, 3, *size))
        assert tuple(logits.shape) == (2, 1, *(math.ceil(side / 4) for side in size))

    def test_it_is_not_trained(self) -> None:
        assert not any(parameter.requires_grad for parameter in U2NetP().parameters())


class Constant(nn.Module):
    """A saliency network with one logit everywhere."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, rgb: Tensor) -> Tensor:
        return torch.full((len(rgb), 1, 8, 8), self.logit)


class TestInTheNetwork:
    @pytest.fixture
    def network(self, build: Callable[..., nn.Module]) -> Any:
        return build(*TINY).eval()

    @pytest.fixture
    def inputs(self) -> tuple[Tensor, Tensor]:
        return torch.rand(2, 3, 64, 96), torch.randn(2, 2, 64, 96)

    @torch.no_grad()
    def test_logits_are_averaged(self, network: Any, inputs: tuple[Tensor, Tensor]) -> None:
        alone = network.segment(*inputs)
        assert alone.abs().max() < 4
        network.saliency = Constant(2)
        torch.testing.assert_close(network.segment(*inputs), (alone + 2) / 2)

    @torch.no_grad()
    def test_neither_outvotes_the_other(self, network: Any, inputs: tuple[Tensor, Tensor]) -> None:
        alone = network.segment(*inputs)
        network.saliency = Constant(-1000)
        torch.testing.assert_close(network.segment(*inputs), (alone + math.log(0.01 / 0.99)) / 2)

    def test_training_does_without(self, network: Any, inputs: tuple[Tensor, Tensor]) -> None:
        network.train()
        torch.manual_seed(0)
        alone, _ = network.segment(*inputs, aux=True)
        network.saliency = Constant(1000)
        torch.manual_seed(0)
        torch.testing.assert_close(network.segment(*inputs, aux=True)[0], alone)

    @torch.no_grad()
    def test_folding_keeps_it(self, build: Callable[..., nn.Module], inputs: tuple[Tensor, Tensor]) -> None:
        network: Any = build(*TINY, "model/saliency=u2netp").eval()
        torch.testing.assert_close(network.fold().segment(*inputs), network.segment(*inputs), atol=1e-4, rtol=1e-4)

    def test_the_original_initialisation_leaves_it(self, build: Callable[..., nn.Module]) -> None:
        network: Any = build(*TINY, "model/saliency=u2netp", "model.init=original")
        assert network.saliency.side.weight.std() > 0.02
        assert network.head.predict.weight.std() < 0.02
