"""What the ranks of the tests do. A module, so that the workers find the functions by name."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

import khorus


class Place(NamedTuple):
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    pid: int
    devices: str


def place() -> Place:
    khorus.init()
    return Place(
        khorus.rank(),
        khorus.size(),
        khorus.local_rank(),
        khorus.local_size(),
        khorus.cross_rank(),
        khorus.cross_size(),
        os.getpid(),
        os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    )


def summed(factor: int, *, offset: int = 0) -> list[float]:
    khorus.init()
    own = np.full(3, factor * khorus.rank() + offset, dtype=np.float32)
    result: list[float] = np.asarray(khorus.allreduce(own, op=khorus.Sum, name="summed")).tolist()
    return result


def meets_and_leaves(times: int) -> list[float]:
    """An engine after the other."""
    sums = []
    for time in range(times):
        sums += summed(1, offset=time)[:1]
        khorus.shutdown()
    return sums


def environment() -> dict[str, str]:
    khorus.init()
    return dict(os.environ)


def _begin(folder: Path) -> None:
    """Leaves this process's number, for a test that wants to know whether it is gone."""
    khorus.init()
    partial = folder / f"partial.{khorus.rank()}"
    partial.write_text(str(os.getpid()))
    partial.rename(folder / f"pid.{khorus.rank()}")
    khorus.barrier()


def _wait_for_the_others() -> NoReturn:
    """In an operation that they never come to."""
    khorus.allreduce(np.ones(4), name="all come here")
    raise AssertionError("a rank came that must not have")


def fails(folder: Path, rank: int) -> None:
    _begin(folder)
    if khorus.rank() == rank:
        raise ValueError(f"no data for rank {rank}")
    _wait_for_the_others()


def is_killed(folder: Path, rank: int) -> None:
    _begin(folder)
    if khorus.rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    _wait_for_the_others()


def exits(folder: Path, rank: int) -> None:
    _begin(folder)
    if khorus.rank() == rank:
        sys.exit("nothing to do")
    _wait_for_the_others()


def kills_its_parent(folder: Path, rank: int) -> None:
    _begin(folder)
    if khorus.rank() == rank:
        os.kill(os.getppid(), signal.SIGKILL)
    _wait_for_the_others()


def returns_what_cannot_be_pickled() -> object:
    return (number for number in range(3))


class Counter:
    """Kept in a rank between calls."""

    def __init__(self, start: int, step: int = 1) -> None:
        self.count = start
        self.step = step

    def next(self) -> int:
        khorus.init()
        self.count += self.step
        return self.count + 100 * khorus.rank()
