"""What khorus.ray and khorus.dask share: places, ports, and which failure is the cause. No cluster
is needed."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from khorus import _cluster
from khorus._cluster import Failure, Outcome, Place, ReservedPort, Secret
from khorus.exceptions import HorovodInternalError, RankFailedError


def test_ranks_of_a_machine_follow_each_other() -> None:
    order, places = _cluster.arranged(["a", "b", "a", "c", "b", "a"])
    assert order == [0, 2, 5, 1, 4, 3]
    assert places == [
        Place(0, 6, 0, 3, 0, 3),
        Place(1, 6, 1, 3, 0, 3),
        Place(2, 6, 2, 3, 0, 3),
        Place(3, 6, 0, 2, 1, 3),
        Place(4, 6, 1, 2, 1, 3),
        Place(5, 6, 0, 1, 2, 3),
    ]


def test_only_jobs_of_several_hosts_have_a_store() -> None:
    of_one = Place(0, 2, 0, 2, 0, 1).variables("Ray", "job", "")
    assert "KHORUS_STORE" not in of_one and of_one["KHORUS_LAUNCHER"] == "Ray"
    of_two = Place(1, 2, 0, 1, 1, 2).variables("Ray", "job", "10.0.0.1:7")
    assert of_two["KHORUS_STORE"] == "10.0.0.1:7" and of_two["KHORUS_CROSS_RANK"] == "1"


def test_ranks_get_the_knobs_of_the_driver_and_not_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "KHORUS_RANK", "HOROVOD_SIZE", "KHORUS_KEY_FILE", "HOROVOD_SECRET_KEY", "OTHER":
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KHORUS_LOG_LEVEL", "info")
    knobs = {n: v for n, v in _cluster.knobs_of_this_process().items() if "_TEST_" not in n}
    assert knobs == {"KHORUS_LOG_LEVEL": "info"}
    kept = _cluster.without_other_jobs(os.environ)
    assert "OTHER" in kept and "KHORUS_RANK" not in kept and "KHORUS_KEY_FILE" not in kept


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_reserved_port_can_be_served_by_its_address_only(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        port = ReservedPort(host)
    except OSError as error:
        pytest.skip(f"{host}: {error}")
    name, number = port.address.rsplit(":", 1)
    assert name.strip("[]") == host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other, pytest.raises(OSError):
        other.bind((host, int(number)))  # it is taken for who does not ask for this
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, int(number)))
        server.listen()
        with socket.create_connection((host, int(number)), timeout=10):
            pass
    port.close()


def test_the_key_is_in_a_pipe_and_in_no_text() -> None:
    secret = Secret(b"k" * 32)
    assert "kk" not in repr(secret)
    descriptor = _cluster.key_descriptor(secret)
    assert not os.get_inheritable(descriptor)
    with os.fdopen(descriptor, "rb") as pipe:
        assert pipe.read() == b"k" * 32


def outcome_of(error: BaseException) -> Outcome:
    def fail() -> None:
        raise error

    return _cluster.attempted(fail)


def collected(*ended: tuple[int, Outcome], size: int = 3) -> list[object]:
    """As if ranks had ended in this order, and then nothing more had happened."""
    events = iter(ended)

    def next_outcome(timeout_s: float | None) -> tuple[int, Outcome] | None:
        event = next(events, None)
        assert event is not None or timeout_s is not None, "this would wait for ever"
        return event

    names = [f"rank {rank}" for rank in range(size)]
    return _cluster.collected(names, [f"host-{rank}" for rank in range(size)], next_outcome)


def lost(rank: int) -> HorovodInternalError:
    error = HorovodInternalError(f"rank {rank} is lost")
    error.lost_rank = rank
    return error


def test_values_are_sorted_by_rank() -> None:
    ends = [(rank, Outcome(value=10 * rank)) for rank in (2, 0, 1)]
    assert collected(*ends) == [0, 10, 20]


def test_the_first_failure_ends_the_job_at_once() -> None:
    with pytest.raises(
        RankFailedError, match=r"^rank 1 failed: ValueError: no data; the other"
    ) as e:
        collected((0, Outcome(value=1)), (1, outcome_of(ValueError("no data"))))
    assert (e.value.rank, e.value.host) == (1, "host-1")
    assert isinstance(e.value.__cause__, ValueError)
    assert "in fail" in str(e.value) and "attempted" not in str(e.value)
    again = pickle.loads(pickle.dumps(e.value))
    assert (str(again), again.rank, again.host) == (str(e.value), 1, "host-1")


def test_the_cause_is_waited_for_when_others_tell_of_it() -> None:
    wrapped = RuntimeError("training failed")
    wrapped.__cause__ = lost(2)
    told = [(0, outcome_of(wrapped)), (1, outcome_of(lost(2)))]
    with pytest.raises(RankFailedError, match=r"^rank 2 failed: its process ended") as caught:
        collected(*told, (2, Outcome(failure=Failure("its process ended"))))
    assert caught.value.rank == 2
    # If nothing more comes, they are believed.
    with pytest.raises(RankFailedError, match=r"^rank 2 failed: .*\(so says rank 0\)") as caught:
        collected(*told)
    assert (caught.value.rank, caught.value.host) == (2, "host-2")


def test_an_exit_is_a_failure() -> None:
    with pytest.raises(RankFailedError, match="SystemExit: 0"):
        collected((0, outcome_of(SystemExit(0))), size=1)


def break_here() -> None:
    raise RuntimeError("not here")


class OnlyOutwards(Exception):
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return break_here, ()


def test_exceptions_that_cannot_travel_are_told_as_text() -> None:
    with pytest.raises(RankFailedError, match="OnlyOutwards: 1 and 2") as caught:
        collected((0, outcome_of(OnlyOutwards("1 and 2"))), size=1)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name, needs", [("ray", "ray"), ("dask", "distributed")])
def test_what_is_not_installed_is_named(name: str, needs: str) -> None:
    program = f"import sys; sys.modules[{needs!r}] = None; import khorus.{name}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: khorus.{name} needs" in done.stderr, done.stderr
    assert f"pip install 'khorus[{name}]'" in done.stderr, done.stderr
