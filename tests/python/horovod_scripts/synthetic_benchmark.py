"""Steps per second on random data, as users of Horovod measure it."""

import argparse
import timeit

import horovod.torch as hvd
import torch
from horovod.common.util import num_rank_is_power_2
from torch import nn


def log(text):
    if hvd.rank() == 0:
        print(text, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-warmup-batches", type=int, default=2)
    parser.add_argument("--num-batches-per-iter", type=int, default=3)
    parser.add_argument("--num-iters", type=int, default=2)
    parser.add_argument("--num-groups", type=int, default=2)
    args = parser.parse_args()

    hvd.init()
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.Linear(128, 10))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.01),
        named_parameters=model.named_parameters(),
        num_groups=args.num_groups,
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    x = torch.randn(args.batch_size, 64)
    y = torch.randint(10, (args.batch_size,))

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    log(f"ranks: {hvd.size()}, a power of two: {num_rank_is_power_2(hvd.size())}")
    timeit.timeit(step, number=args.num_warmup_batches)
    rates = []
    for _ in range(args.num_iters):
        seconds = timeit.timeit(step, number=args.num_batches_per_iter)
        rates.append(args.batch_size * args.num_batches_per_iter / seconds)
    total = hvd.allreduce(torch.tensor(sum(rates) / len(rates)), name="rate", op=hvd.Sum)
    log(f"total samples per second: {total.item():.0f}")


if __name__ == "__main__":
    main()
