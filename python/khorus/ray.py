"""Ranks in a Ray cluster: khorus.ray.Executor, which is horovod.ray's RayExecutor for Khorus.

    import ray
    from khorus.ray import Executor
    ray.init(address="auto")
    with Executor(num_workers=4) as executor:
        losses = executor.run(train, args=[config])     # by rank; train() calls khorus.init()

A rank is an actor, which lives from start() to shutdown(): functions that run one after the other
find the engine as the one before has left it. The first rank that fails ends the job.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.util.placement_group import (
        PlacementGroup,
        get_current_placement_group,
        placement_group,
        remove_placement_group,
    )
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError as error:
    raise ImportError(
        f"khorus.ray needs Ray, which cannot be imported ({error}): pip install 'khorus[ray]'"
    ) from error

import khorus
from khorus import _cluster
from khorus._cluster import Failure, Outcome, ReservedPort, Seat, Secret
from khorus.exceptions import RankFailedError

__all__ = ["Executor", "RankFailedError", "RayExecutor", "Settings"]

LEAVE_S = 10.0  # for engines to end well, and for processes to end


@dataclass(frozen=True)
class Settings:
    timeout_s: float = 30  # in which the ranks must meet in init()
    placement_group_timeout_s: float = 100  # in which the cluster must have room for them


class _Rank:
    """The actor."""

    def __init__(self) -> None:
        self._port: ReservedPort | None = None
        self._executable: Any = None

    def seat(self) -> Seat:
        devices = [str(number) for number in ray.get_gpu_ids()]
        return _cluster.own_seat(ray.util.get_node_ip_address(), devices)

    def reserve(self, host: str) -> str:
        self._port = ReservedPort(host)
        return self._port.address

    def sit_down(self, secret: Secret, variables: Mapping[str, str]) -> Outcome:
        kept = _cluster.without_other_jobs(os.environ)
        for name in os.environ.keys() - kept.keys():
            del os.environ[name]
        os.environ.update(variables)
        os.environ["KHORUS_KEY_FD"] = str(_cluster.key_descriptor(secret))
        return Outcome()

    def make(self, work: tuple[Any, Any, Any]) -> Outcome:
        cls, args, kwargs = work

        def call() -> None:
            self._executable = cls(*args, **kwargs)

        return _cluster.attempted(call)

    def call(self, work: tuple[Any, Any, Any]) -> Outcome:
        fn, args, kwargs = work
        return _cluster.attempted(lambda: fn(*args, **kwargs))

    def call_plainly(self, work: tuple[Any, Any, Any]) -> Any:
        fn, args, kwargs = work
        return fn(*args, **kwargs)

    def execute(self, fn: Callable[[Any], Any]) -> Outcome:
        return _cluster.attempted(lambda: fn(self._executable))

    def leave(self) -> None:
        khorus.shutdown()


class Executor:
    """Ranks in the Ray cluster to which this process is connected (ray.init()).

    num_workers: ranks, placed as closely as possible. Or num_hosts with num_workers_per_host.
    cpus_per_worker, use_gpu, gpus_per_worker: what Ray reserves for each rank. With use_gpu, all
    ranks of a host see the GPUs of all of them, in the order of local ranks, as under khorusrun.
    use_current_placement_group: in a placement group, the ranks are in it too.
    settings: from create_settings().
    """

    def __init__(
        self,
        settings: Settings | None = None,
        num_workers: int | None = None,
        num_hosts: int | None = None,
        num_workers_per_host: int = 1,
        cpus_per_worker: float = 1,
        use_gpu: bool = False,
        gpus_per_worker: int | None = None,
        use_current_placement_group: bool = True,
    ) -> None:
        if (num_workers is None) == (num_hosts is None):
            raise ValueError(
                f"Executor(num_workers={num_workers}, num_hosts={num_hosts}): give one of them"
            )
        for name, value in (
            ("num_workers", num_workers),
            ("num_hosts", num_hosts),
            ("num_workers_per_host", num_workers_per_host),
            ("gpus_per_worker", gpus_per_worker),
        ):
            if value is not None and value < 1:
                raise ValueError(f"Executor({name}={value}): expected 1 or more")
        if gpus_per_worker is not None and not use_gpu:
            raise ValueError(
                f"Executor(gpus_per_worker={gpus_per_worker}, use_gpu=False): give use_gpu=True too"
            )
        self._settings = settings or Settings()
        self._bundle = {"CPU": float(cpus_per_worker)}
        if use_gpu:
            self._bundle["GPU"] = float(gpus_per_worker or 1)
        self._hosts = num_hosts
        self._size = num_workers or (num_hosts or 0) * num_workers_per_host
        self._use_current = use_current_placement_group
        self._group: PlacementGroup | None = None  # if it is ours
        self._ranks: list[Any] = []  # the actors, by rank
        self._seats: list[Seat] = []
        self._why_ended = "start() was not called"

    @classmethod
    def create_settings(
        cls,
        timeout_s: float = 30,
        ssh_identity_file: str | None = None,
        ssh_str: str | None = None,
        placement_group_timeout_s: float = 100,
    ) -> Settings:
        """Ray starts the ranks: what is about ssh changes nothing."""
        return Settings(timeout_s, placement_group_timeout_s)

    @property
    def num_workers(self) -> int:
        return self._size

    def start(
        self,
        executable_cls: type | None = None,
        executable_args: Sequence[Any] | None = None,
        executable_kwargs: Mapping[str, Any] | None = None,
        extra_env_vars: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the ranks; each makes an object of executable_cls for execute().

        The ranks have the knobs of this process (KHORUS_*, HOROVOD_*), and extra_env_vars.
        """
        if self._ranks:
            raise RuntimeError("Executor.start(): the ranks run already; shutdown() ends them")
        if not ray.is_initialized():
            raise RuntimeError(
                "Executor.start(): this process is not connected to Ray; call ray.init() before"
            )
        try:
            self._ranks = self._actors()
            self._place_them(extra_env_vars or {})
            if executable_cls is not None:
                work = (executable_cls, executable_args or (), executable_kwargs or {})
                self._on_all("make", work)
        except BaseException as error:
            self._end(f"start() failed: {error}")
            raise

    def run(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """fn(*args, **kwargs) on every rank; the results by rank.

        RankFailedError: a rank failed. Then all have been ended, and start() may follow.
        """
        return self._run("call", (fn, tuple(args or ()), dict(kwargs or {})))

    def run_remote(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """As run(), but returns at once, with the references for ray.get(), by rank. Errors are
        those of Ray, and it is for the caller to end the other ranks then: shutdown()."""
        work = ray.put((fn, tuple(args or ()), dict(kwargs or {})))
        return [rank.call_plainly.remote(work) for rank in self._running()]

    def execute(self, fn: Callable[[Any], Any]) -> list[Any]:
        """fn(the object of executable_cls) on every rank; the results by rank."""
        return self._run("execute", fn)

    def execute_single(self, fn: Callable[[Any], Any]) -> Any:
        """fn(the object of executable_cls) on rank 0 alone; its result."""
        return self._run("execute", fn, ranks=1)[0]

    def shutdown(self) -> None:
        """Ends engines, actors and placement group. No ranks: does nothing."""
        if self._ranks and ray.is_initialized():
            leaving = [rank.leave.remote() for rank in self._ranks]
            ray.wait(leaving, num_returns=len(leaving), timeout=LEAVE_S)
        self._end("shutdown() was called")

    def __enter__(self) -> Executor:
        if not self._ranks:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.shutdown()
        else:
            self._end(f"an error left the with block: {error}")

    # What follows is not public.

    def _running(self) -> list[Any]:
        if not self._ranks:
            raise RuntimeError(f"the Executor has no ranks: {self._why_ended}; call start()")
        return self._ranks

    def _run(self, method: str, work: Any, ranks: int | None = None) -> list[Any]:
        self._running()
        packed = ray.put(work)  # once for all; what cannot be pickled ends here
        try:
            return self._on_all(method, packed, ranks=ranks)
        except BaseException as error:
            self._end(f"a run failed: {(str(error) or repr(error)).splitlines()[0]}")
            raise

    def _actors(self) -> list[Any]:
        group = get_current_placement_group() if self._use_current else None
        bundles = [-1] * self._size  # whichever has room
        if group is None:
            bundles = self._make_group()
            group = self._group
        actor = ray.remote(_Rank)
        gpus = {"num_gpus": self._bundle["GPU"]} if "GPU" in self._bundle else {}
        return [
            actor.options(
                num_cpus=self._bundle["CPU"],
                **gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=bundle
                ),
            ).remote()
            for bundle in bundles
        ]

    def _make_group(self) -> list[int]:
        """The bundle of each rank."""
        count = self._hosts or self._size
        each = self._size // count
        bundle = {name: each * amount for name, amount in self._bundle.items()}
        strategy = "STRICT_SPREAD" if self._hosts else "PACK"
        self._group = placement_group([bundle] * count, strategy=strategy)
        patience = self._settings.placement_group_timeout_s
        if not self._group.wait(timeout_seconds=patience):
            raise RuntimeError(
                f"the Ray cluster has not had room for {count} times {bundle} ({strategy}) within "
                f"{patience} s; it has {ray.cluster_resources()}, of which "
                f"{ray.available_resources()} is free; ask for less, or raise "
                "placement_group_timeout_s"
            )
        return [index // each for index in range(self._size)]

    def _place_them(self, extra: Mapping[str, str]) -> None:
        self._seats = [Seat(("",), "a host not known yet", "", 0)] * self._size
        seats = self._on_all("seat")
        order, places = _cluster.arranged([seat.machine for seat in seats])
        self._ranks = [self._ranks[index] for index in order]
        self._seats = [seats[index] for index in order]
        store = ""
        if places[0].cross_size > 1:
            store = self._on_all("reserve", self._seats[0].address, ranks=1)[0]
        job = "ray-" + secrets.token_hex(8)
        secret = Secret(secrets.token_bytes(32))
        knobs = {"KHORUS_START_TIMEOUT": str(self._settings.timeout_s)}
        knobs |= _cluster.knobs_of_this_process()
        seated = []
        for rank, place, seat in zip(self._ranks, places, self._seats, strict=True):
            variables = {**knobs, **extra, **place.variables("Ray", job, store)}
            if seat.devices:
                variables["CUDA_VISIBLE_DEVICES"] = ",".join(self._devices_beside(seat))
            seated.append(rank.sit_down.remote(secret, variables))
        self._outcomes(seated)

    def _devices_beside(self, seat: Seat) -> list[str]:
        return [d for other in self._seats if other.machine == seat.machine for d in other.devices]

    def _on_all(self, method: str, *args: Any, ranks: int | None = None) -> list[Any]:
        actors = self._ranks[:ranks]
        return self._outcomes([getattr(actor, method).remote(*args) for actor in actors])

    def _outcomes(self, references: list[Any]) -> list[Any]:
        rank_of = {reference: rank for rank, reference in enumerate(references)}
        pending = list(references)

        def next_outcome(timeout_s: float | None) -> tuple[int, Outcome] | None:
            nonlocal pending
            ended, pending = ray.wait(pending, num_returns=1, timeout=timeout_s)
            return (rank_of[ended[0]], self._outcome(ended[0])) if ended else None

        hosts = [seat.name for seat in self._seats]
        names = [f"rank {rank} on {seat}" for rank, seat in enumerate(self._seats)]
        count = len(references)
        return _cluster.collected(names[:count], hosts[:count], next_outcome)

    @staticmethod
    def _outcome(reference: Any) -> Outcome:
        try:
            value = ray.get(reference)
        except RayTaskError as error:  # not of the function: its result cannot be pickled, say
            cause = f"{type(error.cause).__name__}: {error.cause}"
            return Outcome(failure=Failure(cause, f"Ray says: {error}"))
        except RayActorError as error:
            return Outcome(failure=Failure("its process ended", f"Ray says: {error}"))
        except RayError as error:
            return Outcome(failure=Failure(str(error)))
        return value if isinstance(value, Outcome) else Outcome(value=value)

    def _end(self, why: str) -> None:
        """Kills what is left, and waits until Ray knows that it is gone."""
        ranks, self._ranks, self._why_ended = self._ranks, [], why
        group, self._group = self._group, None
        if not ray.is_initialized():  # ray.shutdown() has ended them; a call would start a new Ray
            return
        for rank in ranks:
            ray.kill(rank, no_restart=True)
        if ranks:
            asked = [rank.leave.remote() for rank in ranks]  # fails when the actor is dead
            ray.wait(asked, num_returns=len(asked), timeout=LEAVE_S)
        if group is not None:
            remove_placement_group(group)


RayExecutor = Executor  # as Horovod calls it
