"""Test-time augmentation and resizing of logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.inference.postprocess import probabilities, resize_logits
from maskvos.inference.tta import TTA
from maskvos.types import Batch


@pytest.fixture
def segment() -> Any:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 1, 3, padding=1)

    @torch.no_grad()
    def segment(rgb: Tensor, flow: Tensor, motion: Tensor | None) -> Tensor:
        assert motion is not None
        return conv(torch.cat([rgb, flow], 1))

    return segment


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {
        "rgb": torch.rand(2, 3, 16, 16, generator=generator),
        "flow": torch.randn(2, 2, 16, 16, generator=generator),
        "motion": torch.ones(2, dtype=torch.bool),
    }


def test_without_it_the_network_runs_once(segment: Any) -> None:
    given = batch()
    assert torch.equal(TTA()(segment, given), segment(given["rgb"], given["flow"], given["motion"]))


def test_mirroring_makes_the_result_equivariant(segment: Any) -> None:
    given = batch()
    mirrored: Any = {**given, "rgb": given["rgb"].flip(-1), "flow": given["flow"].flip(-1)}
    mirrored["flow"][:, 0] *= -1
    tta = TTA(mirror=True)
    torch.testing.assert_close(tta(segment, mirrored).flip(-1), tta(segment, given))
    assert (TTA()(segment, given) - tta(segment, given)).abs().max() > 1e-3


def test_arrays_and_tensors_give_the_same(segment: Any) -> None:
    given: Any = {**batch(), "tta_flow": torch.ones(2, 2, 16, 16)}

    def on_arrays(*inputs: np.ndarray) -> np.ndarray:
        return segment(*map(torch.from_numpy, inputs)).numpy()

    arrays = {name: value.numpy().copy() for name, value in given.items()}
    before = {name: value.copy() for name, value in arrays.items()}
    tta = TTA(True, {"direction": "backward"})
    np.testing.assert_allclose(tta(on_arrays, arrays), tta(segment, given).numpy(), atol=1e-6)
    for name, value in before.items():
        np.testing.assert_array_equal(arrays[name], value)


def test_resizing_logits_equals_pytorch_s() -> None:
    logits = np.random.default_rng(0).standard_normal((16, 24), np.float32)
    for size in ((48, 80), (33, 47), (10, 12)):
        theirs = F.interpolate(torch.from_numpy(logits)[None, None], size, mode="bilinear", align_corners=False)
        np.testing.assert_allclose(resize_logits(logits, size), theirs[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("mirror", [False, True])
def test_the_second_pass_reads_the_second_flow(segment: Any, mirror: bool) -> None:
    given: Any = batch()
    other: Any = {**given, "flow": 2 * given["flow"] + 1}
    tta = TTA(mirror, {"direction": "backward"})
    here = tta(segment, {**given, "tta_flow": other["flow"]})
    if not mirror:
        torch.testing.assert_close(here, (TTA()(segment, given) + TTA()(segment, other)) / 2)
    same = tta(segment, {**given, "tta_flow": given["flow"]})
    torch.testing.assert_close(same, TTA(mirror)(segment, given))
    assert (here - same).abs().max() > 1e-3


def test_probabilities_have_each_frame_s_own_size() -> None:
    logits = np.full((2, 1, 4, 4), -3.0, np.float32)
    logits[1] = 3.0
    small, large = probabilities(logits, [(5, 7), (480, 854)])
    assert small.shape == (5, 7)
    assert large.shape == (480, 854)
    assert small.dtype == np.float32
    assert small == pytest.approx(1 / (1 + np.exp(3.0)))
    assert large == pytest.approx(1 / (1 + np.exp(-3.0)))
