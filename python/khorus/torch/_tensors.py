"""Tensors for the engine, and its results as tensors. Not public."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from khorus import _core
from khorus.torch import _device
from khorus.torch._device import Loan, current_handle, gpu_among, is_gpu, tensor_over

_NUMBERS = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.bfloat16: 6,
    torch.float32: 7,
    torch.float64: 8,
    torch.bool: 9,
}
_DTYPES = {number: dtype for dtype, number in _NUMBERS.items()}

# Of a GPU: with its number, the stream, an event for what is in that now, and what keeps the event.
View = tuple[int, int, Sequence[int]] | tuple[int, int, Sequence[int], int, int, int, object]


class Handle:
    """One operation under way: what an asynchronous function returns.

    It keeps the tensors of the operation alive until the engine has finished with them, even if it
    is dropped before. `gpu`: where the tensors are, or some of them; then wait() lets the current
    stream wait, and not the host.
    """

    __slots__ = ("_error", "_finish", "_gpu", "_kept", "_result", "_works")

    def __init__(
        self,
        works: list[_core.Work],
        kept: object,
        finish: Callable[[list[_core.Work]], Any],
        gpu: torch.device | None = None,
    ) -> None:
        self._works = works
        self._kept: object = kept
        self._gpu = gpu
        self._finish: Callable[[list[_core.Work]], Any] | None = finish
        self._result: Any = None
        self._error: BaseException | None = None

    def poll(self) -> bool:
        return all(work.poll() for work in self._works)

    def _settle(self) -> BaseException | None:
        error: BaseException | None = None
        stream = None if self._gpu is None else current_handle(self._gpu)
        for work in self._works:  # all of them: what failed may still use memory of others
            try:
                if stream is None:
                    work.wait()
                else:
                    work.wait_on_stream(stream)
            except (RuntimeError, ValueError) as failure:
                error = error or failure
        return error

    def wait(self) -> Any:
        if self._finish is None:
            if self._error is not None:
                raise self._error
            if self._gpu is not None:  # the stream may be another one
                self._settle()
            return self._result
        error = self._settle()
        finish, self._finish = self._finish, None
        self._kept, kept = None, self._kept
        if not self.poll():  # the GPU still uses it
            _abandoned.append((self._works, kept))
        if error is not None:
            self._error = error
            raise error
        self._result = finish(self._works)
        del kept
        return self._result

    def __del__(self) -> None:
        if self._finish is not None and not self.poll():
            _abandoned.append((self._works, self._kept))


# Of handles that were dropped early, or wait in a stream, until their operations are over.
_abandoned: list[tuple[list[_core.Work], object]] = []


def tidy() -> None:
    """Lets go of what abandoned operations no longer need."""
    if _abandoned:
        _abandoned[:] = [item for item in _abandoned if not all(w.poll() for w in item[0])]
    _device.tidy()


def checked(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """A tensor that the engine can read: of the CPU or a GPU, dense, of a known dtype,
    contiguous."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{what}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.is_sparse:
        raise ValueError(f"{what}: the tensor is sparse; use sparse_allreduce_async, or to_dense()")
    if tensor.device.type != "cpu" and not is_gpu(tensor.device):
        raise ValueError(
            f"{what}: the tensor is on {tensor.device}; tensors of the CPU and of CUDA are "
            "carried, copy it to one of them"
        )
    if tensor.dtype not in _NUMBERS:
        raise TypeError(
            f"{what}: {tensor.dtype} cannot be communicated; there are "
            + ", ".join(str(dtype) for dtype in _NUMBERS)
        )
    return tensor.detach().contiguous()


def view(tensor: torch.Tensor) -> View:
    """What is in the current stream of a GPU by now comes before the operation. Whoever submits
    keeps the view as long as the tensor."""
    memory = tensor.data_ptr(), _NUMBERS[tensor.dtype], tuple(tensor.shape)
    if not is_gpu(tensor.device):
        return memory
    stream = _device.gpu.current_stream(tensor.device)
    event = _device.gpu.record(stream)
    handles = _device.gpu.handle_of(stream), _device.gpu.handle_of_event(event)
    return *memory, tensor.device.index, *handles, event


def result_of(work: _core.Work) -> torch.Tensor:
    """The engine's own memory as a tensor, without a copy."""
    result = work.result()
    dtype = _DTYPES[result.dtype]
    shape = tuple(result.shape)
    if result.device >= 0:
        device = torch.device(_device.gpu.type, result.device)
        if 0 in shape:
            return torch.empty(shape, dtype=dtype, device=device)
        return tensor_over(Loan(result, device), result.address, dtype, shape, device)
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(result, dtype=dtype).reshape(shape)


def _check(handle: Handle) -> None:
    if not isinstance(handle, Handle):
        raise TypeError(f"expected what an asynchronous function returned, got {handle!r}")


def poll(handle: Handle) -> bool:
    """Whether synchronize() would return at once."""
    _check(handle)
    return handle.poll()


def synchronize(handle: Handle) -> Any:
    """Waits for an asynchronous operation and returns its result."""
    _check(handle)
    return handle.wait()


def in_place_handle(
    works: list[_core.Work],
    tensors: Sequence[torch.Tensor],
    written: Sequence[torch.Tensor],
    views: Sequence[View],
    grouped: bool = False,
) -> Handle:
    """Of operations that write `written`: `tensors` themselves, or contiguous copies of them."""

    def finish(_: list[_core.Work]) -> Any:
        with torch.no_grad():
            for tensor, result in zip(tensors, written, strict=True):
                if tensor.data_ptr() != result.data_ptr():
                    tensor.copy_(result)
        return list(tensors) if grouped else tensors[0]

    return Handle(works, (tensors, written, views), finish, gpu_among(written))


def member_names(name: str | None, tensors: Sequence[torch.Tensor]) -> list[str]:
    """Of a group that has a name; else the engine makes them."""
    return [] if name is None else [f"{name}.{i + 1}of{len(tensors)}" for i in range(len(tensors))]
