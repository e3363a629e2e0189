"""All-reduce from Python, timed as khorus-bench does: torch's own Gloo, or Khorus.

khorusrun -np 2 peer_allreduce.py --store FILE --json FILE [--seconds S] [--most BYTES] [--khorus]

FILE of --store is a path where no file is yet. Ranks come from khorusrun's environment. With
--khorus it is khorus.torch's allreduce_() under a name, else torch.distributed.
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

import khorus.torch as hvd


class Torch:
    """torch.distributed."""

    def __init__(self, store: str) -> None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo",
            init_method=Path(store).absolute().as_uri(),
            rank=int(os.environ["KHORUS_RANK"]),
            world_size=int(os.environ["KHORUS_SIZE"]),
        )

    def all_reduce(self, data: torch.Tensor) -> None:
        dist.all_reduce(data)

    def broadcast(self, data: torch.Tensor) -> None:
        dist.broadcast(data, 0)

    def end(self) -> None:
        dist.destroy_process_group()


class Khorus:
    """khorus.torch."""

    def __init__(self) -> None:
        hvd.init()

    def all_reduce(self, data: torch.Tensor) -> None:
        hvd.allreduce_(data, name="bench", op=hvd.Sum)

    def broadcast(self, data: torch.Tensor) -> None:
        hvd.broadcast_(data, 0)

    def end(self) -> None:
        hvd.shutdown()


def rounds_for(contestant: Torch | Khorus, seconds: float, once: Callable[[], None]) -> int:
    for _ in range(5):
        once()
    start = time.perf_counter()
    for _ in range(5):
        once()
    estimate = int(seconds / (time.perf_counter() - start) * 5)
    rounds = torch.tensor([min(5000, max(5, estimate))])
    contestant.broadcast(rounds)
    return int(rounds.item())


def time_size(contestant: Torch | Khorus, size: int, seconds: float) -> dict[str, float]:
    data = torch.zeros(max(1, size // 4))

    def once() -> None:
        contestant.all_reduce(data)

    rounds = rounds_for(contestant, seconds, once)
    once()  # nobody is late
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
    parser.add_argument("--khorus", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rank = int(os.environ["KHORUS_RANK"])
    contestant = Khorus() if options.khorus else Torch(options.store)
    sizes = [4 * 4**k for k in range(12)]
    results = [
        time_size(contestant, size, options.seconds) for size in sizes if size <= options.most
    ]
    if rank == 0:
        Path(options.json).write_text(json.dumps(results))
    contestant.end()


if __name__ == "__main__":
    main()
