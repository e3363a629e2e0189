"""khorus.ray on two hosts. Long, for Ray takes its time to start and to end: in make soak."""

from __future__ import annotations

import os

import pytest

from remote_hosts import Network
from two_hosts import check, network

if os.environ.get("KHORUS_TEST_SOAK") != "1":
    pytest.skip("in make soak", allow_module_level=True)
pytest.importorskip("ray", reason="Ray is not installed: pip install ray")

__all__ = ["network"]  # a fixture

PORT = 6379
START = ["-m", "ray.scripts.scripts", "start", "--block"]
START += ["--object-store-memory=80000000"]
DRIVER = f"""
import subprocess
import sys
import ray
from khorus.ray import Executor

if __name__ == "__main__":
    words = [f"--node-ip-address={{address}}", "--port={PORT}", "--include-dashboard=false"]
    words += ["--num-cpus=2", f"--temp-dir={{folder / 'ray'}}"]
    command = [sys.executable, *{START}, "--head", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as head:
        try:
            said = iter(head.stdout)
            assert any("runtime started" in line for line in said)
            ray.init(address=f"{{address}}:{PORT}", log_to_driver=False)
            with Executor(num_workers=3) as executor:
                report(lambda fn, *args: executor.run(fn, args), folder)
            ray.shutdown()
        finally:
            head.terminate()
            head.communicate()
"""


def test_ranks_of_two_hosts_meet_at_a_store_that_rank_0_serves(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody else is in these networks; and a token would be written to the user's home.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    first, second = network.hosts
    head = f"--address={first.address}:{PORT}"
    check(network, DRIVER, [*START, head, f"--node-ip-address={second.address}", "--num-cpus=1"])
