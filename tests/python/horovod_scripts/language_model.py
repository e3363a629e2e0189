"""A recurrent language model over bytes of Python's own source, as users of Horovod write it.

Gradients of several passes are added up, and clipped between synchronize() and step().
"""

import argparse
import math
import os
from pathlib import Path

import horovod.torch as hvd
import torch
from horovod.torch.mpi_ops import rank, size
from torch import nn


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, 256)

    def forward(self, x):
        return self.decoder(self.rnn(self.embedding(x))[0])


def batches(steps, rows, length):
    text = torch.tensor(list(Path(os.__file__).read_bytes()))
    generator = torch.Generator().manual_seed(1000 + rank())
    for _ in range(steps):
        starts = torch.randint(len(text) - length - 1, (rows,), generator=generator)
        piece = torch.stack([text[s : s + length + 1] for s in starts.tolist()])
        yield piece[:, :-1], piece[:, 1:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches-per-allreduce", type=int, default=2)
    args = parser.parse_args()

    hvd.init()
    torch.manual_seed(rank())
    torch.set_num_threads(1)
    model = Model(32)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    optimizer = hvd.DistributedOptimizer(
        optimizer,
        named_parameters=model.named_parameters(),
        backward_passes_per_step=args.batches_per_allreduce,
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    config = hvd.broadcast_object(vars(args) if rank() == 0 else None, name="config")

    losses = []
    source = batches(config["steps"] * config["batches_per_allreduce"], 8, 32)
    for _ in range(config["steps"]):
        optimizer.zero_grad()
        for _ in range(config["batches_per_allreduce"]):
            x, y = next(source)
            loss = nn.functional.cross_entropy(model(x).transpose(1, 2), y)
            (loss / config["batches_per_allreduce"]).backward()
        optimizer.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with optimizer.skip_synchronize():
            optimizer.step()
        losses.append(hvd.allreduce(loss.detach(), name="loss", op=hvd.Average).item())
    everyone = hvd.allgather_object(losses)
    assert len(everyone) == size() and all(other == losses for other in everyone)
    if rank() == 0:
        print(f"perplexity {math.exp(losses[0]):.1f} -> {math.exp(losses[-1]):.1f}", flush=True)


if __name__ == "__main__":
    main()
