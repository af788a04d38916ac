"""What exported files of unknown origin may do: ONNX files compute, programs are not opened unless trusted."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import maskvos
from maskvos.errors import UserError
from maskvos.weights.exported import CONFIG, exported_config

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FLOW = {"_target_": "maskvos.flow.store.FlowStore", "estimator": {"_target_": "maskvos.flow.dis.DIS"}}
ABOUT = {"model": {}, "data": {"size": [32, 48]}, "flow": FLOW, "tta": {"mirror": False, "flow": None}}
FRAMES = np.random.default_rng(0).integers(0, 255, (3, 40, 60, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which hostile files leave their traces."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- programs


class Add(nn.Module):
    def forward(self, rgb: Tensor, flow: Tensor) -> Tensor:
        return rgb[:, :1] + flow[:, :1]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("hacked",)


@pytest.fixture(scope="module")
def archive() -> bytes:
    """A pt2 archive of any size."""
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 2: auto, 3: auto}
    example = torch.rand(2, 3, 32, 48), torch.rand(2, 2, 32, 48)
    written = io.BytesIO()
    program = torch.export.export(Add(), example, dynamic_shapes=(axes, axes))
    torch.export.save(program, written, extra_files={CONFIG: json.dumps(ABOUT)})
    return written.getvalue()


def changed(archive: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """An archive with other content of some files."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return out.getvalue()


def pickled(archive: bytes) -> bytes:
    bomb = io.BytesIO()
    torch.save(Bomb(), bomb)
    return changed(archive, lambda name, data: bomb.getvalue() if "sample_inputs" in name else data)


def formula(archive: bytes) -> bytes:
    """No pickle but the sample inputs: the formula of a size is evaluated as Python."""
    start = b'"expr_str": "'

    def change(name: str, data: bytes) -> bytes:
        if start not in data:
            return data
        head, _, rest = data.partition(start)
        return head + start + b"__import__('os').mkdir('hacked') or 2" + rest[rest.index(b'"') :]

    return changed(archive, change)


def script(archive: bytes) -> bytes:
    """TorchScript that makes a file when it is run."""

    class Writer(nn.Module):
        def forward(self, rgb: Tensor, flow: Tensor) -> Tensor:
            return rgb[:, :1] + torch.from_file("hacked", shared=True, size=1)

    written = io.BytesIO()
    torch.jit.save(torch.jit.script(Writer()), written, _extra_files={CONFIG: json.dumps(ABOUT)})
    return written.getvalue()


@pytest.mark.parametrize(("make", "name"), [(pickled, "x.pt2"), (formula, "x.pt2"), (script, "x.ts")])
def test_a_program_is_not_opened_unless_it_is_trusted(archive: bytes, here: Path, make, name: str) -> None:
    (here / name).write_bytes(make(archive))
    trusted = "pt2" if name.endswith("pt2") else "torchscript"
    for trust in ((), ["onnx", "maskvos"]):
        with pytest.raises(UserError, match=rf"{name} is refused: .* is a program.*format=onnx.*trust=\[{trusted}\]"):
            maskvos.load(name, trust=trust)
    assert os.listdir(here) == [name]
    # The file is what it seems: trusted, it leaves its trace.
    with contextlib.suppress(UserError):
        maskvos.load(name, trust=trusted)
    assert "hacked" in os.listdir(here)


@pytest.mark.parametrize("name", ["x.pt2", "x.ts"])
def test_a_trusted_program_segments(archive: bytes, here: Path, name: str) -> None:
    if name == "x.ts":
        about = {CONFIG: json.dumps(ABOUT)}
        torch.jit.save(torch.jit.script(Add()), name, _extra_files=about)
    else:
        (here / name).write_bytes(archive)
    assert maskvos.load(name, trust=["pt2", "torchscript"])(FRAMES).shape == (3, 40, 60)


@pytest.mark.parametrize("junk", [b"{", b"\xff", b"[" * 100_000])
def test_a_configuration_that_is_no_json_is_named(archive: bytes, here: Path, junk: bytes) -> None:
    (here / "x.pt2").write_bytes(changed(archive, lambda name, data: junk if name.endswith(CONFIG) else data))
    with pytest.raises(UserError, match=r"the configuration in 'x\.pt2' cannot be read"):
        exported_config("x.pt2")


# ---------------------------------------------------------------- ONNX


def port(name: str, channels: int, kind: int = onnx.TensorProto.FLOAT) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, ["batch", channels, "height", "width"])


def mean(image: str, result: str) -> Any:
    return onnx.helper.make_node("ReduceMean", [image], [result], axes=[1], keepdims=1)


def write(
    nodes: Iterable[Any] = (),
    inputs: Iterable[Any] = (port("rgb", 3), port("flow", 2)),
    outputs: Iterable[Any] = (port("logits", 1),),
    tensors: Iterable[Any] = (),
    domains: Iterable[str] = ("",),
    about: str = json.dumps(ABOUT),
) -> str:
    """Write x.onnx; without nodes, the logits are the mean of frame and flow."""
    usual = [mean("rgb", "a"), mean("flow", "b"), onnx.helper.make_node("Add", ["a", "b"], ["logits"])]
    graph = onnx.helper.make_graph([*nodes] or usual, "graph", [*inputs], [*outputs], [*tensors])
    opsets = [onnx.helper.make_opsetid(domain, 17 if domain == "" else 1) for domain in domains]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.helper.set_model_props(model, {CONFIG: about})
    Path("x.onnx").write_bytes(model.SerializeToString())
    return "x.onnx"


def elsewhere(location: str) -> Any:
    """A tensor whose values lie in another file."""
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def node(kind: str, *inputs: str, **more: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, ["logits"], **more)


def test_a_sound_file_segments(here: Path) -> None:
    assert np.isfinite(maskvos.load(write())(FRAMES)).all()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "beside"])
@pytest.mark.parametrize("inside", ["graph", "attribute", "branch"])
def test_weights_from_other_files_are_refused(here: Path, location: str, inside: str, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    (here / "beside").write_bytes(bytes(4))
    constant = onnx.helper.make_node("Constant", [], ["w"], value=elsewhere(location))
    nodes, tensors = [mean("rgb", "a"), node("Add", "a", "w")], [elsewhere(location)]
    if inside == "attribute":
        nodes, tensors = [constant, *nodes], []
    if inside == "branch":
        result = onnx.helper.make_tensor_value_info("w", 1, [1])
        branch = onnx.helper.make_graph([constant], "branch", [], [result])
        yes = onnx.helper.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True)))
        choice = onnx.helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch)
        nodes, tensors = [yes, choice, mean("rgb", "a"), node("Add", "a", "c")], []
    with pytest.raises(UserError, match="it takes weights from other files"):
        maskvos.load(write(nodes, tensors=tensors), backend=backend)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("domains", [("",), ("", "evil")])
def test_foreign_operators_are_refused(domains: tuple[str, ...], backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(UserError, match="it needs operators of 'evil'"):
        maskvos.load(write([node("Run", "rgb", domain="evil")], domains=domains), backend=backend)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"inputs": [port("image", 3), port("flow", 2)], "nodes": [mean("image", "logits")]}, "no rgb, image"),
        ({"inputs": [port("rgb", 4), port("flow", 2)]}, r"rgb \['batch', 4, 'height', 'width'\]"),
        ({"inputs": [port("rgb", 3, 11), port("flow", 2, 11)], "outputs": [port("logits", 1, 11)]}, "double"),
        ({"outputs": [port("a", 1)]}, "no logits, a"),
        ({"nodes": [mean("rgb", "a"), mean("flow", "b"), node("Div", "a", "b")]}, "values that are not finite"),
        ({"nodes": [node("ReduceMean", "rgb", axes=[1, 2])], "outputs": []}, "no logits"),
        ({"nodes": [mean("rgb", "a"), node("Concat", "a", "a", axis=2)]}, r"gives \(1, 1, 64, 48\)"),
        ({"nodes": [node("Conv", "rgb", "flow")]}, r"fails \(.*for a batch of 1 at \(32, 48\)"),
        ({"nodes": [node("Nothing", "rgb")]}, "cannot be read as onnx"),
        ({"about": "{"}, "configuration in 'x.onnx' cannot be read"),
        ({"about": json.dumps({**ABOUT, "data": {"size": [32]}})}, "size"),
    ],
)
def test_other_networks_are_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        maskvos.load(write(**given))


def test_truncated_files_are_named() -> None:
    data = Path(write()).read_bytes()
    for size in range(0, len(data), 7):
        Path("x.onnx").write_bytes(data[:size])
        with pytest.raises(UserError):
            maskvos.load("x.onnx")


def test_random_changes_end_in_one_answer() -> None:
    data = Path(write()).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        junk = bytearray(data)
        for place in rng.integers(0, len(junk), rng.integers(1, 5)):
            junk[place] = rng.integers(256)
        Path("x.onnx").write_bytes(bytes(junk))
        try:
            model = maskvos.load("x.onnx")
        except UserError:
            refused += 1
        else:  # what was changed does not matter, such as a name
            assert model(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, 64, 96)
    assert 0 < refused < 150
