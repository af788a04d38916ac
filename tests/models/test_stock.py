"""The benchmark baseline (stock PyTorch operations) is equivalent, and has the published multiply-adds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskvos.benchmark.memory import peak_memory
from maskvos.weights.original import from_original, original_network


@pytest.fixture(scope="module")
def stock() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "stock.py"
    spec = importlib.util.spec_from_file_location("stock", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [pytest.param((128, 128), marks=pytest.mark.slow), (100, 131)])
def test_stock_network_is_equivalent(
    stock: ModuleType, original_state: dict[str, Tensor], size: tuple[int, int]
) -> None:
    network = from_original(original_state)
    generator = torch.Generator().manual_seed(0)
    rgb, flow_rgb = (torch.randn(1, 3, *size, generator=generator) for _ in range(2))
    with torch.no_grad():
        torch.testing.assert_close(
            network(rgb, flow_rgb), stock.Stock(network).eval()(rgb, flow_rgb), atol=1e-3, rtol=0
        )


def multiply_adds(network: torch.nn.Module) -> float:
    """Multiply-adds (1e9) of all matrix products and convolutions for one pair of 512x512 images."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*torch.zeros(2, 1, 3, 512, 512, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.slow
def test_multiply_adds(stock: ModuleType) -> None:
    """The original has 105.05e9; counters differ in operations other than products and convolutions."""
    network = original_network().eval().requires_grad_(False).to("meta")
    baseline = multiply_adds(stock.Stock(network).eval())
    assert baseline == pytest.approx(105.05, rel=0.005)
    assert multiply_adds(network) < 0.97 * baseline


@pytest.mark.slow
def test_less_memory_than_stock(stock: ModuleType) -> None:
    network = original_network().eval().requires_grad_(False)
    baseline = stock.Stock(network).eval()
    images = torch.zeros(2, 1, 3, 256, 256)

    @torch.inference_mode()
    def peak(arrangement: torch.nn.Module) -> float:
        return peak_memory(lambda: arrangement(*images), torch.device("cpu"))

    assert peak(network) < 0.8 * peak(baseline)
