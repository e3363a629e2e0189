"""khorus.ray on a Ray cluster of this machine, which all tests share."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import rank_programs as programs
from traces import KEY_BYTES, Keys, keys, shared_memory, wait_until_gone

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")

from khorus.horovod import names_folder  # noqa: E402
from khorus.ray import Executor, RankFailedError, RayExecutor  # noqa: E402

__all__ = ["keys"]  # a fixture


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Its folder, with the logs of all its processes."""
    before = shared_memory()
    with tempfile.TemporaryDirectory(prefix="khorus-", dir="/tmp") as name:  # short: has sockets
        folder = Path(name)
        (folder / "token").write_text(secrets.token_hex(KEY_BYTES))
        os.environ |= {
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),  # not in the user's home
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        ray.init(
            num_cpus=4,
            num_gpus=2,  # names only: nothing here uses one
            object_store_memory=80 << 20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=name,
        )
        yield folder
        ray.shutdown()
    assert shared_memory() == before


def no_group_is_left() -> bool:
    groups = ray.util.placement_group_table().values()
    return all(group["state"] == "REMOVED" for group in groups)


def test_results_come_by_rank_and_ranks_last_from_run_to_run(cluster: Path, keys: Keys) -> None:
    with Executor(num_workers=3) as executor:
        first = executor.run(programs.place)
        assert [place[:6] for place in first] == [(rank, 3, rank, 3, 0, 1) for rank in range(3)]
        assert executor.run(programs.place) == first  # the same processes, the same engines
        assert executor.run(programs.summed, args=[2], kwargs={"offset": 1}) == [[9.0] * 3] * 3
        assert executor.run(programs.meets_and_leaves, [3]) == [[3.0, 6.0, 9.0]] * 3
        assert len(keys.made) == 1
        assert keys.visible(cluster) == []
    for place in first:
        (cluster / f"pid.{place.rank}").write_text(str(place.pid))
    wait_until_gone(cluster, 3)
    assert no_group_is_left()
    with pytest.raises(RuntimeError, match=r"no ranks: shutdown\(\) was called"):
        executor.run(programs.place)


def test_an_executable_is_kept_in_every_rank(cluster: Path) -> None:
    executor = RayExecutor(
        RayExecutor.create_settings(timeout_s=20), num_hosts=1, num_workers_per_host=2, use_gpu=True
    )
    executor.start(programs.Counter, [5], {"step": 2}, extra_env_vars={"KHORUS_TEST_NAME": "x"})
    try:
        assert executor.execute(lambda counter: counter.next()) == [7, 107]
        assert executor.execute_single(lambda counter: counter.next()) == 9
        assert ray.get(executor.run_remote(programs.summed, args=[1])) == [[1.0] * 3] * 2
        seen = executor.run(programs.environment)
        assert [variables["KHORUS_TEST_NAME"] for variables in seen] == ["x", "x"]
        assert [variables["KHORUS_START_TIMEOUT"] for variables in seen] == ["20", "20"]
        devices = [variables["CUDA_VISIBLE_DEVICES"].split(",") for variables in seen]
        assert devices[0] == devices[1] and sorted(devices[0]) == ["0", "1"]
        with pytest.raises(RuntimeError, match="run already"):
            executor.start()
    finally:
        executor.shutdown()
    executor.shutdown()  # once more does nothing
    assert no_group_is_left()


def test_an_exception_in_a_rank_ends_the_job(cluster: Path, tmp_path: Path) -> None:
    executor = Executor(num_workers=2)
    executor.start()
    with pytest.raises(RankFailedError) as caught:
        executor.run(programs.fails, [tmp_path, 1])
    assert caught.value.rank == 1 and caught.value.host == os.uname().nodename
    text = str(caught.value)
    assert text.startswith(f"rank 1 on {os.uname().nodename} (pid "), text
    assert "failed: ValueError: no data for rank 1; the other ranks were ended" in text, text
    assert text.count("File ") == 1 and "in fails" in text, text  # the traceback of the function
    assert isinstance(caught.value.__cause__, ValueError)
    wait_until_gone(tmp_path, 2)
    assert no_group_is_left()
    with pytest.raises(RuntimeError, match="no ranks: a run failed: rank 1 on"):
        executor.run(programs.place)
    executor.start()  # other processes, another key
    assert executor.run(programs.summed, [1]) == [[1.0] * 3] * 2
    with pytest.raises(RankFailedError, match=r"rank \d on .* failed: TypeError: cannot pickle"):
        executor.run(programs.returns_what_cannot_be_pickled)
    assert no_group_is_left()


@pytest.mark.parametrize("how", ["is_killed", "exits"])
def test_the_end_of_a_process_ends_the_job(cluster: Path, tmp_path: Path, how: str) -> None:
    with (
        pytest.raises(RankFailedError) as caught,
        Executor(num_workers=2) as executor,
    ):
        executor.run(getattr(programs, how), [tmp_path, 1])
    assert caught.value.rank == 1
    text = str(caught.value)
    expected = "its process ended; the" if how == "is_killed" else "SystemExit: nothing to do"
    assert text.startswith("rank 1 on ") and f"failed: {expected}" in text, text
    wait_until_gone(tmp_path, 2)
    assert no_group_is_left()


def test_a_cluster_without_room_is_told(cluster: Path) -> None:
    settings = Executor.create_settings(placement_group_timeout_s=0.5)
    executor = Executor(settings, num_workers=2, cpus_per_worker=3)
    with pytest.raises(RuntimeError, match=r"no.* room for 2 times \{'CPU': 3.0\} .*within 0.5 s"):
        executor.start()
    assert no_group_is_left()


def test_wrong_arguments() -> None:
    for workers, hosts in (None, None), (1, 1), (0, None):
        with pytest.raises(ValueError, match="Executor"):
            Executor(num_workers=workers, num_hosts=hosts)
    with pytest.raises(ValueError, match="use_gpu=True"):
        Executor(num_workers=1, gpus_per_worker=1)


def test_horovods_name_leads_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(str(names_folder()))
    module = importlib.import_module("horovod.ray")
    assert module.RayExecutor is Executor
