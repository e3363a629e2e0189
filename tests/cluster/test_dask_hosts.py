"""khorus.dask on two hosts."""

from __future__ import annotations

import pytest

from remote_hosts import Network
from two_hosts import check, network

pytest.importorskip(
    "distributed", reason="Dask's distributed is not installed: pip install distributed"
)

__all__ = ["network"]  # a fixture

PORT = 8786
DRIVER = f"""
import distributed
import khorus.dask

if __name__ == "__main__":
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host=address, scheduler_port={PORT},
        dashboard_address=None, worker_dashboard_address=None,
    )
    with cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(3, timeout=BOUND_S)
        before = listening()
        report(lambda fn, *args: khorus.dask.run(fn, args, client=client), folder)
        assert listening() == before
"""


def test_ranks_of_two_hosts_meet_at_a_store_that_rank_0_serves(network: Network) -> None:
    scheduler = f"tcp://{network.hosts[0].address}:{PORT}"
    options = ["--nthreads=1", "--no-dashboard", "--death-timeout=60", "--local-directory"]
    words = ["-m", "distributed.cli.dask_worker", scheduler, *options, str(network.folder)]
    check(network, DRIVER, words)
    for host in network.hosts:
        host.wait_until_idle()
