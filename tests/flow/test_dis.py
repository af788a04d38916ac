"""The DIS flow estimator."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from maskvos.errors import UserError
from maskvos.flow.base import pair_flow
from maskvos.flow.dis import DIS, PRESETS


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shift", [(3, 0), (0, -4), (5, 2)])
def test_known_translation_is_recovered(texture: np.ndarray, preset: str, shift: tuple[int, int]) -> None:
    flow = pair_flow(texture, np.roll(texture, shift, (1, 0)), DIS(preset))[24:-24, 24:-24]
    assert np.linalg.norm(flow - np.array(shift, np.float32), axis=-1).mean() < 0.3


def test_max_size_gives_the_same_motion(texture: np.ndarray) -> None:
    second = np.roll(texture, (6, 4), (1, 0))
    flow = pair_flow(texture, second, DIS(max_size=100))
    assert flow.shape == (*texture.shape[:2], 2)
    np.testing.assert_allclose(np.median(flow[24:-24, 24:-24], (0, 1)), (6, 4), atol=0.5)


def test_batch_equals_single_pairs(texture: np.ndarray) -> None:
    frames = [np.roll(texture, 2 * i, 1) for i in range(3)]
    dis = DIS("fast")
    together = dis(frames[:2], frames[1:])
    assert together.dtype == np.float32
    for i in range(2):
        np.testing.assert_array_equal(together[i : i + 1], dis([frames[i]], [frames[i + 1]]))


def test_threads_give_the_same_flow(texture: np.ndarray) -> None:
    pairs = [(np.roll(texture, 2 * i, 1), texture) for i in range(8)]
    dis = DIS("fast")
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda pair: pair_flow(*pair, dis), pairs))
    for pair, flow in zip(pairs, together, strict=True):
        np.testing.assert_array_equal(flow, pair_flow(*pair, DIS("fast")))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (31, 33), (17, 240)])
def test_any_size_works(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    flow = pair_flow(frame, frame, DIS())
    assert flow.shape == (*size, 2)
    assert np.abs(flow).max() < 0.5


def test_settings_are_validated_and_change_the_fingerprint() -> None:
    with pytest.raises(UserError, match="did you mean 'medium'"):
        DIS("medum")
    with pytest.raises(UserError, match="max_size=8"):
        DIS(max_size=8)
    prints = {DIS(preset, size).fingerprint for preset in PRESETS for size in (None, 256)}
    assert len(prints) == 6
    assert DIS().fingerprint == DIS().fingerprint


NUMBERS = {"finest_scale": 0, "patch_stride": 6, "refinements": 12, "smoothness": 60.0}


def test_smoothness_reduces_noise_in_uniform_motion(texture: np.ndarray) -> None:
    """Noise on the second frame makes the flow of a translation rough; a larger smoothness weight removes it."""
    noise = np.random.default_rng(0).normal(0, 12, texture.shape)
    second = np.clip(np.roll(texture, 3, 1) + noise, 0, 255).astype(np.uint8)
    rough, smooth = (
        np.abs(np.diff(pair_flow(texture, second, DIS(smoothness=weight)), axis=1)).mean() for weight in (None, 80.0)
    )
    assert smooth < 0.8 * rough


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("finest_scale", [0, 2])
@pytest.mark.parametrize("patch_stride", [1, 8])
def test_any_size_works_at_the_limits_of_the_ranges(preset: str, finest_scale: int, patch_stride: int) -> None:
    dis = DIS(preset, finest_scale=finest_scale, patch_stride=patch_stride)
    for size in ((32, 32), (33, 500), (300, 20), (65, 64)):
        frame = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
        assert np.abs(pair_flow(frame, frame, dis)).max() < 0.5


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_changes_flow_and_fingerprint_and_is_validated(texture: np.ndarray, name: str) -> None:
    second = np.roll(texture, (2, 3), (0, 1))[:, ::-1].copy()
    changed = DIS(**{name: NUMBERS[name]})
    assert np.abs(pair_flow(texture, second, changed) - pair_flow(texture, second, DIS())).max() > 0
    assert changed.fingerprint != DIS().fingerprint
    for value in (-1, 10**7, "abc", float("nan")):
        with pytest.raises(UserError, match=f"flow.estimator.{name}={value}: must be a (whole )?number from .* to "):
            DIS(**{name: value})


@pytest.mark.parametrize("name", ["finest_scale", "patch_stride", "refinements"])
def test_counts_must_be_integers(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}=1.5: must be a whole number"):
        DIS(**{name: 1.5})
