"""Ranks in a Dask cluster: khorus.dask.run.

    from distributed import Client
    import khorus.dask
    client = Client("scheduler:8786")
    losses = khorus.dask.run(train, args=[config])     # by rank; train() calls khorus.init()

A rank is a process that a task starts beside the worker to which the task is pinned, one rank a
worker. The first rank that fails ends the job. The workers outlive it, as they were before.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any

try:
    import cloudpickle
    import distributed
    from distributed.comm import get_address_host
except ImportError as error:
    raise ImportError(
        "khorus.dask needs Dask's distributed, which cannot be imported "
        f"({error}): pip install 'khorus[dask]'"
    ) from error

from khorus import _cluster
from khorus._cluster import Failure, Outcome, ReservedPort, Seat, Secret
from khorus._dask_rank import RankProcess
from khorus.exceptions import RankFailedError

__all__ = ["RankFailedError", "run"]


def run(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    client: Any = None,
    num_ranks: int | None = None,
    *,
    workers: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    start_timeout: float = 30,
) -> list[Any]:
    """fn(*args, **kwargs) in a new process beside each worker; the results by rank.

    client: a distributed.Client; None: the one that was made last. num_ranks: on as many workers;
    None: on all. workers: their addresses, if it matters which. env: added to the environment of
    the ranks, which is the worker's with the knobs of this process (KHORUS_*, HOROVOD_*).
    start_timeout: seconds in which all workers must begin, and then all ranks meet in init().

    RankFailedError: a rank failed, or its worker was lost. Then all ranks have been ended.
    """
    client = distributed.default_client() if client is None else client
    if client.asynchronous:
        raise ValueError(
            "khorus.dask.run(client=...): the client is asynchronous; this call blocks"
        )
    call = cloudpickle.dumps((fn, tuple(args), dict(kwargs or {})))
    addresses = _chosen(client, num_ranks, workers)
    with _Job(client, addresses, start_timeout) as job:
        return job.results(call, job.prepare(env or {}))


def _chosen(client: Any, num_ranks: int | None, workers: Sequence[str] | None) -> list[str]:
    there = sorted(client.nthreads(), key=lambda address: (get_address_host(address), address))
    if workers is not None:
        missing = sorted(set(workers) - set(there))
        if missing or len(set(workers)) < len(workers):
            raise ValueError(
                f"khorus.dask.run(workers={list(workers)}): expected different ones of {there}"
            )
        there = list(workers)
    count = len(there) if num_ranks is None else num_ranks
    if not 1 <= count <= len(there):
        raise ValueError(
            f"khorus.dask.run(num_ranks={num_ranks}): there are {len(there)} workers, and each "
            "takes one rank"
        )
    return there[:count]


# In the workers. Several may be threads of one process, hence the address.

_processes: dict[tuple[str, str], RankProcess] = {}


def _prepare(job: str, secret: Secret, dask_worker: Any) -> Seat:
    _processes[dask_worker.address, job] = RankProcess(secret)
    return _cluster.own_seat(get_address_host(dask_worker.address))


def _reserve(job: str, dask_worker: Any) -> str:
    port = ReservedPort(get_address_host(dask_worker.address))
    _processes[dask_worker.address, job].port = port
    return port.address


async def _end(job: str, dask_worker: Any) -> None:
    process = _processes.pop((dask_worker.address, job), None)
    if process is not None:
        await asyncio.to_thread(process.end)


def _rank(job: str, variables: Mapping[str, str], call: bytes) -> bytes:
    """The task."""
    worker = distributed.get_worker()
    process = _processes.get((worker.address, job))
    if process is None:
        return pickle.dumps(Outcome(failure=Failure("its worker knows nothing of the job")))
    worker.log_event(worker.address, {"khorus": job})
    return process.run(call, variables)


# In the driver.

_busy: set[tuple[str, str]] = set()  # client and worker
_busy_lock = threading.Lock()


class _Job:
    """From claiming the workers to leaving them as they were.

    What happens arrives in a queue: a worker began or was lost, which it or the scheduler tells in
    the worker's topic, and a rank has ended.
    """

    def __init__(self, client: Any, addresses: Sequence[str], start_timeout: float) -> None:
        self._client = client
        self._addresses = list(addresses)  # by rank, as soon as places are known
        self._start_timeout = start_timeout
        self._id = "dask-" + secrets.token_hex(8)
        self._events: queue.SimpleQueue[tuple[str, Any, Any]] = queue.SimpleQueue()
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="khorus-results")
        self._futures: list[Any] = []
        self._hosts: list[str] = []

    def __enter__(self) -> _Job:
        claims = {(self._client.id, address) for address in self._addresses}
        with _busy_lock:
            taken = sorted(address for _, address in claims & _busy)
            if taken:
                raise ValueError(f"khorus.dask.run(): a job runs on {taken}; one rank a worker")
            _busy.update(claims)
        for address in self._addresses:
            self._client.subscribe_topic(address, partial(self._heard, address))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without a scheduler the workers end, and the ranks with them.
        with contextlib.suppress(OSError, RuntimeError):
            for address in self._addresses:
                self._client.unsubscribe_topic(address)
            alive = [w for w in self._client.nthreads() if w in self._addresses]
            self._client.run(_end, self._id, workers=alive, on_error="ignore")
            self._client.cancel(self._futures, force=True)
        self._futures.clear()
        self._fetcher.shutdown(wait=False)
        with _busy_lock:
            _busy.difference_update((self._client.id, address) for address in self._addresses)

    def prepare(self, env: Mapping[str, str]) -> list[dict[str, str]]:
        """Gives each worker the job's key; returns each rank's environment."""
        secret = Secret(secrets.token_bytes(32))
        seats = self._client.run(_prepare, self._id, secret, workers=self._addresses)
        machines = [seats[address].machine for address in self._addresses]
        order, places = _cluster.arranged(machines)
        self._addresses = [self._addresses[index] for index in order]
        self._hosts = [seats[address].name for address in self._addresses]
        store = ""
        if places[0].cross_size > 1:
            first = self._addresses[:1]
            store = self._client.run(_reserve, self._id, workers=first)[first[0]]
        knobs = {"KHORUS_START_TIMEOUT": str(self._start_timeout)}
        knobs |= _cluster.knobs_of_this_process() | dict(env)
        return [knobs | place.variables("Dask", self._id, store) for place in places]

    def results(self, call: bytes, environments: Sequence[Mapping[str, str]]) -> list[Any]:
        [call_there] = self._client.scatter([call], workers=self._addresses[:1], hash=False)
        for rank, address in enumerate(self._addresses):
            future = self._client.submit(
                _rank,
                self._id,
                environments[rank],
                call_there,
                key=f"{self._id}-rank-{rank}",
                workers=[address],
                allow_other_workers=False,
                pure=False,
            )
            self._futures.append(future)
            future.add_done_callback(partial(self._done, rank))
        began: set[int] = set()
        ended: set[int] = set()
        deadline = time.monotonic() + self._start_timeout

        def next_outcome(timeout_s: float | None) -> tuple[int, Outcome] | None:
            until = None if timeout_s is None else time.monotonic() + timeout_s
            while True:
                starting = len(began) < len(self._addresses)
                ends = [end for end in (until, deadline if starting else None) if end is not None]
                left = max(0.0, min(ends) - time.monotonic()) if ends else None
                try:
                    kind, who, what = self._events.get(timeout=left)
                except queue.Empty:
                    return self._late(began) if starting and until is None else None
                rank = self._addresses.index(who) if kind != "ended" else who
                began.add(rank)
                if kind == "began" or rank in ended:
                    continue
                ended.add(rank)
                return rank, what

        names = [
            f"rank {rank} on {host} (worker {address})"
            for rank, (host, address) in enumerate(zip(self._hosts, self._addresses, strict=True))
        ]
        return _cluster.collected(names, self._hosts, next_outcome)

    def _late(self, began: set[int]) -> tuple[int, Outcome]:
        rank = min(set(range(len(self._addresses))) - began)
        cause = f"its worker did not begin within {self._start_timeout} s; is it busy?"
        return rank, Outcome(failure=Failure(cause))

    def _heard(self, address: str, event: tuple[float, Any]) -> None:
        message = event[1] if isinstance(event[1], dict) else {}
        if message.get("action") == "remove-worker":
            self._events.put(("lost", address, Outcome(failure=Failure("its worker was lost"))))
        elif message.get("khorus") == self._id:
            self._events.put(("began", address, None))

    def _done(self, rank: int, future: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the job is over, and so is the fetcher
            self._fetcher.submit(self._fetch, rank, future)

    def _fetch(self, rank: int, future: Any) -> None:
        try:
            outcome = pickle.loads(future.result())
        except BaseException as error:  # the task failed, or was taken back (CancelledError)
            outcome = Outcome(failure=Failure(f"its task failed: {error!r}"))
        self._events.put(("ended", rank, outcome))
