"""Prints one digest of what collectives and training steps compute. See test_wheel.py.

With every torch the bits must be the same: the reductions are the engine's, and the model's own
arithmetic is exact (small whole numbers and halves of them), so that it does not depend on the
order in which a torch sums.
"""

from __future__ import annotations

import hashlib
import sys

import torch

import khorus.torch as hvd

DTYPES = [
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def uneven(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Values that need rounding when added."""
    whole = torch.arange(count, dtype=torch.float64) * (hvd.rank() + 3) % 97
    return (whole / (7 if dtype.is_floating_point else 1)).to(dtype)


def collectives() -> list[torch.Tensor]:
    results = []
    for dtype in DTYPES:
        x = uneven(1000, dtype)
        results += [hvd.allreduce(x, op=op) for op in (hvd.Sum, hvd.Average, hvd.Min, hvd.Max)]
        results += [hvd.allgather(x[: hvd.rank() + 1]), hvd.broadcast(x, 0)]
        results += [hvd.alltoall(x), hvd.reducescatter(x, op=hvd.Sum)]
        results += hvd.grouped_allreduce([x, x[:3]], op=hvd.Sum)
    return results


def training() -> list[torch.Tensor]:
    model = torch.nn.Linear(4, 2).double()
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_((torch.arange(p.numel()) % 3 + number).reshape(p.shape))
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=2.0**-4, momentum=0.5), model.named_parameters()
    )
    for step in range(4):
        optimizer.zero_grad()
        x = ((torch.arange(8) + step + hvd.rank()) % 5).reshape(2, 4).double()
        (model(x).square().sum() / 4).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def main() -> None:
    hvd.init()
    digest = hashlib.sha256()
    for tensor in [*collectives(), *training()]:
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    digests = hvd.allgather_object(digest.hexdigest())
    if hvd.rank() == 0:
        print(torch.__version__, *digests)
    hvd.shutdown()


if __name__ == "__main__":
    sys.exit(main())
