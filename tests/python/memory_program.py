"""Trains layers of 4 MiB each and prints how much memory this took. Runs in every rank.

khorusrun -np 2 memory_program.py khorus
khorusrun -np 2 memory_program.py ddp STORE      DistributedDataParallel, bucket views

A line per rank: "peak RSS OWN" in bytes. RSS counts a page for every process that has it mapped, so
shared memory counts several times. OWN, which is sampled, has private pages and this process's part
of shared memory, without the pages of files: how many other programs have those is chance.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import torch
from torch import nn

import khorus.torch as hvd

LAYERS, WIDTH, STEPS = 16, 1024, 6


def own() -> int:
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    return sum(1024 * int(line[1]) for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:"))


class Sampler(threading.Thread):
    """The largest OWN until finish()."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self.over.wait(0.002):
            self.peak = max(self.peak, own())

    def finish(self) -> int:
        self.over.set()
        self.join()
        return max(self.peak, own())


def rss_peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not say VmHWM")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    hvd.init()
    model: nn.Module = nn.Sequential(
        *(nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh()) for _ in range(LAYERS))
    )
    optimizer = torch.optim.AdamW(model.parameters())
    if sys.argv[1] == "khorus":
        optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters())
    else:
        torch.distributed.init_process_group(
            "gloo",
            init_method=Path(sys.argv[2]).absolute().as_uri(),
            rank=hvd.rank(),
            world_size=hvd.size(),
        )
        model = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    sampler = Sampler()
    sampler.start()
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(8, WIDTH)).square().mean().backward()
        optimizer.step()
    hvd.barrier()  # what the others have mapped is divided among all
    peak = sampler.finish()
    hvd.barrier()
    print("peak", rss_peak(), peak, flush=True)
    if sys.argv[1] != "khorus":
        torch.distributed.destroy_process_group()
    hvd.shutdown()


if __name__ == "__main__":
    main()
