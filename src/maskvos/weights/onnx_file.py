"""ONNX files of unknown origin: their metadata, what is refused, and opening them without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskvos.errors import UserError, require

_DOMAINS = ("", "ai.onnx")
_PORTS = {"rgb": 3, "flow": 2, "logits": 1}
"""Inputs and outputs of a network, and their channels."""
# What is looked at in onnx.proto: message, to number of the field, to the message or value that it holds.
_PROTO = {
    "model": {7: "graph", 8: "opset", 14: "metadata", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 9: "opset"},
    "node": {5: "attribute", 7: "domain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "opset": {1: "domain"},
}
_DAMAGED = (IndexError, KeyError, ValueError, RecursionError)


def onnx_metadata(path: Path) -> dict[str, str]:
    """``metadata_props`` of an ONNX file, read from its protocol buffer, as no runtime gives them without loading it.

    Raises:
        UserError: The file is damaged.
    """
    try:
        entries = [dict(_fields(value)) for name, value in _walk(_content(path)) if name == "metadata"]
        return {bytes(entry[1]).decode(): bytes(entry[2]).decode() for entry in entries}
    except _DAMAGED as error:
        raise _unreadable(path, repr(error)) from error


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file that reads other files, or needs operators that are not ONNX's own.

    Raises:
        UserError: It does so, or is damaged.
    """
    try:
        found = list(_walk(_content(path)))
        foreign = {bytes(value).decode() for name, value in found if name == "domain"} - set(_DOMAINS)
    except _DAMAGED as error:
        raise _unreadable(path, repr(error)) from error
    if any(name == "external" for name, _ in found):
        reason = "it takes weights from other files; export it into one file"
    elif foreign:
        reason = f"it needs operators of {', '.join(map(repr, sorted(foreign)))}; use those of ONNX itself only"
    else:
        return
    raise UserError(f"exported network: '{path}' is refused: {reason}, or export it again with task=export")


def open_onnx(path: str | Path, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU; its threads sleep while they wait, to leave the cores to others.

    Args:
        path: The file.
        threads: CPU threads; None: all cores.

    Raises:
        UserError: The file cannot be read, is refused by `check_onnx` or has other inputs and outputs, or the package
            is missing.
    """
    require("onnxruntime")
    import onnxruntime

    check_onnx(Path(path))
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ports = {port.name: (port.shape, port.type) for port in (*session.get_inputs(), *session.get_outputs())}
    except onnx_errors() as error:
        raise _unreadable(path, str(error)[:120]) from error
    _check_ports(path, ports)
    return session


def onnx_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its exceptions have no class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)


def _check_ports(path: str | Path, ports: dict[str, tuple[list[Any], str]]) -> None:
    """Compare inputs and outputs with those of a network: (B, channels, H, W) float32 each."""
    wrong = [f"no {name}" for name in _PORTS if name not in ports] + [name for name in ports if name not in _PORTS]
    for name, channels in _PORTS.items():
        if name in ports:
            shape, kind = ports[name]
            # Sizes that are not fixed have names, or none.
            fits = len(shape) == 4 and (shape[1] == channels or not isinstance(shape[1], int))
            if not fits or kind != "tensor(float)":
                wrong.append(f"{name} {shape} {kind}")
    if wrong:
        raise UserError(
            f"exported network: '{path}' is of another network ({', '.join(wrong)}); it must take rgb (B, 3, H, W) and "
            "flow (B, 2, H, W) and give logits (B, 1, H, W), all float32, as task=export writes it"
        )


def _unreadable(path: str | Path, reason: str) -> UserError:
    return UserError(f"exported network: '{path}' cannot be read as onnx ({reason}); export it again")


def _content(path: Path) -> memoryview:
    return memoryview(path.read_bytes())


def _walk(data: memoryview, message: str = "model") -> Iterator[tuple[str, memoryview]]:
    """What `_PROTO` names in a message and in those inside it."""
    for number, value in _fields(data):
        name = _PROTO[message].get(number)
        if name in _PROTO:
            yield from _walk(value, name)
        elif name is not None:
            yield name, value


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Numbers and contents of the length-delimited fields of a protocol buffer's message."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            length = varint()
            if position + length > len(data):
                raise ValueError("truncated")
            yield number, data[position : position + length]
            position += length
        else:
            raise ValueError(f"wire type {kind}")
