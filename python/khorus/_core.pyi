"""The engine for Python; see python/core.cc. A tensor is (address, dtype number, extents)."""

from collections.abc import Sequence

_Tensor = tuple[int, int, Sequence[int]]

__version__: str

class HorovodInternalError(RuntimeError):
    code: str
    lost_rank: int

class Result:
    """Memory of the engine, with the buffer protocol."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def dtype(self) -> int: ...

class Work:
    @property
    def name(self) -> str: ...
    def poll(self) -> bool: ...
    def wait(self) -> None: ...
    def result(self) -> Result: ...
    def first_extents(self) -> list[int]: ...
    def last_joined(self) -> int: ...

def init(process_sets: Sequence[Sequence[int]], /) -> list[int]: ...
def shutdown() -> None: ...
def is_initialized() -> bool: ...
def place() -> tuple[int, int, int, int, int, int]: ...
def installed_backends() -> list[str]: ...
def backend_name() -> str: ...
def add_process_set(ranks: Sequence[int], /) -> int: ...
def remove_process_set(process_set: int, /) -> None: ...
def process_set_ranks(process_set: int, /) -> list[int]: ...
def start_timeline(path: str, mark_cycles: bool, /) -> None: ...
def stop_timeline() -> None: ...
def metrics_text() -> str: ...
def dump_flight_recorder(path: str, /) -> None: ...
def allreduce(
    name: str,
    input: _Tensor,
    output: _Tensor,
    op: int,
    prescale: float,
    postscale: float,
    process_set: int,
    /,
) -> Work: ...
def grouped_allreduce(
    group: str,
    names: Sequence[str],
    inputs: Sequence[_Tensor],
    outputs: Sequence[_Tensor],
    op: int,
    prescale: float,
    postscale: float,
    process_set: int,
    /,
) -> list[Work]: ...
def reducescatter(
    name: str,
    input: _Tensor,
    op: int,
    prescale: float,
    postscale: float,
    process_set: int,
    /,
) -> Work: ...
def grouped_reducescatter(
    group: str,
    names: Sequence[str],
    inputs: Sequence[_Tensor],
    op: int,
    prescale: float,
    postscale: float,
    process_set: int,
    /,
) -> list[Work]: ...
def allgather(name: str, input: _Tensor, process_set: int, /) -> Work: ...
def grouped_allgather(
    group: str,
    names: Sequence[str],
    inputs: Sequence[_Tensor],
    process_set: int,
    /,
) -> list[Work]: ...
def broadcast(
    name: str,
    input: _Tensor,
    output: _Tensor,
    root_rank: int,
    process_set: int,
    /,
) -> Work: ...
def grouped_broadcast(
    group: str,
    names: Sequence[str],
    inputs: Sequence[_Tensor],
    outputs: Sequence[_Tensor],
    root_rank: int,
    process_set: int,
    /,
) -> list[Work]: ...
def alltoall(name: str, input: _Tensor, splits: Sequence[int], process_set: int, /) -> Work: ...
def grouped_alltoall(
    group: str,
    names: Sequence[str],
    inputs: Sequence[_Tensor],
    splits: Sequence[Sequence[int]],
    process_set: int,
    /,
) -> list[Work]: ...
def send(input: _Tensor, peer: int, tag: int, process_set: int, /) -> Work: ...
def recv(output: _Tensor, peer: int, tag: int, process_set: int, /) -> Work: ...
def join() -> Work: ...
def barrier(name: str, process_set: int, /) -> Work: ...
