"""khorus.dask on a Dask cluster of this machine, which all tests share."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rank_programs as programs
from launching import BOUND_S
from traces import Keys, forms, keys, shared_memory, wait_until_gone

distributed = pytest.importorskip(
    "distributed", reason="Dask's distributed is not installed: pip install distributed"
)

import khorus.dask  # noqa: E402
from khorus.dask import RankFailedError  # noqa: E402

__all__ = ["keys"]  # a fixture


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    before = shared_memory()
    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
    assert shared_memory() == before


def left_in_workers(client: Any) -> list[Any]:
    """Jobs, and children, of all workers."""

    def left() -> tuple[list[Any], str]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return list(khorus.dask._processes), children

    return [what for what in client.run(left).values() if what != ([], "")]


def test_results_come_by_rank(client: Any, keys: Keys) -> None:
    places = khorus.dask.run(programs.place, client=client)
    assert [place[:6] for place in places] == [(rank, 3, rank, 3, 0, 1) for rank in range(3)]
    assert len({place.pid for place in places}) == 3
    # On two of the workers, then on the other two: processes, place and key are new.
    addresses = sorted(client.nthreads())
    for some in addresses[:2], addresses[1:]:
        sums = khorus.dask.run(programs.summed, [2], {"offset": 1}, num_ranks=2, workers=some)
        assert sums == [[4.0] * 3] * 2
    assert khorus.dask.run(programs.meets_and_leaves, [2], num_ranks=1) == [[0.0, 1.0]]
    assert len(keys.made) == 4
    assert left_in_workers(client) == []


def test_the_key_is_in_no_environment_command_line_or_task(client: Any, keys: Keys) -> None:
    def show(dask_scheduler: Any) -> str:
        return repr([(task.key, task.run_spec) for task in dask_scheduler.tasks.values()])

    def wait_in_rank(address: str) -> dict[str, str]:
        with distributed.Client(address, set_as_default=False) as own:
            distributed.Event("there", client=own).set()
            distributed.Event("go on", client=own).wait(BOUND_S)
        return programs.environment()

    results: list[Any] = []
    address = client.scheduler.address
    job = threading.Thread(
        target=lambda: results.extend(
            khorus.dask.run(wait_in_rank, [address], client=client, num_ranks=1)
        )
    )
    job.start()
    assert distributed.Event("there").wait(BOUND_S)
    tasks = client.run_on_scheduler(show)
    assert "-rank-0" in tasks
    assert keys.visible() == []
    distributed.Event("go on").set()
    job.join()
    text = repr(results[0]) + tasks
    assert results[0]["KHORUS_JOB_ID"].startswith("dask-")
    assert not any(form.decode("latin-1") in text for key in keys.made for form in forms(key))


def test_an_exception_in_a_rank_ends_the_job(client: Any, tmp_path: Path) -> None:
    with pytest.raises(RankFailedError) as caught:
        khorus.dask.run(programs.fails, [tmp_path, 1], client=client)
    assert caught.value.rank == 1 and caught.value.host == os.uname().nodename
    text = str(caught.value)
    assert re.match(rf"rank 1 on {os.uname().nodename} \(worker tcp://", text), text
    assert "failed: ValueError: no data for rank 1; the other ranks were ended" in text, text
    assert text.count("File ") == 1 and "in fails" in text, text  # the traceback of the function
    assert isinstance(caught.value.__cause__, ValueError)
    wait_until_gone(tmp_path, 3)
    assert left_in_workers(client) == []


@pytest.mark.parametrize(
    "how, expected",
    [
        ("is_killed", r"its process \(pid \d+\) was killed by signal 9 \(SIGKILL\)"),
        ("exits", "SystemExit: nothing to do"),
    ],
)
def test_the_end_of_a_process_ends_the_job(
    client: Any, tmp_path: Path, how: str, expected: str
) -> None:
    with pytest.raises(RankFailedError) as caught:
        khorus.dask.run(getattr(programs, how), [tmp_path, 1], client=client)
    assert caught.value.rank == 1
    assert re.search(f"^rank 1 on .* failed: {expected}", str(caught.value)), caught.value
    wait_until_gone(tmp_path, 3)
    assert left_in_workers(client) == []


def test_what_cannot_be_pickled_is_told(client: Any) -> None:
    with pytest.raises(RankFailedError, match="its result, of type generator, cannot be pickled"):
        khorus.dask.run(programs.returns_what_cannot_be_pickled, client=client, num_ranks=1)


def test_a_busy_worker_is_told_and_left_alone(client: Any) -> None:
    last = sorted(client.nthreads())[-1]
    event = distributed.Event("busy")
    other = client.submit(event.wait, BOUND_S, workers=[last], pure=False)
    with pytest.raises(RankFailedError, match=r"rank 2 .*did not begin within 1 s; is it busy\?"):
        khorus.dask.run(programs.place, client=client, start_timeout=1)
    event.set()
    assert other.result() is True
    assert left_in_workers(client) == []
    assert len(khorus.dask.run(programs.place, client=client)) == 3


def test_wrong_arguments(client: Any) -> None:
    with pytest.raises(ValueError, match="there are 3 workers, and each takes one rank"):
        khorus.dask.run(programs.place, client=client, num_ranks=4)
    with pytest.raises(ValueError, match="expected different ones of"):
        khorus.dask.run(programs.place, client=client, workers=["tcp://127.0.0.1:9"])


def test_the_end_of_a_worker_ends_its_rank_and_the_job(client: Any, tmp_path: Path) -> None:
    before = sorted(client.nthreads())
    with pytest.raises(RankFailedError, match=r"rank 1 on .* failed: its worker was lost; ") as e:
        khorus.dask.run(programs.kills_its_parent, [tmp_path, 1], client=client)
    assert e.value.rank == 1
    wait_until_gone(tmp_path, 3)
    # Dask's nanny makes another worker, sooner or later; the others are as they were.
    others = [before[0], before[2]]
    assert khorus.dask.run(programs.summed, [1], client=client, workers=others) == [[1.0] * 3] * 2
