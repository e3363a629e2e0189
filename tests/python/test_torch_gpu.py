"""khorus.torch on tensors of a GPU, which is the tests' own (torch_device.py). Every rank runs all
tests.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import khorus.torch as hvd
from torch_device import here, library, pytestmark  # noqa: F401


def rows(rank: int, count: int) -> torch.Tensor:
    return torch.arange(4 * count, dtype=torch.float32).view(count, 4) + 100 * rank


def sum_of_rows(count: int) -> torch.Tensor:
    return torch.stack([rows(r, count) for r in range(hvd.size())]).sum(0)


def check(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert result.device == here()
    torch.testing.assert_close(result.cpu(), expected)


def test_results_are_on_the_device() -> None:
    size, rank = hvd.size(), hvd.rank()
    for _ in range(3):
        mine = rows(rank, 5).to(here())
        check(hvd.allreduce(mine, op=hvd.Sum), sum_of_rows(5))
        check(hvd.allreduce(mine), sum_of_rows(5) / size)
        check(hvd.broadcast(mine, size - 1), rows(size - 1, 5))
        everyone = torch.cat([rows(r, r + 1) for r in range(size)])
        check(hvd.allgather(rows(rank, rank + 1).to(here())), everyone)
        column = torch.cat([rows(r, size)[rank : rank + 1] for r in range(size)])
        check(hvd.alltoall(rows(rank, size).to(here())), column)
        part = sum_of_rows(2 * size)[2 * rank : 2 * rank + 2]
        check(hvd.reducescatter(rows(rank, 2 * size).to(here()), op=hvd.Sum), part)


def test_in_place_grouped_compressed_and_apart() -> None:
    transposed = rows(hvd.rank(), 3).to(here()).t()
    hvd.allreduce_(transposed, op=hvd.Sum)
    check(transposed, sum_of_rows(3).t())
    ones = torch.ones(9, device=here())
    small = hvd.allreduce(ones, op=hvd.Sum, compression=hvd.Compression.bf16)
    check(small, ones.cpu() * hvd.size())
    on_gpu, on_cpu = rows(hvd.rank(), 2).to(here()), rows(hvd.rank(), 2)
    hvd.grouped_allreduce_([on_gpu, on_cpu], op=hvd.Sum)
    check(on_gpu, sum_of_rows(2))
    torch.testing.assert_close(on_cpu, sum_of_rows(2))
    flags = torch.tensor([hvd.rank() == 0, False])
    gathered = hvd.allgather(flags.to(here())).cpu().tolist()
    assert gathered == [True] + [False] * (2 * hvd.size() - 1)


def test_memory_is_kept_until_the_device_is_done_with_it() -> None:
    for _ in range(20):
        hvd.allreduce_async_(rows(hvd.rank(), 50).to(here()))
        torch.zeros(50, 4, device=here()).add_(1)
        read = hvd.allgather(rows(hvd.rank(), 50).to(here())) * 2
        assert read.shape[0] == 50 * hvd.size()
    hvd.barrier()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.first, self.second = nn.Linear(5, 40).double(), nn.Linear(40, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x.to(self.first.weight.device)))
        return self.second(x.to(self.second.weight.device))


def train(first: Any, second: Any, **options: Any) -> tuple[list[torch.Tensor], int]:
    """The parameters, and how often the host waited for the device in later steps."""
    net = Net()
    net.first.to(first)
    net.second.to(second)
    hvd.broadcast_parameters(net.state_dict(), 0)
    plain = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, foreach=False)
    optimizer = hvd.DistributedOptimizer(plain, net.named_parameters(), **options)
    before = 0
    for step in range(8):
        if step == 3:
            before = library.host_waits()
        generator = torch.Generator().manual_seed(100 * step + hvd.rank())
        x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
        y = torch.randn(4, 3, generator=generator, dtype=torch.float64).to(second)
        optimizer.zero_grad()
        difference = net(x) - y
        (difference * difference).mean().backward()
        optimizer.step()
    waits = library.host_waits() - before
    return [p.detach().cpu() for p in net.parameters()], waits


def test_training_is_that_of_the_cpu_and_waits_in_the_stream() -> None:
    expected, _ = train("cpu", "cpu")
    for options in ({}, {"gradient_arena": False}, {"num_groups": 2}):
        trained, waits = train(here(), here(), **options)
        torch.testing.assert_close(trained, expected)
        assert waits == 0
    mixed, _ = train(here(), "cpu")
    torch.testing.assert_close(mixed, expected)


def test_sparse_allreduce_is_that_of_the_cpu() -> None:
    places = torch.tensor([[4, hvd.rank(), 4]])
    if hvd.rank() == 1:
        places = places[:, :0]
    values = rows(hvd.rank(), places.shape[1])
    mine = torch.sparse_coo_tensor(places, values, (6, 4), check_invariants=True)
    for op in (hvd.Sum, hvd.Average):
        expected = hvd.sparse_allreduce_async(mine, "here", op)().to_dense()
        # Under way together; what they are given is dropped early.
        waits = [hvd.sparse_allreduce_async(mine.to(here()), f"x.{i}", op) for i in range(5)]
        for wait in waits:
            torch.zeros(3, 4, device=here()).add_(1)
            there = wait()
            assert there.is_sparse
            check(there.to_dense(), expected)


def train_words(device: Any, sparse: bool, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Embedding(7, 3, sparse=sparse), nn.Linear(3, 2)).double().to(device)
    plain = torch.optim.SGD(net.parameters(), lr=0.1, foreach=False)
    optimizer = hvd.DistributedOptimizer(plain, net.named_parameters(), **options)
    for step in range(7):
        optimizer.zero_grad(set_to_none=step % 4 != 2)
        if step % 3 != 1 or hvd.rank() == 0:  # else only rank 0 has a gradient
            tokens = torch.tensor([step, hvd.rank(), hvd.rank()], device=device)
            net(tokens).square().mean().backward()
        optimizer.step()
        gradient = net[0].weight.grad
        assert isinstance(gradient, torch.Tensor)
        assert gradient.is_sparse == (sparse and not options.get("sparse_as_dense"))
    return [p.detach().cpu() for p in net.parameters()]


def test_sparse_gradients_train_as_dense_ones_of_the_cpu() -> None:
    expected = train_words("cpu", sparse=False)
    for options in ({}, {"sparse_as_dense": True}, {"gradient_arena": False}):
        torch.testing.assert_close(train_words("cpu", sparse=True, **options), expected)
        torch.testing.assert_close(train_words(here(), sparse=True, **options), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"num_groups": 1},
        {"num_groups": 2},
        {"groups": "pairs"},
        {"num_groups": 1, "compression": hvd.Compression.bf16},
        {"gradient_arena": False},
        {},
    ],
)
def test_gradients_come_from_the_streams_that_made_them(options: dict[str, Any]) -> None:
    """Whatever stream the last of a group or bucket comes from; the device finds what is early."""
    device = here()
    parameters = [nn.Parameter(rows(0, count).to(device)) for count in (2, 300, 4, 5)]
    if options.get("groups") == "pairs":
        options = {"groups": [parameters[::2], parameters[1::2]]}
    plain = torch.optim.SGD(parameters, lr=1.0, foreach=False)
    optimizer = hvd.DistributedOptimizer(plain, **options)
    streams = [torch.Stream(device) for _ in parameters]
    main = torch.accelerator.current_stream(device)
    for step in range(4):
        optimizer.zero_grad()
        losses = []
        for number, (p, stream) in enumerate(zip(parameters, streams, strict=True)):
            stream.wait_stream(main)
            with stream:
                losses.append((p * (hvd.rank() + number)).sum())
        if step % 2:  # in one backward() that goes through all streams, or in one for each
            for stream in streams:
                main.wait_stream(stream)
            torch.stack(losses).sum().backward()
        else:
            for loss, stream in zip(losses, streams, strict=True):
                with stream:
                    loss.backward()
        for stream in streams:
            main.wait_stream(stream)
        optimizer.step()
    mean = (hvd.size() - 1) / 2
    for number, p in enumerate(parameters):
        check(p.detach(), rows(0, p.shape[0]) - 4 * (mean + number))


def test_optimizer_state_goes_to_each_device() -> None:
    p = nn.Parameter(rows(0, 2).to(here()))
    adam = torch.optim.Adam([p], foreach=False)
    if hvd.rank() == 0:
        p.grad = torch.ones(2, 4, device=here())
        adam.step()
    hvd.broadcast_optimizer_state(adam, 0)
    check(adam.state[p]["exp_avg"], torch.full((2, 4), 0.1))


def test_sync_batch_norm() -> None:
    def run(device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        norm = hvd.SyncBatchNorm(4).to(device)
        x = (rows(hvd.rank(), 5) * 0.01).to(device).requires_grad_(True)
        (norm(x) * rows(1, 5).to(device)).sum().backward()
        assert x.grad is not None and norm.running_var is not None
        return x.grad.cpu(), norm.running_var.cpu()

    torch.testing.assert_close(run(here()), run("cpu"), rtol=1e-3, atol=1e-3)


def test_adasum_is_that_of_the_cpu() -> None:
    mine = torch.randn(1001, generator=torch.Generator().manual_seed(hvd.rank()))
    check(hvd.allreduce(mine.to(here()), op=hvd.Adasum), hvd.allreduce(mine, op=hvd.Adasum))
    trained, waits = train(here(), here(), op=hvd.Adasum)
    torch.testing.assert_close(trained, train("cpu", "cpu", op=hvd.Adasum)[0])
    assert waits == 0


def test_what_a_gpu_does_not_do_is_refused() -> None:
    with pytest.raises(ValueError, match="is on meta; tensors of the CPU and of CUDA"):
        hvd.allreduce(torch.ones(3, device="meta"))
