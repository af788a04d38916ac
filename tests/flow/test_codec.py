"""Flow file formats and colour coding."""

from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.utils import flow_to_image

from fakes import png
from maskvos.errors import UserError
from maskvos.flow.codec import decode_kitti, encode_kitti, encode_png, is_whole, read_flow, rgb_to_flow, write_flow
from maskvos.flow.colours import flow_to_rgb, flow_to_rgb_tensor, write_flow_image

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def torchvision_levels(flow: torch.Tensor) -> torch.Tensor:
    """torchvision's image of one (2, H, W) map, undoing its overflow (from below 0 to 255) at the longest vector."""
    theirs = flow_to_image(flow).float()
    length = flow.norm(dim=0)
    at_rim = (length > 0.99999 * length.max()).expand_as(theirs)
    below = flow_to_rgb_tensor(flow[None])[0] < 1 / 255
    return torch.where(at_rim & below & (theirs == 255), 0.0, theirs)


def random_flow(seed: int, height: int = 37, width: int = 53, scale: float = 8.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((height, width, 2)) * scale).astype(np.float32)


@given(seed=st.integers(0, 2**31), size=sizes, scale=st.sampled_from((1e-3, 0.1, 1.0, 30.0, 1e4)))
@settings(max_examples=60, deadline=None)
def test_colour_wheel_equals_torchvision(seed: int, size: tuple[int, int], scale: float) -> None:
    maps = torch.from_numpy(np.stack([random_flow(seed + i, *size, scale * (1 + i)) for i in range(3)]))
    maps = maps.permute(0, 3, 1, 2).contiguous()
    ours = flow_to_rgb_tensor(maps) * 255
    for one, drawn in zip(maps, ours, strict=True):  # each map is normalised by its own largest magnitude
        assert (drawn - torchvision_levels(one)).abs().max() <= 1.001


def test_colour_wheel_equals_torchvision_for_all_directions_and_magnitudes() -> None:
    angles, lengths = np.meshgrid(np.linspace(-np.pi, np.pi, 7201), np.linspace(0, 1, 41))
    flow = np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], -1).astype(np.float32)
    theirs = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.abs(flow_to_rgb(flow).astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("axis", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
def test_colour_wheel_equals_torchvision_along_the_axes(axis: tuple[float, float]) -> None:
    flow = np.broadcast_to(np.array(axis, np.float32), (4, 5, 2))
    theirs = flow_to_image(torch.from_numpy(flow.copy()).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.abs(flow_to_rgb(flow).astype(int) - theirs).max() <= 1


def test_zero_flow_is_white_and_non_finite_vectors_are_zero_flow() -> None:
    assert (flow_to_rgb_tensor(torch.zeros(2, 2, 5, 7)) == 1).all()
    flow = torch.from_numpy(random_flow(0)).permute(2, 0, 1)[None].clone()
    clean = flow.clone()
    for at, value in (((3, 4), float("nan")), ((5, 6), float("inf")), ((7, 8), -float("inf"))):
        flow[0, :, at[0], at[1]] = value
        clean[0, :, at[0], at[1]] = 0
    torch.testing.assert_close(flow_to_rgb_tensor(flow), flow_to_rgb_tensor(clean), rtol=0, atol=0)


def test_colours_are_scale_invariant_and_in_range() -> None:
    flow = torch.from_numpy(random_flow(1)).permute(2, 0, 1)[None]
    rgb = flow_to_rgb_tensor(flow)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    torch.testing.assert_close(flow_to_rgb_tensor(flow * 16), rgb)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_colour_wheel_computes_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    flow = torch.from_numpy(random_flow(2)).permute(2, 0, 1)[None].to(dtype)
    expected = flow_to_rgb_tensor(flow.float())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rgb = flow_to_rgb_tensor(flow)
    assert rgb.dtype == torch.float32
    assert torch.equal(rgb, expected)


def test_colour_wheel_exports_with_dynamic_shapes() -> None:
    class Draw(torch.nn.Module):
        def forward(self, flow: torch.Tensor) -> torch.Tensor:
            return flow_to_rgb_tensor(flow)

    dims = {"flow": {0: torch.export.Dim("B"), 2: torch.export.Dim("H"), 3: torch.export.Dim("W")}}
    program = torch.export.export(Draw(), (torch.randn(2, 2, 16, 24),), dynamic_shapes=dims)
    flow = torch.randn(3, 2, 33, 21)
    torch.testing.assert_close(program.module()(flow), flow_to_rgb_tensor(flow))


def test_colour_wheel_is_the_same_in_onnx(tmp_path: Path) -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed, reason=f"colour-coding flow in ONNX needs {needed}")
    import onnxruntime

    class Draw(torch.nn.Module):
        def forward(self, flow: torch.Tensor) -> torch.Tensor:
            return flow_to_rgb_tensor(flow)

    dims = {"flow": {0: "B", 2: "H", 3: "W"}}
    torch.onnx.export(
        Draw().eval(), (torch.randn(2, 2, 16, 24),), tmp_path / "draw.onnx", dynamic_shapes=dims, dynamo=True
    )
    session = onnxruntime.InferenceSession(tmp_path / "draw.onnx", providers=["CPUExecutionProvider"])
    axes = torch.tensor([[1.0, -1, 0, 0, 0, 1], [0, 0, 1, -1, 0, 1]])[None, :, None]
    broken = axes.clone()
    broken[0, :, 0, 5] = torch.tensor([float("nan"), float("inf")])
    for flow in (torch.randn(3, 2, 33, 21), torch.zeros(1, 2, 8, 8), axes, broken):
        (drawn,) = session.run(None, {session.get_inputs()[0].name: flow.numpy()})
        np.testing.assert_allclose(drawn, flow_to_rgb_tensor(flow).numpy(), atol=1e-4)


def test_colours_decode_to_vectors() -> None:
    flow = random_flow(3, 60, 80)
    longest = float(np.linalg.norm(flow, axis=-1).max())
    error = np.linalg.norm(rgb_to_flow(flow_to_rgb(flow), longest) - flow, axis=-1)
    assert error.max() < 0.02 * longest
    unit = np.linalg.norm(rgb_to_flow(flow_to_rgb(flow)), axis=-1)
    assert unit.max() == pytest.approx(1.0, abs=0.01)
    assert (rgb_to_flow(np.full((3, 4, 3), 255, np.uint8)) == 0).all()


def test_the_corners_of_the_wheel_decode_to_their_directions() -> None:
    """The wheel has 55 colours; its positions run from -pi to pi, and its last colour is one step before red."""
    wheel = {0: (255, 0, 0), 15: (255, 255, 0), 21: (0, 255, 0), 25: (0, 255, 255), 36: (0, 0, 255), 49: (255, 0, 255)}
    wheel[54] = (255, 0, 43)
    flow = rgb_to_flow(np.array([list(wheel.values())], np.uint8), max_flow=3.0)
    assert flow.dtype == np.float32
    angles = (np.array(list(wheel)) / 27 - 1) * np.pi
    np.testing.assert_allclose(flow[0], -3 * np.stack([np.cos(angles), np.sin(angles)], -1), atol=6e-3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_colour_coded_images_are_read_as_vectors(tmp_path: Path, suffix: str) -> None:
    y, x = np.mgrid[-1:1:96j, -1:1:128j]
    flow = np.stack([x * 6, y * 9 + 2], -1).astype(np.float32)
    longest = float(np.linalg.norm(flow, axis=-1).max())
    path = tmp_path / f"flow{suffix}"
    if suffix == ".png":
        write_flow_image(path, flow)
    else:
        cv2.imwrite(str(path), flow_to_rgb(flow)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    error = np.linalg.norm(read_flow(path, longest) - flow, axis=-1)
    assert error.mean() < 0.03 * longest


@given(seed=st.integers(0, 2**31), size=sizes)
@settings(max_examples=25, deadline=None)
def test_files_round_trip(tmp_path_factory: pytest.TempPathFactory, seed: int, size: tuple[int, int]) -> None:
    folder = tmp_path_factory.mktemp("flow")
    flow = random_flow(seed, *size)
    write_flow(folder / "exact.flo", flow)
    np.testing.assert_array_equal(read_flow(folder / "exact.flo"), flow)
    assert read_flow(folder / "exact.flo").dtype == np.float32
    write_flow(folder / "kitti.png", flow)
    np.testing.assert_allclose(read_flow(folder / "kitti.png"), flow, atol=1 / 128)
    np.testing.assert_array_equal(read_flow(folder / "kitti.png"), decode_kitti(encode_kitti(flow)))


def test_kitti_file_layout(tmp_path: Path) -> None:
    flow = np.array([[[1.0, -2.0], [np.nan, 3.0]]], np.float32)
    write_flow(tmp_path / "kitti.png", flow)
    bgr = cv2.imread(str(tmp_path / "kitti.png"), cv2.IMREAD_UNCHANGED)
    assert bgr.dtype == np.uint16
    assert bgr[0, 0, ::-1].tolist() == [2**15 + 64, 2**15 - 128, 1]
    assert bgr[0, 1].tolist() == [0, 0, 0]
    with np.errstate(all="raise"):
        assert encode_kitti(flow).tolist() == bgr[..., ::-1].tolist()
    assert read_flow(tmp_path / "kitti.png").tolist() == [[[1.0, -2.0], [0.0, 0.0]]]


def test_kitti_clips_out_of_range_vectors() -> None:
    decoded = decode_kitti(encode_kitti(np.array([[[9000.0, -9000.0], [600.0, -600.0]]], np.float32)))
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [[[511.984375, -512.0]] * 2]


def test_flo_file_layout(tmp_path: Path) -> None:
    flow = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    write_flow(tmp_path / "a.flo", flow)
    data = (tmp_path / "a.flo").read_bytes()
    assert np.frombuffer(data, "<f4", 1)[0] == np.float32(202021.25)
    assert np.frombuffer(data, "<i4", 2, 4).tolist() == [3, 2]
    assert np.frombuffer(data, "<f4", offset=12).tolist() == list(range(12))


def test_unknown_vectors_in_flo_are_zero(tmp_path: Path) -> None:
    write_flow(tmp_path / "a.flo", np.array([[[1e10, 0.0], [np.nan, 1.0], [2.0, 3.0]]], np.float32))
    assert read_flow(tmp_path / "a.flo").tolist() == [[[0.0, 0.0], [0.0, 0.0], [2.0, 3.0]]]
    for flow in ([[[1.0, -1e10], [2.0, 3.0]]], [[[1.0, 1e10], [2.0, 3.0]]]):
        write_flow(tmp_path / "b.flo", np.array(flow, np.float32))
        assert read_flow(tmp_path / "b.flo").tolist() == [[[0.0, 0.0], [2.0, 3.0]]]
    largest = [[[1e9, -1e9], [2.0, 3.0]], [[-1e10, 0.0], [2.0, 3.0]]]  # the largest known vector, and an unknown one
    write_flow(tmp_path / "c.flo", np.array(largest, np.float32))
    assert read_flow(tmp_path / "c.flo").tolist() == [largest[0], [[0.0, 0.0], [2.0, 3.0]]]


@pytest.mark.parametrize("name", ["a.flo", "A.FLO", "a.png", "A.PNG"])
def test_partial_files_are_not_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for size in ((1, 1), (3, 5)):
        write_flow(path, random_flow(0, *size))
        assert is_whole(path)
        whole = path.read_bytes()
        for partial in (*(whole[:length] for length in range(len(whole))), whole + b"\0"):
            path.write_bytes(partial)
            assert not is_whole(path)
    path.unlink()
    assert not is_whole(path)
    path.mkdir()
    assert not is_whole(path)


def test_an_unreadable_file_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, "denied", str(path))

    write_flow(tmp_path / "a.flo", random_flow(0, 3, 5))
    monkeypatch.setattr(Path, "open", refuse)
    assert not is_whole(tmp_path / "a.flo")


@pytest.mark.parametrize("name", ["a.flo", "A.FLO", "a.png", "A.PNG"])
def test_any_array_of_vectors_is_written(tmp_path: Path, name: str) -> None:
    flow = np.round(random_flow(0, 6, 4) * 64) / 64
    for array in (flow.astype(np.float64), flow.astype(">f4"), np.asfortranarray(flow), flow[::-1][::-1]):
        write_flow(tmp_path / "new" / name, array)
        assert read_flow(tmp_path / "new" / name).tolist() == flow.tolist()


def test_alpha_of_a_colour_coded_image_is_ignored(tmp_path: Path) -> None:
    rgb = flow_to_rgb(random_flow(3, 8, 9))
    for name, order in (("rgb.png", [2, 1, 0]), ("rgba.png", [2, 1, 0, 0])):
        cv2.imwrite(str(tmp_path / name), rgb[..., order])
        np.testing.assert_array_equal(read_flow(tmp_path / name, 5.0), rgb_to_flow(rgb, 5.0))
    np.testing.assert_array_equal(read_flow(tmp_path / "rgb.png"), rgb_to_flow(rgb))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.flo", b"PIEH", "no .flo header"),
        ("a.flo", b"JUNKJUNKJUNKJUNK", "no .flo header"),
        ("a.flo", b"PIEH" + np.array([4, 4], "<i4").tobytes(), "4x4 pixels.*; delete it and compute it again$"),
        ("a.flo", b"PIEH" + np.array([-4, 4], "<i4").tobytes(), "-4x4 pixels"),
        ("a.flo", b"PIEH" + np.array([0, 4], "<i4").tobytes(), "0x4 pixels, 12 bytes, but the file has 12"),
        ("a.flo", b"PIEH" + np.array([4, 0], "<i4").tobytes(), "4x0 pixels"),
        ("a.flo", b"PIEH" + np.array([1, 1], "<i4").tobytes(), "1x1 pixels, 20 bytes, but the file has 12"),
        ("a.png", b"", "0 bytes"),
        ("a.png", b"not a picture", "cannot be decoded"),
        ("a.png", png(60_000, 60_000), "resize it"),
        ("a.png", png(2**21, 4), "cannot be decoded"),
        ("a.png", encode_png(np.zeros((4, 4, 3), np.uint8)).replace(b"IDAT", b"IDAU"), "wrong checksum"),
        ("a.tiff", b"", r"extension '\.tiff'; use \.flo, \.png, \.jpg, \.jpeg$"),
    ],
)
def test_errors_name_the_corrupt_file(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_flow(tmp_path / name)
    assert name in str(caught.value)


def test_misuse_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.flo: cannot be read"):
        read_flow(tmp_path / "none.flo")
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"one channel; expected three: .* with Middlebury colour coding$"):
        read_flow(tmp_path / "grey.png")
    with pytest.raises(UserError, match=r"choose \.flo or \.png"):
        write_flow(tmp_path / "a.jpg", random_flow(0))
    for shape in ((4, 4, 3), (4, 4), (0, 4, 2), (4, 0, 2)):
        with pytest.raises(UserError, match=r"a\.flo: shape .* expected \(H, W, 2\)"):
            write_flow(tmp_path / "a.flo", np.zeros(shape, np.float32))
    with pytest.raises(UserError, match=r"choose \.png"):
        write_flow_image(tmp_path / "a.jpg", random_flow(0))


def test_an_image_that_cannot_be_encoded_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(UserError, match="could not encode a 5x4 PNG"):
        encode_png(np.zeros((4, 5, 3), np.uint8))
