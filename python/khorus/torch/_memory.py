"""Memory of the engine in which gradients lie, on the CPU or a GPU. Not public."""

from __future__ import annotations

import torch

from khorus import _core
from khorus.torch._device import Loan, is_gpu, tensor_over


class HostMemory:
    device: torch.device | None = None

    def __init__(self, memory: _core.Memory) -> None:
        self.memory = memory
        self.address, self.bytes = memory.address, memory.bytes

    def part(
        self, offset: int, size: int, dtype: torch.dtype, shape: torch.Size
    ) -> tuple[object, torch.Tensor]:
        """A tensor on a part of it, and what lives as long as somebody has that or a view of it."""
        part = memoryview(self.memory)[offset : offset + size]
        return part, torch.frombuffer(part, dtype=dtype).view(shape)


class _Part:
    __slots__ = ("__weakref__", "loan")

    def __init__(self, loan: Loan) -> None:
        self.loan = loan


class DeviceMemory:
    def __init__(self, memory: _core.Memory, device: torch.device) -> None:
        self.device: torch.device | None = device
        self.address, self.bytes = memory.address, memory.bytes
        self._loan = Loan(memory, device)

    def part(
        self, offset: int, size: int, dtype: torch.dtype, shape: torch.Size
    ) -> tuple[object, torch.Tensor]:
        """As HostMemory's."""
        assert self.device is not None
        part = _Part(self._loan)
        return part, tensor_over(part, self.address + offset, dtype, shape, self.device)


Memory = HostMemory | DeviceMemory


def allocate(size: int, process_set: int, device: torch.device) -> Memory | None:
    """None also before the ranks have met on their GPUs, which the first operation there does."""
    if is_gpu(device):
        there = _core.allocate_on_device(size, process_set)
        return None if there is None else DeviceMemory(there, device)
    memory = _core.allocate(size, process_set)
    return None if memory is None else HostMemory(memory)


def allocated(size: int, process_set: int, device: torch.device) -> Memory:
    memory = allocate(size, process_set, device)
    if memory is None:
        raise MemoryError(
            f"no memory for gradients of {size} bytes on {device}; the other ranks have theirs: "
            "give this rank more"
        )
    return memory
