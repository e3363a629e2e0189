"""Peak memory of DistributedOptimizer against DistributedDataParallel with bucket views.

Not under a launcher. The environment names khorusrun: KHORUS_TEST_KHORUSRUN.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KHORUSRUN = os.environ["KHORUS_TEST_KHORUSRUN"]
RANKS = 2
MIB = 1 << 20


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """This process is no rank."""


@pytest.fixture(autouse=True)
def still_usable() -> None:
    """Nor has it an engine."""


def peaks(*arguments: object) -> tuple[float, float]:
    """RSS and OWN (memory_program.py) in MiB, the mean of the ranks."""
    done = subprocess.run(
        [KHORUSRUN, "-np", str(RANKS), sys.executable, "memory_program.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("peak ")[1].split() for line in done.stdout.splitlines() if "peak " in line]
    assert len(lines) == RANKS, done.stdout
    rss, own = zip(*lines, strict=True)
    return sum(map(int, rss)) / RANKS / MIB, sum(map(int, own)) / RANKS / MIB


def test_has_no_second_copy_of_the_gradients(tmp_path: Path) -> None:
    ours_rss, ours = peaks("khorus")
    ddp_rss, ddp = peaks("ddp", tmp_path / "store")
    print(f"MiB: Khorus {ours:.0f} (RSS {ours_rss:.0f}), DDP {ddp:.0f} (RSS {ddp_rss:.0f})")
    # Holes in the heap come and go by a few gradients, of 4 MiB. A second copy of all is 64 MiB.
    assert ours <= ddp + 40
