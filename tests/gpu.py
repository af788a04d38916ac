"""A fake GPU (shapes without values) that detects host synchronisation, for tests on machines without a GPU.

The only place that uses ``FakeTensorMode`` and ``TorchDispatchMode``: torch has no public API for tensors on a device
that is absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class NoCopies(TorchDispatchMode):
    """Raises on copies between devices. CPU scalars are allowed as operands: they are kernel arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.ndim or func in COPIES}
        if len(devices) > 1:
            raise RuntimeError(f"{func} copies between {' and '.join(sorted(devices))}")
        return out


class FakeGPU:
    """Creates tensors and moves networks."""

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor on the fake GPU."""
        return torch.empty(shape, dtype=dtype, device="cuda")

    def put(self, network: nn.Module) -> nn.Module:
        """Replace the parameters and buffers of a network by fake ones."""
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(self.empty(*parameter.shape))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.empty(*buffer.shape, dtype=buffer.dtype)
        return network


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Context in which synchronising with the device, or copying between devices, raises a RuntimeError."""
    with FakeTensorMode(), NoCopies():
        yield FakeGPU()
