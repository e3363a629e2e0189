"""The gradient arena: the bits of no arena, whatever is done to gradients. Runs in every rank."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import khorus.torch as hvd

STEPS = 7


class Net(nn.Module):
    """Three layers, of which the second may be left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.first = nn.Linear(5, 40)
        self.second = nn.Linear(40, 40)
        self.third = nn.Linear(40, 3)

    def forward(self, x: torch.Tensor, skip: bool = False) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        if not skip:
            x = torch.tanh(self.second(x.to(self.second.weight.dtype))).float()
        return self.third(x)


def loss_of(model: Any, step: int, skip: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + hvd.rank())
    x = torch.randn(4, 5, generator=generator)
    y = torch.randn(4, 3, generator=generator)
    return (model(x, skip) - y).square().mean()


def momentum(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


Habit = Callable[[Net, Any, int], None]


def plain(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    loss_of(net, step).backward()
    optimizer.step()


def keeps_gradients(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad(set_to_none=False)
    loss_of(net, step).backward()
    optimizer.step()


def three_passes(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad(set_to_none=step % 2 == 0)
    for i in range(3):
        loss_of(net, 3 * step + i).backward()
    optimizer.step()


def leaves_layers_out(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    loss_of(net, step, skip=(step + hvd.rank()) % 2 == 0).backward()
    optimizer.step()


def mixes_types(net: Net, optimizer: Any, step: int) -> None:
    if step == 0:
        net.second.double()
    plain(net, optimizer, step)


def replaces_gradients(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad(set_to_none=False)
    if step % 3:
        net.third.weight.grad = torch.full((3, 40), 0.1 * hvd.rank())
        if net.first.bias.grad is not None:
            net.first.bias.grad = net.first.bias.grad.clone()
        net.second.weight.grad = torch.ones(40, 40).t()
    loss_of(net, step).backward()
    optimizer.step()


def replaces_them_before_the_step(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    loss_of(net, step).backward()
    optimizer.synchronize()
    for p in net.parameters():
        assert p.grad is not None
        p.grad = p.grad * 0.5
    with optimizer.skip_synchronize():
        optimizer.step()


def freezes_and_thaws(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad(set_to_none=step != 4)
    net.second.weight.requires_grad_(step not in (2, 3, 4))
    loss_of(net, step).backward()
    optimizer.step()


def takes_gradients_with_a_history(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    loss_of(net, step).backward(create_graph=step > 0)
    optimizer.step()
    if step > 0:
        assert all(p.grad is None or p.grad.requires_grad for p in net.third.parameters())
    net.zero_grad()


def scales(net: Net, optimizer: Any, step: int) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer.zero_grad()
    scaler.scale(loss_of(net, step)).backward()
    optimizer.synchronize()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    with optimizer.skip_synchronize():
        scaler.step(optimizer)


def steps_with_a_closure(net: Net, optimizer: Any, step: int) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(net, step)
        loss.backward()
        return loss

    optimizer.step(closure)


def copies_and_saves(net: Net, optimizer: Any, step: int) -> None:
    plain(net, optimizer, step)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(map(torch.equal, other.parameters(), net.parameters()))
    copied = copy.deepcopy([p.grad for p in net.parameters()])
    stored = io.BytesIO()
    torch.save([p.grad for p in net.parameters()], stored)
    assert stored.tell() < 4 * sum(p.numel() for p in net.parameters()) + 20_000
    stored.seek(0)
    for a, b, p in zip(copied, torch.load(stored), net.parameters(), strict=True):
        assert torch.equal(a, p.grad) and torch.equal(b, p.grad)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def adds_parameters(net: Net, optimizer: Any, step: int) -> None:
    if step == 3:
        net.extra = nn.Parameter(torch.zeros(3))
        optimizer.add_param_group({"params": [net.extra]})
    optimizer.zero_grad()
    loss = loss_of(net, step)
    if step >= 3:
        loss = loss + ((net.extra + hvd.rank() - 1) ** 2).sum()
    loss.backward()
    optimizer.step()


def compiles(net: Net, optimizer: Any, step: int) -> None:
    if step == 0:
        net.compiled = torch.compile(net, backend="aot_eager")
    optimizer.zero_grad()
    loss_of(net.compiled, step).backward()
    optimizer.step()


HABITS: list[Habit] = [
    plain,
    keeps_gradients,
    three_passes,
    leaves_layers_out,
    mixes_types,
    replaces_gradients,
    replaces_them_before_the_step,
    freezes_and_thaws,
    takes_gradients_with_a_history,
    scales,
    steps_with_a_closure,
    copies_and_saves,
    adds_parameters,
    compiles,
]


def trained(habit: Habit, arena: bool, **options: Any) -> list[list[torch.Tensor]]:
    net = Net()
    optimizer = hvd.DistributedOptimizer(
        momentum(net.parameters()),
        net.named_parameters(),
        gradient_arena=arena,
        backward_passes_per_step=3 if habit is three_passes else 1,
        **options,
    )
    states = []
    for step in range(STEPS):
        habit(net, optimizer, step)
        states.append([p.detach().clone() for p in net.parameters()])
    assert bool(optimizer._khorus.arena.buckets) == arena
    return states


@pytest.mark.filterwarnings("ignore:grad and param do not obey")
@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph")
@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
@pytest.mark.parametrize(
    "options",
    [{"op": hvd.Average}, {"op": hvd.Sum}, {"compression": hvd.Compression.bf16}],
    ids=["average", "sum", "cast"],
)
def test_has_the_bits_of_no_arena(habit: Habit, options: dict[str, Any]) -> None:
    for with_arena, without in zip(
        trained(habit, True, **options), trained(habit, False, **options), strict=True
    ):
        for a, b in zip(with_arena, without, strict=True):
            assert torch.equal(a, b)
            everyone = hvd.allgather(a.reshape(1, -1))
            assert all(torch.equal(row, everyone[0]) for row in everyone)


class Large:
    """More than one process reduces in one step, so that shm works where the gradients lie."""

    def __init__(self, **options: Any) -> None:
        self.a = nn.Parameter(torch.ones(300, 100))
        self.b = nn.Parameter(torch.ones(50000))
        self.optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD([self.a, self.b], lr=0.1), [("a", self.a), ("b", self.b)], **options
        )

    def step(self, factor: float, to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none=to_none)
        ((self.a * self.a).sum() * factor + (self.b**3).sum() * factor).backward()
        self.optimizer.step()

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.a.grad is not None and self.b.grad is not None
        return self.a.grad, self.b.grad


def lie_side_by_side(a: torch.Tensor, b: torch.Tensor) -> bool:
    return b.data_ptr() - a.data_ptr() in (4 * a.numel(), -4 * b.numel())


def test_gradients_lie_side_by_side_and_stay_there() -> None:
    large = Large()
    for _ in range(2):
        large.step(0.01)
    assert lie_side_by_side(*large.gradients())
    places = [g.data_ptr() for g in large.gradients()]
    for _ in range(3):
        large.step(0.01)
        assert [g.data_ptr() for g in large.gradients()] == places


def test_kept_gradients_move_and_stay_the_same_tensors() -> None:
    large = Large()
    large.step(0.01)
    held, _ = large.gradients()
    large.step(0.02, to_none=False)
    assert held is large.a.grad
    assert lie_side_by_side(*large.gradients())


def test_gradients_of_earlier_steps_keep_their_values() -> None:
    large = Large()
    kept: list[torch.Tensor] = []
    copies: list[torch.Tensor] = []
    for step in range(6):
        large.step(0.01 * (step + 1))
        a, b = large.gradients()
        if step != 3:
            kept += [a] if step % 2 else [b.view(-1)[7:10], a]
            copies += [t.clone() for t in kept[len(copies) :]]
        del a, b
        assert all(map(torch.equal, kept, copies)), step


def test_ranks_may_differ_in_whether_they_want_an_arena() -> None:
    large = Large(gradient_arena=hvd.rank() == 0)
    for _ in range(3):
        large.step(0.01)
    arena = large.optimizer._khorus.arena
    assert arena.is_learnt and not arena.buckets


def test_is_learnt_with_a_rank_that_was_not_there_in_the_first_steps() -> None:
    large = Large()
    rank, size = hvd.rank(), hvd.size()
    done = 0
    for epoch in range(3):
        for _ in range(rank if epoch == 0 else size - rank):
            large.step(0.01)
            done += 1
        hvd.join()
        hvd.broadcast_parameters([("a", large.a), ("b", large.b)], size - 1 if epoch == 0 else 0)
    assert done == rank + 2 * (size - rank)
    assert large.optimizer._khorus.arena.buckets
    gathered = hvd.allgather(large.a.detach().reshape(1, -1))
    assert all(torch.equal(row, gathered[0]) for row in gathered)


def test_a_new_engine_learns_anew() -> None:
    large = Large()
    for _ in range(3):
        large.step(0.01)
    before = [g.clone() for g in large.gradients()]
    hvd.shutdown()
    assert all(map(torch.equal, large.gradients(), before))
    hvd.init()
    for step in range(3):
        large.step(0.01)
        assert bool(large.optimizer._khorus.arena.buckets) == (step > 0)
    gathered = hvd.allgather(large.a.detach().reshape(1, -1))
    assert all(torch.equal(row, gathered[0]) for row in gathered)
