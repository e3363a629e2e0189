"""What khorus.ray and khorus.dask have in common: places, how a rank ended, the one error.

The driver is the process that asks for a job in somebody else's cluster; it is no rank. It makes
the job's key, learns where the ranks are, gives each its place, and hears how each ended.
Not public.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from khorus.exceptions import HorovodInternalError, RankFailedError

# A rank that lost another one may tell of it before the cluster tells of the one that was lost.
PATIENCE_S = 5.0

_PLACE = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
# What belongs to one job, not to the next one that starts inside it.
_OF_ONE_JOB = frozenset(
    [f"{prefix}_{name}" for prefix in ("KHORUS", "HOROVOD") for name in _PLACE]
    + [f"KHORUS_{name}" for name in ("JOB_ID", "KEY_FD", "KEY_FILE", "LAUNCHER", "STATUS_FD")]
    + ["KHORUS_SECRET_KEY", "KHORUS_STORE", "HOROVOD_SECRET_KEY"]
)

# What calls a rank's function: no part of its traceback.
_CALLERS = {
    str(Path(__file__).with_name(f"{name}.py")) for name in ("_cluster", "_dask_rank", "ray")
}


@dataclass(frozen=True)
class Secret:
    """The job's key, on its way to a rank: in no log that shows the arguments of a call."""

    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Seat:
    """Where a rank can run, as it describes itself."""

    machine: tuple[str, ...]  # equal for those that can share memory, as the engine judges it
    name: str
    address: str  # by which the ranks of other hosts reach it
    pid: int
    devices: tuple[str, ...] = ()  # the accelerators that are its own

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def own_seat(address: str, devices: Sequence[str] = ()) -> Seat:
    def namespace(kind: str) -> str:
        link = Path(f"/proc/self/ns/{kind}")
        return str(link.readlink()) if link.is_symlink() else socket.gethostname()

    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else socket.gethostname()
    where = (machine, namespace("net"), namespace("user"), str(os.geteuid()))
    return Seat(where, socket.gethostname(), address, os.getpid(), tuple(devices))


@dataclass(frozen=True)
class Place:
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    def variables(self, launcher: str, job: str, store: str) -> dict[str, str]:
        """What init() reads. `store`: where rank 0 serves it; of one host: nowhere."""
        values = (
            self.rank,
            self.size,
            self.local_rank,
            self.local_size,
            self.cross_rank,
            self.cross_size,
        )
        found = {f"KHORUS_{name}": str(value) for name, value in zip(_PLACE, values, strict=True)}
        found["KHORUS_JOB_ID"] = job
        found["KHORUS_LAUNCHER"] = launcher
        if self.cross_size > 1:
            found["KHORUS_STORE"] = store
        return found


def arranged(machines: Sequence[object]) -> tuple[list[int], list[Place]]:
    """Of seats on these machines: which seat has rank 0, 1, ..., and the places by rank.

    The ranks of a machine follow each other; machines keep the order in which they come first.
    """
    hosts: dict[object, list[int]] = {}
    for seat, machine in enumerate(machines):
        hosts.setdefault(machine, []).append(seat)
    order: list[int] = []
    places: list[Place] = []
    for cross_rank, seats in enumerate(hosts.values()):
        for local_rank, seat in enumerate(seats):
            cross = (cross_rank, len(hosts))
            places.append(Place(len(order), len(machines), local_rank, len(seats), *cross))
            order.append(seat)
    return order, places


def knobs_of_this_process() -> dict[str, str]:
    """The knobs that the driver was given, for its ranks: no places, no keys."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("KHORUS_", "HOROVOD_")) and name not in _OF_ONE_JOB
    }


def without_other_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _OF_ONE_JOB}


def key_descriptor(secret: Secret) -> int:
    """For KHORUS_KEY_FD: a pipe that holds the key. init() reads it once, and closes it."""
    reading, writing = os.pipe()
    os.write(writing, secret.key)
    os.close(writing)
    return reading


class ReservedPort:
    """A port on which rank 0 will serve the store, and that nobody is given before it does.

    Two sockets may be bound to one port as long as one of them listens at most (SO_REUSEADDR, see
    socket(7)); the system gives a bound port to nobody who asks for any.
    """

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        port = self._socket.getsockname()[1]
        self.address = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Failure:
    cause: str  # "ValueError: the file is empty"
    trace: str = ""
    exception: bytes | None = None  # pickled, where it can be
    is_consequence: bool = False  # of another rank's failure, as far as this one can tell
    lost_rank: int = -1


@dataclass(frozen=True)
class Outcome:
    """How a rank's function ended."""

    value: Any = None
    failure: Failure | None = None


def attempted(call: Callable[[], Any]) -> Outcome:
    """In a rank. Whatever ends the function is for the driver to hear, sys.exit() too."""
    try:
        return Outcome(value=call())
    except BaseException as error:
        return Outcome(failure=_failure_of(error))


def _failure_of(error: BaseException) -> Failure:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    engine = next((link for link in chain if isinstance(link, HorovodInternalError)), None)
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename in _CALLERS:
        trace = trace.tb_next
    try:
        import cloudpickle

        exception = bytes(cloudpickle.dumps(error))
    except Exception:  # an exception may hold anything; its text is told all the same
        exception = None
    return Failure(
        cause="".join(traceback.format_exception_only(error)).strip(),
        trace="".join(traceback.format_exception(type(error), error, trace)),
        exception=exception,
        is_consequence=engine is not None,
        lost_rank=int(getattr(engine, "lost_rank", -1)),
    )


NextOutcome = Callable[[float | None], tuple[int, Outcome] | None]


def collected(ranks: Sequence[str], hosts: Sequence[str], next_outcome: NextOutcome) -> list[Any]:
    """The values of all ranks; RankFailedError when one of them failed.

    `next_outcome(timeout_s)`: the next rank that ended and how, or None when the time is over.
    `ranks` are their names in errors.
    """
    values: dict[int, Any] = {}
    failures: dict[int, Failure] = {}
    deadline: float | None = None
    while len(values) + len(failures) < len(ranks):
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ended = next_outcome(left)
        if ended is None:
            break
        rank, outcome = ended
        if outcome.failure is None:
            values[rank] = outcome.value
            continue
        failures[rank] = outcome.failure
        if not outcome.failure.is_consequence:
            break
        deadline = deadline or time.monotonic() + PATIENCE_S
    if failures:
        raise _error_of(failures, ranks, hosts)
    return [values[rank] for rank in range(len(ranks))]


def _error_of(
    failures: Mapping[int, Failure], ranks: Sequence[str], hosts: Sequence[str]
) -> RankFailedError:
    """About the first failure that is no consequence; else about the rank that others have lost."""
    told_by = next((r for r, f in failures.items() if not f.is_consequence), next(iter(failures)))
    failure = failures[told_by]
    rank = told_by
    if failure.is_consequence and 0 <= failure.lost_rank < len(ranks):
        rank = failure.lost_rank
    text = f"{ranks[rank]} failed: {failure.cause}"
    if rank != told_by:
        text += f" (so says {ranks[told_by]})"
    if len(ranks) > 1:
        text += "; the other ranks were ended"
    if failure.trace:
        text += "\n" + failure.trace.rstrip()
    error = RankFailedError(text, rank, hosts[rank])
    error.__cause__ = _unpickled(failure.exception)
    return error


def _unpickled(exception: bytes | None) -> BaseException | None:
    try:
        found = pickle.loads(exception) if exception else None
    except Exception:  # many exceptions pickle and do not unpickle; the text says what it was
        return None
    return found if isinstance(found, BaseException) else None
