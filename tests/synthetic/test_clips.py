"""Procedural clips: exact masks and flow, determinism, shapes and textures of any size."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.synthetic.clips import Clip, generate_clip
from maskvos.synthetic.rendering import Layer, Renderer, Wave, rotate, scale, translate
from maskvos.synthetic.scene import Scene
from maskvos.synthetic.shapes import SHAPES, make_sprites, union_area
from maskvos.synthetic.style import Style
from maskvos.synthetic.textures import BACKGROUNDS, SURFACES


def warp(image: np.ndarray, flow: np.ndarray, method: int = cv2.INTER_LINEAR) -> tuple[np.ndarray, np.ndarray]:
    """Warp an image by backward sampling along the flow; also returns where the samples lie inside the frame."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return cv2.remap(image, x, y, method, borderMode=cv2.BORDER_REFLECT_101), inside


@pytest.mark.parametrize("seed", range(10))
def test_flow_warps_the_next_frame_onto_the_current(seed: int) -> None:
    style = replace(Style.plain(), occluders=1, parallax=1, deform=1, ripple=0.5, still=0)
    rng = np.random.default_rng(seed)
    renderer = Renderer(Scene(rng, 4, (120, 200), style).layers, (120, 200))
    views = [renderer.frame(time, time + 1) for time in range(3)]
    for (rgb, labels, flow), (later, landed, _) in itertools.pairwise(views):
        arrived, inside = warp(landed, flow, cv2.INTER_NEAREST)
        # Exclude layer boundaries, where a pixel blends two layers.
        within = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) == 0
        edge = cv2.morphologyEx(landed, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
        seen = within & inside & (arrived == labels) & (warp(edge, flow, cv2.INTER_NEAREST)[0] == 0)
        assert seen.mean() > 0.25
        # A slight blur removes the difference in sharpness caused by interpolation.
        here, there, unmoved = (
            cv2.GaussianBlur(image, (0, 0), 1.0).astype(float) for image in (rgb, warp(later, flow)[0], later)
        )
        error, baseline = np.abs(here - there)[seen].mean(), np.abs(here - unmoved)[seen].mean()
        assert error < 3.0
        assert error < 0.35 * baseline + 0.3


@pytest.mark.parametrize("seed", range(6))
def test_the_mask_moves_with_the_flow(seed: int) -> None:
    clip = generate_clip(seed, 3, (120, 200), replace(Style.plain(), occluders=0, distractors=0, parallax=0))
    carried, inside = warp(clip.mask[1], clip.flow[0], cv2.INTER_NEAREST)
    # Without occluders, object pixels land on an object, except for half a pixel at its border.
    inner = cv2.erode(clip.mask[0], np.ones((3, 3), np.uint8)).astype(bool) & inside
    assert inner.sum() > 50
    assert carried[inner].mean() > 0.99


def test_flow_of_a_known_motion_is_exact() -> None:
    texture = np.full((200, 200, 3), 90, np.uint8)
    square = np.full((21, 31, 4), 255, np.uint8)

    def moving(time: float) -> np.ndarray:
        return translate(30 + 3 * time, 20 - time) @ rotate(0.1 * time) @ scale(1 + time / 10, 1)

    layers = [Layer(texture, lambda time: translate(-2.0 * time, 0.5 * time)), Layer(square, moving, salient=True)]
    renderer = Renderer(layers, (80, 100))
    _, labels, flow = renderer.frame(0, 1)
    mask = renderer.mask(labels)
    assert mask.sum() == 21 * 31
    assert mask[20:41, 30:61].all()
    np.testing.assert_allclose(flow[60, 80], (-2, 0.5), atol=1e-4)
    x, y = 12.0, 7.0
    expected = np.array([33 + 1.1 * x * np.cos(0.1) - y * np.sin(0.1), 19 + 1.1 * x * np.sin(0.1) + y * np.cos(0.1)])
    np.testing.assert_allclose(flow[27, 42], expected - (42, 27), atol=1e-4)


@given(
    amplitude=st.tuples(st.floats(0, 20), st.floats(0, 20)),
    frequency=st.tuples(st.floats(0, 0.3), st.floats(0, 0.3)),
    time=st.floats(-3, 50),
)
@settings(max_examples=50, deadline=None)
def test_a_wave_is_inverted_exactly(amplitude: tuple, frequency: tuple, time: float) -> None:
    wave = Wave(amplitude, frequency, (0.2, 0.3), (1.0, 2.0), lambda t: t)
    y, x = np.mgrid[0:40, 0:50].astype(np.float32)
    back = wave.unwarp(*wave.warp(x, y, time), time)
    np.testing.assert_allclose(back[0], x, atol=2e-3)
    np.testing.assert_allclose(back[1], y, atol=2e-3)


def test_clips_are_determined_by_their_seed() -> None:
    first, again, other = (generate_clip(seed, 3, (64, 96)) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.rgb != other.rgb).mean() > 0.5


def test_all_effects_are_deterministic() -> None:
    style = Style(motion_blur=1, light=1, soft=1, noise=1, jpeg=1, h264=1, occluders=1, parallax=1, ripple=1, shadow=1)
    first, again = (generate_clip(3, 3, (65, 97), style).rgb for _ in range(2))
    np.testing.assert_array_equal(first, again)


@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(1, 4),
    height=st.integers(16, 70),
    width=st.integers(16, 70),
)
@settings(max_examples=40, deadline=None)
def test_shapes_dtypes_and_ranges(seed: int, frames: int, height: int, width: int) -> None:
    clip = generate_clip(seed, frames, (height, width))
    assert clip.rgb.shape == (frames, height, width, 3)
    assert clip.rgb.dtype == np.uint8
    assert clip.mask.shape == (frames, height, width)
    assert clip.mask.dtype == np.uint8
    assert set(np.unique(clip.mask)) <= {0, 1}
    assert clip.flow.shape == (frames, height, width, 2)
    assert clip.flow.dtype == np.float32
    assert np.isfinite(clip.flow).all()
    if frames == 1:
        assert not clip.flow.any()


def test_objects_are_visible_and_move_relative_to_the_background() -> None:
    clips = [generate_clip(seed, 4, (96, 160), replace(Style(), stop=0, leave=0)) for seed in range(30)]
    areas = np.array([clip.mask[0].mean() for clip in clips])
    assert 0.04 < np.median(areas) < 0.3
    assert (areas > 0.01).mean() > 0.9
    differences = []
    for clip in clips:
        inside, outside = clip.mask[0] == 1, clip.mask[0] == 0
        if inside.any():
            differences.append(np.linalg.norm(clip.flow[0][inside].mean(0) - np.median(clip.flow[0][outside], axis=0)))
    assert np.median(differences) > 0.5


def test_distractors_are_static_and_not_in_the_mask() -> None:
    style = replace(Style.plain(), still=0, follow=1, distractors=6, parallax=0, occluders=1, ripple=0)
    for seed in range(3):
        clip = generate_clip(seed, 2, (96, 160), style)
        outside = clip.mask[0] == 0
        y, x = np.nonzero(outside)
        ones = np.ones_like(x)
        design = np.stack([x, y, ones], axis=1).astype(float)
        flow = clip.flow[0][outside]
        # Under an affine camera, all static layers share one affine flow.
        residual = flow - design @ np.linalg.lstsq(design, flow, rcond=None)[0]
        assert np.abs(residual).max() < 1e-2


def own_motion(clip: Clip, index: int) -> float:
    """Median speed of the objects relative to the background, in pixels per frame."""
    inside = clip.mask[index] == 1
    y, x = np.mgrid[: inside.shape[0], : inside.shape[1]].astype(float)
    design = np.stack([x, y, np.ones_like(x)], axis=-1)
    background = np.linalg.lstsq(design[~inside], clip.flow[index][~inside], rcond=None)[0]
    return float(np.median(np.linalg.norm(clip.flow[index] - design @ background, axis=-1)[inside]))


def test_a_pausing_object_moves_with_the_background() -> None:
    style = replace(Style.plain(), objects=1, stop=1, parallax=0, ripple=0, leave=0)
    for seed in range(4):
        clip = generate_clip(seed, 24, (64, 96), style)
        speeds = [own_motion(clip, index) for index in range(24)]
        assert min(speeds) < 1e-2
        assert max(speeds) > 0.2


def test_objects_leave_the_frame() -> None:
    style = replace(Style.plain(), objects=1, leave=1, follow=0, stop=0, speed=(0.02, 0.03))
    clips = [generate_clip(seed, 60, (32, 48), style) for seed in range(6)]
    assert all(clip.mask[0].any() for clip in clips)
    assert sum(not clip.mask[-1].any() for clip in clips) >= 4


def test_motion_blur_changes_neither_mask_nor_flow() -> None:
    sharp, blurred = (generate_clip(2, 2, (96, 160), replace(Style.plain(), motion_blur=b)) for b in (0, 1))
    np.testing.assert_array_equal(sharp.mask, blurred.mask)
    np.testing.assert_array_equal(sharp.flow, blurred.flow)
    assert (sharp.rgb != blurred.rgb).any()


@pytest.mark.parametrize("shape", list(dict.fromkeys(SHAPES)), ids=lambda shape: shape.__name__)
def test_sprites_have_the_requested_area(shape) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    parts = shape(rng)
    unit = np.sqrt(2000 / union_area(parts, 0.0))
    layers = [Layer(np.zeros((300, 300, 3), np.uint8), lambda _: np.eye(3))]
    for sprite in make_sprites(rng, parts, unit):
        layers.append(Layer(sprite.texture, lambda t, pose=sprite.pose: translate(150, 150) @ pose(t), salient=True))
    renderer = Renderer(layers, (300, 300))
    mask = renderer.mask(renderer.frame(0, 1)[1])
    assert abs(int(mask.sum()) - 2000) < 250


@pytest.mark.parametrize(
    "texture", sorted({*BACKGROUNDS, *SURFACES}, key=lambda t: t.__name__), ids=lambda t: t.__name__
)
@pytest.mark.parametrize("size", [(1, 1), (7, 30), (60, 90)])
def test_textures_support_any_size(texture, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    for seed in range(3):
        image = texture(np.random.default_rng(seed), *size)
        assert image.shape == (*size, 3)
        assert image.dtype == np.uint8


def test_style_from_settings() -> None:
    style = Style.of({"area": [0.1, 0.2], "noise": 0.0})
    assert style.area == (0.1, 0.2)
    assert asdict(style) == {**asdict(Style()), "area": (0.1, 0.2), "noise": 0.0}


@pytest.mark.slow
def test_generation_keeps_up_with_training() -> None:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        start = time.process_time()
        for seed in range(12):
            generate_clip(seed, 16, (224, 384))
        rate = 12 * 16 / (time.process_time() - start)
    finally:
        cv2.setNumThreads(threads)
    assert rate > 30
