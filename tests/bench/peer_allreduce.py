"""The peer of khorus-bench: torch.distributed on torch's own Gloo, timed in the same way.

khorusrun -np 2 peer_allreduce.py --store FILE --json FILE [--seconds S] [--most BYTES]

FILE of --store is a path where no file is yet. Ranks come from khorusrun's environment; Khorus
itself is not used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist


def rounds_for(seconds: float, once: Callable[[], None]) -> int:
    for _ in range(5):
        once()
    start = time.perf_counter()
    for _ in range(5):
        once()
    estimate = int(seconds / (time.perf_counter() - start) * 5)
    rounds = torch.tensor([min(5000, max(5, estimate))])
    dist.broadcast(rounds, 0)
    return int(rounds.item())


def time_size(size: int, seconds: float) -> dict[str, float]:
    data = torch.zeros(max(1, size // 4))

    def once() -> None:
        dist.all_reduce(data)

    rounds = rounds_for(seconds, once)
    dist.barrier()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        once()
        times.append((time.perf_counter() - start) * 1e6)
    return {"bytes": size, "p50_us": statistics.median(times), "min_us": min(times)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--most", type=int, default=16 << 20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rank = int(os.environ["KHORUS_RANK"])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=Path(options.store).absolute().as_uri(),
        rank=rank,
        world_size=int(os.environ["KHORUS_SIZE"]),
    )
    sizes = [4 * 4**k for k in range(12)]
    results = [time_size(size, options.seconds) for size in sizes if size <= options.most]
    if rank == 0:
        Path(options.json).write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
