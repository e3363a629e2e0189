"""Collectives on arrays: NumPy's, and anything with the buffer protocol or __dlpack__.

The results are NumPy arrays. What the operations mean is said in docs/api.md; every call blocks
until it is over, from any thread. NumPy is imported at the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khorus import _core
from khorus.process_sets import ProcessSet, global_process_set, id_of
from khorus.reduce_ops import Average, ReduceOp

if TYPE_CHECKING:
    import numpy as np

__all__ = ["allgather", "allreduce", "alltoall", "barrier", "broadcast", "join", "reducescatter"]

_NUMBERS = {
    "uint8": 0,
    "int8": 1,
    "int16": 2,
    "int32": 3,
    "int64": 4,
    "float16": 5,
    "float32": 7,
    "float64": 8,
    "bool": 9,
}
_NAMES = {number: name for name, number in _NUMBERS.items()}


def _array(value: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    array = value if isinstance(value, np.ndarray) else None
    if array is None and hasattr(value, "__dlpack__"):
        array = np.from_dlpack(value)
    if array is None:
        array = np.asarray(value)
    if array.dtype.name not in _NUMBERS:
        raise TypeError(
            f"{type(value).__name__} of dtype {array.dtype} cannot be communicated; there are "
            + ", ".join(_NUMBERS)
        )
    return np.ascontiguousarray(array).reshape(array.shape)


def _view(array: np.ndarray[Any, Any]) -> tuple[int, int, tuple[int, ...]]:
    return array.ctypes.data, _NUMBERS[array.dtype.name], array.shape


def _result(work: _core.Work) -> np.ndarray[Any, Any]:
    import numpy as np

    result = work.result()
    flat: np.ndarray[Any, Any] = np.frombuffer(
        memoryview(result), dtype=np.dtype(_NAMES[result.dtype])
    )
    return flat.reshape(result.shape)


def allreduce(
    array: Any,
    name: str | None = None,
    op: ReduceOp = Average,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> np.ndarray[Any, Any]:
    """The elementwise reduction over the ranks of the set: an array of the same shape and dtype."""
    import numpy as np

    array = _array(array)
    output: np.ndarray[Any, Any] = np.empty_like(array)
    _core.allreduce(
        name or "",
        _view(array),
        _view(output),
        op,
        prescale_factor,
        postscale_factor,
        id_of(process_set),
    ).wait()
    return output


def allgather(
    array: Any, name: str | None = None, process_set: ProcessSet = global_process_set
) -> np.ndarray[Any, Any]:
    """The ranks' arrays one after the other along the first dimension, which may differ by rank."""
    array = _array(array)
    work = _core.allgather(name or "", _view(array), id_of(process_set))
    work.wait()
    return _result(work)


def broadcast(
    array: Any,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> np.ndarray[Any, Any]:
    """The root's array, on every rank. Shape and dtype are the same everywhere."""
    import numpy as np

    array = _array(array)
    output: np.ndarray[Any, Any] = np.empty_like(array)
    _core.broadcast(name or "", _view(array), _view(output), root_rank, id_of(process_set)).wait()
    return output


def alltoall(
    array: Any,
    splits: Any = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Sends the first splits[0] rows to rank 0 of the set, the next splits[1] to rank 1, ...

    Returns the rows received, in rank order; with `splits` also how many came from each rank.
    Without: equal parts."""
    import numpy as np

    array = _array(array)
    rows = [] if splits is None else [int(n) for n in splits]
    work = _core.alltoall(name or "", _view(array), rows, id_of(process_set))
    work.wait()
    received = _result(work)
    if splits is None:
        return received
    return received, np.array(work.first_extents(), dtype=np.int32)


def reducescatter(
    array: Any,
    name: str | None = None,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> np.ndarray[Any, Any]:
    """This rank's rows of the reduction; the first ranks get one more if they cannot be even."""
    array = _array(array)
    work = _core.reducescatter(
        name or "", _view(array), op, prescale_factor, postscale_factor, id_of(process_set)
    )
    work.wait()
    return _result(work)


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Returns when every rank of the set has called it."""
    _core.barrier("", id_of(process_set)).wait()


def join() -> int:
    """This rank has no more data; returns, when all have joined, the last rank that did."""
    work = _core.join()
    work.wait()
    return work.last_joined()
