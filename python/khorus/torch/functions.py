"""Broadcast of parameters, optimizer state and objects; allgather of objects."""

from __future__ import annotations

import collections.abc
import itertools
from typing import Any

import torch

from khorus._core import object_key
from khorus._signed import opened, signed
from khorus.basics import rank
from khorus.exceptions import HorovodInternalError
from khorus.process_sets import ProcessSet, global_process_set, id_of
from khorus.torch._device import gpu_among, is_gpu
from khorus.torch.mpi_ops import allgather, broadcast_, broadcast_async_, synchronize

__all__ = [
    "allgather_object",
    "broadcast_object",
    "broadcast_optimizer_state",
    "broadcast_parameters",
]


def broadcast_parameters(
    params: Any, root_rank: int, process_set: ProcessSet = global_process_set
) -> None:
    """The root's values of all tensors of `params` (a state_dict(), or named_parameters()), in
    place on every rank."""
    if isinstance(params, collections.abc.Mapping):
        named = sorted(params.items())
    elif isinstance(params, collections.abc.Iterable):
        named = [p if isinstance(p, tuple) else (str(i), p) for i, p in enumerate(params)]
    else:
        raise ValueError(f"broadcast_parameters: params is a {type(params).__name__}")
    handles = [
        broadcast_async_(p, root_rank, f"broadcast.{name}", process_set)
        for name, p in named
        if isinstance(p, torch.Tensor)
    ]
    for handle in handles:
        synchronize(handle)


class _Missing:
    """In place of a tensor in an object that travels: its number in the list of tensors."""

    def __init__(self, number: int, shape: torch.Size, dtype: torch.dtype) -> None:
        self.number, self.shape, self.dtype = number, shape, dtype


def _without_tensors(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors.append(value.detach())
        return _Missing(len(tensors) - 1, value.shape, value.dtype)
    if isinstance(value, dict):
        return {key: _without_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_tensors(item, tensors) for item in value)
    return value


def _with_tensors(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, _Missing):
        return tensors[value.number]
    if isinstance(value, dict):
        return {key: _with_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_tensors(item, tensors) for item in value)
    return value


def broadcast_optimizer_state(
    optimizer: torch.optim.Optimizer,
    root_rank: int,
    model: torch.nn.Module | None = None,
    process_set: ProcessSet = global_process_set,
) -> None:
    """The root's state and options of any torch.optim optimizer, fresh or used, on every rank.

    The parameters themselves are broadcast_parameters' business. `model` is Horovod's, and not
    needed."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"broadcast_optimizer_state: expected an optimizer, got {optimizer!r}")
    tensors: list[torch.Tensor] = []
    skeleton = _without_tensors(optimizer.state_dict(), tensors)
    shapes = [(t.shape, t.dtype, is_gpu(t.device)) for t in tensors]
    skeleton, shapes = broadcast_object(
        (skeleton, shapes), root_rank, "optimizer_state", process_set
    )
    if rank() != root_rank:
        every = (p for group in optimizer.param_groups for p in group["params"])
        own = gpu_among(every) or torch.device("cpu")
        tensors = [
            torch.empty(shape, dtype=dtype, device=own if on_gpu else "cpu")
            for shape, dtype, on_gpu in shapes
        ]
    handles = [
        broadcast_async_(tensor, root_rank, f"optimizer_state.{i}", process_set)
        for i, tensor in enumerate(tensors)
    ]
    for handle in handles:
        synchronize(handle)
    if rank() != root_rank:
        state = _with_tensors(skeleton, tensors)
        optimizer.load_state_dict(state)
        # Which casts what is floating-point to the parameter's dtype; the root's are kept as is.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, of_parameter in state["state"].items():
            if isinstance(number, int):
                optimizer.state[parameters[number]] = of_parameter


# An old message is not taken for a new one: each has a number, which is signed with it, and higher
# than that of the one before in the same way. The key says which engine the last ones were of.
_numbers = itertools.count(1)
_last: dict[str, int] = {}
_last_under = b""


def _bytes_of(obj: Any, way: str, number: int) -> torch.Tensor:
    data = signed(object_key(), f"{way}, number {number}", obj)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _object_of(data: torch.Tensor, way: str, number: int) -> Any:
    global _last_under
    key = object_key()
    if key != _last_under:
        _last.clear()
        _last_under = key
    if number <= _last.get(way, 0):
        raise HorovodInternalError(
            f"{way}: number {number} came after number {_last[way]}: an old message, sent again; "
            "it was not unpickled"
        )
    obj = opened(key, f"{way}, number {number}", data.numpy().tobytes())
    _last[way] = number
    return obj


_NO_PICKLE = -1  # instead of a length: the others do not wait for what does not come


def _packed(obj: Any, way: str) -> tuple[list[int], torch.Tensor, Exception | None]:
    """Length and number, the bytes, and why there are none."""
    number = next(_numbers)
    try:
        data = _bytes_of(obj, way, number)
    except Exception as error:
        return [_NO_PICKLE, number], torch.empty(0, dtype=torch.uint8), error
    return [data.numel(), number], data, None


def broadcast_object(
    obj: Any,
    root_rank: int = 0,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """The root's object, pickled on its way, with a MAC under a key of the job that is verified
    before unpickling. What the root cannot pickle raises its own error there, and
    HorovodInternalError elsewhere."""
    name = name or "object"
    way = f"{name!r} from rank {root_rank} in process set {id_of(process_set)}"
    is_root = rank() == root_rank
    header, data, failure = [0, 0], torch.empty(0, dtype=torch.uint8), None
    if is_root:
        header, data, failure = _packed(obj, way)
    header = broadcast_(torch.tensor(header), root_rank, f"{name}.length", process_set).tolist()
    length, number = header
    if length == _NO_PICKLE:
        raise failure or HorovodInternalError(f"{way}: the object cannot be pickled there")
    if not is_root:
        data = torch.empty(length, dtype=torch.uint8)
    broadcast_(data, root_rank, f"{name}.data", process_set)
    return obj if is_root else _object_of(data, way, number)


def allgather_object(
    obj: Any, name: str | None = None, process_set: ProcessSet = global_process_set
) -> list[Any]:
    """The objects of all ranks of the set, in rank order. They travel as broadcast_object's."""
    name = name or "objects"
    place, ranks = process_set.rank(), process_set.ranks or []
    ways = [f"{name!r} from rank {r} to all of process set {id_of(process_set)}" for r in ranks]
    header, data, failure = _packed(obj, ways[place])
    headers = allgather(torch.tensor([header]), f"{name}.lengths", process_set).tolist()
    for way, (length, _) in zip(ways, headers, strict=True):
        if length == _NO_PICKLE:
            raise failure or HorovodInternalError(f"{way}: the object cannot be pickled there")
    gathered = allgather(data, f"{name}.data", process_set)
    pieces = torch.split(gathered, [length for length, _ in headers])
    return [
        _object_of(piece, way, number)
        for piece, way, (_, number) in zip(pieces, ways, headers, strict=True)
    ]
