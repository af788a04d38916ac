"""Augmentation transforms frame, mask and flow vectors consistently."""

from __future__ import annotations

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.data.transforms import (
    FlowDropout,
    FlowNoise,
    HorizontalFlip,
    RandomResizedCrop,
    Rotate,
    TimeReversal,
    Transform,
    resize_flow,
    resize_mask,
    scaled,
)
from maskvos.errors import UserError
from maskvos.synthetic.clips import generate_clip
from maskvos.synthetic.style import Style

SIZE = (96, 128)


def texture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth colours, so that subpixel warping is accurate: (H, W, 3) uint8."""
    noise = np.random.default_rng(seed).standard_normal((*size, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 5)
    return np.uint8(np.clip(128 + 500 * smooth, 0, 255))


def clip(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame and the next one, (H, W, 3) uint8, and the exact flow between them, (H, W, 2) float32."""
    height, width = SIZE
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    if kind == "translation":
        matrix = np.array([[1, 0, 5.0], [0, 1, -3.0]])
    elif kind == "rotation":
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 4, 1)
    else:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, 1.06)
    first = texture(seed)
    second = cv2.warpAffine(first, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    target = np.einsum("ij,hwj->hwi", matrix, np.dstack([x, y, np.ones_like(x)]))
    return first, second, (target - np.dstack([x, y])).astype(np.float32)


def warp_error(first: np.ndarray, second: np.ndarray, flow: np.ndarray) -> float:
    """Mean absolute difference of the first frame and the second frame warped back by the flow, inside the frame."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    to_x, to_y = x + flow[..., 0], y + flow[..., 1]
    back = cv2.remap(second, to_x, to_y, cv2.INTER_LINEAR)
    inside = (to_x >= 2) & (to_x <= width - 3) & (to_y >= 2) & (to_y <= height - 3)
    # After a rotation, black is outside of the frame; exclude pixels interpolated with it.
    seen = cv2.erode(((first.sum(2) > 0) & (back.sum(2) > 0)).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    valid = inside & seen
    assert valid.mean() > 0.3
    return float(np.abs(first.astype(np.float32) - back.astype(np.float32))[valid].mean())


def to_arrays(out: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    rgb = (out["rgb"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return rgb, np.ascontiguousarray(out["flow"].permute(1, 2, 0).numpy())


GEOMETRY = {
    "resize": ([], (60, 200)),
    "flip": ([HorizontalFlip(p=1)], SIZE),
    "rotate": ([Rotate(limit=(-30, 30), p=1)], SIZE),
    "rotate and crop the border": ([Rotate(limit=(-30, 30), crop_border=True, p=1)], SIZE),
    "crop": ([RandomResizedCrop(size=(80, 96), scale=(0.4, 0.8), p=1)], SIZE),
    "all": (
        [
            HorizontalFlip(p=1),
            Rotate(limit=(-20, 20), p=1),
            RandomResizedCrop(size=(80, 120), scale=(0.5, 0.9), p=1),
        ],
        (72, 72),
    ),
}


@pytest.mark.parametrize("kind", ["translation", "rotation", "zoom"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_augmented_flow_warps_the_augmented_pair(name: str, kind: str) -> None:
    steps, size = GEOMETRY[name]
    transform = Transform(size, steps)
    for seed in range(4):
        first, second, flow = clip(kind, seed)
        before = warp_error(first, second, flow)
        first_out, flow_out = to_arrays(transform(first, flow, seed=seed))
        second_out, _ = to_arrays(transform(second, flow, seed=seed))
        after = warp_error(first_out, second_out, flow_out)
        wrong = warp_error(first_out, second_out, np.zeros_like(flow_out))
        assert after <= 1.5 * before + 1.5, (seed, before, after)
        assert wrong > 2 * after


def test_augmented_flow_warps_procedural_clips() -> None:
    steps, size = GEOMETRY["all"]
    transform = Transform(size, steps)
    errors = []
    for seed in range(6):
        rgb, _, flow = generate_clip(seed, 2, SIZE, Style.plain())
        first, flow_out = to_arrays(transform(rgb[0], flow[0], seed=seed))
        second, _ = to_arrays(transform(rgb[1], flow[0], seed=seed))
        flows = (flow_out, np.zeros_like(flow_out), -flow_out)
        errors.append([warp_error(rgb[0], rgb[1], flow[0]), *(warp_error(first, second, f) for f in flows)])
    before, after, still, backwards = np.mean(errors, axis=0)
    # The remaining error is due to disocclusion.
    assert after <= 1.5 * before + 1
    assert still > 1.5 * after
    assert backwards > 2 * after


def test_time_reversal_warps_the_reversed_pair() -> None:
    first, second, flow = clip("translation", 0)
    _, reversed_flow = to_arrays(Transform(SIZE, [TimeReversal(p=1)])(second, flow, seed=0))
    assert warp_error(second, first, reversed_flow) < 2
    assert warp_error(second, first, flow) > 10


def test_mask_follows_the_frame() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[30:60, 20:70] = 1
    rgb = np.repeat(mask[..., None] * 254 + 1, 3, axis=2)
    steps, size = GEOMETRY["all"]
    for seed in range(5):
        out = Transform(size, steps)(rgb, np.zeros((*SIZE, 2), np.float32), mask, seed=seed)
        seen = (out["rgb"].mean(0) > 0.5).float()
        assert set(out["mask"].unique().tolist()) <= {0.0, 1.0}
        assert (seen != out["mask"][0]).float().mean() < 0.04


def test_colour_transforms_keep_flow_and_mask() -> None:
    first, _, flow = clip("rotation", 1)
    mask = (flow[..., 0] > 0).astype(np.uint8)
    plain = Transform(SIZE)(first, flow, mask)
    jitter = Transform(SIZE, [A.ColorJitter(p=1), A.GaussNoise(p=1)])(first, flow, mask, seed=3)
    assert torch.equal(plain["flow"], jitter["flow"])
    assert torch.equal(plain["mask"], jitter["mask"])
    assert not torch.equal(plain["rgb"], jitter["rgb"])


def test_flow_noise_and_dropout_keep_the_frame() -> None:
    first, _, flow = clip("rotation", 1)
    plain = Transform(SIZE)(first, flow)
    noisy = Transform(SIZE, [FlowNoise(std=2, p=1)])(first, flow, seed=0)
    assert torch.equal(plain["rgb"], noisy["rgb"])
    assert 0 < (plain["flow"] - noisy["flow"]).abs().mean() < 4
    dropped = Transform(SIZE, [FlowDropout(whole=0, p=1)])(first, flow + 1, seed=0)
    zero = (dropped["flow"] == 0).all(0).float().mean()
    assert 0 < zero < 0.5
    gone = Transform(SIZE, [FlowDropout(whole=1, p=1)])(first, flow + 1, seed=0)
    assert not gone["flow"].any()


def test_flow_noise_has_the_stated_deviation() -> None:
    flow = np.full((64, 96, 2), 3, np.float32)
    transform = FlowNoise(std=0.5, p=1)
    deviations = []
    for seed in range(40):
        transform.set_random_seed(seed)
        noisy = transform.apply_to_flow(flow)
        assert noisy.dtype == np.float32
        deviations.append(np.std(noisy - flow))
    # Drawn from [0, 0.5], before it is interpolated.
    assert max(deviations) < 0.6
    assert 0.1 < np.mean(deviations) < 0.3
    assert min(deviations) < 0.05


@pytest.mark.parametrize(("size", "cells"), [((15, 15), (1, 1)), ((33, 15), (2, 1)), ((15, 33), (1, 2))])
def test_flow_noise_is_interpolated_from_a_grid(size: tuple[int, int], cells: tuple[int, int]) -> None:
    transform = FlowNoise(std=1, grid=16, p=1)
    transform.set_random_seed(1)
    noise = transform.apply_to_flow(np.zeros((*size, 2), np.float32))
    assert not np.allclose(noise[..., 0], noise[..., 1])
    for axis, count in enumerate(cells):  # one cell along an axis: constant along it
        assert np.allclose(np.ptp(noise, axis=axis), 0, atol=1e-5) == (count == 1)


def dropped_boxes(transform: FlowDropout, size: tuple[int, int], seeds: int) -> list[list[tuple[int, ...]]]:
    """For each seed the connected regions of dropped vectors: left, top, width, height, area."""
    boxes = []
    for seed in range(seeds):
        transform.set_random_seed(seed)
        dropped = (transform.apply_to_flow(np.ones((*size, 2), np.float32)) == 0).all(-1)
        stats = cv2.connectedComponentsWithStats(dropped.astype(np.uint8))[2]
        boxes.append([tuple(box) for box in stats[1:].tolist()])
    return boxes


def test_flow_dropout_draws_rectangles_up_to_its_size() -> None:
    boxes = dropped_boxes(FlowDropout(holes=1, size=0.2, whole=0, p=1), (50, 80), 400)
    assert {len(one) for one in boxes} == {1}
    left, top, width, height, area = np.array([one[0] for one in boxes]).T
    assert (area == width * height).all()
    assert (width.min(), width.max(), height.min(), height.max()) == (1, 16, 1, 10)
    assert (left.min(), top.min(), (left + width).max(), (top + height).max()) == (0, 0, 80, 50)


def test_flow_dropout_draws_the_number_of_rectangles_and_whole_fields() -> None:
    several = [len(one) for one in dropped_boxes(FlowDropout(holes=3, size=0.04, whole=0, p=1), (100, 100), 150)]
    assert all(several.count(holes) > 30 for holes in (1, 2, 3))
    assert sum(several.count(holes) for holes in (1, 2, 3)) == len(several)
    areas = [one[0][-1] for one in dropped_boxes(FlowDropout(whole=0.25, p=1), (20, 30), 400)]
    assert 0.15 < areas.count(20 * 30) / 400 < 0.35


def test_augmentation_without_a_seed_continues() -> None:
    first, _, flow = clip("rotation", 1)
    transform = Transform(SIZE, [FlowNoise(std=2, p=1)])
    a, b = transform(first, flow, seed=5), transform(first, flow)
    assert not torch.equal(a["flow"], b["flow"])
    again = transform(first, flow, seed=5), transform(first, flow)
    assert torch.equal(again[0]["flow"], a["flow"])
    assert torch.equal(again[1]["flow"], b["flow"])


@pytest.mark.parametrize("size", [(8, 9), (30, 50), (97, 13)])
def test_masks_are_resized_to_the_nearest_pixel(size: tuple[int, int]) -> None:
    mask = (np.random.default_rng(0).random((30, 50)) < 0.5).astype(np.uint8)
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in zip(size, mask.shape, strict=True))
    expected = mask[rows.astype(int)[:, None], columns.astype(int)]
    np.testing.assert_array_equal(resize_mask(mask, size), expected)
    rgb, flow = np.full((30, 50, 3), 255, np.uint8), np.zeros((30, 50, 2), np.float32)
    out = Transform(size)(rgb, flow, mask)
    assert (out["rgb"] == 1).all()
    assert Transform(size).of_flow(flow).shape == out["flow"].shape == (2, *size)
    assert out["mask"].dtype == out["rgb"].dtype == out["flow"].dtype == torch.float32
    np.testing.assert_array_equal(out["mask"].numpy(), expected[None])


def test_scaled_sizes_are_multiples_of_the_largest_stride() -> None:
    assert scaled((50, 70), 1) == (50, 70)
    assert scaled((480, 864), 0.5) == (256, 448)
    assert scaled((480, 864), 1.25) == (608, 1088)
    assert scaled((64, 96), 0.01) == (32, 32)


def test_augmentation_is_deterministic_for_a_seed() -> None:
    first, _, flow = clip("rotation", 1)
    mask = (flow[..., 0] > 0).astype(np.uint8)
    steps = [*GEOMETRY["all"][0], A.ColorJitter(p=0.5), TimeReversal(p=0.5), FlowNoise(p=0.5), FlowDropout(p=0.5)]
    one, two = Transform(SIZE, steps), Transform(SIZE, steps)
    for seed in (7, 8, 9):
        a = one(first, flow, mask, seed=seed)
        one(first, flow, mask)
        b = two(first, flow, mask, seed=seed)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["rgb"], one(first, flow, mask, seed=7)["rgb"])


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    new_height=st.integers(1, 70),
    new_width=st.integers(1, 70),
    u=st.floats(-50, 50),
    v=st.floats(-50, 50),
)
@settings(max_examples=50, deadline=None)
def test_resized_flow_is_in_pixels_of_the_new_grid(
    height: int, width: int, new_height: int, new_width: int, u: float, v: float
) -> None:
    flow = np.broadcast_to(np.array([u, v], np.float32), (height, width, 2)).copy()
    out = resize_flow(flow, (new_height, new_width))
    assert out.shape == (new_height, new_width, 2)
    expected = [u * new_width / width, v * new_height / height]
    np.testing.assert_allclose(out, np.broadcast_to(expected, out.shape), rtol=1e-4, atol=1e-4)


def test_flow_of_another_size_is_resized_to_the_frame() -> None:
    first, _, flow = clip("translation", 0)
    half = resize_flow(flow, (SIZE[0] // 2, SIZE[1] // 2))
    out = Transform(SIZE, [HorizontalFlip(p=1)])(first, half, seed=0)
    assert out["flow"].shape == (2, *SIZE)
    np.testing.assert_allclose(out["flow"][0].numpy(), -5, atol=1e-4)
    # Also before a crop, whose coordinates are those of the frame.
    first, _, flow = clip("zoom", 0)
    crop = Transform(SIZE, [RandomResizedCrop(size=(40, 60), scale=(0.2, 0.3), p=1)])
    smaller = resize_flow(flow, (SIZE[0] // 2, SIZE[1] // 2))
    expected, out = (crop(first, one, seed=0)["flow"] for one in (flow, smaller))
    torch.testing.assert_close(out, expected, atol=0.2, rtol=0)


def test_inputs_are_not_modified() -> None:
    first, _, flow = clip("rotation", 1)
    before = first.copy(), flow.copy()
    steps = [*GEOMETRY["all"][0], TimeReversal(p=1), FlowNoise(p=1), FlowDropout(p=1)]
    Transform((40, 40), steps)(first, flow, seed=0)
    Transform((40, 40))(first, flow)
    np.testing.assert_array_equal(first, before[0])
    np.testing.assert_array_equal(flow, before[1])


def test_geometric_transforms_without_flow_support_are_rejected() -> None:
    remedy = r"VerticalFlip is a geometric transform .*; use one of maskvos\.data\.transforms, or a colour transform$"
    with pytest.raises(UserError, match=remedy):
        Transform(SIZE, [A.VerticalFlip()])
    with pytest.raises(UserError, match="Transpose is a geometric transform"):
        Transform(SIZE, [A.OneOf([HorizontalFlip(), A.Transpose()])])


@pytest.mark.parametrize("size", [[512], [0, 5], [5, 0], [3, 4, 5]])
def test_sizes_are_two_positive_numbers(size: list[int]) -> None:
    with pytest.raises(UserError, match=r"data\.size="):
        Transform(size)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.5])
def test_scale_applies_to_frame_mask_and_flow(scale: float) -> None:
    first, _, flow = clip("translation", 3)
    mask = np.zeros(SIZE, np.uint8)
    mask[30:60, 40:100] = 1
    plain = Transform((64, 96))(first, flow, mask)
    out = Transform((64, 96))(first, flow, mask, scale=scale)
    height, width = out["rgb"].shape[-2:]
    assert out["flow"].shape[-2:] == out["mask"].shape[-2:] == (height, width)
    if scale == 1:
        assert (height, width) == (64, 96)
    assert height % 32 == width % 32 == 0
    assert abs(height - 64 * scale) <= 16
    assert abs(width - 96 * scale) <= 16
    # The same motion in pixels of the new grid, and the same region of the image.
    assert out["flow"][0].mean().item() == pytest.approx(5 * width / SIZE[1], rel=1e-4)
    assert out["flow"][1].mean().item() == pytest.approx(-3 * height / SIZE[0], rel=1e-4)
    assert out["mask"].mean().item() == pytest.approx(plain["mask"].mean().item(), abs=0.03)
    assert set(out["mask"].unique().tolist()) == {0, 1}
