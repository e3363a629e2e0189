"""A cluster of two hosts, which are network namespaces, and what a job on it must do; needs root.

The driver runs on the first host, with workers for two ranks; one more rank is on the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import rank_programs as programs
from khorus.exceptions import RankFailedError
from remote_hosts import Host, Network, why_not
from traces import wait_until_gone

BOUND_S = 60


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, ExitStack() as stack:
        network = Network(2, Path(folder))
        stack.callback(network.remove)
        network.make()
        yield network


def listening() -> list[str]:
    """The ports of this network namespace on which somebody listens."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sorted(line.split()[1] for line in lines if line.split()[3] == "0A")


def report(run: Callable[..., list[Any]], folder: Path) -> None:
    """In the driver: prints what functions on the ranks have returned, and how a failure looks."""
    said: dict[str, Any] = {
        "places": run(programs.place),
        "sums": run(programs.summed, 1),
        "again": run(programs.meets_and_leaves, 3),
        "variables": run(programs.environment),
    }
    try:
        run(programs.is_killed, folder, 2)
    except RankFailedError as error:
        said["error"] = [error.rank, error.host, str(error)]
    print(json.dumps(said))


def check(network: Network, driver: str, worker: Sequence[str]) -> None:
    """`driver`: a program that calls report(), and knows `address` and `folder`. `worker`: what
    Python runs on the second host until the driver has ended."""
    first, second = network.hosts
    path = network.folder / "driver.py"
    constants = f"address = {first.address!r}\nfolder = Path({str(network.folder)!r})\n"
    path.write_text(f"from pathlib import Path\nfrom two_hosts import *\n{constants}{driver}")
    with subprocess.Popen(second.command(sys.executable, *worker), stderr=subprocess.PIPE) as other:
        try:
            done = subprocess.run(
                first.command(sys.executable, str(path)),
                capture_output=True,
                text=True,
                timeout=2 * BOUND_S,
                check=False,
            )
        finally:
            other.terminate()
            _, other_said = other.communicate(timeout=BOUND_S)
    assert done.returncode == 0, f"{done.stderr}\n{other_said.decode()}"
    check_report(json.loads(done.stdout.splitlines()[-1]), first, second)
    wait_until_gone(network.folder, 3)


def check_report(said: dict[str, Any], first: Host, second: Host) -> None:
    places = [tuple(place[:6]) for place in said["places"]]
    assert places == [(0, 3, 0, 2, 0, 2), (1, 3, 1, 2, 0, 2), (2, 3, 0, 1, 1, 2)]
    assert said["sums"] == [[3.0] * 3] * 3
    assert said["again"] == [[3.0, 6.0, 9.0]] * 3
    stores = {variables["KHORUS_STORE"] for variables in said["variables"]}
    assert len(stores) == 1 and stores.pop().startswith(f"{first.address}:")
    rank, host, text = said["error"]
    assert (rank, host) == (2, second.name), text
    assert text.startswith(f"rank 2 on {second.name} ("), text
    assert "; the other ranks were ended" in text, text
