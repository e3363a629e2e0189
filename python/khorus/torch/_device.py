"""Tensors of a GPU: their streams, and memory of the engine as tensors. Not public."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from khorus import _core


class Cuda:
    """What is asked of torch about a kind of device. Tests have one of their own."""

    type = "cuda"
    dlpack_type = 2

    def current_stream(self, device: torch.device) -> Any:
        return torch.cuda.current_stream(device)

    def handle_of(self, stream: Any) -> int:
        return int(stream.cuda_stream)

    def record(self, stream: Any, timing: bool = False) -> Any:
        """An event for what is in the stream now."""
        event = torch.cuda.Event(enable_timing=timing)
        event.record(stream)
        return event

    def handle_of_event(self, event: Any) -> int:
        return int(event.cuda_event)


gpu: Any = Cuda()


def is_gpu(device: torch.device) -> bool:
    return device.type == gpu.type


def gpu_among(tensors: Iterable[torch.Tensor]) -> torch.device | None:
    return next((t.device for t in tensors if is_gpu(t.device)), None)


def current_handle(device: torch.device) -> int:
    return int(gpu.handle_of(gpu.current_stream(device)))


# What nobody has any more, with an event for the last use of it.
_retired: list[tuple[Any, object]] = []


def tidy() -> None:
    if _retired:
        _retired[:] = [item for item in _retired if not item[0].query()]


class Loan:
    """Memory of the engine behind a tensor.

    As with torch's own memory, what is in the current stream when the last tensor on it goes may
    still use it. So it is let go of only when that is done."""

    def __init__(self, memory: object, device: torch.device) -> None:
        self.memory = memory
        self.stream = gpu.current_stream(device)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            _retired.append((gpu.record(self.stream), self.memory))


def tensor_over(
    owner: object, address: int, dtype: torch.dtype, shape: Iterable[int], device: torch.device
) -> torch.Tensor:
    """A tensor there, which keeps the owner. REQUIRES: it has elements."""
    shape = tuple(shape)
    count = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
    capsule = _core.dlpack(address, count, gpu.dlpack_type, device.index, owner)
    return torch.utils.dlpack.from_dlpack(capsule).view(dtype).view(shape)
