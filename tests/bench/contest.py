"""Trainers in Python that take turns in the same processes: Khorus, DDP on torch's Gloo, and none.

Each is made once; then each trains --steps steps in its turn, and that --pairs times over. The JSON
that rank 0 writes has, for every contestant and turn, the seconds of its steps but the first, which
finds the caches of the processor as another contestant left them. The first turn is preceded by
steps that warm up: DDP makes its buckets in them, and Khorus learns its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

import khorus.torch as hvd

CONTESTANTS = ("khorus", "ddp", "alone")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--store", required=True, help="a path where no file is yet")
    made.add_argument("--json", required=True)
    made.add_argument("--contestants", default=",".join(CONTESTANTS))
    made.add_argument("--steps", type=int, default=4, help="of a turn")
    made.add_argument("--warm-up", type=int, default=3, help="steps before the first turn")
    made.add_argument("--pairs", type=int, default=1, help="turns of each")
    return made


def run(options: argparse.Namespace, make: Callable[[str], Callable[[], None]]) -> None:
    """make(name) gives what makes one step."""
    names = options.contestants.split(",")
    torch.set_num_threads(1)
    rank = int(os.environ["KHORUS_RANK"])
    if "khorus" in names:
        hvd.init()
    if "ddp" in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo",
            init_method=Path(options.store).absolute().as_uri(),
            rank=rank,
            world_size=int(os.environ["KHORUS_SIZE"]),
        )
    steps = {name: make(name) for name in names}
    torch.manual_seed(rank)
    for step in steps.values():
        take(step, options.warm_up)
    turns: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(options.pairs):
        for name, step in steps.items():
            turns[name].append(take(step, options.steps)[1:])
    if rank == 0:
        Path(options.json).write_text(json.dumps(turns))
    if "ddp" in names:
        dist.destroy_process_group()
    if "khorus" in names:
        hvd.shutdown()


def take(step: Callable[[], None], steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times
