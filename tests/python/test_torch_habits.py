"""What people rely on in a DistributedOptimizer without knowing it. Runs in every rank."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

import khorus.torch as hvd


class Tied(nn.Module):
    """One weight, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3, dtype=torch.float64) + 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.weight) @ self.weight.t()


def layers() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batch(step: int, whole: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4 * hvd.size(), 3, dtype=torch.float64, generator=generator)
    return x if whole else x[4 * hvd.rank() : 4 * hvd.rank() + 4]


def momentum(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def steps(
    model: Any, optimizer: Any, whole: bool, first: int = 0, count: int = 5, **zero: Any
) -> None:
    for step in range(first, first + count):
        optimizer.zero_grad(**zero)
        x = batch(step, whole)
        (model(x) - x).square().mean().backward()
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [Tied, layers], ids=["tied", "layers"])
@pytest.mark.parametrize("to_none", [True, False])
def test_used_twice_and_both_ways_to_zero(make: Any, to_none: bool) -> None:
    model, alone = make(), make()
    wrapped = hvd.DistributedOptimizer(momentum(model.parameters()), model.named_parameters())
    steps(model, wrapped, whole=False, set_to_none=to_none)
    steps(alone, momentum(alone.parameters()), whole=True, set_to_none=to_none)
    assert_same(model, alone)


def test_several_optimizers_at_once() -> None:
    """Of two halves of one model: both have gradients under way when the first one steps."""
    model, alone = layers(), layers()
    names = list(model.named_parameters())
    halves = [
        hvd.DistributedOptimizer(momentum([p for _, p in part]), part)
        for part in (names[:2], names[2:])
    ]
    plain = momentum(alone.parameters())
    for step in range(4):
        for optimizer in halves:
            optimizer.zero_grad()
        x = batch(step, whole=False)
        (model(x) - x).square().mean().backward()
        for optimizer in halves if hvd.rank() % 2 else reversed(halves):  # in any order
            optimizer.step()
        steps(alone, plain, whole=True, first=step, count=1)
    assert_same(model, alone)


def test_optimizers_of_sparse_gradients_in_any_order() -> None:
    """From the first step on, in which ranks agree on what is sparse and learn their buckets."""
    models = [
        nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Linear(3, 1)).double() for _ in range(2)
    ]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = []
    for name, model in zip(("first", "second"), models, strict=True):
        named = [(f"{name}.{of}", p) for of, p in model.named_parameters()]
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizers.append(hvd.DistributedOptimizer(sgd, named))
    hvd.broadcast_parameters(models[0].state_dict(), root_rank=0)
    hvd.broadcast_parameters(models[1].state_dict(), root_rank=0)
    for step in range(3):
        tokens = torch.tensor([step, 2 + hvd.rank()])
        sum(model(tokens).square().mean() for model in models).backward()
        for turn in range(2):
            optimizer = optimizers[(turn + hvd.rank() + step) % 2]
            optimizer.step()
            optimizer.zero_grad()
        assert_same(*models)


def test_a_group_with_a_sparse_gradient_and_frozen_parameters() -> None:
    """The group goes without the sparse one; nobody waits for those that are frozen."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Embedding(7, 3, sparse=True), nn.Linear(3, 6), nn.Linear(6, 3)
    ).double()
    alone = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 6), nn.Linear(6, 3)).double()
    alone.load_state_dict(model.state_dict())
    wrapped = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), model.named_parameters(), num_groups=1
    )
    plain = torch.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(3):
        for net, optimizer in ((model, wrapped), (alone, plain)):
            optimizer.zero_grad()
            net[1].requires_grad_(step != 1)
            net(torch.tensor([step, 5])).square().mean().backward()  # the same on all ranks
            optimizer.step()
    assert_same(model, alone)


def test_state_dict_goes_on_where_it_was() -> None:
    model, other, alone = layers(), layers(), layers()
    wrapped = hvd.DistributedOptimizer(momentum(model.parameters()), model.named_parameters())
    steps(model, wrapped, whole=False)
    other.load_state_dict(model.state_dict())
    again = hvd.DistributedOptimizer(momentum(other.parameters()), other.named_parameters())
    again.load_state_dict(wrapped.state_dict())
    steps(other, again, whole=False, first=5)
    steps(alone, momentum(alone.parameters()), whole=True, count=10)
    assert_same(other, alone)
    # What Khorus saves, torch's own optimizer reads, and the other way round.
    plain = momentum(layers().parameters())
    plain.load_state_dict(wrapped.state_dict())
    again.load_state_dict(plain.state_dict())


# One made before counts the steps of the optimizer that it was made for.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_scheduler_made_before_or_after_wrapping() -> None:
    for before in (True, False):
        model = layers()
        optimizer: Any = momentum(model.parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) if before else None
        wrapped = hvd.DistributedOptimizer(optimizer, model.named_parameters())
        scheduler = scheduler or torch.optim.lr_scheduler.ExponentialLR(wrapped, 0.5)
        start = [p.detach().clone() for p in model.parameters()]
        steps(model, wrapped, whole=False, count=1)
        scheduler.step()
        assert wrapped.param_groups[0]["lr"] == pytest.approx(0.05), f"made before: {before}"
        assert any(not torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


def test_frozen_and_thawed_between_steps() -> None:
    model, alone = layers(), layers()
    wrapped = hvd.DistributedOptimizer(momentum(model.parameters()), model.named_parameters())
    plain = momentum(alone.parameters())
    for first, trains in ((0, False), (2, True), (4, False)):
        for part in (model, alone):
            part[0].requires_grad_(trains)
        steps(model, wrapped, whole=False, first=first, count=2)
        steps(alone, plain, whole=True, first=first, count=2)
    assert_same(model, alone)


def test_compiled_model() -> None:
    """Traced by torch.compile; in soak also compiled by its C++ back end, which takes a minute."""
    for backend in ["aot_eager", *(["inductor"] if "KHORUS_TEST_SOAK" in os.environ else [])]:
        model, alone = layers(), layers()
        wrapped = hvd.DistributedOptimizer(momentum(model.parameters()), model.named_parameters())
        steps(torch.compile(model, backend=backend), wrapped, whole=False, count=3)
        steps(alone, momentum(alone.parameters()), whole=True, count=3)
        assert_same(model, alone)
