"""A peer of bench_backend: Open MPI's blocking all-reduce, in place, through mpi4py.

mpirun -np 2 python peer_mpi.py --json FILE [--seconds S]

mpi4py passes NumPy's memory on as it is; its own share is about a microsecond.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI


def time_size(size: int, seconds: float) -> dict[str, float]:
    world = MPI.COMM_WORLD
    data = np.zeros(size // 4, dtype=np.float32)

    def blocks(rounds: int) -> float:
        world.Barrier()
        start = time.perf_counter()
        for _ in range(rounds):
            world.Allreduce(MPI.IN_PLACE, data, op=MPI.SUM)
        return (time.perf_counter() - start) * 1e6 / rounds

    blocks(5)
    rounds = world.bcast(min(5000, max(5, int(seconds / 7 * 1e6 / blocks(5)))))
    times = [blocks(rounds) for _ in range(7)]
    return {"bytes": size, "p50_us": statistics.median(times), "min_us": min(times)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", required=True)
    parser.add_argument("--seconds", type=float, default=0.1)
    options = parser.parse_args()
    sizes = [*(65536 * 4**k for k in range(5)), 25 << 20]
    results = [time_size(size, options.seconds) for size in sizes]
    if MPI.COMM_WORLD.Get_rank() == 0:
        Path(options.json).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
